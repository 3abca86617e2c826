"""Outputs in structures, geometry through scripts, layers that see everything, sizes not meant."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.nets import BasicUNet, BasicUNetPlusPlus, SegResNet, SegResNetDS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

from overtile.networks import (
    GeometryError,
    MixedPrecisionInferer,
    OverlapTileInferer,
    PaddedUNet,
    RegionInferer,
    RotationAveragingInferer,
    TileGeometry,
    ValidUNet,
    geometry_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


STRUCTURES: list[Callable[[Tensor], Any]] = [
    lambda y: [y],
    lambda y: (y, 2 * y),
    lambda y: {"a": y, "b": [y - 1, (y[:, :1],)]},
    lambda y: [{"deep": y.double()}, y],
]


class Structured(nn.Module):
    """A network whose answer comes in a structure."""

    def __init__(self, network: ValidUNet, structure: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.structure, self.geometry = network, structure, network.geometry

    def forward(self, x: Tensor) -> Any:
        return self.structure(self.network(x))


@given(
    structure=st.sampled_from(STRUCTURES),
    size=st.lists(st.integers(20, 50), min_size=2, max_size=2).map(tuple),
    averaged=st.booleans(),
    meta=st.booleans(),
    padded=st.booleans(),
)
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_structures_come_back_each_output_exact(
    structure: Callable[[Tensor], Any],
    size: tuple[int, int],
    averaged: bool,
    meta: bool,
    padded: bool,
) -> None:
    torch.manual_seed(0)
    network = (PaddedUNet if padded else ValidUNet)(features=(4, 6), out_channels=3).eval()
    image = torch.rand(2, 1, *size)
    tiles = OverlapTileInferer(34, sw_batch_size=2)
    inferer: Inferer = RotationAveragingInferer(tiles, 3, average="none") if averaged else tiles
    found = inferer(MetaTensor(image) if meta else image, Structured(network, structure))
    expected = structure(OverlapTileInferer(256)(image, network))  # one tile, one tensor
    if averaged:
        whole = RotationAveragingInferer(OverlapTileInferer(256), 3, average="none")
        expected = structure(whole(image, network))
    assert tree_structure(found) == tree_structure(expected)
    for one, other in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert isinstance(one, MetaTensor) == meta
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-5


@torch.no_grad()
def test_a_network_of_monai_under_deep_supervision() -> None:
    torch.manual_seed(0)
    features, norm = (4, 4, 4, 4, 4, 4), ("batch", {})
    network = BasicUNetPlusPlus(2, 1, 2, features=features, norm=norm, deep_supervision=True).eval()
    image = torch.rand(1, 1, 240, 240)
    found = OverlapTileInferer(272, geometry=TileGeometry.padded(107, 16))(image, network)
    inside = (..., slice(107, -107), slice(107, -107))
    expected = network(image)
    assert isinstance(found, list)
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        assert (one[inside] - other[inside]).abs().max() < 1e-4 * other.std()


@given(size=st.lists(st.integers(1, 130), min_size=2, max_size=2).map(tuple), meta=st.booleans())
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_outputs_of_lower_resolution_are_those_of_the_whole_image(
    size: tuple[int, int], meta: bool
) -> None:
    torch.manual_seed(0)
    blocks: dict[str, Any] = {"blocks_down": (1, 1, 1), "blocks_up": (1, 1), "dsdepth": 2}
    network = SegResNetDS(2, 4, 1, 2, **blocks, resolution=(1.0, 1.0)).eval()
    network.training = True  # it gives what its deep supervision is on
    geometry = TileGeometry.padded(28, 4)
    image = torch.rand(2, 1, *size)
    inputs = MetaTensor(image) if meta else image
    found = OverlapTileInferer(112, 2, geometry=geometry)(inputs, network)  # half of it: 56 = valid
    margin, padded = 28, geometry.input_size(size)
    axes = zip(padded, size, strict=True)
    mirror = [(np.arange(n) - margin) % max(1, 2 * (s - 1)) for n, s in axes]
    mirror = [np.where(m < s, m, 2 * (s - 1) - m) for m, s in zip(mirror, size, strict=True)]
    expected = network(image[..., mirror[0], :][..., mirror[1]])
    assert len(found) == len(expected) == 2
    for one, other, s in zip(found, expected, (1, 2), strict=True):
        inside = [slice(margin // s, margin // s + math.ceil(n / s)) for n in size]
        assert (one - other[(..., *inside)]).abs().max() < 1e-4
        assert isinstance(one, MetaTensor) == (meta and one.shape == found[0].shape)


@torch.no_grad()
def test_outputs_of_lower_resolution_are_refused_where_they_do_not_fit() -> None:
    network = Structured(PaddedUNet(features=(4, 6)).eval(), lambda y: [y, y[..., ::2, ::2]])
    odd = OverlapTileInferer(64, geometry=TileGeometry.padded(15, 1))
    with pytest.raises(GeometryError, match=r"made \(32, 32\) of a tile of \(64, 64\)"):
        odd(torch.rand(1, 1, 200, 200), network)
    tiles = OverlapTileInferer(64)
    with pytest.raises(GeometryError, match=r"\(25, 26\) of an image of \(49, 52\)"):
        RotationAveragingInferer(tiles, average="none")(torch.rand(1, 1, 49, 52), network)
    turned = RotationAveragingInferer(tiles, average="none")(torch.rand(1, 1, 48, 52), network)
    assert [tuple(one.shape[2:]) for one in turned] == [(48, 52), (24, 26)]
    region = RegionInferer(tiles, network)
    around = torch.rand(1, 1, *(24 + 2 * n for n in region.reach))
    with pytest.raises(GeometryError, match="outputs as large as the image"):
        region(around, (slice(8, 32), slice(8, 32)), (60, 60), (64, 64))
    for nothing in ([], None):
        with pytest.raises(ValueError, match="the network returned"):
            tiles(torch.rand(1, 1, 48, 52), Structured(network.network, lambda _, n=nothing: n))


@torch.no_grad()
def test_regions_and_half_precision_keep_the_structure() -> None:
    network = ValidUNet(features=(4, 6)).eval()
    structured = Structured(network, STRUCTURES[2])
    half = MixedPrecisionInferer(OverlapTileInferer(34), "bfloat16")
    found = half(torch.rand(1, 1, 40, 40), structured)
    assert {one.dtype for one in tree_leaves(found)} == {torch.float32}
    image = torch.rand(1, 1, 34 + 16, 34 + 16)
    region = RegionInferer(OverlapTileInferer(34), structured)
    box = (slice(10, 40), slice(10, 40))
    answer = region(image, box, (50, 50), (34, 34))
    assert tree_structure(answer) == tree_structure(STRUCTURES[2](image))
    plain = RegionInferer(OverlapTileInferer(34), network)(image, box, (50, 50), (34, 34))
    assert torch.equal(answer["a"], plain)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", [ValidUNet, PaddedUNet])
def test_a_network_is_traced(kind: type[ValidUNet]) -> None:
    network, image = kind(features=(4, 6)).eval(), torch.rand(1, 1, 36, 36)
    traced = torch.jit.trace(network, image)  # which compares with a trace without gradients
    assert torch.equal(traced(image), network(image))


@pytest.mark.parametrize("kind", [ValidUNet, PaddedUNet])
@torch.no_grad()
def test_geometry_survives_scripting_files_and_wrappers(kind: type[ValidUNet]) -> None:
    network = kind(features=(4, 6)).eval()
    scripted = torch.jit.script(network)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    image = torch.rand(1, 1, 50, 50)
    expected = OverlapTileInferer(34)(image, network)
    wrapped = [scripted, loaded, functools.partial(network), network.forward]
    for one in (*wrapped, nn.DataParallel(scripted)):
        assert geometry_of(one) == network.geometry
        assert (OverlapTileInferer(34)(image, one) - expected).abs().max() < 1e-5


def test_where_it_cannot_be_kept_the_argument_is_named() -> None:
    network = ValidUNet(features=(4, 6)).eval()
    for lost in (lambda x: network(x), torch.jit.freeze(torch.jit.script(network))):
        with pytest.raises(GeometryError, match=r"geometry=TileGeometry\.padded"):
            OverlapTileInferer(34)(torch.rand(1, 1, 40, 40), lost)


def basic(norm: Any) -> nn.Module:
    return BasicUNet(2, 1, 2, features=(4, 4, 4, 4, 4, 4), norm=norm).eval()


LAYERS = [
    (nn.InstanceNorm2d(4), "InstanceNorm2d"),
    (nn.GroupNorm(2, 4), "GroupNorm"),
    (nn.LayerNorm((4, 34, 34)), "LayerNorm"),
    (nn.BatchNorm2d(4, track_running_stats=False), "BatchNorm2d"),
    (nn.AdaptiveAvgPool2d(1), "AdaptiveAvgPool2d"),
    (nn.AdaptiveMaxPool2d(1), "AdaptiveMaxPool2d"),
]
LOCAL = [
    nn.BatchNorm2d(4),
    nn.InstanceNorm2d(4, track_running_stats=True),
    nn.Dropout2d(),
    nn.LocalResponseNorm(2),
]


class With(nn.Module):
    """A convolution, and a layer whose result scales it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.odd = nn.Conv2d(1, 4, 3), layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(nn.functional.pad(x, (1, 1, 1, 1)))
        return y * torch.sigmoid(self.odd(y))


@pytest.mark.parametrize(("layer", "kind"), LAYERS)
@pytest.mark.parametrize("scripted", [False, True])
@torch.no_grad()
def test_a_layer_that_sees_everything_is_named_once(
    layer: nn.Module, kind: str, scripted: bool
) -> None:
    network: Any = With(layer).eval()
    network = torch.jit.script(network) if scripted else network
    geometry, image = TileGeometry.padded(1), torch.rand(1, 1, 64, 64) ** 4
    inferer = OverlapTileInferer(34, geometry=geometry)
    with pytest.warns(UserWarning, match=rf"^odd \({kind}\): depends on all of its input"):
        found = inferer(image, network)
    inferer(image, network)  # a second warning would be an error
    if kind != "LayerNorm":  # the warning is true
        assert (found - network(image))[..., 2:-2, 2:-2].abs().max() > 1e-4
    region = RegionInferer(inferer, network)
    with pytest.raises(GeometryError, match=rf"odd \({kind}\)"):
        region(image, (slice(8, 40), slice(8, 40)), (64, 64), (34, 34))


@pytest.mark.parametrize("layer", LOCAL)
@torch.no_grad()
def test_a_layer_that_sees_a_neighbourhood_is_not(layer: nn.Module) -> None:
    network, image = With(layer).eval(), torch.rand(1, 1, 64, 64)
    inferer = OverlapTileInferer(34, geometry=TileGeometry.padded(1))
    found = inferer(image, network)  # warnings are errors
    assert (found - network(image))[..., 2:-2, 2:-2].abs().max() < 1e-5
    box = (slice(8, 40), slice(8, 40))
    around = image[..., 8 - 2 : 40 + 2, 8 - 2 : 40 + 2]
    answer = RegionInferer(inferer, network)(around, box, (64, 64), (34, 34))
    assert (answer - found[(..., *box)]).abs().max() < 1e-5


@torch.no_grad()
def test_networks_of_monai_that_see_everything() -> None:
    geometry, image = TileGeometry.padded(16, 16), torch.rand(1, 1, 100, 100)
    told = {
        "InstanceNorm2d": basic(("instance", {"affine": True})),
        "GroupNorm": SegResNet(2, 8, 1, 2).eval(),
    }
    for kind, network in told.items():
        with pytest.warns(UserWarning, match=kind):
            OverlapTileInferer(64, geometry=geometry)(image, network)
    OverlapTileInferer(64, geometry=geometry)(image, basic(("batch", {})))


@torch.no_grad()
def test_one_tile_of_such_a_network_is_no_seam() -> None:
    network, image = With(nn.InstanceNorm2d(4)).eval(), torch.rand(1, 1, 30, 30)
    OverlapTileInferer(34, geometry=TileGeometry.padded(1))(image, network)


@torch.no_grad()
def test_tiles_of_context_alone_are_refused_with_a_size_that_is_better() -> None:
    network = ValidUNet(3, features=(2, 2, 2)).eval()
    image = torch.rand(1, 1, 40, 28, 60)
    with pytest.raises(GeometryError) as error:
        OverlapTileInferer(44)(image, network)
    told = str(error.value)
    assert "roi_size 44x44x44 answers for 4x4x4" in told
    assert "1050 tiles" in told
    better = tuple(map(int, told.split("at least ")[1].split(",")[0].split("x")))
    found = OverlapTileInferer(better)(image, network)
    assert (found - OverlapTileInferer()(image, network)).abs().max() < 1e-5


@given(
    depth=st.integers(1, 4),
    steps=st.integers(0, 12),
    size=st.lists(st.integers(1, 300), min_size=2, max_size=3).map(tuple),
)
@settings(max_examples=60, deadline=None)
def test_what_is_offered_is_taken(depth: int, steps: int, size: tuple[int, ...]) -> None:
    geometry = TileGeometry.unet(depth)
    multiple = geometry.axis(0)[1]
    roi = (geometry.input_size(multiple) + steps * multiple,) * len(size)
    image = torch.empty(1).expand(1, 1, *size)

    def sized(given: tuple[int, ...]) -> tuple[int, ...]:
        return OverlapTileInferer(given).tile_size(image, geometry, lambda tile: 1 / 0)

    # tiles times their pixels, over the pixels of one pass, by a loop of its own
    output = roi[0] - 2 * geometry.axis(0)[0]
    step = output // multiple * multiple
    tiles = [1 if n <= output else math.ceil((n - output) / step) + 1 for n in size]
    whole = math.prod(geometry.input_size(size))
    most = math.prod(tiles) * math.prod(roi) / whole  # plan_tiles makes them smaller, if anything
    try:
        assert sized(roi) == roi
    except GeometryError as error:
        assert most > 100
        told = str(error).split("at least ")[1].split(",")[0]
        sized(tuple(map(int, told.split("x"))))
    else:
        assert math.prod(tiles) < 2 or most < 100 * 2 ** len(size)
