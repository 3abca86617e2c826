"""Crop a skip connection to what is joined with it."""

from __future__ import annotations

from torch import Tensor


def centre_crop(x: Tensor, like: Tensor) -> Tensor:
    """The centre of ``x`` in the spatial size of ``like``; the difference is always even."""
    for axis in range(2, x.ndim):
        size = like.shape[axis]
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x
