"""A score of nothing is no number: it chooses no network, and stands nowhere as 0 or 1."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from monai.handlers import HausdorffDistance, IgniteMetricHandler, MeanIoUHandler, from_engine
from torch import nn
from toy_run import Run, write_images

from overtile.pipelines.bundle.checkpoints import Checkpoints
from overtile.pipelines.inference.evaluation import without_reference_no_score
from overtile.pipelines.metrics.monai_metrics import (
    AveragePrecisionMetric,
    DetMetric,
    PanopticQuality,
    PixelErrorMetric,
    RandErrorMetric,
    SegMetric,
    VInfoMetric,
    VRandMetric,
    WarpingErrorMetric,
    cell_masks,
)

SIZE = (1, 9, 8)


def every_metric() -> dict[str, Any]:
    objects = (SegMetric, DetMetric, AveragePrecisionMetric, PanopticQuality)
    membranes = (PixelErrorMetric, RandErrorMetric, WarpingErrorMetric, VRandMetric, VInfoMetric)
    return {
        **{
            kind.__name__: IgniteMetricHandler(kind(), output_transform=from_engine([key, "label"]))
            for key, kinds in (("instances", objects), ("pred", membranes))
            for kind in kinds
        },
        "mean_iou": MeanIoUHandler(include_background=True, output_transform=cell_masks),
        "hausdorff": HausdorffDistance(include_background=True, output_transform=cell_masks),
    }


def image(label: bool, prediction: bool) -> dict[str, torch.Tensor]:
    cell = torch.zeros(SIZE, dtype=torch.int32)
    cell[0, 2:6, 2:5] = 1
    found = cell if prediction else torch.zeros_like(cell)
    return {
        "label": cell if label else torch.zeros_like(cell),
        "instances": found,
        "pred": found.float(),
    }


@pytest.mark.filterwarnings("ignore:.*return_as_numpy:FutureWarning", "ignore:the .* of class")
@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=3))
def test_without_a_labelled_cell_no_metric_has_a_score(sets: list[tuple[bool, bool]]) -> None:
    metrics = every_metric()
    engine = Engine(lambda _, batch: batch)
    for name, handler in metrics.items():
        handler.attach(engine, name)
    without_reference_no_score(engine, metrics)
    for _ in range(2):  # an epoch does not remember the one before
        engine.run([[image(*pair)] for pair in sets])
        scores = {k: float(v) for k, v in engine.state.metrics.items()}
        assert scores.keys() == metrics.keys()
        nothing = not any(label for label, _ in sets)
        for name, value in scores.items():
            assert math.isnan(value) == nothing, name
        engine.run([[image(True, True)]])
        assert float(engine.state.metrics["SegMetric"]) == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_training_whose_labels_to_score_are_empty(tmp_path: Path, split: str) -> None:
    """It ends as any other, and says nowhere that it was good."""
    folder = write_images(tmp_path / "images")
    for file in (folder / split / "labels").iterdir():
        tifffile.imwrite(file, np.zeros((32, 32), np.uint16))
    run = Run(tmp_path)
    run.train(max_epochs=2)
    summary = json.loads((run.out / "summary.json").read_text())
    told = json.loads((run.out / "configs/metadata.json").read_text())["eval_metrics"]
    assert told == {k: v for k, v in summary["scores"].items() if v is not None}
    if split == "test":
        assert set(summary["scores"].values()) == {None}
    else:
        assert all(math.isnan(row["val_seg"]) for row in run.rows())
        assert summary["best_epoch"] == 2, "the last"
        last = run.state()["model"]
        shipped = torch.load(run.out / "models/model.pt", weights_only=True)
        assert all(torch.equal(shipped[name], last[name]) for name in last)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([math.nan, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=6),
    st.booleans(),
    st.integers(0, 5),
)
def test_an_epoch_without_a_score_is_never_the_best(
    scores: list[float], lower: bool, stopped_after: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        network = nn.Linear(1, 1)
        evaluator = SimpleNamespace(state=SimpleNamespace(key_metric_name="m"))
        made = [
            Checkpoints(folder, {"model": network}, evaluator, lower_is_better=lower)
            for _ in range(2)
        ]
        for epoch, score in enumerate(scores, 1):
            state = SimpleNamespace(epoch=epoch, iteration=epoch)
            evaluator.state.epoch, evaluator.state.metrics = epoch, {"m": score}
            nn.init.constant_(network.weight, epoch)
            if epoch == stopped_after + 1 > 1:
                begun = SimpleNamespace(epoch_length=None)
                made[1].resume(SimpleNamespace(state=begun))  # type: ignore[arg-type]
                nn.init.constant_(network.weight, epoch)
            now = made[epoch > stopped_after > 0]
            now.save(SimpleNamespace(state=state))  # type: ignore[arg-type]
        real = [s for s in scores if not math.isnan(s)]
        best = scores.index(min(real) if lower else max(real)) + 1 if real else len(scores)
        assert now.best_epoch == best
        kept = torch.load(now.best_path, weights_only=True)
        assert float(kept["weight"]) == best
