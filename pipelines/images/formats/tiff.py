"""TIFF, with the metadata of OME and ImageJ: pages, pyramids, and tiled files of any size."""

from __future__ import annotations

import os
import struct
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, UnreadableError
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.stored import (
    SKIP,
    Format,
    Index,
    Progress,
    Spacing,
    Stored,
    no_level,
    spans_of,
    squeezed,
    too_large,
    unreadable,
)

if TYPE_CHECKING:
    from tifffile import TiffFile

_WHITE_IS_ZERO, _PALETTE, _UNCOMPRESSED = 0, 3, 1  # of TIFF's tags
_JPEG = {6, 7, 34892, 33007}  # the compressions that keep tables apart
_MICROMETRES = {2: 25400.0, 3: 10000.0}  # of TIFF's units: inch and centimetre
_OME = (".ome.tif", ".ome.tiff")
_PLAIN: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib"}
_LARGE = 2**31  # bytes of pixels, from which on offsets of four bytes may not reach


class Tiff(Format):
    """TIFF and BigTIFF."""

    name = "TIFF"
    suffixes = (*_OME, ".tif", ".tiff")
    further = (".svs", ".btf", ".tf8")
    written = ("tif", "ome.tif")
    targets = (".ome.tif", ".tif", ".tiff")

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it; several images of one size are pages."""
        return _open(path, labels)

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """As the base class has it: the rows, tiles or strips that a window hits are read."""
        import tifffile

        _check_pages(path)
        with ExitStack() as stack:
            tif = stack.enter_context(tifffile.TiffFile(path))
            _check_companions(path, tif)
            stored = _open_level(path, tif, level, cache)
            stack.pop_all()  # it stays open for ``pixels``
        return stored

    def write(
        self,
        path: Path,
        array: NDArray[Any],
        like: Stored | None = None,
        spacing: Spacing | None = None,
    ) -> None:
        """As the base class has it; a pixel size needs ``.ome.tif``."""
        import tifffile

        options = dict(_PLAIN)
        axes = "ZYX"[-array.ndim :] if like is None else _axes_of(like)
        sizes: Mapping[str, float] = {}
        if like is not None:
            sizes = like.spacing
            if {"XResolution", "YResolution"} <= like.tags.keys():
                options["resolution"] = (like.tags["XResolution"], like.tags["YResolution"])
                options["resolutionunit"] = like.tags.get("ResolutionUnit", 2)
        elif spacing is not None:
            sizes = dict(zip(axes, spacing[-array.ndim :], strict=True))
        if path.name.lower().endswith(_OME):
            options.update(ome=True, metadata={"axes": axes, **_ome_sizes(sizes)})
        tifffile.imwrite(path, array, **options)

    def result_suffix(self, like: Stored, ndim: int) -> str:
        """OME-TIFF where there is a pixel size and OME has the axes."""
        axes = _axes_of(like)
        ome = like.spacing and len(axes) == ndim and set(axes) <= set("TZYX")
        return ".ome.tif" if ome else ".tif"

    def label_suffix(self, name: str) -> str:
        """Its own, without OME's."""
        return ".tiff" if name.lower().endswith(".tiff") else ".tif"

    def write_target(
        self,
        path: Path,
        name: str,
        array: Any,
        axes: str,
        tile: tuple[int, int],
        spacing: Mapping[str, float],
        progress: Progress,
    ) -> None:
        """A tiled OME-TIFF, BigTIFF where it is large, one tile at a time."""
        import tifffile

        def tiles() -> Iterator[NDArray[Any]]:
            # sections one by one: a tile of a TIFF is flat
            *lead, rows, columns = array.shape
            for place in product(*map(range, lead)):
                for row, column in product(range(0, rows, tile[0]), range(0, columns, tile[1])):
                    part = np.asarray(
                        array[(*place, slice(row, row + tile[0]), slice(column, column + tile[1]))]
                    )
                    missing = [(0, t - n) for t, n in zip(tile, part.shape, strict=True)]
                    yield np.pad(part, missing)

        sides = zip(array.shape, (*(1 for _ in array.shape[:-2]), *tile), strict=True)
        count = int(np.prod([-(-n // side) for n, side in sides], dtype=int))
        # OME knows no axis without a meaning
        axes = "".join(a if a in "TZYX" else "C" for a in axes)
        # the file's identity follows from what is in it, so that it is the same when made again
        own = uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {array.shape} {array.dtype}")
        tifffile.imwrite(
            path,
            progress(tiles(), count),
            shape=array.shape,
            dtype=array.dtype,
            tile=tile,
            bigtiff=array.nbytes > _LARGE,
            ome=True,
            metadata={"axes": axes, "UUID": str(own), **_ome_sizes(spacing)},
            **_PLAIN,
        )


FORMAT = Tiff()


def _axes_of(like: Stored) -> str:
    """The axes of what is found in an image: without channels, and without those of one."""
    axes = zip(like.axes, like.shape, strict=True)
    return "".join(a for a, n in axes if a not in "CS" and (n > 1 or a in "YX"))


def _ome_sizes(spacing: Mapping[str, float]) -> dict[str, Any]:
    """What OME's metadata say of the size of a pixel in micrometres."""
    sizes = {f"PhysicalSize{axis}": size for axis, size in spacing.items()}
    return {**sizes, **{f"PhysicalSize{axis}Unit": "µm" for axis in spacing}}


def _check_pages(path: Path) -> None:
    """Refuse a TIFF file that breaks off before its last page: decoders leave such pages out.

    Raises:
        UnreadableError: naming the page.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II*\0": "<", b"II+\0": "<", b"MM\0*": ">", b"MM\0+": ">"}.get(start[:4])
        if order is None or len(start) < 16:
            return  # no TIFF: its decoder says what is wrong
        big = b"+" in start[:4]
        count, entry, link = (
            (f"{order}Q", 20, f"{order}Q") if big else (f"{order}H", 12, f"{order}I")
        )
        (place,) = struct.unpack_from(link, start, 8 if big else 4)
        seen: set[int] = set()
        while place and place not in seen:
            seen.add(place)
            file.seek(place)
            head = file.read(struct.calcsize(count))
            end = place + len(head) + entry * (struct.unpack(count, head)[0] if head else 0)
            if place >= size or end + struct.calcsize(link) > size:
                found = f"the file ends before page {len(seen) - 1}"
                raise UnreadableError(path, found, "all of its pages", SKIP)
            file.seek(end)
            (place,) = struct.unpack(link, file.read(struct.calcsize(link)))


def _check_companions(path: Path, tif: TiffFile) -> None:
    """Refuse an OME-TIFF with planes in other files, before ``tif.series`` looks for them.

    tifffile opens whatever path such a file names, and takes zeros for what is not there.

    Raises:
        UnreadableError: naming the first of them.
    """
    xml = tif.ome_metadata or ""
    try:
        root = ElementTree.fromstring(xml) if "FileName" in xml else None
    except ElementTree.ParseError:
        return  # tifffile takes the pages as they are
    for element in root.iter() if root is not None else ():
        name = element.get("FileName") if element.tag.endswith("UUID") else None
        own = root.get("UUID") if root is not None else None
        # a file knows itself by what it is called in its head, or by its name without that
        if name and not (element.text == own if own else name.lower() == path.name.lower()):
            raise UnreadableError(
                path,
                f"planes of it are in {' '.join(name.split())[:100]!r}",
                "all of them in one file",
                ("write it so", SKIP),
            )


def _open(path: Path, labels: bool) -> Stored:
    import tifffile

    _check_pages(path)
    with tifffile.TiffFile(path) as tif:
        _check_companions(path, tif)
        if not tif.series or not np.prod(tif.series[0].shape):  # of some broken files
            raise ValueError("it holds no pixels")
        series, page = tif.series[0], tif.series[0].keyframe
        count = len(tif.series)
        if any((s.shape, s.dtype) != (series.shape, series.dtype) for s in tif.series):
            sizes = " and ".join("x".join(map(str, s.shape)) for s in tif.series[:3])
            found = f"{count} images of different sizes ({sizes})"
            raise DataError(path, found, "one, or pages of one size", "split the file")
        axes, shape, dtype = series.axes, tuple(series.shape), np.dtype(series.dtype)
        colours = page.colormap if page.photometric == _PALETTE and not labels else None
        # numbers of cells mean themselves, however they are to be shown
        inverted = page.photometric == _WHITE_IS_ZERO and (dtype.kind == "b" or not labels)
        spacing, tags = _spacing(tif, page)

    def stored(index: Index) -> NDArray[Any]:
        number, index = (index[0], index[1:]) if count > 1 else (0, index)
        with tifffile.TiffFile(path) as tif:
            if isinstance(number, slice):
                return np.stack([s.asarray() for s in tif.series[number]])[:, *index]
            series = tif.series[number]
            lead = series.shape[: len(series.shape) - series.keyframe.ndim]
            place, rest = index[: len(lead)], index[len(lead) :]
            if len(series.pages) == np.prod(lead) and not any(isinstance(i, slice) for i in place):
                number = int(np.ravel_multi_index(place, lead)) if lead else 0
                page = series.pages[number]
                assert page is not None
                array: NDArray[Any] = page.asarray()
                return array[rest]
            whole: NDArray[Any] = series.asarray()
            return whole[index]

    def pixels(index: Index) -> NDArray[Any]:
        array = stored(index if colours is None else index[:-1])
        if inverted:
            top = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 0
            array = ~array if array.dtype == bool else (top - array).astype(array.dtype)
        return array if colours is None else colours.T[array][..., index[-1]]

    if count > 1:
        axes, shape = f"Q{axes}", (count, *shape)
    if colours is not None:
        axes, shape, dtype = f"{axes}S", (*shape, 3), colours.dtype
    return Stored(axes, shape, dtype, pixels, spacing=spacing, tags=tags)


def _spacing(tif: TiffFile, page: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Micrometres a pixel of the first image by axis letter, and what tags say of resolution."""
    tags = {
        name: page.tags[name].value
        for name in ("XResolution", "YResolution", "ResolutionUnit")
        if name in page.tags
    }
    return _ome_spacing(tif.ome_metadata) or _imagej_spacing(tif, tags), tags


def _imagej_spacing(tif: TiffFile, tags: dict[str, Any]) -> dict[str, float]:
    told = tif.imagej_metadata or {}
    if str(told.get("unit", "")).lower() not in ("micron", "um", "µm", "\\u00b5m"):
        return {}
    sizes = {"Z": float(told["spacing"])} if "spacing" in told else {}
    for axis in "XY":
        if f"{axis}Resolution" in tags:
            many, per = tags[f"{axis}Resolution"]
            sizes[axis] = per / many
    return sizes


def _resolution_spacing(tags: Mapping[str, Any]) -> dict[str, float]:
    """Micrometres a pixel by the ``tags`` of a `Stored` TIFF.

    None where a pixel would be 10 um or more: that is a printer's resolution (72 to 2400 dots an
    inch), which programs write that know no size.
    """
    unit = _MICROMETRES.get(tags.get("ResolutionUnit", 0))
    if unit is None or not {"XResolution", "YResolution"} <= tags.keys():
        return {}
    many = {axis: tags[f"{axis}Resolution"] for axis in "XY"}
    sizes = {axis: unit * b / a for axis, (a, b) in many.items() if a}
    return sizes if len(sizes) == 2 and all(0 < size < 10 for size in sizes.values()) else {}


def _ome_spacing(xml: str | None) -> dict[str, float]:
    import tifffile

    if not xml:
        return {}
    image = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    sizes = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    units = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3}
    return {
        axis: float(sizes[f"PhysicalSize{axis}"])
        * units[sizes.get(f"PhysicalSize{axis}Unit", "µm")]
        for axis in "XYZ"
        if f"PhysicalSize{axis}" in sizes and sizes.get(f"PhysicalSize{axis}Unit", "µm") in units
    }


def _open_level(path: Path, tif: TiffFile, level: int, cache: BlockCache) -> Stored:
    if not tif.series or not tif.series[0].levels:
        raise ValueError("it holds no pixels")
    levels = tif.series[0].levels
    if not 0 <= level < len(levels):
        raise no_level(path, level, [one.shape for one in levels])
    series, page = levels[level], levels[level].keyframe
    alike = [s for s in tif.series if s.shape == levels[0].shape and s.dtype == levels[0].dtype]
    if len(alike) == len(tif.series) > 1:
        found = f"{len(alike)} images in one file"
        raise DataError(path, found, "one, or pages of one image", "write them as a stack")
    if page.photometric == _PALETTE:
        raise DataError(path, "an indexed picture", "grey values or colours", "convert it")
    shape, dtype = tuple(int(n) for n in series.shape), np.dtype(series.dtype)
    spacing, tags = _spacing(tif, levels[0].keyframe)
    spacing = dict(spacing or _resolution_spacing(tags))
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
                path,
                f"a page of {page.shape} (axes {page.axes})",
                "planes of grey values or interleaved colours",
                "convert it",
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
            sides = f"{kind} of {self.block[0]}x{self.block[1]} pixels"
            raise too_large(
                path,
                f"compressed in {sides}, {needed / 2**20:.0f} MiB each, which have to be "
                "unpacked whole",
                cache.limit,
                "save it with smaller tiles",
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
            raise unreadable(self.path, error, what) from error
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
            raise unreadable(self.path, error, what) from error
        block: NDArray[Any] = decoded[0]
        return block
