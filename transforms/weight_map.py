"""Weigh the gaps between cells (equation 2 of the U-Net paper)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray

from overtile.networks.errors import ArgumentError
from overtile.transforms.instance_labels import Labels, instance_array
from overtile.transforms.metadata import as_array, current, like
from overtile.transforms.two_nearest import squared_gap_widths


class BorderTerm:
    """w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), the second term of equation 2.

    Args:
        w0: see `BorderWeightMap`.
        sigma: see `BorderWeightMap`.
        where: see `BorderWeightMap`.
        spacing: see `BorderWeightMap`.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self, w0: float, sigma: float, where: str, spacing: Sequence[float] | None
    ) -> None:
        if not (0 <= w0 < np.inf and 0 < sigma < np.inf):
            raise ArgumentError(f"w0={w0}, sigma={sigma}", "w0 >= 0 and sigma > 0")
        if where not in ("background", "everywhere"):
            raise ArgumentError(f"where={where!r}", "'background' or 'everywhere'")
        if spacing is not None and not all(step > 0 for step in spacing):
            raise ArgumentError(f"spacing={spacing}", "distances > 0")
        self.w0, self.sigma, self.where, self.spacing = w0, sigma, where, spacing

    def added_to(
        self, of_classes: Callable[[slice], np.float32 | NDArray[np.float32]], cells: NDArray[Any]
    ) -> NDArray[np.float32]:
        """w(x) ``[*S]``: the term and w_c, but 0 where nothing is annotated.

        Args:
            of_classes: w_c of a slice of rows.
            cells: ``[*S]``, a number a cell, 0 elsewhere, `IGNORED` where nothing is annotated.
        """
        if self.w0:
            # beyond 6.5 sigma the term is below w0 * 1e-9, less than float32 resolves
            inside = self.where == "everywhere"
            weights = squared_gap_widths(cells, self.spacing, 6.5 * self.sigma, inside)
        else:
            weights = np.empty(cells.shape, np.float32)
        gaps = bool((cells < 0).any())
        # a few rows at a time, which stay in the processor's cache
        step = max(1, 2**16 * len(cells) // max(cells.size, 1))
        for start in range(0, len(cells), step):
            rows = slice(start, start + step)
            part = weights[rows]
            if self.w0:
                part *= np.float32(-0.5 / self.sigma**2)
                np.exp(part, out=part)
                part *= np.float32(self.w0)
                part += of_classes(rows)
            else:
                part[:] = of_classes(rows)
            if gaps:
                part[cells[rows] < 0] = 0
        return weights


class AddWeights(MapTransform):
    """What the dictionary forms of weight maps share: labels give weights under another key."""

    def __init__(
        self,
        keys: KeysCollection,
        weight_map: Callable[[Labels], Labels],
        weight_key: str | None,
        allow_missing_keys: bool,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if weight_key is not None and len(self.keys) > 1:
            raise ArgumentError(f"weight_key={weight_key!r} for {len(self.keys)} keys", "None")
        self.weight_map, self.weight_key = weight_map, weight_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the weight map of every key."""
        result = dict(data)
        for key in self.key_iterator(data):
            result[self.weight_key or f"{key}_weight"] = self.weight_map(data[key])
        return result


class BorderWeightMap(Transform):
    """w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), equation 2 of the U-Net paper.

    d1 and d2 are the distances to the nearest and the second nearest *cell*; where fewer than
    two cells exist the second term vanishes. Compute it after the deformation: distances are
    not preserved by one, and computing is cheaper than deforming.

    w is 0 where nothing is annotated (-1). Beside such a gap d1 and d2 are the distances to
    annotated cells. What the gap hides can only lie nearer, so this is the least w(x) that any
    content of the gap allows; it is that of the full annotation wherever no hidden pixel is
    nearer than the second nearest annotated cell.

    Args:
        w0: weight of a gap of width 0; the paper's 10.
        sigma: decay, in pixels (in units of ``spacing`` if given); the paper's 5.
        class_weights: w_c for background and cell; ``"balanced"`` gives both classes of *this*
            image the same total over what is annotated (for a data set see
            `balanced_class_weights`); None is 1.
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
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ArgumentError(f"class_weights={class_weights!r}", "'balanced', two or None")
        if not isinstance(class_weights, (str, type(None))) and len(class_weights) != 2:
            raise ArgumentError(f"class_weights={class_weights}", "(background, cell)")
        self.term, self.class_weights = BorderTerm(w0, sigma, where, spacing), class_weights

    def __call__(self, labels: Labels) -> Labels:
        """Instances ``[1, *S]``, whole numbers -> weights ``[1, *S]`` float32, w(x) >= 0."""
        labels = current(labels)
        array = instance_array(labels)
        background, cell = map(np.float32, self._class_weights(array))

        def of_classes(rows: slice) -> np.float32 | NDArray[np.float32]:
            same = background == cell
            return background if same else np.where(array[rows] != 0, cell, background)

        result: Labels = like(self.term.added_to(of_classes, array)[None], labels)
        return result

    def _class_weights(self, array: NDArray[Any]) -> tuple[float, float]:
        if self.class_weights is None:
            return 1.0, 1.0
        if self.class_weights == "balanced":
            return balanced_class_weights([array])
        return float(self.class_weights[0]), float(self.class_weights[1])


class BorderWeightMapd(AddWeights):
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
        weight_map = BorderWeightMap(w0, sigma, class_weights, where, spacing)
        super().__init__(keys, weight_map, weight_key, allow_missing_keys)


BorderWeightMapD = BorderWeightMapDict = BorderWeightMapd


def balanced_class_weights(labels: Iterable[Labels]) -> tuple[float, float]:
    """w_c for (background, cell) that give both classes the same total over a data set.

    The mean weight over all annotated pixels (all but -1) is 1. A class that does not occur gets
    weight 1.
    """
    counts = [0, 0]
    for image in map(as_array, labels):
        counts[0] += int(np.count_nonzero(image == 0))
        counts[1] += int(np.count_nonzero(image > 0))
    background, cell = class_weights_of_counts(counts)
    return background, cell


def class_weights_of_counts(counts: Sequence[int], balance: float = 1.0) -> tuple[float, ...]:
    """w_c ~ frequency^-balance of every class, with a mean of 1 over all annotated pixels.

    Args:
        counts: annotated pixels of every class, 0 and up, over a data set.
        balance: 1 gives all classes that occur the same total weight, 0 all pixels the same.

    Returns:
        A weight a class; that of a class that does not occur is 1.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> class_weights_of_counts([800, 150, 50])  # a third each
        (0.4166666666666667, 2.2222222222222223, 6.666666666666667)
    """
    if not 0 <= balance <= 1:
        raise ArgumentError(f"balance={balance}", "0 (none) to 1 (the same total)")
    if min(counts, default=0) < 0:
        raise ArgumentError(f"counts={tuple(counts)}", "pixels, 0 and up")
    share = sum(count ** (1 - balance) for count in counts if count)
    total = sum(counts)
    return tuple(total / (count**balance * share) if count else 1.0 for count in counts)
