"""What MONAI's messages mean for the user, and how a bundle's command ends with one line."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from types import TracebackType

from monai.bundle import ConfigParser

from overtile.pipelines.bundle.configuration import current_parser
from overtile.pipelines.bundle.overrides import in_monais_command
from overtile.pipelines.bundle.schema import KEYS
from overtile.pipelines.errors import ConfigurationError, Setting, exit_with, users_mistake
from overtile.pipelines.notices import keep_warnings

# PyTorch asserts that it was built with CUDA; MONAI imports a name when it is used
_REFUSALS = (
    *(TypeError, ValueError, RuntimeError, AttributeError, KeyError, AssertionError),
    ImportError,
)


def wrong_value(error: BaseException | None) -> ConfigurationError | None:
    """A value in the configuration that a class refuses, or that an expression cannot use.

    Also a file or folder that the system refuses to open, make or write.

    MONAI wraps what a constructor or an expression raises into a RuntimeError; what goes wrong
    later, inside a run, is wrapped the same way, but names a function and not a class.
    """
    while error is not None:
        cause, said = error.__cause__, str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            return ConfigurationError(
                error.filename, error.strerror, "a file or folder that can be used"
            )
        own = cause is not None and str(cause).startswith("Failed to")  # MONAI's next wrapper
        if isinstance(error, RuntimeError) and isinstance(cause, _REFUSALS) and not own:
            name = re.match(r"Failed to instantiate component '(.+)' with", said)
            if name and name[1].rpartition(".")[2][:1].isupper():
                return _refused(name[1], cause)
            if said.startswith("Failed to evaluate"):
                said = re.sub(r"""["']\s*\n\s*["']""", "", said)  # MONAI breaks the line
                found = re.search(r"""["'](\$.+)["']""", said)
                place = re.sub(r"__local_refs\['([^']+)'\]", r"@\1", found[1] if found else said)
                return _refused(place, cause)
        if isinstance(error, ValueError) and said.startswith("run ID"):  # ``run trainin``
            return ConfigurationError("", said, "training, evaluation or inference")
        if isinstance(error, ModuleNotFoundError) and "Cannot locate" in said:
            return ConfigurationError("", said, "the Python path of a class or function")
        error = cause or error.__context__
    return None


def _refused(place: str, cause: BaseException) -> ConfigurationError:
    gone = re.match(r"from overtile\S* import \w+", str(cause))
    if gone and isinstance(cause, ImportError):
        return ConfigurationError(
            f"configuration: {place}",
            f"this version of Overtile has not what '{gone[0]}' names",
            "a bundle of this version",
            "if an earlier one wrote it, train again with this one",
        )
    return ConfigurationError(
        f"configuration: {place}",
        str(cause),
        hint="mend the value on the command line or in the file",
    )


def one_line_errors() -> None:
    """From now on a user's mistake ends the program with one line on stderr and exit code 2.

    A bundle's configuration calls this in ``initialize``, because ``monai.bundle run`` lets
    every exception through. In any other program it does nothing. Errors that are not the
    user's keep their traceback.
    """
    if in_monais_command():  # no program of others
        keep_warnings()
        sys.excepthook = partial(_report, parser=current_parser())


def as_override(setting: Setting, parser: ConfigParser | None = None) -> str | None:
    """As MONAI's command takes it: ``--channel 1``; None for what the configuration has not."""
    known = setting.name in (KEYS if parser is None else parser)
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
        more = "OVERTILE_TRACEBACK=1 shows where it came from"
        mistake = ConfigurationError(told.where, told.found, told.expected, (*told.hint, more))
    if mistake is not None and not os.environ.get("OVERTILE_TRACEBACK"):
        exit_with(mistake, partial(as_override, parser=parser))
    sys.__excepthook__(kind, error, traceback)
