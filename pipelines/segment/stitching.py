"""Instances of an image in chunks: those of the whole image, whatever the chunks are.

`overtile.transforms.InstancesFromProbabilities` takes an image at once. Its parts are local except
one: which pieces of a core belong together. So every chunk labels its own pieces; pieces that
touch across the face of two chunks are joined, and their sizes added, for all chunks at once; then
every chunk finishes its own pixels from the joined cores around it, as far as growing, lines and
holes reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from overtile.pipelines.errors import ConfigurationError, Setting
from overtile.pipelines.files import whole
from overtile.transforms import InstancesFromProbabilities

Box = tuple[slice, ...]
Index = tuple[int, ...]


class ChunkedArray(Protocol):
    """What is read in boxes and written in whole chunks: a Zarr array, a memory map, an array."""

    def __getitem__(self, box: Any, /) -> Any: ...

    def __setitem__(self, box: Any, values: Any, /) -> None: ...


class Pieces(NamedTuple):
    """What joining needs to know of a chunk.

    ``sizes`` of its pieces 1, 2, ... in pixels; ``low`` and ``high`` its outermost labels along
    each axis.
    """

    sizes: NDArray[np.int64]
    low: tuple[NDArray[np.int32], ...]
    high: tuple[NDArray[np.int32], ...]


@dataclass(frozen=True, eq=False)
class Numbering:
    """Which instance every piece belongs to.

    Attributes:
        offsets: how many pieces the chunks before have, for every chunk in order, and in all.
        numbers: instance of every piece, from 1; 0 where the whole core is too small.
    """

    offsets: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many instances there are."""
        return int(self.numbers.max(initial=0))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest of uint16, uint32 and uint64 that holds every number."""
        return np.dtype(np.uint16) if self.count < 2**16 else np.min_scalar_type(self.count)

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` file, whole or not at all."""
        with whole(path) as file:
            np.savez(file, offsets=self.offsets, numbers=self.numbers)

    @classmethod
    def load(cls, path: Path) -> Numbering:
        """Read what `save` wrote."""
        with np.load(path) as stored:
            return cls(stored["offsets"], stored["numbers"])


class Stitching:
    """Instances of an image in chunks; equal, but for their numbers, to those of the whole image.

    Three steps, of which the first and the last work on one chunk each, in any order, on any
    machine, and give the same when they are repeated:

    1. `label_cores` for every chunk,
    2. `join` once,
    3. `finish` for every chunk.

    Args:
        settings: what makes instances of probabilities.
        shape: of the image, spatial axes alone.
        chunk: size of a chunk along each axis; those at the far end may be smaller.

    Raises:
        ConfigurationError: for ``growth="watershed"``: how far a flood gets is not decided nearby.
    """

    def __init__(
        self, settings: InstancesFromProbabilities, shape: Sequence[int], chunk: Sequence[int]
    ) -> None:
        if settings.grow and settings.growth == "watershed":
            raise ConfigurationError(
                "growth 'watershed'",
                "a flood is not followed across chunks",
                hint=Setting("growth", "nearest"),
            )
        self.settings, self.shape, self.chunk = settings, tuple(shape), tuple(chunk)
        self._grid = tuple(-(-n // c) for n, c in zip(shape, chunk, strict=True))
        # a hole that is small enough to be filled is no longer than it has pixels
        self._hole = settings.max_hole + 1 if settings.max_hole else 0
        line = settings.line + 2 if settings.line else 0
        self._reach = line + (math.ceil(settings.grow) + 1 if settings.grow else 0)

    def chunks(self) -> Iterator[Index]:
        """Indices of all chunks, in order."""
        return product(*(range(n) for n in self._grid))

    def box(self, index: Index, around: int = 0) -> Box:
        """The pixels of a chunk, with so many around it as the image has."""
        return tuple(
            slice(max(0, i * c - around), min(n, (i + 1) * c + around))
            for i, c, n in zip(index, self.chunk, self.shape, strict=True)
        )

    def label_cores(self, probabilities: ChunkedArray, cores: ChunkedArray, index: Index) -> None:
        """Number the pieces above the threshold in one chunk: 1, 2, ..., 0 is the rest.

        Args:
            probabilities: of cell, in [0, 1].
            cores: takes int32.
            index: of the chunk.
        """
        box = self.box(index)
        found, _ = ndimage.label(probabilities[box] > self.settings.threshold)
        cores[box] = found.astype(np.int32)

    def pieces(self, cores: ChunkedArray, index: Index) -> Pieces:
        """What `join` needs of one chunk."""
        found = np.asarray(cores[self.box(index)])
        ends = [(found.take(0, axis), found.take(-1, axis)) for axis in range(found.ndim)]
        low, high = zip(*ends, strict=True)
        return Pieces(np.bincount(found.ravel())[1:], low, high)

    def join(self, pieces: Iterable[Pieces]) -> Numbering:
        """Join what touches across the faces of chunks, and number what is large enough.

        Args:
            pieces: of all `chunks`, in their order.
        """
        sizes: list[NDArray[np.int64]] = []
        pairs = [np.empty((2, 0), np.int64)]
        open_faces: dict[tuple[int, Index], NDArray[np.int64]] = {}  # waiting for the chunk beyond
        total = 0
        counts = [0]
        for index, found in zip(self.chunks(), pieces, strict=True):
            for axis, (low, high) in enumerate(zip(found.low, found.high, strict=True)):
                if index[axis]:
                    before = open_faces.pop((axis, index))
                    touching = (before > 0) & (low > 0)
                    both = np.stack([before[touching], low[touching].astype(np.int64) + total])
                    pairs.append(np.unique(both, axis=1))
                if index[axis] + 1 < self._grid[axis]:
                    beyond = (*index[:axis], index[axis] + 1, *index[axis + 1 :])
                    open_faces[axis, beyond] = np.where(high > 0, high.astype(np.int64) + total, 0)
            sizes.append(found.sizes)
            total += len(found.sizes)
            counts.append(total)
        first, second = np.concatenate(pairs, axis=1) - 1
        links = coo_array((np.ones(len(first), bool), (first, second)), shape=(total, total))
        core_of = connected_components(links, directed=False)[1] if total else np.empty(0, int)
        areas = np.bincount(core_of, weights=np.concatenate(sizes))
        kept = areas >= self.settings.min_size
        # numbered in the order of their first pieces
        _, starts = np.unique(core_of, return_index=True)
        rank = np.empty(len(areas), np.int64)
        order = np.argsort(starts)
        rank[order] = np.cumsum(kept[order])
        numbers = np.where(kept, rank, 0)[core_of]
        return Numbering(np.array(counts), numbers.astype(np.int64))

    def finish(
        self,
        probabilities: ChunkedArray,
        cores: ChunkedArray,
        numbering: Numbering,
        labels: ChunkedArray,
        index: Index,
    ) -> None:
        """Grow cores back, close lines and fill holes in one chunk, and write its instances.

        Args:
            probabilities: as `label_cores`.
            cores: every chunk labelled.
            numbering: of `join`.
            labels: takes `Numbering.dtype`.
            index: of the chunk.
        """
        window = self.box(index, self._reach + self._hole)
        instances = self._numbered(cores, numbering, window)
        instances = self.settings.grown(instances, probabilities[window])
        # what is wrong because the window ends lies outside of this
        inner = self.box(index, self._hole)
        instances = self.settings.filled(instances[_within(inner, window)])
        box = self.box(index)
        labels[box] = instances[_within(box, inner)].astype(numbering.dtype)

    def _numbered(
        self, cores: ChunkedArray, numbering: Numbering, window: Box
    ) -> NDArray[np.int64]:
        """Instances in a window, of the cores alone."""
        instances = np.zeros([s.stop - s.start for s in window], np.int64)
        spans = [
            range(s.start // c, -(-s.stop // c)) for s, c in zip(window, self.chunk, strict=True)
        ]
        for index in product(*spans):
            part = tuple(
                slice(max(w.start, b.start), min(w.stop, b.stop))
                for w, b in zip(window, self.box(index), strict=True)
            )
            place = np.ravel_multi_index(index, self._grid)
            first, last = numbering.offsets[place : place + 2]
            names = np.concatenate([[0], numbering.numbers[first:last]])
            instances[_within(part, window)] = names[cores[part]]
        return instances


def _within(box: Box, window: Box) -> Box:
    """A box of the image in the coordinates of a window that holds it."""
    return tuple(
        slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, window, strict=True)
    )
