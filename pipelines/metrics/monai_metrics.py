"""Numbers that the field compares, over data sets: MONAI metrics for bundles and engines.

What they compute from single images or stacks is in `overtile.pipelines.metrics.instances` and
`overtile.pipelines.metrics.membranes`. A metric keeps counts of each
image, never images: these may differ in size, and distributed processes exchange a few numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric, PanopticQualityMetric
from numpy.typing import NDArray
from torch import Tensor

from overtile.pipelines.errors import DataError
from overtile.pipelines.metrics.gaps import annotated_cells, annotated_instances
from overtile.pipelines.metrics.instances import average_precision_of, check_iou, det_of, overlap_of
from overtile.pipelines.metrics.membranes import (
    em_counts,
    pixel_error_of,
    rand_error_of,
    slice_f,
    warping_error_of,
)
from overtile.pipelines.metrics.sections import sections_first

Array = NDArray[Any]


class _Counted(CumulativeIterationMetric):
    """Counts each image, adds the counts up, and then makes a score of them.

    Call it with predictions and labels, batches ``[B, C, *S]`` or lists of ``[C, *S]``. Labels are
    `IGNORED` (-1) at pixels that are not annotated: nothing is counted there.
    """

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        """Counts of each image, which are kept."""
        if y is None or len(y_pred) != len(y):
            count = "no" if y is None else len(y)
            raise DataError(found=f"{len(y_pred)} predictions, {count} labels", expected="as many")
        return super().__call__(y_pred, y, **kwargs)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        rows = []
        for prediction, label in zip(y_pred, y, strict=True):
            axes = label.meta.get("axes") if isinstance(label, MetaTensor) else None
            pair = self.annotated(_array(prediction, -1), _array(label, 0))
            rows.append(self.count(*(sections_first(array, axes) for array in pair)))
        device = y_pred.device if y_pred.is_cuda else "cpu"  # NCCL gathers from GPUs alone
        return torch.as_tensor(np.stack(rows), device=device)

    def annotated(self, prediction: Array, label: Array) -> tuple[Array, Array]:
        """Both without what is not annotated."""
        return annotated_instances(prediction, label)

    def count(self, prediction: Array, label: Array) -> Array:
        """What one image adds; ``prediction`` is the last channel, ``label`` the first."""
        raise NotImplementedError

    def score(self, counts: Array) -> float:
        """Of the counts' sum over images."""
        raise NotImplementedError

    def score_of_image(self, counts: Array) -> float:
        """The same, or NaN where an image has no score of its own."""
        return self.score(counts)

    def per_image(self) -> list[float]:
        """The score of each image so far; NaN, which is no score, where it is not defined."""
        return [self.score_of_image(counts) for counts in _buffer(self)]

    def aggregate(self, reduction: Any = None) -> Tensor:
        """The score of all images so far, a scalar of float64; there is no other reduction."""
        return torch.tensor(self.score(_buffer(self).sum(0)), dtype=torch.float64)


class SegMetric(_Counted):
    """`seg_measure` over a data set, pooled over objects, as a MONAI metric.

    Predictions and labels are instance labels ``[B, 1, *S]``.
    """

    def count(self, prediction: Array, label: Array) -> Array:
        """Sum of Jaccard indices, number of reference objects."""
        indices = overlap_of(label, prediction).jaccard()
        return np.array([indices.sum(), len(indices)])

    def score(self, counts: Array) -> float:
        """SEG; NaN without reference objects."""
        return float(counts[0] / counts[1]) if counts[1] else math.nan


class DetMetric(_Counted):
    """`det_measure` over a data set, pooled over objects, as a MONAI metric.

    Predictions and labels are instance labels ``[B, 1, *S]``.
    """

    def count(self, prediction: Array, label: Array) -> Array:
        """References, splits needed, missed, spurious."""
        return np.array(overlap_of(label, prediction).det_counts(), np.int64)

    def score(self, counts: Array) -> float:
        """DET; NaN without reference objects."""
        return det_of(counts).value


class AveragePrecisionMetric(_Counted):
    """`average_precision` over a data set, counts pooled, as a MONAI metric.

    Predictions and labels are instance labels ``[B, 1, *S]``.

    Args:
        iou: the lowest that counts as found: above 0, up to 1.

    Raises:
        ConfigurationError: for another ``iou``.
    """

    def __init__(self, iou: float = 0.5) -> None:
        super().__init__()
        self.iou = check_iou(iou)

    def count(self, prediction: Array, label: Array) -> Array:
        """TP, FP, FN."""
        return np.array(overlap_of(label, prediction).pair_counts(self.iou), np.int64)

    def score(self, counts: Array) -> float:
        """AP; 0 without any object."""
        return average_precision_of(counts[None], self.iou).value

    def score_of_image(self, counts: Array) -> float:
        """NaN without any object."""
        return self.score(counts) if counts.any() else math.nan


class PanopticQuality(_Counted, PanopticQualityMetric):
    """Panoptic quality (Kirillov et al., 2019) of instance labels, pooled over a data set.

    PQ = sum of IoU / (TP + FP / 2 + FN / 2) over pairs, one-to-one, whose IoU is 0.5 or more, as
    StarDist's tools count them; the definition says more than 0.5, which differs where an IoU is
    0.5 exactly. It is MONAI's metric of one class, which takes instance labels ``[B, 1, *S]`` and,
    having counted all overlaps at once, needs no mask for every object; nothing is added to the
    denominator.
    """

    def __init__(self) -> None:
        PanopticQualityMetric.__init__(self, num_classes=1, smooth_numerator=0.0)

    def count(self, prediction: Array, label: Array) -> Array:
        """TP, FP, FN, sum of IoU, in the one row a class of MONAI's buffer."""
        return np.array([overlap_of(label, prediction).panoptic_counts()])

    def score(self, counts: Array) -> float:
        """PQ; 0 without any object."""
        found, spurious, missed, ious = counts[0]
        total = found + spurious / 2 + missed / 2
        return float(ious / total) if total else 0.0

    def score_of_image(self, counts: Array) -> float:
        """NaN without any object."""
        return self.score(counts) if counts.any() else math.nan


class _OfStack(_Counted):
    """A metric of membranes over a stack whose slices come one by one.

    Predictions hold P(cell) in their last channel, ``[B, C, H, W]``; labels ``[B, 1, H, W]`` are
    > 0 in cells. Volumes ``[B, C, N, H, W]`` are stacks of N slices; labels that
    `ReadImaged` read from NIfTI or DICOM may be ``[X, Y, Z]``.
    """

    name: ClassVar[str]

    def annotated(self, prediction: Array, label: Array) -> tuple[Array, Array]:
        """Both with membrane where nothing is annotated, so that they agree there."""
        return annotated_cells(prediction, label)

    def count(self, prediction: Array, label: Array) -> Array:
        """Counts at each threshold, summed over the slices, and the labelled pixels of cells."""
        total = self.summed(em_counts(label, prediction, [self.name])[self.name])
        return np.column_stack([total, np.full(len(total), (label > 0).sum())])

    def summed(self, counts: Array) -> Array:
        """Of `em_counts` what a stack keeps, ``[thresholds, ...]``."""
        total: Array = counts.sum(0)
        return total

    def score(self, counts: Array) -> float:
        """Of the counts' sum over slices; NaN where no pixel is labelled as cell."""
        return self.of_cells(counts[:, :-1]) if counts[0, -1] else math.nan

    def of_cells(self, counts: Array) -> float:
        """The score of a stack that has cells."""
        raise NotImplementedError


class PixelErrorMetric(_OfStack):
    """`pixel_error` over a stack, as a MONAI metric; of one image at its own best threshold.

    Predictions hold P(cell) in their last channel, ``[B, C, H, W]``; labels ``[B, 1, H, W]`` are
    > 0 in cells. Volumes ``[B, C, N, H, W]`` are stacks of N slices. NaN where no label has a cell.
    """

    name = "pixel_error"

    def of_cells(self, counts: Array) -> float:
        """Pixel error."""
        return pixel_error_of(counts).value


class RandErrorMetric(_OfStack):
    """`rand_error` over a stack, as a MONAI metric; takes what `PixelErrorMetric` takes."""

    name = "rand_error"

    def of_cells(self, counts: Array) -> float:
        """Rand error."""
        return rand_error_of(counts).value


class WarpingErrorMetric(_OfStack):
    """`warping_error` over a stack, as a MONAI metric; takes what `PixelErrorMetric` takes."""

    name = "warping_error"

    def of_cells(self, counts: Array) -> float:
        """Warping error."""
        return warping_error_of(counts).value


class VRandMetric(_OfStack):
    """`v_rand` over a stack, as a MONAI metric; takes what `PixelErrorMetric` takes."""

    name = "v_rand"

    def summed(self, counts: Array) -> Array:
        """Sum of F over slices, and their number, at each threshold."""
        f = slice_f(counts)
        return np.stack([f.sum(0), np.full(f.shape[1], float(len(f)))], axis=1)

    def of_cells(self, counts: Array) -> float:
        """The highest mean."""
        return float((counts[:, 0] / counts[:, 1]).max())


class VInfoMetric(VRandMetric):
    """`v_info` over a stack, as a MONAI metric; takes what `PixelErrorMetric` takes."""

    name = "v_info"


def cell_masks(output: Sequence[Mapping[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """``output_transform`` for MONAI's metrics of binary masks: (found, labelled), cell = 1.

    Where nothing is annotated both are 0.
    """
    found = [((image["instances"] > 0) & (image["label"] >= 0)).float() for image in output]
    return found, [(image["label"] > 0).float() for image in output]


def _array(image: Tensor, channel: int) -> Array:
    chosen = torch.as_tensor(image)[channel].detach().cpu()
    array: Array = (chosen.float() if chosen.dtype == torch.bfloat16 else chosen).numpy()
    return array


def _buffer(metric: CumulativeIterationMetric) -> Array:
    """Counts of all images, ``[images, ...]``."""
    buffer = metric.get_buffer()
    if buffer is None:
        raise DataError(found="no image to score", expected="at least one in every process")
    rows: Array = buffer.cpu().numpy()
    return rows
