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
from overtile.pipelines.images.formats.dicom.series import Arranged, arranged, only, series_of
from overtile.pipelines.images.formats.dicom.write import write_series
from overtile.pipelines.images.stored import (
    SKIP,
    Format,
    Index,
    Spacing,
    Stored,
    no_level,
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
        order, dtype = _order(path, _contents(path))
        return _stored(order, dtype, partial(decoded, dtype=dtype))

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """As the base class has it, one frame at a time."""
        order, dtype = _order(path, _contents(path))
        stored = _stored(order, dtype, lambda f: cache.get(f, partial(decoded, f, dtype)))
        if level:
            raise no_level(path, level, [stored.shape])
        needed = stored.shape[0] * stored.shape[1] * dtype.itemsize
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


@lru_cache(maxsize=64)
def _order(path: Path, contents: Contents) -> tuple[Arranged, np.dtype[Any]]:
    series = only(path, series_of(contents.frames))
    return arranged(path, series.frames), real_dtype(series.frames)


def _stored(
    order: Arranged, dtype: np.dtype[Any], plane_of: Callable[[Frame], NDArray[Any]]
) -> Stored:
    """Pixels of frames in order, columns first as in NIfTI."""
    first: Frame = order.frames.flat[0]
    rows, columns = first.stack.shape

    def pixels(index: Index) -> NDArray[Any]:
        chosen = np.asarray(order.frames[index[2:]], object)
        planes = [plane_of(frame).T[index[:2]] for frame in chosen.flat]
        array: NDArray[Any] = np.stack(planes, axis=-1)
        return array.reshape(*array.shape[:-1], *chosen.shape)

    shape = (columns, rows, *order.frames.shape)
    return Stored(order.axes, shape, dtype, pixels, order.affine, order.spacing)
