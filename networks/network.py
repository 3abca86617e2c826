"""What every network of this package has, and what is asked of any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from overtile.networks.errors import ArgumentError, GeometryError
from overtile.networks.geometry import TileGeometry


class Network(nn.Module):
    """A network that knows which images and which sizes it takes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        geometry: the sizes.

    Raises:
        ValueError: for other dimensions.
    """

    def __init__(self, spatial_dims: int, in_channels: int, geometry: TileGeometry) -> None:
        super().__init__()
        choose("spatial_dims", spatial_dims, (2, 3))
        self.spatial_dims, self.in_channels, self.geometry = spatial_dims, in_channels, geometry

    def check_image(self, x: Tensor) -> None:
        """Refuse what is no batch of images for this network, of whatever size.

        Raises:
            ValueError: for another number of axes or channels, or another type than the weights.
        """
        axes = "H, W" if self.spatial_dims == 2 else "D, H, W"
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise ArgumentError(
                f"input of shape {tuple(x.shape)}", f"[B, {self.in_channels}, {axes}]"
            )
        weights = next(self.parameters())
        if x.dtype == weights.dtype or weights.is_meta:
            return
        if not torch.is_autocast_enabled(weights.device.type):
            raise ArgumentError(
                f"input of {x.dtype}",
                f"{weights.dtype}, as the weights",
                f"convert it with .to({weights.dtype})",
            )

    def check_size(self, x: Tensor) -> None:
        """Refuse an image of a size that cannot be computed without cropping or padding.

        Raises:
            GeometryError: naming the nearest sizes that can.
        """
        self.geometry.check(x.shape[2:])

    def put_channels_innermost(self) -> None:
        """Store the weights in the layout in which CPU and GPU convolve fastest."""
        layout = torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d
        for weight in self.parameters():
            if weight.ndim == self.spatial_dims + 2:
                # with one channel both layouts count as contiguous; only a clone gets its strides
                weight.data = weight.data.clone(memory_format=layout)


def geometry_of(network: Any) -> TileGeometry:
    """The geometry that a network owns, also behind the wrappers of DataParallel and compile.

    Raises:
        GeometryError: if it has none; the message says how to give one.
    """
    for candidate in (
        network,
        getattr(network, "module", None),
        getattr(network, "_orig_mod", None),
    ):
        geometry = getattr(candidate, "geometry", None)
        if isinstance(geometry, TileGeometry):
            return geometry
    name = type(network).__name__
    raise GeometryError(
        f"{name} has no geometry, so exact tiles cannot be planned",
        "a network of overtile.networks, or OverlapTileInferer(geometry=TileGeometry.padded("
        "radius=R, multiple=M))",
        "overtile.networks.measure_receptive_field finds both numbers",
    )


def choose(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse an argument that is none of the choices.

    Raises:
        ValueError: naming them.
    """
    if value not in choices:
        raise ArgumentError(f"{name}={value!r}", f"one of {', '.join(map(repr, choices))}")
