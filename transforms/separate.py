"""Draw a line of background between cells that touch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray
from scipy import ndimage

from overtile.networks.errors import ArgumentError
from overtile.transforms.compiled import compiled
from overtile.transforms.instance_labels import Labels, instance_array
from overtile.transforms.metadata import current, like


class SeparateTouching(Transform):
    """Draw a background line wherever two cells touch, diagonally too.

    Afterwards two cells that touched are at least ``width`` background pixels apart everywhere,
    counted along rows, columns or diagonals. The smaller cell of a pair gives up half of the
    line, the larger one the rest (of two equal cells the higher label counts as the larger). A
    cell so small that nothing of it would be left gives up nothing to larger ones; none
    vanishes unless all its pixels are within ``width`` of cells that stayed. Cells that do not
    touch are left as they are, and so is what is not annotated (-1), which no cell gives up
    pixels to.

    Args:
        width: of the line, in pixels, at least 1.

    Raises:
        ValueError: for a width below 1, or labels that are no instance labels.

    Example:
        >>> SeparateTouching(width=2)(np.array([[[1, 1, 1, 2, 2, 2]]])).tolist()
        [[[1, 1, 0, 0, 2, 2]]]
    """

    def __init__(self, width: int = 1) -> None:
        if width < 1:
            raise ArgumentError(f"width={width}", "at least 1 pixel")
        self.width = width

    def __call__(self, labels: Labels) -> Labels:
        """Instances ``[1, *S]`` -> instances ``[1, *S]`` of the same type and dtype."""
        labels = current(labels)
        array = instance_array(labels)
        seen = np.where(array > 0, array, array.dtype.type(0))
        cells, compact, areas = np.unique(seen, return_inverse=True, return_counts=True)
        rank = np.empty(len(cells), np.int64)  # by size, background 0
        rank[np.lexsort((cells, areas, cells != 0))] = np.arange(len(cells)) + (0 not in cells)
        ranks = rank[compact].reshape((1,) * (3 - array.ndim) + array.shape)
        left = self._separate(ranks).reshape(array.shape)
        kept = np.where((left > 0) | (array < 0), array, array.dtype.type(0))[None]
        separated: Labels = like(kept, labels, labels.dtype)
        return separated

    def _separate(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        count = int(ranks.max(initial=0)) + 1
        protected = np.zeros(count, np.bool_)
        while True:
            left: NDArray[np.int64] = _give_up(ranks, self.width, protected)
            gone = np.bincount(left.ravel(), minlength=count) == 0
            if not (gone[1:] & ~protected[1:]).any():
                break
            protected |= gone
        for rank in np.flatnonzero(gone[1:]) + 1:  # what is left of it where its rivals went too
            near = ndimage.maximum_filter(left, 2 * self.width + 1, mode="constant") > 0
            left[(ranks == rank) & ~near] = rank
        return left


class SeparateTouchingd(MapTransform):
    """`SeparateTouching` for dictionaries."""

    def __init__(
        self, keys: KeysCollection, width: int = 1, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.separate = SeparateTouching(width)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Separate the instances of every key."""
        result = dict(data)
        result.update({key: self.separate(result[key]) for key in self.key_iterator(result)})
        return result


SeparateTouchingD = SeparateTouchingDict = SeparateTouchingd


@compiled()
def _give_up(ranks, width, protected):  # type: ignore[no-untyped-def]
    """What cells keep of ``ranks`` (3D, cells by size, 0 = background) on both sides of lines."""
    touching = {(0, 0)}
    halves = np.where(ranks > 0, ranks, 0)
    left = halves.copy()
    # first whom each cell touches, then the smaller cell's half, then what the larger one owes
    for step, reach in ((0, 1), (1, width // 2), (2, width)):
        others = halves if step == 2 else ranks
        for z, y, x in np.ndindex(ranks.shape):
            own = ranks[z, y, x]
            if own == 0 or (step == 1 and protected[own]):
                continue
            for k in range(max(z - reach, 0), min(z + reach + 1, ranks.shape[0])):
                for j in range(max(y - reach, 0), min(y + reach + 1, ranks.shape[1])):
                    for i in range(max(x - reach, 0), min(x + reach + 1, ranks.shape[2])):
                        other = others[k, j, i]
                        if other == 0 or other == own:
                            continue
                        if step == 0:
                            touching.add((own, other))
                        elif step == 1 and own < other and (own, other) in touching:
                            halves[z, y, x] = left[z, y, x] = 0
                        elif step == 2 and own > other and (own, other) in touching:
                            left[z, y, x] = 0
    return left
