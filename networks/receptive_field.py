"""Measure how far a network sees, and by which shifts its answers move with the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from overtile.networks.errors import GeometryError
from overtile.networks.geometry import TileGeometry


@dataclass(frozen=True)
class ReceptiveField:
    """What decides over a network's tiles, in pixels.

    Each is an ``int`` where it is the same along every axis, else a tuple with one an axis.

    Attributes:
        radius: the farthest pixel that any output pixel sees.
        period: the smallest shift of the image that shifts the answer likewise, e.g. 2^(number of
            poolings); tiles start multiples of it apart.
    """

    radius: int | tuple[int, ...]
    period: int | tuple[int, ...]

    @property
    def geometry(self) -> TileGeometry:
        """For a network whose output is as large as its input."""
        return TileGeometry.padded(self.radius, self.period)


def measure_receptive_field(
    network: nn.Module, size: int | Sequence[int], in_channels: int = 1, spatial_dims: int = 2
) -> ReceptiveField:
    """Run the network on shifted images, and on images with one pixel that is no number.

    Args:
        network: ``[B, C, *S] -> [B, K, *T]``, S and T concentric; is put into evaluation mode for
            the time being. One that replaces NaN, or normalises by statistics of the image, sees
            everything.
        size: of the images, along every axis or one an axis, that the network takes. Along each
            it has to be at least 8, and more than four times the radius that is found.
        in_channels: channels of the images.
        spatial_dims: 2 or 3.

    Raises:
        GeometryError: if the radius may be larger than what an image of this size shows.
    """
    sizes = (int(size),) * spatial_dims if isinstance(size, SupportsIndex) else tuple(size)
    if len(sizes) != spatial_dims:
        raise GeometryError(f"size {sizes}", f"{spatial_dims} numbers, one an axis")
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            periods = [_period(network, sizes, in_channels, axis) for axis in range(spatial_dims)]
            radii = _radius(network, sizes, in_channels, periods)
    finally:
        network.train(training)
    return ReceptiveField(_same(radii), _same(periods))


def _same(numbers: Sequence[int]) -> int | tuple[int, ...]:
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def _period(network: nn.Module, sizes: Sequence[int], channels: int, axis: int) -> int:
    """The smallest shift along an axis that keeps the centre of the answer."""
    size, along = sizes[axis], axis + 2
    most = size // 4
    generator = torch.Generator().manual_seed(0)
    whole = [n + most if i == axis else n for i, n in enumerate(sizes)]
    canvas = torch.randn(1, channels, *whole, generator=generator)
    first = network(canvas.narrow(along, 0, size))
    for shift in range(1, most):
        shifted = network(canvas.narrow(along, shift, size))
        n = first.shape[along]
        low, high = n // 2 - n // 8, n // 2 + n // 8
        one = first.narrow(along, low, high - low)
        other = shifted.narrow(along, low - shift, high - low)
        if torch.allclose(one, other, atol=1e-4 * float(one.abs().max())):
            return shift
    raise GeometryError(
        f"images of {size} pixels: no shift below {most} moves the answer with the image",
        "a network of convolutions and poolings",
        "give a larger size, or put statistics of the image (instance normalisation) away",
    )


def _radius(
    network: nn.Module, sizes: Sequence[int], channels: int, periods: Sequence[int]
) -> list[int]:
    first = [n // 2 // period * period for n, period in zip(sizes, periods, strict=True)]
    farthest = [0] * len(sizes)
    for step in range(math.lcm(*periods)):  # a pixel's place in its window matters
        places = [start + step % period for start, period in zip(first, periods, strict=True)]
        image = torch.zeros(1, channels, *sizes)
        pixel: tuple[slice | int, ...] = (slice(None), slice(None), *places)
        image[pixel] = torch.nan
        answer: Tensor = network(image)
        spoilt = answer[0].isnan().any(0).nonzero()
        for axis, place in enumerate(places if len(spoilt) else ()):
            inside = (sizes[axis] - answer.shape[axis + 2]) // 2
            reach = int((spoilt[:, axis] + inside - place).abs().max())
            farthest[axis] = max(farthest[axis], reach)
    for size, radius in zip(sizes, farthest, strict=True):
        if radius >= size // 4:
            raise GeometryError(
                f"images of {size} pixels: an output pixel sees {radius} pixels or more",
                "less than a quarter of the image",
                "give a larger size",
            )
    return farthest
