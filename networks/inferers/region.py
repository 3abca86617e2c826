"""Answers of a network for one region of an image that is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from overtile.networks.errors import GeometryError
from overtile.networks.geometry import TileGeometry
from overtile.networks.inferers.averaging import RotationAveragingInferer, Turns
from overtile.networks.inferers.cost import PassCost, exact_memory, pass_cost
from overtile.networks.inferers.overlap_tile import OverlapTileInferer
from overtile.networks.inferers.precision import MixedPrecisionInferer
from overtile.networks.inferers.spacing import SpacingInferer
from overtile.networks.inferers.tiling import Tile, plan_tiles, read_tile
from overtile.networks.network import geometry_of, whole_image_layer

Box = tuple[slice, ...]


class RegionInferer:
    """Run an inferer on one region of an image: what it would answer there for the whole image.

    The region comes in a window with `reach` pixels around it. Tiles start at multiples of the
    network's alignment, counted from the image's origin, and in a rotated version from the origin
    of the rotated image; so every pixel is computed as in a pass over the whole image.

    Args:
        inferer: an `OverlapTileInferer`, alone or in a `RotationAveragingInferer`, a
            `MixedPrecisionInferer` or both, and all of it in a `SpacingInferer` perhaps, whose
            spacing the image has to have: a region is not resampled.
        network: that answers, in evaluation mode.
        spatial_dims: 2 or 3.

    Attributes:
        spacing: of the `SpacingInferer`; None without one.

    Raises:
        GeometryError: for another inferer, whose answer depends on where its windows lie, or a
            network without a geometry; when called, for a network with a layer that sees all of its
            input, unless one tile is the whole image, or with outputs of lower resolution.
    """

    def __init__(
        self, inferer: Inferer, network: Callable[..., Any], spatial_dims: int = 2
    ) -> None:
        self.whole = inferer
        self.averaging: RotationAveragingInferer | None = None
        self.network, self.half, found = network, False, inferer
        self.spacing: tuple[float, ...] | None = None
        if isinstance(found, SpacingInferer):
            self.spacing, found = found.spacing, found.inferer
        weight = next(network.parameters(), None) if isinstance(network, nn.Module) else None
        self.device = torch.device("cpu") if weight is None else weight.device
        while not isinstance(found, OverlapTileInferer):
            if isinstance(found, RotationAveragingInferer):
                self.averaging = found
            elif isinstance(found, MixedPrecisionInferer):
                self.half = found.is_half(self.device.type)
            else:
                raise GeometryError(
                    f"inferer {type(found).__name__}: its answer depends on where its windows lie",
                    "overtile.networks.OverlapTileInferer as its _target_",
                )
            found = found.inferer
        self.tiles = found
        self.geometry: TileGeometry = found.geometry or geometry_of(network)
        self.axes = tuple(self.geometry.axis(axis) for axis in range(spatial_dims))
        self.turns = Turns((-2, -1), (0,))
        if self.averaging is not None:
            self.turns = self.averaging.turns(network, spatial_dims)

    @property
    def multiple(self) -> tuple[int, ...]:
        """What a region's start has to be a multiple of, along each axis."""
        return tuple(multiple for _, multiple, _ in self.axes)

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the window has to reach beyond a region on every side.

        More than the margin, because in a rotated version the region is not aligned.
        """
        # axes that are turned into each other have one geometry
        return tuple(margin + multiple for margin, multiple, _ in self.axes)

    def tile_size(
        self, region: Sequence[int], memory_limit: int, channels: int = 1
    ) -> tuple[int, ...]:
        """The largest input size of a tile for a region, within the inferer's own limits too.

        Args:
            region: size.
            memory_limit: bytes that the activations of one forward pass may take.
            channels: of the input.

        Raises:
            GeometryError: if even the smallest tile needs more.
        """
        image = torch.empty(1, device=self.device).expand(1, channels, *region)
        with self.precision():
            return self.tiles.tile_size(
                image,
                self.geometry,
                lambda tile: self._cost(channels, tile),
                memory_limit,
            )

    def _cost(self, channels: int, tile: Sequence[int]) -> PassCost:
        return pass_cost(self.network, (self.tiles.sw_batch_size, channels, *tile))

    def precision(self) -> torch.autocast:
        """A context in which the network computes as precisely as its inferer wants."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def __call__(
        self, window: Tensor, region: Box, image: Sequence[int], roi: Sequence[int]
    ) -> Any:
        """Answers ``[B, K, *R]`` for a region, in the structure in which the network gives them.

        Args:
            window: ``[B, C, *W]``: the region and `reach` pixels around it, mirrored where the
                image ends.
            region: in pixels of the image.
            image: size of the image.
            roi: largest input size of a tile.
        """
        average = self.averaging
        cpu = self.device.type == "cpu"
        with self.precision():
            peak = self._cost(window.shape[1], roi).peak if cpu else 0
            with exact_memory(peak):
                if average is None or average.versions == 1:
                    return self._version(window, region, image, roi, 0)
                return average.average_of(self._turned(window, region, image, roi))

    def _turned(
        self, window: Tensor, region: Box, image: Sequence[int], roi: Sequence[int]
    ) -> Iterator[Any]:
        for version in self.turns.versions:
            yield self.turns.back(self._version(window, region, image, roi, version), version)

    def _version(
        self, window: Tensor, region: Box, image: Sequence[int], roi: Sequence[int], version: int
    ) -> Any:
        spans = [(s.start, s.stop, n) for s, n in zip(region, image, strict=True)]
        spans = turned_spans(spans, version, self.turns.plane)
        window = self.turns.turn(window, version)
        reach = self.reach
        starts = [
            a // multiple * multiple
            for (a, _, _), (_, multiple, _) in zip(spans, self.axes, strict=True)
        ]
        sizes = [b - a for a, (_, b, _) in zip(starts, spans, strict=True)]
        # where the aligned start lies in the window
        origin = [a - first + r for a, (first, _, _), r in zip(starts, spans, reach, strict=True)]

        def read(number: int, tile: Tile) -> Tensor:
            place = tuple(o + s for o, s in zip(origin, tile.start, strict=True))
            # what lies beyond the window is seen only by pixels that are not asked for
            one = window[number : number + 1]
            return read_tile(one, Tile(place, tile.size, tile.write), "replicate")

        tiling = plan_tiles(sizes, self.geometry, roi)
        if len(tiling) > 1 or any(size < n for size, (_, _, n) in zip(sizes, spans, strict=True)):
            refuse_whole_image_layers(self.network)
        result = self.tiles.run_tiles(tiling, read, self.network, window.shape[0], quiet=True)
        for one in tree_leaves(result):
            if one.shape[2:] != tuple(sizes):
                raise GeometryError(
                    f"an output of {tuple(one.shape[2:])} of a region of {tuple(sizes)}",
                    "outputs as large as the image",
                    "leave out those of lower resolution (deep supervision)",
                )
        ahead = [first - a for a, (first, _, _) in zip(starts, spans, strict=True)]
        asked = (slice(None), slice(None), *(slice(n, None) for n in ahead))
        return tree_map(lambda one: one[asked], result)


def refuse_whole_image_layers(network: Any) -> None:
    """Raise a `GeometryError` for a network that answers a part otherwise than in the whole."""
    if layer := whole_image_layer(network):
        raise GeometryError(
            f"network layer {layer}: its answer depends on all of its input, so no part of an "
            "image is answered as in the whole",
            "layers that see a neighbourhood",
            "use normalisation by running statistics",
        )


def turned_spans(
    spans: Sequence[tuple[int, int, int]], version: int, plane: tuple[int, int] = (-2, -1)
) -> list[tuple[int, int, int]]:
    """Where a box lies once the image is turned as `turn` does.

    Args:
        spans: start, stop and size of the image, along each axis.
        version: 0 to 7.
        plane: the axes that are turned.
    """
    turned, (first, second) = list(spans), plane
    if version >= 4:
        turned[second] = _flipped(turned[second])
    for _ in range(version % 4):
        turned[first], turned[second] = _flipped(turned[second]), turned[first]
    return turned


def _flipped(span: tuple[int, int, int]) -> tuple[int, int, int]:
    start, stop, size = span
    return size - stop, size - start, size
