"""Instances, as the Cell Tracking Challenge, StarDist's authors and others score them.

Everything follows from how many pixels each reference object shares with each predicted one, which
is counted once an image, in a time that does not depend on the number of objects.
`docs/reference/metrics.md` has all definitions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from overtile.pipelines.errors import ConfigurationError, DataError

Labels = NDArray[Any]
Images = ArrayLike | Sequence[ArrayLike]
Counts = NDArray[Any]


@dataclass(frozen=True)
class SegMeasure:
    """SEG of a set of images.

    Attributes:
        value: mean over all reference objects, in [0, 1]; NaN if there are none.
        per_object: Jaccard index of every reference object, 0 for those not found.
    """

    value: float
    per_object: tuple[float, ...] = field(repr=False)

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class DetMeasure:
    """DET of a set of images.

    Attributes:
        value: in [0, 1]; NaN without references.
        references: reference objects.
        splits_needed: for each prediction that was taken for k references, k - 1.
        missed: references without a prediction.
        spurious: predictions without a reference.
    """

    value: float
    references: int
    splits_needed: int
    missed: int
    spurious: int

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class AveragePrecision:
    """AP of a set of images at one IoU.

    Attributes:
        value: TP / (TP + FP + FN), counts pooled over the set; 0 if there is no object at all.
        iou: the lowest that counts as found.
        true_positives: pairs of reference and prediction.
        false_positives: predictions without a reference.
        false_negatives: references without a prediction.
        per_image: AP of each image; NaN, which is no score, for one without any object.
    """

    value: float
    iou: float
    true_positives: int
    false_positives: int
    false_negatives: int
    per_image: tuple[float, ...] = field(repr=False)

    @property
    def mean_over_images(self) -> float:
        """Mean of ``per_image`` over the images with an object; NaN if there are none."""
        scores = [score for score in self.per_image if not math.isnan(score)]
        return float(np.mean(scores)) if scores else math.nan

    def __float__(self) -> float:
        return self.value


def seg_measure(references: Images, predictions: Images) -> SegMeasure:
    """SEG of the Cell Tracking Challenge, the "average IOU" of the U-Net paper's table 2.

    Of every reference object R the Jaccard index with the predicted object S that covers more
    than half of it, ``|R n S| > |R| / 2``, else 0; averaged over the objects of *all* images.
    Predictions without a reference cost nothing.

    Args:
        references: instance labels ``[*S]``, 0 = background (one image of any number of
            axes), or a list of such images.
        predictions: as many, of the same sizes.

    Raises:
        DataError: if counts or sizes differ, or labels are not integers from 0 up.
    """
    indices = [float(j) for o in _overlaps(references, predictions) for j in o.jaccard()]
    return SegMeasure(float(np.mean(indices)) if indices else math.nan, tuple(indices))


def det_measure(references: Images, predictions: Images) -> DetMeasure:
    """DET of the Cell Tracking Challenge: 1 - min(D, D0) / D0 over all images.

    D = 5 NS + 10 FN + FP is what putting the predictions right costs, D0 = 10 for each reference
    what drawing all from nothing costs. A prediction is taken for a reference of which it covers
    more than half, as in `seg_measure`; one that is taken for k has to be split k - 1 times.

    Args:
        references: as of `seg_measure`.
        predictions: as of `seg_measure`.

    Raises:
        DataError: as `seg_measure`.
    """
    return det_of(np.sum([o.det_counts() for o in _overlaps(references, predictions)], axis=0))


def average_precision(
    references: Images, predictions: Images, iou: float = 0.5
) -> AveragePrecision:
    """AP = TP / (TP + FP + FN) of one-to-one pairs of IoU >= ``iou``, the most there can be.

    The headline pools TP, FP and FN over all images, so that every object counts the same;
    ``mean_over_images`` of the result is the mean of the images' own AP instead.

    Args:
        references: as of `seg_measure`.
        predictions: as of `seg_measure`.
        iou: above 0, up to 1.

    Raises:
        DataError: as `seg_measure`.
        ConfigurationError: for another ``iou``.
    """
    check_iou(iou)
    return average_precision_of(
        np.array([o.pair_counts(iou) for o in _overlaps(references, predictions)]), iou
    )


def det_of(counts: Counts) -> DetMeasure:
    """From (references, splits needed, missed, spurious) of a set."""
    references, splits, missed, spurious = map(int, counts)
    worst = 10 * references
    cost = min(5 * splits + 10 * missed + spurious, worst)
    value = 1 - cost / worst if references else math.nan
    return DetMeasure(value, references, splits, missed, spurious)


def average_precision_of(counts: Counts, iou: float) -> AveragePrecision:
    """From (TP, FP, FN) of each image, ``[images, 3]``."""
    images = tuple(float(row[0] / row.sum()) if row.any() else math.nan for row in counts)
    found, spurious, missed = map(int, counts.sum(0))
    total = found + spurious + missed
    value = found / total if total else 0.0
    return AveragePrecision(value, iou, found, spurious, missed, images)


def check_iou(iou: float) -> float:
    """``iou``, if a pair can reach it and not every pair does.

    Raises:
        ConfigurationError: else.
    """
    if not isinstance(iou, (int, float)) or not 0 < iou <= 1:
        raise ConfigurationError("iou", str(iou), "a number above 0, up to 1")
    return iou


@dataclass(frozen=True)
class Overlap:
    """Reference and predicted objects of one image, numbered from 0, and what they share.

    Attributes:
        reference_sizes: pixels of each reference object, in the order of their labels.
        prediction_sizes: of each predicted object.
        reference: its number, for each pair that shares pixels; pairs in order.
        prediction: its number, for each such pair.
        shared: how many, for each such pair.
    """

    reference_sizes: NDArray[np.int64]
    prediction_sizes: NDArray[np.int64]
    reference: NDArray[np.int64]
    prediction: NDArray[np.int64]
    shared: NDArray[np.int64]

    def iou(self) -> NDArray[np.float64]:
        """Of each pair, > 0."""
        either = self.reference_sizes[self.reference] + self.prediction_sizes[self.prediction]
        ious: NDArray[np.float64] = self.shared / (either - self.shared)
        return ious

    def covers(self) -> NDArray[np.bool_]:
        """Whether the prediction of a pair covers more than half of its reference."""
        more: NDArray[np.bool_] = 2 * self.shared > self.reference_sizes[self.reference]
        return more

    def jaccard(self) -> NDArray[np.float64]:
        """Of every reference object with the prediction that covers it, else 0."""
        result = np.zeros(len(self.reference_sizes))
        chosen = self.covers()
        result[self.reference[chosen]] = self.iou()[chosen]
        return result

    def det_counts(self) -> tuple[int, int, int, int]:
        """References, splits needed, missed, spurious: see `DetMeasure`."""
        taken = self.prediction[self.covers()]  # one for each reference that is found
        references, predictions = len(self.reference_sizes), len(self.prediction_sizes)
        used = len(np.unique(taken))
        return references, len(taken) - used, references - len(taken), predictions - used

    def pair_counts(self, iou: float) -> tuple[int, int, int]:
        """TP, FP, FN of the most pairs, one-to-one, that reach ``iou``."""
        good = self.iou() >= iou
        references, predictions = len(self.reference_sizes), len(self.prediction_sizes)
        found = 0
        if good.any():
            places = self.reference[good], self.prediction[good]
            graph = csr_array((np.ones(good.sum(), np.int8), places), (references, predictions))
            found = int((maximum_bipartite_matching(graph) >= 0).sum())
        return found, predictions - found, references - found

    def panoptic_counts(self) -> tuple[int, int, int, float]:
        """TP, FP, FN and the sum of IoU of the most pairs, one-to-one, that reach an IoU of 0.5.

        IoUs are rounded to float32, as in the tools whose values are compared.
        """
        found, spurious, missed = self.pair_counts(0.5)
        ious = self.iou()
        above = ious[ious > 0.5].astype(np.float32)  # nothing else reaches 0.5 with either of them
        return found, spurious, missed, float(above.sum()) + 0.5 * (found - len(above))


def overlap_of(reference: ArrayLike, prediction: ArrayLike) -> Overlap:
    """Count what the objects of two label images ``[*S]`` share.

    Raises:
        DataError: if sizes differ, or labels are not integers from 0 up.
    """
    r, s = _checked(reference, "references"), _checked(prediction, "predictions")
    if r.shape != s.shape:
        raise DataError(
            found=f"prediction of size {s.shape} for a reference of size {r.shape}",
            expected="the same size",
        )
    r_number, r_sizes = _renumbered(r)
    s_number, s_sizes = _renumbered(s)
    width = len(s_sizes)
    places = r_number.astype(np.int64) * width + s_number
    if len(r_sizes) * width <= max(4 * r.size, 1 << 16):
        table = np.bincount(places, minlength=len(r_sizes) * width)
        places = np.flatnonzero(table)
        shared = table[places]
    else:  # a table larger than the images
        places, shared = np.unique(places, return_counts=True)
    first, second = places // width, places % width
    objects = (first > 0) & (second > 0)  # the background is none
    pairs = first[objects] - 1, second[objects] - 1
    return Overlap(r_sizes[1:], s_sizes[1:], *pairs, shared[objects])


def _renumbered(label: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers from 0 in the order of labels, flat; pixels of each. Number 0 is the background."""
    flat = label.ravel()
    if flat.size and int(flat.max()) <= max(4 * flat.size, 1 << 16):
        flat = flat.astype(np.int64)
        counts = np.bincount(flat)
        counts[0] += 1  # there even if no pixel is background
        names = np.flatnonzero(counts)
        counts[0] -= 1
        lookup = np.zeros(len(counts), np.int64)
        lookup[names] = np.arange(len(names))
        return lookup[flat], counts[names]
    names, number, counts = np.unique(flat, return_inverse=True, return_counts=True)
    if not len(names) or names[0] != 0:
        number, counts = number + 1, np.concatenate([[0], counts])
    return number.astype(np.int64), counts.astype(np.int64)


def _checked(labels: ArrayLike, what: str) -> Labels:
    array = np.asarray(labels)
    if array.dtype.kind not in "iub":
        raise DataError(
            found=f"{what} of {array.dtype}",
            expected="instance labels, integers from 0 (background) up",
        )
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise DataError(
            found=f"{what} with label {array.min()}", expected="integers from 0 (background) up"
        )
    return array


def _overlaps(references: Images, predictions: Images) -> list[Overlap]:
    r, s = _listed(references), _listed(predictions)
    if len(r) != len(s):
        raise DataError(found=f"{len(r)} references, {len(s)} predictions", expected="as many")
    if not r:
        raise DataError(found="0 references, 0 predictions", expected="one image at least")
    return [overlap_of(reference, prediction) for reference, prediction in zip(r, s, strict=True)]


def _listed(images: Any) -> list[Any]:
    """One image, which has a number of axes of its own, or several."""
    return list(images) if isinstance(images, (list, tuple)) else [images]
