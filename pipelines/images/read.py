"""Read microscope images: one array and its metadata, whatever the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from overtile.pipelines.errors import DataError
from overtile.pipelines.images.formats import Stored, open_image, unreadable
from overtile.pipelines.images.orientation import oriented_like
from overtile.pipelines.images.view import View, split_plane, view

Channel = int | str | None
LABELS = ("instances", "mask", "membranes")


def read_image(
    path: str | Path,
    spatial_dims: int = 2,
    channel: Channel = None,
    like: str | Path | None = None,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Pixels ``[*S]`` in the file's own dtype, and metadata.

    Args:
        path: ``stack.tif:3`` is plane 3 of a stack; without a number all planes
            ``[planes, *S]``. TIFF and pictures give ``[Y, X]`` or ``[Z, Y, X]``, NIfTI and DICOM
            ``[X, Y]`` or ``[X, Y, Z]``.
        spatial_dims: 2 or 3.
        channel: number (from 0) of the channel to take, or ``"luminance"`` of three colours
            (0.299 R + 0.587 G + 0.114 B). Equal channels are one grey channel.
        like: the image that this is the label of: turned as that one lies in space, and read as
            labels are (an indexed picture gives its indices, a folder holds one mask a cell).

    Raises:
        DataError: if the file is missing, unreadable, or not of one channel.
    """
    file, plane = split_plane(path)
    stored = _open(path, like)
    seen = view(stored, path, spatial_dims)
    if plane is not None and plane >= seen.count:
        raise DataError(f"{file}: {seen.count} planes; expected more than {plane}")
    index: list[Any] = [slice(None)] * len(stored.shape)
    for i, n in enumerate(stored.shape):
        if i not in (*seen.spatial, seen.channel, *seen.stacked) and n == 1:
            index[i] = 0
    if plane is not None and seen.stacked:
        place = np.unravel_index(plane, [stored.shape[i] for i in seen.stacked])
        for i, p in zip(seen.stacked, place, strict=True):
            index[i] = int(p)
    if seen.channel is not None and isinstance(channel, int):
        count = stored.shape[seen.channel]
        if not 0 <= channel < count:
            raise DataError(f"{path}: {count} channels; expected --channel 0 to {count - 1}")
        index[seen.channel] = channel
    try:
        array = stored.pixels(tuple(index))
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever their formats suggest
        raise unreadable(path, error) from error
    kept = [i for i, selected in enumerate(index) if isinstance(selected, slice)]
    if seen.channel in kept:
        array = np.moveaxis(array, kept.index(seen.channel), -1)
        array = _one_channel(path, array, channel, label=like is not None)
        kept.remove(seen.channel)
    stacks = [kept.index(i) for i in seen.stacked if i in kept]
    array = np.moveaxis(array, stacks, range(len(stacks)))
    if stacks:
        array = array.reshape(-1, *seen.shape)
    if array.dtype.kind not in "iufb":
        raise DataError(f"{path}: pixels of {array.dtype}; expected real numbers")
    meta: dict[str, Any] = {
        "filename_or_obj": str(path),
        "axes": "".join(stored.axes[i] for i in sorted(seen.spatial)),
    }
    if stored.affine is not None:
        meta["affine"] = stored.affine
    if spacing := _spacing(stored, seen):
        meta["spacing"] = spacing
    return array, meta


def _spacing(stored: Stored, seen: View) -> str:
    """Pixel size with its unit, for people."""
    if stored.affine is not None:
        sizes, unit = np.linalg.norm(stored.affine[:3, :3], axis=0), "mm"
        steps = [sizes[i] for i in seen.spatial if i < 3]
    else:
        unit = "µm"
        steps = [stored.spacing[a] for i in seen.spatial if (a := stored.axes[i]) in stored.spacing]
    return " x ".join(f"{s:.3g}" for s in steps) + f" {unit}" if steps else ""


def _one_channel(
    path: str | Path, array: NDArray[Any], channel: Channel, label: bool
) -> NDArray[Any]:
    """Merge channels ``[..., K]``."""
    if (array == array[..., :1]).all():  # grey, stored as colours
        return array[..., 0]
    count = array.shape[-1]
    if label:
        raise DataError(
            f"{path}: a label of {count} channels; expected one, with one number a cell"
        )
    if channel == "luminance" and count in (3, 4):  # the fourth is opacity
        grey: NDArray[Any] = (array[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
        return grey
    choice = f"--channel 0 to {count - 1}" + (" or --channel luminance" if count in (3, 4) else "")
    raise DataError(f"{path}: {count} channels (colours); expected one grey channel: give {choice}")


def check_channel(channel: Channel) -> Channel:
    """``channel``, if it names one."""
    number = isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0
    if channel is None or channel == "luminance" or number:
        return channel
    raise DataError(f"channel {channel!r}: expected a number from 0, or luminance")


def check_labels_kind(labels: str) -> str:
    """``labels``, if it is one of the known kinds."""
    if labels not in LABELS:
        raise DataError(f"labels {labels!r}: expected one of {', '.join(LABELS)}")
    return labels


def number_cells(mask: NDArray[Any]) -> NDArray[np.int32]:
    """Connected components (without diagonals) of what is not 0, from 1."""
    numbered: NDArray[np.int32] = ndimage.label(mask)[0].astype(np.int32)
    return numbered


def read_label(
    path: str | Path, spatial_dims: int = 2, image: str | Path | None = None
) -> tuple[NDArray[Any], dict[str, Any]]:
    """`read_image` for labels: integers from 0 up, turned as ``image`` lies in space.

    Raises:
        DataError: also for floats, and for numbers below 0 or above 2^31 - 1.
    """
    array, meta = read_image(path, spatial_dims, like=path if image is None else image)
    if array.dtype.kind == "f":
        raise DataError(
            f"{path}: labels of {array.dtype}; expected integers, 0 = background: convert it"
        )
    if array.size and (int(array.min()) < 0 or int(array.max()) > np.iinfo(np.int32).max):
        raise labels_beyond(path, array, np.dtype(np.int32))
    return array, meta


def check_pixels(path: str | Path, array: NDArray[Any]) -> None:
    """Refuse NaN and infinite pixels.

    Raises:
        DataError: saying how many.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise DataError(
            f"{path}: {count} pixels are NaN or infinite; expected finite numbers: replace them"
        )


def labels_beyond(path: str | Path, array: NDArray[Any], dtype: np.dtype[Any]) -> DataError:
    """The error for labels that ``dtype`` cannot hold."""
    return DataError(
        f"{path}: labels from {array.min()} to {array.max()}; "
        f"expected 0 (background) to {np.iinfo(dtype).max}"
    )


def open_view(path: str | Path, spatial_dims: int = 2, like: str | Path | None = None) -> View:
    """How many planes a file has, and of which size, from its header; as `read_image` sees it.

    Raises:
        DataError: as `read_image`.
    """
    return view(_open(path, like), path, spatial_dims)


def _open(path: str | Path, like: str | Path | None) -> Stored:
    file, _ = split_plane(path)
    stored = open_image(file, labels=like is not None)
    if like is not None and like != path:
        model = split_plane(like)[0]
        stored = oriented_like(stored, open_image(model), str(file), str(model))
    return stored
