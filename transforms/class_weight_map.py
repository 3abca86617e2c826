"""Weigh the pixels of K classes, and the gaps between the components of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage

from overtile.networks.errors import ArgumentError
from overtile.networks.losses.ignored import IGNORED
from overtile.transforms.instance_labels import Labels, instance_array
from overtile.transforms.metadata import current, like
from overtile.transforms.weight_map import AddWeights, BorderTerm


class ClassWeightMap(Transform):
    """w(x) of classes: w_c(x), and between components of chosen classes the term of equation 2.

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), where w_c is the weight of the class
    of x, and d1 and d2 are the distances to the nearest and the second nearest *cell*. A cell is a
    component of one of ``border_classes``, connected without diagonals; components of different
    classes are different cells, also where they touch. Compute it after the deformation.

    w is 0 where nothing is annotated (-1), and computed from what is annotated, as of
    `BorderWeightMap`: no content of a gap allows less. Components of one class that a gap joins
    may be one, and count as one.

    Args:
        class_weights: w_c of the classes 0 .. K-1 (of a data set: `class_weights_of_counts`);
            None is 1, for any number of classes.
        border_classes: whose components have the second term between them; None for no class.
        w0: weight of a gap of width 0; the paper's 10.
        sigma: decay, in pixels (in units of ``spacing`` if given); the paper's 5.
        where: add the second term to the ``"background"`` of the cells alone, which is all other
            classes, or ``"everywhere"``, as the equation is printed.
        spacing: distance between pixels along each axis; default 1.

    Raises:
        ValueError: for an argument out of range, or labels that are no such classes.

    Example:
        >>> labels = np.array([[[1, 0, 1, -1, 2]]])
        >>> ClassWeightMap([0.5, 2, 4])(labels).tolist()
        [[[2.0, 0.5, 2.0, 0.0, 4.0]]]
        >>> weights = ClassWeightMap(border_classes=[1])(labels)  # d1 + d2 = 2 in the gap
        >>> [round(float(w), 3) for w in weights[0, 0]]
        [1.0, 10.231, 1.0, 0.0, 5.868]
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        border_classes: Sequence[int] | None = None,
        w0: float = 10.0,
        sigma: float = 5.0,
        where: str = "background",
        spacing: Sequence[float] | None = None,
    ) -> None:
        self.class_weights = _weights_of(class_weights)
        self.border_classes = _chosen(border_classes, self.class_weights)
        self.term = BorderTerm(w0, sigma, where, spacing)
        if not self.border_classes:
            self.term.w0 = 0.0

    def __call__(self, labels: Labels) -> Labels:
        """Classes ``[1, *S]``, whole numbers -> weights ``[1, *S]`` float32, w(x) >= 0."""
        labels = current(labels)
        array = instance_array(labels)
        table = self.class_weights
        if table is not None and array.size and array.max() >= len(table):
            raise ArgumentError(
                f"labels up to {array.max()}",
                f"a class, 0 to {len(table) - 1}, or {IGNORED} where nothing is annotated",
            )

        def of_classes(rows: slice) -> np.float32 | NDArray[np.float32]:
            if table is None:
                return np.float32(1)
            weights: NDArray[np.float32] = table[array[rows].astype(np.intp, copy=False)]
            return weights

        result: Labels = like(self.term.added_to(of_classes, self._cells(array))[None], labels)
        return result

    def _cells(self, array: NDArray[Any]) -> NDArray[np.int32]:
        hidden = array == IGNORED
        cells = np.where(hidden, np.int32(IGNORED), np.int32(0))
        found = 0
        for number in self.border_classes:
            here = array == number
            # what a gap joins may be one cell
            parts, count = ndimage.label(here | hidden)
            cells[here] = parts[here] + found
            found += count
        return cells


class ClassWeightMapd(AddWeights):
    """`ClassWeightMap` for dictionaries: labels under ``keys`` give weights under ``weight_key``.

    Args:
        keys: of labels ``[1, *S]`` of classes.
        class_weights: see `ClassWeightMap`.
        border_classes: see `ClassWeightMap`.
        w0: see `ClassWeightMap`.
        sigma: see `ClassWeightMap`.
        where: see `ClassWeightMap`.
        spacing: see `ClassWeightMap`.
        weight_key: where the weights go; one for all keys (with one key), or None for
            ``"{key}_weight"``.
        allow_missing_keys: leave out keys that an item does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        class_weights: Sequence[float] | None = None,
        border_classes: Sequence[int] | None = None,
        w0: float = 10.0,
        sigma: float = 5.0,
        where: str = "background",
        spacing: Sequence[float] | None = None,
        weight_key: str | None = "weight",
        allow_missing_keys: bool = False,
    ) -> None:
        weight_map = ClassWeightMap(class_weights, border_classes, w0, sigma, where, spacing)
        super().__init__(keys, weight_map, weight_key, allow_missing_keys)


ClassWeightMapD = ClassWeightMapDict = ClassWeightMapd


def _weights_of(class_weights: Sequence[float] | None) -> NDArray[np.float32] | None:
    if class_weights is None:
        return None
    text = isinstance(class_weights, str)
    weights = np.asarray([] if text else list(class_weights), np.float32)
    if not weights.size or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ArgumentError(
            f"class_weights={class_weights!r}", "a number >= 0 for every class, or None"
        )
    return weights


def _chosen(
    border_classes: Sequence[int] | None, weights: NDArray[np.float32] | None
) -> tuple[int, ...]:
    beyond = np.inf if weights is None else weights.size
    chosen = tuple(dict.fromkeys(border_classes or ()))
    if not all(isinstance(number, Integral) and 0 <= number < beyond for number in chosen):
        raise ArgumentError(
            f"border_classes={border_classes!r}",
            "classes from 0" + ("" if weights is None else f" to {weights.size - 1}"),
        )
    return chosen
