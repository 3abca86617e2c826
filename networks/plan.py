"""Which U-Net suits volumes of a spacing and an extent, and on which tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from overtile.networks.errors import ArgumentError, GeometryError
from overtile.networks.geometry import TileGeometry
from overtile.networks.inferers.cost import peak_bytes
from overtile.networks.inferers.tile_size import largest_tile
from overtile.networks.nets.unet import PaddedUNet, ValidUNet

_ALONE = 1.5  # times as long an axis has to be to be pooled without another (nnU-Net)
_CUBIC = 2  # spacings that differ by less than this factor count as equal (nnU-Net)
_SHORTEST = 4  # voxels that an axis keeps on the coarsest level (nnU-Net)
_DEFAULT_MEMORY = 2 * 1024**3


@dataclass(frozen=True)
class UNetPlan:
    """A U-Net and its tile, as `plan_unet` chose them.

    Attributes:
        features: channels of each level, top to bottom.
        kernel_size: of each level, one number an axis.
        strides: of each pooling, one number an axis.
        tile: input size, one number an axis.
        padded: whether the network is a `PaddedUNet`.
    """

    features: tuple[int, ...]
    kernel_size: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    tile: tuple[int, ...]
    padded: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """For `ValidUNet` or `PaddedUNet`, or for a configuration: what JSON can hold."""
        return {
            "spatial_dims": len(self.tile),
            "features": list(self.features),
            "kernel_size": [list(level) for level in self.kernel_size],
            "strides": [list(pool) for pool in self.strides],
        }

    def network(self, in_channels: int = 1, out_channels: int = 2, **more: Any) -> ValidUNet:
        """The network, with new weights; ``more`` as of `ValidUNet`."""
        kind = PaddedUNet if self.padded else ValidUNet
        return kind(in_channels=in_channels, out_channels=out_channels, **self.arguments, **more)


def plan_unet(
    spacing: Sequence[float],
    extent: Sequence[float],
    features: Sequence[int] = (64, 128, 256, 512, 1024),
    memory_limit: int = _DEFAULT_MEMORY,
    most_voxels: int | None = None,
    in_channels: int = 1,
    out_channels: int = 2,
    padded: bool = False,
) -> UNetPlan:
    """Kernels and strides a level, and a tile, from how volumes are sampled and how long they are.

    For equal spacing and images that are large enough it is the paper's network. The rules, level
    by level from the top, each for one axis:

    1. The kernel is 1 until the spacing on that level is less than twice the finest, then 3:
       neighbours that lie far apart say less about a voxel than those nearby, and a kernel should
       look about equally far in space. From the first 3 on it stays (nnU-Net). The finest is taken
       over the axes that can still be pooled; others would stay the finest for ever.
    2. Of the axes that can be pooled, those whose spacing is less than twice the finest are pooled,
       so that voxels become about cubic and stay so (nnU-Net).
    3. An axis can be pooled while 4 voxels of the volume are left on the coarser level: with
       fewer there is nothing to convolve (nnU-Net).
    4. An axis of a valid network can be pooled while its margin stays within the extent: farther
       out lies the mirror image of what the network has seen already, and a tile would be mostly
       that. Where levels follow for the sake of other axes, this one gets kernels of 1 again, from
       the bottom up, until its margin is within the extent. A single section is never convolved.
       No axis is pooled alone unless it is half as long again as rules 3 and 4 ask, for its
       voxels would not stay cubic (nnU-Net, for rule 3).
    5. The tile is the largest within the budget, and no larger than one pass over the volume
       needs (the paper's section 3 favours large tiles over large batches). Its output grows by
       as many alignments on each axis, so it is about cubic in space.
    6. If the budget allows no tile, or, in a valid network, only one whose output is shorter along
       an axis than its margin and than the volume (in 3D less than a 27th of what is computed),
       the network gets one level less.

    The tile of a padded network is one to train on; at inference the tiles of an
    `OverlapTileInferer` carry its margin besides.

    Args:
        spacing: size of a voxel along each axis, in any unit, in the order of the array's axes.
        extent: size of the volumes in voxels, e.g. the median over a data set; rounded up.
        features: channels of as many levels as there may be, top to bottom; the deepest may be
            left out.
        memory_limit: bytes that the activations of a forward pass over one tile may take, as
            `peak_bytes` predicts them. Training keeps every map for its gradient and takes a few
            times as much.
        most_voxels: voxels that a tile may have at most, for a budget of time.
        in_channels: of the volumes.
        out_channels: classes.
        padded: plan a `PaddedUNet`.

    Raises:
        ValueError: for another number of axes than 2 or 3, a spacing that is not above 0, an
            extent below 1, or volumes that are too short to be pooled.
        GeometryError: if the budget allows no tile for any depth.

    Sources:
        Isensee, Jaeger, Kohl, Petersen, Maier-Hein: nnU-Net (Nature Methods 2021), its rules for
        the topology of a network (`get_pool_and_conv_props` in its code); Cicek, Abdulkadir,
        Lienkamp, Brox, Ronneberger: 3D U-Net (MICCAI 2016), the valid network of equal axes.

    Example:
        >>> plan = plan_unet((5.0, 1.0, 1.0), (30, 200, 200), features=(8, 16, 32, 64))
        >>> plan.kernel_size
        ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
        >>> plan.strides
        ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    """
    size = _checked(spacing, extent)
    if len(features) < 2:
        raise ArgumentError(f"features {tuple(features)}", "at least two levels")
    kernels, strides = _levels(spacing, size, len(features), padded)
    if not strides:
        raise ArgumentError(
            f"extent {_as_text(size)} at spacing {_as_text(spacing)}",
            f"at least {2 * _SHORTEST} voxels along two axes of about the same spacing, or "
            f"{int(2 * _SHORTEST * _ALONE)} along one, so that a U-Net can pool",
        )
    for depth in range(len(strides), 0, -1):
        kept, pools = kernels[: depth + 1], strides[:depth]
        if not padded:
            kept = _within(kept, pools, size)
        widths = tuple(map(int, features[: depth + 1]))
        plan = UNetPlan(widths, kept, pools, size, padded)
        with torch.device("meta"):
            network = plan.network(in_channels, out_channels).eval()
        geometry = _patches(pools) if padded else network.geometry

        def needs(tile: tuple[int, ...], network: ValidUNet = network) -> int:
            if most_voxels is not None and math.prod(tile) > most_voxels:
                return memory_limit + 1
            return peak_bytes(network, (1, in_channels, *tile))

        try:
            tile = largest_tile(needs, size, geometry, memory_limit)
        except GeometryError:
            continue
        if depth == 1 or _answers_enough(tile, geometry, size):
            return replace(plan, tile=tile)
    voxels = "" if most_voxels is None else f" and most_voxels of {most_voxels}"
    raise GeometryError(
        f"memory_limit of {memory_limit} bytes{voxels}",
        "enough for one tile of a network with a single pooling",
        "raise it, or give fewer features",
    )


def _checked(spacing: Sequence[float], extent: Sequence[float]) -> tuple[int, ...]:
    """The extent in whole voxels."""
    if len(spacing) not in (2, 3):
        raise ArgumentError(f"spacing {_as_text(spacing)}", "2 or 3 numbers, one an axis")
    if not all(0 < s < math.inf for s in spacing):
        raise ArgumentError(f"spacing {_as_text(spacing)}", "numbers above 0")
    if len(extent) != len(spacing) or not all(1 <= n < math.inf for n in extent):
        raise ArgumentError(
            f"extent {_as_text(extent)}", f"{len(spacing)} numbers of voxels, at least 1 an axis"
        )
    return tuple(math.ceil(n) for n in extent)


def _levels(
    spacing: Sequence[float], extent: Sequence[int], most: int, padded: bool
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Kernels and strides of at most so many levels, by the first four rules."""
    axes = range(len(extent))
    now, left = list(spacing), list(extent)  # on the present level
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = []

    def can_be_pooled(axis: int, slack: float = 1) -> bool:
        if left[axis] < slack * 2 * _SHORTEST:
            return False
        above = [level[axis] for level in kernels[: len(strides)]]
        margin = _margin([*above, 3, 3], [*(pool[axis] for pool in strides), 2])
        return padded or slack * margin <= extent[axis]

    while True:
        poolable = [axis for axis in axes if can_be_pooled(axis)]
        while True:
            # a single section has no neighbours that could be near or far
            counted = poolable or [axis for axis in axes if extent[axis] > 1] or list(axes)
            finest = min(now[axis] for axis in counted)
            pooled = [axis for axis in poolable if now[axis] < _CUBIC * finest]
            if len(pooled) != 1 or can_be_pooled(pooled[0], _ALONE):
                break
            poolable.remove(pooled[0])
        near = [now[axis] < _CUBIC * finest for axis in axes]
        before = kernels[-1] if kernels else (1,) * len(extent)
        convolved = [extent[i] > 1 and (near[i] or before[i] == 3) for i in axes]
        kernels.append(tuple(3 if one else 1 for one in convolved))
        if not pooled or len(kernels) == most:
            return tuple(kernels), tuple(strides)
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            now[axis], left[axis] = 2 * now[axis], -(-left[axis] // 2)


def _margin(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Of a valid network along one axis."""
    return TileGeometry.unet(len(strides), kernel_size=kernels, strides=strides).axis(0)[0]


def _within(
    kernels: Sequence[Sequence[int]], strides: Sequence[Sequence[int]], extent: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """The kernels with 1 instead of 3, from the bottom up, where a margin exceeds the extent."""
    by_axis = []
    for axis, n in enumerate(extent):
        one, pools = [level[axis] for level in kernels], [pool[axis] for pool in strides]
        for level in reversed(range(len(one))):
            if _margin(one, pools) > n:
                one[level] = 1
        by_axis.append(one)
    return tuple(zip(*by_axis, strict=True))


def _patches(strides: Sequence[Sequence[int]]) -> TileGeometry:
    """The sizes that a padded network can be trained on."""
    multiples = [math.prod(pools) for pools in zip(*strides, strict=True)]
    return TileGeometry.padded([0] * len(multiples), multiples)


def _answers_enough(tile: Sequence[int], geometry: TileGeometry, extent: Sequence[int]) -> bool:
    return all(
        out >= min(geometry.axis(axis)[0], extent[axis])
        for axis, out in enumerate(geometry.output_size(tile))
    )


def _as_text(numbers: Sequence[float]) -> str:
    return "x".join(f"{n:g}" for n in numbers)
