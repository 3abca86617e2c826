"""Read microscope images: one array and its metadata, whatever the file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.errors import DataError

TIFF = (".tif", ".tiff")
NIFTI = (".nii", ".nii.gz")
FLAT = (".png", ".jpg", ".jpeg", ".bmp")
SUFFIXES = (*TIFF, *NIFTI, *FLAT)
_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")  # of Pillow's modes


def is_image(path: Path) -> bool:
    """Whether the file's name ends like an image that `read_image` reads."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: str | Path) -> str:
    """File name without its suffix (``a.nii.gz`` -> ``a``); ``stack.tif:3`` -> ``stack_0003``."""
    file, page = split_page(path)
    name = file.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return name if page is None else f"{name}_{page:04d}"


def split_page(path: str | Path) -> tuple[Path, int | None]:
    """``stack.tif:3`` names page 3 (from 0) of a stack; a file of exactly that name wins."""
    text = str(path)
    file, mark, page = text.rpartition(":")
    if mark and page.isdigit() and not Path(text).exists():
        return Path(file), int(page)
    return Path(text), None


def read_image(path: str | Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """Pixels ``[*S]`` in the file's own dtype, and metadata.

    TIFF and PNG give ``[H, W]`` (a TIFF of several pages ``[D, H, W]``; ``stack.tif:3`` its page
    3), NIfTI ``[X, Y, Z]`` with its affine.

    Raises:
        DataError: if the file is missing, unreadable, or not of one channel.
    """
    file, page = split_page(path)
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    meta: dict[str, Any] = {"filename_or_obj": str(path)}
    colour = False
    try:
        if file.name.lower().endswith(NIFTI):
            volume = nibabel.load(file)
            array = np.asanyarray(volume.dataobj)
            meta["affine"] = volume.affine
        elif file.name.lower().endswith(TIFF):
            array = tifffile.imread(file, key=page)
        else:
            with Image.open(file) as picture:
                colour = picture.mode not in _GREY
                array = np.asarray(picture)
        if not array.size:  # tifffile returns this for some broken files
            raise ValueError("it holds no pixels")
    except Exception as error:  # decoders raise whatever their formats suggest
        raise DataError(
            f"{path}: cannot be read ({error}); expected an intact image file"
        ) from error
    if not file.name.lower().endswith(NIFTI):
        colour |= array.ndim == 3 and array.shape[-1] in (3, 4)
    if colour:
        raise DataError(
            f"{path}: colour image of shape {array.shape}; expected one grey channel: convert it"
        )
    if array.dtype.kind not in "iufb":
        raise DataError(f"{path}: pixels of {array.dtype}; expected real numbers")
    return array, meta


def image_shape(path: str | Path) -> tuple[int, ...]:
    """Spatial size of an image, from its header where the format has one.

    Raises:
        DataError: as `read_image`.
    """
    file, page = split_page(path)
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        if file.name.lower().endswith(TIFF):
            with tifffile.TiffFile(file) as stack:
                return stack.series[0].shape if page is None else stack.pages[page].shape
        if file.name.lower().endswith(NIFTI):
            return tuple(nibabel.load(file).shape)
        with Image.open(file) as picture:
            return picture.size[1], picture.size[0]
    except Exception as error:  # decoders raise whatever their formats suggest
        raise DataError(
            f"{path}: cannot be read ({error}); expected an intact image file"
        ) from error


class ReadImaged(MapTransform):
    """Read the files that the keys name into `MetaTensor` s ``[1, *S]``.

    Args:
        keys: of file names; an item that already holds an array is left alone.
        dtype: one for all keys, or one a key: float32 for images, int32 for labels.
        allow_missing_keys: leave out keys that an item does not have.

    Raises:
        DataError: if a file cannot be read, an image holds NaN or infinite pixels, or a label
            file anything but integers from 0 up.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dtype: str | tuple[str, ...] = "float32",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.dtype = tuple(np.dtype(d) for d in ensure_tuple_rep(dtype, len(self.keys)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read every key."""
        result = dict(data)
        for key, dtype in self.key_iterator(result, self.dtype):
            if not isinstance(result[key], (str, Path)):
                continue
            array, meta = read_image(result[key])
            check = _check_labels if dtype.kind in "iu" else _check_pixels
            check(result[key], array, dtype)
            result[key] = MetaTensor(np.ascontiguousarray(array, dtype=dtype)[None], meta=meta)
        return result


def _check_pixels(path: str | Path, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise DataError(f"{path}: {count} pixels are NaN or infinite; expected finite numbers")


def _check_labels(path: str | Path, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if array.dtype.kind == "f":
        raise DataError(f"{path}: labels of {array.dtype}; expected integers, one per cell")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > np.iinfo(dtype).max:
        raise DataError(
            f"{path}: labels from {low} to {high}; expected 0 (background) to {np.iinfo(dtype).max}"
        )
