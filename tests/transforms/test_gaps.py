"""What is not annotated (-1) stays so, weighs nothing, and is neither a cell nor background."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from overtile.networks import TileGeometry
from overtile.transforms import (
    BorderWeightMap,
    CropToOutput,
    ForegroundFromInstances,
    ForegroundFromInstancesd,
    MirrorPad,
    RandDeformedTile,
    RandDeformedTiled,
    RandElasticDeform,
    SeparateTouching,
    balanced_class_weights,
    two_nearest_cells,
)

Labels = NDArray[np.int32]
shapes = st.lists(st.integers(1, 15), min_size=2, max_size=3).map(tuple)


def annotated(seed: int, shape: tuple[int, ...], density: float = 0.05) -> Labels:
    """Cells of a few pixels, all over; pixels of a cell may lie apart."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(shape) < density, rng.integers(1, 7, shape), 0)
    for axis in range(len(shape)):
        labels = np.maximum(labels, np.roll(labels, 1, axis))
    return labels.astype(np.int32)


def gap(seed: int, shape: tuple[int, ...], kind: str) -> NDArray[np.bool_]:
    """Pixels to hide: scattered ones, a box, or most of the sections."""
    rng = np.random.default_rng(seed + 1)
    if kind == "scattered":
        return rng.random(shape) < rng.choice([0.03, 0.3, 0.9])
    hidden = np.zeros(shape, bool)
    if kind == "box":
        sides = [sorted(rng.integers(0, n + 1, 2)) for n in shape]
        hidden[tuple(slice(low, high) for low, high in sides)] = True
    else:
        hidden[rng.random(shape[0]) < 0.7] = True
    return hidden


drawn = {
    "seed": st.integers(0, 9999),
    "shape": shapes,
    "kind": st.sampled_from(["scattered", "box", "sections"]),
}


# --- weights --------------------------------------------------------------------------------


@given(
    **drawn,
    sigma=st.sampled_from([0.7, 3.0]),
    where=st.sampled_from(["background", "everywhere"]),
    steps=st.sampled_from([(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (0.3, 2.0, 0.7)]),
)
@settings(max_examples=120, deadline=None)
def test_weights_beside_a_gap_are_the_least_that_it_allows(
    seed: int, shape: tuple[int, ...], kind: str, sigma: float, where: str, steps: Any
) -> None:
    full, hidden = annotated(seed, shape), gap(seed, shape, kind)
    known, spacing = np.where(hidden, -1, full), steps[-len(shape) :]
    weigh = BorderWeightMap(10, sigma, (0.5, 3.0), where, spacing)
    found, whole = weigh(known[None])[0], weigh(full[None])[0]
    assert (found[hidden] == 0).all()
    assert (found[~hidden] > 0).all()
    assert (found <= whole * (1 + 1e-6))[~hidden].all()
    # no less than what one content, background, makes of it
    assert np.array_equal(found[~hidden], weigh(np.where(hidden, 0, full)[None])[0][~hidden])
    # and that of the full annotation, where the gap is farther than both cells
    stack = [distance_transform_edt(known != c, sampling=spacing) for c in range(1, 7)]
    stack = [d for c, d in enumerate(stack, 1) if (known == c).any()]
    second = np.partition(stack, 1, axis=0)[1] if len(stack) > 1 else np.full(shape, np.inf)
    away = distance_transform_edt(~hidden, sampling=spacing) if hidden.any() else second + 1
    sure = ~hidden & (away >= second)
    np.testing.assert_allclose(found[sure], whole[sure], rtol=1e-6)


def test_a_hidden_neighbour_neither_raises_nor_lowers() -> None:
    labels = np.array([[[1, 0, -1, -1, -1, 0, 2, 0, 3]]])
    weights = BorderWeightMap(10, 5, class_weights=None)(labels)[0, 0]
    exact = [1 + 10 * np.exp(-(d**2) / 50) for d in (1 + 5, 1 + 3, 1 + 1)]  # d1 + d2
    assert weights.tolist() == pytest.approx([1, exact[0], 0, 0, 0, exact[1], 1, exact[2], 1])


@given(**drawn)
@settings(max_examples=40, deadline=None)
def test_balance_counts_what_is_annotated(seed: int, shape: tuple[int, ...], kind: str) -> None:
    labels = np.where(gap(seed, shape, kind), -1, annotated(seed, shape))
    found = BorderWeightMap(w0=0)(labels[None])[0].astype(float)
    cells, background = labels > 0, labels == 0
    if cells.any() and background.any():
        assert found[cells].sum() == pytest.approx(found[background].sum(), rel=1e-5)
        assert found.sum() == pytest.approx((labels >= 0).sum(), rel=1e-5)
    else:
        assert (found == (labels >= 0)).all()
    assert balanced_class_weights([labels, torch.from_numpy(labels)]) == pytest.approx(
        balanced_class_weights([labels[labels >= 0]])
    )


@pytest.mark.parametrize("largest", [9, 2**40])
def test_what_is_hidden_is_no_cell(largest: int) -> None:
    labels = np.array([[-1, 5, -1, 0, -1, largest, -1]])
    first, second, nearest = two_nearest_cells(labels)
    assert first.tolist() == [[1, 0, 1, 2, 1, 0, 1]]
    assert second.tolist() == [[5, 4, 3, 2, 3, 4, 5]]
    assert nearest[0, :3].tolist() == [5, 5, 5]
    assert nearest[0, 4:].tolist() == [largest] * 3
    nothing = two_nearest_cells(np.full((3, 3), -1))
    assert np.isinf(nothing[:2]).all()
    assert (nothing[2] == 0).all()
    with pytest.raises(ValueError, match=r"labels down to -2: expected 0 .* or -1 where nothing"):
        two_nearest_cells(labels - 1)


# --- separation, classes --------------------------------------------------------------------


@given(**drawn, width=st.integers(1, 3), dtype=st.sampled_from([np.int16, np.int64, np.float32]))
@settings(max_examples=40, deadline=None)
def test_cells_give_up_nothing_to_a_gap(
    seed: int, shape: tuple[int, ...], kind: str, width: int, dtype: Any
) -> None:
    full, hidden = annotated(seed, shape, 0.2), gap(seed, shape, kind)
    known = np.where(hidden, -1, full).astype(dtype)
    found = SeparateTouching(width)(known[None])
    assert found.dtype == dtype
    apart = SeparateTouching(width)(np.where(hidden, 0, full)[None])  # beside background
    assert np.array_equal(found, np.where(hidden, -1, apart))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32, np.uint64])
def test_foreground_of_instances(dtype: Any) -> None:
    labels = annotated(3, (9, 11), 0.1)[None].astype(dtype)
    found = ForegroundFromInstances()(labels)
    assert found.dtype == np.int32
    assert np.array_equal(found, labels > 0)
    assert torch.equal(ForegroundFromInstances()(torch.from_numpy(labels)), torch.from_numpy(found))


def test_foreground_keeps_what_is_not_annotated() -> None:
    labels = torch.tensor([[[-1.0, 0, 4], [1, 300, -1]]])
    item = {"label": labels, "name": "a"}
    found = ForegroundFromInstancesd(["label", "other"], allow_missing_keys=True)(item)
    assert found["label"].tolist() == [[[-1, 0, 1], [1, 1, -1]]]
    assert found["label"].dtype == torch.int32
    assert item["label"] is labels
    for wrong in (labels - 1, labels / 2):
        with pytest.raises(ValueError, match=r"labels (down to -2|with a -?0\.5)"):
            ForegroundFromInstances()(wrong)


# --- deformation, tiles, context ------------------------------------------------------------


@given(
    seed=st.integers(0, 9999),
    shape=st.lists(st.integers(4, 20), min_size=2, max_size=3).map(tuple),
    padding_mode=st.sampled_from(["reflect", "replicate", "constant"]),
    tile=st.booleans(),
    dtype=st.sampled_from([torch.int16, torch.int32, torch.float32]),
)
@settings(max_examples=25, deadline=None)
def test_deformed_labels_keep_their_gaps(
    seed: int, shape: tuple[int, ...], padding_mode: str, tile: bool, dtype: torch.dtype
) -> None:
    known = np.where(gap(seed, shape, "box"), -1, annotated(seed, shape, 0.3))
    labels = torch.from_numpy(known)[None].to(dtype)
    options: Any = {"mode": "nearest", "padding_mode": padding_mode}
    transform: Any = RandDeformedTile(9, **options) if tile else RandElasticDeform(**options)
    found = transform.set_random_state(seed=seed)(labels)
    assert found.dtype == dtype
    for value in (-1, 0, 3):
        here = transform(labels == value, draw=transform.recorded)
        if value == 0 and padding_mode == "constant":  # outside of the image is background
            here |= transform(torch.ones_like(labels), draw=transform.recorded) == 0
        assert torch.equal(found == value, here)


def test_context_and_its_removal_keep_gaps() -> None:
    labels = np.where(gap(1, (13, 17), "scattered"), -1, annotated(1, (13, 17)))[None]
    geometry = TileGeometry.unet(1)
    padded = MirrorPad(geometry)(labels)
    low, lengths = geometry.margin, zip(labels.shape[1:], padded.shape[1:], strict=True)
    around = [(0, 0), *((low, whole - n - low) for n, whole in lengths)]
    assert np.array_equal(padded, np.pad(labels, around, mode="reflect"))
    assert np.array_equal(CropToOutput(geometry)(padded)[:, :13, :17], labels)


@pytest.mark.parametrize("pos", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        ({(2, 3): 5, (7, 1): 0}, {0.0: {0}, 0.5: {0, 5}, 1.0: {5}}),
        ({(2, 3): 5}, {0.0: {5}, 0.5: {5}, 1.0: {5}}),
        ({(7, 1): 0}, {0.0: {0}, 0.5: {0}, 1.0: {0}}),
        ({}, {0.0: {-1}, 0.5: {-1}, 1.0: {-1}}),
    ],
)
def test_tiles_are_drawn_around_annotated_pixels(
    annotation: dict[tuple[int, int], int], shown: dict[float, set[int]], pos: float
) -> None:
    label = np.full((1, 30, 31), -1, np.int32)
    for place, value in annotation.items():
        label[(0, *place)] = value
    cut = RandDeformedTiled(
        "label", 1, sigma=0, mode="nearest", num_samples=40, label_key="label", pos=pos, neg=1 - pos
    ).set_random_state(seed=0)
    assert {tile["label"].item() for tile in cut({"label": label})} == shown[pos]


def test_one_channel_that_is_not_annotated_hides_the_background_alone() -> None:
    label = np.zeros((2, 5, 5), np.int32)
    label[0], label[1, 4, 4], label[:, 0, 1] = -1, 1, 0
    for pos, expected in ((0, [0, 0]), (1, [-1, 1])):
        cut = RandDeformedTile(1, sigma=0, mode="nearest", num_samples=10, pos=pos, neg=1 - pos)
        tiles = cut.set_random_state(seed=0)(label, label=label)
        assert all(tile.flatten().tolist() == expected for tile in tiles)
