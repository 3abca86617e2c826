"""What MONAI's messages mean for the user, and how a bundle's command ends with one line."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import TracebackType

from overtile.pipelines.errors import ConfigurationError, Setting, exit_with, users_mistake

# PyTorch asserts that it was built with CUDA
_REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, AssertionError)


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
                f"{error.filename}: {error.strerror}; expected a file or folder that can be used"
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
            return ConfigurationError(f"{said} Expected training, evaluation or inference")
        if isinstance(error, ModuleNotFoundError) and "Cannot locate" in said:
            return ConfigurationError(f"{said}; expected the Python path of a class or function")
        error = cause or error.__context__
    return None


def _refused(place: str, cause: BaseException) -> ConfigurationError:
    return ConfigurationError(
        f"configuration: {place}: {cause}; mend the value on the command line or in the file "
        "(OVERTILE_TRACEBACK=1 shows where it came from)"
    )


def one_line_errors() -> None:
    """From now on a user's mistake ends the program with one line on stderr and exit code 2.

    A bundle's configuration calls this in ``initialize``, because ``monai.bundle run`` lets
    every exception through. In any other program it does nothing. Errors that are not the
    user's keep their traceback.
    """
    if Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py"):  # no program of others
        sys.excepthook = _report


def as_override(setting: Setting) -> str:
    """As MONAI's command takes it: ``--channel 1``."""
    return f"--{setting.name} {setting.value}"


def _report(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if kind is KeyboardInterrupt:
        raise SystemExit(130)
    mistake = users_mistake(error) or wrong_value(error)
    if mistake is not None and not os.environ.get("OVERTILE_TRACEBACK"):
        exit_with(mistake, as_override)
    sys.__excepthook__(kind, error, traceback)
