"""SEG, DET, AP and PQ against the reference values and against one loop an object."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.metrics import PanopticQualityMetric
from PIL import Image

from overtile.pipelines.errors import ConfigurationError, DataError
from overtile.pipelines.metrics.instances import average_precision, det_measure, seg_measure
from overtile.pipelines.metrics.monai_metrics import (
    AveragePrecisionMetric,
    DetMetric,
    PanopticQuality,
    SegMetric,
)

Array = np.ndarray[Any, Any]
Pairs = list[tuple[Array, Array]]


@pytest.fixture(scope="module")
def reference(real_data: Path) -> Path:
    return real_data.parent / "reference" / "instance_metrics"


def png(path: Path) -> Array:
    return np.asarray(Image.open(path))


def over(metric: Any, pairs: Pairs) -> Any:
    for reference, prediction in pairs:
        metric(torch.tensor(prediction[None, None]), torch.tensor(reference[None, None]))
    return metric


def test_every_metric_reproduces_the_reference_values(reference: Path) -> None:
    cases = json.loads((reference / "values.json").read_text())
    for name, case in cases.items():
        r, p = png(reference / case["gt"]), png(reference / case["pred"])
        for measure, key in ((seg_measure, "seg"), (det_measure, "det")):
            value = math.nan if case[key] is None else case[key]
            assert float(measure(r, p)) == pytest.approx(value, abs=1e-9, nan_ok=True), name
        for iou, value in case["ap_at_iou"].items():
            found = average_precision(r, p, float(iou))
            assert float(found) == pytest.approx(value, abs=1e-9), (name, iou)
        pq = over(PanopticQuality(), [(r.astype(int), p.astype(int))])
        assert float(pq.aggregate()) == pytest.approx(case["pq_at_0.5"], abs=1e-9), name
    assert len(cases) >= 20


def masks(label: Array) -> list[Array]:
    return [label == name for name in np.unique(label[label > 0])]


def naive(pairs: Pairs, iou: float) -> dict[str, float]:
    """By the definitions, with a mask for every object and every way to pair them tried."""
    jaccard: list[float] = []
    ns = fn = fp = tp = ap_fp = ap_fn = 0
    for reference, prediction in pairs:
        rs, ss = masks(reference), masks(prediction)
        taken = [0] * len(ss)
        for r in rs:
            score = 0.0
            for n, s in enumerate(ss):
                if (r & s).sum() > 0.5 * r.sum():
                    score = (r & s).sum() / (r | s).sum()
                    taken[n] += 1
            fn += score == 0
            jaccard.append(score)
        ns += sum(k - 1 for k in taken if k)
        fp += taken.count(0)
        good = [[(r & s).sum() / (r | s).sum() >= iou for s in ss] for r in rs]
        table = np.array(good, bool).reshape(len(rs), len(ss))
        table = table if len(rs) <= len(ss) else table.T
        rows = range(len(table))
        orders = itertools.permutations(range(table.shape[1]), len(table))
        best = max(int(table[rows, order].sum()) for order in orders)
        tp, ap_fp, ap_fn = tp + best, ap_fp + len(ss) - best, ap_fn + len(rs) - best
    worst = 10 * len(jaccard)
    return {
        "seg": float(np.mean(jaccard)) if jaccard else math.nan,
        "det": 1 - min(5 * ns + 10 * fn + fp, worst) / worst if worst else math.nan,
        "ap": tp / (tp + ap_fp + ap_fn) if tp + ap_fp + ap_fn else 0.0,
    }


@st.composite
def label_pairs(draw: st.DrawFn) -> Array:
    """A small label image and a prediction that has something to do with it, of one size."""
    seed, cells = draw(st.integers(0, 10**6)), draw(st.integers(0, 4))
    rng = np.random.default_rng(seed)
    size = draw(st.tuples(st.integers(2, 5), st.integers(2, 5)))
    label = rng.integers(0, cells + 1, size).repeat(2, 0).repeat(2, 1) * 1000
    prediction = np.roll(label, draw(st.integers(0, 2)), draw(st.integers(0, 1)))
    noise = rng.random(label.shape) < draw(st.sampled_from([0.0, 0.1, 0.5]))
    prediction = np.where(noise, rng.integers(0, 3, label.shape) * 7, prediction)
    return np.stack([label, prediction])


@settings(deadline=None, max_examples=60)
@given(st.lists(label_pairs(), min_size=1, max_size=3), st.sampled_from([0.2, 0.5, 0.75]))
def test_metrics_equal_their_definitions_over_sets(stacks: list[Array], iou: float) -> None:
    pairs = [(s[0], s[1]) for s in stacks]
    references, predictions = [r for r, _ in pairs], [p for _, p in pairs]
    expected = naive(pairs, iou)
    assert float(seg_measure(references, predictions)) == pytest.approx(
        expected["seg"], nan_ok=True
    )
    assert float(det_measure(references, predictions)) == pytest.approx(
        expected["det"], nan_ok=True
    )
    ap = average_precision(references, predictions, iou)
    assert float(ap) == pytest.approx(expected["ap"])
    each = [naive([pair], iou)["ap"] for pair in pairs if pair[0].any() or pair[1].any()]
    assert ap.mean_over_images == pytest.approx(np.mean(each) if each else math.nan, nan_ok=True)
    for metric, name in (
        (SegMetric(), "seg"),
        (DetMetric(), "det"),
        (AveragePrecisionMetric(iou), "ap"),
    ):
        assert float(over(metric, pairs).aggregate()) == pytest.approx(expected[name], nan_ok=True)
        for value, pair in zip(metric.per_image(), pairs, strict=True):
            assert math.isnan(value) or value == pytest.approx(naive([pair], iou)[name])


@settings(deadline=None, max_examples=40)
@given(st.lists(label_pairs(), min_size=1, max_size=3))
def test_panoptic_quality_is_monais_pooled_over_the_set(stacks: list[Array]) -> None:
    pairs = [(s[0], s[1]) for s in stacks]
    overlaps = [(r & s).sum() / (r | s).sum() for a, b in pairs for r in masks(a) for s in masks(b)]
    assume(0.5 not in overlaps)  # which MONAI does not take for a match
    theirs = PanopticQualityMetric(1, reduction="sum_batch", smooth_numerator=1e-12)
    for label, prediction in pairs:
        both = [torch.tensor(np.stack([x, x > 0]))[None] for x in (prediction, label)]
        theirs(*both)
    expected = float(torch.nan_to_num(theirs.aggregate()))
    assert float(over(PanopticQuality(), pairs).aggregate()) == pytest.approx(expected, abs=1e-6)


def test_panoptic_quality_pairs_one_to_one_where_half_is_shared() -> None:
    label = np.array([1, 1, 2, 2, 3, 3, 3, 4])
    prediction = np.array([5, 6, 7, 0, 8, 8, 0, 9])  # 5 and 6 each share half of 1, 7 half of 2
    found = over(PanopticQuality(), [(label, prediction)])
    assert float(found.aggregate()) == pytest.approx((0.5 + 0.5 + 2 / 3 + 1) / (4 + 1 / 2))


def test_sets_without_objects_have_defined_scores() -> None:
    empty, cell = np.zeros((4, 4), int), np.ones((4, 4), int)
    for reference, prediction, seg, det in (
        (empty, empty, math.nan, math.nan),
        (empty, cell, math.nan, math.nan),
        (cell, empty, 0, 0),
        (cell, cell, 1, 1),
    ):
        pair = [(reference, prediction)]
        assert seg_measure(reference, prediction).value == pytest.approx(seg, nan_ok=True)
        assert det_measure(reference, prediction).value == pytest.approx(det, nan_ok=True)
        ap = average_precision(reference, prediction)
        found = reference.any() and prediction.any()
        assert ap.value == float(found)
        none = not reference.any() and not prediction.any()  # no image to average over
        mean = math.nan if none else float(found)
        assert ap.mean_over_images == pytest.approx(mean, nan_ok=True)
        assert float(over(PanopticQuality(), pair).aggregate()) == float(found)
        for metric in (SegMetric(), DetMetric()):
            assert math.isnan(over(metric, pair).per_image()[0]) == (not reference.any())
        for metric in (AveragePrecisionMetric(), PanopticQuality()):
            assert math.isnan(over(metric, pair).per_image()[0]) == none
    ap = average_precision([empty, cell, cell], [empty, cell, empty])
    assert ap.mean_over_images == 0.5  # an image without objects is no score
    assert (ap.true_positives, ap.false_positives, ap.false_negatives) == (1, 0, 1)
    mixed = over(SegMetric(), [(empty, cell), (cell, cell)])
    assert float(mixed.aggregate()) == 1


def test_labels_may_be_sparse_large_and_of_any_integers() -> None:
    label = np.zeros((6, 6), np.uint64)
    label[:3, :3], label[3:, 3:] = 2**40, 7
    other = np.where(label == 7, 3, 0).astype(np.uint8)
    assert seg_measure(label, other).per_object == (1, 0)
    assert average_precision(label, other).value == 0.5
    full = np.full((6, 6), 2**40)  # no background at all
    assert det_measure(full, full).value == 1
    assert seg_measure([label, full], [other, full]).per_object == (1, 0, 1)
    mask = label > 0
    assert seg_measure(mask, mask).per_object == (1,)


def test_what_is_wrong_with_labels_is_said_in_one_line() -> None:
    cell = np.ones((4, 4), int)
    for metric in (seg_measure, det_measure, average_precision):
        with pytest.raises(DataError, match=r"size \(4, 5\) for a reference of size \(4, 4\)"):
            metric(cell, np.ones((4, 5), int))
        with pytest.raises(DataError, match="1 references, 2 predictions"):
            metric([cell], [cell, cell])
        with pytest.raises(DataError, match="predictions of float64; expected instance labels"):
            metric(cell, cell * 0.5)
        with pytest.raises(DataError, match="references with label -1; expected integers from 0"):
            metric(-cell, cell)
        with pytest.raises(DataError, match="0 references"):
            metric([], [])
    for iou in (0, 1.5, math.nan):
        with pytest.raises(ConfigurationError, match="expected a number above 0, up to 1"):
            average_precision(cell, cell, iou)
        with pytest.raises(ConfigurationError, match="expected a number above 0, up to 1"):
            AveragePrecisionMetric(iou)
    batch = torch.ones(2, 1, 4, 4, dtype=torch.int32)
    with pytest.raises(DataError, match="2 predictions, 1 labels"):
        SegMetric()(list(batch), list(batch[:1]))
