"""An image as it lies on disk, and what every format does with its files."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import ConfigurationError, DataError, Setting, UnreadableError
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.case_name import channel_files, description_of

Index = tuple[Any, ...]
Spacing = tuple[float, float, float]
Progress = Callable[[Iterable[Any], int], Iterator[Any]]
"""Goes around so many steps, to show how far they are."""
SKIP = Setting("skip_unreadable", True, "to go on without it")
"""What helps where one file of many is broken."""
_SERIES = "series"
_BLOCKS, _BLOCK = 64, 4096  # of `sampled`: how many, and their bytes
ORIGIN = (12.0, -7.0, 30.0)
"""Centre of the first voxel (x, y, z) in DICOM's axes, of new files that know a position."""


@dataclass(frozen=True)
class Stored:
    """An image as it lies on disk.

    Attributes:
        axes: a letter an axis, as in OME: X, Y, Z in space, C or S channels, T time, other
            letters for pages of no stated meaning.
        shape: as long as ``axes``.
        dtype: of the pixels.
        pixels: decodes what an index over all axes selects.
        affine: voxel index to millimetres (right, anterior, superior), where the format has one.
        spacing: micrometres a pixel by axis letter, where an OME file says so.
        resolution: likewise, where a TIFF says so in its tags alone.
        tags: what a TIFF says of its resolution, to be written back; units of a NIfTI file.
        block: bytes that any pixel needs to have decoded, where that is told.
        remarks: what a user should know of the file, a line each.
        close: closes what is kept open between calls of ``pixels``.
        format: that it was opened by.
        channel_names: of its channels, in their order; empty where the file does not say.
        opacity: whether the last channel is said to be none, but how opaque the pixels are.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pixels: Callable[[Index], NDArray[Any]] = field(repr=False)
    affine: NDArray[np.float64] | None = None
    spacing: dict[str, float] = field(default_factory=dict)
    resolution: dict[str, float] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    block: int = 0
    remarks: tuple[str, ...] = ()
    close: Callable[[], None] = field(default=lambda: None, repr=False)
    format: Format | None = field(default=None, repr=False)
    channel_names: tuple[str, ...] = ()
    opacity: bool = False

    def spacing_um(self, axes: str) -> dict[str, float]:
        """Micrometres a pixel along some of the axes, by letter, where the file says so."""
        if self.affine is None:
            told = self.spacing or self.resolution
            return {a: s for a, s in told.items() if a in axes}
        steps = np.linalg.norm(self.affine[:3, :3], axis=0) * self.tags.get("micrometres", 1e3)
        return {a: float(s) for a, s in zip(self.axes, steps, strict=False) if a in axes}


class Format:
    """How the files of one format are recognised, opened, read in windows and written.

    Every module of `overtile.pipelines.images.formats` has one, under the name ``FORMAT``: a new
    format is a new module there. What a format cannot do is left as it is here. Modules load the
    library that they need when they need it.

    Attributes:
        name: for people.
        suffixes: of files (or folders) that are looked for in folders, in lower case.
        folders: whether an image is a folder.
        in_space: whether its volumes have a place in space.
        first: whether it is asked before any other, whatever the name ends with.
        last: whether it is asked after all others, since it recognises by what is inside.
        written: names under which images can be made.
        dtypes: that they can be made from.
        dims: how many axes they may have.
        targets: suffixes under which `write_target` writes images larger than memory.
    """

    name: ClassVar[str] = ""
    suffixes: ClassVar[tuple[str, ...]] = ()
    folders: ClassVar[bool] = False
    in_space: ClassVar[bool] = False
    first: ClassVar[bool] = False
    last: ClassVar[bool] = False
    written: ClassVar[tuple[str, ...]] = ()
    dtypes: ClassVar[str] = "u1 i1 u2 i2 u4 i4 f4 f8"
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    targets: ClassVar[tuple[str, ...]] = ()

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """Whether a file or folder, whose name says nothing, is of this format by its content."""
        return False

    def open(self, path: Path, labels: bool = False) -> Stored:
        """Axes and size from the header, pixels on demand.

        Args:
            path: file or folder.
            labels: numbers of cells are wanted, not colours that stand for them.
        """
        raise NotImplementedError

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """The same, of an image that may be larger than memory: any part without the rest.

        Here it is decoded whole and kept, if it fits into ``cache``.

        Args:
            path: file or folder.
            level: of a pyramid, 0 is full resolution.
            cache: for decoded blocks.

        Raises:
            ConfigurationError: if there is no such level.
            DataError: if it has to be decoded in pieces that ``cache`` cannot keep.
        """
        told = self.open(path)
        if level:
            raise no_level(path, level, [told.shape])
        needed = int(np.prod(told.shape)) * told.dtype.itemsize
        if needed > cache.limit:
            raise too_large(
                path,
                f"{needed / 2**20:.0f} MiB that have to be decoded at once",
                cache.limit,
                "convert it to a tiled TIFF or OME-Zarr",
            )
        everything = (slice(None),) * len(told.shape)

        def pixels(index: Index) -> NDArray[Any]:
            whole: NDArray[Any] = cache.get("whole", partial(told.pixels, everything))
            part: NDArray[Any] = whole[index]
            return part

        return replace(told, pixels=pixels)

    def unpacked(self, path: Path, folder: Path) -> Path:
        """The file to read windows of: itself, or what it is unpacked to in ``folder``."""
        return path

    def write(
        self,
        path: Path,
        array: NDArray[Any],
        like: Stored | None = None,
        spacing: Spacing | None = None,
    ) -> None:
        """Write an image.

        Args:
            path: with a suffix of this format; `whole` is the caller's.
            array: with the axes of ``like``, else ``[Y, X]`` or ``[Z, Y, X]``.
            like: the image whose place, axes and pixel size it gets.
            spacing: without ``like``: of slices, rows and columns, in millimetres, in OME's
                formats in micrometres.
        """
        raise NotImplementedError

    def result_suffix(self, like: Stored, ndim: int) -> str:
        """Of what is found in an image of this format; empty for the choice of `write_like`."""
        return ""

    def label_suffix(self, name: str) -> str:
        """Of the labels of an image of this name; that of a lossless format."""
        return ".tif"

    def holds(self, array: NDArray[Any]) -> bool:
        """Whether it can store these labels."""
        return True

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
        """Write an image that is larger than memory.

        Args:
            path: of the file.
            name: of the target, which goes into its identity where the format has one.
            array: Zarr array to write.
            axes: of it, a letter each.
            tile: rows and columns that are read at a time.
            spacing: micrometres a pixel by axis letter.
            progress: goes around the tiles.
            channels: names along an axis C.
        """
        raise NotImplementedError


def unreadable(path: Path | str, error: Exception, part: str = "") -> UnreadableError:
    """The error for a file, or a part of it, that its decoder gave up on."""
    # decoders name the file too, and in full
    told = " ".join(str(error).replace(str(path), Path(path).name).split()) or type(error).__name__
    expected = "an intact image file"
    if isinstance(error, PermissionError):
        told, expected = str(error.strerror), "the right to read it, as by chmod"
    elif isinstance(error, (TypeError, AttributeError, NameError, ArithmeticError, LookupError)):
        # Python's words are about the decoder's own code
        told = "its header is not whole, or contradicts itself"
    return UnreadableError(path, f"{part} cannot be read ({told})".strip(), expected, SKIP)


def lossy_label(path: Path, kind: str) -> DataError:
    """The error for a label in a format that changes numbers."""
    found = f"a label in {kind}, which changes numbers"
    return DataError(path, found, "PNG or TIFF", "save it anew")


def no_file(path: Path | str, error: OSError, hint: Setting | tuple[()] = ()) -> UnreadableError:
    """The error for a path that leads nowhere."""
    if error.errno == errno.ELOOP:
        return UnreadableError(path, "a link that leads in a circle", hint=hint)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UnreadableError(path, "no such file or folder", hint=hint)
    return UnreadableError(path, f"cannot be read ({error.strerror})", hint=hint)


def no_level(path: Path, level: int, shapes: Sequence[Sequence[int]]) -> ConfigurationError:
    """The error for a level that a pyramid of these sizes does not have."""
    sizes = ", ".join(f"{i}: {'x'.join(map(str, s))}" for i, s in enumerate(shapes))
    return ConfigurationError(path, f"no level {level}; it has {sizes}", hint="give one of these")


def too_large(path: Path, what: str, limit: int, cure: str) -> DataError:
    """The error for a file that has to be decoded in larger pieces than memory allows."""
    free = f"only {limit / 2**20:.0f} MiB are free for that"
    return DataError(
        path, f"{what}; {free}", hint=(cure, Setting("memory", "SIZE", "to allow more"))
    )


def series_of(path: Path) -> tuple[Path, int | None]:
    """The file or folder, and which of the images in it: ``a.tif/series1`` is its second.

    A folder of that very name is meant itself.
    """
    name = path.name.removeprefix(_SERIES)
    if name != path.name and name.isdecimal() and path.parent.exists() and not path.exists():
        return path.parent, int(name)
    return path, None


def files_of(path: Path) -> list[Path]:
    """The files that one image is made of."""
    if files := channel_files(path):
        return [part for file in files for part in files_of(file)]
    path, _ = series_of(path)
    if path.is_dir():
        inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        return sorted(file for file in inside if file.is_file())
    header = path.with_suffix(".hdr")  # of a pair, as Analyze and NIfTI have them
    return [path, header] if path.suffix == ".img" and header.is_file() else [path]


def stamp(path: Path) -> str:
    """Changes when the files of an image are written again: names, sizes and times of change.

    So it does with what says how channels in files of their own are called.

    Raises:
        UnreadableError: for a link that leads nowhere, or in a circle.
    """
    files = files_of(path)
    if channel_files(path) and (description := description_of(path)):
        files = [*files, description]
    try:
        stats = [(str(f), f.stat()) for f in files]
    except OSError as error:
        raise no_file(path, error, SKIP) from error
    # the time of the last change of a file cannot be set back, that of its content can
    text = repr([(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats])
    return hashlib.sha256(text.encode()).hexdigest()


def sampled(files: Sequence[tuple[Path, int]]) -> str:
    """Changes with blocks of bytes that lie evenly in all files together.

    A writer may leave sizes and times as they were: through a memory map, or by setting them back.

    Args:
        files: with their sizes.

    Raises:
        OSError: if one cannot be opened.
    """
    state = hashlib.sha256()
    ends = np.cumsum([size for _, size in files], dtype=np.int64)
    total = int(ends[-1]) if files else 0
    places = np.linspace(0, max(0, total - _BLOCK), _BLOCKS).astype(np.int64)
    of_file = np.searchsorted(ends, places, side="right")
    for number in np.unique(of_file) if total else ():
        path, size = files[number]
        with path.open("rb", buffering=0) as file:
            for place in places[of_file == number] - (ends[number] - size):
                with suppress(OSError):  # of a disk that fails: who needs it will say so
                    state.update(os.pread(file.fileno(), _BLOCK, int(place)))
    return state.hexdigest()


def spans_of(index: Sequence[Any], shape: Sequence[int]) -> list[tuple[int, int]]:
    """Start and stop along each axis of an index of slices and numbers."""
    spans = [
        i.indices(n)[:2] if isinstance(i, slice) else (int(i), int(i) + 1)
        for i, n in zip(index, shape, strict=True)
    ]
    return [(a, b) for a, b in spans]


def squeezed(array: NDArray[Any], index: Sequence[Any]) -> NDArray[Any]:
    """Without the axes that the index gave a number for."""
    result: NDArray[Any] = array[tuple(slice(None) if isinstance(i, slice) else 0 for i in index)]
    return result


def upright(stored: Stored, orientation: int) -> Stored:
    """An image as it is to be shown, with what was done among its remarks.

    Args:
        stored: with axes Y and X.
        orientation: what EXIF and TIFF call so: 1 is upright, 2 to 8 are mirrored or turned.
    """
    if orientation not in range(2, 9):
        return stored
    y, x = stored.axes.index("Y"), stored.axes.index("X")
    swapped = orientation >= 5  # rows are columns
    mirrored = ((y, (3, 4, 7, 8)), (x, (2, 3, 6, 7)))
    flipped = tuple(axis for axis, ones in mirrored if orientation in ones)
    shape = list(stored.shape)
    if swapped:
        shape[y], shape[x] = shape[x], shape[y]

    def pixels(index: Index) -> NDArray[Any]:
        spans = spans_of(index, shape)
        for axis in flipped:
            start, stop = spans[axis]
            spans[axis] = shape[axis] - stop, shape[axis] - start
        if swapped:
            spans[y], spans[x] = spans[x], spans[y]
        array = stored.pixels(tuple(slice(a, b) for a, b in spans))
        array = array.swapaxes(y, x) if swapped else array
        return squeezed(np.flip(array, flipped), index)

    def turned(values: dict[str, Any]) -> dict[str, Any]:
        names = {"X": "Y", "Y": "X", "XResolution": "YResolution", "YResolution": "XResolution"}
        return {names.get(name, name): value for name, value in values.items()}

    return replace(
        stored,
        shape=tuple(shape),
        pixels=pixels,
        spacing=turned(stored.spacing) if swapped else stored.spacing,
        resolution=turned(stored.resolution) if swapped else stored.resolution,
        tags=turned(stored.tags) if swapped else stored.tags,
        remarks=(*stored.remarks, f"turned upright, as its orientation {orientation} says"),
    )


def check_claim(path: Path, pixels: int, factor: int) -> None:
    """Refuse a header that claims more bytes of pixels than ``factor`` times those of the file.

    Raises:
        UnreadableError: with both numbers.
    """
    size = path.stat().st_size
    if pixels > factor * size:
        found = f"its header claims {pixels} bytes of pixels, and the file has {size}"
        raise UnreadableError(path, found, "an intact image file", SKIP)


def decoded_once(path: Path, load: Callable[[Path], NDArray[Any]]) -> NDArray[Any]:
    """All of a file that has no cheap slices, decoded once for slices that follow each other."""
    return _load_once(path, path.stat().st_mtime_ns, load)


@lru_cache(maxsize=2)
def _load_once(path: Path, stamp: int, load: Callable[[Path], NDArray[Any]]) -> NDArray[Any]:
    return load(path)
