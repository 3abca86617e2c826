"""Scores are over what is annotated: whatever lies in a gap changes none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from overtile.pipelines.metrics.gaps import annotated_instances
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
from overtile.pipelines.reporting.colours import HATCH, hatched
from overtile.pipelines.reporting.figures import Case, cases
from overtile.pipelines.reporting.predictions import compare, layers_of, load, store

OBJECTS = (SegMetric, DetMetric, AveragePrecisionMetric, PanopticQuality)
MEMBRANES = (PixelErrorMetric, RandErrorMetric, WarpingErrorMetric, VRandMetric, VInfoMetric)


def score(metric: Any, prediction: NDArray[Any], label: NDArray[Any]) -> float:
    metric(torch.from_numpy(prediction[None, None]), torch.from_numpy(label[None, None]))
    return float(metric.aggregate())


@st.composite
def pictures(draw: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Cells of a label and of a prediction on the left, anything at all on the right."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    likely = ndimage.gaussian_filter(rng.random((24, 40)), 1.5)
    likely = (likely - likely.min()) / np.ptp(likely)
    label = ndimage.label(ndimage.gaussian_filter(rng.random((24, 40)), 1.5) > 0.5)[0]
    found = ndimage.label(likely > 0.5)[0]
    for cells in (label, found):
        cells[:, 19:21] = 0  # none crosses the edge of the gap
        cells[:] = ndimage.label(cells)[0]
    label[0, 0], found[0, 0] = label.max() + 1, found.max() + 1
    return label, found, likely


@settings(deadline=None, max_examples=25)
@given(pictures(), st.integers(0, 2**32))
def test_a_gap_is_as_if_the_image_ended_there(
    drawn: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], seed: int
) -> None:
    label, found, likely = drawn
    gap = label.copy()
    gap[:, 20:] = -1
    rng = np.random.default_rng(seed)
    for kind in OBJECTS:
        alone = score(kind(), found[:, :20], label[:, :20])
        other = found.copy()
        other[:, 20:] = rng.integers(100, 103, (24, 20))
        assert score(kind(), found, gap) == score(kind(), other, gap) == alone, kind
    # of membranes, the gap is membrane in both
    closed, likely_there = np.where(gap < 0, 0, gap), np.where(gap < 0, 0, likely)
    for metric in MEMBRANES:
        other = np.where(gap < 0, rng.random(label.shape), likely)
        expected = score(metric(), likely_there, closed)
        assert score(metric(), other, gap) == expected, metric
    assert score(PixelErrorMetric(), likely, gap) == pytest.approx(
        score(PixelErrorMetric(), likely[:, :20].copy(), label[:, :20].copy())
    )
    images = {"instances": torch.from_numpy(found[None]), "label": torch.from_numpy(gap[None])}
    masks = cell_masks([images])
    assert (masks[0][0] == torch.from_numpy((found > 0) & (gap >= 0))).all()
    assert (masks[1][0] == torch.from_numpy(gap > 0)).all()


def test_a_cell_that_lies_mostly_in_a_gap_is_neither_right_nor_wrong() -> None:
    label = np.zeros((6, 12), int)
    label[:, 6:], label[1:4, 1:4] = -1, 1
    found = np.zeros_like(label)
    found[1:4, 1:4], found[2, 4:8], found[4, 5:10] = 1, 2, 3  # half, and most of it hidden
    seen, shown = annotated_instances(found, label)
    assert set(np.unique(seen)) == {0, 1, 2}
    assert (seen == 2).sum() == 2
    assert shown.min() == 0
    assert score(AveragePrecisionMetric(), found, label) == 1 / 2
    counts = compare(label, found)[1]
    assert (counts["labelled"], counts["found"], counts["extra"]) == (1, 2, 1)


def test_a_report_shows_where_nothing_is_annotated(tmp_path: Any) -> None:
    label = np.zeros((30, 20), int)
    label[3:9, 3:9], label[:, 12:] = 1, -1
    layers = layers_of("a.tif", np.random.default_rng(0).random((30, 20)), label, None, label > 0)
    store(layers, tmp_path / "0.npz")
    kept = load(tmp_path / "0.npz")
    assert kept.gaps is not None
    assert np.array_equal(kept.gaps, label < 0)
    for column in (0, 2):  # of the label, and of the errors
        picture = cases([Case("best", kept)]).axes[column].images[0].get_array()
        assert picture is not None
        stripes = np.asarray(picture)[hatched(label < 0)]
        assert np.allclose(stripes, np.array(HATCH) / 255)
    assert kept.label is not None
    assert np.array_equal(kept.label, np.maximum(label, 0))
