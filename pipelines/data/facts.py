"""What images and labels hold, found out once and remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from overtile import __version__
from overtile.pipelines.data.cache_folder import private
from overtile.pipelines.files import whole
from overtile.pipelines.images.annotation import Annotation
from overtile.pipelines.images.channels import (
    Channels,
    Taken,
    check_channels,
    check_fit,
    takes_several,
)
from overtile.pipelines.images.handed_on import Reading, handed_on
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.read import (
    check_pixels,
    check_spacing_known,
    open_view,
    read_image,
    spacing_of_meta,
)
from overtile.pipelines.images.stored import files_of, stamp

Item = dict[str, str]
"""Names of an image and its label, ``{"image": ..., "label": ...}``."""


@dataclass(frozen=True)
class ImageFacts:
    """Pixels of one image: size, type, grey values, pixel size as text, and channels as `Taken`.

    ``spacing_mm`` is the pixel size along each axis; empty where the file does not say all of them.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    mean: float
    spacing: str
    spacing_mm: tuple[float, ...]
    channels: int
    channel_names: tuple[str, ...]


@dataclass(frozen=True)
class LabelFacts:
    """What one label image holds.

    Attributes:
        shape: of the image.
        dtype: of the file.
        background: pixels that are 0.
        ignored: pixels that are not annotated.
        cells: all other pixels.
        names: distinct numbers besides 0.
        components: connected components of what is not background, without diagonals; where no
            pixel is 0 the lowest of several numbers counts as background.
        pieces: connected pieces of one number each, diagonals included.
        split: numbers that have more than one piece.
        specks: such pieces of fewer than `SPECK` pixels.
        touching: pairs of numbers that are direct neighbours somewhere.
        around: where no pixel is 0, and no number has more pixels than the lowest: how many
            others are direct neighbours of it; else 0.
        smallest: pixels of the smallest cell.
        median: pixels of the median cell.
        counts: pixels of each number from 0 to the largest; empty where that is above 255.
        firsts: where each of these is first met, counted along the array; -1 for none.
        parts: connected pieces of each of these, as of ``pieces``; none of 0.
    """

    shape: tuple[int, ...]
    dtype: str
    background: int
    ignored: int
    cells: int
    names: int
    components: int
    pieces: int
    split: int
    specks: int
    touching: int
    around: int
    smallest: int
    median: int
    counts: tuple[int, ...]
    firsts: tuple[int, ...]
    parts: tuple[int, ...]


SPECK = 5
"""Pixels; no cell has fewer."""
_F = TypeVar("_F", ImageFacts, LabelFacts)

# of what is remembered: another version, or other facts, start anew
_VERSION = " ".join(
    [
        *(__version__, "remarks", "coloured"),
        *(f.name for kind in (ImageFacts, LabelFacts) for f in dataclasses.fields(kind)),
    ]
)


class FactBook:
    """Facts of many files, kept between runs as long as the files do not change.

    Args:
        folder: of the cache, taken if it is `private`; None remembers nothing.
        root: of the data set.
        spatial_dims: as of `read_image`.
        channels: as of `read_image`.
        annotation: as of `read_label`.
        hand_on: keep what is decoded here for whoever reads it next in this process.

    Attributes:
        remarks: on the files whose `planes` were asked for, and which these are.
    """

    def __init__(
        self,
        folder: Path | None,
        root: Path,
        spatial_dims: int = 2,
        channels: Channels = None,
        annotation: Annotation | None = None,
        hand_on: bool = False,
    ) -> None:
        self.spatial_dims, self.channels = spatial_dims, check_channels(channels)
        self.annotation = annotation or Annotation()
        self.hand_on = hand_on
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        own = None if folder is None else private(folder)
        self._file = None if own is None else own / f"facts-{name}.json"
        self.remarks: dict[str, list[Path]] = {}
        self._known: dict[str, Any] = {}
        self.coloured = False  # whether one of the images seen so far has several
        self._stamps: dict[Path, str] = {}
        self._changed = False
        if self._file is not None and self._file.is_file():
            try:
                book = json.loads(self._file.read_text())
            except ValueError:  # a broken cache is an empty one
                book = {}
            if (
                isinstance(book, dict)
                and book.get("version") == _VERSION
                and book.get("sum") == _sum_of(book.get("facts"))  # else somebody has changed it
            ):
                self._known = book["facts"]

    def planes(self, path: Path, like: Path | None = None) -> tuple[int, tuple[int, ...]]:
        """How many planes a file has, and their size; arguments as of `open_view`.

        Raises:
            DataError: as `open_view`.
        """
        key = f"planes {self.spatial_dims} {path.absolute()} {like and like.absolute()}"
        now = f"{self._stamp(path)} {like and self._stamp(like)}"
        entry = self._known.get(key)
        if entry is None or entry["stamp"] != now:
            seen = open_view(path, self.spatial_dims, like)
            entry = {"stamp": now, "count": seen.count, "shape": seen.shape}
            entry["remarks"], entry["coloured"] = seen.remarks, seen.channel is not None
            self._known[key], self._changed = entry, True
        self.coloured |= like is None and entry["coloured"]
        for remark in entry["remarks"]:
            self.remarks.setdefault(remark, []).append(path)
        return entry["count"], tuple(entry["shape"])

    def image(self, path: str) -> ImageFacts:
        """Facts of an image.

        Raises:
            DataError: if it cannot be read, or holds NaN or infinite pixels.
        """

        def find() -> ImageFacts:
            array, meta = read_image(path, self.spatial_dims, self.channels)
            check_pixels(path, array)
            if self.hand_on:
                handed_on.keep(Reading(path, self.spatial_dims, self.channels, None), array, meta)
            several = takes_several(self.channels)
            return ImageFacts(
                shape=array.shape[several:],
                dtype=str(array.dtype),
                low=float(array.min()),
                high=float(array.max()),
                mean=float(array.mean()),
                spacing=meta.get("spacing", ""),
                spacing_mm=spacing_of_meta(meta, self.spatial_dims),
                channels=array.shape[0] if several else 1,
                channel_names=tuple(meta.get("channel_names", ())),
            )

        kind = f"image {self.spatial_dims} {self.channels!r}"
        return self._remembered(path, kind, ImageFacts, find)

    def check_channels(
        self, path: str, count: int | None, names: Sequence[str] | None, whose: str
    ) -> None:
        """`check_fit` of an image.

        Raises:
            DataError: as it, and as `image`.
        """
        facts = self.image(path)
        found = Taken(tuple(range(facts.channels)), names=facts.channel_names)
        check_fit(path, found, count, names, whose)

    def check_spacing(self, path: str, wanted: Sequence[float] | str | None) -> None:
        """`check_spacing_known` of an image, where it is to be resampled.

        Raises:
            DataError: as it, and as `image`.
        """
        if wanted is not None:
            check_spacing_known(path, self.image(path).spacing_mm, wanted)

    def label(self, label: str, image: str) -> LabelFacts:
        """Facts of the label of ``image``.

        Raises:
            DataError: if it cannot be read, or holds anything but integers from 0 up.
        """

        def find() -> LabelFacts:
            array, meta = read_image(label, self.spatial_dims, like=image)
            if self.hand_on:
                handed_on.keep(Reading(label, self.spatial_dims, None, image), array, meta)
            return label_facts(self.annotation.of(label, array))

        kind = f"label {self.spatial_dims} {self.annotation}"
        return self._remembered(label, kind, LabelFacts, find)

    def sha256(self, path: Path) -> str:
        """Of the bytes of a file, or of all files of a folder with their names."""

        def find() -> str:
            state = hashlib.sha256()
            for file in files_of(path):
                if path.is_dir():
                    state.update(os.fsencode(file.relative_to(path)))
                state.update(file.read_bytes())
            return state.hexdigest()

        key = f"sha256 {path.absolute()}"
        entry = self._known.get(key)
        if entry is None or entry["stamp"] != self._stamp(path):
            entry = self._known[key] = {"stamp": self._stamp(path), "sha256": find()}
            self._changed = True
        return str(entry["sha256"])

    def save(self) -> None:
        """Remember for the next run; where that is impossible, go without."""
        if self._file is None or not self._changed:
            return
        try:
            book = {"version": _VERSION, "sum": _sum_of(self._known), "facts": self._known}
            with whole(self._file) as unfinished:
                unfinished.write_text(json.dumps(book))
        except OSError:
            self._file = None

    def _remembered(self, path: str, kind: str, facts: type[_F], find: Any) -> _F:
        plane = Plane.of(path)
        file = plane.file
        key = f"{kind} {file.absolute()}:{plane.number}"
        entry = self._known.get(key)
        if entry is not None and entry["stamp"] == self._stamp(file):
            values = entry["facts"]
            kept: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            return facts(**kept)
        found: _F = find()
        self._known[key] = {"stamp": self._stamp(file), "facts": dataclasses.asdict(found)}
        self._changed = True
        return found

    def _stamp(self, path: Path) -> str:
        if path not in self._stamps:
            self._stamps[path] = stamp(path)
        return self._stamps[path]


def _sum_of(facts: Any) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def label_facts(labels: NDArray[Any]) -> LabelFacts:
    """What a label image ``[*S]`` of integers holds, in a time linear in its pixels."""
    gaps = labels < 0
    ignored = int(gaps.sum())
    if ignored:  # no cell, and no background
        labels = np.where(gaps, labels.dtype.type(0), labels)
    names, sizes = np.unique(labels[labels != 0], return_counts=True)
    pieces, specks = _pieces(labels, names)
    cells = int(sizes.sum())
    background = names[0] if cells + ignored == labels.size and len(names) > 1 else 0
    pairs = touching_pairs(labels)
    surrounds = bool(background) and bool(sizes[0] == sizes.max())
    return LabelFacts(
        shape=labels.shape,
        dtype=str(labels.dtype),
        background=labels.size - cells - ignored,
        ignored=ignored,
        cells=cells,
        names=len(names),
        components=int(ndimage.label((labels != background) & ~gaps)[1]),
        pieces=int(pieces.sum()),
        split=int((pieces > 1).sum()),
        specks=specks,
        touching=len(pairs),
        around=int((pairs[:, 0] == background).sum()) if surrounds else 0,
        smallest=int(sizes.min()) if len(sizes) else 0,
        median=int(np.median(sizes)) if len(sizes) else 0,
        **_numbers(labels, gaps, names, pieces),
    )


_CLASSES = 256  # at most


def _numbers(
    labels: NDArray[Any], gaps: NDArray[np.bool_], names: NDArray[Any], pieces: NDArray[np.int64]
) -> dict[str, tuple[int, ...]]:
    """What `LabelFacts` has of each number, of labels outside of gaps."""
    top = int(labels.max(initial=0)) + 1
    if top > _CLASSES:
        return {"counts": (), "firsts": (), "parts": ()}
    flat = np.where(gaps, 0, labels.astype(np.int64) + 1).ravel()
    firsts = np.full(top + 1, -1)
    firsts[flat[::-1]] = np.arange(flat.size)[::-1]  # of several the last one written stays
    counts = np.bincount(flat, minlength=top + 1)
    parts = np.zeros(top, int)
    parts[names] = pieces
    found = {"counts": counts[1:], "firsts": firsts[1:], "parts": parts}
    return {name: tuple(map(int, values)) for name, values in found.items()}


_AT_ONCE = 2**22  # pixels; of larger images the pieces are counted part by part


def _pieces(labels: NDArray[Any], names: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """How many connected pieces each number has, diagonals included, and how many are specks.

    Of numbers scattered over an image of more than `_AT_ONCE` pixels, the most in one part of it.
    """
    if not len(names):
        return np.zeros(0, np.int64), 0
    numbers = np.searchsorted(names, labels) + (labels != 0)
    boxes = ndimage.find_objects(numbers)
    if sum(np.prod([s.stop - s.start for s in box]) for box in boxes) <= 4 * labels.size:
        around = np.ones((3,) * labels.ndim)
        each = [
            np.bincount(ndimage.label(numbers[box] == n, around)[0].ravel())[1:]
            for n, box in enumerate(boxes, 1)
        ]
        return np.array([len(sizes) for sizes in each]), _specks(np.concatenate(each))
    found, specks = np.zeros(len(names), np.int64), 0
    for part in np.array_split(numbers, min(len(numbers), -(-labels.size // _AT_ONCE))):
        those, small = _pieces_in(part, len(names))
        found, specks = np.maximum(found, those), max(specks, small)
    return found, specks


def _specks(sizes: NDArray[Any]) -> int:
    return int((sizes < SPECK).sum())


def _pieces_in(numbers: NDArray[Any], count: int) -> tuple[NDArray[np.int64], int]:
    """The same at once for all numbers from 1 to ``count``: pixels are nodes, alike ones joined."""
    places = np.arange(numbers.size, dtype=np.int32).reshape(numbers.shape)
    ends = []
    for step in product((-1, 0, 1), repeat=numbers.ndim):
        if step > (0,) * numbers.ndim:  # the others are these backwards
            sides = list(zip(step, numbers.shape, strict=True))
            here = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in sides)
            there = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in sides)
            alike = numbers[here] == numbers[there]
            ends.append(np.stack([places[here][alike], places[there][alike]]))
    rows, columns = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), (numbers.size,) * 2)
    piece = connected_components(graph, directed=False)[1]
    _, first, sizes = np.unique(piece, return_index=True, return_counts=True)
    whose = numbers.ravel()[first]
    return np.bincount(whose, minlength=count + 1)[1:], _specks(sizes[whose > 0])


def touching_pairs(labels: NDArray[Any]) -> NDArray[Any]:
    """Pairs ``[P, 2]`` of different numbers, not 0, that are direct neighbours."""
    found = []
    for axis in range(labels.ndim):
        one = np.take(labels, range(labels.shape[axis] - 1), axis)
        other = np.take(labels, range(1, labels.shape[axis]), axis)
        met = (one != other) & (one != 0) & (other != 0)
        found.append(np.sort(np.stack([one[met], other[met]], axis=1), axis=1))
    pairs = np.concatenate(found).astype(np.int64)
    both = np.unique(pairs[:, 0] << 32 | pairs[:, 1])  # numbers have 31 bits
    return np.stack([both >> 32, both & 0xFFFFFFFF], axis=1)
