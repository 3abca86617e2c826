"""Overlap-tile inference (figure 2 of the U-Net paper): seamless on images of any size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, SupportsIndex

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from overtile.networks.geometry import GeometryError, TileGeometry
from overtile.networks.memory import peak_bytes
from overtile.networks.tiling import PADDING_MODES, Tiling, plan_tiles, read_tile

_DEFAULT_MEMORY = 2 * 1024**3
# Arguments of SlidingWindowInferer that choose how overlapping answers are blended or
# buffered. Here no two tiles answer for the same pixel, so there is nothing to choose.
_WITHOUT_EFFECT = frozenset(
    "overlap mode sigma_scale cache_roi_weight_map cpu_thresh buffer_steps buffer_dim"
    " with_coord".split()
)


class OverlapTileInferer(Inferer):
    """Run a network tile by tile; the result is that of one pass over the whole mirrored image.

    Takes the argument names of `monai.inferers.SlidingWindowInferer`, so that a configuration
    changes only its ``_target_``. What decides over blending there (``overlap``, ``mode``, ...)
    is accepted with a warning and has no effect: every pixel is computed once, from its full
    context, and equals the whole-image pass up to float32 rounding.

    Args:
        roi_size: *input* size of a tile (the paper's 572): an int, one int an axis, or None to
            take the largest that ``memory_limit`` allows. An axis given as None or <= 0 gets
            as large as the image needs. Tiles may come out smaller, never larger.
        sw_batch_size: tiles per forward pass.
        padding_mode: context beyond the image: ``"reflect"`` (mirrored without doubling the
            edge, the paper's), ``"replicate"`` or ``"constant"``.
        sw_device: where the network runs; default: where the image is.
        device: where the result is put together; default: where the image is.
        progress: show a bar over tiles.
        memory_limit: bytes that the activations of one forward pass may take when ``roi_size``
            is None; default 2 GiB.
        geometry: sizes that the network takes, for networks without a ``geometry`` of their
            own. ``TileGeometry.padded(radius, multiple)`` describes a padded network by the
            radius of its receptive field; away from the image's border the result then is
            that of one pass over the whole image. Networks that normalise by batch or
            instance statistics in evaluation depend on the tile and are not covered.
        cval: the constant of ``padding_mode="constant"``.

    Raises:
        GeometryError: for a network without a geometry, or a ``roi_size`` that it cannot take.
        ValueError: for an argument out of range.

    Example:
        >>> from overtile.networks import ValidUNet
        >>> network = ValidUNet(features=(4, 8)).eval()
        >>> with torch.no_grad():
        ...     OverlapTileInferer(roi_size=34)(torch.rand(1, 1, 100, 61), network).shape
        torch.Size([1, 2, 100, 61])
    """

    def __init__(
        self,
        roi_size: int | Sequence[int | None] | None = None,
        sw_batch_size: int = 1,
        padding_mode: str = "reflect",
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        memory_limit: int | None = None,
        geometry: TileGeometry | None = None,
        cval: float = 0.0,
        **without_effect: Any,
    ) -> None:
        super().__init__()
        unknown = without_effect.keys() - _WITHOUT_EFFECT
        if unknown:
            raise TypeError(f"OverlapTileInferer has no argument {', '.join(sorted(unknown))}")
        if without_effect.get("with_coord"):
            raise TypeError("with_coord=True: this inferer hands no coordinates to the network")
        if without_effect:
            warnings.warn(
                f"{', '.join(sorted(without_effect))}: no effect, exact tiles are not blended",
                stacklevel=2,
            )
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode={padding_mode!r}: expected one of {PADDING_MODES}")
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size={sw_batch_size}: expected at least 1")
        self.roi_size, self.sw_batch_size = roi_size, sw_batch_size
        self.padding_mode, self.cval = padding_mode, cval
        self.sw_device, self.device = sw_device, device
        self.progress, self.memory_limit, self.geometry = progress, memory_limit, geometry

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Output ``[B, K, *S]`` of ``network`` for ``inputs`` of ``[B, C, *S]``, any S >= 1.

        Further arguments go to the network. A `MetaTensor` comes back as one, with its
        metadata.
        """
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        geometry = self.geometry or geometry_of(network)
        roi = self.tile_size(
            image, geometry, lambda shape: peak_bytes(network, shape, image.dtype, *args, **kwargs)
        )
        tiling = plan_tiles(image.shape[2:], geometry, roi)
        result = self._run(image, tiling, lambda tile: network(tile, *args, **kwargs))
        return with_metadata(result, inputs)

    def _run(self, image: Tensor, tiling: Tiling, network: Callable[[Tensor], Tensor]) -> Tensor:
        sw_device, device = self.sw_device or image.device, self.device or image.device
        windows = list(product(range(image.shape[0]), tiling))
        result: Tensor | None = None
        quiet = not self.progress or len(windows) == 1
        with tqdm(total=len(windows), unit="tile", disable=quiet, leave=False) as bar:
            for first in range(0, len(windows), self.sw_batch_size):
                batch = windows[first : first + self.sw_batch_size]
                tiles = torch.cat(
                    [
                        read_tile(image[b : b + 1], tile, self.padding_mode, self.cval)
                        for b, tile in batch
                    ]
                )
                outputs = answered(network(tiles.to(sw_device)), tiling)
                if result is None:
                    shape = (image.shape[0], outputs.shape[1], *tiling.image)
                    result = torch.empty(shape, dtype=outputs.dtype, device=device)
                for output, (b, tile) in zip(outputs, batch, strict=True):
                    region = result[b][(slice(None), *tile.write)]
                    region.copy_(output[(slice(None), *(slice(n) for n in tile.written))])
                bar.update(len(batch))
        assert result is not None  # an image has at least one tile
        return result

    def tile_size(
        self, image: Tensor, geometry: TileGeometry, predict: Callable[[Sequence[int]], int]
    ) -> tuple[int, ...]:
        """The input size of a tile, with what was left open filled in."""
        whole = geometry.input_size(image.shape[2:])
        if self.roi_size is None:
            limit = _DEFAULT_MEMORY if self.memory_limit is None else self.memory_limit
            batch = (self.sw_batch_size, image.shape[1])
            return largest_tile(lambda tile: predict((*batch, *tile)), whole, geometry, limit)
        given = (
            (int(self.roi_size),) * len(whole)
            if isinstance(self.roi_size, SupportsIndex)
            else tuple(self.roi_size)
        )
        if len(given) != len(whole):
            raise GeometryError(f"roi_size {given}: expected {len(whole)} numbers, one an axis")
        return tuple(
            n if wanted is None or wanted <= 0 else int(wanted)
            for wanted, n in zip(given, whole, strict=True)
        )


def with_metadata(result: Tensor, inputs: Tensor) -> Tensor:
    """``result`` as a `MetaTensor` with the metadata of ``inputs``, if these are one."""
    if not isinstance(inputs, MetaTensor):
        return result
    found = MetaTensor(result, meta=inputs.meta, applied_operations=inputs.applied_operations)
    found.is_batch = inputs.is_batch
    return found


def geometry_of(network: Any) -> TileGeometry:
    """The geometry that a network owns, also behind DataParallel's wrappers.

    Raises:
        GeometryError: if it has none; the message says how to give one.
    """
    for candidate in (network, getattr(network, "module", None)):
        geometry = getattr(candidate, "geometry", None)
        if isinstance(geometry, TileGeometry):
            return geometry
    name = type(network).__name__
    raise GeometryError(
        f"{name} has no geometry, so exact tiles cannot be planned: use a network of "
        "overtile.networks, or pass OverlapTileInferer(geometry=TileGeometry.padded(radius=R, "
        "multiple=M)), R the radius of its receptive field, M = 2^(number of poolings)"
    )


def largest_tile(
    predict: Callable[[tuple[int, ...]], int],
    whole: Sequence[int],
    geometry: TileGeometry,
    memory_limit: int,
) -> tuple[int, ...]:
    """The largest tile, as square as ``whole`` allows, that stays within ``memory_limit`` bytes.

    Args:
        predict: bytes that a forward pass takes for a tile's spatial size.
        whole: input size that covers the whole image; no tile needs to be larger.
        geometry: of the network.
        memory_limit: in bytes, for the activations of one pass.

    Raises:
        GeometryError: if even the smallest aligned tile needs more.
    """
    axes = [geometry.axis(i) for i in range(len(whole))]

    def tile(steps: int) -> tuple[int, ...]:
        # outputs of (steps + 1) alignments: the smallest that can advance at all, and up
        sizes = geometry.input_size([m * (steps + 1) for _, m, _ in axes])
        return tuple(min(size, n) for size, n in zip(sizes, whole, strict=True))

    def fits(steps: int) -> bool:
        return predict(tile(steps)) <= memory_limit

    if not fits(0):
        raise GeometryError(
            f"memory_limit of {memory_limit} bytes: the smallest tile, {tile(0)}, needs "
            f"{predict(tile(0))}"
        )
    low = 0
    high = max(n // m for n, (_, m, _) in zip(whole, axes, strict=True)) + 1
    while high - low > 1:  # fits(low) holds, and tile(high) is the whole image or too large
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return tile(low)


def answered(outputs: Tensor, tiling: Tiling) -> Tensor:
    """The pixels that tiles answer for: a valid network's all, a padded network's centre."""
    if not isinstance(outputs, Tensor):
        raise TypeError(f"the network returned {type(outputs).__name__}: expected one tensor")
    found = tuple(outputs.shape[2:])
    answered = tuple(n - 2 * m for n, m in zip(tiling.size, tiling.margin, strict=True))
    if found == tiling.size:
        for axis, (n, margin) in enumerate(zip(answered, tiling.margin, strict=True), start=2):
            outputs = outputs.narrow(axis, margin, n)
    elif found != answered:
        raise GeometryError(
            f"the network made {found} of a tile of {tiling.size}: its geometry promises "
            f"{answered}, or {tiling.size} for a padded network"
        )
    return outputs
