"""Convolutions with their activations."""

from __future__ import annotations

from torch import nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}


def double_convolution(dims: int, before: int, width: int, dropout: float = 0.0) -> nn.Sequential:
    """Two valid 3x3 convolutions from ``before`` to ``width`` channels, each with a ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [CONVOLUTION[dims](channels, width, kernel_size=3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))
