"""Convolutions with their activations."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}


def double_convolution(
    before: int, width: int, kernel_size: tuple[int, ...], dropout: float = 0.0
) -> nn.Sequential:
    """Two valid convolutions from ``before`` to ``width`` channels, each with a ReLU.

    ``kernel_size`` has one number an axis; the paper's are 3x3.
    """
    layers: list[nn.Module] = []
    for channels in (before, width):
        convolution = CONVOLUTION[len(kernel_size)](channels, width, kernel_size)
        layers += [convolution, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))
