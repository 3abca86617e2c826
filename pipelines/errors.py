"""A user's mistake, in one line, and the way it leaves the program."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NoReturn


class OvertileError(Exception):
    """Something that the user can put right; the message says where it is and how."""


class DataError(OvertileError):
    """Images or labels that cannot be used as they are."""


class UnknownLayoutError(DataError):
    """A folder in which no image has a label."""


class UnreadableError(DataError):
    """A file that is broken, and that a data set may go on without."""


class ConfigurationError(OvertileError):
    """A configuration that contradicts itself."""


class TrainingError(OvertileError):
    """A training run that cannot go on."""


def size_text(size: Iterable[int]) -> str:
    """Sides of an image as messages write them: ``256x320``."""
    return "x".join(map(str, size))


def users_mistake(error: BaseException | None) -> BaseException | None:
    """The mistake that caused ``error``, looking through the wrappers that MONAI puts around it."""
    from overtile.networks.geometry import GeometryError  # loads PyTorch: not before it is needed

    while error is not None:
        if isinstance(error, (OvertileError, GeometryError)):
            return error
        error = error.__cause__ or error.__context__
    return None


def exit_with(error: BaseException) -> NoReturn:
    """Print the mistake as one line and leave with exit code 2."""
    if "tqdm" in sys.modules:  # an open bar has no line of its own
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.leave = False
            bar.close()
    print(f"overtile: error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)
