"""Files that are there whole or not at all, several that change together, and locks."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_UNFINISHED = ".partial"  # with which names of unfinished work begin: hidden, and no image's
_JOURNAL, _MOVING = f"{_UNFINISHED}.journal", f"{_UNFINISHED}.lock"
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"  # others may share the disk
_EXCHANGE = 2  # of renameat2(2)
_numbers = count()  # threads of this process may write the same file
_cleared: set[tuple[int, Path]] = set()  # folders that a process has looked for rubbish in


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write a file, or a new folder, at; in the end it becomes ``path``, whole.

    Until then, and after an error or a kill, ``path`` is what it was. The suffixes are the same,
    since writers go by them.

    Raises:
        OSError: where it cannot be written, or made to last.
    """
    unfinished = _unfinished(path.parent, path.name)
    try:
        with _named(path, unfinished):
            yield unfinished
            _make_last(unfinished)
            unfinished.replace(path)
            _make_last(path.parent)
    finally:
        with suppress(OSError):
            remove(unfinished)


@contextmanager
def together(folder: Path) -> Iterator[Path]:
    """A folder for files and folders that belong together; in the end all move to ``folder``.

    Whoever reads them calls `settle` first and finds all of the old or all of the new: once they
    are written, a journal says so, and a move that was interrupted is finished from it.

    Raises:
        OSError: where they cannot be written, or made to last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder)
    unfinished = _unfinished(folder, "together")
    try:
        with _named(folder, unfinished):
            unfinished.mkdir()
            yield unfinished
            numbers = {path.name: path.stat().st_ino for path in sorted(unfinished.iterdir())}
            _make_last(unfinished)
            with _moving(folder):
                _finish(folder)  # what another writer began meanwhile
                with whole(folder / _JOURNAL) as journal:
                    journal.write_text(json.dumps({"from": unfinished.name, "numbers": numbers}))
                _finish(folder)
    finally:
        with suppress(OSError):
            if not (folder / _JOURNAL).exists():  # else they are needed to finish the move
                remove(unfinished)


@contextmanager
def _named(path: Path, unfinished: Path) -> Iterator[None]:
    """Errors of the system say which file they are of, by the name that the user knows."""
    try:
        yield
    except OSError as error:
        # a full disk is met by a write, without a name, or by a copy, whose source comes first
        told = str(error.filename2 or error.filename or unfinished)
        if error.errno is not None and told.startswith(str(unfinished)):
            error.filename = f"{path}{told.removeprefix(str(unfinished))}"
        raise


def save_tensors(value: Any, path: Path) -> None:
    """``torch.save``, which says of a full disk that an offset is unexpected.

    Raises:
        OSError: if ``path`` cannot be written.
    """
    import torch  # takes long

    with path.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def settle(folder: Path) -> None:
    """Finish what `together` began to move into ``folder``, if it was interrupted there.

    Where another process is moving, wait for it.

    Raises:
        OSError: if that is needed and ``folder`` cannot be written.
    """
    if (folder / _JOURNAL).is_file():
        with _moving(folder):
            _finish(folder)


@contextmanager
def _moving(folder: Path) -> Iterator[None]:
    """One process at a time: a second one would remove what the first is about to move."""
    lock = folder / _MOVING
    with FileLock(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it looks whether it is still there


def _finish(folder: Path) -> None:
    journal = folder / _JOURNAL
    if not journal.is_file():
        return
    told = json.loads(journal.read_text())
    source = folder / told["from"]
    for name, number in told["numbers"].items():
        target = folder / name
        moved = target.exists() and target.stat().st_ino == number  # or gone on with since
        put_in_place(source / name, target, moved or not (source / name).exists())
    _make_last(folder)
    journal.unlink()
    remove(source)


def put_in_place(source: Path, target: Path, moved: bool = False) -> None:
    """Move a file or folder; what lies there is replaced, in one step where the system can.

    A folder that was there may have changed places with it, and is under ``source`` then.

    Args:
        source: on the same disk.
        target: may exist.
        moved: it was, by a call that was stopped afterwards: only clean up.

    Raises:
        OSError: where it cannot be moved.
    """
    if not moved:
        _replace(source, target)
    remove(_aside(target))


@contextmanager
def alone(lock: Path, taken: Exception) -> Iterator[None]:
    """Keep every other process, on this machine or one that shares the disk, out of something.

    Args:
        lock: a file beside it, made if need be.
        taken: raised if another process is in there.
    """
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise taken from None


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is what somebody has not finished, or was killed at."""
    return path.name.startswith(f"{_UNFINISHED}.")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unfinished(folder: Path, name: str) -> Path:
    """A name of this process alone; what killed ones left under such names is removed."""
    if (os.getpid(), folder) not in _cleared:  # once: a look takes longer the more lies there
        _cleared.add((os.getpid(), folder))
        for left in folder.glob(f"{_UNFINISHED}.{_HOST}-*"):
            process = left.name.split("-")[1].split(".")[0]
            if process.isdecimal() and not _runs(int(process)):
                with suppress(OSError):
                    remove(left)
    return folder / f"{_UNFINISHED}.{_HOST}-{os.getpid()}.{next(_numbers)}.{name}"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _replace(source: Path, target: Path) -> None:
    """Rename; a folder that is in the way changes places with the new one, or else goes aside."""
    if target.is_dir() or (source.is_dir() and target.exists()):  # no rename replaces these
        if _exchange(source, target):
            return
        remove(_aside(target))
        target.rename(_aside(target))
    source.replace(target)


def _exchange(one: Path, other: Path) -> bool:
    """Let two change places in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # no Linux
        return False
    first, second = (os.fsencode(path.absolute()) for path in (one, other))
    changed: bool = renameat2(-1, first, -1, second, _EXCHANGE) == 0  # no folder for whole paths
    return changed


def _aside(target: Path) -> Path:
    return target.with_name(f"{_UNFINISHED}.old.{target.name}")


def _make_last(path: Path) -> None:
    """Hand a file, or a folder with all in it, to the disk: a power cut may leave empty names."""
    inside = path.rglob("*") if path.name.startswith(_UNFINISHED) and path.is_dir() else ()
    for one in (*inside, path):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
