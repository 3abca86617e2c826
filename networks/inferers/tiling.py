"""Cut an image into tiles whose outputs meet exactly, and read a tile with its context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from overtile.networks.blocks.context import read_box
from overtile.networks.errors import GeometryError
from overtile.networks.geometry import TileGeometry


@dataclass(frozen=True)
class Tile:
    """One tile of an image; spatial axes only, positions in image pixels.

    Attributes:
        start: where the tile's *input* begins, context included; may be negative.
        size: input size of the tile; it may reach beyond the image.
        write: region of the image that this tile answers for.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    write: tuple[slice, ...]

    @property
    def written(self) -> tuple[int, ...]:
        """Size of the region that the tile answers for."""
        return tuple(s.stop - s.start for s in self.write)


@dataclass(frozen=True)
class Tiling:
    """The tiles of an image: all of one input size, origins a multiple of 2^depth apart."""

    image: tuple[int, ...]
    size: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]  # per axis, where the output of each tile begins
    margin: tuple[int, ...]

    def __len__(self) -> int:
        count = 1
        for starts in self.starts:
            count *= len(starts)
        return count

    def __iter__(self) -> Iterator[Tile]:
        ends = [(*s[1:], n) for s, n in zip(self.starts, self.image, strict=True)]
        spans = (list(zip(s, e, strict=True)) for s, e in zip(self.starts, ends, strict=True))
        for region in product(*spans):
            start = tuple(a - m for (a, _), m in zip(region, self.margin, strict=True))
            yield Tile(start, self.size, tuple(slice(a, b) for a, b in region))


def plan_tiles(image: Sequence[int], geometry: TileGeometry, roi_size: Sequence[int]) -> Tiling:
    """Tiles of at most ``roi_size`` input pixels that cover ``image``, each pixel once.

    The tiles are made as small as their number allows, so that the last one does not compute
    mostly mirror.

    Raises:
        GeometryError: if ``roi_size`` is not valid, or has less output than 2^depth pixels
            where more than one tile is needed (no aligned step would be left).
    """
    geometry.check(roi_size, "roi_size")
    axes = [_plan_axis(n, geometry, axis, roi_size[axis]) for axis, n in enumerate(image)]
    margin = tuple(geometry.axis(axis)[0] for axis in range(len(axes)))
    return Tiling(tuple(image), tuple(a[0] for a in axes), tuple(a[1] for a in axes), margin)


def _plan_axis(n: int, geometry: TileGeometry, axis: int, roi: int) -> tuple[int, tuple[int, ...]]:
    margin, multiple, minimum = geometry.axis(axis)
    one_axis = TileGeometry(margin, multiple, minimum)
    output = roi - 2 * margin
    if n <= output:
        return one_axis.input_size(n), (0,)
    step = output // multiple * multiple
    if step == 0:
        raise GeometryError(
            f"roi_size {roi} leaves {output} output pixels, less than the alignment of {multiple}",
            f"at least {one_axis.input_size(multiple)}",
        )
    count = -(-(n - output) // step) + 1
    even = -(-n // count)  # the same number of tiles with the least mirror
    even = min(step, -(-even // multiple) * multiple)
    size = one_axis.input_size(max(even, n - (count - 1) * even))
    return size, tuple(range(0, count * even, even))


def read_tile(
    image: Tensor, tile: Tile, padding_mode: str = "reflect", cval: float = 0.0
) -> Tensor:
    """The input of a tile, ``[B, C, *tile.size]``, with context from beyond the image's edge.

    Args:
        image: ``[B, C, *S]``.
        tile: where to read.
        padding_mode: ``"reflect"`` (mirror, the paper's), ``"replicate"`` or ``"constant"``.
        cval: the value outside of the image for ``"constant"``.
    """
    box = [(start, start + size) for start, size in zip(tile.start, tile.size, strict=True)]
    return read_box(image, box, padding_mode, cval)
