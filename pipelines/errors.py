"""A user's mistake, in one line, and the way it leaves the program.

An error says where something is wrong, what was found there, what was expected, and what to do.
What to do may be a setting: each front end (library, bundle, command, server) words it for its own
user, so that nobody is told of an option that he has not got.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from overtile.networks import ArgumentError


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


ANOTHER = Setting("KEY", "VALUE", "to take another value")
"""Where a value of the configuration is refused by what it is for, which does not know its key."""

Advice = str | Setting
Wording = Callable[[Setting], str | None]
"""How a front end writes a setting; None for one that its user cannot give."""


def as_argument(setting: Setting) -> str:
    """As the caller of a function writes it."""
    told = f"{setting.name}={setting.value}"
    return told if isinstance(setting.value, str) else f"{setting.name}={setting.value!r}"


Part = str | Path | tuple[str | Path, ...]
"""Words of an error; a path stands apart from them, since front ends tell it in different ways."""


def _words(part: Part) -> tuple[str | Path, ...]:
    return part if isinstance(part, tuple) else (part,) if part != "" else ()


class OvertileError(Exception):
    """Something that the user can put right.

    Args:
        where: file, folder, key or argument that is wrong.
        found: what is there.
        expected: what should be.
        hint: what to do: words, settings, or several of them of which one is enough.

    As text, in one line: ``where: found; expected ...: hint, or hint``. Empty parts are left out.

    Attributes:
        where: the same as text, with paths as they were given.
        found: the same.
    """

    def __init__(
        self,
        where: Part = "",
        found: Part = "",
        expected: str = "",
        hint: Advice | tuple[Advice, ...] = (),
    ) -> None:
        super().__init__(where, found, expected, hint)  # which pickling hands on
        self._where, self._found = _words(where), _words(found)
        self.where, self.found = (" ".join(map(str, p)) for p in (self._where, self._found))
        self.expected = expected
        self.hint = (hint,) if isinstance(hint, (str, Setting)) else hint

    def worded(self, wording: Wording = as_argument) -> str:
        """The one line for the user of a front end."""
        told = f": {self.found}" if self.where and self.found else self.found
        if self.expected:
            told += f"; expected {self.expected}"
        if hint := self.hint_in(wording):
            told += f"{': ' if self.expected else '; '}{hint}"
        return printable(self.where + re.sub(r"\s+", " ", told).rstrip())

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

    def within(self, place: str) -> Self:
        """The same error with a place before its own, e.g. the chunk of an image."""
        where = (f"{place}:", *self._where) if self._where else place
        return type(self)(where, self._found, self.expected, self.hint)

    def advising(self, *hint: Advice) -> Self:
        """The same error with another hint."""
        return type(self)(self._where, self._found, self.expected, hint)

    def moved(self, path: Callable[[Path], Path]) -> Self:
        """The same error with its paths as ``path`` gives them."""
        where, found = (
            tuple(path(word) if isinstance(word, Path) else word for word in part)
            for part in (self._where, self._found)
        )
        return type(self)(where, found, self.expected, self.hint)

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


_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(name: object) -> str:
    """A name that may hold anything, as text that does nothing but be read.

    Control characters, which a terminal obeys, those that turn the direction of writing, and bytes
    that are no UTF-8 become escapes, as in ``\\x1b``.
    """
    return _UNSEEN.sub(lambda found: _escape(ord(found[0])), str(name))


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that Python could not decode
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def size_text(size: Iterable[int]) -> str:
    """Sides of an image as messages write them: ``256x320``."""
    return "x".join(map(str, size))


def of_argument(error: ArgumentError, where: Part = "") -> ConfigurationError:
    """What a network or a transform refused, with its parts, as a mistake of the user."""
    told = ConfigurationError(where, error.found, error.expected, error.hint or ())
    told.__cause__ = error
    return told


def users_mistake(error: BaseException | None) -> OvertileError | None:
    """The mistake that caused ``error``, looking through the wrappers that MONAI puts around it.

    Or what ran out or is not allowed, which is no mistake, but the user's to put right.
    """
    from overtile.networks import GeometryError  # loads PyTorch: not before it is needed

    lacking = None
    while error is not None:
        if isinstance(error, OvertileError):
            return error
        if isinstance(error, GeometryError):
            return of_argument(error)
        lacking = lacking or ran_out(error)
        error = error.__cause__ or error.__context__
    return lacking


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a disk, or a user's part of it, that is full."""
_DISK = ("database or disk is full", "No space left on device")
_DESCRIPTORS = ("Too many open files", "received 0 items of ancdata")
_MEMORY = (
    *("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory"),
    "killed by signal: Killed",  # a worker, by the system
)
_THREAD = "can't start new thread"
_GO_ON = (Setting("resume", True, "to go on with what is done"),)
_LESS = (
    *(Setting("batch_size", 1), Setting("tile", "a smaller size"), Setting("roi_size", "a tile")),
    *(Setting("num_workers", 0), Setting("cache_memory", "fewer bytes")),
)


def ran_out(error: BaseException) -> OvertileError | None:
    """Of which resource of the computer there was not enough, or which right; None for any other.

    PyTorch has no types for most of these, and workers of a loader hand on nothing but the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    name = error.filename if isinstance(error, OSError) else None
    where = Path(os.fsdecode(name)) if name else ""
    told = str(error)
    if number in FULL or any(s in told for s in _DISK):
        found = f"cannot be written ({os.strerror(number or errno.ENOSPC)})"
        return OvertileError(
            where or "a file", found, hint=("make room, and give the same command again", *_GO_ON)
        )
    if number in (errno.EMFILE, errno.ENFILE) or any(sign in told for sign in _DESCRIPTORS):
        import resource  # no system but those of Unix has such limits

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
    if number == errno.EAGAIN or _THREAD in told:  # of a fork; nothing of ours is read unblocked
        return OvertileError(
            where,
            "the system starts no further thread or process, for want of memory or of their number",
            hint=("allow more, as by `ulimit -u`", *_LESS, "end other programs"),
        )
    if where and number == errno.EROFS:
        found = f"cannot be written ({os.strerror(number)})"
        return OvertileError(where, found, "a disk that can be written", "name a place on another")
    if where and number in (errno.EACCES, errno.EPERM):
        found = f"this user may not read or not write it ({os.strerror(number)})"
        hint = ("give the right to, as by chmod", "name another")
        return OvertileError(_closed(Path(where)), found, hint=hint)
    return None


def _closed(path: Path) -> Path:
    """The outermost folder on the way to ``path`` that this user may not enter, else itself."""
    return next((f for f in reversed(path.parents) if not os.access(f, os.X_OK)), path)


HAND_OVER = "OVERTILE_HAND_OVER"
"""Environment: the file for the mistake that ends a command, from whoever started it."""


def hand_over(error: OvertileError, file: Path) -> None:
    """Leave the parts of a mistake to another process, which words them for its own user."""
    file.write_text(json.dumps(error.args, default=_plain))


def handed_over(file: Path) -> OvertileError | None:
    """The mistake that another process left, with its parts; None if there was none."""
    if not file.is_file():
        return None
    where, found, expected, hint = json.loads(file.read_text(), object_hook=_part)
    return OvertileError(_tuple(where), _tuple(found), expected, _tuple(hint))


def _plain(part: object) -> object:
    if isinstance(part, Path):
        return {"path": str(part)}
    return vars(part) if isinstance(part, Setting) else str(part)


def _part(told: dict[str, str]) -> Path | Setting:
    return Path(told["path"]) if "path" in told else Setting(**told)


def _tuple(part: Any) -> Any:
    return tuple(part) if isinstance(part, list) else part


def close_bars() -> None:
    """End the bars of progress that are open: what is printed beside one has no line of its own."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.leave = False
            bar.close()


def exit_with(error: OvertileError, wording: Wording = as_argument) -> NoReturn:
    """Print the mistake as one line, or hand it over, and leave with exit code 2."""
    if file := os.environ.get(HAND_OVER):
        try:
            hand_over(error, Path(file))
        except OSError:  # what ran out may be the disk; the line is read too
            Path(file).unlink(missing_ok=True)
        else:
            raise SystemExit(2)
    close_bars()
    print(f"overtile: error: {error.worded(wording)}", file=sys.stderr)
    raise SystemExit(2)
