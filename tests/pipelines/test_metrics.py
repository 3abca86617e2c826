from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from overtile.pipelines.errors import DataError
from overtile.pipelines.metrics import (
    PixelErrorMetric,
    SegMetric,
    pixel_error,
    seg_measure,
)


@pytest.fixture(scope="module")
def reference(real_data: Path) -> Path:
    return real_data.parent / "reference"


def png(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def naive_seg(reference: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any]) -> list[float]:
    scores = []
    for r in np.unique(reference[reference > 0]):
        inside, score = reference == r, 0.0
        for s in np.unique(prediction[prediction > 0]):
            found = prediction == s
            shared = (inside & found).sum()
            if shared > 0.5 * inside.sum():
                score = shared / (inside | found).sum()
        scores.append(score)
    return scores


def test_seg_equals_its_definition_and_pools_over_objects() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for cells in (0, 1, 3, 12):
        blocks = rng.integers(0, cells + 1, (6, 6)).repeat(5, 0).repeat(5, 1)
        pairs.append((blocks * 7, np.roll(blocks, rng.integers(0, 3), 1)))
    expected = [score for r, p in pairs for score in naive_seg(r, p)]
    references, predictions = [r for r, _ in pairs], [p for _, p in pairs]
    result = seg_measure(references, predictions)
    assert np.allclose(result.per_object, expected, atol=1e-12)
    assert float(result) == pytest.approx(np.mean(expected), abs=1e-12)
    tensors = [list(map(torch.tensor, side)) for side in (references, predictions)]
    assert seg_measure(*tensors) == result
    assert seg_measure(tensors[0][3], tensors[1][3]) == seg_measure(references[3], predictions[3])
    metric = SegMetric()
    for r, p in pairs:
        metric(torch.tensor(p[None, None]), torch.tensor(r[None, None]))
    assert float(metric.aggregate()) == pytest.approx(np.mean(expected), abs=1e-12)


def test_seg_of_nothing_is_defined_and_sizes_have_to_match() -> None:
    empty, cell = np.zeros((4, 4), int), np.ones((4, 4), int)
    assert seg_measure(empty, cell).value == 1
    assert seg_measure(cell, empty).value == 0
    with pytest.raises(DataError, match=r"\(4, 4\)"):
        seg_measure(cell, np.ones((4, 5), int))
    with pytest.raises(DataError, match="1 references, 2 predictions"):
        seg_measure([cell], [cell, cell])


def test_seg_reproduces_the_reference_values(reference: Path) -> None:
    folder = reference / "instance_metrics"
    cases = json.loads((folder / "values.json").read_text())
    checked = [name for name, case in cases.items() if not case.get("degenerate")]
    for name in checked:
        case = cases[name]
        result = seg_measure(png(folder / case["gt"]), png(folder / case["pred"]))
        if png(folder / case["gt"]).any():
            assert float(result) == pytest.approx(case["seg"], abs=1e-9), name
    assert len(checked) >= 10


def test_pixel_error_reproduces_the_reference_values(reference: Path) -> None:
    folder = reference / "em_metrics"
    cases = json.loads((folder / "values.json").read_text())
    checked = [name for name, case in cases.items() if not case["degenerate"]]
    for name in checked:
        label, p = em_case(folder, cases[name])
        result = pixel_error(label, p)
        assert float(result) == pytest.approx(1 - cases[name]["pixel_f_max"], abs=1e-9), name
        assert min(result.per_threshold) == float(result)
    assert len(checked) >= 10


def em_case(folder: Path, case: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    p = png(folder / case["prediction"]).astype(np.float32) / np.float32(255)
    return png(folder / case["label"]) > 127, p


def test_pixel_error_sums_over_the_slices_of_a_stack() -> None:
    rng = np.random.default_rng(1)
    labels, p = rng.integers(0, 2, (3, 8, 9)), rng.random((3, 8, 9))
    metric = PixelErrorMetric()
    for label, slice_ in zip(labels, p, strict=True):
        both = np.stack([1 - slice_, slice_])
        metric(torch.tensor(both[None]), torch.tensor(label[None, None]))
    assert float(metric.aggregate()) == pytest.approx(pixel_error(labels, p).value, abs=1e-12)
