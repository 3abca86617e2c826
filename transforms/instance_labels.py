"""What is taken for instance labels."""

from __future__ import annotations

from typing import Any

from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from overtile.networks.errors import ArgumentError

Labels = NDArray[Any] | Tensor


def instance_array(labels: Labels) -> NDArray[Any]:
    """The array ``[*S]`` of instance labels ``[1, *S]``.

    Raises:
        ValueError: if they are not integers, negative, or not of one channel.
    """
    tensor = labels.as_tensor() if isinstance(labels, MetaTensor) else labels
    array = tensor.cpu().numpy() if isinstance(tensor, Tensor) else tensor
    if array.ndim not in (3, 4) or array.shape[0] != 1:
        raise ArgumentError(f"labels of shape {array.shape}", "[1, H, W] or [1, D, H, W]")
    if array.dtype.kind not in "iub":
        raise ArgumentError(f"labels of dtype {array.dtype}", "integers, one per cell")
    if array.size and array.min() < 0:
        raise ArgumentError(f"labels down to {array.min()}", "0 (background) and up")
    instances: NDArray[Any] = array[0]
    return instances
