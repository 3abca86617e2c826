"""From one level to the next, coarser one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from overtile.networks.blocks.convolution import CONVOLUTION

_is_tracing = torch.jit.is_tracing  # type: ignore[attr-defined]


class _MaxPool2d(nn.MaxPool2d):
    kernel_size: tuple[int, int]

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and _pools_by_maximum(x):  # type: ignore[attr-defined]
            for axis, stride in enumerate(self.kernel_size, start=2):
                x = _maximum_of_two(x, axis) if stride == 2 else x
            return x
        return nn.functional.max_pool2d(x, self.kernel_size)


def _pools_by_maximum(x: Tensor) -> bool:
    # PyTorch's pooling on CPU also stores where each maximum was, in 64 bits: four times slower,
    # and as large as the map itself. Training needs these places. A trace is compared with one that
    # was made with gradients.
    tracing = _is_tracing()  # type: ignore[no-untyped-call]
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not tracing


def _maximum_of_two(x: Tensor, axis: int) -> Tensor:
    """Maximum over pairs of neighbours along an axis of even length."""
    even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
    return torch.maximum(even, odd)


def downsampling(width: int, kind: str, stride: tuple[int, ...]) -> nn.Module:
    """A ``stride``-th of the size along each axis, 1 or 2.

    ``kind`` is ``"maxpool"``, or ``"conv"``, a convolution whose kernel is its stride.
    """
    dims = len(stride)
    if kind == "maxpool":
        return _MaxPool2d(stride) if dims == 2 else nn.MaxPool3d(stride)
    return CONVOLUTION[dims](width, width, kernel_size=stride, stride=stride)
