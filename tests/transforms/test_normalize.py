"""Normalised images: the same picture gives the same numbers, whatever its scale of grey values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from overtile.pipelines.segment.percentiles import scale_of
from overtile.transforms import NormalizeImage
from overtile.transforms.normalize import PERCENTILES, scaled


@st.composite
def pictures(draw: st.DrawFn) -> NDArray[np.float64]:
    """``[1, H, W]`` of small whole numbers: from constant over one bright pixel to noise."""
    shape = 1, draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from([0.0, 0.0005, 0.002, 0.01, 0.5, 1.0]))
    picture = np.where(rng.random(shape) < share, rng.integers(1, 1000, shape), 0)
    picture.flat[0] += draw(st.integers(0, 1000))
    return picture.astype(np.float64)


def in_parts(method: str, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `overtile segment` does it."""
    parts = np.array_split(image.ravel(), 3)
    scale = scale_of(method, image.dtype, lambda f: [f(p) for p in parts if p.size])
    return scaled(image.astype(np.float64), *scale)


@pytest.mark.parametrize("method", ["zscore", "percentile"])
@settings(max_examples=200, deadline=None)
@given(
    picture=pictures(),
    factor=st.sampled_from([2.0**-30, 0.5, 1.0, 2.0**6, 2.0**40]),
    offset=st.integers(0, 2**12),
)
def test_scale_and_offset_of_grey_values_do_not_count(
    method: str, picture: NDArray[np.float64], factor: float, offset: int
) -> None:
    expected = NormalizeImage(method)(picture.astype(np.float32))
    other = ((picture + offset) * factor).astype(np.float32)
    assert np.array_equal(other / factor - offset, picture), "exact, so only the scale differs"
    for found in (NormalizeImage(method)(other), in_parts(method, other)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    if np.ptp(picture) == 0:
        assert not np.any(expected)
        return
    # of a statistic that sees some of the picture, or of its range
    assert 0.99 < np.ptp(expected) < 1e6


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-30, 12345.678])
@pytest.mark.parametrize("method", ["zscore", "percentile"])
def test_a_constant_image_becomes_0(method: str, value: float) -> None:
    for size in (3, 10, 77):
        image = np.full((1, size, size), value)
        assert not np.any(NormalizeImage(method)(image))
        assert not np.any(in_parts(method, image.astype(np.float32)))


def test_a_few_bright_spots_are_scaled_by_the_range() -> None:
    image = np.full((1, 100, 100), 7, np.float32)
    image[0, 50, 50:60] = np.linspace(8, 4007, 10)
    expected = (image - 7) / 4000
    np.testing.assert_allclose(NormalizeImage("percentile")(image), expected, rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", range(30, 45))
def test_percentiles_that_fall_beside_the_background_are_no_statistic(
    count: int, sign: int
) -> None:
    """Interpolated between the background and the first spot they may be anything."""
    image = np.zeros((1, 136, 136), np.float32)
    image.flat[:count] = sign * 3
    for found in (NormalizeImage("percentile")(image), in_parts("percentile", image)):
        assert np.isclose(np.ptp(found), 1)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=700))
def test_percentiles_are_numpys(values: list[float]) -> None:
    image = np.array(values, np.float32)[None]
    low, high = np.percentile(image.astype(np.float64), PERCENTILES)
    if np.percentile(image, 1, method="higher") < np.percentile(image, 99.8, method="lower"):
        expected = ((image.astype(np.float64) - low) / (high - low)).astype(np.float32)
        assert np.array_equal(NormalizeImage("percentile")(image), expected)
