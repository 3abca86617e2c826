"""One image to segment as tasks, each of which makes one chunk of an array.

A task is a function of a `Job` and the key of a chunk, on any machine that sees the files. It
reads what it needs and writes one chunk, whole or not at all: the file of a chunk says that the
chunk is done. So a task may be repeated, and whoever is stopped goes on with what is missing.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import zarr

from overtile.pipelines.images.formats import open_source
from overtile.pipelines.inference.trained import Trained, load_trained
from overtile.pipelines.segment.grid import Grid, Key, PlaneOf
from overtile.pipelines.segment.stitching import Numbering, Stitching
from overtile.pipelines.segment.windows import Planes


@dataclass(frozen=True)
class Job:
    """What is to be done, small enough to be sent around.

    Attributes:
        name: of the image as the user gave it.
        source: the file or folder to read, uncompressed.
        level: of its pyramid.
        channel: of several the one to take.
        grey: whether its channels are all equal.
        bundle: folder of the bundle.
        settings: other values for its configuration, as JSON.
        labels: whether labels are wanted; else probabilities.
        work: folder of all that is made.
        chunk: size of a chunk along the axes of a plane, as the source has them.
        roi: largest input of the network.
        cache: bytes of the source to keep decoded.
        skip_unreadable: fill what cannot be read with 0.
        token: another one for every new start, since files of the same names may hold other things.
    """

    name: str
    source: str
    level: int
    channel: int | str | None
    bundle: str
    settings: str
    labels: bool
    work: str
    skip_unreadable: bool
    token: str = ""
    grey: bool = False
    chunk: tuple[int, ...] = ()
    roi: tuple[int, ...] = ()
    cache: int = 2**28


class Opened:
    """A job with its source open and its network loaded; everything is opened once.

    Args:
        job: to open.

    Raises:
        DataError: if the source cannot be read, or does not fit the network.
        ConfigurationError: if the bundle is wrong.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.work = job, Path(job.work)
        self.trained = _trained(job.bundle, job.settings, _stamp(Path(job.bundle)))
        path = Path(job.source)
        stored = open_source(path, job.level, job.cache, job.name)
        channel = self.trained.channel if job.channel is None else job.channel
        try:
            self.planes = Planes(stored, path, self.trained.spatial_dims, channel, job.grey)
            self.grid = Grid.of(self.planes, job.chunk)
        except Exception:
            stored.close()
            raise
        self._lock = threading.Lock()
        self._arrays: dict[str, Any] = {}
        self._numberings: dict[int, Numbering] = {}
        self._scales: dict[int, tuple[float, float]] = {}

    @cached_property
    def stitching(self) -> Stitching:
        """From probabilities to labels, in one plane."""
        assert self.trained.to_instances is not None  # checked before the job began
        return Stitching(self.trained.to_instances, self.grid.plane, self.grid.chunk)

    def folder(self, name: str) -> Path:
        """Of an array: ``probabilities``, ``cores``, or a level of the ``result``."""
        if name == "probabilities" and not self.job.labels:
            name = "result/0"
        return self.work / name

    def is_done(self, name: str, key: Key) -> bool:
        """Whether a chunk of an array is written."""
        return is_whole(self.folder(name) / self.grid.name(key))

    def array(self, name: str) -> Any:
        """An array, to be read and written in chunks."""
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = open_array(self.folder(name))
            return self._arrays[name]

    def plane(self, name: str, number: int) -> PlaneOf:
        """One plane of an array."""
        return self.grid.plane_of(self.array(name), number)

    def numbering_file(self, plane: int) -> Path:
        """Which pieces of a plane belong together: where it is kept."""
        return self.work / "numbering" / f"{plane}.npz"

    def numbering(self, plane: int) -> Numbering:
        """What is kept there; that of the plane used last stays in memory."""
        with self._lock:
            if plane not in self._numberings:
                self._numberings = {plane: Numbering.load(self.numbering_file(plane))}
            return self._numberings[plane]

    def scale(self, plane: int) -> tuple[float, float]:
        """The grey value of a plane that becomes 0, and the width that becomes 1."""
        if plane not in self._scales:
            told = json.loads((self.work / "grey_values.json").read_text())
            self._scales = {int(k): (float(a), float(b)) for k, (a, b) in told.items()}
        return self._scales[plane]

    def note_unreadable(self, key: Key, why: str) -> None:
        """Keep the name of a chunk that could not be read."""
        write_text(self.work / "unreadable" / self.grid.name(key).replace("/", "."), why)


def is_whole(chunk: Path) -> bool:
    """Whether the file of a chunk is there; an empty one is what a power cut leaves."""
    return chunk.is_file() and chunk.stat().st_size > 0


def open_array(folder: Path) -> Any:
    """A Zarr array whose chunks are written even if they hold nothing but 0.

    The file of a chunk says that the chunk is done.
    """
    return zarr.open_array(folder, mode="r+").with_config({"write_empty_chunks": True})


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"partial.{os.getpid()}.{path.name}")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the name and nothing in it
    unfinished.replace(path)


def _stamp(bundle: Path) -> tuple[int, ...]:
    files = [bundle / "configs" / "inference.json", *sorted((bundle / "models").glob("*"))]
    return tuple(file.stat().st_mtime_ns for file in files if file.is_file())


@lru_cache(maxsize=2)
def _trained(bundle: str, settings: str, stamp: tuple[int, ...]) -> Trained:
    """Loaded once for all jobs of the same files."""
    return load_trained(Path(bundle), json.loads(settings))


_KEPT = 4  # jobs that may be open at once: a worker of a cluster may serve several users
_lock = threading.Lock()
_opened: dict[Job, Opened] = {}


def opened(job: Job) -> Opened:
    """A job with its files, opened once in every process."""
    with _lock:
        if job not in _opened:
            if len(_opened) == _KEPT:  # not closed: another thread may be using the oldest
                del _opened[next(iter(_opened))]
            _opened[job] = Opened(job)
        return _opened[job]


def close_jobs() -> None:
    """Close the files of all jobs."""
    with _lock:
        while _opened:
            _opened.popitem()[1].planes.stored.close()
