"""Scores of classes over data sets: MONAI metrics for bundles and engines.

What they compute from a single image is in `overtile.pipelines.metrics.classes`. A metric keeps one
value of each class for each image. Distributed processes exchange these, not their means, so that
a mean is that of all images however they are shared out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric
from numpy.typing import NDArray
from torch import Tensor

from overtile.pipelines.errors import ConfigurationError, DataError
from overtile.pipelines.metrics.classes import (
    CLASS_SCORES,
    check_num_classes,
    check_score,
    check_spacing,
    check_tolerance,
    class_scores,
)
from overtile.pipelines.metrics.score_names import of_class

FROM_AFFINE = "affine"
"""As ``spacing``: that of each label, from its affine."""


@dataclass(frozen=True)
class ClassMean:
    """A score of one class over a data set.

    Attributes:
        number: of the class.
        value: mean over ``images``; NaN if there are none.
        images: those in which the class has a score.
        one_sided: further ones, in which label or prediction alone has the class and the score is
            infinite, as a distance is; the other scores are finite there and counted.
    """

    number: int
    value: float
    images: int
    one_sided: int


class ClassMetric(CumulativeIterationMetric):
    """`class_scores` over a data set, as a MONAI metric.

    Call it with predictions and labels, batches ``[B, C, *S]`` or lists of ``[C, *S]``. Predictions
    have a channel a class, of which the highest value counts (logits and probabilities alike; the
    lowest number of equal ones), or one channel, a class map; labels are class maps ``[1, *S]``,
    `IGNORED` where not annotated.

    The mean over the images is taken of each class first, over those in which it has a score, and
    then over the classes that have any.

    Args:
        score: as of `class_scores`.
        num_classes: with the background.
        include_background: whether class 0 is one of those that are scored.
        spacing: as of `class_hd95`, for all images; ``"affine"`` takes each label's own, which has
            to be a MetaTensor. A call may give another, as MONAI's metrics take it.
        tolerance: as of `class_surface_dice`.

    Raises:
        ConfigurationError: for arguments that `class_scores` refuses.
    """

    def __init__(
        self,
        score: str,
        num_classes: int,
        include_background: bool = False,
        spacing: Sequence[float] | float | str | None = None,
        tolerance: float = 1.0,
    ) -> None:
        super().__init__()
        self.score = check_score(score)
        self.num_classes = check_num_classes(num_classes)
        self.classes = tuple(range(0 if include_background else 1, num_classes))
        self.tolerance = check_tolerance(tolerance)
        self.spacing = spacing
        if isinstance(spacing, str):
            if spacing != FROM_AFFINE:
                raise ConfigurationError("spacing", repr(spacing), f"numbers, or {FROM_AFFINE!r}")
        elif spacing is not None:  # its length is seen at the first image
            check_spacing(spacing, np.size(spacing))

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        """Scores of each class in each image, ``[B, classes]``, which are kept.

        Raises:
            DataError: as `class_scores`; or if numbers of images or channels do not fit.
        """
        if y is None or len(y_pred) != len(y):
            count = "no" if y is None else len(y)
            raise DataError(found=f"{len(y_pred)} predictions, {count} labels", expected="as many")
        return super().__call__(y_pred, y, **kwargs)

    def _compute_tensor(  # type: ignore[override]
        self,
        y_pred: Tensor,
        y: Tensor,
        spacing: Sequence[float] | float | None = None,
    ) -> Tensor:
        rows = [
            class_scores(
                _class_map(label, "label", 1),
                _class_map(prediction, "prediction", self.num_classes),
                self.num_classes,
                self.score,
                spacing=self._spacing_of(label) if spacing is None else spacing,
                tolerance=self.tolerance,
                classes=self.classes,
            )
            for prediction, label in zip(y_pred, y, strict=True)
        ]
        device = y_pred.device if y_pred.is_cuda else "cpu"  # NCCL gathers from GPUs alone
        return torch.as_tensor(np.stack(rows), device=device)

    def _spacing_of(self, label: Tensor) -> Sequence[float] | float | None:
        if not isinstance(self.spacing, str):
            return self.spacing
        if not isinstance(label, MetaTensor):
            raise DataError("label", "no affine", "a MetaTensor, whose affine has the spacing")
        sizes = np.linalg.norm(np.asarray(label.affine, np.float64)[:-1, :-1], axis=0)
        return [float(size) for size in sizes[: label.ndim - 1]]

    def per_class(self) -> list[ClassMean]:
        """Each class's mean over the images so far.

        Raises:
            DataError: without an image in this process.
        """
        columns = zip(self.classes, _rows(self).T, strict=True)
        return [
            ClassMean(
                number, _mean(column), int(np.isfinite(column).sum()), int(np.isinf(column).sum())
            )
            for number, column in columns
        ]

    def per_image(self) -> list[float]:
        """Mean over the classes of each image so far; NaN, which is no score, if none has one."""
        return [_mean(row) for row in _rows(self)]

    def aggregate(self, reduction: Any = None) -> Tensor:
        """Mean over the classes of their means, a scalar of float64; NaN if none has a score.

        There is no other reduction: `per_class` and `per_image` have what it is made of.
        """
        means = np.array([each.value for each in self.per_class()])
        return torch.tensor(_mean(means), dtype=torch.float64)


class OneClass(CumulativeIterationMetric):
    """One class of a `ClassMetric`, which counts for both and has to be called beside it.

    So surfaces are looked for once, and all classes have a curve and a column of their own.

    Args:
        metric: that counts.
        number: of the class.

    Raises:
        ConfigurationError: for a class that ``metric`` does not score.
    """

    def __init__(self, metric: ClassMetric, number: int) -> None:
        super().__init__()
        if number not in metric.classes:
            scored = ", ".join(map(str, metric.classes))
            raise ConfigurationError("number", str(number), f"one of the scored classes {scored}")
        self.metric, self.number = metric, number
        self._column = metric.classes.index(number)

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        """Nothing: ``metric`` is called with the same."""
        return None

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        raise NotImplementedError("the metric that counts computes")

    def get_buffer(self) -> Tensor:
        """The class's score in each image, ``[images, 1]``."""
        return _buffer(self.metric)[:, self._column : self._column + 1]

    def per_image(self) -> list[float]:
        """The class's score in each image so far; NaN, which is no score, where none is finite."""
        column = _rows(self.metric)[:, self._column]
        return [float(value) if math.isfinite(value) else math.nan for value in column]

    def aggregate(self, reduction: Any = None) -> Tensor:
        """The class's mean, a scalar of float64; NaN if it has no score in any image."""
        value = self.metric.per_class()[self._column].value
        return torch.tensor(value, dtype=torch.float64)


def class_handlers(
    num_classes: int,
    scores: Iterable[str] = CLASS_SCORES,
    keys: Sequence[str] = ("pred", "label"),
    include_background: bool = False,
    spacing: Sequence[float] | float | str | None = None,
    tolerance: float = 1.0,
    output_transform: Callable[[Any], Any] | None = None,
) -> dict[str, IgniteMetricHandler]:
    """Handlers of scores and of each class's own: ``dice``, ``dice_class1``, ``dice_class2`` ...

    Args:
        num_classes: as of `ClassMetric`.
        scores: as of `class_scores`, those wanted.
        keys: of prediction and label in the engine's output.
        include_background: as of `ClassMetric`.
        spacing: as of `ClassMetric`.
        tolerance: as of `ClassMetric`.
        output_transform: instead of ``keys``, from the engine's output to predictions and labels.

    Returns:
        Handlers by name, to attach to one engine all; those of classes need the score's own.

    Raises:
        ConfigurationError: as `ClassMetric`.
    """
    taken = from_engine(list(keys)) if output_transform is None else output_transform
    handlers: dict[str, IgniteMetricHandler] = {}
    for score in scores:
        metric = ClassMetric(score, num_classes, include_background, spacing, tolerance)
        handlers[score] = IgniteMetricHandler(metric, output_transform=taken)
        for number in metric.classes:
            handlers[of_class(score, number)] = IgniteMetricHandler(
                OneClass(metric, number), output_transform=taken
            )
    return handlers


def _class_map(image: Tensor, name: str, channels: int) -> NDArray[Any]:
    """The classes of ``[C, *S]``: of one channel as it is, of ``channels`` the highest."""
    values = torch.as_tensor(image).detach()
    if len(values) not in (1, channels):
        expected = f"1 channel, or {channels}, one a class" if channels > 1 else "1 channel"
        raise DataError(name, f"{len(values)} channels", expected)
    if bool(torch.isnan(values).any()):
        raise DataError(name, "NaN in it", "numbers")
    classes = values.argmax(0) if len(values) > 1 else values[0].to(torch.int64)
    if len(values) == 1 and bool((classes != values[0]).any()):
        raise DataError(name, "1 channel with fractions", "whole numbers, the classes")
    found: NDArray[Any] = classes.cpu().numpy()
    return found


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _rows(metric: ClassMetric) -> NDArray[np.float64]:
    rows: NDArray[np.float64] = _buffer(metric).cpu().numpy()
    return rows


def _buffer(metric: CumulativeIterationMetric) -> Tensor:
    """Scores of all images of all processes, ``[images, classes]``."""
    buffer: Tensor | None = metric.get_buffer()
    if buffer is None:
        raise DataError(found="no image to score", expected="at least one in every process")
    return buffer
