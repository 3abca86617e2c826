import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from overtile.transforms import two_nearest_cells


def naive(
    labels: NDArray[np.int64], spacing: tuple[float, ...] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The cells, and one distance transform a cell; two without a pixel, infinitely far, last."""
    cells = [c for c in np.unique(labels) if c != 0]
    stack = [distance_transform_edt(labels != c, sampling=spacing) for c in cells]
    nowhere = np.full(labels.shape, np.inf)
    return np.array([*cells, 0, 0]), np.stack([*stack, nowhere, nowhere])


def scattered(seed: int, shape: tuple[int, ...], count: int, density: float) -> NDArray[np.int64]:
    """Pixels of ``count`` labels with gaps between them, torn into pieces."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([[0], rng.choice(10**6, count, replace=False) + 1])
    labels = rng.integers(1, count + 1, shape) if count else np.zeros(shape, int)
    return ids[np.where(rng.random(shape) < density, labels, 0)]


def assert_equals_naive(
    labels: NDArray[np.int64], spacing: tuple[float, ...] | None = None
) -> None:
    cells, stack = naive(labels, spacing)
    nearest, second = np.sort(stack, axis=0)[:2]
    d1, d2, label = two_nearest_cells(labels, spacing)
    np.testing.assert_allclose(d1, nearest, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(d2, second, rtol=1e-5, atol=1e-4)
    # of several nearest cells any may be named
    order = np.searchsorted(cells[:-2], label)
    named = np.take_along_axis(stack, np.where(label == 0, len(cells) - 1, order)[None], axis=0)[0]
    np.testing.assert_allclose(named, nearest, rtol=1e-5, atol=1e-4)
    assert np.isin(label, cells).all()


@given(
    seed=st.integers(0, 9999),
    shape=st.lists(st.integers(1, 14), min_size=1, max_size=4).map(tuple),
    count=st.integers(0, 9),
    density=st.sampled_from([0.01, 0.05, 0.3, 1.0]),
    unit=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_equals_one_distance_transform_per_cell(
    seed: int, shape: tuple[int, ...], count: int, density: float, unit: bool
) -> None:
    labels = scattered(seed, shape, count, density)
    spacing = np.random.default_rng(seed).choice([0.25, 1.0, 1.7, 5.0], len(shape))
    assert_equals_naive(labels, None if unit else tuple(spacing))


def test_hundreds_of_cells() -> None:
    labels = scattered(1, (90, 110), 400, 0.1)
    assert len(np.unique(labels)) > 300
    assert_equals_naive(labels)


@given(seed=st.integers(0, 9999), count=st.integers(1, 9), width=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_blocks_that_touch_or_leave_gaps(seed: int, count: int, width: int) -> None:
    labels = np.kron(scattered(seed, (6, 9), count, 0.3), np.ones((width, width), int))
    assert_equals_naive(labels, tuple(np.random.default_rng(seed).choice([0.3, 1.0, 4.0], 2)))


def test_volume_of_more_planes_than_are_kept_at_a_time() -> None:
    labels = np.zeros((50, 3, 4), int)
    labels[0, 0, 0], labels[17, 2, 1], labels[49, 1, 3] = 1, 2, 3
    assert_equals_naive(labels, (0.7, 1.0, 2.0))


def seconds(labels: NDArray[np.int64]) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        two_nearest_cells(labels)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("kind", ["two far cells", "a slope", "many cells"])
def test_the_cost_grows_as_the_pixels_do(along: int, kind: str) -> None:
    """Rows of 512 and of 16,384 pixels: a search outwards takes 1,024 times as long, not 32."""
    found = []
    for n in (2**9, 2**14):
        labels = np.zeros((8, n), int)
        if kind == "two far cells":
            labels[:, 0], labels[:, -1] = 1, 2
        elif kind == "a slope":  # every pixel of the last row offers another distance
            labels[np.arange(n) * len(labels) // n, np.arange(n)] = np.arange(n) // 7 + 1
        else:
            labels = scattered(0, labels.shape, 999, 0.1)
        found.append(seconds(labels if along else np.ascontiguousarray(labels.T)))
    assert found[1] < 200 * found[0]


def test_cells_at_the_border_and_of_one_pixel() -> None:
    labels = np.zeros((20, 31), int)
    labels[0, 0], labels[-1, -1], labels[:, 15] = 7, 3, 5
    assert_equals_naive(labels)


@pytest.mark.parametrize("cells", [0, 1])
def test_what_does_not_exist_is_infinitely_far(cells: int) -> None:
    labels = np.zeros((5, 6), int)
    labels[:cells, 0] = 4
    d1, d2, label = two_nearest_cells(labels)
    assert np.isinf(d2).all()
    assert np.isinf(d1).all() == (cells == 0)
    assert (label == (4 if cells else 0)).all()


@given(seed=st.integers(0, 999), cutoff=st.floats(0.5, 12))
@settings(max_examples=40, deadline=None)
def test_cutoff_changes_nothing_within_it(seed: int, cutoff: float) -> None:
    labels = scattered(seed, (12, 17), 6, 0.05)
    exact = np.sort(naive(labels)[1], axis=0)[:2]
    for found, true in zip(two_nearest_cells(labels, cutoff=cutoff)[:2], exact, strict=True):
        within = true <= cutoff
        np.testing.assert_allclose(found[within], true[within], rtol=1e-5)
        assert (found[~within] > cutoff).all()


@pytest.mark.parametrize(("spacing", "cutoff"), [(1.0, 3.0), (0.1, 0.3), (0.7, 2.1)])
def test_a_cell_at_the_cutoff_is_found(spacing: float, cutoff: float) -> None:
    d1, _, _ = two_nearest_cells(np.array([2, 0, 0, 0, 0]), (spacing,), cutoff)
    assert d1[3] == pytest.approx(cutoff)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.int32, np.int64])
def test_labels_of_any_integer_type_are_left_alone(dtype: type) -> None:
    labels = np.array([[1, 0, 0], [0, 0, 1]], dtype)
    before = labels.copy()
    d1, _, label = two_nearest_cells(labels)
    assert d1.dtype == np.float32
    assert label.dtype == np.int64
    assert d1.tolist() == [[0, 1, 1], [1, 1, 0]]
    assert np.array_equal(labels, before)


@pytest.mark.parametrize("names", [(2**40, 2**62), (7, 2**31), (2**31 - 1, 2**31 + 1)])
def test_labels_of_any_size_keep_their_names(names: tuple[int, int]) -> None:
    d1, d2, label = two_nearest_cells(np.array([[names[0], 0, 0, names[1]]]))
    assert label.tolist() == [[names[0], names[0], names[1], names[1]]]
    assert (d1.tolist(), d2.tolist()) == ([[0, 1, 1, 0]], [[3, 2, 2, 3]])


@pytest.mark.parametrize("order", ["F", "strided"])
def test_memory_layout_does_not_matter(order: str) -> None:
    labels = scattered(3, (20, 24), 5, 0.1)
    other = np.asfortranarray(labels) if order == "F" else np.repeat(labels, 2, axis=1)[:, ::2]
    assert not other.flags.c_contiguous
    for found, expected in zip(two_nearest_cells(other), two_nearest_cells(labels), strict=True):
        assert np.array_equal(found, expected)


def test_whole_numbers_are_labels_whatever_their_type() -> None:
    labels = scattered(3, (20, 30), 5, 0.1) % 900  # which half precision tells apart
    expected = two_nearest_cells(labels)
    for dtype in (np.float16, np.float32, np.float64):
        found = two_nearest_cells(labels.astype(dtype))
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(ValueError, match=r"with a 0\.5 in it"):
        two_nearest_cells(labels + 0.5)
