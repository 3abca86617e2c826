"""What was decoded to be looked at, kept for whoever reads it next.

On a first training every image is looked at before anything starts, and then read for the cache.
Between the two it is kept here, so that no file is decoded twice.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Container
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.stored import stamp


class Reading(NamedTuple):
    """What is read: the arguments of `overtile.pipelines.images.read.read_image`, as text."""

    path: str
    spatial_dims: int
    channels: int | str | tuple[int | str, ...] | None
    like: str | None

    def stamps(self) -> tuple[str, ...]:
        """Change with the files."""
        files = (Plane.of(path).file for path in (self.path, self.like) if path is not None)
        return tuple(map(stamp, files))


class _Aside(NamedTuple):
    """Where an array lies in the file."""

    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class HandedOn:
    """Decoded images by what was read; each is handed on once.

    Args:
        limit: bytes to keep in memory; what is more goes to one file without a name, which is gone
            with the process.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: dict[
            Reading, tuple[tuple[str, ...], NDArray[Any] | _Aside, dict[str, Any]]
        ] = {}
        self._size = 0
        self._file: IO[bytes] | None = None

    def keep(self, reading: Reading, array: NDArray[Any], meta: dict[str, Any]) -> None:
        """Keep what was read; nothing is kept where there is no room on the disk either."""
        with self._lock:
            if (before := self._kept.pop(reading, None)) is not None:
                self._forget(before[1])
            kept: NDArray[Any] | _Aside = array
            if self._size + array.nbytes > self.limit:
                try:
                    kept = self._put_aside(array)
                except OSError:  # no room
                    return
            else:
                self._size += array.nbytes
            self._kept[reading] = reading.stamps(), kept, meta

    def take(self, reading: Reading) -> tuple[NDArray[Any], dict[str, Any]] | None:
        """What was kept of a reading, if its files are still the same; it is kept no longer."""
        with self._lock:
            found = self._kept.pop(reading, None)
            if found is None:
                return None
            stamps, kept, meta = found
            array = self._read(kept) if isinstance(kept, _Aside) else kept
            self._forget(kept)
        return (array, meta) if stamps == reading.stamps() else None

    def only(self, paths: Container[str]) -> None:
        """Keep nothing but these images and labels."""
        self._drop(lambda path: path not in paths)

    def without(self, paths: Container[str]) -> None:
        """Do not keep these images and labels, which nobody will ask for."""
        self._drop(lambda path: path in paths)

    def _drop(self, unwanted: Callable[[str], bool]) -> None:
        with self._lock:
            for reading in [one for one in self._kept if unwanted(one.path)]:
                self._forget(self._kept.pop(reading)[1])

    def _forget(self, kept: NDArray[Any] | _Aside) -> None:
        """Give the room back; that of the file once nothing of it is wanted."""
        if not isinstance(kept, _Aside):
            self._size -= kept.nbytes
        elif self._file is not None and not any(
            isinstance(other, _Aside) for _, other, _ in self._kept.values()
        ):
            self._file.close()
            self._file = None

    def _put_aside(self, array: NDArray[Any]) -> _Aside:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open until nothing is in it)
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(array).tobytes())
        self._file.flush()
        return _Aside(start, array.dtype, array.shape)

    def _read(self, kept: _Aside) -> NDArray[Any]:
        assert self._file is not None  # as long as anything lies in it
        array = np.empty(kept.shape, kept.dtype)
        self._file.seek(kept.start)
        self._file.readinto(array.reshape(-1).view(np.uint8))  # type: ignore[attr-defined]
        return array


handed_on = HandedOn()
"""Of this process."""
