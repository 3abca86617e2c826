"""Pictures of a training: its first sample, and predictions beside labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose
from numpy.typing import NDArray

from overtile.pipelines.data.samples import TileDataset
from overtile.pipelines.metrics.instances import seg_measure
from overtile.pipelines.reporting import figures
from overtile.pipelines.training.batches import plain
from overtile.pipelines.training.tracking import RunTracker
from overtile.transforms import RandDeformedTiled


def draw_training_sample(loader: Any, tracker: RunTracker) -> None:
    """Log a picture of the first sample: the image, its deformation, labels and weights."""
    dataset: TileDataset = loader.dataset
    sample = dataset[0]
    steps = dataset.transform.transforms
    deformed = next((t.recorded for t in steps if isinstance(t, RandDeformedTiled)), None)
    image, label, weight = (_array(sample[key]) for key in ("image", "label", "weight"))
    if deformed is None or image.ndim != 2:
        return
    source = _array(dataset.source_image(0))
    tracker.log_figure(
        figures.training_sample(source, image, label, weight, deformed), "training_sample.png"
    )


def draw_predictions(
    evaluator: SupervisedEvaluator, postprocessing: Compose | None, tracker: RunTracker
) -> None:
    """Log a picture of the first predictions beside image and label."""
    if postprocessing is None:
        return
    rows = []
    evaluator.network.eval()
    for batch, _ in zip(evaluator.data_loader, range(3), strict=False):
        image = batch["image"].to(evaluator.state.device)
        with torch.no_grad():
            logits = evaluator.inferer(image, evaluator.network)
        label = _array(batch["label"][0])
        done = postprocessing({"pred": logits[0], "label": batch["label"][0]})
        instances = _array(done["instances"])
        rows.append(
            figures.Prediction(
                name=Path(batch["image"].meta["filename_or_obj"][0]).name,
                image=_section(_array(image[0])),
                label=_section(label),
                probability=_section(_array(done["pred"], channel=-1)),
                instances=_section(instances),
                score=seg_measure(label, instances).value,
            )
        )
    if rows:
        tracker.log_figure(figures.predictions(rows), "predictions.png")


def _section(array: NDArray[Any]) -> NDArray[Any]:
    """The image, or the middle section of a volume along its last axis."""
    return array if array.ndim == 2 else array[..., array.shape[-1] // 2]


def _array(image: Any, channel: int = 0) -> NDArray[Any]:
    array: NDArray[Any] = plain(image)[channel].cpu().numpy()
    return array
