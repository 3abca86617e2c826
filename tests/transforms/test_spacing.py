"""Training tiles at a spacing of their own: one interpolation, and none that is not needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation

from overtile.networks.errors import ArgumentError
from overtile.transforms import RandDeformedTile, RandDeformedTiled

STILL: dict[str, Any] = {"sigma": 0, "rotate": 0, "scale": (1, 1), "flip": False}


def image_of(pixels: Any, spacing: tuple[float, ...], turn: Any = None) -> MetaTensor:
    affine = np.eye(4)
    size = np.ones(3)
    size[: len(spacing)] = spacing
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ np.diag(size)
    return MetaTensor(torch.as_tensor(np.asarray(pixels))[None], affine=torch.from_numpy(affine))


def noise(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_still_tile_is_the_resampled_image(data: st.DataObject) -> None:
    """Against SciPy, at the positions that a spacing puts a tile's pixels at."""
    dims = data.draw(st.sampled_from([2, 3]))
    shape = tuple(data.draw(st.integers(5, 14)) for _ in range(dims))
    own = tuple(data.draw(st.floats(0.5, 2)) for _ in shape)
    wanted = tuple(data.draw(st.floats(0.5, 2)) for _ in shape)
    size = tuple(data.draw(st.integers(1, 6)) for _ in shape)
    turn = Rotation.random(random_state=data.draw(st.integers(0, 9))).as_matrix()
    pixels = noise(shape)
    cut = RandDeformedTile(size, spacing=wanted, **STILL)
    cut.set_random_state(seed=data.draw(st.integers(0, 99)))
    tile = cut(image_of(pixels, own, turn))
    assert cut.recorded is not None
    steps = np.array(wanted) / np.array(own)
    steps[abs(steps - 1) <= 1e-3] = 1
    centre = cut.recorded.centre
    for c, n, length, step in zip(centre, shape, size, steps, strict=True):
        half = min(step * length / 2, n / 2)  # inside the image, where it is large enough
        assert half - 0.5 - (step == 1) <= c <= n - half - 0.5 + (step == 1)
    grid = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in size], indexing="ij")
    places = [c + step * g for c, step, g in zip(centre, steps, grid, strict=True)]
    expected = ndimage.map_coordinates(pixels.astype(float), places, order=1, mode="mirror")
    assert np.allclose(np.asarray(tile)[0], expected, atol=1e-4)
    # and its own spacing is the one that was asked for
    found = np.linalg.norm(np.asarray(tile.affine)[:3, :dims], axis=0)
    assert np.allclose(found, steps * own, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_with_the_images_own_spacing_tiles_are_the_same_to_the_bit(dims: int) -> None:
    shape, own = (40, 30, 20)[:dims], (0.5, 1.5, 3.0)[:dims]
    image = image_of(noise(shape), own)
    label = image_of((noise(shape) > 0).astype(np.int32), own)
    cuts = [
        RandDeformedTiled(
            ["image", "label"],
            size=16,
            margin=2,
            sigma=3,
            mode=["bilinear", "nearest"],
            label_key="label",
            spacing=spacing,
        )
        for spacing in (None, own, tuple(s * 1.0005 for s in own))
    ]
    for seed in range(4):
        tiles = [cut.set_random_state(seed=seed)({"image": image, "label": label}) for cut in cuts]
        for tile in tiles[1:]:
            for key in ("image", "label"):
                assert torch.equal(tile[key].as_tensor(), tiles[0][key].as_tensor())
                assert np.array_equal(tile[key].affine, tiles[0][key].affine)


def test_displacements_and_turns_are_those_of_the_resampled_image() -> None:
    """A deformed tile of thick sections is the one that the resampled volume would give."""
    shape, thick = (30, 26, 28), 3
    z = np.arange(shape[0])
    smooth = ndimage.gaussian_filter(noise(shape).astype(float), 2.5)
    smooth /= smooth.std()
    sections = smooth[1::thick]  # their centres lie where every third section of 1 mm does
    assert len(z[1::thick]) == 10
    one = RandDeformedTile(12, sigma=1.5, spacing=(1, 1, 1)).set_random_state(seed=3)
    fine = image_of(smooth, (1, 1, 1))
    tile = one(fine)
    drawn = one.recorded
    assert drawn is not None
    other = RandDeformedTile(12, sigma=1.5, spacing=(1, 1, 1)).set_random_state(seed=3)
    coarse = image_of(sections, (thick, 1, 1))
    found = other.draw(sections.shape, spacing=(thick, 1, 1))
    scale = np.array([1 / thick, 1, 1])
    assert np.allclose(found.matrix, scale[:, None] * drawn.matrix)
    assert np.allclose(found.nodes, scale[:, None, None, None] * drawn.nodes)
    # at the same place in space the two show the same, but for what lies between sections
    moved = type(found)(
        found.shape,
        ((drawn.centre[0] - 1) / thick, *drawn.centre[1:]),
        found.matrix,
        found.nodes,
    )
    both = [np.asarray(one(fine, draw=drawn))[0], np.asarray(other(coarse, draw=moved))[0]]
    assert np.array_equal(both[0], np.asarray(tile)[0])
    assert np.corrcoef(both[0].ravel(), both[1].ravel())[0, 1] > 0.9


def test_labels_keep_their_numbers_and_their_size_in_space() -> None:
    """A ball of a sphere's volume in any spacing, cut out of thick sections."""
    z, y, x = np.ogrid[:16, :48, :48]
    ball = (((z - 7.5) * 3) ** 2 + (y - 23.5) ** 2 + (x - 23.5) ** 2 <= 12**2).astype(np.int32)
    ball[0, 0, 0] = -1
    cut = RandDeformedTiled(
        ["image", "label"], 30, mode=["bilinear", "nearest"], spacing=(1, 1, 1), **STILL
    )
    item = {"image": image_of(ball.astype(np.float32), (3, 1, 1))}
    tile = cut({**item, "label": image_of(ball, (3, 1, 1))}, draw=_middle(cut, ball.shape))
    label = np.asarray(tile["label"])[0]
    assert label.dtype == np.int32
    assert {*np.unique(label)} == {0, 1}
    extents = [int(label.any(axis=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))]
    assert all(23 <= n <= 26 for n in extents)
    assert label.sum() == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.08)
    # a corner that is not annotated stays one
    corner = cut.draw(ball.shape, spacing=(3, 1, 1))
    there = type(corner)((3, 3, 3), (0.0, 0.0, 0.0), corner.matrix, np.zeros((3, 3, 3, 3)))
    assert (np.asarray(cut({**item, "label": image_of(ball, (3, 1, 1))}, there)["label"]) < 0).any()


def _middle(cut: RandDeformedTiled, shape: tuple[int, ...]) -> Any:
    drawn = cut.draw(shape, spacing=(3, 1, 1))
    middle = tuple((n - 1) / 2 for n in shape)
    return type(drawn)(drawn.shape, middle, drawn.matrix, drawn.nodes)


def test_microns_of_a_picture() -> None:
    pixels = noise((64, 64))
    cut = RandDeformedTile(16, spacing=(0.0005, 0.0005), **STILL).set_random_state(seed=0)
    tile = cut(image_of(pixels, (0.00025, 0.00025)))
    assert cut.recorded is not None
    assert np.allclose(cut.recorded.matrix, 2 * np.eye(2))
    assert spacing_in(tile) == pytest.approx([0.0005, 0.0005])


def spacing_in(tile: Any) -> list[float]:
    return [float(n) for n in np.linalg.norm(np.asarray(tile.affine)[:3, :2], axis=0)]


def test_what_cannot_be() -> None:
    for spacing in ((0, 1), (1, -2), (1, float("nan")), (1,)):
        with pytest.raises(ArgumentError, match="2 or 3 numbers above 0"):
            RandDeformedTile(8, spacing=spacing)
    cut = RandDeformedTile(8, spacing=(1, 1))
    with pytest.raises(ArgumentError, match="an image without metadata"):
        cut(torch.zeros(1, 20, 20))
    with pytest.raises(ArgumentError, match="3 numbers, one an axis"):
        cut(image_of(np.zeros((9, 9, 9)), (1, 1, 1)))
    with pytest.raises(ArgumentError, match="at most 100 times"):
        cut(image_of(np.zeros((9, 9)), (0.001, 0.001)))
    twice = RandDeformedTile(8, spacing=(2, 2), **STILL)
    tile = twice(image_of(np.zeros((20, 20)), (1, 1)))
    with pytest.raises(ArgumentError, match="no exact inverse"):
        twice.inverse(tile)
