"""Scores of classes against loops, SciPy and MONAI, in images and volumes, beside gaps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice, get_confusion_matrix
from monai.metrics.utils import get_code_to_measure_table
from scipy import ndimage

from overtile.networks.losses.ignored import IGNORED
from overtile.pipelines.errors import ConfigurationError, DataError
from overtile.pipelines.metrics.classes import (
    CLASS_SCORES,
    class_counts,
    class_hd95,
    class_scores,
    class_surface_dice,
)
from tests.pipelines.metrics import naive_classes as naive

Array = np.ndarray[Any, Any]
SPACINGS = {2: (0.7, 2.5), 3: (3.0, 1.0, 0.5)}
few = settings(max_examples=25, deadline=None)


def maps(seed: int, shape: tuple[int, ...], hidden: float = 0.0) -> tuple[Array, Array]:
    """A label of three classes in blobs, of which a share is hidden in blobs, and a prediction."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.random(shape), 1.2) for _ in range(5)]
    label = np.argmax(fields[:3], axis=0).astype(np.int32)
    moved = [fields[0] + 0.3 * fields[3], fields[1] + 0.2 * rng.random(shape), fields[2]]
    prediction = np.argmax(moved, axis=0).astype(np.int32)
    if hidden:
        label[fields[4] < np.quantile(fields[4], hidden)] = IGNORED
    return label, prediction


def sizes() -> st.SearchStrategy[tuple[int, ...]]:
    return st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
    )


def one_hot(map_: Array, num_classes: int = 3) -> torch.Tensor:
    return torch.tensor(np.stack([map_ == k for k in range(num_classes)])[None]).float()


seeds = st.integers(0, 10**6)
shares = st.sampled_from([0.0, 0.2, 0.5, 0.9])


@few
@given(seeds, sizes(), shares)
def test_counts_and_all_that_follows_from_them(
    seed: int, shape: tuple[int, ...], hidden: float
) -> None:
    label, prediction = maps(seed, shape, hidden)
    counts = class_counts(label, prediction, 4)  # class 3 is never there
    scores = {name: class_scores(label, prediction, 4, name) for name in CLASS_SCORES[:7]}
    for number in range(4):
        tp, fp, fn, tn = naive.counts(label, prediction, number)
        assert counts.true_positives[number] == tp
        assert counts.false_positives[number] == fp
        assert counts.false_negatives[number] == fn
        assert counts.true_negatives[number] == tn
        there = tp + fp + fn > 0
        expected = {
            "dice": 2 * tp / (2 * tp + fp + fn) if there else math.nan,
            "iou": tp / (tp + fp + fn) if there else math.nan,
            "tpr": tp / (tp + fn) if tp + fn else math.nan,
            "fnr": fn / (tp + fn) if tp + fn else math.nan,
            "tnr": tn / (tn + fp) if there and tn + fp else math.nan,
            "fpr": fp / (tn + fp) if there and tn + fp else math.nan,
            "volume_error": (tp + fp) / (tp + fn) - 1 if tp + fn else math.inf,
        }
        expected["volume_error"] = expected["volume_error"] if there else math.nan
        for name, value in expected.items():
            assert scores[name][number] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_counts_are_exact_where_monai_rounds_them() -> None:
    label = np.ones((4099, 4098), np.int8)  # more than 2^24 pixels
    label[0, 0] = 0
    counts = class_counts(label, label, 2)
    assert counts.true_positives.tolist() == [1, label.size - 1]
    assert counts.false_positives.tolist() == counts.false_negatives.tolist() == [0, 0]
    assert counts.true_negatives.tolist() == [label.size - 1, 1]
    assert counts.volume_error().tolist() == [0, 0]


def test_rates_are_monais_with_and_without_gaps() -> None:
    label, prediction = maps(3, (12, 13), 0.3)
    masked = one_hot(label)  # all channels 0 where not annotated: MONAI's form of it
    theirs = get_confusion_matrix(one_hot(prediction), masked, ignore_index=IGNORED)[0].numpy()
    counts = class_counts(label, prediction, 3)
    assert np.array_equal(theirs[:, 0], counts.true_positives)
    assert np.array_equal(theirs[:, 1], counts.false_positives)
    assert np.array_equal(theirs[:, 2], counts.true_negatives)
    assert np.array_equal(theirs[:, 3], counts.false_negatives)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i8", "u8", "?"])
def test_any_type_of_integers(dtype: str) -> None:
    label, prediction = ((map_ > 0).astype(np.int32) for map_ in maps(7, (8, 9)))
    for score in CLASS_SCORES:
        expected = class_scores(label, prediction, 2, score)
        found = class_scores(label.astype(dtype), prediction.astype(dtype), 2, score)
        assert np.array_equal(found, expected)


@few
@given(seeds, sizes(), shares)
def test_hd95_is_that_of_loops(seed: int, shape: tuple[int, ...], hidden: float) -> None:
    label, prediction = maps(seed, shape, hidden)
    spacing = SPACINGS[len(shape)]
    found = class_hd95(label, prediction, 4, spacing)
    for number in range(4):
        expected = naive.hd95(label, prediction, number, spacing)
        assert found[number] == pytest.approx(expected, rel=1e-5, nan_ok=True)


@few
@given(seeds, st.tuples(st.integers(1, 9), st.integers(1, 9)), shares, st.floats(0, 4))
def test_surface_dice_of_images_is_that_of_loops(
    seed: int, shape: tuple[int, int], hidden: float, tolerance: float
) -> None:
    label, prediction = maps(seed, shape, hidden)
    spacing = SPACINGS[2]
    found = class_surface_dice(label, prediction, 4, spacing, tolerance)
    for number in range(4):
        expected = naive.surface_dice(label, prediction, number, spacing, tolerance, naive.length)
        assert found[number] == pytest.approx(expected, rel=1e-5, nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from([0.2, 0.6]), st.sampled_from([0.0, 1.0, 2.5]))
def test_surface_dice_of_volumes_with_gaps_is_that_of_loops(
    seed: int, hidden: float, tolerance: float
) -> None:
    label, prediction = maps(seed, (2, 3, 4), hidden)
    table, kernel = get_code_to_measure_table(SPACINGS[3])
    areas, weights = table.numpy(), kernel.numpy().ravel()

    def area(cube: tuple[int, ...], spacing: tuple[float, ...]) -> float:
        return float(areas[int(weights @ cube)])  # of marching cubes, all pixels known

    found = class_surface_dice(label, prediction, 3, SPACINGS[3], tolerance)
    for number in range(3):
        expected = naive.surface_dice(label, prediction, number, SPACINGS[3], tolerance, area)
        assert found[number] == pytest.approx(expected, rel=1e-5, nan_ok=True)


@settings(max_examples=8, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_surface_dice_of_boxes_is_that_of_geometry(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    pair = np.zeros((2, 6, 6, 7), np.int8)
    for volume in pair:  # sides of two pixels or more, at which no face meets its opposite
        low, side = rng.integers(0, 3, 3), rng.integers(2, 5, 3)
        volume[tuple(slice(a, a + s) for a, s in zip(low, side, strict=True))] = 1
    spacing = SPACINGS[3]
    found = class_surface_dice(*pair, 2, spacing, tolerance)[1]
    expected = naive.surface_dice(*pair, 1, spacing, tolerance, naive.area)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call
@pytest.mark.parametrize("shape", [(24, 30), (12, 14, 10)])
def test_surfaces_are_monais_where_all_is_annotated(shape: tuple[int, ...]) -> None:
    label, prediction = maps(5, shape)
    assert all((map_ == k).any() for map_ in (label, prediction) for k in range(3))
    spacing = SPACINGS[len(shape)]
    pair = one_hot(prediction), one_hot(label)
    theirs = compute_hausdorff_distance(
        *pair, include_background=True, percentile=95, spacing=spacing
    )
    assert class_hd95(label, prediction, 3, spacing) == pytest.approx(theirs[0].numpy(), rel=1e-5)
    shares = compute_surface_dice(
        *pair, [1.2] * 3, include_background=True, spacing=spacing, use_subvoxels=True
    )
    found = class_surface_dice(label, prediction, 3, spacing, 1.2)
    assert found == pytest.approx(shares[0].numpy(), rel=1e-5)
    assert ((found > 0) & (found < 0.99)).all()  # they do differ, and not everywhere


def test_a_real_volume_against_distance_transforms(real_data: Path) -> None:
    path = real_data / "hippocampus" / "labels" / "hippocampus_001.nii.gz"
    label = np.asarray(nibabel.nifti1.load(path).dataobj).astype(np.uint8)
    prediction = np.roll(label, (1, -2), (0, 2))
    spacing = (1.0, 1.5, 0.8)
    found = class_hd95(label, prediction, 3, spacing)
    for number in (1, 2):
        edges = [
            mask & ~ndimage.binary_erosion(mask) for mask in (label == number, prediction == number)
        ]
        away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
        both = [np.percentile(away[1][edges[0]], 95), np.percentile(away[0][edges[1]], 95)]
        assert found[number] == pytest.approx(max(both), rel=1e-5)
        assert found[number] > 0.8


@pytest.mark.parametrize("score", CLASS_SCORES)
@pytest.mark.parametrize("shape", [(14, 15), (7, 8, 9)])
def test_what_is_predicted_in_a_gap_changes_nothing(score: str, shape: tuple[int, ...]) -> None:
    label, prediction = maps(11, shape, 0.4)
    found = class_scores(label, prediction, 3, score)
    assert np.isfinite(found).all()
    for hidden in ((prediction + 1) % 3, IGNORED, 99):
        other = np.where(label == IGNORED, hidden, prediction)
        assert (other != prediction).any()
        assert np.array_equal(found, class_scores(label, other, 3, score))


@pytest.mark.parametrize("shape", [(14, 15), (7, 8, 9)])
def test_a_perfect_prediction_is_perfect_beside_gaps(shape: tuple[int, ...]) -> None:
    truth, noise = maps(13, shape)
    label = truth.copy()
    label[maps(14, shape)[0] == 0] = IGNORED
    prediction = np.where(label == IGNORED, noise, truth)
    assert class_hd95(label, prediction, 3).tolist() == [0, 0, 0]
    assert class_surface_dice(label, prediction, 3, tolerance=0).tolist() == [1, 1, 1]


def test_the_edge_of_a_gap_is_no_surface() -> None:
    label = np.zeros((12, 20), np.int16)
    label[:, 10:] = 1
    label[:4] = IGNORED
    prediction = np.where(label == IGNORED, 0, label)  # nothing is found in the gap
    assert class_hd95(label, prediction, 2).tolist() == [0, 0]
    moved = np.zeros_like(label)
    moved[:, 13:] = 1
    # 24 pixels of the label have a face at the image's edge or at class 0; 8 of them are 3 away
    assert class_hd95(label, moved, 2, (1, 0.5))[1] == pytest.approx(1.5)
    alone = np.where(label == 1, 1, IGNORED)  # one class, with gaps around it and the image's edge
    alone[:, -1], alone[-1] = IGNORED, IGNORED
    assert class_scores(alone, np.ones_like(moved), 2)[1] == 1
    assert math.isnan(class_hd95(alone, np.ones_like(moved), 2)[1])  # a class without a boundary
    assert math.isnan(class_surface_dice(alone, np.ones_like(moved), 2)[1])


def test_annotated_sections_of_a_volume_are_scored_as_images() -> None:
    label, prediction = maps(35, (3, 13, 14))
    volume = np.full((9, 13, 14), IGNORED)
    found = np.zeros((9, 13, 14), np.int8)
    volume[1::3], found[1::3] = label, prediction
    # sections so far apart that the nearest boundary lies in the same one
    spacing = (500.0, 0.7, 1.3)
    distances: dict[int, tuple[list[float], list[float]]] = {k: ([], []) for k in range(3)}
    for k in range(3):
        for one, other in zip(label, prediction, strict=True):
            ours, theirs = naive.boundary(one, one, k), naive.boundary(other, one, k)
            assert ours
            assert theirs
            distances[k][0].extend(naive.distances(ours, theirs, spacing[1:]))
            distances[k][1].extend(naive.distances(theirs, ours, spacing[1:]))
    expected = [max(naive.percentile(d, 95) for d in distances[k]) for k in range(3)]
    assert class_hd95(volume, found, 3, spacing) == pytest.approx(expected, rel=1e-5)
    within = class_surface_dice(volume, found, 3, spacing, 0.5)
    assert ((within > 0) & (within < 1)).all()


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("score", "nowhere", "label_alone", "prediction_alone"),
    [
        ("dice", NAN, 0, 0),
        ("iou", NAN, 0, 0),
        ("tpr", NAN, 0, NAN),
        ("fnr", NAN, 1, NAN),
        ("tnr", NAN, 1, 1 - 4 / 36),
        ("fpr", NAN, 0, 4 / 36),
        ("volume_error", NAN, -1, INF),
        ("hd95", NAN, INF, INF),
        ("surface_dice", NAN, 0, 0),
    ],
)
def test_a_class_that_is_not_in_both(
    score: str, nowhere: float, label_alone: float, prediction_alone: float
) -> None:
    none, some = np.zeros((6, 6), np.uint8), np.zeros((6, 6), np.uint8)
    some[2:4, 3:5] = 1
    for pair, expected in (
        ((none, none), nowhere),
        ((some, none), label_alone),
        ((none, some), prediction_alone),
        ((np.full((6, 6), IGNORED), some), nowhere),
    ):
        found = class_scores(*pair, 2, score)[1]
        assert found == pytest.approx(expected, nan_ok=True)


def test_a_class_that_is_all_there_is() -> None:
    full = np.ones((5, 6), np.uint8)
    assert math.isnan(class_scores(full, full, 2, "tnr")[1])  # no pixel is outside of it
    assert math.isnan(class_scores(full, full, 2, "fpr")[1])
    assert class_hd95(full, full, 2)[1] == 0  # its boundary is the image's edge
    assert class_surface_dice(full, full, 2)[1] == 1


def test_spacing_and_tolerance_are_in_the_same_unit() -> None:
    label, prediction = np.zeros((2, 12, 12), np.uint8)
    label[2:8, 2:8], prediction[2:8, 5:11] = 1, 1  # 3 steps along the last axis
    for step in (0.1, 1.0, 7.0):
        near, far = (
            class_surface_dice(label, prediction, 2, (1.0, step), tolerance)[1]
            for tolerance in (3 * step, 2.9 * step)
        )
        assert near == 1 > far  # 3 x 0.1 is more than 0.3 in float64
    assert class_hd95(label, prediction, 2, 0.1)[1] == pytest.approx(0.3)


def test_chosen_classes_alone() -> None:
    label, prediction = maps(19, (9, 9))
    for score in CLASS_SCORES:
        each = class_scores(label, prediction, 3, score)
        assert class_scores(label, prediction, 3, score, classes=[2, 0]) == pytest.approx(
            each[[2, 0]]
        )


MAP = np.zeros((4, 5), np.int64)


def with_value(value: int) -> Array:
    array = MAP.copy()
    array[2, 3] = value
    return array


@pytest.mark.parametrize(
    ("label", "prediction", "message"),
    [
        (with_value(2), MAP, r"label: 2 at \(2, 3\); expected classes 0 to 1, or -1 where"),
        (with_value(-2), MAP, r"label: -2 at \(2, 3\)"),
        (MAP, with_value(2), r"prediction: 2 at \(2, 3\); expected classes 0 to 1$"),
        (MAP, with_value(-1), r"prediction: -1 at \(2, 3\)"),
        (MAP, MAP[:3], r"prediction of size \(3, 5\) for a label of size \(4, 5\)"),
        (MAP[0], MAP[0], "class maps of 1 axes; expected 2 in an image, 3 in a volume"),
        (MAP.astype(float), MAP, "label: of float64; expected integers"),
        (MAP, MAP.astype(np.float32), "prediction: of float32; expected integers"),
    ],
)
def test_maps_that_are_refused(label: Array, prediction: Array, message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_scores(label, prediction, 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"score": "f1"}, "score: 'f1'; expected one of dice, iou"),
        ({"num_classes": 1}, "num_classes: 1; expected 2 or more"),
        ({"num_classes": True}, "num_classes: True"),
        ({"classes": [2]}, "classes: 2; expected classes 0 to 1"),
        ({"spacing": 0}, "spacing: 0; expected a number above 0"),
        ({"spacing": (1, -1)}, "spacing"),
        ({"spacing": (1, math.nan)}, "spacing"),
        ({"spacing": math.inf}, "spacing"),
        ({"spacing": (1, 1, 1)}, r"spacing: \(1, 1, 1\); expected .* each of 2 axes"),
        ({"spacing": ("1", "1")}, "spacing"),
        ({"tolerance": -1}, "tolerance: -1; expected a number of 0 or more"),
        ({"tolerance": math.nan}, "tolerance"),
    ],
)
def test_arguments_that_are_refused(more: dict[str, Any], message: str) -> None:
    arguments = {"num_classes": 2, "score": "surface_dice"} | more
    with pytest.raises(ConfigurationError, match=message):
        class_scores(MAP, MAP, **arguments)
