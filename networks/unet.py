"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), with valid convolutions.

Shapes in the comments are those of the paper's configuration on a 572x572 tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from overtile.networks.geometry import GeometryError, TileGeometry

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_DECONV = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class ValidUNet(nn.Module):
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
        super().__init__()
        _choose("spatial_dims", spatial_dims, (2, 3))
        _choose("up", up, ("deconv", "nearest"))
        _choose("down", down, ("maxpool", "conv"))
        if len(features) < 2 or any(int(f) < 1 for f in features):
            raise ValueError(f"features {tuple(features)}: expected at least two positive numbers")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout}: expected a probability, 0 <= dropout < 1")
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        depth = len(features) - 1
        self.geometry = TileGeometry.unet(depth)
        dims, widths = spatial_dims, list(features)
        pairs = list(pairwise(widths))  # (upper, lower) level
        drop = [dropout if level >= max(1, depth - 1) else 0.0 for level in range(depth + 1)]

        contract = [
            _double_convolution(dims, before, width, p)
            for before, width, p in zip([in_channels, *widths], widths, drop, strict=False)
        ]
        self.contract, self.bottom = nn.ModuleList(contract[:-1]), contract[-1]
        self.down = nn.ModuleList(_down(dims, upper, down) for upper, _ in pairs)
        self.up = nn.ModuleList(_up(dims, lower, upper, up) for upper, lower in reversed(pairs))
        self.expand = nn.ModuleList(
            _double_convolution(dims, 2 * upper, upper) for upper, _ in reversed(pairs)
        )
        self.head = _CONV[dims](widths[0], out_channels, kernel_size=1)
        self.apply(_initialise)
        # channels innermost: the layout in which CPU and GPU convolve fastest
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        for weight in self.parameters():
            if weight.ndim == dims + 2:
                # with one channel both layouts count as contiguous; only a clone gets its strides
                weight.data = weight.data.clone(memory_format=layout)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, out_channels, *out]`` of an image ``[B, in_channels, *in]``."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_image(x)
            self._check_size(x)
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

    def check_image(self, x: Tensor) -> None:
        """Refuse what is no batch of images for this network, of whatever size.

        Raises:
            ValueError: for another number of axes or channels, or another type than the weights.
        """
        axes = "H, W" if self.spatial_dims == 2 else "D, H, W"
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected [B, {self.in_channels}, {axes}]"
            )
        weights = self.head.weight
        if x.dtype == weights.dtype or weights.is_meta:
            return
        if not torch.is_autocast_enabled(weights.device.type):
            raise ValueError(
                f"input of {x.dtype}: expected {weights.dtype}, as the weights; convert it with "
                f".to({weights.dtype})"
            )

    def _check_size(self, x: Tensor) -> None:
        self.geometry.check(x.shape[2:])


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

    def _check_size(self, x: Tensor) -> None:
        multiple = self.geometry.axis(0)[1]
        if any(n % multiple for n in x.shape[2:]):
            raise GeometryError(
                f"input of size {tuple(x.shape[2:])}: expected multiples of {multiple}"
            )


class _MaxPool2d(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and _pools_by_maximum(x):  # type: ignore[attr-defined]
            return _maximum_of_two(_maximum_of_two(x, 2), 3)
        return nn.functional.max_pool2d(x, 2)


def _pools_by_maximum(x: Tensor) -> bool:
    # PyTorch's pooling on CPU also stores where each maximum was, in 64 bits: four times slower,
    # and as large as the map itself. Training needs these places.
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def _maximum_of_two(x: Tensor, axis: int) -> Tensor:
    """Maximum over pairs of neighbours along an axis of even length."""
    even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
    return torch.maximum(even, odd)


def centre_crop(x: Tensor, like: Tensor) -> Tensor:
    """The centre of ``x`` in the spatial size of ``like``; the difference is always even."""
    for axis in range(2, x.ndim):
        size = like.shape[axis]
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x


def _double_convolution(dims: int, before: int, width: int, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [_CONV[dims](channels, width, kernel_size=3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))


def _down(dims: int, width: int, kind: str) -> nn.Module:
    if kind == "maxpool":
        return _MaxPool2d(kernel_size=2) if dims == 2 else nn.MaxPool3d(kernel_size=2)
    return _CONV[dims](width, width, kernel_size=2, stride=2)


def _up(dims: int, lower: int, upper: int, kind: str) -> nn.Module:
    if kind == "deconv":
        return _DECONV[dims](lower, upper, kernel_size=2, stride=2)
    # the 1x1 convolution commutes with nearest-neighbour up-sampling: first it, on fewer pixels
    return nn.Sequential(_CONV[dims](lower, upper, kernel_size=1), nn.Upsample(scale_factor=2))


def _initialise(module: nn.Module) -> None:
    if not isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return
    taps = module.weight[0, 0].numel()
    if isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
        taps = 1  # stride = kernel size: each output neuron meets one tap of each input channel
    nn.init.normal_(module.weight, std=(2.0 / (module.in_channels * taps)) ** 0.5)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _choose(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")
