import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_cdt, distance_transform_edt, maximum_filter

from overtile.transforms import (
    BorderWeightMap,
    BorderWeightMapd,
    SeparateTouching,
    SeparateTouchingd,
    balanced_class_weights,
    class_weights_of_counts,
)

Labels = NDArray[np.int64]


def naive_weights(
    labels: Labels,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: tuple[float, float] = (1.0, 1.0),
    where: str = "background",
    spacing: tuple[float, ...] | None = None,
) -> NDArray[np.float64]:
    """Equation 2 of the paper in float64, one distance transform a cell."""
    cells = [c for c in np.unique(labels) if c]
    result = np.where(labels == 0, *class_weights)
    if len(cells) > 1:
        stack = np.stack([distance_transform_edt(labels != c, sampling=spacing) for c in cells])
        d1, d2 = np.partition(stack, 1, axis=0)[:2]
        border = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
        result += border * ((labels == 0) | (where == "everywhere"))
    return result


def grown(seed: int, shape: tuple[int, ...], count: int, radius: float) -> Labels:
    """Cells around random points, touching where they meet; labels have gaps."""
    rng = np.random.default_rng(seed)
    points, ids = rng.random((count, len(shape))) * shape, rng.permutation(3 * count)[:count] + 1
    pixels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    apart = np.linalg.norm(pixels[..., None, :] - points, axis=-1)
    apart *= rng.uniform(0.5, 2, count)  # of different sizes
    return np.where(apart.min(-1) < radius, ids[apart.argmin(-1)], 0) if count else apart.sum(-1)


@pytest.fixture(scope="module")
def real_labels() -> list[Labels]:
    folder = Path(__file__).resolve().parents[2] / "../shared/data/dsb2018/train/labels"
    found = [np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("*.png"))[:6]]
    if not found:
        pytest.skip("no ../shared/data: real labels are left out")
    return [labels[:200, :200] for labels in found]


labelled = st.builds(
    lambda seed, shape, count, radius: grown(seed, shape, count, radius).astype(int),
    st.integers(0, 9999),
    st.lists(st.integers(1, 22), min_size=2, max_size=2).map(tuple),
    st.integers(1, 12),
    st.sampled_from([0.7, 2.0, 4.0, 50.0]),
)


# --- weight map -----------------------------------------------------------------------------


@given(
    labels=labelled,
    w0=st.floats(0, 20),
    sigma=st.floats(0.5, 10),
    where=st.sampled_from(["background", "everywhere"]),
    spacing=st.sampled_from([None, (1.0, 0.3), (2.0, 1.0)]),
)
@settings(max_examples=60, deadline=None)
def test_weights_are_equation_2(
    labels: Labels, w0: float, sigma: float, where: str, spacing: Any
) -> None:
    transform = BorderWeightMap(w0, sigma, (0.5, 3.0), where, spacing)
    expected = naive_weights(labels, w0, sigma, (0.5, 3.0), where, spacing)
    found = transform(labels[None])
    assert (found.shape, found.dtype) == (labels[None].shape, np.float32)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-4)


@given(
    seed=st.integers(0, 9999),
    shape=st.lists(st.integers(1, 16), min_size=2, max_size=3).map(tuple),
    density=st.sampled_from([0.005, 0.03, 0.2]),
    sigma=st.floats(0.2, 5),
    where=st.sampled_from(["background", "everywhere"]),
    steps=st.sampled_from([(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (0.3, 2.0, 0.7)]),
)
@settings(max_examples=80, deadline=None)
def test_weights_of_torn_and_of_far_cells(
    seed: int, shape: tuple[int, ...], density: float, sigma: float, where: str, steps: Any
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(shape) < density, rng.integers(1, 6, shape), 0)
    spacing = steps[-len(shape) :]
    found = BorderWeightMap(10, sigma, None, where, spacing)(labels[None])
    expected = naive_weights(labels, 10, sigma, where=where, spacing=spacing)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_weights_cost_few_bytes_a_pixel(dtype: type) -> None:
    labels = grown(7, (1, 300, 400), 60, 20.0).astype(dtype)
    transform = BorderWeightMap()
    transform(labels)  # compiles
    tracemalloc.start()
    transform(labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * labels.size


@pytest.mark.parametrize("count", [1, 2, 300])
def test_few_and_many_cells(count: int) -> None:
    labels = grown(1, (70, 90), count, 2.0)
    assert (len(np.unique(labels)) > 200) == (count == 300)
    found = BorderWeightMap(class_weights=None)(labels[None])
    np.testing.assert_allclose(found[0], naive_weights(labels), rtol=0, atol=1e-4)


def test_no_cells_weigh_one() -> None:
    assert (BorderWeightMap()(np.zeros((1, 8, 9), int)) == 1).all()


def test_volume_with_sections_far_apart() -> None:
    labels = grown(2, (7, 16, 18), 9, 3.0)
    found = BorderWeightMap(class_weights=None, spacing=(5, 1, 1))(labels[None])
    expected = naive_weights(labels, spacing=(5, 1, 1))
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-4)
    assert (abs(expected - naive_weights(labels)) > 0.1).any()  # the spacing matters here


def test_weights_of_real_cells(real_labels: list[Labels]) -> None:
    for labels in real_labels:
        found = BorderWeightMap(class_weights=None)(labels[None])
        np.testing.assert_allclose(found[0], naive_weights(labels), rtol=0, atol=1e-4)


@given(labels=labelled)
@settings(max_examples=30, deadline=None)
def test_balanced_weights_give_both_classes_the_same_total(labels: Labels) -> None:
    weights = BorderWeightMap(w0=0)(labels[None])[0].astype(float)
    cells = labels > 0
    if cells.any() and not cells.all():
        assert weights[cells].sum() == pytest.approx(weights[~cells].sum(), rel=1e-5)
        assert weights.mean() == pytest.approx(1, rel=1e-5)
    else:
        assert (weights == 1).all()


def test_balanced_over_a_data_set() -> None:
    images = [grown(s, (1, 20, 10 + s), 4, 3.0) for s in range(3)]
    images.append(np.zeros((1, 9, 9), int))  # an image alone would not know
    background, cell = balanced_class_weights([images[0], *map(torch.from_numpy, images[1:])])
    found = sum(int((i > 0).sum()) for i in images)
    total = sum(i.size for i in images)
    assert background * (total - found) == pytest.approx(cell * found)
    assert background * (total - found) + cell * found == pytest.approx(total)
    assert balanced_class_weights(images[-1:]) == (1, 1)


@given(
    counts=st.lists(st.integers(0, 10**9), min_size=1, max_size=6),
    balance=st.sampled_from([0, 0.3, 0.5, 1, True, False]),
)
@settings(max_examples=100, deadline=None)
def test_weights_of_counts_follow_the_frequency(counts: list[int], balance: float) -> None:
    weights = class_weights_of_counts(counts, balance)
    seen = [(count, weight) for count, weight in zip(counts, weights, strict=True) if count]
    assert all(w == 1 for n, w in zip(counts, weights, strict=True) if not n)
    if seen:  # a mean of 1 over all pixels
        assert sum(n * w for n, w in seen) == pytest.approx(sum(counts))
        first, of_first = seen[0]
        for count, weight in seen:
            assert weight / of_first == pytest.approx((first / count) ** balance)


def test_weights_of_counts_by_hand() -> None:
    assert class_weights_of_counts((75, 25)) == (100 / 150, 100 / 50)
    assert class_weights_of_counts([800, 150, 0, 50], 0) == (1, 1, 1, 1)
    assert class_weights_of_counts([900, 0, 100], 0.5) == pytest.approx((1000 / 1200, 1, 2.5))
    for counts, balance, named in (([1, -1], 1, "counts="), ([1, 1], 1.5, "balance=1.5")):
        with pytest.raises(ValueError, match=named):
            class_weights_of_counts(counts, balance)


def test_dictionary_keeps_the_labels_and_adds_weights() -> None:
    labels = grown(4, (1, 20, 20), 5, 4.0)
    result = BorderWeightMapd("label", sigma=3)({"label": labels, "name": "a"})
    assert result["name"] == "a"
    assert result["label"] is labels
    assert np.array_equal(result["weight"], BorderWeightMap(sigma=3)(labels))
    both = BorderWeightMapd(["a", "b"], weight_key=None)({"a": labels, "b": labels})
    assert set(both) == {"a", "b", "a_weight", "b_weight"}
    with pytest.raises(ValueError, match="for 2 keys"):
        BorderWeightMapd(["a", "b"])


@pytest.mark.parametrize("transform", [BorderWeightMap(), SeparateTouching()])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((1, 4, 4), 1.5), "with a 1.5"),
        (torch.full((1, 4, 4), math.nan), "with a nan"),
        (np.full((1, 4, 4), np.inf, np.float16), "with a inf"),
        (np.full((1, 4, 4), 1e30), "with a 1e\\+30"),
        (np.full((1, 4, 4), -2.0), "down to -2"),
        (np.zeros((1, 4, 4), complex), "dtype complex128"),
        (np.full((1, 4, 4), -2), "down to -2: expected 0 .*, or -1 where nothing is annotated"),
        (np.zeros((2, 4, 4), int), r"\(2, 4, 4\)"),
        (np.zeros((4, 4), int), r"\(4, 4\)"),
        (np.zeros((1, 4), int), r"\(1, 4\): expected \[1, H, W\]"),
        (np.zeros((1, 2, 2, 2, 2), int), r"\(1, 2, 2, 2, 2\)"),
    ],
)
def test_labels_that_are_none_are_refused(transform: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform(labels)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("w0", -1),
        ("sigma", 0),
        ("w0", math.inf),
        ("w0", math.nan),
        ("sigma", math.nan),
        ("class_weights", "equal"),
        ("class_weights", (1, 2, 3)),
        ("where", "cells"),
    ],
)
def test_arguments_out_of_range_are_named(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument}="):
        BorderWeightMap(**{argument: value})


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 5.0), (0.0, 1.0), (-1.0, 1.0)])
def test_spacing_that_does_not_fit_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing"):
        BorderWeightMap(spacing=spacing)(grown(5, (1, 9, 9), 3, 3.0))


# --- separation -----------------------------------------------------------------------------


def neighbours(labels: Labels, distance: int = 1) -> Labels:
    """Pixels of a cell with another cell at most ``distance`` away, diagonals counting as 1."""
    high = maximum_filter(labels, 2 * distance + 1, mode="constant", cval=0)
    turned = np.where(labels > 0, labels.max() + 1 - labels, 0)
    low = maximum_filter(turned, 2 * distance + 1, mode="constant", cval=0)
    return (labels > 0) & ((high != labels) | (low != turned))


def gaps(labels: Labels) -> dict[tuple[int, int], int]:
    """Background pixels between any two cells, along rows, columns and diagonals."""
    cells = [c for c in np.unique(labels) if c]
    result = {}
    for cell in cells:
        away = distance_transform_cdt(labels != cell, metric="chessboard")
        result.update({(cell, c): int(away[labels == c].min()) - 1 for c in cells if c != cell})
    return result


@given(labels=labelled, width=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_no_two_cells_touch_afterwards(labels: Labels, width: int) -> None:
    result = SeparateTouching(width)(labels[None])[0]
    assert not neighbours(result).any()
    changed = result != labels
    assert (result[changed] == 0).all()
    assert not (changed & ~neighbours(labels, width)).any()


@given(labels=labelled, width=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_cells_that_touched_are_a_line_apart(labels: Labels, width: int) -> None:
    before, after = gaps(labels), gaps(SeparateTouching(width)(labels[None])[0])
    touched = [pair for pair, gap in before.items() if gap == 0]
    assert all(after.get(pair, width) >= width for pair in touched)


def test_separated_volume() -> None:
    labels = grown(6, (9, 20, 20), 12, 6.0)
    assert neighbours(labels).sum() > 100
    result = SeparateTouching()(labels[None])[0]
    assert not neighbours(result).any()
    assert len(np.unique(result)) == len(np.unique(labels))


@given(labels=labelled, width=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_no_cell_vanishes_without_need(labels: Labels, width: int) -> None:
    result = SeparateTouching(width)(labels[None])[0]
    for cell in np.setdiff1d(labels, result):
        near = maximum_filter(result, 2 * width + 1, mode="constant", cval=0) > 0
        assert near[labels == cell].all()  # any pixel of it would be too close to one that stayed


def test_the_smallest_of_a_crowd_survives() -> None:
    labels = np.ones((9, 9), int)
    labels[:, 5:] = 2
    labels[4, 4], labels[0, 4] = 3, 4
    for width in (1, 2):
        result = SeparateTouching(width)(labels[None])[0]
        assert set(np.unique(result)) == {0, 1, 2, 3, 4}
        assert (result[4, 4], result[0, 4]) == (3, 4)


def test_two_cells_beside_a_thin_one_do_not_both_vanish() -> None:
    labels = np.zeros((9, 3), int)
    labels[2:7, 0], labels[1:8, 1], labels[2:7, 2] = 1, 2, 3
    result = SeparateTouching()(labels[None])[0]
    assert set(np.unique(result)) >= {1, 3}


def test_the_larger_cell_gives_the_odd_pixel() -> None:
    labels = np.array([[[0, 1, 1, 1, 2, 2, 2, 2, 0]]])
    for width, expected in ((1, [1, 1, 1, 0, 2, 2, 2]), (2, [1, 1, 0, 0, 2, 2, 2])):
        assert SeparateTouching(width)(labels)[0, 0, 1:-1].tolist() == expected
    equal = np.array([[[5, 5, 5, 2, 2, 2]]])
    assert SeparateTouching()(equal)[0, 0].tolist() == [5, 5, 0, 2, 2, 2]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_cells_that_do_not_touch_are_left_alone(width: int) -> None:
    labels = np.zeros((1, 12, 14), int)
    labels[0, 1:5, 1:5], labels[0, 1:9, 6:13] = 7, 3  # one pixel apart
    assert np.array_equal(SeparateTouching(width)(labels), labels)


def test_real_cells_are_separated_and_stay(real_labels: list[Labels]) -> None:
    touching = 0
    for labels in real_labels:
        result = SeparateTouching()(labels[None])[0]
        touching += neighbours(labels).sum()
        assert not neighbours(result).any()
        assert np.array_equal(np.unique(result), np.unique(labels))
        alone = np.setdiff1d(labels, labels[neighbours(labels)])
        kept = np.isin(labels, alone)
        assert np.array_equal(result[kept], labels[kept])
    assert touching > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_kind_and_dtype_are_kept(dtype: type) -> None:
    labels = grown(7, (1, 16, 16), 5, 5.0).astype(dtype)
    before = labels.copy()
    result = SeparateTouching(2)(labels)
    assert result.dtype == dtype
    assert (result != labels).any()
    assert np.array_equal(labels, before)
    tensor = SeparateTouching(2)(torch.from_numpy(labels))
    assert tensor.dtype == torch.from_numpy(labels).dtype
    assert np.array_equal(tensor.numpy(), result)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, bool, np.uint8, np.int64])
def test_whole_numbers_are_labels_whatever_their_type(dtype: type) -> None:
    labels = grown(4, (1, 20, 20), 5, 4.0).astype(dtype)
    whole = labels.astype(np.int32)
    for transform in (BorderWeightMap(sigma=3), SeparateTouching()):
        assert np.array_equal(transform(labels), transform(whole))
    assert SeparateTouching()(labels).dtype == labels.dtype
    assert BorderWeightMap()(torch.from_numpy(labels)).dtype == torch.float32


def test_metadata_is_kept() -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])).double()
    labels = MetaTensor(torch.from_numpy(grown(7, (1, 16, 16), 5, 5.0)), affine=affine)
    for transform in (SeparateTouching(), BorderWeightMap()):
        result = transform(labels)
        assert isinstance(result, MetaTensor)
        assert torch.equal(result.affine, affine)
        assert np.array_equal(result.numpy(), transform(labels.numpy()))


def test_separation_of_dictionaries_and_its_arguments() -> None:
    labels = grown(8, (1, 16, 16), 5, 5.0)
    result = SeparateTouchingd("label", width=2)({"label": labels, "other": labels})
    assert np.array_equal(result["label"], SeparateTouching(2)(labels))
    assert result["other"] is labels
    with pytest.raises(ValueError, match="width=0"):
        SeparateTouching(0)
