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
from overtile.networks.geometry import PerLevel, TileGeometry, per_level
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
        kernel_size: of the two convolutions of each level, both ways: 3, the paper's, or a
            sequence with one entry a level, top to bottom, each 1 or 3, for all axes or with one
            number an axis. As of nnU-Net and of MONAI's ``DynUNet``.
        strides: of the poolings and up-convolutions: 2, the paper's, or a sequence with one entry
            a pooling, each 1 or 2, likewise. Along an axis where both are 1 a level neither
            consumes context nor pools: thick sections are kept apart until voxels are about
            cubic. `overtile.networks.plan_unet` chooses both.
        norm: None, the paper's, or ``"batch"``, batch normalisation between each convolution and
            its ReLU: training goes faster, and in 3D comes further. In evaluation mode it is one
            factor and one summand a channel, so that tiles stay exact.

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
        kernel_size: PerLevel = 3,
        strides: PerLevel = 2,
        norm: str | None = None,
    ) -> None:
        choose("up", up, ("deconv", "nearest"))
        choose("down", down, ("maxpool", "conv"))
        choose("norm", norm, (None, "batch"))
        if len(features) < 2 or any(int(f) < 1 for f in features):
            raise ArgumentError(f"features {tuple(features)}", "at least two positive numbers")
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout {dropout}", "a probability, 0 <= dropout < 1")
        choose("spatial_dims", spatial_dims, (2, 3))
        depth, dims, widths = len(features) - 1, spatial_dims, list(features)
        kernels = _choices("kernel_size", kernel_size, depth + 1, dims, (1, 3))
        pools = _choices("strides", strides, depth, dims, (1, 2))
        geometry = TileGeometry.unet(depth, kernel_size=kernels, strides=pools)
        super().__init__(spatial_dims, in_channels, geometry)
        pairs = list(pairwise(widths))  # (upper, lower) level
        drop = [dropout if level >= max(1, depth - 1) else 0.0 for level in range(depth + 1)]

        contract = [
            double_convolution(before, width, kernel, norm, p)
            for before, width, kernel, p in zip(
                [in_channels, *widths], widths, kernels, drop, strict=False
            )
        ]
        self.contract, self.bottom = nn.ModuleList(contract[:-1]), contract[-1]
        self.down = nn.ModuleList(
            downsampling(upper, down, pool) for (upper, _), pool in zip(pairs, pools, strict=True)
        )
        self.up = nn.ModuleList(
            upsampling(lower, upper, up, pool)
            for (upper, lower), pool in zip(reversed(pairs), reversed(pools), strict=True)
        )
        self.expand = nn.ModuleList(
            double_convolution(2 * upper, upper, kernel, norm)
            for (upper, _), kernel in zip(reversed(pairs), reversed(kernels[:-1]), strict=True)
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


def _choices(
    name: str, value: PerLevel, levels: int, axes: int, choices: tuple[int, int]
) -> tuple[tuple[int, ...], ...]:
    """One number a level and axis, each one of the choices."""
    try:
        numbers = per_level(name, value, levels, axes)
    except ArgumentError as error:
        first = name == "strides" and isinstance(value, (tuple, list)) and len(value) == levels + 1
        hint = "leave out the first, which DynUNet has for its first convolution" if first else ""
        raise ArgumentError(error.found, error.expected, hint) from None
    if any(n not in choices for level in numbers for n in level):
        raise ArgumentError(f"{name} {value!r}", "{} or {} along an axis".format(*choices))
    return numbers


class PaddedUNet(ValidUNet):
    """The same network with zeros around every convolution: output as large as the input.

    The common variant. Near the border it answers from zeros instead of context. Its geometry
    counts the pixels that see them as margin, so an `OverlapTileInferer` gives the same seamless
    result as with a valid network, at the price of computing them in vain.

    Args:
        arguments: as of `ValidUNet`.

    Shape:
        ``[B, in_channels, *S] -> [B, out_channels, *S]``, S along each axis a multiple of the
        product of its strides, 2^(number of poolings).
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):  # poolings' kernels of 2 need nothing
                module.padding = tuple((k - 1) // 2 for k in module.kernel_size)
        alike = isinstance(self.geometry.margin, int)
        axes = [self.geometry.axis(axis) for axis in range(1 if alike else self.spatial_dims)]
        # a pixel sees the margin around its aligned block
        radius = [margin + multiple - 1 for margin, multiple, _ in axes]
        multiples = [multiple for _, multiple, _ in axes]
        self.geometry = (
            TileGeometry.padded(radius[0], multiples[0])
            if alike
            else TileGeometry.padded(radius, multiples)
        )

    @property
    def training_geometry(self) -> TileGeometry:
        """As large an output as the input, whose sides can be pooled evenly."""
        multiple = self.geometry.multiple
        return TileGeometry(0, multiple, multiple)

    def check_size(self, x: Tensor) -> None:
        """Refuse an image that cannot be pooled evenly.

        Raises:
            GeometryError: naming what its sides have to be multiples of.
        """
        size = tuple(x.shape[2:])
        multiples = [self.geometry.axis(axis)[1] for axis in range(len(size))]
        if any(n % multiple for n, multiple in zip(size, multiples, strict=True)):
            self.check_sections(x)
            wanted = multiples[:1] if len(set(multiples)) == 1 else multiples
            raise GeometryError(
                f"input of size {size}", f"multiples of {', '.join(map(str, wanted))}"
            )
