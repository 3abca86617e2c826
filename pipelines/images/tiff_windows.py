"""Windows of TIFF files: only the rows, tiles or strips that they hit are read."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, UnreadableError
from overtile.pipelines.images.block_cache import BlockCache, no_level, spans_of, squeezed
from overtile.pipelines.images.formats import (
    SKIP,
    Index,
    Stored,
    check_companions,
    check_pages,
    resolution_spacing,
    tiff_spacing,
    unreadable,
)

_WHITE_IS_ZERO, _PALETTE, _UNCOMPRESSED = 0, 3, 1  # of TIFF's tags
_JPEG = {6, 7, 34892, 33007}  # the compressions that keep tables apart


def open_tiff(path: Path, level: int, cache: BlockCache) -> Stored:
    """The first image of a TIFF file, at one level of its pyramid.

    Raises:
        DataError: if its pixels cannot be read in parts.
        ConfigurationError: if there is no such level.
    """
    check_pages(path)
    with ExitStack() as stack:
        tif = stack.enter_context(tifffile.TiffFile(path))
        check_companions(path, tif)
        stored = _open(path, tif, level, cache)
        stack.pop_all()  # it stays open for ``pixels``
    return stored


def _open(path: Path, tif: tifffile.TiffFile, level: int, cache: BlockCache) -> Stored:
    if not tif.series or not tif.series[0].levels:
        raise ValueError("it holds no pixels")
    levels = tif.series[0].levels
    if not 0 <= level < len(levels):
        raise no_level(path, level, [one.shape for one in levels])
    series, page = levels[level], levels[level].keyframe
    alike = [s for s in tif.series if s.shape == levels[0].shape and s.dtype == levels[0].dtype]
    if len(alike) == len(tif.series) > 1:
        raise DataError(
            f"{path}: {len(alike)} images in one file; expected one, or pages of one image: "
            "write them as a stack"
        )
    if page.photometric == _PALETTE:
        raise DataError(f"{path}: an indexed picture; expected grey values or colours: convert it")
    shape, dtype = tuple(int(n) for n in series.shape), np.dtype(series.dtype)
    spacing, tags = tiff_spacing(tif, levels[0].keyframe)
    spacing = dict(spacing or resolution_spacing(tags))
    for axis, step in spacing.items():  # pixels of a level are larger
        if axis in series.axes:
            place = series.axes.index(axis)
            spacing[axis] = step * levels[0].shape[place] / shape[place]
    lead = len(shape) - page.ndim
    read = _Pages(path, series, shape, lead, cache)
    inverted = page.photometric == _WHITE_IS_ZERO

    def pixels(index: Index) -> NDArray[Any]:
        spans = spans_of(index, shape)
        pages = [
            read(place, spans[lead:]) for place in product(*(range(a, b) for a, b in spans[:lead]))
        ]
        array = np.stack(pages).reshape([b - a for a, b in spans])
        if inverted:
            top = np.iinfo(dtype).max if dtype.kind in "iu" else 0
            array = ~array if dtype.kind == "b" else (top - array).astype(dtype)
        return squeezed(array, index)

    return Stored(series.axes, shape, dtype, pixels, None, spacing, tags, close=tif.close)


class _Pages:
    """Windows of a TIFF's pages: rows of uncompressed ones, else only the tiles or strips hit."""

    def __init__(
        self, path: Path, series: Any, shape: tuple[int, ...], lead: int, cache: BlockCache
    ) -> None:
        self.path, self.series, self.cache = path, series, cache
        self.lead = shape[:lead]
        self.page = page = series.keyframe
        self.file = page.parent.filehandle.fileno()
        self._lock = threading.Lock()  # pages are found by seeking
        samples, depth, length, width, colours = page.shaped
        if depth > 1 or samples > 1:
            raise DataError(
                f"{path}: a page of {page.shape} (axes {page.axes}); expected planes of grey "
                "values or interleaved colours: convert it"
            )
        self.row = (length, width, colours)
        stored = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        bits = page.bitspersample == stored.itemsize * 8
        self.raw = (
            stored
            if page.compression == _UNCOMPRESSED
            and bits
            and not page.is_tiled
            and page.predictor == 1
            else None
        )
        step = page.tilelength if page.is_tiled else page.rowsperstrip
        across = page.tilewidth if page.is_tiled else width
        self.block = (min(step, length), min(across, width))
        needed = int(np.prod(self.block)) * colours * stored.itemsize
        if self.raw is None and needed > cache.limit:
            kind = "tiles" if page.is_tiled else "strips"
            raise DataError(
                f"{path}: compressed in {kind} of {self.block[0]}x{self.block[1]} pixels, "
                f"{needed / 2**20:.0f} MiB each, which have to be unpacked whole; only "
                f"{cache.limit / 2**20:.0f} MiB are free for that: save it with smaller tiles, or "
                "allow more --memory"
            )

    def __call__(self, place: tuple[int, ...], spans: Sequence[tuple[int, int]]) -> NDArray[Any]:
        rows, columns, *colours = spans
        number = int(np.ravel_multi_index(place, self.lead)) if self.lead else 0
        array = (
            self._raw(number, rows, columns) if self.raw else self._decoded(number, rows, columns)
        )
        if not colours:
            return array[..., 0]
        return array[..., slice(*colours[0])]

    def _pread(self, offset: int, size: int, what: str) -> bytes:
        try:
            data = os.pread(self.file, size, offset)
        except OSError as error:  # of a disk that fails; it names no file
            raise unreadable(f"{self.path}, {what}", error) from error
        if len(data) < size:
            found = f"the file ends within {what}"
            raise UnreadableError(self.path, found, f"{size} bytes at {offset}", SKIP)
        return data

    def _find(self, number: int) -> Any:
        with self._lock:
            page = self.series.pages[number]
        if page is None:
            raise UnreadableError(self.path, f"page {number} is missing", hint=SKIP)
        return page

    def _raw(self, number: int, rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[Any]:
        length, width, colours = self.row
        assert self.raw is not None
        pixel = self.raw.itemsize * colours
        strip = self.page.rowsperstrip
        if self.series.dataoffset is not None:  # all pages one after the other
            start = self.series.dataoffset + number * length * width * pixel
            offsets = [start + row * width * pixel for row in range(*rows)]
        else:
            starts = self._find(number).dataoffsets
            offsets = [starts[r // strip] + r % strip * width * pixel for r in range(*rows)]
        first, size = columns[0] * pixel, (columns[1] - columns[0]) * pixel
        data = b"".join(
            self._pread(offset + first, size, f"row {row} of page {number}")
            for row, offset in zip(range(*rows), offsets, strict=True)
        )
        array = np.frombuffer(data, self.raw).reshape(len(offsets), -1, colours)
        return array.astype(self.raw.newbyteorder("="), copy=False)

    def _decoded(
        self, number: int, rows: tuple[int, int], columns: tuple[int, int]
    ) -> NDArray[Any]:
        _, width, colours = self.row
        high, wide = self.block
        page, across = self._find(number), -(-width // wide)
        shape = (rows[1] - rows[0], columns[1] - columns[0], colours)
        array = np.zeros(shape, self.page.dtype)
        for down, right in product(
            range(rows[0] // high, -(-rows[1] // high)),
            range(columns[0] // wide, -(-columns[1] // wide)),
        ):
            segment = down * across + right
            block = self.cache.get((number, segment), partial(self._segment, page, segment))
            top, left = down * high, right * wide
            low = max(rows[0], top), max(columns[0], left)
            end = min(rows[1], top + block.shape[0]), min(columns[1], left + block.shape[1])
            array[
                low[0] - rows[0] : end[0] - rows[0], low[1] - columns[0] : end[1] - columns[0]
            ] = block[low[0] - top : end[0] - top, low[1] - left : end[1] - left]
        return array

    def _segment(self, page: Any, segment: int) -> NDArray[Any]:
        what = f"{'tile' if self.page.is_tiled else 'strip'} {segment} of page {page.index}"
        size = page.databytecounts[segment]
        if not size:  # a sparse TIFF leaves empty tiles out
            return np.full((*self.block, self.row[2]), self.page.nodata, self.page.dtype)
        data = self._pread(page.dataoffsets[segment], size, what)
        tables = {}
        if self.page.compression in _JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": self.page.jpegheader}
        try:
            decoded = self.page.decode(data, segment, _fullsize=False, **tables)[0]
        except Exception as error:  # decoders raise whatever their formats suggest
            raise unreadable(f"{self.path}, {what}", error) from error
        block: NDArray[Any] = decoded[0]
        return block
