"""Generated images: what a network could learn from them has to be in them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.data.synthesis.datasets import generate
from overtile.pipelines.data.synthesis.membranes import membranes


@pytest.fixture(scope="module")
def sections() -> list[tuple[np.ndarray, np.ndarray]]:
    return [membranes(seed, (256, 320)) for seed in range(6)]


def test_membranes_repeat_and_differ_by_seed() -> None:
    first, again, other = (membranes(seed, (90, 120), section=2) for seed in (4, 4, 5))
    for one, same, another in zip(first, again, other, strict=True):
        assert np.array_equal(one, same)
        assert not np.array_equal(one, another)
    assert (first[0].dtype, first[1].dtype) == (np.uint8, np.uint16)


def test_membranes_are_dark_lines_of_3_to_6_pixels_on_a_fifth_of_the_area(
    sections: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    share = np.mean([(labels == 0).mean() for _, labels in sections])
    assert 0.17 < share < 0.25
    for image, labels in sections:
        edges = sum((np.diff(labels == 0, axis=axis) != 0).sum() for axis in (0, 1))
        # a line has two edges; one that runs obliquely has more of them along both axes
        width = 2 * (labels == 0).sum() / edges * (4 / np.pi)
        assert 3 < width < 6.5
        depth = ndimage.distance_transform_edt(labels == 0)
        assert image[depth >= 2].mean() < image[labels > 0].mean() - 50


def test_cells_are_connected_numbered_without_gaps_and_of_widely_varied_size(
    sections: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for _, labels in sections:
        parts, count = ndimage.label(labels > 0)
        assert count == labels.max() == len(np.unique(labels)) - 1
        assert (ndimage.minimum(labels, parts, range(1, count + 1)) > 0).all()
        assert not (labels[:, 1:] != labels[:, :-1])[
            (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
        ].any()
        sizes = np.bincount(labels.ravel())[1:]
        assert np.percentile(sizes, 90) > 10 * np.percentile(sizes, 10)


def test_brightness_alone_does_not_tell_membranes(
    sections: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Noise and dark organelles: the best threshold is wrong at a good share of pixels."""
    for image, labels in sections:
        smooth = ndimage.gaussian_filter(image.astype(float), 1)
        errors = [((smooth < t) != (labels == 0)).mean() for t in range(20, 200, 4)]
        assert 0.06 < min(errors) < 0.2


def test_neighbouring_sections_resemble_each_other() -> None:
    masks = [membranes(3, (256, 256), section)[1] > 0 for section in (0, 1, 40)]
    near, far = ((masks[0] == mask).mean() for mask in masks[1:])
    assert far < 0.72 < near < 0.97


@pytest.mark.parametrize("size", [(7, 5), (16, 200)])
@pytest.mark.parametrize("make", [membranes, touching_cells])
def test_any_size_is_made(make: object, size: tuple[int, int]) -> None:
    image, labels = make(0, size)  # type: ignore[operator]
    assert image.shape == labels.shape == size


def test_a_larger_set_begins_with_the_smaller_one() -> None:
    few = generate("cells", {"train": 1}, (40, 50), seed=2)
    more = generate("cells", {"train": 2, "test": 1}, (40, 50), seed=2)
    ((image, _),) = few["train"]
    pairs = [*more["train"], *more["test"]]
    assert np.array_equal(pairs[0][0], image)
    assert len({i.tobytes() for i, _ in pairs}) == 3


def test_consecutive_membranes_are_sections_of_one_tissue() -> None:
    made = generate("membranes", {"train": 2, "test": 1}, (40, 50), 2, consecutive=True)
    found = [image for pairs in made.values() for image, _ in pairs]
    for section, image in enumerate(found):
        assert np.array_equal(image, membranes(2, (40, 50), section)[0])
