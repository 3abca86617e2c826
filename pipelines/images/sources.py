"""Open images that may be larger than memory: any part is read without the rest."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import partial as bound
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, OvertileError, UnreadableError
from overtile.pipelines.images.block_cache import BlockCache, no_level, spans_of, squeezed
from overtile.pipelines.images.formats import (
    NIFTI,
    SKIP,
    SLIDES,
    TIFF,
    ZARR,
    Index,
    Stored,
    is_dicom_series,
    ome_zarr,
    open_image,
    unreadable,
)

_ASIDE = 2**20  # bytes that are unpacked at a time
_ZARR_NODES = ("zarr.json", ".zarray", ".zgroup")  # files of one or the other version


def open_source(path: Path, level: int = 0, cache_limit: int = 2**28) -> Stored:
    """Open a TIFF, OME-Zarr, Zarr array, NIfTI or DICOM series for reading in parts.

    Pictures (PNG, JPEG, BMP) have no parts: they are decoded whole and kept.

    Args:
        path: file or folder.
        level: of a pyramid, 0 is full resolution.
        cache_limit: bytes of decoded blocks to keep.

    Raises:
        DataError: if it is missing or cannot be read, has no such level or no pixels, or has to be
            unpacked in pieces of more than ``cache_limit`` bytes.
    """
    if not path.exists():
        raise UnreadableError(f"{path}: no such file")
    name = path.name.lower()
    cache = BlockCache(cache_limit)
    try:
        if name.endswith(ZARR) or any((path / p).is_file() for p in _ZARR_NODES):
            source = _zarr(path, level, cache_limit)
        elif name.endswith((*TIFF, *SLIDES)):
            from overtile.pipelines.images.tiff_windows import open_tiff

            source = open_tiff(path, level, cache)
        else:
            if level:
                raise no_level(path, level, [open_image(path).shape])
            if name.endswith(NIFTI):
                source = _nifti(path)
            elif path.is_dir() and is_dicom_series(path):
                source = _dicom(path, cache)
            elif path.is_dir():
                raise DataError(
                    f"{path}: a folder that is no image; expected OME-Zarr, a Zarr array or one "
                    "DICOM series in it (many images: python -m monai.bundle run inference)"
                )
            else:
                source = _flat(path, cache)
    except OvertileError as error:
        # an image that cannot even be opened has no parts to go on with
        hint = tuple(advice for advice in error.hint if advice != SKIP)
        raise type(error)(error.where, error.found, error.expected, hint) from error
    except Exception as error:  # decoders raise whatever their formats suggest
        told = unreadable(path, error)
        raise UnreadableError(told.where, told.found, told.expected) from error
    if not all(source.shape):
        size = "x".join(map(str, source.shape))
        raise DataError(f"{path}: {size} pixels (axes {source.axes}); expected none of size 0")
    return source


def _zarr(path: Path, level: int, limit: int) -> Stored:
    import zarr

    opened: Any = zarr.open(path, mode="r")
    if not isinstance(opened, zarr.Array):
        stored = ome_zarr(path, opened, level)
    elif level:
        raise no_level(path, level, [opened.shape])
    else:
        shape = tuple(int(n) for n in opened.shape)
        block = int(np.prod(opened.chunks)) * opened.dtype.itemsize
        axes = _axes_of(path, opened)
        stored = Stored(axes, shape, np.dtype(opened.dtype), opened.__getitem__, block=block)
    if stored.block > limit:
        raise DataError(
            f"{path}: in chunks of {stored.block / 2**20:.0f} MiB, which have to be unpacked "
            f"whole; only {limit / 2**20:.0f} MiB are free for that: save it with smaller chunks, "
            "or allow more --memory"
        )

    def pixels(index: Index) -> NDArray[Any]:
        try:
            part: NDArray[Any] = np.asarray(stored.pixels(index))
        except Exception as error:
            raise unreadable(path, error) from error
        return part

    return replace(stored, pixels=pixels)


def _axes_of(path: Path, array: Any) -> str:
    """The axes of a bare array: its dimension names, or the usual ones for their number."""
    names = getattr(array.metadata, "dimension_names", None)
    if names and all(names):
        axes = "".join(name[0].upper() for name in names)
        if len(set(axes)) < len(axes):
            raise DataError(
                f"{path}: dimension_names {', '.join(names)}; expected names that begin with "
                "different letters, such as t, c, z, y, x: rename them in its metadata"
            )
        return axes
    usual = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}
    if array.ndim not in usual:
        raise DataError(
            f"{path}: an array of {array.ndim} axes without names; expected 2 to 5, or "
            "dimension_names in its metadata"
        )
    return usual[array.ndim]


def _nifti(path: Path) -> Stored:
    """From an uncompressed file; `unpack` makes one."""
    import nibabel

    told = open_image(path)
    volume = nibabel.load(path, mmap=False)
    rest = (0,) * (len(volume.shape) - len(told.shape))

    def pixels(index: Index) -> NDArray[Any]:
        # nibabel reads slices of slices; a number would change which axes are left
        spans = [slice(a, b) for a, b in spans_of(index, told.shape)]
        try:
            array = np.asanyarray(volume.dataobj[(*spans, *rest)])
        except Exception as error:
            raise unreadable(path, error) from error
        return squeezed(array, index)

    return Stored(told.axes, told.shape, told.dtype, pixels, told.affine, {}, told.tags)


def unpack(path: Path, folder: Path) -> Path:
    """A compressed NIfTI file unpacked into ``folder``, since a part of it cannot be read.

    A file that ends too early is unpacked as far as it goes; reading says later what is missing.
    """
    import gzip

    target = folder / path.name[: -len(".gz")]
    if target.is_file():
        return target
    partial = target.with_name(f"partial.{target.name}")
    with gzip.open(path) as packed, partial.open("wb") as plain:
        try:
            while data := packed.read1(_ASIDE):  # all that there is before it breaks off
                plain.write(data)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            pass
    partial.replace(target)
    return target


def _dicom(path: Path, cache: BlockCache) -> Stored:
    from overtile.pipelines.images.formats import dicom_reader

    told = open_image(path)
    names = list(dicom_reader(path).GetFileNames())
    if len(names) != told.shape[2]:
        raise DataError(
            f"{path}: {told.shape[2]} sections in {len(names)} files; expected one section a file, "
            "or the file itself as the source"
        )

    def load(number: int) -> NDArray[Any]:
        import itk

        reader = dicom_reader(path, [names[number]])
        try:
            reader.Update()
        except Exception as error:
            raise unreadable(names[number], error) from error
        array: NDArray[Any] = itk.array_from_image(reader.GetOutput())
        plane: NDArray[Any] = array[0].transpose()
        return plane

    def pixels(index: Index) -> NDArray[Any]:
        (left, right), (top, bottom), (first, last) = spans_of(index, told.shape)
        slices = [cache.get(z, bound(load, z)) for z in range(first, last)]
        array = np.stack([one[left:right, top:bottom] for one in slices], axis=-1)
        return squeezed(array, index)

    return Stored(told.axes, told.shape, told.dtype, pixels, told.affine)


def _flat(path: Path, cache: BlockCache) -> Stored:
    told = open_image(path)
    needed = int(np.prod(told.shape)) * told.dtype.itemsize
    if needed > cache.limit:
        raise DataError(
            f"{path}: {needed / 2**20:.0f} MiB that have to be decoded at once; only "
            f"{cache.limit / 2**20:.0f} MiB are free for that: convert it to a tiled TIFF or "
            "OME-Zarr, or allow more --memory"
        )

    def pixels(index: Index) -> NDArray[Any]:
        whole = cache.get("whole", lambda: told.pixels((slice(None),) * len(told.shape)))
        part: NDArray[Any] = whole[index]
        return part

    return Stored(told.axes, told.shape, told.dtype, pixels, told.affine, told.spacing, told.tags)
