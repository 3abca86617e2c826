"""Pictures of a training: its first sample, and predictions beside labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from overtile.pipelines.data.samples import TileDataset
from overtile.pipelines.metrics.score_names import name_of
from overtile.pipelines.reporting import figures
from overtile.pipelines.reporting.predictions import load
from overtile.pipelines.reporting.tables import FIGURES, PREDICTIONS, read_scored
from overtile.pipelines.training.batches import plain
from overtile.pipelines.training.tracking import RunTracker
from overtile.transforms import RandDeformedTiled

_SHOWN = 3  # images in the picture of predictions


def draw_training_sample(loader: Any, tracker: RunTracker) -> None:
    """Log a picture of the first sample: the image, its deformation, labels and weights.

    Without one of these, and of volumes, there is none.
    """
    dataset = loader.dataset
    if not isinstance(dataset, TileDataset):
        return
    sample = dataset[0]
    steps = dataset.transform.transforms
    deformed = next((t.recorded for t in steps if isinstance(t, RandDeformedTiled)), None)
    if deformed is None or not isinstance(sample, dict) or "weight" not in sample:
        return
    image, label, weight = (_array(sample[key]) for key in ("image", "label", "weight"))
    if image.ndim != 2:
        return
    source = _array(dataset.source_image(0))
    tracker.log_figure(
        figures.training_sample(source, image, label, weight, deformed), "training_sample.png"
    )


def draw_predictions(folder: Path) -> Path | None:
    """Write ``figures/predictions.png`` of a scored folder: its first images beside their labels.

    Returns:
        The file; None, and no file, where no image has its layers stored.
    """
    scored = read_scored(folder)
    rows = []
    for number, path in _stored(folder)[:_SHOWN]:
        value = scored.rows[number].get(scored.key_metric or "", math.nan)
        told = (
            ""
            if math.isnan(value)
            else f"{name_of(str(scored.key_metric), scored.class_names)} {value:.3f}"
        )
        rows.append(figures.Case(told, load(path)))
    if not rows:
        return None
    path = folder / FIGURES / "predictions.png"
    figures.save(figures.predictions(rows), path, dpi=100)
    return path


def _stored(folder: Path) -> list[tuple[int, Path]]:
    """Images that a scoring kept, by number."""
    return sorted((int(path.stem), path) for path in (folder / PREDICTIONS).glob("*.npz"))


def _array(image: Any) -> NDArray[Any]:
    array: NDArray[Any] = plain(image)[0].cpu().numpy()
    return array
