"""Numbers that the field compares: SEG of instances, pixel error of membranes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric
from numpy.typing import NDArray
from torch import Tensor

from overtile.pipelines.errors import DataError

Labels = NDArray[Any]


@dataclass(frozen=True)
class SegMeasure:
    """SEG of a set of images.

    Attributes:
        value: mean over all reference objects, in [0, 1]; 1 if there are none.
        per_object: Jaccard index of every reference object, 0 for those not found.
    """

    value: float
    per_object: tuple[float, ...] = field(repr=False)

    def __float__(self) -> float:
        return self.value


def seg_measure(
    references: Labels | Sequence[Labels], predictions: Labels | Sequence[Labels]
) -> SegMeasure:
    """SEG of the Cell Tracking Challenge, the "average IOU" of the U-Net paper's table 2.

    Of every reference object R the Jaccard index with the predicted object S that covers more
    than half of it, ``|R n S| > |R| / 2``, else 0; averaged over the objects of *all* images.
    Predictions without a reference cost nothing.

    Args:
        references: instance labels ``[*S]``, 0 = background (one image of any number of
            axes), or a list of such images.
        predictions: as many, of the same sizes.

    Raises:
        DataError: if counts or sizes differ.
    """
    references, predictions = _listed(references), _listed(predictions)
    if len(references) != len(predictions):
        raise DataError(f"{len(references)} references, {len(predictions)} predictions")
    indices = [
        index
        for reference, prediction in zip(references, predictions, strict=True)
        for index in _jaccard_of_references(reference, prediction)
    ]
    return SegMeasure(float(np.mean(indices)) if indices else 1.0, tuple(indices))


def _jaccard_of_references(reference: Labels, prediction: Labels) -> list[float]:
    if reference.shape != prediction.shape:
        raise DataError(
            f"prediction of size {prediction.shape} for a reference of size {reference.shape}; "
            "expected the same size"
        )
    names, r = np.unique(reference, return_inverse=True)
    others, s = np.unique(prediction, return_inverse=True)
    overlap = np.zeros((len(names), len(others)), np.int64)
    np.add.at(overlap, (r.ravel(), s.ravel()), 1)
    r_size, s_size = overlap.sum(1), overlap.sum(0)
    candidates = overlap * (others != 0)  # background is not an object
    if not candidates.size:
        return []
    best = candidates.argmax(1)
    shared = candidates[np.arange(len(names)), best]
    jaccard = np.where(2 * shared > r_size, shared / (r_size + s_size[best] - shared), 0.0)
    return [float(j) for j in jaccard[names != 0]]


@dataclass(frozen=True)
class PixelError:
    """Pixel error of a stack.

    Attributes:
        value: 1 - the best F1 over the thresholds, in [0, 1].
        per_threshold: 1 - F1 at each of `THRESHOLDS`.
    """

    value: float
    per_threshold: tuple[float, ...]

    def __float__(self) -> float:
        return self.value


THRESHOLDS = tuple(float(t) for t in np.cumsum([0.0] + [0.1] * 9))  # accumulated, as the tools do


def pixel_error(labels: Labels, probabilities: Labels) -> PixelError:
    """1 - the maximum over thresholds 0.0 .. 0.9 of F1, with *cell* as the positive class.

    Args:
        labels: ``[H, W]`` or ``[N, H, W]``, > 0 = cell.
        probabilities: of cell, in [0, 1], the same shape.
    """
    return _pixel_error(_pixel_counts(labels, probabilities))


def _pixel_counts(labels: Labels, probabilities: Labels) -> NDArray[np.int64]:
    """True positives, predicted and labelled pixels, ``[thresholds, 3]``."""
    cell, p = labels > 0, probabilities.astype(np.float64)
    rows = [((p > t)[cell].sum(), (p > t).sum(), cell.sum()) for t in THRESHOLDS]
    return np.array(rows, np.int64)


def _pixel_error(counts: NDArray[np.int64]) -> PixelError:
    hit, predicted, labelled = counts.T
    total = predicted + labelled
    f1 = np.where(total > 0, 2 * hit / np.maximum(total, 1), 1.0)
    return PixelError(float(1 - f1.max()), tuple(float(1 - f) for f in f1))


class SegMetric(CumulativeIterationMetric):
    """`seg_measure` over a data set, pooled over objects, as a MONAI metric."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        """Rows (sum of Jaccard indices, number of reference objects), one an image."""
        rows = []
        for prediction, reference in zip(_arrays(y_pred), _arrays(y), strict=True):
            found = _jaccard_of_references(reference, prediction)
            rows.append([float(sum(found)), float(len(found))])
        return torch.tensor(rows, dtype=torch.float64)

    def per_image(self) -> list[float]:
        """SEG of each image so far; NaN, which is no score, for one without reference objects."""
        return [float(total / count) if count else math.nan for total, count in _buffer(self)]

    def aggregate(self) -> Tensor:
        """SEG of all images so far."""
        total, objects = _buffer(self).sum(0)
        return total / objects if objects else torch.ones(())


class PixelErrorMetric(CumulativeIterationMetric):
    """`pixel_error` over a stack whose slices come one by one, as a MONAI metric."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        """Counts ``[B, thresholds, 3]``; y_pred holds P(cell) in its last channel."""
        pairs = zip(_arrays(y_pred, channel=-1), _arrays(y), strict=True)
        return torch.stack([torch.from_numpy(_pixel_counts(label, p)) for p, label in pairs])

    def per_image(self) -> list[float]:
        """Pixel error of each slice so far, each at its own best threshold."""
        return [_pixel_error(counts.numpy()).value for counts in _buffer(self)]

    def aggregate(self) -> Tensor:
        """Pixel error of all slices so far."""
        value = _pixel_error(_buffer(self).sum(0).numpy()).value
        return torch.tensor(value, dtype=torch.float64)


def cell_masks(output: Sequence[Mapping[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """``output_transform`` for MONAI's metrics of binary masks: (found, labelled), cell = 1."""
    found, labelled = ([(image[key] > 0).float() for image in output] for key in _KEYS)
    return found, labelled


_KEYS = ("instances", "label")


def _arrays(batch: Tensor, channel: int = 0) -> list[Labels]:
    return [image[channel].detach().cpu().numpy() for image in batch]


def _buffer(metric: CumulativeIterationMetric) -> Tensor:
    rows: Tensor = metric.get_buffer()
    return rows


def _listed(images: Labels | Sequence[Labels]) -> list[Labels]:
    if isinstance(images, (np.ndarray, Tensor)):
        images = [images]
    return [np.asarray(image) for image in images]
