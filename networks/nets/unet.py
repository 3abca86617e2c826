"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), with valid convolutions.

Shapes in the comments are those of the paper's configuration on a 572x572 tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from overtile.networks.blocks.convolution import CONVOLUTION, double_convolution
from overtile.networks.blocks.crop import centre_crop
from overtile.networks.blocks.downsampling import downsampling
from overtile.networks.blocks.initialisation import initialise
from overtile.networks.blocks.upsampling import upsampling
from overtile.networks.errors import ArgumentError, GeometryError
from overtile.networks.geometry import TileGeometry
from overtile.networks.network import Network, choose


class ValidUNet(Network):
    """U-Net without padding: the output is smaller than the input by ``2 * geometry.margin``.

    The defaults are the paper's: 23 convolutional layers, 31,030,658 parameters,
    572x572 pixels in, 388x388 out. Weights are drawn from a normal distribution with
    standard deviation sqrt(2 / N), N the number of values that one output neuron receives
    (section 3 of the paper; He et al. 2015), biases are zero.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes, background included; the output holds their logits.
        features: channels of each level, top to bottom; ``len(features) - 1`` poolings.
        up: ``"deconv"``, the paper's 2x2 up-convolution, or ``"nearest"``, nearest-neighbour
            up-sampling followed by a 1x1 convolution. Both halve the channels and are exact
            under tiling (linear interpolation would not be: it looks past the tile's edge).
        down: ``"maxpool"``, the paper's, or ``"conv"``, a 2x2 convolution of stride 2.
        dropout: probability of the dropout layers at the end of the contracting path, that
            is behind the convolutions of its last two levels (the last alone for depth 1).

    Attributes:
        geometry: the `TileGeometry` of valid sizes.

    Raises:
        ValueError: for an argument outside of the choices above.
        GeometryError: from ``forward``, for a size that cannot be pooled evenly; the message
            names the nearest valid sizes.

    Shape:
        ``[B, in_channels, *S] -> [B, out_channels, *(S - 2 * margin)]``
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        up: str = "deconv",
        down: str = "maxpool",
        dropout: float = 0.5,
    ) -> None:
        choose("up", up, ("deconv", "nearest"))
        choose("down", down, ("maxpool", "conv"))
        if len(features) < 2 or any(int(f) < 1 for f in features):
            raise ArgumentError(f"features {tuple(features)}", "at least two positive numbers")
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout {dropout}", "a probability, 0 <= dropout < 1")
        depth = len(features) - 1
        super().__init__(spatial_dims, in_channels, TileGeometry.unet(depth))
        dims, widths = spatial_dims, list(features)
        pairs = list(pairwise(widths))  # (upper, lower) level
        drop = [dropout if level >= max(1, depth - 1) else 0.0 for level in range(depth + 1)]

        contract = [
            double_convolution(dims, before, width, p)
            for before, width, p in zip([in_channels, *widths], widths, drop, strict=False)
        ]
        self.contract, self.bottom = nn.ModuleList(contract[:-1]), contract[-1]
        self.down = nn.ModuleList(downsampling(dims, upper, down) for upper, _ in pairs)
        self.up = nn.ModuleList(
            upsampling(dims, lower, upper, up) for upper, lower in reversed(pairs)
        )
        self.expand = nn.ModuleList(
            double_convolution(dims, 2 * upper, upper) for upper, _ in reversed(pairs)
        )
        self.head = CONVOLUTION[dims](widths[0], out_channels, kernel_size=1)
        self.apply(initialise)
        self.put_channels_innermost()

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, out_channels, *out]`` of an image ``[B, in_channels, *in]``."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_image(x)
            self.check_size(x)
        skips: list[Tensor] = []
        for block, down in zip(self.contract, self.down):  # noqa: B905 (TorchScript)
            x = block(x)  # 572 -> 568, 284 -> 280, 140 -> 136, 68 -> 64
            skips.append(x)
            x = down(x)  # 568 -> 284, 280 -> 140, 136 -> 68, 64 -> 32
        x = self.bottom(x)  # 32 -> 28
        for up, block in zip(self.up, self.expand):  # noqa: B905
            x = up(x)  # 28 -> 56, 52 -> 104, 100 -> 200, 196 -> 392
            x = torch.cat([centre_crop(skips.pop(), x), x], dim=1)
            x = block(x)  # 56 -> 52, 104 -> 100, 200 -> 196, 392 -> 388
        logits: Tensor = self.head(x)
        return logits


class PaddedUNet(ValidUNet):
    """The same network with zeros around every 3x3 convolution: output as large as the input.

    The common variant. Near the border it answers from zeros instead of context. Its geometry
    counts the pixels that see them as margin, so an `OverlapTileInferer` gives the same seamless
    result as with a valid network, at the price of computing them in vain.

    Args:
        arguments: as of `ValidUNet`.

    Shape:
        ``[B, in_channels, *S] -> [B, out_channels, *S]``, S a multiple of 2^(number of poolings).
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.kernel_size[0] == 3:
                module.padding = (1,) * self.spatial_dims
        valid = TileGeometry.unet(len(self.contract))
        margin, multiple, _ = valid.axis(0)
        # a pixel sees the margin around its aligned block
        self.geometry = TileGeometry.padded(margin + multiple - 1, multiple)

    def check_size(self, x: Tensor) -> None:
        """Refuse an image that cannot be pooled evenly.

        Raises:
            GeometryError: naming what its sides have to be multiples of.
        """
        multiple = self.geometry.axis(0)[1]
        if any(n % multiple for n in x.shape[2:]):
            raise GeometryError(f"input of size {tuple(x.shape[2:])}", f"multiples of {multiple}")
