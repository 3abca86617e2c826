"""Score a trained network on labelled images: the bundles' ``evaluation``."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler

from overtile.pipelines.segmentation import make_ready
from overtile.pipelines.summary import print_scores


def run_evaluation(
    evaluator: SupervisedEvaluator,
    checkpoint: str | Path,
    metrics: Mapping[str, IgniteMetricHandler],
    output_dir: str | Path,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Segment every labelled image, print the scores, and write them.

    ``evaluation.csv`` has a row an image, with nothing where a score is not defined (SEG without
    reference objects); ``evaluation.json`` has the scores of the whole set.

    Args:
        evaluator: with network, inferer, loader, postprocessing and ``metrics``.
        checkpoint: weights of the network.
        metrics: the evaluator's, by name.
        output_dir: for the two files.
        settings: as of `overtile.pipelines.segmentation.run_inference`.

    Returns:
        What is in ``evaluation.json``.

    Raises:
        ConfigurationError: as `overtile.pipelines.segmentation.run_inference`.
    """
    make_ready(evaluator, checkpoint, settings or {})
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)  # before hours of work, not after
    rows: list[dict[str, Any]] = []

    def note(engine: Any) -> None:
        for image in engine.state.batch["image"]:
            rows.append({"image": image.meta["filename_or_obj"]})

    evaluator.add_event_handler(Events.ITERATION_STARTED, note)
    evaluator.run()
    for name, handler in metrics.items():
        for row, value in zip(rows, _per_image(handler.metric_fn), strict=True):
            row[name] = "" if math.isnan(value) else value
    scores = {name: float(evaluator.state.metrics[name]) for name in metrics}
    result = {"images": len(rows), "network": str(checkpoint), "scores": scores}
    with (folder / "evaluation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    print_scores(result)
    print(f"\n  {folder / 'evaluation.csv'}: image by image\n", flush=True)
    return result


def _per_image(metric: Any) -> list[float]:
    """Our metrics say what one image scores; MONAI's keep a row of values an image."""
    if hasattr(metric, "per_image"):
        values: list[float] = metric.per_image()
        return values
    buffer = metric.get_buffer()
    return [float(v) for v in buffer.reshape(len(buffer), -1).nanmean(dim=1)]
