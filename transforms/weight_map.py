"""Weigh the gaps between cells (equation 2 of the U-Net paper)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray

from overtile.networks.errors import ArgumentError
from overtile.transforms.instance_labels import Labels, instance_array
from overtile.transforms.two_nearest import squared_gap_widths


class BorderWeightMap(Transform):
    """w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), equation 2 of the U-Net paper.

    d1 and d2 are the distances to the nearest and the second nearest *cell*; where fewer than
    two cells exist the second term vanishes. Compute it after the deformation: distances are
    not preserved by one, and computing is cheaper than deforming.

    Args:
        w0: weight of a gap of width 0; the paper's 10.
        sigma: decay, in pixels (in units of ``spacing`` if given); the paper's 5.
        class_weights: w_c for background and cell; ``"balanced"`` gives both classes of *this*
            image the same total (for a data set see `balanced_class_weights`); None is 1.
        where: add the second term to the ``"background"`` alone, where the network has to
            learn the gaps, or ``"everywhere"``, as the equation is printed.
        spacing: distance between pixels along each axis; default 1.

    Raises:
        ValueError: for an argument out of range, or labels that are no instance labels.

    Example:
        >>> labels = np.array([[[1, 0, 2]]])
        >>> weights = BorderWeightMap(class_weights=None)(labels)  # d1 + d2 = 2 in the gap
        >>> [round(float(w), 3) for w in weights[0, 0]]
        [1.0, 10.231, 1.0]
    """

    def __init__(
        self,
        w0: float = 10.0,
        sigma: float = 5.0,
        class_weights: str | Sequence[float] | None = "balanced",
        where: str = "background",
        spacing: Sequence[float] | None = None,
    ) -> None:
        if not (0 <= w0 < np.inf and 0 < sigma < np.inf):
            raise ArgumentError(f"w0={w0}, sigma={sigma}", "w0 >= 0 and sigma > 0")
        if where not in ("background", "everywhere"):
            raise ArgumentError(f"where={where!r}", "'background' or 'everywhere'")
        if spacing is not None and not all(step > 0 for step in spacing):
            raise ArgumentError(f"spacing={spacing}", "distances > 0")
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ArgumentError(f"class_weights={class_weights!r}", "'balanced', two or None")
        if not isinstance(class_weights, (str, type(None))) and len(class_weights) != 2:
            raise ArgumentError(f"class_weights={class_weights}", "(background, cell)")
        self.w0, self.sigma, self.class_weights = w0, sigma, class_weights
        self.where, self.spacing = where, spacing

    def __call__(self, labels: Labels) -> Labels:
        """Instances ``[1, *S]`` int -> weights ``[1, *S]`` float32, w(x) > 0."""
        array = instance_array(labels)
        background, cell = map(np.float32, self._class_weights(array))
        if self.w0:
            # beyond 6.5 sigma the term is below w0 * 1e-9, less than float32 resolves
            inside = self.where == "everywhere"
            weights = squared_gap_widths(array, self.spacing, 6.5 * self.sigma, inside)
        else:
            weights = np.empty(array.shape, np.float32)
        # a few rows at a time, which stay in the processor's cache
        rows = max(1, 2**16 * len(array) // max(array.size, 1))
        for start in range(0, len(array), rows):
            part, found = weights[start : start + rows], array[start : start + rows]
            same = background == cell
            classes = background if same else np.where(found != 0, cell, background)
            if self.w0:
                part *= np.float32(-0.5 / self.sigma**2)
                np.exp(part, out=part)
                part *= np.float32(self.w0)
                part += classes
            else:
                part[:] = classes
        return convert_to_dst_type(weights[None], labels, dtype=np.float32)[0]

    def _class_weights(self, array: NDArray[Any]) -> tuple[float, float]:
        if self.class_weights is None:
            return 1.0, 1.0
        if self.class_weights == "balanced":
            cells = int(np.count_nonzero(array))
            return class_weights_of_counts(array.size - cells, cells)
        return float(self.class_weights[0]), float(self.class_weights[1])


class BorderWeightMapd(MapTransform):
    """`BorderWeightMap` for dictionaries: labels under ``keys`` give weights under ``weight_key``.

    Args:
        keys: of instance labels ``[1, *S]``.
        w0: see `BorderWeightMap`.
        sigma: see `BorderWeightMap`.
        class_weights: see `BorderWeightMap`.
        where: see `BorderWeightMap`.
        spacing: see `BorderWeightMap`.
        weight_key: where the weights go; one for all keys (with one key), or None for
            ``"{key}_weight"``.
        allow_missing_keys: leave out keys that an item does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        w0: float = 10.0,
        sigma: float = 5.0,
        class_weights: str | Sequence[float] | None = "balanced",
        where: str = "background",
        spacing: Sequence[float] | None = None,
        weight_key: str | None = "weight",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if weight_key is not None and len(self.keys) > 1:
            raise ArgumentError(f"weight_key={weight_key!r} for {len(self.keys)} keys", "None")
        self.weight_map = BorderWeightMap(w0, sigma, class_weights, where, spacing)
        self.weight_key = weight_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the weight map of every key."""
        result = dict(data)
        for key in self.key_iterator(data):
            result[self.weight_key or f"{key}_weight"] = self.weight_map(data[key])
        return result


def balanced_class_weights(labels: Iterable[Labels]) -> tuple[float, float]:
    """w_c for (background, cell) that give both classes the same total over a data set.

    The mean weight over all pixels is 1. A class that does not occur gets weight 1.
    """
    background = cells = 0
    for image in labels:
        found = int((image != 0).sum())
        cells += found
        background += int(np.prod(image.shape)) - found
    return class_weights_of_counts(background, cells)


def class_weights_of_counts(background: int, cells: int) -> tuple[float, float]:
    """`balanced_class_weights` of a data set with so many pixels of background and of cells."""
    total = background + cells
    if not background or not cells:
        return 1.0, 1.0
    return total / (2 * background), total / (2 * cells)
