"""Class maps, as medical segmentation scores them: overlap, rates, surfaces, volumes.

A class map ``[H, W]`` or ``[X, Y, Z]`` holds a class 0 to K - 1 in every pixel, a label also
`IGNORED` where nobody has annotated; such a pixel counts nowhere, whatever is predicted there.
Every function gives a value a class: NaN where a class is in neither map, which is no score, and
infinity where no finite one exists because only one of the maps has it.
`docs/reference/metrics.md` has all definitions.

Boundaries, areas and distances are MONAI's. Its ``ignore_index`` is not used: it takes the edge of
a gap for a boundary. Nor are its counts, which it keeps in float32: above 2^24 pixels, a volume of
256^3, they are not exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from monai.metrics.utils import get_code_to_measure_table, get_mask_edges, get_surface_distance
from numpy.typing import ArrayLike, NDArray

from overtile.networks.losses.ignored import IGNORED
from overtile.pipelines.errors import ConfigurationError, DataError

Labels = NDArray[Any]
Mask = NDArray[np.bool_]
Values = NDArray[np.float64]
Spacing = tuple[float, ...]


@dataclass(frozen=True)
class ClassCounts:
    """Annotated pixels of each class, ``[K]`` each, int64.

    Attributes:
        true_positives: of the class in both.
        false_positives: in the prediction alone.
        false_negatives: in the label alone.
        true_negatives: in neither.
    """

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    false_negatives: NDArray[np.int64]
    true_negatives: NDArray[np.int64]

    def dice(self) -> Values:
        """2 TP / (2 TP + FP + FN)."""
        found = 2 * self.true_positives
        return self._share(found, found + self.false_positives + self.false_negatives)

    def iou(self) -> Values:
        """TP / (TP + FP + FN)."""
        found = self.true_positives
        return self._share(found, found + self.false_positives + self.false_negatives)

    def tpr(self) -> Values:
        """TP / (TP + FN), sensitivity or recall; NaN for a class that the label has not."""
        return self._share(self.true_positives, self.true_positives + self.false_negatives)

    def fnr(self) -> Values:
        """FN / (TP + FN) = 1 - TPR."""
        return self._share(self.false_negatives, self.true_positives + self.false_negatives)

    def tnr(self) -> Values:
        """TN / (TN + FP), specificity; NaN for a class that is all that the label has."""
        return self._share(self.true_negatives, self.true_negatives + self.false_positives)

    def fpr(self) -> Values:
        """FP / (TN + FP) = 1 - TNR."""
        return self._share(self.false_positives, self.true_negatives + self.false_positives)

    def volume_error(self) -> Values:
        """(predicted - labelled) / labelled pixels: below 0 is too little, infinite without any."""
        more = self.false_positives - self.false_negatives
        return self._share(more, self.true_positives + self.false_negatives, of_nothing=math.inf)

    def _share(
        self, part: NDArray[np.int64], whole: NDArray[np.int64], of_nothing: float = math.nan
    ) -> Values:
        there = self.true_positives + self.false_positives + self.false_negatives > 0
        share = np.where(there, of_nothing, math.nan)
        np.divide(part, whole, out=share, where=there & (whole > 0))
        return share


_OF_COUNTS: dict[str, Callable[[ClassCounts], Values]] = {
    "dice": ClassCounts.dice,
    "iou": ClassCounts.iou,
    "tpr": ClassCounts.tpr,
    "tnr": ClassCounts.tnr,
    "fpr": ClassCounts.fpr,
    "fnr": ClassCounts.fnr,
    "volume_error": ClassCounts.volume_error,
}
CLASS_SCORES = (*_OF_COUNTS, "hd95", "surface_dice")
"""What `class_scores` knows, as bundles name it."""


def class_counts(label: ArrayLike, prediction: ArrayLike, num_classes: int) -> ClassCounts:
    """Count the annotated pixels of each class, exactly.

    Args:
        label: class map ``[*S]`` of two or three axes, 0 to ``num_classes`` - 1 or `IGNORED`.
        prediction: class map of the same size, 0 to ``num_classes`` - 1; anything in a gap.
        num_classes: K, 2 or more, with the background.

    Raises:
        DataError: for maps of other values, of floats, or of sizes that differ.
        ConfigurationError: for fewer classes.
    """
    return _counted(*_checked(label, prediction, num_classes), num_classes)


def class_scores(
    label: ArrayLike,
    prediction: ArrayLike,
    num_classes: int,
    score: str = "dice",
    *,
    spacing: Sequence[float] | float | None = None,
    tolerance: float = 1.0,
    classes: Iterable[int] | None = None,
) -> Values:
    """One score of each class, ``[K]`` or as many as ``classes``.

    Args:
        label: as of `class_counts`.
        prediction: as of `class_counts`.
        num_classes: as of `class_counts`.
        score: ``dice``, ``iou``, ``tpr``, ``tnr``, ``fpr``, ``fnr``, ``volume_error``, ``hd95`` or
            ``surface_dice``: see `ClassCounts`, `class_hd95` and `class_surface_dice`.
        spacing: for the last two, as of `class_hd95`.
        tolerance: for the last, as of `class_surface_dice`.
        classes: those to score; None for all.

    Raises:
        DataError: as `class_counts`.
        ConfigurationError: as `class_counts`, or for another score, spacing, tolerance or class.
    """
    check_score(score)
    maps = _checked(label, prediction, num_classes)
    chosen = chosen_classes(classes, num_classes)
    if score in _OF_COUNTS:
        return _OF_COUNTS[score](_counted(*maps, num_classes))[list(chosen)]
    steps = check_spacing(spacing, maps[0].ndim)
    if score == "hd95":
        values = [_hd95(*_masks(*maps, number), steps) for number in chosen]
    else:
        check_tolerance(tolerance)
        values = [_surface_dice(*_masks(*maps, number), steps, tolerance) for number in chosen]
    return np.array(values, np.float64)


def class_hd95(
    label: ArrayLike,
    prediction: ArrayLike,
    num_classes: int,
    spacing: Sequence[float] | float | None = None,
) -> Values:
    """95th percentile of the Hausdorff distance of each class, in units of ``spacing``.

    The boundary of a class are its pixels of which a face borders an annotated pixel of another
    class, or lies at the edge of the image; a face at a pixel that is not annotated is none. The
    value is the larger of two percentiles, of the distances from the label's boundary to the
    nearest pixel of the prediction's and back, between the centres of pixels, interpolated linearly
    (MONAI's `compute_hausdorff_distance` where all is annotated). Infinite if one of the two has no
    boundary, NaN if both have none.

    Args:
        label: as of `class_counts`.
        prediction: as of `class_counts`.
        num_classes: as of `class_counts`.
        spacing: size of a pixel along each axis of the maps, or along all; None for 1.

    Raises:
        DataError: as `class_counts`.
        ConfigurationError: as `class_counts`, or for a spacing that is not above 0, for each axis.
    """
    return class_scores(label, prediction, num_classes, "hd95", spacing=spacing)


def class_surface_dice(
    label: ArrayLike,
    prediction: ArrayLike,
    num_classes: int,
    spacing: Sequence[float] | float | None = None,
    tolerance: float = 1.0,
) -> Values:
    """Share of both surfaces of each class that lies within ``tolerance`` of the other, by area.

    The normalised surface distance of Nikolov et al. (2018), as DeepMind's `surface-distance` and
    the Medical Segmentation Decathlon compute it, and MONAI with ``use_subvoxels``: elements lie at
    the corners of pixels, with the area in a volume, or the length in an image, that marching cubes
    gives the 8, or 4, pixels around. What lies beyond the image belongs to no class. If pixels
    around a corner are not annotated, its area is the least that any classes there allow: none
    where the annotated ones agree. 0 if one of the two has no surface, NaN if both have none.

    Args:
        label: as of `class_counts`.
        prediction: as of `class_counts`.
        num_classes: as of `class_counts`.
        spacing: as of `class_hd95`.
        tolerance: 0 or more, in units of ``spacing``; a distance of it is within.

    Raises:
        DataError: as `class_counts`.
        ConfigurationError: as `class_hd95`, or for another ``tolerance``.
    """
    return class_scores(
        label, prediction, num_classes, "surface_dice", spacing=spacing, tolerance=tolerance
    )


def check_score(score: str) -> str:
    """``score``, if `class_scores` knows it.

    Raises:
        ConfigurationError: else.
    """
    if score not in CLASS_SCORES:
        raise ConfigurationError("score", repr(score), f"one of {', '.join(CLASS_SCORES)}")
    return score


def check_tolerance(tolerance: float) -> float:
    """``tolerance``, if it is a distance.

    Raises:
        ConfigurationError: else.
    """
    if not _is_number(tolerance) or not 0 <= tolerance < math.inf:
        raise ConfigurationError("tolerance", repr(tolerance), "a number of 0 or more")
    return tolerance


def check_spacing(spacing: Sequence[float] | float | None, axes: int) -> Spacing:
    """A size for each of so many axes.

    Raises:
        ConfigurationError: for one that is not above 0, or for another number of them.
    """
    given: Any = 1.0 if spacing is None else spacing
    steps = (given,) * axes if _is_number(given) else tuple(np.ravel(np.asarray(given, object)))
    if len(steps) != axes or not all(_is_number(s) and 0 < s < math.inf for s in steps):
        raise ConfigurationError(
            "spacing", str(spacing), f"a number above 0 for each of {axes} axes, or one for all"
        )
    return tuple(float(s) for s in steps)


def check_num_classes(num_classes: int) -> int:
    """``num_classes``, if there is something to tell apart.

    Raises:
        ConfigurationError: else.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ConfigurationError(
            "num_classes", repr(num_classes), "2 or more, the background included"
        )
    return num_classes


def chosen_classes(classes: Iterable[int] | None, num_classes: int) -> tuple[int, ...]:
    """The classes to score, all if None.

    Raises:
        ConfigurationError: for one that does not exist.
    """
    chosen = tuple(range(num_classes) if classes is None else classes)
    for number in chosen:
        if number not in range(num_classes):
            raise ConfigurationError("classes", str(number), f"classes 0 to {num_classes - 1}")
    return chosen


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _checked(
    label: ArrayLike, prediction: ArrayLike, num_classes: int
) -> tuple[Labels, Labels, Mask]:
    """Both maps, and where the label is annotated."""
    check_num_classes(num_classes)
    maps = np.asarray(label), np.asarray(prediction)
    if maps[0].shape != maps[1].shape:
        raise DataError(
            found=f"prediction of size {maps[1].shape} for a label of size {maps[0].shape}",
            expected="the same size",
        )
    if maps[0].ndim not in (2, 3):
        raise DataError(
            found=f"class maps of {maps[0].ndim} axes", expected="2 in an image, 3 in a volume"
        )
    annotated = np.asarray(maps[0] != IGNORED)
    for name, array in zip(("label", "prediction"), maps, strict=True):
        told = f"classes 0 to {num_classes - 1}"
        if name == "label":
            told += f", or {IGNORED} where it is not annotated"
        if array.dtype.kind not in "iub":
            raise DataError(name, f"of {array.dtype}", f"integers, {told}")
        wrong = annotated & ((array < 0) | (array >= num_classes))
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(name, f"{array[place]} at {place}", told)
    return *maps, annotated


def _counted(label: Labels, prediction: Labels, annotated: Mask, num_classes: int) -> ClassCounts:
    labelled, predicted = (map_[annotated].astype(np.intp) for map_ in (label, prediction))
    places = labelled * num_classes + predicted
    table = np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)
    both = table.diagonal()
    missed, extra = table.sum(1) - both, table.sum(0) - both
    return ClassCounts(both, extra, missed, table.sum() - both - extra - missed)


def _masks(
    label: Labels, prediction: Labels, annotated: Mask, number: int
) -> tuple[Mask, Mask, Mask]:
    """A class in both maps, and what is not annotated, as far as its surfaces depend on it."""
    one, other = (label == number) & annotated, (prediction == number) & annotated
    # a pixel more on each side where the image has one, so that the edge of the box is one of the
    # image, or lies outside of the class
    box = []
    either = one | other
    for axis in range(either.ndim):
        places = np.flatnonzero(either.any(tuple(a for a in range(either.ndim) if a != axis)))
        box.append(slice(max(places[0] - 1, 0), places[-1] + 2) if len(places) else slice(0))
    part = tuple(box)
    return one[part], other[part], ~annotated[part]


def _hd95(label: Mask, prediction: Mask, gap: Mask, spacing: Spacing) -> float:
    # filled, a gap is no border of the class; its own pixels are then no boundary either
    edges = get_mask_edges(prediction | gap, label | gap, crop=False) if label.size else (gap, gap)
    ours, theirs = (np.asarray(edge) & ~gap for edge in edges)
    if not ours.any() or not theirs.any():
        return math.inf if ours.any() or theirs.any() else math.nan
    pairs = (ours, theirs), (theirs, ours)
    return max(float(np.quantile(_distances(*pair, spacing), 0.95)) for pair in pairs)


def _surface_dice(
    label: Mask, prediction: Mask, gap: Mask, spacing: Spacing, tolerance: float
) -> float:
    areas = _areas(spacing)
    ours, theirs = (_at_corners(mask, gap, areas) for mask in (prediction, label))
    near = total = 0.0
    for one, other in ((ours, theirs), (theirs, ours)):
        there = one > 0
        if there.any():
            total += float(one[there].sum())
            if other.any():
                within = _distances(there, other > 0, spacing) <= np.float32(tolerance)
                near += float(one[there][within].sum())
    return near / total if total else math.nan


def _distances(places: Mask, others: Mask, spacing: Spacing) -> Labels:
    """Of each place to the nearest other, in float32, in which 3 steps of 0.1 are 0.3."""
    return np.asarray(get_surface_distance(places, others, spacing=spacing))


def _at_corners(mask: Mask, gap: Mask, areas: Values) -> Values:
    """The area at each corner of a pixel, those at the edge of the image included."""
    state = np.pad(np.where(gap, 2, mask).astype(np.int16), 1)
    code = np.zeros([size + 1 for size in mask.shape], np.int16)
    for part in product((slice(None, -1), slice(1, None)), repeat=mask.ndim):
        code = 3 * code + state[part]
    found: Values = areas[code]
    return found


@lru_cache(maxsize=64)
def _areas(spacing: Spacing) -> Values:
    """Area of the surface among the pixels around a corner, by their states.

    A state is 0 for another class, 1 for the class, 2 for either; they are the digits, the first
    pixel's the highest, of the place in the table, to base 3.
    """
    table, kernel = get_code_to_measure_table(spacing)
    bits = kernel.numpy().astype(int).ravel()
    areas = np.zeros(3 ** len(bits))
    for place, states in enumerate(product(range(3), repeat=len(bits))):
        if 2 in states:  # places of a lower digit come before
            digit = 3 ** (len(bits) - 1 - states.index(2))
            areas[place] = min(areas[place - digit], areas[place - 2 * digit])
        else:
            areas[place] = float(table[int(bits @ states)])
    return areas
