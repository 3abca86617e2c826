"""From one level to the next, finer one."""

from __future__ import annotations

from torch import nn

from overtile.networks.blocks.convolution import CONVOLUTION

_DECONV = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def upsampling(dims: int, lower: int, upper: int, kind: str) -> nn.Module:
    """Twice the size, ``lower`` to ``upper`` channels: ``"deconv"``, or ``"nearest"`` and 1x1."""
    if kind == "deconv":
        return _DECONV[dims](lower, upper, kernel_size=2, stride=2)
    # the 1x1 convolution commutes with nearest-neighbour up-sampling: first it, on fewer pixels
    return nn.Sequential(
        CONVOLUTION[dims](lower, upper, kernel_size=1), nn.Upsample(scale_factor=2)
    )
