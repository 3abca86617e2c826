"""Images are run at the network's spacing, and answers lie on the pixels of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, MetaTensor
from monai.inferers import Inferer, SimpleInferer
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from overtile.networks import (
    ArgumentError,
    GeometryError,
    MixedPrecisionInferer,
    OverlapTileInferer,
    RegionInferer,
    RotationAveragingInferer,
    SpacingInferer,
    ValidUNet,
)
from overtile.networks.spacing import (
    resampled_size,
    spacing_of,
    steps_between,
)


def image_of(pixels: Any, spacing: tuple[float, ...]) -> MetaTensor:
    """A batch of one ``[1, 1, *S]``, whose affine turns no axis."""
    affine = torch.diag(torch.tensor([*spacing, *[1.0] * (4 - len(spacing))], dtype=torch.float64))
    return MetaTensor(torch.as_tensor(pixels)[None, None].float(), affine=affine)


def zoomed(pixels: Any, size: tuple[int, ...]) -> Any:
    """By SciPy: over the same extent, linearly, the outermost values going on."""
    factors = [m / n for m, n in zip(size, pixels.shape, strict=True)]
    with np.errstate(all="ignore"):
        return ndimage.zoom(
            np.asarray(pixels, np.float64),
            factors,
            order=1,
            mode="nearest",
            grid_mode=True,
        )


class Seen:
    """A network that gives what it is given, and remembers it."""

    def __init__(self, answer: Callable[[Tensor], Tensor] = lambda image: image) -> None:
        self.answer = answer
        self.images: list[Tensor] = []

    def __call__(self, image: Tensor) -> Tensor:
        self.images.append(image)
        return self.answer(image)


def run(image: Tensor, spacing: Any, network: Any, activation: str = "none") -> Tensor:
    found: Tensor = SpacingInferer(SimpleInferer(), spacing, activation)(image, network)
    return found


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_image_and_answer_are_interpolated_as_scipy_does(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([2, 3]))
    shape = tuple(data.draw(st.integers(1, 13)) for _ in range(dims))
    own = tuple(data.draw(st.floats(0.2, 5)) for _ in shape)
    wanted = tuple(data.draw(st.floats(0.2, 5)) for _ in shape)
    pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    network = Seen()
    found = run(image_of(pixels, own), wanted, network)
    there = tuple(network.images[0].shape[2:])
    for n, m, s, t in zip(shape, there, own, wanted, strict=True):
        assert m == 1 or abs(m * t - n * s) <= 0.5 * t * (1 + 1e-6)  # the same extent, nearly
    assert np.allclose(network.images[0][0, 0], zoomed(pixels, there), atol=1e-5)
    assert found.shape == (1, 1, *shape)
    assert np.allclose(found[0, 0], zoomed(zoomed(pixels, there), shape), atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_constant_comes_back(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 11)) for _ in range(3))
    own, wanted = (tuple(data.draw(st.floats(0.3, 3)) for _ in shape) for _ in range(2))
    found = run(image_of(np.full(shape, 7.0), own), wanted, Seen())
    assert torch.allclose(found.as_tensor(), torch.tensor(7.0), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("wanted", [0.5, 0.8, 1.6])
def test_a_ramp_comes_back_but_for_its_ends(axis: int, wanted: float) -> None:
    shape = (20, 24, 28)
    ramp = np.indices(shape, np.float32)[axis]
    network = Seen()
    found = run(image_of(ramp, (1, 1, 1)), (wanted,) * 3, network)
    there = network.images[0][0, 0].movedim(axis, 0)[:, 0, 0]
    # the same extent: centres at (j + 1/2) n / m - 1/2
    centres = (np.arange(len(there)) + 0.5) * shape[axis] / len(there) - 0.5
    assert np.allclose(there, np.clip(centres, 0, shape[axis] - 1), atol=1e-4)
    inside = found[0, 0].movedim(axis, 0)[2:-2, 0, 0]
    assert np.allclose(inside, np.arange(2, shape[axis] - 2), atol=1e-4)


def test_labels_in_one_piece_come_back() -> None:
    """A decision on the pixels of the image: within a pixel of the border, and SciPy's own."""
    z, y, x = np.ogrid[:12, :40, :40]
    ball = ((z - 5.5) / 4) ** 2 + ((y - 20) / 14) ** 2 + ((x - 18) / 12) ** 2 <= 1
    image = image_of(ball.astype(np.float32), (3.0, 1.0, 1.0))

    def network(image: Tensor) -> Tensor:  # sure of what it sees
        return torch.cat([0.5 - image, image - 0.5], 1) * 20

    found = run(image, (1.5, 1.5, 1.5), network, "softmax")
    assert isinstance(found, MetaTensor)
    assert np.array_equal(found.affine, image.affine)
    label = found.as_tensor().softmax(1)[0, 1].numpy() > 0.5
    there = (24, 27, 27)
    inside = 1 / (1 + np.exp(-40 * (zoomed(ball, there) - 0.5)))
    assert np.array_equal(label, zoomed(inside, ball.shape) > 0.5)
    near = ndimage.binary_dilation(ball, iterations=2) & ~ndimage.binary_erosion(ball, iterations=2)
    assert np.array_equal(label[~near], ball[~near])
    assert 2 * (label & ball).sum() / (label.sum() + ball.sum()) > 0.95


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_are_interpolated_and_no_logits(activation: str) -> None:
    logits = torch.randn(1, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 60
    image = image_of(np.zeros((14, 5)), (0.65, 1.4))
    found = run(image, (1.0, 1.0), lambda image: logits, activation).as_tensor()
    if activation == "softmax":
        before, after = (one.double().softmax(1) for one in (logits, found))
        assert torch.allclose(after.sum(1), torch.tensor(1.0, dtype=torch.float64))
    else:
        before, after = (torch.sigmoid(one.double()) for one in (logits, found))
    assert torch.isfinite(found).all()
    for channel in range(3):
        expected = zoomed(before[0, channel].numpy(), (14, 5))
        assert np.allclose(after[0, channel], expected, atol=1e-5)


@pytest.mark.parametrize("spacing", [None, (1.0, 0.5), (1.0004, 0.4998)])
def test_nothing_is_interpolated_where_spacings_agree(spacing: Any) -> None:
    network = ValidUNet(features=(4, 8)).eval()
    image = image_of(torch.randn(31, 45, generator=torch.Generator().manual_seed(1)), (1.0, 0.5))
    with torch.no_grad():
        plain = OverlapTileInferer()(image, network)
        found = SpacingInferer(OverlapTileInferer(), spacing)(image, network)
    assert torch.equal(plain.as_tensor(), found.as_tensor())


def test_tiles_are_those_of_the_resampled_image() -> None:
    network = ValidUNet(features=(4, 8)).eval()
    image = image_of(torch.randn(40, 61, generator=torch.Generator().manual_seed(2)), (1.0, 0.5))
    there = torch.nn.functional.interpolate(
        image.as_tensor(), size=(50, 38), mode="bilinear", align_corners=False
    )
    tiled: Inferer = OverlapTileInferer(roi_size=network.geometry.nearest((32, 32))[0])
    averaged = RotationAveragingInferer(MixedPrecisionInferer(tiled, "float32"), versions=8)
    with torch.no_grad():
        found = SpacingInferer(averaged, (0.8, 0.8))(image, network).as_tensor().softmax(1)
        whole = RotationAveragingInferer(OverlapTileInferer(), versions=8)(there, network)
    back = torch.nn.functional.interpolate(
        whole.softmax(1), size=(40, 61), mode="bilinear", align_corners=False
    )
    assert torch.allclose(found, back, atol=1e-5)


def test_outputs_of_any_structure_are_brought_back() -> None:
    image = image_of(np.ones((8, 6)), (1.0, 1.0))
    found: Any = run(image, (0.5, 0.5), lambda image: {"a": image, "b": [image, 2 * image]})
    assert found["a"].shape == found["b"][1].shape == (1, 1, 8, 6)
    with pytest.raises(ArgumentError, match="outputs as large as the image"):
        run(image, (0.5, 0.5), lambda image: [image, image[:, :, ::2, ::2]])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_spacing_comes_from_any_affine(dims: int) -> None:
    """Turned anyhow and mirrored; also of a batch, as a loader makes it."""
    sizes = (0.7, 2.0, 3.5)
    for seed in range(5):
        turn = Rotation.random(random_state=seed).as_matrix()
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag([-1, 1, -1]) @ np.diag(sizes)
        affine[:3, 3] = 5, -7, 90
        item = MetaTensor(torch.zeros(1, *[4] * dims), affine=torch.from_numpy(affine))
        assert spacing_of(item, dims) == pytest.approx(sizes[:dims])
        batch = next(iter(DataLoader(Dataset([{"image": item}] * 2), batch_size=2)))["image"]
        assert spacing_of(batch, dims) == pytest.approx(sizes[:dims])


def test_images_of_several_spacings_are_no_batch() -> None:
    items = [image_of(np.zeros((4, 4)), (s, 1.0))[0] for s in (1.0, 2.0)]
    batch = next(iter(DataLoader(Dataset([{"image": i} for i in items]), batch_size=2)))["image"]
    with pytest.raises(ArgumentError, match="spacings 1 x 1 and 2 x 1 in one batch"):
        run(batch, (1.0, 1.0), Seen())


def test_arguments_that_are_none() -> None:
    for spacing in ((1.0,), (1, 0), (1, -1, 1), (1, float("nan")), (1, float("inf")), "median"):
        with pytest.raises(ArgumentError, match="2 or 3 numbers above 0"):
            SpacingInferer(SimpleInferer(), spacing)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="activation='relu'"):
        SpacingInferer(SimpleInferer(), None, "relu")
    with pytest.raises(ArgumentError, match="image without metadata"):
        run(torch.zeros(1, 1, 4, 4), (1.0, 1.0), Seen())
    with pytest.raises(ArgumentError, match="2 numbers, one an axis"):
        run(image_of(np.zeros((4, 4)), (1, 1)), (1.0, 1.0, 1.0), Seen())
    with pytest.raises(ArgumentError, match="at most 100 times"):
        run(image_of(np.zeros((4, 4)), (1, 1)), (1e-3, 1e-3), Seen())


def test_sizes() -> None:
    assert resampled_size((10, 20, 1), (5, 1, 5), (2, 2, 20)) == (25, 10, 1)
    assert steps_between((1, 2), (1.0005, 1)) == (1.0, 0.5)


def test_a_region_is_not_resampled_but_its_spacing_is_known() -> None:
    network = ValidUNet(features=(4, 8)).eval()
    inferer = SpacingInferer(RotationAveragingInferer(OverlapTileInferer(), 1), (1.0, 0.5))
    assert RegionInferer(inferer, network).spacing == (1.0, 0.5)
    assert RegionInferer(OverlapTileInferer(), network).spacing is None
    with pytest.raises(GeometryError, match="SimpleInferer"):
        RegionInferer(SpacingInferer(SimpleInferer(), (1.0, 0.5)), network)
