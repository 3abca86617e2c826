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

from overtile.pipelines.em_metrics import (
    THRESHOLDS,
    THRESHOLDS_OF_V,
    EmReport,
    PixelError,
    RandError,
    VInfo,
    VRand,
    WarpingCounts,
    WarpingError,
    em_counts,
    em_report,
    pixel_error,
    pixel_error_of,
    rand_error,
    v_info,
    v_rand,
    warping_error,
)
from overtile.pipelines.errors import DataError

__all__ = [
    "THRESHOLDS",
    "THRESHOLDS_OF_V",
    "EmReport",
    "PixelError",
    "PixelErrorMetric",
    "RandError",
    "SegMeasure",
    "SegMetric",
    "VInfo",
    "VRand",
    "WarpingCounts",
    "WarpingError",
    "cell_masks",
    "em_report",
    "pixel_error",
    "rand_error",
    "seg_measure",
    "v_info",
    "v_rand",
    "warping_error",
]

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
        counts = [em_counts(label, p, ["pixel_error"])["pixel_error"].sum(0) for p, label in pairs]
        return torch.from_numpy(np.stack(counts))

    def per_image(self) -> list[float]:
        """Pixel error of each slice so far, each at its own best threshold."""
        return [pixel_error_of(counts.numpy()).value for counts in _buffer(self)]

    def aggregate(self) -> Tensor:
        """Pixel error of all slices so far."""
        value = pixel_error_of(_buffer(self).sum(0).numpy()).value
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
