"""Measure how far a network sees, and by which shifts its answers move with the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from overtile.networks.errors import GeometryError
from overtile.networks.geometry import TileGeometry


@dataclass(frozen=True)
class ReceptiveField:
    """What decides over a network's tiles, in pixels, the same along every axis.

    Attributes:
        radius: the farthest pixel that any output pixel sees.
        period: the smallest shift of the image that shifts the answer likewise, e.g. 2^(number of
            poolings); tiles start multiples of it apart.
    """

    radius: int
    period: int

    @property
    def geometry(self) -> TileGeometry:
        """For a network whose output is as large as its input."""
        return TileGeometry.padded(self.radius, self.period)


def measure_receptive_field(
    network: nn.Module, size: int, in_channels: int = 1, spatial_dims: int = 2
) -> ReceptiveField:
    """Run the network on shifted images, and on images with one pixel that is no number.

    Args:
        network: ``[B, C, *S] -> [B, K, *T]``, S and T concentric; is put into evaluation mode for
            the time being. One that replaces NaN, or normalises by statistics of the image, sees
            everything.
        size: of the images along every axis, one that the network takes. It has to be more than
            four times the radius that is found.
        in_channels: channels of the images.
        spatial_dims: 2 or 3.

    Raises:
        GeometryError: if the radius may be larger than what an image of this size shows.
    """
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            period = _period(network, size, in_channels, spatial_dims)
            return ReceptiveField(_radius(network, size, in_channels, spatial_dims, period), period)
    finally:
        network.train(training)


def _period(network: nn.Module, size: int, channels: int, dims: int) -> int:
    """The smallest shift, along all axes at once, that keeps the centre of the answer."""
    most = size // 4
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randn(1, channels, *[size + most] * dims, generator=generator)
    first = network(_cut(canvas, 0, size))
    for shift in range(1, most):
        shifted = network(_cut(canvas, shift, size))
        n = first.shape[-1]
        low, high = n // 2 - n // 8, n // 2 + n // 8
        one = _cut(first, low, high - low)
        other = _cut(shifted, low - shift, high - low)
        if torch.allclose(one, other, atol=1e-4 * float(one.abs().max())):
            return shift
    raise GeometryError(
        f"images of {size} pixels: no shift below {most} moves the answer with the image",
        "a network of convolutions and poolings",
        "give a larger size, or put statistics of the image (instance normalisation) away",
    )


def _radius(network: nn.Module, size: int, channels: int, dims: int, period: int) -> int:
    first, farthest = size // 2 // period * period, 0
    for place in range(first, first + period):  # a pixel's place in its window matters
        image = torch.zeros(1, channels, *[size] * dims)
        _cut(image, place, 1).fill_(torch.nan)
        answer = network(image)
        spoilt = answer[0].isnan().any(0).nonzero()
        inside = (size - answer.shape[-1]) // 2
        if len(spoilt):
            farthest = max(farthest, int((spoilt + inside - place).abs().max()))
    if farthest >= size // 4:
        raise GeometryError(
            f"images of {size} pixels: an output pixel sees {farthest} pixels or more",
            "less than a quarter of the image",
            "give a larger size",
        )
    return farthest


def _cut(image: Tensor, start: int, size: int) -> Tensor:
    for axis in range(2, image.ndim):
        image = image.narrow(axis, start, size)
    return image
