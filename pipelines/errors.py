"""A user's mistake, in one line, and the way it leaves the program.

An error says where something is wrong, what was found there, what was expected, and what to do.
What to do may be a setting: each front end (library, bundle, command, server) words it for its own
user, so that nobody is told of an option that he has not got.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, Self


@dataclass(frozen=True)
class Setting:
    """A setting that helps, as part of a hint.

    Attributes:
        name: as the configuration of a bundle has it, e.g. ``skip_unreadable``.
        value: to give it; a text such as ``0 to 2`` or ``DIR`` says what is allowed.
        purpose: what it does then, e.g. ``to go on without it``.
    """

    name: str
    value: object
    purpose: str = ""


Advice = str | Setting
Wording = Callable[[Setting], str | None]
"""How a front end writes a setting; None for one that its user cannot give."""


def as_argument(setting: Setting) -> str:
    """As the caller of a function writes it."""
    told = f"{setting.name}={setting.value}"
    return told if isinstance(setting.value, str) else f"{setting.name}={setting.value!r}"


class OvertileError(Exception):
    """Something that the user can put right.

    Args:
        where: file, folder, key or argument that is wrong.
        found: what is there.
        expected: what should be.
        hint: what to do: words, settings, or several of them of which one is enough.

    As text, in one line: ``where: found; expected ...: hint, or hint``. Empty parts are left out.
    """

    def __init__(
        self,
        where: object = "",
        found: str = "",
        expected: str = "",
        hint: Advice | tuple[Advice, ...] = (),
    ) -> None:
        super().__init__(where, found, expected, hint)  # which pickling hands on
        self.where, self.found, self.expected = str(where), found, expected
        self.hint = (hint,) if isinstance(hint, (str, Setting)) else hint

    def worded(self, wording: Wording = as_argument) -> str:
        """The one line for the user of a front end."""
        told = ": ".join(filter(None, (self.where, self.found)))
        if self.expected:
            told += f"; expected {self.expected}"
        if hint := self.hint_in(wording):
            told += f"{': ' if self.expected else '; '}{hint}"
        return " ".join(told.split())

    def hint_in(self, wording: Wording = as_argument) -> str:
        """The hint alone; empty where this user can do nothing of it."""
        parts: list[str] = []
        given = False  # "give" once for settings that follow each other
        for advice in self.hint:
            if isinstance(advice, str):
                parts.append(advice)
                given = False
            elif (option := wording(advice)) is not None:
                purpose = f" {advice.purpose}" if advice.purpose else ""
                parts.append(f"{'' if given else 'give '}{option}{purpose}")
                given = True
        return ", or ".join(filter(None, parts))

    def within(self, place: object) -> Self:
        """The same error with a place before its own, e.g. the chunk of an image."""
        where = ": ".join(filter(None, (str(place), self.where)))
        return type(self)(where, self.found, self.expected, self.hint)

    def __str__(self) -> str:
        return self.worded()


class DataError(OvertileError):
    """Images or labels that cannot be used as they are."""


class UnknownLayoutError(DataError):
    """A folder in which no image has a label."""


class UnreadableError(DataError):
    """A file that is broken, and that a data set may go on without."""


class ChannelError(DataError):
    """An image whose channels do not make one grey value a pixel."""


class ConfigurationError(OvertileError):
    """A configuration that contradicts itself."""


class TrainingError(OvertileError):
    """A training run that cannot go on."""


def size_text(size: Iterable[int]) -> str:
    """Sides of an image as messages write them: ``256x320``."""
    return "x".join(map(str, size))


def users_mistake(error: BaseException | None) -> BaseException | None:
    """The mistake that caused ``error``, looking through the wrappers that MONAI puts around it.

    Or what ran out, which is no mistake, but the user's to put right.
    """
    from overtile.networks.geometry import GeometryError  # loads PyTorch: not before it is needed

    lacking = None
    while error is not None:
        if isinstance(error, (OvertileError, GeometryError)):
            return error
        lacking = lacking or ran_out(error)
        error = error.__cause__ or error.__context__
    return lacking


def ran_out(error: BaseException) -> OvertileError | None:
    """Of which resource of the computer there was not enough; None for any other error.

    PyTorch has no types for most of these, and workers of a loader hand on nothing but the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    where = (error.filename if isinstance(error, OSError) else None) or ""
    told = str(error)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(s in told for s in _DISK):
        found = f"cannot be written ({os.strerror(number or errno.ENOSPC)})"
        return OvertileError(
            where or "a file", found, hint=("make room, and give the same command again", *_GO_ON)
        )
    if number in (errno.EMFILE, errno.ENFILE) or any(sign in told for sign in _DESCRIPTORS):
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return OvertileError(
            where,
            f"too many files are open, of {allowed} that are allowed",
            hint=("allow more, as by `ulimit -n 65536`", Setting("num_workers", 0)),
        )
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(s in told for s in _MEMORY):
        return OvertileError(
            where, "there is not enough memory", hint=(*_LESS, "end other programs")
        )
    return None


_DISK = ("database or disk is full", "No space left on device")
_DESCRIPTORS = ("Too many open files", "received 0 items of ancdata")
_MEMORY = (
    *("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory"),
    "killed by signal: Killed",  # a worker, by the system
)
_GO_ON = (Setting("resume", True, "to go on with what is done"),)
_LESS = (
    *(Setting("batch_size", 1), Setting("tile", "a smaller size"), Setting("roi_size", "a tile")),
    *(Setting("num_workers", 0), Setting("cache_memory", "fewer bytes")),
)


def exit_with(error: BaseException, wording: Wording = as_argument) -> NoReturn:
    """Print the mistake as one line and leave with exit code 2."""
    if "tqdm" in sys.modules:  # an open bar has no line of its own
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.leave = False
            bar.close()
    told = error.worded(wording) if isinstance(error, OvertileError) else str(error)
    print(f"overtile: error: {' '.join(told.split())}", file=sys.stderr)
    raise SystemExit(2)
