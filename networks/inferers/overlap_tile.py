"""Overlap-tile inference (figure 2 of the U-Net paper): seamless on images of any size."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, SupportsIndex

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from tqdm import tqdm

from overtile.networks.errors import ArgumentError, GeometryError
from overtile.networks.geometry import TileGeometry, padding_mode_of
from overtile.networks.inferers.cost import PassCost, exact_memory, pass_cost
from overtile.networks.inferers.tile_size import choose_tile
from overtile.networks.inferers.tiling import Tile, Tiling, plan_tiles, read_tile
from overtile.networks.network import geometry_of, whole_image_layer

_DEFAULT_MEMORY = 2 * 1024**3
_SMALL = 128**2  # pixels of a tile whose memory is not worth a prediction
_WASTE = 100  # times the work of the whole image in one pass that tiles may cost, context included
_SENSIBLE = 8  # times that work which is offered instead
_warned: weakref.WeakSet[Any] = weakref.WeakSet()  # networks whose answer depends on the tile
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
            take the size that is the fastest by `choose_tile` within ``memory_limit``. An axis
            given as None or <= 0 gets as large as the image needs. Tiles may come out smaller,
            never larger.
        sw_batch_size: tiles per forward pass.
        padding_mode: context beyond the image: ``"reflect"`` (mirrored without doubling the
            edge, the paper's), ``"replicate"`` or ``"constant"``.
        sw_device: where the network runs; default: where the image is.
        device: where the result is put together; default: where the image is.
        progress: show a bar over tiles, where stderr is a terminal.
        memory_limit: bytes that the activations of one forward pass may take when ``roi_size``
            is None; default 2 GiB.
        geometry: sizes that the network takes, for networks without a ``geometry`` of their
            own. ``TileGeometry.padded(radius, multiple)`` describes a padded network by the
            radius of its receptive field; away from the image's border the result then is
            that of one pass over the whole image. Networks with layers that see all of their
            input (instance and group normalisation, batch statistics in training, global
            pooling, attention) answer otherwise tile by tile: one warning names such a layer.
        cval: the constant of ``padding_mode="constant"``.
        compile: run the network through `torch.compile`, which needs a C++ compiler on a CPU and
            takes a minute for every new size of tile; see docs/concepts/tiles.md for when that
            pays. Its convolutions may round otherwise.

    Raises:
        GeometryError: for a network without a geometry, a ``roi_size`` that it cannot take or that
            leaves so little output that the tiles compute more than 100 times what the whole
            image in one pass does, or an image without pixels.
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
        compile: bool = False,
        **without_effect: Any,
    ) -> None:
        super().__init__()
        unknown = without_effect.keys() - _WITHOUT_EFFECT
        if unknown:
            raise ArgumentError(
                f"argument {', '.join(sorted(unknown))}",
                "arguments of OverlapTileInferer, or of MONAI's SlidingWindowInferer",
            )
        if without_effect.get("with_coord"):
            raise ArgumentError("with_coord=True", "False, for the network gets no coordinates")
        if without_effect:
            warnings.warn(
                f"{', '.join(sorted(without_effect))}: no effect, exact tiles are not blended",
                stacklevel=2,
            )
        if sw_batch_size < 1:
            raise ArgumentError(f"sw_batch_size={sw_batch_size}", "at least 1")
        if isinstance(roi_size, (float, str)) or isinstance(memory_limit, str):
            raise ArgumentError(
                f"roi_size={roi_size!r}, memory_limit={memory_limit!r}",
                "pixels and bytes, as whole numbers",
            )
        self.roi_size, self.sw_batch_size = roi_size, sw_batch_size
        self.padding_mode, self.cval = padding_mode_of(padding_mode), cval
        self.sw_device, self.device = sw_device, device
        self.progress, self.memory_limit, self.geometry = progress, memory_limit, geometry
        self.compile = compile
        self._compiled: tuple[Any, Callable[..., Any]] | None = None

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Output ``[B, K, *S]`` of ``network`` for ``inputs`` of ``[B, C, *S]``, any S >= 1.

        Further arguments go to the network. A `MetaTensor` comes back as one, with its
        metadata. Of a network that returns several outputs in lists, tuples or dictionaries (deep
        supervision), each is put together, and they come back in the same structure. Beside an
        output as large as its input a padded network may have some of 1/s of that, s a divisor of
        the geometry's multiple: of an image of n pixels these have n / s, rounded up, and no
        metadata, which would be those of other pixels.
        """
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        geometry = self.geometry or geometry_of(network)
        if not image.numel():
            raise GeometryError(f"image of shape {tuple(image.shape)}", "no axis of size 0")
        if check := getattr(network, "check_image", None):  # of the image, not of a tile of it
            check(image)

        def cost(tile: Sequence[int]) -> PassCost:
            shape = (self.sw_batch_size, image.shape[1], *tile)
            return pass_cost(network, shape, image.dtype, *args, **kwargs)

        device = torch.device(self.sw_device or image.device).type
        tiling = plan_tiles(image.shape[2:], geometry, self.tile_size(image, geometry, cost))
        if len(tiling) > 1 and network not in _warned and (layer := whole_image_layer(network)):
            _warned.add(network)
            warnings.warn(
                f"{layer}: depends on all of its input, so tiles answer otherwise than the whole "
                "image does, with seams; use normalisation by running statistics, or images of one "
                "tile",
                stacklevel=2,
            )
        small = device != "cpu" or math.prod(tiling.size) < _SMALL
        with exact_memory(0 if small else cost(tiling.size).peak):
            run = self._compile(network) if self.compile else network
            result = self.run_tiles(
                tiling,
                lambda number, tile: read_tile(
                    image[number : number + 1], tile, self.padding_mode, self.cval
                ),
                lambda tile: run(tile, *args, **kwargs),
                image.shape[0],
            )
        return tree_map(
            lambda one: (
                convert_to_dst_type(one, inputs, dtype=one.dtype, device=one.device)[0]
                if one.shape[2:] == image.shape[2:]
                else one
            ),
            result,
        )

    def _compile(self, network: Callable[..., Any]) -> Callable[..., Any]:
        if self._compiled is None or self._compiled[0] is not network:
            # all tiles of an image have one size, for which the code is made
            self._compiled = network, torch.compile(network, dynamic=False)
        return self._compiled[1]

    def run_tiles(
        self,
        tiling: Tiling,
        read: Callable[[int, Tile], Tensor],
        network: Callable[[Tensor], Any],
        images: int,
        quiet: bool = False,
    ) -> Any:
        """Run the network on all tiles, and put its answers together, in its own structure.

        Args:
            tiling: of an image.
            read: the input ``[1, C, *tile.size]`` of a tile of an image, by the image's number.
            network: what answers.
            images: how many.
            quiet: show no bar, whatever the inferer says.
        """
        windows = list(product(range(images), tiling))
        results: list[Tensor] = []
        structure: Any = None
        quiet = quiet or not self.progress or len(windows) == 1
        with tqdm(total=len(windows), unit="tile", disable=quiet or None, leave=False) as bar:
            for first in range(0, len(windows), self.sw_batch_size):
                batch = windows[first : first + self.sw_batch_size]
                tiles = [read(number, tile) for number, tile in batch]
                joined = torch.cat(tiles) if len(tiles) > 1 else tiles[0]
                device = torch.device(self.sw_device or joined.device)
                with torch.inference_mode(not torch.is_grad_enabled()):
                    made, structure = tree_flatten(network(joined.to(device)))
                    outputs, steps = answered(made, tiling)
                if not results:
                    # not in half precision, which whoever asked for autocast would widen: at once
                    # here, tile by tile, or later in a second image
                    half = torch.is_autocast_enabled(device.type)
                    results = [
                        torch.empty(
                            (images, output.shape[1], *_coarse(tiling.image, step)),
                            dtype=joined.dtype if half else output.dtype,
                            device=self.device or joined.device,
                        )
                        for output, step in zip(outputs, steps, strict=True)
                    ]
                for result, answers, step in zip(results, outputs, steps, strict=True):
                    for answer, (number, tile) in zip(answers, batch, strict=True):
                        starts = _coarse([s.start for s in tile.write], step)
                        stops = _coarse([s.stop for s in tile.write], step)
                        write = [slice(a, b) for a, b in zip(starts, stops, strict=True)]
                        written = [slice(b - a) for a, b in zip(starts, stops, strict=True)]
                        result[number][(slice(None), *write)] = answer[(slice(None), *written)]
                del made, outputs, answers, answer  # before the next pass needs the memory
                bar.update(len(batch))
        return tree_unflatten(results, structure)

    def tile_size(
        self,
        image: Tensor,
        geometry: TileGeometry,
        cost: Callable[[Sequence[int]], PassCost],
        memory_limit: int | None = None,
    ) -> tuple[int, ...]:
        """The input size of a tile, with what was left open filled in.

        Args:
            image: ``[B, C, *S]``.
            geometry: of the network.
            cost: of a pass over a tile, for its spatial size.
            memory_limit: bytes, if less than the inferer's own.

        Raises:
            GeometryError: if even the smallest tile needs more, or ``roi_size`` is wrong or
                leaves too little output to be meant.
        """
        whole = geometry.input_size(image.shape[2:])
        if self.roi_size is None:
            own = _DEFAULT_MEMORY if self.memory_limit is None else self.memory_limit
            limit = own if memory_limit is None else min(own, memory_limit)
            device = torch.device(self.sw_device or image.device).type
            return choose_tile(cost, image.shape[2:], geometry, limit, device)
        given = (
            (int(self.roi_size),) * len(whole)
            if isinstance(self.roi_size, SupportsIndex)
            else tuple(self.roi_size)
        )
        if len(given) != len(whole):
            raise GeometryError(f"roi_size {given}", f"{len(whole)} numbers, one an axis")
        size = tuple(
            n if wanted is None or wanted <= 0 else int(wanted)
            for wanted, n in zip(given, whole, strict=True)
        )
        _check_waste(plan_tiles(image.shape[2:], geometry, size), geometry, size)
        return size


def _check_waste(tiling: Tiling, geometry: TileGeometry, size: tuple[int, ...]) -> None:
    """Refuse tiles that are context almost alone: nobody means to compute that."""

    def work(planned: Tiling) -> float:
        whole = geometry.input_size(planned.image)
        return len(planned) * math.prod(planned.size) / math.prod(whole)

    if work(tiling) <= _WASTE:
        return
    multiple = [geometry.axis(axis)[1] for axis in range(len(size))]
    better, steps = size, 0
    while work(plan_tiles(tiling.image, geometry, better)) > _SENSIBLE:
        steps += 1
        better = tuple(n + steps * m for n, m in zip(size, multiple, strict=True))
    output = "x".join(map(str, geometry.output_size(size)))
    sides = ["x".join(map(str, sides)) for sides in (size, better)]
    raise GeometryError(
        f"roi_size {sides[0]} answers for {output} pixels of a tile: {len(tiling)} tiles, which "
        f"compute {work(tiling):.0f} times as much as the whole image in one pass",
        f"at least {sides[1]}, or None, which chooses",
    )


def _coarse(positions: Sequence[int], step: Sequence[int]) -> tuple[int, ...]:
    """Positions in pixels of an image, in pixels ``step`` times as large, rounded up."""
    return tuple(-(-n // s) for n, s in zip(positions, step, strict=True))


def answered(answer: Sequence[Any], tiling: Tiling) -> tuple[list[Tensor], list[tuple[int, ...]]]:
    """What tiles answer for of each output: a valid network's all, a padded network's centre.

    Returns:
        The outputs, and how many pixels of the image a pixel of each stands for along each axis.
    """
    if not answer:
        raise ArgumentError("the network returned no output", "at least one tensor")
    for output in answer:
        if not isinstance(output, Tensor):
            raise ArgumentError(
                f"the network returned {type(output).__name__}",
                "a tensor, or lists, tuples and dictionaries of tensors",
            )
    valid = tuple(n - 2 * m for n, m in zip(tiling.size, tiling.margin, strict=True))
    padded = any(tuple(output.shape[2:]) == tiling.size for output in answer)
    outputs, steps = [], []
    for output in answer:
        found = tuple(output.shape[2:])
        step = _steps(found, tiling) if padded else (1,) * len(valid)
        if step is None or not (padded or found == valid):
            raise GeometryError(
                f"the network made {found} of a tile of {tiling.size}",
                f"{valid}, as its geometry promises, or {tiling.size} for a padded network and, "
                "beside that, 1/s of it, s a divisor of its multiple",
                "overtile.networks.measure_receptive_field finds the geometry of a network",
            )
        if padded:
            for axis, (n, margin, s) in enumerate(zip(valid, tiling.margin, step, strict=True), 2):
                output = output.narrow(axis, margin // s, n // s)
        outputs.append(output)
        steps.append(step)
    return outputs, steps


def _steps(found: Sequence[int], tiling: Tiling) -> tuple[int, ...] | None:
    """How much coarser than its input a padded network's output is; None where tiles do not meet.

    Pixels so coarse begin where those of the whole image do if margin and starts are whole.
    """
    if len(found) != len(tiling.size) or not all(found):
        return None
    step = tuple(n // f for n, f in zip(tiling.size, found, strict=True))
    for n, f, s, margin, starts in zip(
        tiling.size, found, step, tiling.margin, tiling.starts, strict=True
    ):
        if n != s * f or any(place % s for place in (margin, *starts)):
            return None
    return step
