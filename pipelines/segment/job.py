"""One image to segment as tasks, each of which makes one chunk of an array.

A task is a function of an opened job and the key of a chunk, on any machine that sees the files. It
reads what it needs and writes one chunk, whole or not at all: the file of a chunk says that the
chunk is done. So a task may be repeated, and whoever is stopped goes on with what is missing.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, WrapperStore

from overtile.networks.inferers.region import refuse_whole_image_layers
from overtile.pipelines.errors import OvertileError
from overtile.pipelines.files import settle, whole
from overtile.pipelines.images.channels import Chosen
from overtile.pipelines.inference.trained import Trained, load_trained
from overtile.pipelines.segment.grid import Grid, Key, PlaneOf
from overtile.pipelines.segment.stitching import Numbering, Stitching
from overtile.pipelines.segment.windows import Box, Planes, open_planes


@dataclass(frozen=True)
class Job:
    """What is to be done: a message to whoever does tasks of it, and small enough for that.

    Attributes:
        name: of the image as the user gave it.
        source: the file or folder to read, uncompressed.
        level: of its pyramid.
        channels: which of the source are read; by number, since only its own name says names.
        bundle: folder of the bundle.
        settings: other values for its configuration, as JSON.
        labels: whether labels are wanted; else probabilities.
        work: folder of all that is made.
        skip_unreadable: fill what cannot be read with 0.
        chunk: size of a chunk along the axes of a plane, as the source has them.
        roi: largest input of the network.
        cache: bytes of the source to keep decoded.
        token: another one for every new start, since files of the same names may hold other things.
    """

    name: str
    source: str
    level: int
    channels: Chosen
    bundle: str
    settings: str
    labels: bool
    work: str
    skip_unreadable: bool
    chunk: tuple[int, ...]
    roi: tuple[int, ...]
    cache: int
    token: str


class Opened:
    """A job with its source open and its network loaded, handed on to every task in a process.

    Args:
        job: what is to be done.
        trained: the network.
        planes: the source.

    Raises:
        ConfigurationError: if the source has more axes than the result can have, or cells cannot
            be followed across chunks.
    """

    def __init__(self, job: Job, trained: Trained, planes: Planes) -> None:
        self.job, self.trained, self.planes = job, trained, planes
        self.work = Path(job.work)
        self.grid = Grid.of(planes, job.chunk)
        self._stitching = None
        if job.labels and trained.to_instances is not None:
            self._stitching = Stitching(trained.to_instances, self.grid.plane, job.chunk)
        self._lock = threading.Lock()
        self._arrays: dict[str, Any] = {}
        self._numberings: dict[int, Numbering] = {}
        self._scales: dict[int, list[tuple[float, float]]] = {}

    @classmethod
    def of(cls, job: Job) -> Self:
        """Open what a job names, in a process that was sent it.

        Raises:
            DataError: if the source cannot be read, or does not fit the network.
            ConfigurationError: if the bundle is wrong.
        """
        trained = load_once(job.bundle, job.settings)
        planes = open_planes(
            Path(job.source), job.name, job.level, job.cache, trained.spatial_dims, job.channels
        )
        return cls(job, trained, planes)

    @property
    def noted(self) -> Path:
        """What a later run needs to go on: it is there as long as the work folder is."""
        return self.work / "job.json"

    def close(self) -> None:
        """Close the source."""
        self.planes.stored.close()

    @property
    def numbers_cells(self) -> bool:
        """Whether cells are to be numbered; else the network's answers are the result."""
        return self._stitching is not None

    @property
    def stitching(self) -> Stitching:
        """From probabilities to labels, in one plane."""
        assert self._stitching is not None  # else probabilities are wanted
        return self._stitching

    def folder(self, name: str) -> Path:
        """Of an array: ``probabilities``, ``cores``, or a level of the ``result``.

        Without cells to number, what the network says is the result: probabilities or classes.
        """
        if name == "probabilities" and not self.numbers_cells:
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

    def scales(self, plane: int) -> list[tuple[float, float]]:
        """Of each channel of a plane what becomes 0, and the width that becomes 1."""
        if plane not in self._scales:
            told = json.loads(self.scales_file.read_text())
            self._scales = {int(k): [(float(a), float(b)) for a, b in v] for k, v in told.items()}
        return self._scales[plane]

    @cached_property
    def grey(self) -> bool:
        """Whether the source has several channels that are all equal: the first stage says so."""
        return self.planes.mixed and bool(json.loads(self.grey_file.read_text()))

    @property
    def grey_file(self) -> Path:
        """Where that is kept."""
        return self.work / "grey.json"

    @property
    def scales_file(self) -> Path:
        """Where `scales` are kept, for all planes."""
        return self.work / "grey_values.json"

    def pixels(self, plane: int, box: Box, channel: int | None = None) -> NDArray[Any]:
        """Grey values ``[C, *B]`` of the source in a box of a plane; of one channel if wanted.

        Raises:
            DataError: if they cannot be read, or are NaN or infinite.
        """
        return self.planes.read(plane, box, self.grey, channel)

    def note_unreadable(self, key: Key, error: OvertileError) -> None:
        """Keep the name of a chunk that could not be read."""
        where, found, *_ = error.args  # what to do about it is of no use any more
        told = OvertileError(where, found).within(self.grid.text(key))
        folder = self.work / "unreadable"
        folder.mkdir(exist_ok=True)
        with whole(folder / self.grid.name(key).replace("/", ".")) as file:
            file.write_text(str(told))


def is_whole(chunk: Path) -> bool:
    """Whether the file of a chunk is there; an empty one is what a power cut leaves."""
    return chunk.is_file() and chunk.stat().st_size > 0


def open_array(folder: Path) -> Any:
    """A Zarr array whose chunks are written even if they hold nothing but 0.

    The file of a chunk says that the chunk is done.

    Raises:
        FileNotFoundError: if it is gone; and so does reading a chunk of it that is, and writing
            one into it.
    """
    told = folder / "zarr.json"
    check_there(told)
    store = _WhatIsThere(LocalStore(folder))
    try:
        return zarr.open_array(store, mode="r+").with_config({"write_empty_chunks": True})
    except FileNotFoundError as error:  # since that look, and Zarr's own error names no file
        raise _gone(told) from error


def check_there(file: Path) -> None:
    """Refuse to go on without a file that was made before.

    Raises:
        FileNotFoundError: naming it.
    """
    if not is_whole(file):
        raise _gone(file)


def _gone(file: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))


class _WhatIsThere(WrapperStore):  # type: ignore[misc]
    """Files of an array that was made before: Zarr takes 0 for chunks, and makes folders, where
    somebody has removed or renamed them.
    """

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        found = await super().get(key, *arguments, **options)
        if found is None and key.startswith("c/"):
            raise _gone(self._store.root / key)
        return found

    async def set(self, key: str, value: Any) -> None:
        check_there(self._store.root / "zarr.json")
        await super().set(key, value)


def load_once(bundle: str, settings: str) -> Trained:
    """A bundle's network, loaded once for all jobs of the same files.

    Raises:
        ConfigurationError: if the bundle or a setting of it is wrong.
    """
    folder = Path(bundle)
    for changing in (folder, folder / "models"):  # a training may have been killed there
        settle(changing)
    files = [folder / "configs" / "inference.json", *sorted((folder / "models").glob("*"))]
    stamp = tuple(file.stat().st_mtime_ns for file in files if file.is_file())
    return _loaded(bundle, settings, stamp)


@lru_cache(maxsize=2)
def _loaded(bundle: str, settings: str, stamp: tuple[int, ...]) -> Trained:
    trained = load_trained(Path(bundle), json.loads(settings))
    refuse_whole_image_layers(trained.network)
    return trained
