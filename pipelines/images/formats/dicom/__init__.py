"""DICOM: a folder of slices with a place in space, or one file.

`headers` reads what a file says of its frames, `folder` those of all files of a folder once,
`series` puts them in order, `pixels` decodes one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, UnreadableError
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.formats.dicom.folder import (
    SUFFIX,
    Contents,
    look_at,
    look_into,
)
from overtile.pipelines.images.formats.dicom.headers import Frame, is_dicom, stamp_of
from overtile.pipelines.images.formats.dicom.pixels import decoded, real_dtype
from overtile.pipelines.images.formats.dicom.series import Arranged, arranged, one_of, series_in
from overtile.pipelines.images.formats.dicom.write import write_series
from overtile.pipelines.images.stored import (
    SKIP,
    Format,
    Index,
    Spacing,
    Stored,
    no_level,
    series_of,
    too_large,
)


class Dicom(Format):
    """DICOM series."""

    name = "DICOM"
    suffixes = (SUFFIX,)
    in_space = True
    written = ("dicom",)
    dtypes = "u1 u2 i2"
    dims = (3,)

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """A file by its first bytes; a folder whose files belong together, or that has but one."""
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):  # lost+found, for one
            return False
        return look_into(path).one_image if path.is_dir() else path.is_file() and is_dicom(path)

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it."""
        order, dtype, remarks = _order(path)
        return _stored(order, dtype, remarks, partial(decoded, dtype=dtype))

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """As the base class has it, one frame at a time."""
        order, dtype, remarks = _order(path)
        stored = _stored(order, dtype, remarks, lambda f: cache.get(f, partial(decoded, f, dtype)))
        if level:
            raise no_level(path, level, [stored.shape])
        needed = int(np.prod(order.frames.flat[0].stack.shape)) * dtype.itemsize
        if needed > cache.limit:
            what = f"slices of {needed / 2**20:.0f} MiB that have to be decoded at once"
            raise too_large(path, what, cache.limit, "convert it to a tiled TIFF or OME-Zarr")
        return stored

    def write(
        self,
        path: Path,
        array: NDArray[Any],
        like: Stored | None = None,
        spacing: Spacing | None = None,
    ) -> None:
        """A folder of slices."""
        write_series(path, array, spacing or (1.0, 1.0, 1.0))

    def label_suffix(self, name: str) -> str:
        """NIfTI's, which has the same place in space."""
        return ".nii.gz"


FORMAT = Dicom()
_Order = tuple[Arranged, np.dtype[Any], tuple[str, ...]]
"""Frames in order, the type of their values, and what is to be said of them."""


def _contents(path: Path) -> Contents:
    """What there is to read.

    Raises:
        DataError: if files of another kind lie beside it.
        UnreadableError: if a file is broken, or none has pixels.
    """
    found = look_into(path) if path.is_dir() else look_at(path, stamp_of(path))
    if found.broken:
        raise found.broken[0]
    if found.beside:
        slices = f"{len({frame.stack.file for frame in found.frames})} DICOM files"
        raise DataError(
            path,
            f"{slices} of a series beside other images, as {found.beside[0].name}",
            "files of one kind",
            "move the others elsewhere",
        )
    if not found.frames:
        kinds = ", ".join(sorted(set(found.others.values()))) or "nothing"
        raise UnreadableError(path, f"DICOM without pixels ({kinds})", "a DICOM image", SKIP)
    return found


def _order(path: Path) -> _Order:
    """The frames of an image in order.

    Raises:
        DataError: as `_contents`, and if they are of several series, or no regular grid.
    """
    file, number = series_of(path)
    return _ordered(file, number, _contents(file))


@lru_cache(maxsize=64)
def _ordered(path: Path, number: int | None, contents: Contents) -> _Order:
    frames = one_of(path, series_in(contents.frames), number).frames
    remarks = []
    if contents.others:
        file, kind = next(iter(contents.others.items()))
        more = f" (and {len(contents.others) - 1} more)" if len(contents.others) > 1 else ""
        remarks.append(f"left out: {file.name}{more}, which has no pixels ({kind})")
    if any(frame.stack.inverted for frame in frames):
        remarks.append("grey values are inverted: it says that low ones are bright")
    return arranged(path, frames), real_dtype(frames), tuple(remarks)


def _stored(
    order: Arranged,
    dtype: np.dtype[Any],
    remarks: tuple[str, ...],
    plane_of: Callable[[Frame], NDArray[Any]],
) -> Stored:
    """Pixels of frames in order.

    With a place in space columns come first, as in NIfTI; without one a file is a picture, or
    pages of such, and rows come last but one, as in TIFF.
    """
    rows, columns = order.frames.flat[0].stack.shape

    def in_space(index: Index) -> NDArray[Any]:
        chosen = np.asarray(order.frames[index[2:]], object)
        planes = np.stack([plane_of(frame).T[index[:2]] for frame in chosen.flat], axis=-1)
        return planes.reshape((*planes.shape[:-1], *chosen.shape))

    def as_pages(index: Index) -> NDArray[Any]:
        chosen = np.asarray(order.frames.T[index[:-2]], object)
        planes = np.stack([plane_of(frame)[index[-2:]] for frame in chosen.flat])
        return planes.reshape((*chosen.shape, *planes.shape[1:]))

    if order.affine is not None:
        shape = (columns, rows, *order.frames.shape)
        return Stored(order.axes, shape, dtype, in_space, order.affine, remarks=remarks)
    shape = (*order.frames.T.shape, rows, columns)
    return Stored(order.axes[::-1], shape, dtype, as_pages, None, order.spacing, remarks=remarks)
