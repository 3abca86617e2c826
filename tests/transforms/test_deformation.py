from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from overtile.transforms import Deformation

Floats = NDArray[np.float64]


def spline(nodes: Floats, shape: tuple[int, ...]) -> Floats:
    """u(o): SciPy's cubic spline of the node grid, mirrored at its ends."""
    at = np.meshgrid(
        *(np.linspace(0, g - 1, n) for g, n in zip(nodes.shape[1:], shape, strict=True)),
        indexing="ij",
    )
    return np.stack([map_coordinates(axis, at, order=3, mode="mirror") for axis in nodes])


def positions(deformation: Deformation) -> Floats:
    """centre + matrix @ (o - middle) + u(o), as documented."""
    shape = deformation.shape
    o = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    column = (-1, *[1] * len(shape))
    offsets = o - (np.reshape(shape, column) - 1) / 2
    turned = np.tensordot(deformation.matrix, offsets, axes=1)
    return np.reshape(deformation.centre, column) + turned + spline(deformation.nodes, shape)


def resample(image: Floats, at: Floats, order: int, mode: str = "reflect") -> Floats:
    """SciPy's interpolation, once, of a channel with context by NumPy."""
    far = int(np.abs(at).max()) + 4
    padded = np.pad(image, far, mode=mode)
    return map_coordinates(padded, at + far, order=order, prefilter=False)


def keys_cubic(image: Floats, at: Floats) -> Floats:
    """Cubic convolution (Keys 1981, a = -0.75 as PyTorch has it) of four by four pixels."""

    def kernel(x: Floats) -> Floats:
        a, x = -0.75, np.abs(x)
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    far = int(np.abs(at).max()) + 4
    padded, (y, x) = np.pad(image, far, mode="reflect"), at + far
    total = np.zeros(y.shape)
    for j, i in product(range(-1, 3), repeat=2):
        row, column = np.floor(y).astype(int) + j, np.floor(x).astype(int) + i
        total += kernel(y - row) * kernel(x - column) * padded[row, column]
    return total


def assert_nearest(found: Any, image: Any, at: Floats) -> None:
    """Equal to SciPy's nearest pixel, wherever float32 cannot be of two minds."""
    clear = (np.abs(at - np.floor(at) - 0.5) > 1e-3).all(axis=0)
    assert clear.mean() > 0.9 or clear.size < 100
    assert np.array_equal(found[clear], resample(image, at, order=0)[clear])


@st.composite
def deformations(draw: st.DrawFn) -> Deformation:
    dims = draw(st.sampled_from([2, 2, 3]))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    shape = draw(st.tuples(*[st.integers(2, 30 if dims == 2 else 9)] * dims))
    grid = draw(st.integers(2, 5))
    nodes = rng.normal(
        0, draw(st.sampled_from([0.0, 3.0, 30.0 if dims == 2 else 6.0])), (dims, *[grid] * dims)
    )
    return Deformation(
        shape,
        tuple(rng.uniform(-9, 40 if dims == 2 else 12, dims)),
        rng.normal(0, 1, (dims, dims)),
        nodes,
    )


@given(deformations())
@settings(max_examples=60, deadline=None)
def test_displacement_is_a_cubic_through_the_nodes(deformation: Deformation) -> None:
    found = deformation.displacement().numpy()
    np.testing.assert_allclose(found, spline(deformation.nodes, deformation.shape), atol=1e-3)


@pytest.mark.parametrize("shape", [(65, 33), (5, 9, 13)])
def test_nodes_are_displaced_by_what_was_drawn(shape: tuple[int, ...]) -> None:
    nodes = np.random.default_rng(0).normal(0, 10, (len(shape), *[3] * len(shape)))
    found = Deformation.elastic(shape, nodes).displacement().numpy()
    at_nodes = found[(slice(None), *(slice(None, None, (n - 1) // 2) for n in shape))]
    np.testing.assert_allclose(at_nodes, nodes, atol=1e-5)


def test_a_single_pixel_is_displaced_by_the_middle_node() -> None:
    nodes = np.random.default_rng(0).normal(0, 10, (2, 3, 3))
    found = Deformation.elastic((1, 1), nodes).displacement()
    np.testing.assert_allclose(found[:, 0, 0], nodes[:, 1, 1], atol=1e-5)


@given(deformations(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_applying_is_one_interpolation_of_the_mirrored_image(
    deformation: Deformation, seed: int
) -> None:
    dims = len(deformation.shape)
    rng = np.random.default_rng(seed)
    image = rng.random((2, *rng.integers(1, 25 if dims == 2 else 8, dims)))
    at = positions(deformation)
    linear, nearest = deformation.apply_all([torch.from_numpy(image)] * 2, ["bilinear", "nearest"])
    for channel, found, exact in zip(image, linear.numpy(), nearest.numpy(), strict=True):
        np.testing.assert_allclose(found, resample(channel, at, order=1), atol=1e-3)
        assert_nearest(exact, channel, at)


@pytest.mark.parametrize(
    ("padding", "numpy_mode"), [("replicate", "edge"), ("constant", "constant")]
)
def test_other_context(padding: str, numpy_mode: str) -> None:
    rng = np.random.default_rng(1)
    deformation = Deformation.elastic((24, 31), rng.normal(0, 12, (2, 3, 3)))
    image = rng.random((24, 31)) + 1
    found = deformation.apply(torch.from_numpy(image)[None], padding_mode=padding)[0]
    expected = resample(image, positions(deformation), order=1, mode=numpy_mode)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_bicubic_is_cubic_convolution() -> None:
    rng = np.random.default_rng(2)
    deformation = Deformation.elastic((24, 31), rng.normal(0, 5, (2, 3, 3)))
    image = rng.random((24, 31))
    found = deformation.apply(torch.from_numpy(image)[None], "bicubic")[0]
    np.testing.assert_allclose(found, keys_cubic(image, positions(deformation)), atol=1e-3)


def test_context_never_comes_from_outside_the_mirror() -> None:
    shape, nodes = (3, 2), np.full((2, 3, 3), 37.0)  # moves much further than the image is long
    image = np.arange(6.0).reshape(shape)
    found = Deformation.elastic(shape, nodes).apply(torch.from_numpy(image)[None], "nearest")[0]
    y, x = np.indices(shape) + 37
    assert np.array_equal(found, np.pad(image, 40, mode="reflect")[y + 40, x + 40])


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(17, 17), (16, 16)])
def test_flips_and_quarter_turns_are_bit_exact(mode: str, size: tuple[int, int]) -> None:
    image = torch.rand(2, *size)
    middle, none = tuple((n - 1) / 2 for n in size), np.zeros((2, 3, 3))
    for turns, flip in product(range(4), (1, -1)):
        turn = np.linalg.matrix_power([[0.0, -1.0], [1.0, 0.0]], turns) @ np.diag([flip, 1.0])
        found = Deformation(size, middle, turn, none).apply(image, mode)
        at = positions(Deformation(size, middle, turn, none))
        y, x = at.astype(int)
        assert np.array_equal(at, [y, x])  # in float64 these are whole pixels
        assert np.array_equal(found, image.numpy()[:, y, x])


def test_quarter_turn_is_that_of_numpy() -> None:
    image, turn = torch.rand(1, 9, 9), np.array([[0.0, 1.0], [-1.0, 0.0]])
    found = Deformation((9, 9), (4.0, 4.0), turn, np.zeros((2, 3, 3))).apply(image)
    assert np.array_equal(found, np.rot90(image.numpy(), axes=(1, 2)))


def test_far_positions_keep_their_precision() -> None:
    # float32 resolves 1/64 pixel at position 200 000: positions are relative to an origin
    strip = torch.arange(100.0).repeat(2001)[None, None].expand(1, 3, -1)
    centre, eye = (1.0, 200_040.375), np.eye(2)
    found = Deformation((3, 21), centre, eye, np.zeros((2, 3, 3))).apply(strip)
    np.testing.assert_allclose(found[0, 1], np.arange(30.375, 51), atol=1e-3)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.int32, np.int64])
def test_nearest_keeps_labels_what_they_are(dtype: type) -> None:
    rng = np.random.default_rng(3)
    labels = rng.choice(np.array([0, 1, 3, 200]), (1, 20, 20)).astype(dtype)
    deformation = Deformation.elastic((20, 20), rng.normal(0, 5, (2, 3, 3)))
    found = deformation.apply(torch.from_numpy(labels), "nearest").numpy()
    assert found.dtype == dtype
    assert_nearest(found[0], labels[0].astype(float), positions(deformation))


@pytest.mark.parametrize("sigma", [0.0, 5.0])
def test_interpolating_integers_gives_floats_whatever_was_drawn(sigma: float) -> None:
    nodes = np.random.default_rng(4).normal(0, 1, (2, 3, 3)) * sigma
    image = torch.randint(255, (1, 20, 20), dtype=torch.uint8)
    found = Deformation.elastic((20, 20), nodes).apply(image, "bilinear")
    assert found.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_grey_levels_not_pixels(dtype: torch.dtype) -> None:
    deformation = Deformation.elastic((500, 500), np.random.default_rng(5).normal(0, 9, (2, 3, 3)))
    image = torch.rand(1, 500, 500).to(dtype)
    found = deformation.apply(image)
    assert found.dtype == dtype
    assert (found.float() - deformation.apply(image.float())).abs().max() < 0.01


def test_wrong_choices_are_named() -> None:
    deformation = Deformation.elastic((5, 5, 5), np.ones((3, 3, 3, 3)))
    image = torch.rand(1, 5, 5, 5)
    with pytest.raises(ValueError, match="mode='cubic': expected one of nearest"):
        deformation.apply(image, "cubic")
    with pytest.raises(ValueError, match="padding_mode='mirror'"):
        deformation.apply(image, padding_mode="mirror")
    with pytest.raises(ValueError, match="for a volume: expected 'bilinear' or 'nearest'"):
        deformation.apply(image, "bicubic")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_computes_the_same() -> None:
    deformation = Deformation.elastic((64, 65), np.random.default_rng(6).normal(0, 9, (2, 3, 3)))
    image = torch.rand(2, 64, 65)
    found = deformation.apply(image.cuda())
    assert found.device.type == "cuda"
    np.testing.assert_allclose(found.cpu(), deformation.apply(image), atol=1e-3)
