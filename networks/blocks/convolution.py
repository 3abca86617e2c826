"""Convolutions with their activations."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MOMENTUM = 0.05  # of running statistics: a batch is one tile or few


def double_convolution(
    before: int,
    width: int,
    kernel_size: tuple[int, ...],
    norm: str | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Two valid convolutions from ``before`` to ``width`` channels, each with a ReLU.

    ``kernel_size`` has one number an axis; the paper's are 3x3. With ``norm`` ``"batch"`` each is
    normalised before its ReLU, and has no bias of its own.
    """
    dims, layers = len(kernel_size), list[nn.Module]()
    for channels in (before, width):
        layers.append(CONVOLUTION[dims](channels, width, kernel_size, bias=norm is None))
        if norm == "batch":
            layers.append(_NORM[dims](width, momentum=_MOMENTUM))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))
