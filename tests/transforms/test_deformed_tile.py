from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from overtile.transforms import Deformation, RandDeformedTiled


def positions(drawn: Deformation) -> NDArray[np.float64]:
    """centre + matrix @ (o - middle) + u(o), as documented, with SciPy's spline."""
    shape, column = drawn.shape, (-1, *[1] * len(drawn.shape))
    o = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    middle = (np.array(shape) - 1) / 2
    scale = [(g - 1) / (n - 1) for g, n in zip(drawn.nodes.shape[1:], shape, strict=True)]
    at_grid = o * np.reshape(scale, column)
    u = [map_coordinates(axis, at_grid, order=3, mode="mirror") for axis in drawn.nodes]
    turned = np.tensordot(drawn.matrix, o - middle.reshape(column), axes=1)
    return np.reshape(drawn.centre, column) + turned + u


def resample(image: NDArray[Any], at: NDArray[np.float64], order: int) -> NDArray[Any]:
    """The image, padded by NumPy, interpolated once by SciPy."""
    far = int(np.abs(at).max()) + 4
    return map_coordinates(np.pad(image, far, mode="reflect"), at + far, order=order)


@given(
    seed=st.integers(0, 9999),
    size=st.sampled_from([(40, 52), (9, 11), (1, 30), (6, 14, 15)]),
    tile=st.integers(2, 24),
    sigma=st.sampled_from([0.0, 3.0, 10.0]),
)
@settings(max_examples=40, deadline=None)
def test_everything_is_one_resampling(
    seed: int, size: tuple[int, ...], tile: int, sigma: float
) -> None:
    rng = np.random.default_rng(seed)
    image, labels = rng.random((1, *size)), rng.integers(0, 9, (1, *size)).astype(np.uint16) * 7
    transform = RandDeformedTiled(["i", "l"], tile, sigma=sigma, mode=["bilinear", "nearest"])
    result = transform.set_random_state(seed=seed)({"i": image, "l": labels})
    drawn, at = transform.recorded, positions(transform.recorded)
    assert drawn.shape == result["i"].shape[1:] == result["l"].shape[1:] == (tile,) * len(size)
    np.testing.assert_allclose(result["i"][0], resample(image[0], at, 1), atol=2e-3)
    assert result["l"].dtype == labels.dtype
    assert set(np.unique(result["l"])) <= set(np.unique(labels))
    clear = (abs(at - np.floor(at) - 0.5) > 1e-3).all(axis=0)  # float32 may round a half either way
    assert np.array_equal(result["l"][0][clear], resample(labels[0], at, 0)[clear])


def test_flips_alone_are_bit_exact_and_equally_frequent() -> None:
    image = torch.rand(1, 12, 13)
    options = {"sigma": 0.0, "rotate": 0.0, "scale": (1.0, 1.0)}
    transform = RandDeformedTiled("i", (12, 13), **options).set_random_state(seed=0)
    flips = {axes: torch.flip(image, axes) for axes in ((), (1,), (2,), (1, 2))}
    found = []
    for _ in range(200):
        result = transform({"i": image})["i"]
        found += [axes for axes, flipped in flips.items() if torch.equal(result, flipped)]
    assert len(found) == 200
    assert all(abs(found.count(axes) - 50) < 5 * (200 * 3 / 16) ** 0.5 for axes in flips)
    still = RandDeformedTiled("i", (12, 13), flip=False, **options)({"i": image})["i"]
    assert torch.equal(still, image)


def test_rotation_and_scale_cover_what_was_asked_for() -> None:
    transform = RandDeformedTiled("i", 20, rotate=0.5, scale=(0.8, 2.0)).set_random_state(seed=0)
    matrices = np.stack([transform.draw((50, 50)).matrix for _ in range(400)])
    determinants = np.linalg.det(matrices)
    scales = abs(determinants) ** -0.5  # the matrix leads from the tile to the image
    assert 0.8 <= scales.min() < 0.82
    assert 1.9 < scales.max() <= 2.0
    middle = (0.8 * 2.0) ** 0.5  # uniform in the logarithm: half of the scales are below it
    assert abs((scales < middle).mean() - 0.5) < 5 * 0.5 / 400**0.5
    assert abs((determinants < 0).mean() - 0.5) < 5 * 0.5 / 400**0.5
    unflipped = matrices[determinants > 0] * scales[determinants > 0, None, None]
    angles = np.arctan(unflipped[:, 1, 0] / unflipped[:, 0, 0])  # modulo a flip of both axes
    assert -0.5 <= angles.min() < -0.48
    assert 0.48 < angles.max() <= 0.5


def test_volumes_turn_within_their_sections() -> None:
    matrix = RandDeformedTiled("i", 8, scale=(1, 1), flip=False).draw((20, 20, 20)).matrix
    assert matrix[0].tolist() == [1, 0, 0]
    assert matrix[1:, 0].tolist() == [0, 0]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(("tile", "margin"), [(20, 0), (36, 8), ((36, 22), (8, 4))])
def test_output_stays_inside_the_image_and_reaches_its_edges(tile: Any, margin: Any) -> None:
    size = (50, 41)
    transform = RandDeformedTiled("i", tile, margin, flip=False).set_random_state(seed=0)
    centres = np.array([transform.draw(size).centre for _ in range(600)])
    halves = (np.broadcast_to(tile, 2) - 2 * np.broadcast_to(margin, 2)) / 2
    low, high = centres - halves, centres + halves  # edges of the output, unrotated
    assert (low >= -0.5 - 1e-9).all()
    assert (high <= np.array(size) - 0.5 + 1e-9).all()
    room = np.array(size) - 2 * halves
    assert (low.min(axis=0) < -0.5 + 0.03 * room).all()
    assert (high.max(axis=0) > np.array(size) - 0.5 - 0.03 * room).all()


def test_tile_larger_than_the_image_is_centred() -> None:
    centre = RandDeformedTiled("i", 60, 8).draw((20, 31)).centre
    assert np.abs(np.subtract(centre, (9.5, 15))).max() <= 0.5  # on whole pixels


def test_context_is_mirrored_never_black() -> None:
    image = np.random.default_rng(0).random((1, 15, 15)) + 1
    transform = RandDeformedTiled("i", 60).set_random_state(seed=0)
    assert min(transform({"i": image})["i"].min() for _ in range(5)) >= 1


def test_replay_reproduces_and_draws_repeat() -> None:
    image = torch.rand(1, 30, 30)
    transform = RandDeformedTiled("i", 16).set_random_state(seed=1)
    first, record = transform({"i": image})["i"], transform.recorded
    assert not torch.equal(transform({"i": image})["i"], first)
    assert torch.equal(transform({"i": image}, draw=record)["i"], first)
    again = RandDeformedTiled("i", 16).set_random_state(seed=1)
    assert torch.equal(again({"i": image})["i"], first)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.2, 0.9), (-1.0, 1.0)])
def test_scale_out_of_range_is_named(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="scale="):
        RandDeformedTiled("i", 16, scale=scale)


@pytest.mark.parametrize(
    ("size", "margin"), [(16, 8), (16, 9), ((30, 16), (4, 8)), (0, 0), (16, -1)]
)
def test_margin_that_leaves_no_output_is_refused(size: Any, margin: Any) -> None:
    with pytest.raises(ValueError, match=r"margin|size"):
        RandDeformedTiled("i", size, margin)({"i": np.zeros((1, 40, 40), np.float32)})


@given(
    seed=st.integers(0, 9999),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    margin=st.tuples(*[st.sampled_from([0, 4, 20])] * 3),
)
@settings(max_examples=25, deadline=None)
def test_volumes_shorter_than_the_margin_mirror_again_and_again(
    seed: int, size: tuple[int, ...], margin: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    image, labels = rng.random((1, *size)), rng.integers(-1, 3, (1, *size)).astype(np.int32)
    tile = tuple(4 + 2 * m for m in margin)
    options: dict[str, Any] = {"mode": ["bilinear", "nearest"], "label_key": "l"}
    still = RandDeformedTiled(
        ["i", "l"], tile, margin, sigma=0, rotate=0, scale=(1, 1), flip=False, **options
    ).set_random_state(seed=seed)
    result, drawn = still({"i": image, "l": labels}), still.recorded
    first = [round(c - (n - 1) / 2) for c, n in zip(drawn.centre, tile, strict=True)]
    for start, n, m in zip(first, size, margin, strict=True):
        # its output lies in the volume, or the volume in the middle of its output
        assert 0 <= start + m <= n - 4 if n >= 4 else start + m <= 0 <= n <= start + m + 4
    far = [(60, 60)] * 3
    cut = tuple(slice(60 + start, 60 + start + n) for start, n in zip(first, tile, strict=True))
    for key, whole in (("i", image[0]), ("l", labels[0])):
        assert np.array_equal(result[key][0], np.pad(whole, far, mode="reflect")[cut])
    moved = RandDeformedTiled(["i", "l"], tile, margin, **options).set_random_state(seed=seed)
    result, at = moved({"i": image, "l": labels}), positions(moved.recorded)
    np.testing.assert_allclose(result["i"][0], resample(image[0], at, 1), atol=2e-3)
    clear = (abs(at - np.floor(at) - 0.5) > 1e-3).all(axis=0)
    assert np.array_equal(result["l"][0][clear], resample(labels[0], at, 0)[clear])
