"""From one level to the next, finer one."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from overtile.networks.blocks.convolution import CONVOLUTION

_DECONV: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def upsampling(lower: int, upper: int, kind: str, stride: tuple[int, ...]) -> nn.Module:
    """``stride`` times the size along each axis, ``lower`` to ``upper`` channels.

    ``kind`` is ``"deconv"``, or ``"nearest"`` and a 1x1 convolution.
    """
    dims = len(stride)
    if kind == "deconv":
        return _DECONV[dims](lower, upper, kernel_size=stride, stride=stride)
    # the 1x1 convolution commutes with nearest-neighbour up-sampling: first it, on fewer pixels
    return nn.Sequential(
        CONVOLUTION[dims](lower, upper, kernel_size=1), nn.Upsample(scale_factor=stride)
    )
