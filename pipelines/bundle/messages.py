"""What MONAI's messages mean for the user, and how a bundle's command ends with one line."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path
from types import TracebackType

from monai.bundle import ConfigParser

from overtile.networks import ArgumentError
from overtile.pipelines.bundle.configuration import current_parser
from overtile.pipelines.bundle.schema import KEYS
from overtile.pipelines.errors import (
    ANOTHER,
    ConfigurationError,
    Setting,
    close_bars,
    exit_with,
    of_argument,
    users_mistake,
)
from overtile.pipelines.notices import keep_warnings, print_warnings

# PyTorch asserts that it was built with CUDA; MONAI imports a name when it is used
_REFUSALS = (
    *(TypeError, ValueError, RuntimeError, AttributeError, KeyError, AssertionError),
    *(ImportError, NameError),
)
_TRACEBACK = Setting("OVERTILE_TRACEBACK", 1, "to see where it came from")


def wrong_value(error: BaseException | None) -> ConfigurationError | None:
    """A value in the configuration that a class refuses, or that an expression cannot use.

    Also a file or folder that the system refuses to open, make or write.

    MONAI wraps what a constructor or an expression raises into a RuntimeError; what goes wrong
    later, inside a run, is wrapped the same way, but names a function and not a class.
    """
    while error is not None:
        cause, said = error.__cause__, str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            file = Path(os.fsdecode(error.filename))
            return ConfigurationError(file, error.strerror, "a file or folder that can be used")
        # MONAI's next wrapper
        own = type(cause) is RuntimeError and str(cause).startswith("Failed to")
        if isinstance(error, RuntimeError) and isinstance(cause, _REFUSALS) and not own:
            name = re.match(r"Failed to instantiate component '(.+)' with", said)
            if name and name[1].rpartition(".")[2][:1].isupper():
                return _refused(name[1], cause)
            if said.startswith("Failed to evaluate"):
                said = re.sub(r"""["']\s*\n\s*["']""", "", said)  # MONAI breaks the line
                found = re.search(r"""["'](\$.+)["']""", said)
                return _refused(found[1] if found else said, cause)
        if isinstance(error, SyntaxError) and error.filename == "<unknown>":  # of an expression
            return _refused(f"${(error.text or '').strip()}", SyntaxError(error.msg))
        if type(error) is ValueError and said.startswith("run ID"):  # ``run trainin``
            return ConfigurationError("", said, "training, evaluation or inference")
        if isinstance(error, ModuleNotFoundError) and "Cannot locate" in said:
            return ConfigurationError("", said, "the Python path of a class or function")
        error = cause or error.__context__
    return None


def _refused(place: str, cause: BaseException) -> ConfigurationError:
    place = re.sub(r"__local_refs\['([^']+)'\]", r"@\1", place)  # as MONAI evaluates it
    where, hint = f"configuration: {place}", (ANOTHER, "mend the configuration's file")
    if isinstance(cause, ArgumentError):
        told = of_argument(cause, where)
        return told.advising(*told.hint, *hint)
    gone = isinstance(cause, ImportError) and re.match(r"from overtile\S* import \w+", str(cause))
    if gone:
        return ConfigurationError(
            where,
            f"this version of Overtile has not what '{gone[0]}' names",
            "a bundle of this version",
            "if an earlier one wrote it, train again with this one",
        )
    return ConfigurationError(where, str(cause), hint=hint)


def one_line_errors() -> None:
    """From now on a user's mistake ends the program with one line on stderr and exit code 2.

    ``monai.bundle run`` lets every exception through. Errors that are not the user's keep their
    traceback.
    """
    keep_warnings()
    sys.excepthook = partial(_report, parser=current_parser())


def as_override(setting: Setting, parser: ConfigParser | None = None) -> str | None:
    """As MONAI's command takes it: ``--channels 1``; None for what the configuration has not."""
    if setting == _TRACEBACK:
        return f"{setting.name}={setting.value}"
    known = setting == ANOTHER or setting.name in (KEYS if parser is None else parser)
    return f"--{setting.name} {setting.value}" if known else None


def _report(
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
    parser: ConfigParser | None,
) -> None:
    if kind is KeyboardInterrupt:
        raise SystemExit(130)
    mistake = users_mistake(error)
    if mistake is None and (told := wrong_value(error)) is not None:
        mistake = told.advising(*told.hint, _TRACEBACK)
    close_bars()
    print_warnings()
    if mistake is not None and not os.environ.get("OVERTILE_TRACEBACK"):
        exit_with(mistake, partial(as_override, parser=parser))
    sys.__excepthook__(kind, error, traceback)
