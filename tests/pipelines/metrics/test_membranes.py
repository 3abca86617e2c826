"""Membrane metrics against the reference values and against slow code that knows no tricks."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from overtile.pipelines.errors import DataError
from overtile.pipelines.metrics.membranes import (
    THRESHOLDS,
    THRESHOLDS_OF_V,
    em_report,
    pixel_error,
    rand_error,
    v_info,
    v_rand,
    warping_error,
)

FILE = Path(__file__).with_name("naive_membranes.py")
spec = util.spec_from_file_location("naive_membranes", FILE)
assert spec is not None
assert spec.loader is not None
naive = util.module_from_spec(spec)
spec.loader.exec_module(naive)

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


def test_every_kind_of_a_warping_error_is_counted_as_the_original_tool_does(
    reference: Path,
) -> None:
    """Few pixels, made to tell the order of flipping and the neighbourhood of a pixel apart."""
    cases = json.loads((reference / "tiny.json").read_text())["cases"]
    for name, case in cases.items():
        label = np.array(case["label"]) > 0
        p = np.array(case["pred_u8"]).astype(np.float32) / np.float32(255)
        for given_as in (p, p.astype(np.float64)):
            found = warping_error(label, given_as)
            for n, (counts, expected) in enumerate(zip(found.counts, case["counts"], strict=True)):
                told = list(counts)
                if label.all() and not any(expected[4:]):  # named otherwise by the tool alone
                    told, expected = told[4:], expected[4:]
                assert told == expected, (name, THRESHOLDS[n])
            assert found.value == pytest.approx(case["value"], abs=1e-12), name
    assert len(cases) >= 10


def test_a_prediction_in_double_precision_is_rounded_before_it_is_warped_to() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        label = rng.random((9, 9)) > 0.3
        p = rng.integers(0, 256, label.shape) / 255
        assert warping_error(label, p).counts == warping_error(label, p.astype("f4")).counts


@st.composite
def stacks(draw: st.DrawFn) -> tuple[Array, Array]:
    """Masks of a few cells, and maps: blurred, shifted, noisy, of few or of many values."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    slices, height, width = (draw(st.integers(1, n)) for n in (3, 9, 12))
    coarse = rng.random((slices, height // 3 + 1, width // 3 + 1)) < draw(
        st.sampled_from([0.0, 0.5, 0.8, 1.0])
    )
    labels = coarse.repeat(3, 1).repeat(3, 2)[:, :height, :width]
    labels &= rng.random(labels.shape) > draw(st.sampled_from([0.0, 0.1]))
    moved = np.roll(labels, draw(st.integers(-1, 1)), 2)
    noise = draw(st.sampled_from([0.0, 0.3, 1.0]))
    p = (1 - noise) * moved + noise * rng.random(labels.shape)
    levels = draw(st.sampled_from([1, 3, 10, 255]))
    return labels, (np.round(p * levels) / levels).astype(np.float32)


@settings(deadline=None, max_examples=150)
@given(stacks())
def test_every_metric_equals_its_definition_on_stacks(pair: tuple[Array, Array]) -> None:
    labels, p = pair
    report = em_report(labels, p)
    slices = list(zip(labels, p, strict=True))
    ten, eleven = naive.thresholds(10), naive.thresholds(11)
    assert (list(THRESHOLDS), list(THRESHOLDS_OF_V)) == (ten, eleven)
    expected = {
        "pixel_error": [1 - naive.pixel_f(labels, p, t) for t in ten],
        "rand_error": [1 - naive.rand_f(labels, p, t) for t in ten],
    }
    for name in ("v_rand", "v_info"):
        f = getattr(naive, f"{name}_f")
        each = [[f(label, q, t) for t in eleven] for label, q in slices]
        assert np.allclose(getattr(report, name).per_slice, each, rtol=0, atol=1e-12), name
        expected[name] = list(np.mean(each, axis=0))
    counts = [np.sum([naive.warping_counts(*s, t) for s in slices], axis=0) for t in ten]
    assert [list(c) for c in report.warping_error.counts] == [list(c) for c in counts]
    expected["warping_error"] = [(c[4] + c[5]) / labels.size for c in counts]
    every = [c.sum() / labels.size for c in counts]
    assert report.warping_error.all_mismatches == pytest.approx(every)
    for name, values in expected.items():
        result = getattr(report, name)
        assert result.per_threshold == pytest.approx(values, abs=1e-12), name
        best = max(values) if name.startswith("v") else min(values)
        assert float(result) == result.value == pytest.approx(best, abs=1e-12), name


def test_a_pixel_that_cuts_is_looked_at_in_its_neighbourhood_alone() -> None:
    """A ring whose two ways meet farther than 20 pixels off is cut; a smaller one is opened."""
    for half, kind in ((8, "hole_deletion"), (30, "split")):
        label = np.zeros((2 * half + 7, 2 * half + 7), bool)
        label[3:-3, 3:-3] = True
        label[4:-4, 4:-4] = False
        p = label.astype(np.float32)
        p[3, half + 3] = 0
        counts = warping_error(label, p).counts[5]
        assert getattr(counts, kind) == sum(counts) == 1, half
        assert list(counts) == naive.warping_counts(label, p, 0.5)


def test_thresholds_compare_in_double_precision() -> None:
    """float32(51 / 255) is above 0.2 in float64; in float32 it is not."""
    label = np.array([[True, False]])
    p = np.array([[51 / 255, 0.1]], np.float32)
    assert pixel_error(label, p).per_threshold[2] == 0
    assert pixel_error(label, np.array([[51 / 255, 0.1]])).per_threshold[2] == 1


def test_inputs_without_a_sensible_score_have_a_defined_one() -> None:
    none, cell = np.zeros((1, 6, 7), bool), np.zeros((1, 6, 7), bool)
    cell[0, 1:4, 1:4] = True
    expected = {  # pixel, Rand and warping error, V_rand, V_info
        ("none", "none"): (0, 0, 0, 0, 0),
        ("none", "cell"): (1, 0, 0, 0, 0),
        ("cell", "none"): (1, 1, 0, 1, 0),
        ("cell", "cell"): (0, 0, 0, 1, 0),
    }
    images = {"none": none, "cell": cell}
    for (label, p), values in expected.items():
        report = em_report(images[label], images[p].astype(np.float32))
        found = [getattr(report, metric.__name__).value for metric in SINGLE]
        assert found == pytest.approx(values, abs=1e-12), (label, p)
        stack = [np.concatenate([images[n], cell]) for n in (label, p)]
        for metric in SINGLE:
            assert 0 <= float(metric(stack[0], stack[1].astype(np.float32))) <= 1


def test_labels_may_be_masks_of_any_kind() -> None:
    rng = np.random.default_rng(0)
    mask, p = rng.random((8, 9)) > 0.3, rng.random((8, 9))
    report = em_report(mask, p)
    kinds = (mask * np.uint8(255), mask * 7, mask * np.float32(255), mask.astype(float))
    for label in kinds:
        assert em_report(label, p) == report
    assert em_report(mask, mask) == em_report(mask, mask.astype(np.float64))


@pytest.mark.parametrize("metric", [*SINGLE, em_report])
def test_what_is_wrong_with_a_stack_is_said_in_one_line(metric: Any) -> None:
    label, p = np.ones((2, 4, 5), np.uint8), np.ones((2, 4, 5), np.float32)
    wrong = {
        r"size \(3, 4, 5\) for labels of size \(2, 4, 5\)": (label, np.ones((3, 4, 5))),
        r"size \(4, 5\) for labels of size \(2, 4, 5\)": (label, p[0]),
        r"labels of size \(4,\); expected \[H, W\]": (label[0, :, 0], p[0, :, 0]),
        r"labels of size \(0, 4, 5\)": (label[:0], p[:0]),
        "from 0 to 255; expected P.cell. in .0, 1.: divide": (label, 255 * p * (np.arange(5) > 2)),
        "from -0.5 to 1": (label, p - 1.5 * (np.arange(5) > 2)),
        "1 probabilities are NaN": (
            label,
            np.where(np.arange(40).reshape(2, 4, 5) == 3, np.nan, p),
        ),
        "probabilities of complex64": (label, p.astype(np.complex64)),
        "labels from -1; expected integers from 0": (-label.astype(int), p),
        "labels of float32 with 3 values from 0 to 1; expected integers": (
            p * np.minimum(np.arange(5) / 2, 1).astype(np.float32),
            p,
        ),
        "labels of 3 values from 0 to 255; expected a membrane map": (
            label * np.array([0, 128, 255, 255, 0], np.uint8),
            p,
        ),
        "labels of 2 values from 1 to 255; expected a membrane map": (
            label * np.array([1, 255, 255, 255, 1], np.uint8),
            p,
        ),
        "labels: .* expected .H, W. or slices of one size": ([label[0], label[1, :2]], p),
        "labels of complex64": (p.astype(np.complex64), p),
    }
    for message, pair in wrong.items():
        with pytest.raises(DataError, match=message) as error:
            metric(*pair)
        assert "\n" not in str(error.value)
