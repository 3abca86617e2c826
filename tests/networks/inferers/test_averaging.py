from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from overtile.networks import OverlapTileInferer, RotationAveragingInferer, TileGeometry, ValidUNet
from overtile.networks.inferers.averaging import allowed_turns, turn, turn_back

SHAPES = st.sampled_from([(9, 14), (16, 16), (1, 7), (3, 8, 11), (5, 6, 6)])


ACTIVATIONS = {
    "softmax": lambda x: x.softmax(1),
    "sigmoid": torch.sigmoid,
    "none": lambda x: x,
}


class Equivariant(nn.Module):
    """Every output pixel sees its neighbours without knowing which is where."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.geometry = TileGeometry.padded(radius=1, multiple=1)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        pool = nn.functional.avg_pool2d if self.dims == 2 else nn.functional.avg_pool3d
        around = pool(x, 3, stride=1, padding=1)
        return torch.cat([3 * x, torch.sin(around)], dim=1)


class Corner(nn.Module):
    """Logits that depend on the direction: the difference to the pixel to the right."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.roll(-1, -1)], dim=1)


@given(shape=SHAPES, version=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_turning_back_undoes_turning(shape: tuple[int, ...], version: int) -> None:
    image = torch.rand(2, 3, *shape)
    assert torch.equal(turn_back(turn(image, version), version), image)


def test_the_eight_versions_are_the_dihedral_group() -> None:
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    seen = {tuple(turn(square, v).flatten().tolist()) for v in range(8)}
    assert len(seen) == 8
    for a in range(8):  # closed: a version of a version is a version
        for b in range(8):
            assert tuple(turn(turn(square, a), b).flatten().tolist()) in seen


@pytest.mark.parametrize("average", list(ACTIVATIONS))
@given(shape=SHAPES, versions=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_an_equivariant_network_gives_the_same_for_any_number(
    average: str, shape: tuple[int, ...], versions: int
) -> None:
    torch.manual_seed(0)
    image, network = torch.randn(2, 1, *shape), Equivariant(len(shape))
    tiles = OverlapTileInferer(roi_size=8)
    once = RotationAveragingInferer(tiles, 1, average)(image, network)
    mean = RotationAveragingInferer(tiles, versions, average)(image, network)
    assert torch.allclose(ACTIVATIONS[average](mean), ACTIVATIONS[average](once), atol=2e-6)


@pytest.mark.parametrize("average", ["softmax", "sigmoid"])
def test_probabilities_are_averaged(average: str) -> None:
    torch.manual_seed(1)
    image, network = 30 * torch.randn(1, 1, 6, 9), Corner()
    found = RotationAveragingInferer(SimpleInferer(), 7, average)(image, network)
    apply = ACTIVATIONS[average]
    wanted = torch.stack(
        [turn_back(apply(network(turn(image, v)).double()), v) for v in range(7)]
    ).mean(0)
    assert torch.allclose(apply(found.double()), wanted, atol=1e-6)
    # and not the logits
    logits = torch.stack([turn_back(network(turn(image, v)), v) for v in range(7)]).mean(0)
    assert not torch.allclose(apply(logits.double()), wanted, atol=1e-2)


def test_probability_of_zero_and_one_survive() -> None:
    image = torch.full((1, 1, 4, 4), 500.0)
    network = lambda x: torch.cat([x, -x], dim=1)  # noqa: E731
    found = RotationAveragingInferer(SimpleInferer(), 8)(image, network).softmax(1)
    assert torch.equal(found[:, 0], torch.ones(1, 4, 4))


def test_tiles_and_metadata_come_through() -> None:
    torch.manual_seed(2)
    network = ValidUNet(features=(4, 8)).eval()
    image = MetaTensor(torch.rand(1, 1, 50, 41), meta={"filename_or_obj": "a.tif"})
    with torch.no_grad():
        small = RotationAveragingInferer(OverlapTileInferer(roi_size=28))(image, network)
        whole = RotationAveragingInferer(OverlapTileInferer(roi_size=400))(image, network)
    assert isinstance(small, MetaTensor)
    assert small.meta["filename_or_obj"] == "a.tif"
    assert small.shape == (1, 2, 50, 41)
    assert torch.allclose(small.as_tensor(), whole.as_tensor(), atol=1e-5)


THIN: Any = {"features": (2, 4), "kernel_size": [(1, 3, 3), 3], "strides": [(1, 2, 2)]}
NIFTI: Any = {"features": (2, 4), "kernel_size": [(3, 3, 1), 3], "strides": [(2, 2, 1)]}
SKEW: Any = {
    "features": (2, 2, 4),
    "kernel_size": [(1, 1, 3), (1, 3, 3), 3],
    "strides": [(1, 1, 2), (1, 2, 2)],
}
ALL = (0, 1, 2, 3, 4, 5, 6, 7)
ALLOWED: list[Any] = [
    (ValidUNet(3, **THIN), 3, (-2, -1), ALL),
    (ValidUNet(3, **NIFTI), 3, (-3, -2), ALL),
    (ValidUNet(3, **SKEW), 3, (-2, -1), (0, 2, 4, 6)),
    (torch.jit.script(ValidUNet(3, **NIFTI)), 3, (-3, -2), ALL),
    (ValidUNet(2, features=(2, 4), kernel_size=[(1, 3), 3]), 2, (-2, -1), (0, 2, 4, 6)),
    (nn.Conv2d(1, 2, 3), 2, (-2, -1), ALL),  # of others, without a geometry
    (nn.DataParallel(nn.Conv2d(1, 2, 3, stride=(1, 2))), 2, (-2, -1), (0, 2, 4, 6)),
    (nn.Conv3d(1, 2, 3, dilation=(2, 1, 2)), 3, (-3, -1), ALL),
    (Corner(), 2, (-2, -1), ALL),
]


@pytest.mark.parametrize(("network", "axes", "plane", "versions"), ALLOWED)
def test_axes_are_turned_into_those_that_the_network_treats_alike(
    network: nn.Module, axes: int, plane: tuple[int, int], versions: tuple[int, ...]
) -> None:
    assert allowed_turns(network, axes) == (plane, versions)


def test_a_geometry_of_its_own_restricts_a_network_that_tells_none() -> None:
    geometry = TileGeometry.padded(radius=(1, 2, 2), multiple=1)
    tiles = OverlapTileInferer(geometry=geometry)
    turns = RotationAveragingInferer(RotationAveragingInferer(tiles, 1), 8).turns(Corner(), 3)
    assert turns == ((-2, -1), ALL)
    turned = TileGeometry.padded(radius=(2, 2, 1), multiple=1)
    turns = RotationAveragingInferer(OverlapTileInferer(geometry=turned), 6).turns(Corner(), 3)
    assert turns == ((-3, -2), ALL[:6])


@pytest.mark.parametrize("kind", [THIN, NIFTI, SKEW])
def test_a_network_with_other_kernels_per_axis_never_sees_one_axis_for_another(kind: Any) -> None:
    """Each version is the network on an image whose axes are moved back by NumPy."""
    torch.manual_seed(3)
    network = ValidUNet(3, **kind).eval()
    image = torch.rand(1, 1, 9, 13, 12)
    tiles = OverlapTileInferer()
    plane = (3, 4) if kind is THIN else (2, 3) if kind is NIFTI else ()
    flips = [(), (3,), (4,), (3, 4)] if not plane else [(), plane[:1], plane[1:], plane]
    with torch.no_grad():
        found = RotationAveragingInferer(tiles, 8)(image, network).softmax(1)
        total = []
        for flip in flips:
            total.append(tiles(image.flip(flip), network).softmax(1).flip(flip))
            if plane:  # the other four have both axes exchanged
                answer = tiles(image.transpose(*plane).flip(flip), network).softmax(1)
                total.append(answer.flip(flip).transpose(*plane))
    assert torch.allclose(found, torch.stack(total).mean(0), atol=1e-5)
    assert not torch.allclose(found, total[0], atol=1e-3)


@pytest.mark.parametrize("versions", [0, 9, -1])
def test_the_number_of_versions_is_checked(versions: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 8"):
        RotationAveragingInferer(SimpleInferer(), versions)


def test_what_to_average_is_checked() -> None:
    with pytest.raises(ValueError, match="average='mean'"):
        RotationAveragingInferer(SimpleInferer(), average="mean")
