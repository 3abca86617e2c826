"""What was decoded to be looked at, kept for whoever reads it next.

On a first training every image is looked at before anything starts, and then read for the cache.
Between the two it is kept here, so that no file is decoded twice.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.stored import stamp


class Reading(NamedTuple):
    """What is read: the arguments of `overtile.pipelines.images.read.read_image`, as text."""

    path: str
    spatial_dims: int
    channel: int | str | None
    like: str | None

    def stamps(self) -> tuple[str, ...]:
        """Change with the files."""
        files = (Plane.of(path).file for path in (self.path, self.like) if path is not None)
        return tuple(map(stamp, files))


class HandedOn:
    """Decoded images by what was read; each is handed on once.

    Args:
        limit: bytes to keep in memory; what is more goes to a file without a name, which is gone
            with the process.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: dict[Reading, tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]] = {}
        self._size = 0

    def keep(self, reading: Reading, array: NDArray[Any], meta: dict[str, Any]) -> None:
        """Keep what was read; nothing is kept where there is no room on the disk either."""
        with self._lock:
            full = self._size + array.nbytes > self.limit
            if not full:
                self._size += array.nbytes
        if full:
            try:
                array = _aside(array)
            except (OSError, ValueError):  # no room, or nothing in it
                return
        with self._lock:
            self._kept[reading] = reading.stamps(), array, meta

    def take(self, reading: Reading) -> tuple[NDArray[Any], dict[str, Any]] | None:
        """What was kept of a reading, if its files are still the same; it is kept no longer."""
        with self._lock:
            found = self._kept.pop(reading, None)
            if found is None:
                return None
            self._forget(found[1])
        stamps, array, meta = found
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

    def _forget(self, array: NDArray[Any]) -> None:
        if not isinstance(array, _Aside):
            self._size -= array.nbytes


class _Aside(np.memmap):
    """An array in a file without a name."""


def _aside(array: NDArray[Any]) -> NDArray[Any]:
    with tempfile.TemporaryFile() as file:
        array = np.ascontiguousarray(array)
        file.write(array.data)
        file.flush()
        # copied on write: whoever takes it may change it
        return _Aside(file, array.dtype, "c", shape=array.shape)


handed_on = HandedOn()
"""Of this process."""
