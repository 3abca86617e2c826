"""What MONAI keeps of an image beside its pixels: pending operations, affine, history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import InvertibleTransform
from monai.transforms.lazy.functional import apply_pending_transforms
from monai.utils import TraceKeys, convert_to_dst_type
from numpy.typing import NDArray
from torch import Tensor

from overtile.networks.errors import ArgumentError

Array = NDArray[Any] | Tensor
_A = TypeVar("_A", NDArray[Any], Tensor, Array)


def current(image: _A) -> _A:
    """The image with its pending operations applied, as MONAI does before what is not lazy."""
    applied: _A = apply_pending_transforms(image, None)
    return applied


def as_tensor(image: Array) -> Tensor:
    """Without metadata."""
    if isinstance(image, MetaTensor):
        return image.as_tensor()
    if isinstance(image, Tensor):
        return image
    native = image.dtype.newbyteorder("=")  # PyTorch has no other
    return torch.from_numpy(np.ascontiguousarray(image, native))


def as_array(image: Array) -> NDArray[Any]:
    """Without metadata, on the host."""
    if not isinstance(image, Tensor):
        return image
    tensor = as_tensor(image).detach()
    if tensor.dtype == torch.bfloat16:  # which NumPy does not know; float32 holds all its values
        tensor = tensor.float()
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


def refuse_empty(size: Sequence[int]) -> None:
    """Refuse an image without pixels, by its spatial size.

    Raises:
        ValueError: if an axis has size 0.
    """
    if 0 in size:
        raise ArgumentError(f"image of {tuple(size)}", "no axis of size 0")


def like(result: Array, image: Array, dtype: Any = None) -> Any:
    """What came of an image, as the image is: array, tensor or, where they are tracked, metadata.

    Args:
        result: its pixels.
        image: gives kind, device and metadata.
        dtype: default: that of the result.
    """
    return if_tracked(convert_to_dst_type(result, image, dtype=dtype or result.dtype)[0])


def if_tracked(image: Any) -> Any:
    """An image, without its metadata where MONAI is to track none."""
    tracked = get_track_meta() or not isinstance(image, MetaTensor)
    return image if tracked else image.as_tensor()


def record(
    transform: InvertibleTransform,
    image: Any,
    size: Sequence[int],
    affine: NDArray[np.float64],
    extra: Mapping[str, Any],
) -> Any:
    """Note in an image's metadata what was done to it; without metadata nothing is noted.

    Args:
        transform: that did it.
        image: its result.
        size: of the image before.
        affine: from indices of the result to indices of the image before.
        extra: what the inverse needs.
    """
    if isinstance(image, MetaTensor):
        transform.push_transform(image, orig_size=tuple(size), affine=affine, extra_info={**extra})
    return image


def recorded(
    transform: InvertibleTransform, image: Any
) -> tuple[tuple[int, ...], Mapping[str, Any]]:
    """Take back the last `record` of a transform: the size before, and what the inverse needs."""
    info = transform.pop_transform(image)
    return tuple(int(n) for n in info[TraceKeys.ORIG_SIZE]), info[TraceKeys.EXTRA_INFO]


def shifted(offset: Sequence[int]) -> NDArray[np.float64]:
    """The affine of a crop that begins at ``offset`` (of padding, if negative)."""
    affine = np.eye(len(offset) + 1)
    affine[:-1, -1] = offset
    return affine


def untracked(transform: InvertibleTransform, image: Any, affine: NDArray[np.float64]) -> Any:
    """Change an image's affine for an inverse, which is not recorded."""
    with transform.trace_transform(False):
        transform.push_transform(image, affine=affine)
    return image
