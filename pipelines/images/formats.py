"""Open image files of every format: axes and size from the header, pixels on demand."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.errors import DataError, Setting, UnreadableError
from overtile.pipelines.images.block_cache import no_level

TIFF = (".tif", ".tiff")
SLIDES = (".svs", ".btf", ".tf8")
"""Further names of TIFF files, which are not looked for in folders."""
NIFTI = (".nii", ".nii.gz")
FLAT = (".png", ".jpg", ".jpeg", ".bmp")
DICOM = (".dcm",)
ZARR = (".zarr",)
SUFFIXES = (".ome.tif", ".ome.tiff", ".ome.zarr", *TIFF, *NIFTI, *FLAT, *DICOM, *ZARR)
_WHITE_IS_ZERO, _PALETTE = 0, 3  # of TIFF's photometric interpretations
_MICROMETRES = {2: 25400.0, 3: 10000.0}  # of TIFF's units: inch and centimetre
_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")  # of Pillow's modes

Index = tuple[Any, ...]


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
        tags: what a TIFF says of its resolution, to be written back; units of a NIfTI file.
        block: bytes that any pixel needs to have decoded, where that is told.
        close: closes what is kept open between calls of ``pixels``.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pixels: Callable[[Index], NDArray[Any]] = field(repr=False)
    affine: NDArray[np.float64] | None = None
    spacing: dict[str, float] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    block: int = 0
    close: Callable[[], None] = field(default=lambda: None, repr=False)


def open_image(path: Path, labels: bool = False) -> Stored:
    """Open a TIFF, OME-TIFF, PNG, JPEG, BMP or NIfTI file, or a folder that is one image.

    Folders are OME-Zarr (``NAME.zarr``), a DICOM series, or, as labels, one mask file a cell.

    Args:
        path: file or folder.
        labels: an indexed picture gives its indices, not its colours, and a folder is of masks.

    Raises:
        DataError: if it is missing or cannot be read.
    """
    if not path.exists():
        raise UnreadableError(f"{path}: no such file")
    name = path.name.lower()
    try:
        if name.endswith(ZARR):
            return _zarr(path)
        if path.is_dir():
            return _masks(path) if labels and not is_dicom_series(path) else _dicom(path)
        if name.endswith((*TIFF, *SLIDES)):
            return _tiff(path, labels)
        if name.endswith(NIFTI):
            return _nifti(path)
        if name.endswith(DICOM):
            return _dicom(path)
        return _flat(path, labels)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever their formats suggest
        raise unreadable(path, error) from error


SKIP = Setting("skip_unreadable", True, "to go on without it")
"""What helps where one file of many is broken."""


def unreadable(path: Path | str, error: Exception) -> UnreadableError:
    """The error for a file that its decoder gave up on."""
    told = " ".join(str(error).split()) or type(error).__name__
    return UnreadableError(path, f"cannot be read ({told})", "an intact image file", SKIP)


def is_image(path: Path) -> bool:
    """Whether a file's or folder's name, or a folder's content, says that it is one image."""
    if path.name.startswith("."):
        return False
    if path.is_dir():
        listed = os.access(path, os.R_OK | os.X_OK)  # not lost+found, for one
        return path.name.lower().endswith(ZARR) or (listed and is_dicom_series(path))
    return path.name.lower().endswith(SUFFIXES) and not path.name.lower().endswith(ZARR)


def is_dicom_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files, with or without their suffix."""
    for file in sorted(folder.iterdir())[:3]:
        if file.is_file() and (file.name.lower().endswith(DICOM) or _is_dicom(file)):
            return True
    return False


def _is_dicom(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as start:
        return start.read(132)[128:] == b"DICM"


def files_of(path: Path) -> list[Path]:
    """The files that one image is made of."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def check_pages(path: Path) -> None:
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


def check_companions(path: Path, tif: tifffile.TiffFile) -> None:
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


def _tiff(path: Path, labels: bool) -> Stored:
    check_pages(path)
    with tifffile.TiffFile(path) as tif:
        check_companions(path, tif)
        if not tif.series or not np.prod(tif.series[0].shape):  # of some broken files
            raise ValueError("it holds no pixels")
        series, page = tif.series[0], tif.series[0].keyframe
        count = len(tif.series)
        if any((s.shape, s.dtype) != (series.shape, series.dtype) for s in tif.series):
            sizes = " and ".join("x".join(map(str, s.shape)) for s in tif.series[:3])
            raise DataError(
                f"{path}: {count} images of different sizes ({sizes}); expected one, or pages of "
                "one size: split the file"
            )
        axes, shape, dtype = series.axes, tuple(series.shape), np.dtype(series.dtype)
        colours = page.colormap if page.photometric == _PALETTE and not labels else None
        # numbers of cells mean themselves, however they are to be shown
        inverted = page.photometric == _WHITE_IS_ZERO and (dtype.kind == "b" or not labels)
        spacing, tags = tiff_spacing(tif, page)

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


def tiff_spacing(tif: tifffile.TiffFile, page: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Micrometres a pixel of the first image by axis letter, and what tags say of resolution."""
    tags = {
        name: page.tags[name].value
        for name in ("XResolution", "YResolution", "ResolutionUnit")
        if name in page.tags
    }
    return _ome_spacing(tif.ome_metadata) or _imagej_spacing(tif, tags), tags


def _imagej_spacing(tif: tifffile.TiffFile, tags: dict[str, Any]) -> dict[str, float]:
    told = tif.imagej_metadata or {}
    if str(told.get("unit", "")).lower() not in ("micron", "um", "µm", "\\u00b5m"):
        return {}
    sizes = {"Z": float(told["spacing"])} if "spacing" in told else {}
    for axis in "XY":
        if f"{axis}Resolution" in tags:
            many, per = tags[f"{axis}Resolution"]
            sizes[axis] = per / many
    return sizes


def resolution_spacing(tags: Mapping[str, Any]) -> dict[str, float]:
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


def _nifti(path: Path) -> Stored:
    volume = nibabel.load(path)
    shape = tuple(int(n) for n in volume.shape)
    rest = 0  # axes of one at the end
    while len(shape) > 3 and shape[-1] == 1:
        shape, rest = shape[:-1], rest + 1
    scaled = (volume.dataobj.slope, volume.dataobj.inter) != (1.0, 0.0)
    dtype = np.dtype(np.float64) if scaled else volume.get_data_dtype()
    if not np.prod(shape):
        raise ValueError("it holds no pixels")
    last = (0,) * rest
    return Stored(
        "XYZTUVW"[: len(shape)],
        shape,
        dtype,
        lambda index: _whole(path, _load_nifti)[index + last],
        volume.affine,
        tags={"units": volume.header.get_xyzt_units(), "zooms": volume.header.get_zooms()},
    )


def _load_nifti(path: Path) -> NDArray[Any]:
    return np.asanyarray(nibabel.load(path).dataobj)


def _dicom(path: Path) -> Stored:
    import itk

    reader = dicom_reader(path)
    header = itk.GDCMImageIO.New()
    header.SetFileName(reader.GetFileNames()[0])
    header.ReadImageInformation()
    if header.GetNumberOfComponents() > 1:
        raise DataError(
            f"{path}: a DICOM series in colour; expected one grey channel: convert it to TIFF"
        )
    reader.UpdateOutputInformation()
    image = reader.GetOutput()
    shape = tuple(int(n) for n in itk.size(image))
    spacing, origin = np.array(itk.spacing(image)), np.array(itk.origin(image))
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * spacing
    affine[:3, 3] = origin
    affine[:2] *= -1  # DICOM counts towards left and posterior, NIfTI towards right and anterior
    dtype = np.dtype(np.float32)
    return Stored("XYZ", shape, dtype, lambda i: _whole(path, _load_dicom)[i], affine)


def _load_dicom(path: Path) -> NDArray[Any]:
    import itk

    reader = dicom_reader(path)
    reader.Update()
    array: NDArray[Any] = itk.array_from_image(reader.GetOutput())
    return array.transpose()  # from z, y, x


def dicom_reader(path: Path, names: Sequence[str] = ()) -> Any:
    """ITK's reader of a series, not run yet.

    Args:
        path: folder of one series, or a file.
        names: the files of it to read, in order; default: all.

    Raises:
        DataError: if the folder holds several series, or a slice is broken.
    """
    import itk

    if not names and not path.is_dir():
        names = [str(path)]
    if not names:
        finder = itk.GDCMSeriesFileNames.New()
        finder.SetUseSeriesDetails(True)
        finder.SetDirectory(str(path))
        series = list(finder.GetSeriesUIDs())
        if len(series) != 1:
            raise DataError(
                f"{path}: {len(series)} DICOM series; expected one a folder: put each into its own"
            )
        names = list(finder.GetFileNames(series[0]))
        known = {Path(name).name for name in names}
        for file in sorted(path.iterdir()):  # GDCM leaves broken slices out without a word
            if file.name not in known and file.name != "DICOMDIR" and _is_dicom(file):
                raise UnreadableError(
                    f"{file}: a DICOM file that is no slice of the series; expected an intact "
                    "file: replace it, or move it elsewhere"
                )
    reader = itk.ImageSeriesReader[itk.Image[itk.F, 3]].New()
    reader.SetImageIO(itk.GDCMImageIO.New())
    reader.SetFileNames(names)
    return reader


def _zarr(path: Path) -> Stored:
    import zarr

    opened = zarr.open(path, mode="r")
    if isinstance(opened, zarr.Array):
        raise DataError(
            f"{path}: a bare Zarr array, which names no axes; expected an OME-Zarr image"
        )
    return ome_zarr(path, opened)


def ome_zarr(path: Path, group: Any, level: int = 0) -> Stored:
    """A level of the pyramid in an opened OME-Zarr group; pixel size from its metadata.

    Raises:
        DataError: if the group does not say that it is an image.
        ConfigurationError: if there is no such level.
    """
    attributes: dict[str, Any] = dict(group.attrs)
    described = attributes.get("ome", attributes).get("multiscales")
    if not described:
        raise DataError(
            f"{path}: a Zarr group without multiscales metadata; expected an OME-Zarr image, "
            "or the path of one array in it"
        )
    datasets = described[0]["datasets"]
    if not 0 <= level < len(datasets):
        raise no_level(path, level, [group[d["path"]].shape for d in datasets])
    try:
        array: Any = group[datasets[level]["path"]]
    except KeyError:
        raise DataError(
            f"{path}: level {level} is named in its metadata, but {datasets[level]['path']} is "
            "missing; expected all levels: copy the image anew, or give another level"
        ) from None
    axes = described[0].get("axes", "tczyx"[-array.ndim :])  # before version 0.3 they have no names
    told = [a if isinstance(a, dict) else {"name": a} for a in axes]
    changes = datasets[level].get("coordinateTransformations", ())
    steps: list[float] = next((t["scale"] for t in changes if t["type"] == "scale"), [])
    units = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}
    spacing = {
        axis["name"].upper(): float(step) * units[axis["unit"]]
        for axis, step in zip(told, steps, strict=False)
        if axis["name"] in "xyz" and axis.get("unit") in units
    }
    return Stored(
        "".join(axis["name"][0].upper() for axis in told),
        tuple(int(n) for n in array.shape),
        np.dtype(array.dtype),
        lambda index: np.asarray(array[index]),
        spacing=spacing,
        block=int(np.prod(array.chunks)) * array.dtype.itemsize,
    )


def _flat(path: Path, labels: bool) -> Stored:
    if labels and path.name.lower().endswith((".jpg", ".jpeg")):
        raise DataError(
            f"{path}: a label in JPEG, which changes numbers; expected PNG or TIFF: save it anew"
        )
    with _picture(path) as picture:
        mode, (width, height) = picture.mode, picture.size
    if mode in ("RGB", "RGBA") and _bits_of_png(path) == 16:  # Pillow would drop eight of them
        return _deep_png(path, (height, width))
    indexed = mode == "P" and labels
    target = None if mode in _GREY or indexed else "L" if mode == "LA" else "RGB"

    def pixels(index: Index) -> NDArray[Any]:
        with _picture(path) as picture:
            return np.asarray(picture if target is None else picture.convert(target))[index]

    colour = target == "RGB"
    dtype = {"1": bool, "I": np.int32, "F": np.float32}.get(mode, np.uint8)
    return Stored(
        "YXS" if colour else "YX",
        (height, width, 3) if colour else (height, width),
        np.dtype(np.uint16 if mode.startswith("I;16") else dtype),
        pixels,
    )


@contextmanager
def _picture(path: Path) -> Iterator[Image.Image]:
    """Open with Pillow, whatever the size: what fits into memory is ours to decide."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as picture:
            yield picture
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _bits_of_png(path: Path) -> int:
    with path.open("rb") as file:
        start = file.read(25)
    return start[24] if start.startswith(b"\x89PNG") else 0


def _deep_png(path: Path, size: tuple[int, int]) -> Stored:
    import imagecodecs

    def pixels(index: Index) -> NDArray[Any]:
        colours: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())[..., :3]
        return colours[index]

    return Stored("YXS", (*size, 3), np.dtype(np.uint16), pixels)


def _masks(folder: Path) -> Stored:
    files = [p for p in sorted(folder.iterdir()) if is_image(p)]
    if not files:
        raise DataError(f"{folder}: no mask in it; expected one image a cell")
    first = open_image(files[0], labels=True)
    shape = tuple(n for n, a in zip(first.shape, first.axes, strict=True) if a != "S")

    def pixels(index: Index) -> NDArray[Any]:
        labels = np.zeros(shape, np.int32)
        for number, file in enumerate(files, start=1):
            mask = np.asarray(_decode(file))
            mask = mask.max(axis=-1) if mask.ndim == 3 else mask
            if mask.shape != shape:
                raise DataError(
                    f"{file}: size {mask.shape}, but {files[0].name} is {shape}; "
                    "expected masks of one size"
                )
            own = (mask > 0) & (labels == 0)
            if mask.any() and not own.any():
                raise DataError(
                    f"{file}: a mask that lies wholly under others; expected cells side by side: "
                    "remove it"
                )
            labels[own] = number
        return labels[index]

    return Stored("YX", shape, np.dtype(np.int32), pixels)


def _decode(path: Path) -> NDArray[Any]:
    stored = open_image(path, labels=True)
    try:
        return stored.pixels((slice(None),) * len(stored.axes))
    except Exception as error:
        raise unreadable(path, error) from error


def _whole(path: Path, load: Callable[[Path], NDArray[Any]]) -> NDArray[Any]:
    """Decode a file that has no cheap slices once for all its slices."""
    return _load_once(path, path.stat().st_mtime_ns, load)


@lru_cache(maxsize=2)
def _load_once(path: Path, stamp: int, load: Callable[[Path], NDArray[Any]]) -> NDArray[Any]:
    return load(path)
