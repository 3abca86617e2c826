"""TIFF, with the metadata of OME and ImageJ: pages, pyramids, and tiled files of any size."""

from __future__ import annotations

import math
import os
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, UnreadableError, size_text
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.stored import (
    SKIP,
    Format,
    Index,
    Progress,
    Spacing,
    Stored,
    check_claim,
    lossy_label,
    no_level,
    series_of,
    spans_of,
    squeezed,
    stamp,
    too_large,
    unreadable,
    upright,
)

if TYPE_CHECKING:
    from tifffile import TiffFile

_WHITE_IS_ZERO, _UNCOMPRESSED, _COMPLEX, _ORIENTATION = 0, 1, 5, 274  # of TIFF's tags
_PHOTOGRAPHS = {2, 6}  # RGB and YCbCr
_OPACITY = {1, 2}  # of TIFF's extra samples, multiplied into the others or not
_JPEG = {6, 7, 34892, 33007}  # the compressions that keep tables apart
_LOSSY = {6, 7}  # of these
_DENSEST = {1: 16, 5: 4096, 8: 1100, 32773: 128, 32946: 1100}
"""How many times smaller a compression can make pixels; if none, what a file may be cut short."""
_SLIDES = {"svs", "ndpi", "scn", "bif", "philips", "qpi"}  # of which the first image is the slide
_UNITS = {
    **{"Å": 1e-4, "nm": 1e-3, "nanometer": 1e-3, "mm": 1e3, "millimeter": 1e3, "cm": 1e4},
    **dict.fromkeys(("µm", "um", "μm", "micron", "microns", "micrometer"), 1.0),
    **{"m": 1e6, "meter": 1e6, "inch": 25400.0, "in": 25400.0},
}
"""Micrometres of what OME's and ImageJ's metadata call their units."""
_UNCLEAR = "cannot be understood: no pixel size"
_PIECE = 2**26  # bytes that are read at a time
_Box = Sequence[tuple[int, int]]
_MICROMETRES = {2: 25400.0, 3: 10000.0}  # of TIFF's units: inch and centimetre
_BYTE_ORDERS = {b"II*\0": "<", b"II+\0": "<", b"MM\0*": ">", b"MM\0+": ">"}
_OME = (".ome.tif", ".ome.tiff")
_PLAIN: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib"}
_LARGE = 2**31  # bytes of pixels, from which on offsets of four bytes may not reach


class Tiff(Format):
    """TIFF and BigTIFF."""

    name = "TIFF"
    suffixes = (
        *(*_OME, ".tif", ".tiff", ".tf2", ".tf8", ".btf"),
        *(".stk", ".lsm", ".svs", ".ndpi", ".scn", ".bif", ".qptiff"),  # of microscopes' makers
    )
    written = ("tif", "ome.tif")
    targets = (".ome.tif", ".tif", ".tiff")

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """By the first bytes."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) in _BYTE_ORDERS

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it; several images of one size are pages."""
        image = _image_once(path, stamp(path), labels)

        def pixels(index: Index) -> NDArray[Any]:
            with image.path.open("rb") as file:
                return image.read(file.fileno(), index, BlockCache(0))

        return image.stored(pixels)

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """As the base class has it: the rows, tiles or strips that a window hits are read."""
        image = _image(path, level)
        for part in image.parts:
            part.check_blocks(cache.limit)
        file = image.path.open("rb")  # it stays open for ``pixels``
        return image.stored(lambda index: image.read(file.fileno(), index, cache), file.close)

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
        if len(axes) == array.ndim:  # a page of a TIFF is rows and columns
            order = sorted(range(array.ndim), key=lambda i: "YX".find(axes[i]))
            array, axes = array.transpose(order), "".join(axes[i] for i in order)
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
        channels: Sequence[str] = (),
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
        named = {"Channel": {"Name": list(channels)}} if channels else {}
        tifffile.imwrite(
            path,
            progress(tiles(), count),
            shape=array.shape,
            dtype=array.dtype,
            tile=tile,
            bigtiff=array.nbytes > _LARGE,
            ome=True,
            metadata={"axes": axes, "UUID": str(own), **_ome_sizes(spacing), **named},
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


def _is_ndpi(path: Path) -> bool:
    """Whether its offsets have eight bytes, as Hamamatsu's have; the name alone does not say so."""
    if path.suffix.lower() != ".ndpi":
        return False
    with path.open("rb") as file:
        start = file.read(12)
    return start[:4] == b"II*\0" and int.from_bytes(start[4:], "little") < path.stat().st_size


def _check_pages(path: Path) -> None:
    """Refuse a TIFF file that breaks off before its last page: decoders leave such pages out.

    Raises:
        UnreadableError: naming the page.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = _BYTE_ORDERS.get(start[:4])
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


@lru_cache(maxsize=8)
def _image_once(path: Path, stamp: str, labels: bool) -> _Image:
    """So that each plane of a stack does not look for all pages anew."""
    return _image(path, labels=labels)


def _image(path: Path, level: int = 0, labels: bool = False) -> _Image:
    """The header of a file: its axes, and where its pixels lie.

    Raises:
        ConfigurationError: if there is no such level.
        DataError: if it holds no pixels, or several images that are not alike, or labels in JPEG.
    """
    import tifffile

    path, number = series_of(path)
    _check_pages(path)
    with tifffile.TiffFile(path, is_ndpi=_is_ndpi(path)) as tif:
        _check_companions(path, tif)
        series = _main_series(path, tif) if number is None else _named_series(path, tif, number)
        levels = series[0].levels
        if not 0 <= level < len(levels):
            raise no_level(path, level, [one.shape for one in levels])
        parts = [_Part(path, one.levels[level], i) for i, one in enumerate(series)]
        page = levels[0].keyframe
        if labels and page.compression in _LOSSY:
            raise lossy_label(path, "JPEG")
        spacing, tags, remarks = _spacing(tif, page, number or 0)
        names = _channel_names(tif.ome_metadata, number or 0)
        opacity = len(page.extrasamples) == 1 and int(page.extrasamples[0]) in _OPACITY
    one = parts[0]
    resolution = {} if spacing or remarks else _resolution_spacing(tags)
    for sizes in (spacing, resolution):
        for axis, step in sizes.items():  # pixels of a level are larger
            if axis in one.axes:
                place = one.axes.index(axis)
                sizes[axis] = step * levels[0].shape[place] / one.shape[place]
    # numbers of cells mean themselves, however they are to be shown
    inverted = page.photometric == _WHITE_IS_ZERO and (one.dtype.kind == "b" or not labels)
    tops = {"u": (1 << int(page.bitspersample)) - 1, "f": 0} if inverted else {}
    top = tops.get(one.dtype.kind)
    orientation = page.tags.valueof(_ORIENTATION, 1)
    told = spacing, resolution, tags, remarks
    return _Image(path, parts, inverted, top, *told, orientation, names, opacity)


def _main_series(path: Path, tif: TiffFile) -> list[Any]:
    """The series that make the image: one, or several that are alike, which are its pages.

    What shows a slide or its name, and photographs of data beside them, are left out.

    Raises:
        DataError: if several are left that are not alike.
    """
    found = [one for one in tif.series if 0 not in one.shape]
    if not found:  # of some broken files
        raise ValueError("it holds no pixels")
    if found[0].kind in _SLIDES:
        return found[:1]
    kept = [one for one in found if not one.keyframe.is_reduced] or found
    data = [one for one in kept if one.keyframe.photometric not in _PHOTOGRAPHS]
    lossy = all(one.keyframe.compression in _JPEG for one in kept if one not in data)
    if data and lossy:  # Olympus has one before its data
        kept = data
    if any((one.shape, one.dtype) != (kept[0].shape, kept[0].dtype) for one in kept):
        numbers = [i for i, one in enumerate(tif.series) if any(one is other for other in kept)]
        raise _several(path, tif, numbers, f"{len(kept)} images that are not alike")
    return kept


def _named_series(path: Path, tif: TiffFile, number: int) -> list[Any]:
    if number >= len(tif.series):
        raise _several(path, tif, range(len(tif.series)), f"no series {number}")
    return [tif.series[number]]


def _several(path: Path, tif: TiffFile, numbers: Sequence[int], found: str) -> DataError:
    """The error for a file of several images, of which none that is there was named."""
    told = [
        f"{path.name}/series{i} ({size_text(tif.series[i].shape)} {tif.series[i].dtype})"
        for i in numbers[:3]
    ]
    more = [f"{len(numbers) - 3} more"] if len(numbers) > 3 else []
    hint = ("name one of them", "split the file")
    return DataError(path, f"{found}: {', '.join([*told, *more])}", "one, or pages of one", hint)


@dataclass(frozen=True)
class _Image:
    """What a TIFF file holds, and how its pixels are meant.

    Attributes:
        path: of the file.
        parts: its only image, or several that are alike.
        inverted: whether 0 is white.
        top: the value that is black then; None takes the complement.
        spacing: micrometres a pixel by axis letter.
        resolution: as of `Stored`.
        tags: of its resolution.
        remarks: as of `Stored`.
        orientation: as of `upright`.
        channel_names: as of `Stored`.
        opacity: as of `Stored`.
    """

    path: Path
    parts: list[_Part]
    inverted: bool
    top: int | None
    spacing: dict[str, float]
    resolution: dict[str, float]
    tags: dict[str, Any]
    remarks: tuple[str, ...]
    orientation: int
    channel_names: tuple[str, ...]
    opacity: bool

    def stored(
        self, pixels: Callable[[Index], NDArray[Any]], close: Callable[[], None] = lambda: None
    ) -> Stored:
        """It, upright, with what reads its pixels by `read`."""
        one, many = self.parts[0], len(self.parts) > 1
        return upright(
            Stored(
                f"Q{one.axes}" if many else one.axes,
                (len(self.parts), *one.shape) if many else one.shape,
                one.dtype,
                pixels,
                spacing=self.spacing,
                resolution=self.resolution,
                tags=self.tags,
                remarks=self.remarks,
                close=close,
                channel_names=self.channel_names,
                opacity=self.opacity,
            ),
            self.orientation,
        )

    def read(self, file: int, index: Index, cache: BlockCache) -> NDArray[Any]:
        """What an index of all axes selects, from the open file of that number."""
        many = len(self.parts) > 1
        place, rest = (index[0], index[1:]) if many else (0, index)
        (first, last), *spans = spans_of((place, *rest), (len(self.parts), *self.parts[0].shape))
        found = [part.window(file, spans, cache) for part in self.parts[first:last]]
        array = np.stack(found) if len(found) > 1 else found[0][None]
        if self.inverted:
            array = ~array if self.top is None else (self.top - array).astype(array.dtype)
        return squeezed(array, (place, *rest))


class _Part:
    """An image of a TIFF file: where its pixels lie, and windows of them.

    Rows of uncompressed ones are read, else only the tiles or strips that a window hits.
    """

    def __init__(self, path: Path, series: Any, number: int) -> None:
        self.path, self.number, self.axes = path, number, series.axes
        self.shape = tuple(int(n) for n in series.shape)
        self.dtype = np.dtype(series.dtype)
        self.transform = series.transform
        self.page = page = series.keyframe
        self.lead = self.shape[: len(self.shape) - page.ndim]
        # samples apart, depth, rows, columns, samples side by side; a page leaves ones out
        self.kept = [i for i, n in enumerate(page.shaped) if n > 1 or i in (2, 3)]
        if self.lead + tuple(page.shaped[i] for i in self.kept) != self.shape:
            told = f"{size_text(self.shape)} pixels in pages of {size_text(page.shape)}"
            raise UnreadableError(path, told, "pages of its size", SKIP)
        pages = [_Page.of(one) for one in series.pages]
        count = int(np.prod(self.lead, dtype=int))
        self.stored = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        self.size = int(np.prod(page.shaped, dtype=object)) * self.stored.itemsize
        plain = (
            page.compression == _UNCOMPRESSED
            and page.fillorder == page.predictor == 1
            and page.bitspersample == self.stored.itemsize * 8
            and page.sampleformat != _COMPLEX
            and not page.is_subsampled
        )
        base = series.dataoffset if plain else None
        if base is not None:  # all pages one after the other
            pages = [_Page([base + i * self.size], [self.size]) for i in range(count)]
        elif len(pages) < count:
            found = f"{len(pages)} pages"
            raise UnreadableError(path, found, f"{count}, as its metadata have it", SKIP)
        self.pages = pages
        self.contiguous = plain and (base is not None or page.is_contiguous)
        there = (0 not in one.counts for one in pages if one is not None)
        self.raw = self.contiguous or (plain and not page.is_tiled and all(there))
        samples, depth, length, width, colours = page.shaped
        if page.is_tiled:
            self.block = (page.tiledepth, page.tilelength, page.tilewidth)
        else:
            self.block = (1, min(page.rowsperstrip, length), width)
        self.counts = tuple(
            -(-n // m) for n, m in zip((depth, length, width), self.block, strict=True)
        )
        self.needed = int(np.prod(self.block, dtype=object)) * colours * self.stored.itemsize
        self._check(samples * int(np.prod(self.counts, dtype=object)), count)
        if not self.raw:
            page.decode  # noqa: B018 (made while the file is open)

    def _check(self, segments: int, count: int) -> None:
        """Refuse a header that claims more than there is.

        Raises:
            UnreadableError: with the numbers.
        """
        for number, page in enumerate(self.pages):
            if page is not None and not self.contiguous and len(page.offsets) < segments:
                found = f"page {number} has {len(page.offsets)} of {segments} {self.kind}s"
                raise UnreadableError(self.path, found, "all of them", SKIP)
            if page is not None and not page.offsets:
                raise UnreadableError(self.path, f"page {number} has no pixels", hint=SKIP)
        sparse = any(0 in page.counts for page in self.pages if page is not None)
        factor = _DENSEST.get(self.page.compression)
        if factor is not None and not sparse:
            packed = self.page.bitspersample / 8 / self.stored.itemsize
            check_claim(self.path, int(count * self.size * packed), factor)

    @property
    def kind(self) -> str:
        """What the pixels of a page are stored in."""
        return "tile" if self.page.is_tiled else "strip"

    def check_blocks(self, limit: int) -> None:
        """Refuse tiles or strips that have to be unpacked whole and are larger than memory.

        Raises:
            DataError: saying how large they are.
        """
        if not self.raw and self.needed > limit:
            sides = f"{self.kind}s of {size_text(self.block[1:])} pixels"
            raise too_large(
                self.path,
                f"compressed in {sides}, {self.needed / 2**20:.0f} MiB each, which have to be "
                "unpacked whole",
                limit,
                "save it with smaller tiles",
            )

    def window(
        self, file: int, spans: Sequence[tuple[int, int]], cache: BlockCache
    ) -> NDArray[Any]:
        """The pixels between start and stop of every axis."""
        lead = len(self.lead)
        box = [(0, n) for n in self.page.shaped]
        for i, span in zip(self.kept, spans[lead:], strict=True):
            box[i] = span
        read = self._raw if self.raw else self._decoded
        found = []
        for place in product(*(range(a, b) for a, b in spans[:lead])):
            number = int(np.ravel_multi_index(place, self.lead)) if lead else 0
            page = self.pages[number]
            if page is None:
                raise UnreadableError(self.path, f"page {number} is missing", hint=SKIP)
            found.append(read(file, number, page, box, cache))
        array = (np.stack(found) if len(found) > 1 else found[0]).reshape([b - a for a, b in spans])
        return array if self.transform is None else self.transform(array)

    def _pread(self, file: int, offset: int, size: int, what: str) -> bytes:
        try:
            data = os.pread(file, size, offset)
        except (OSError, ValueError, OverflowError) as error:  # which name no file
            raise unreadable(self.path, error, what) from error
        if len(data) < size:
            found = f"the file ends within {what}"
            raise UnreadableError(self.path, found, f"{size} bytes at {offset}", SKIP)
        return data

    def _raw(
        self, file: int, number: int, page: _Page, box: _Box, cache: BlockCache
    ) -> NDArray[Any]:
        samples, depths, rows, (left, right), (low, high) = box
        _, depth, length, width, colours = self.page.shaped
        pixel = self.stored.itemsize * colours
        strip = length if self.contiguous else self.block[1]

        def start(plane: int, row: int) -> int:
            segment = 0 if self.contiguous else plane * self.counts[1] + row // strip
            before = plane * length + row if self.contiguous else row % strip
            return page.offsets[segment] + int(before * width * pixel)

        # rows that are wanted whole lie one after the other, up to the end of their strip
        whole = (left, right) == (0, width)
        run = min(strip, max(1, _PIECE // (width * pixel))) if whole else 1
        array = np.empty([b - a for a, b in box], self.page.dtype)
        for s, d in product(range(*samples), range(*depths)):
            row = rows[0]
            while row < rows[1]:
                end = min(rows[1], (row // run + 1) * run)
                end = min(end, (row // strip + 1) * strip)
                offset = start(s * depth + d, row) + left * pixel
                what = f"row {row} of page {number}"
                data = self._pread(file, offset, (end - row) * (right - left) * pixel, what)
                part = np.frombuffer(data, self.stored).reshape(end - row, right - left, colours)
                place = s - samples[0], d - depths[0], slice(row - rows[0], end - rows[0])
                array[place] = part[..., low:high]
                row = end
        return array

    def _decoded(
        self, file: int, number: int, page: _Page, box: _Box, cache: BlockCache
    ) -> NDArray[Any]:
        array = np.zeros([b - a for a, b in box], self.page.dtype)
        sides = list(zip(box[1:4], self.block, strict=True))
        hit = (range(a // side, -(-b // side)) for (a, b), side in sides)
        for sample, *place in product(range(*box[0]), *hit):
            segment = sample
            for i, n in zip(place, self.counts, strict=True):
                segment = segment * n + i
            key = self.number, number, segment
            block = cache.get(key, partial(self._segment, file, number, page, segment))
            into: list[Any] = [sample - box[0][0]]
            out: list[Any] = []
            for i, ((a, b), side), n in zip(place, sides, block.shape, strict=False):
                low, high = max(a, i * side), min(b, (i + 1) * side)
                if high > i * side + n:
                    found = f"{self.kind} {segment} of page {number} is too small"
                    raise UnreadableError(self.path, found, size_text(self.block), SKIP)
                into.append(slice(low - a, high - a))
                out.append(slice(low - i * side, high - i * side))
            array[tuple(into)] = block[(*out, slice(*box[4]))]
        return array

    def _segment(self, file: int, number: int, page: _Page, segment: int) -> NDArray[Any]:
        what = f"{self.kind} {segment} of page {number}"
        size = page.counts[segment]
        if not size:  # a sparse TIFF leaves empty tiles out
            shape = (*self.block, self.page.shaped[4])
            return np.full(shape, self.page.nodata, self.page.dtype)
        data = self._pread(file, page.offsets[segment], size, what)
        try:
            decoded = self.page.decode(data, segment, _fullsize=False, **page.tables)[0]
        except Exception as error:  # decoders raise whatever their formats suggest
            raise unreadable(self.path, error, what) from error
        block: NDArray[Any] = decoded
        if self.dtype.kind == "b":  # faxes come in bytes
            block = block.astype(bool)
        if not np.can_cast(block.dtype, self.page.dtype):
            found = f"{what} decodes to {block.dtype}"
            raise UnreadableError(self.path, found, f"{self.page.dtype}, as its header says", SKIP)
        return block


@dataclass(frozen=True)
class _Page:
    """Where the tiles or strips of a page lie, how long they are, and their tables, if apart."""

    offsets: Sequence[int]
    counts: Sequence[int]
    tables: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, page: Any) -> _Page | None:
        """Of one of tifffile's; None for one that is missing."""
        if page is None:
            return None
        tables = {}
        if page.keyframe.compression in _JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.keyframe.jpegheader}
        return cls(page.dataoffsets, page.databytecounts, tables)


def _spacing(
    tif: TiffFile, page: Any, number: int
) -> tuple[dict[str, float], dict[str, Any], tuple[str, ...]]:
    """Micrometres a pixel of an image by axis letter, what tags say of resolution, remarks.

    Metadata that cannot be understood leave the size open.
    """
    tags = {
        name: page.tags[name].value
        for name in ("XResolution", "YResolution", "ResolutionUnit")
        if name in page.tags
    }
    told = tif.pages.first.description
    if "<OME" in told and tif.ome_metadata is None:  # which has no end
        return {}, tags, (f"its metadata of OME {_UNCLEAR}",)
    readers: dict[str, Callable[[], dict[str, float]]] = {
        "OME": lambda: _ome_spacing(tif.ome_metadata, number),
        "ImageJ": lambda: _imagej_spacing(tif, tags),
    }
    for kind, read in readers.items():
        try:
            sizes = read()
        except Exception:  # whatever stands in them
            return {}, tags, (f"its metadata of {kind} {_UNCLEAR}",)
        if any(not (math.isfinite(size) and size > 0) for size in sizes.values()):
            return {}, tags, (f"no pixel size: its metadata of {kind} say {_told(sizes)}",)
        if sizes:
            return sizes, tags, ()
    return {}, tags, ()


def _told(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{axis} {size:g} µm" for axis, size in sizes.items())


def _imagej_spacing(tif: TiffFile, tags: dict[str, Any]) -> dict[str, float]:
    told = tif.imagej_metadata or {}
    unit = _UNITS.get(str(told.get("unit", "")).replace("\\u00B5", "µ"))
    if unit is None:
        return {}
    sizes = {"Z": float(told["spacing"]) * unit} if "spacing" in told else {}
    for axis in "XY":
        if f"{axis}Resolution" in tags:
            many, per = tags[f"{axis}Resolution"]
            sizes[axis] = per / many * unit if many else math.inf
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


def _ome_spacing(xml: str | None, number: int) -> dict[str, float]:
    import tifffile

    if not xml:
        return {}
    image = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    sizes = (image[number] if isinstance(image, list) else image).get("Pixels", {})
    return {
        axis: float(sizes[f"PhysicalSize{axis}"])
        * _UNITS[sizes.get(f"PhysicalSize{axis}Unit", "µm")]
        for axis in "XYZ"
        if f"PhysicalSize{axis}" in sizes and sizes.get(f"PhysicalSize{axis}Unit", "µm") in _UNITS
    }


def _channel_names(xml: str | None, number: int) -> tuple[str, ...]:
    """What OME's metadata call the channels; none where they call them nothing."""
    import tifffile

    try:
        image = tifffile.xml2dict(xml or "").get("OME", {}).get("Image", {})
        told = (image[number] if isinstance(image, list) else image).get("Pixels", {})
        channels = told.get("Channel", [])
        channels = channels if isinstance(channels, list) else [channels]
        names = tuple(str(channel.get("Name", "")) for channel in channels)
    except Exception:  # whatever stands in them
        return ()
    return names if any(names) else ()
