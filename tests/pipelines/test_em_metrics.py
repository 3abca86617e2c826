"""Membrane metrics against the reference values and against slow code that knows no tricks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from overtile.pipelines.metrics import (
    em_report,
    pixel_error,
    rand_error,
    v_info,
    v_rand,
    warping_error,
)

Array = np.ndarray[Any, Any]
SINGLE = (pixel_error, rand_error, warping_error, v_rand, v_info)


@pytest.fixture(scope="module")
def reference(real_data: Path) -> Path:
    return real_data.parent / "reference" / "em_metrics"


def png(path: Path) -> Array:
    return np.asarray(Image.open(path))


def test_every_metric_reproduces_the_reference_values(reference: Path) -> None:
    cases = json.loads((reference / "values.json").read_text())
    checked = {name: case for name, case in cases.items() if not case["degenerate"]}
    for name, case in checked.items():
        label = png(reference / case["label"]) > 127
        p = png(reference / case["prediction"]).astype(np.float32) / np.float32(255)
        report = em_report(label, p)
        found = {
            "pixel_f_max": 1 - report.pixel_error.value,
            "rand_f_max_foreground_pairs": 1 - report.rand_error.value,
            "warping_error_splits_mergers_min": report.warping_error.value,
            "warping_error_all_mismatches_at_0.5": report.warping_error.all_mismatches[5],
            "v_rand_thinned_max": report.v_rand.value,
            "v_info_thinned_max": report.v_info.value,
        }
        for key, value in found.items():
            assert value == pytest.approx(case[key], abs=1e-9), (name, key)
        for metric in SINGLE:
            assert metric(label, p) == getattr(report, metric.__name__), name
    assert len(checked) >= 20
