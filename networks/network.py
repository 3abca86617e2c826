"""What every network of this package has, and what is asked of any other."""

from __future__ import annotations

from collections.abc import Iterator
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

    Attributes:
        tile_geometry: margin, multiple and minimum, as a scripted network keeps them.

    Raises:
        ValueError: for other dimensions.
    """

    __jit_unused_properties__ = ("geometry", "training_geometry")

    def __init__(self, spatial_dims: int, in_channels: int, geometry: TileGeometry) -> None:
        super().__init__()
        choose("spatial_dims", spatial_dims, (2, 3))
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.geometry = geometry

    @property
    def geometry(self) -> TileGeometry:
        """The sizes that this network takes."""
        return TileGeometry(*self.tile_geometry)

    @geometry.setter
    def geometry(self, geometry: TileGeometry) -> None:
        self.tile_geometry = (geometry.margin, geometry.multiple, geometry.minimum)

    @property
    def training_geometry(self) -> TileGeometry:
        """The sizes of one pass, as a network is trained.

        A padded network answers for all of a tile, from zeros beyond the edge; its ``geometry`` has
        what these reach as margin.
        """
        return self.geometry

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
        if not self.geometry.valid(x.shape[2:]):
            self.check_sections(x)
        self.geometry.check(x.shape[2:])

    def check_sections(self, x: Tensor) -> None:
        """Refuse a single section for a network that pools across sections.

        Raises:
            GeometryError: naming the axis and what the network needs to be instead.
        """
        for axis, n in enumerate(x.shape[2:]):
            multiple = self.geometry.axis(axis)[1]
            if n == 1 and multiple > 1:
                images = ", or spatial_dims=2 for images" if self.spatial_dims == 3 else ""
                raise GeometryError(
                    f"input of size {tuple(x.shape[2:])}: one pixel along axis {axis}, where the "
                    f"network pools by {multiple}",
                    "more pixels, or a network that does not pool there",
                    f"give kernel_size and strides of 1 along that axis{images}; "
                    "OverlapTileInferer extends any image by its mirror",
                )

    def put_channels_innermost(self) -> None:
        """Store the weights in the layout in which CPU and GPU convolve fastest."""
        layout = torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d
        for weight in self.parameters():
            if weight.ndim == self.spatial_dims + 2:
                # with one channel both layouts count as contiguous; only a clone gets its strides
                weight.data = weight.data.clone(memory_format=layout)


def geometry_of(network: Any) -> TileGeometry:
    """The geometry that a network owns, also scripted and behind wrappers.

    These are DataParallel, compile, `functools.partial` and bound methods.

    Raises:
        GeometryError: if it has none; the message says how to give one.
    """
    for candidate in unwrapped(network):
        geometry = getattr(candidate, "geometry", None)
        if isinstance(geometry, TileGeometry):
            return geometry
        if isinstance(candidate, torch.jit.ScriptModule) and hasattr(candidate, "tile_geometry"):
            return TileGeometry(*candidate.tile_geometry)
    name = type(network).__name__
    raise GeometryError(
        f"{name} has no geometry, so exact tiles cannot be planned",
        "a network of overtile.networks, or OverlapTileInferer(geometry=TileGeometry.padded("
        "radius=R, multiple=M))",
        "overtile.networks.measure_receptive_field finds both numbers",
    )


def unwrapped(network: Any) -> Iterator[Any]:
    """A network, and what it wraps, from the outside in."""
    for _ in range(8):  # a wrapper may name itself
        yield network
        inner = (getattr(network, n, None) for n in ("module", "_orig_mod", "func", "__self__"))
        network = next((one for one in inner if one is not None), None)
        if network is None:
            return


def whole_image_layer(network: Any) -> str | None:
    """The first layer whose answer depends on all of the image that it is given, if one does.

    These are normalisations by statistics of the image at hand, global poolings and attention. Such
    a network answers otherwise for a tile than for the whole image.

    Returns:
        Its name and kind.
    """
    for candidate in unwrapped(network):
        if isinstance(candidate, nn.Module):
            for name, module in candidate.named_modules():
                if _sees_everything(module):
                    kind = getattr(module, "original_name", type(module).__name__)  # scripted
                    return f"{name} ({kind})" if name else str(kind)
            return None
    return None


def _sees_everything(module: nn.Module) -> bool:
    kind = str(getattr(module, "original_name", type(module).__name__))
    own = {kind, *(base.__name__ for base in type(module).__mro__)}
    if any(name.startswith(("BatchNorm", "SyncBatchNorm", "InstanceNorm")) for name in own):
        batch = any("BatchNorm" in name for name in own)
        return getattr(module, "running_mean", None) is None or (batch and module.training)
    if "LayerNorm" in own:  # of the channels alone it asks one pixel
        return len(getattr(module, "normalized_shape", ())) > 1
    everything = ("GroupNorm", "AdaptiveAvgPool", "AdaptiveMaxPool", "MultiheadAttention")
    return any(name.startswith((*everything, "SABlock")) for name in own)


def choose(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse an argument that is none of the choices.

    Raises:
        ValueError: naming them.
    """
    if value not in choices:
        raise ArgumentError(f"{name}={value!r}", f"one of {', '.join(map(repr, choices))}")
