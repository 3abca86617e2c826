from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from overtile.transforms import BorderWeightMap, ClassWeightMap, ClassWeightMapd

Labels = NDArray[np.int64]
K = 4


def flooded(open_: NDArray[np.bool_]) -> Labels:
    """Numbers of the components of what is open, pixel by pixel, without diagonals."""
    numbers = np.zeros(open_.shape, int)
    fresh = count(1)
    for start in np.ndindex(open_.shape):
        if not open_[start] or numbers[start]:
            continue
        numbers[start] = next(fresh)
        stack = [start]
        while stack:
            place = stack.pop()
            for axis in range(open_.ndim):
                for step in (-1, 1):
                    near = (*place[:axis], place[axis] + step, *place[axis + 1 :])
                    if 0 <= near[axis] < open_.shape[axis] and open_[near] and not numbers[near]:
                        numbers[near] = numbers[place]
                        stack.append(near)
    return numbers


def cells_of(labels: Labels, chosen: list[int]) -> list[NDArray[np.bool_]]:
    """A mask a cell; what a gap joins is one."""
    cells = []
    for number in chosen:
        parts = flooded((labels == number) | (labels == -1))
        cells += [(parts == part) & (labels == number) for part in range(1, parts.max() + 1)]
    return [cell for cell in cells if cell.any()]


def two_nearest(cells: list[NDArray[np.bool_]], labels: Labels, spacing: Any) -> Any:
    nowhere = np.full(labels.shape, np.inf)
    stack = [distance_transform_edt(~cell, sampling=spacing) for cell in cells]
    return np.partition(np.stack([*stack, nowhere, nowhere]), 1, axis=0)[:2]


def naive(
    labels: Labels, weights: list[float], chosen: list[int], sigma: float, where: str, spacing: Any
) -> NDArray[np.float64]:
    """Equation 2 in float64, one distance transform a component."""
    cells = cells_of(labels, chosen)
    result = np.zeros(labels.shape)
    for number, weight in enumerate(weights):
        result[labels == number] = weight
    d1, d2 = two_nearest(cells, labels, spacing)
    border = 10 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    for cell in cells if where == "background" else []:
        border[cell] = 0
    return np.where(labels == -1, 0, result + border)


def classes(seed: int, shape: tuple[int, ...], hidden: float) -> Labels:
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, shape, p=[0.7, 0.1, 0.1, 0.1])
    for axis in range(len(shape)):
        labels = np.maximum(labels, np.roll(labels, 1, axis))
    return np.where(rng.random(shape) < hidden, -1, labels)


drawn: dict[str, Any] = {
    "seed": st.integers(0, 9999),
    "shape": st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple),
    "chosen": st.sampled_from([[1], [0], [3, 1], [1, 2, 3], [0, 1, 2, 3]]),
    "sigma": st.sampled_from([0.8, 4.0]),
    "where": st.sampled_from(["background", "everywhere"]),
    "steps": st.sampled_from([(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (0.3, 2.0, 0.7)]),
}


@given(**drawn, hidden=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
@settings(max_examples=80, deadline=None)
def test_weights_are_those_of_classes_and_of_components(
    seed: int,
    shape: tuple[int, ...],
    chosen: list[int],
    sigma: float,
    where: str,
    steps: Any,
    hidden: float,
) -> None:
    labels, spacing = classes(seed, shape, hidden), steps[-len(shape) :]
    weights = [0.5, 2.0, 0.0, 7.0]
    found = ClassWeightMap(weights, chosen, 10, sigma, where, spacing)(labels[None])
    assert (found.shape, found.dtype) == (labels[None].shape, np.float32)
    expected = naive(labels, weights, chosen, sigma, where, spacing)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-4)


@given(**drawn, hidden=st.sampled_from([0.02, 0.2, 0.8]))
@settings(max_examples=60, deadline=None)
def test_a_gap_never_raises_a_weight(
    seed: int,
    shape: tuple[int, ...],
    chosen: list[int],
    sigma: float,
    where: str,
    steps: Any,
    hidden: float,
) -> None:
    full, spacing = classes(seed, shape, 0.0), steps[-len(shape) :]
    gap = np.random.default_rng(seed + 1).random(shape) < hidden
    known = np.where(gap, -1, full)
    weigh = ClassWeightMap([0.5, 2.0, 1.0, 7.0], chosen, 10, sigma, where, spacing)
    found, whole = weigh(known[None])[0], weigh(full[None])[0]
    assert (found[gap] == 0).all()
    assert (found <= whole * (1 + 1e-6))[~gap].all()
    # the full annotation's, where the gap joins nothing and is farther than both cells
    joined = cells_of(known, chosen)
    apart = [flooded(known == number).max() for number in chosen]
    if gap.any() and len(joined) == sum(apart):
        second = two_nearest(joined, known, spacing)[1]
        sure = ~gap & (distance_transform_edt(~gap, sampling=spacing) >= second)
        np.testing.assert_allclose(found[sure], whole[sure], rtol=1e-6)


def test_components_by_hand() -> None:
    term = [10 * np.exp(-(d**2) / 50) for d in range(9)]

    def weights(row: list[int], chosen: list[int], where: str = "background") -> list[float]:
        found = ClassWeightMap(None, chosen, where=where)(np.array([[row]]))[0, 0]
        return [float(value) for value in found]

    one = pytest.approx
    assert weights([1, 0, 1], [1]) == one([1, 1 + term[2], 1])  # two components of one class
    assert weights([1, 0, 2], [1, 2]) == one([1, 1 + term[2], 1])  # and of two
    assert weights([1, 0, 2], [1]) == [1, 1, 1]
    assert weights([1, 2, 0], [1, 2]) == one([1, 1, 1 + term[3]])  # that touch
    assert weights([1, 2], [1, 2], "everywhere") == one([1 + term[1], 1 + term[1]])
    assert weights([0, 3, 0, 1, 0, 3], [3]) == one([1 + term[6], 1, *[1 + term[4]] * 3, 1])
    assert weights([1, 0, 1, -1, 2], [1]) == one([1, 1 + term[2], 1, 0, 1 + term[6]])
    # the gap may join both parts
    assert weights([0, 1, -1, 1, 0, 1], [1]) == one([1 + term[6], 1, 0, 1, 1 + term[2], 1])
    diagonal = np.array([[[1, 0], [0, 1]]])
    assert ClassWeightMap(None, [1])(diagonal)[0, 0, 1] == one(1 + term[2])


def test_one_number_a_component_is_the_map_of_instances() -> None:
    labels = np.zeros((1, 20, 24), np.uint8)
    labels[0, 2:8, 2:9], labels[0, 10:18, 3:12], labels[0, 4:15, 14:21] = 1, 2, 3
    found = ClassWeightMap((0.5, 2, 2, 2), [1, 2, 3], sigma=4)(labels)
    assert np.array_equal(found, BorderWeightMap(sigma=4, class_weights=(0.5, 2))(labels))
    plain = ClassWeightMap((0.5, 2, 3, 4))(labels)
    assert np.array_equal(plain, np.array([0.5, 2, 3, 4], np.float32)[labels])
    assert np.array_equal(ClassWeightMap((0.5, 2, 3, 4), [1, 2], w0=0)(labels), plain)
    assert (ClassWeightMap()(labels) == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float32, bool])
def test_labels_of_any_type(dtype: Any) -> None:
    labels = classes(3, (8, 9), 0.0).clip(0, 1)[None]
    weigh = ClassWeightMap([1, 3], [1])
    assert np.array_equal(weigh(labels.astype(dtype)), weigh(labels))
    found = weigh(torch.from_numpy(labels.astype(dtype)))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), weigh(labels))


def test_dictionary_keeps_the_labels_and_adds_weights() -> None:
    labels = classes(4, (8, 9), 0.1)[None]
    arguments: Any = ([1, 2, 3, 4], [1, 3], 5, 2, "everywhere", (1, 2))
    result = ClassWeightMapd("label", *arguments)({"label": labels})
    assert result["label"] is labels
    assert np.array_equal(result["weight"], ClassWeightMap(*arguments)(labels))
    both = ClassWeightMapd(["a", "b"], weight_key=None)({"a": labels, "b": labels})
    assert set(both) == {"a", "b", "a_weight", "b_weight"}
    with pytest.raises(ValueError, match="for 2 keys"):
        ClassWeightMapd(["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": "balanced"}, "class_weights='balanced': expected a number"),
        ({"class_weights": []}, r"class_weights=\[\]"),
        ({"class_weights": [1, -1]}, r"class_weights=\[1, -1\]"),
        ({"class_weights": [1, np.nan]}, "class_weights="),
        ({"border_classes": [-1]}, r"border_classes=\[-1\]: expected classes from 0$"),
        ({"border_classes": [1.5]}, r"border_classes=\[1\.5\]"),
        ({"border_classes": [2], "class_weights": [1, 1]}, r"\[2\]: expected classes from 0 to 1"),
        ({"w0": -1}, "w0=-1"),
        ({"sigma": 0}, "sigma=0"),
        ({"where": "cells"}, "where='cells'"),
        ({"spacing": (1, 0)}, "spacing="),
    ],
)
def test_arguments_out_of_range_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassWeightMap(**arguments)


def test_labels_that_are_no_classes_are_refused() -> None:
    labels = classes(5, (4, 5), 0.2)[None]
    for wrong, message in (
        (
            np.where(labels == -1, 7, labels),
            "labels up to 7: expected a class, 0 to 3, or -1 where",
        ),
        (labels - 1, "labels down to -2"),
        (labels + 0.5, "whole numbers"),
        (labels[0], "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            ClassWeightMap([1, 1, 1, 1])(wrong)
