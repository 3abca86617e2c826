import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from overtile.networks import (
    ArgumentError,
    GeometryError,
    MixedPrecisionInferer,
    OverlapTileInferer,
    TileGeometry,
    ValidUNet,
    geometry_of,
    plan_tiles,
)
from overtile.networks.inferers.cost import PassCost, pass_cost
from overtile.networks.inferers.precision import has_bfloat16
from overtile.networks.inferers.tile_size import choose_tile

MARGIN = {1: 8, 2: 20, 4: 92}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tiles are computed faster by one thread than by several that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network_of(seed: int, dims: int = 2, depth: int = 1, channels: int = 1) -> ValidUNet:
    torch.manual_seed(seed)
    network = ValidUNet(dims, channels, 3, features=(5, 6, 7, 8, 9)[: depth + 1]).eval()
    for parameter in network.parameters():  # biases too, or zeros would hide a wrong place
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


@torch.no_grad()
def whole(network: ValidUNet, image: Tensor, mode: str = "reflect", **constant: float) -> Tensor:
    """The network, once, on the whole image with context by NumPy."""
    margin, multiple = MARGIN[depth := len(network.down)], 2**depth
    pads = [(0, 0), (0, 0)]
    for n in image.shape[2:]:
        size = network.geometry.axis(0)[2]  # the smallest; grow it until the output covers n
        while size - 2 * margin < n:
            size += multiple
        pads.append((margin, size - n - margin))
    padded = torch.from_numpy(np.pad(image.numpy(), pads, mode=mode, **constant))
    return network(padded)[(..., *(slice(n) for n in image.shape[2:]))]


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.std()
    best = expected.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-3
    assert torch.equal(found.argmax(1)[clear], expected.argmax(1)[clear])


class Shapes:
    """Notes the shapes that a network is called with."""

    def __init__(self, network: nn.Module) -> None:
        self.seen: list[tuple[int, ...]] = []
        network.register_forward_pre_hook(lambda _, inputs: self.note(inputs[0]))

    def note(self, tile: Tensor) -> None:
        if tile.device.type != "meta":
            self.seen.append(tuple(tile.shape))


@given(
    seed=st.integers(0, 99),
    depth=st.integers(1, 2),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    steps=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    batch=st.integers(1, 2),
    sw_batch_size=st.integers(1, 5),
    channels=st.integers(1, 2),
)
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_tiles_equal_the_whole_image(
    seed: int,
    depth: int,
    size: tuple[int, int],
    steps: tuple[int, int],
    batch: int,
    sw_batch_size: int,
    channels: int,
) -> None:
    network = network_of(seed, 2, depth, channels)
    roi = tuple(network.geometry.axis(0)[2] + 2**depth * k for k in steps)
    image = torch.rand(batch, channels, *size)
    shapes = Shapes(network)
    found = OverlapTileInferer(roi, sw_batch_size)(image, network)
    assert all(t <= r for s in shapes.seen for t, r in zip(s[2:], roi, strict=True))
    assert all(s[0] <= sw_batch_size for s in shapes.seen)
    assert_same(found, whole(network, image))


@given(
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 11)),
    steps=st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3)),
    sw_batch_size=st.integers(1, 3),
)
@settings(max_examples=10, deadline=None)
@torch.no_grad()
def test_tiles_equal_the_whole_volume(
    seed: int, size: tuple[int, ...], steps: tuple[int, ...], sw_batch_size: int
) -> None:
    network = network_of(seed, dims=3)
    image = torch.rand(1, 1, *size)
    roi = tuple(18 + 2 * k for k in steps)
    found = OverlapTileInferer(roi, sw_batch_size)(image, network)
    assert_same(found, whole(network, image))


@pytest.mark.parametrize("size", [(1, 1), (61, 47), (16, 160)])
@torch.no_grad()
def test_tiles_equal_the_whole_image_at_the_papers_depth(size: tuple[int, int]) -> None:
    network, image = network_of(0, depth=4), torch.rand(1, 1, *size)
    assert_same(OverlapTileInferer(204, 2)(image, network), whole(network, image))


@torch.no_grad()
def test_a_misaligned_tile_gives_other_numbers() -> None:
    network, image = network_of(0, depth=2), torch.rand(1, 1, 72, 72)
    expected = network(image)
    for shift in range(9):
        tile = network(image[..., shift : shift + 60, :])
        error = (tile - expected[..., shift : shift + 20, :]).abs().max() / expected.std()
        assert (error < 1e-4) if shift % 4 == 0 else (error > 0.1), shift


@pytest.mark.parametrize(
    ("mode", "options", "numpy_mode", "numpy_options"),
    [
        ("replicate", {}, "edge", {}),
        ("constant", {}, "constant", {}),
        ("constant", {"cval": -2.5}, "constant", {"constant_values": -2.5}),
    ],
)
@pytest.mark.parametrize("size", [(3, 50), (40, 33)])
@torch.no_grad()
def test_other_context(
    mode: str, options: Any, numpy_mode: str, numpy_options: Any, size: tuple[int, int]
) -> None:
    network, image = network_of(1), torch.rand(1, 1, *size) + 1
    expected = whole(network, image, numpy_mode, **numpy_options)
    assert_same(OverlapTileInferer(26, padding_mode=mode, **options)(image, network), expected)


@torch.no_grad()
def test_memory_limit_picks_the_tile() -> None:
    network, image = network_of(2, depth=2), torch.rand(1, 1, 150, 170)
    expected, last, shapes = whole(network, image), 0, Shapes(network)
    for limit in (150_000, 300_000, 600_000, 50_000_000):
        shapes.seen.clear()
        found = OverlapTileInferer(memory_limit=limit)(image, network)
        assert_same(found, expected)
        (shape,) = set(shapes.seen)
        assert live_bytes(network, shape) <= limit
        assert shape[2] * shape[3] > last
        last = shape[2] * shape[3]
    assert len(shapes.seen) == 1  # no need to cut anything


def live_bytes(network: ValidUNet, shape: tuple[int, ...]) -> int:
    """A floor of what a pass holds at its widest: image, and what the last concatenation joins."""
    (batch, channels, *size), width = shape, network.head.in_channels
    image, skip, joined = (np.prod([n - k for n in size]) for k in (0, 4, 2 * 20 - 4))
    return 4 * batch * int(channels * image + width * skip + 3 * width * joined)


@pytest.mark.parametrize("image", [(3000, 3000), (700, 5000), (100, 90)])
@pytest.mark.parametrize("features", [(16, 32, 64, 128, 256), (64, 128)])
@pytest.mark.parametrize("limit", [2**28, 2**31])
def test_chosen_tile_is_close_to_the_best_of_a_search(
    image: tuple[int, int], features: tuple[int, ...], limit: int
) -> None:
    network = ValidUNet(features=features).eval()
    geometry = network.geometry

    def cost(tile: tuple[int, ...]) -> PassCost:
        return pass_cost(network, (1, 1, *tile))

    def seconds(roi: tuple[int, ...]) -> float:
        tiling = plan_tiles(image, geometry, roi)
        found = cost(tiling.size)
        return len(tiling) * (found.operations + 64 * found.large)

    chosen = choose_tile(cost, image, geometry, limit)
    assert cost(chosen).peak <= limit
    whole = geometry.input_size(image)
    sides = range(geometry.input_size(geometry.axis(0)[1]), max(whole) + 1, 80)
    searched = {
        tuple(min(geometry.input_size(n - 2 * geometry.axis(0)[0]), w) for w in whole)
        for n in sides
    }
    best = min(seconds(roi) for roi in searched if cost(roi).peak <= limit)
    assert seconds(chosen) <= 1.1 * best


def test_on_a_gpu_the_largest_tile_is_the_best() -> None:
    network, image = ValidUNet(features=(16, 32)).eval(), (5000, 5000)

    def cost(tile: tuple[int, ...]) -> PassCost:
        return pass_cost(network, (1, 1, *tile))

    found = {d: choose_tile(cost, image, network.geometry, 2**31, d) for d in ("cpu", "cuda")}
    assert cost(found["cpu"]).peak < cost(found["cuda"]).peak <= 2**31
    tiles = len(plan_tiles(image, network.geometry, found["cuda"]))
    fewer = network.geometry.input_size([round(5000 / (tiles**0.5 - 1))] * 2)
    assert cost(fewer).peak > 2**31


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor emulates bfloat16")
@torch.no_grad()
def test_tiles_in_half_precision_equal_the_whole_image_in_half_precision() -> None:
    network, image = network_of(3, depth=2), torch.rand(1, 1, 150, 170)
    found, expected = (
        MixedPrecisionInferer(OverlapTileInferer(roi), "bfloat16")(image, network)
        for roi in (60, 0)
    )
    assert found.dtype == expected.dtype == torch.float32
    assert (found - expected).abs().max() <= 2**-7 * expected.abs().max()
    assert (found - whole(network, image)).abs().max() > 0  # it did multiply in half precision


@torch.no_grad()
def test_the_answer_is_an_ordinary_tensor_under_no_grad() -> None:
    found = OverlapTileInferer(26)(torch.rand(1, 1, 50, 50), network_of(0))
    assert not found.is_inference()


def test_gradients_reach_the_network_through_tiles() -> None:
    network = network_of(0)
    OverlapTileInferer(26)(torch.rand(1, 1, 50, 50), network).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


class Sharpen(nn.Module):
    """A network that compiles in seconds."""

    geometry = TileGeometry(margin=1, multiple=1, minimum=3)

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:-1, 1:-1] * 5 - x[..., 2:, 1:-1] * 2 - x[..., 1:-1, 2:] * 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("roi", [24, None])
def test_compiled_network_gives_the_same(roi: int | None) -> None:
    network, image = Sharpen(), torch.rand(1, 1, 60, 60)
    inferer = OverlapTileInferer(roi, compile=True)
    expected = OverlapTileInferer(roi)(image, network)
    with torch.inference_mode():
        assert torch.allclose(inferer(image, network), expected, atol=1e-6)
        compiled = inferer._compiled
        assert compiled is not None
        assert torch.allclose(inferer(image + 1, network), expected + 1, atol=1e-5)
        assert inferer._compiled is compiled  # not again for the next image


def test_geometry_is_found_behind_compile() -> None:
    network = network_of(0)
    assert geometry_of(torch.compile(network)) == network.geometry


@torch.no_grad()
def test_sw_batch_size_counts_towards_the_memory() -> None:
    network, image = network_of(2), torch.rand(1, 1, 150, 170)
    shapes = Shapes(network)
    for sw_batch_size in (1, 4):
        OverlapTileInferer(sw_batch_size=sw_batch_size, memory_limit=200_000)(image, network)
    first, last = shapes.seen[0], shapes.seen[-1]
    assert last[2] * last[3] < first[2] * first[3]


def test_a_memory_limit_that_no_tile_keeps_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"memory_limit of 1000 bytes: expected at least \d+"):
        OverlapTileInferer(memory_limit=1000)(torch.rand(1, 1, 50, 50), network_of(0))


@torch.no_grad()
def test_memory_limit_takes_double_precision() -> None:
    network, image = network_of(0), torch.rand(1, 1, 50, 50)
    expected = whole(network, image)
    found = OverlapTileInferer(memory_limit=500_000)(image.double(), network.double())
    assert found.dtype == torch.float64
    assert_same(found.float(), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is not supported:DeprecationWarning")
@pytest.mark.parametrize("roi", [26, None])
@torch.no_grad()
def test_scripted_network_and_plain_function(roi: int | None) -> None:
    network, image = network_of(0), torch.rand(1, 1, 50, 50)
    expected = whole(network, image)
    inferer = OverlapTileInferer(roi, geometry=network.geometry)
    assert_same(inferer(image, lambda tile: network(tile)), expected)
    assert_same(inferer(image, torch.jit.script(network)), expected)


@torch.no_grad()
def test_open_axes_get_as_large_as_the_image_needs() -> None:
    network, image = network_of(3), torch.rand(1, 1, 40, 51)
    shapes = Shapes(network)
    for roi in ((26, None), (26, -1), (26, 0)):
        assert_same(OverlapTileInferer(roi)(image, network), whole(network, image))
    assert {s[2:] for s in shapes.seen if s[2] == 26} == {(26, 68)}  # 68 - 16 covers 51


@torch.no_grad()
def test_metadata_is_kept() -> None:
    network = network_of(4)
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0]))
    items = [
        MetaTensor(torch.rand(1, 30, 41), affine=affine, meta={"filename_or_obj": name})
        for name in ("a.tif", "b.tif")
    ]
    batch = list_data_collate(items)
    found = OverlapTileInferer(26)(batch, network)
    assert isinstance(found, MetaTensor)
    assert_same(found.as_tensor(), whole(network, batch.as_tensor()))
    assert batch.is_batch
    assert found.is_batch
    for result, item in zip(decollate_batch(found), items, strict=True):
        assert result.meta["filename_or_obj"] == item.meta["filename_or_obj"]
        assert torch.equal(result.affine, affine.double())


class PaddedNet(nn.Module):
    """Two levels, zero-padded: an output pixel depends on at most 5 pixels to each side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 4), (4, 2)))
        self.low = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.first(x).relu(), 2)
        return self.last(nn.functional.interpolate(self.low(x).relu(), scale_factor=2.0))


@pytest.mark.parametrize("roi", [22, (14, 40), None])
@torch.no_grad()
def test_padded_network_equals_the_whole_image_inside(roi: Any) -> None:
    torch.manual_seed(0)
    network, image = PaddedNet().eval(), torch.rand(2, 1, 60, 46)
    geometry = TileGeometry.padded(radius=5, multiple=2)
    found = OverlapTileInferer(roi, 3, geometry=geometry)(image, network)
    inside = (..., slice(5, -5), slice(5, -5))
    assert found.shape == (2, 2, 60, 46)
    assert_same(found[inside], network(image)[inside])


@torch.no_grad()
def test_padded_monai_network_equals_the_whole_image_inside() -> None:
    from monai.networks.nets import BasicUNet

    torch.manual_seed(0)
    network = BasicUNet(2, 1, 2, features=(4, 4, 6, 6, 8, 4), norm=None).eval()
    image = torch.rand(1, 1, 240, 272)
    # 92 pixels of 3x3 convolutions, as in the paper's network, and 15 of pooling's phase
    inferer = OverlapTileInferer(304, geometry=TileGeometry.padded(107, 16))
    inside = (..., slice(107, -107), slice(107, -107))
    assert_same(inferer(image, network)[inside], network(image)[inside])


@torch.no_grad()
def test_stock_sliding_window_is_silently_wrong_on_a_valid_network() -> None:
    network, image = network_of(5), torch.rand(1, 1, 60, 60)
    stock = SlidingWindowInferer(roi_size=(34, 34), overlap=0.5)(image, network)
    expected = whole(network, image)
    assert stock.shape != expected.shape  # and no error: that is why this inferer exists
    assert_same(OverlapTileInferer(34)(image, network), expected)


@pytest.mark.parametrize("shape", [(1, 3, 300, 300), (300, 300), (1, 1, 100, 100, 100)])
def test_the_image_is_told_that_does_not_fit_not_a_tile_of_it(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(str(shape))}: expected " r"\[B, 1, H, W\]"):
        OverlapTileInferer(34)(torch.rand(shape), ValidUNet(features=(4, 8)))


@pytest.mark.parametrize("network", [nn.Conv2d(1, 1, 3), lambda x: x, torch.sigmoid])
def test_networks_without_a_geometry_are_refused(network: Any) -> None:
    with pytest.raises(GeometryError, match=r"geometry=TileGeometry\.padded\(radius=R"):
        OverlapTileInferer(34)(torch.rand(1, 1, 60, 60), network)


@torch.no_grad()
def test_geometry_is_found_behind_a_wrapper() -> None:
    network, image = network_of(6), torch.rand(1, 1, 30, 30)
    found = OverlapTileInferer(26)(image, nn.DataParallel(network))
    assert_same(found, whole(network, image))


def test_wrong_promises_are_noticed() -> None:
    image, geometry = torch.rand(1, 1, 40, 40), TileGeometry(2, 1, 5)
    with pytest.raises(GeometryError, match="its geometry promises"):
        OverlapTileInferer(20, geometry=geometry)(image, nn.Conv2d(1, 1, 3))
    with pytest.raises(ArgumentError, match="returned NoneType"):
        OverlapTileInferer(20, geometry=geometry)(image, lambda x: (x, None))


@pytest.mark.parametrize("name", ["overlap", "mode", "sigma_scale", "cpu_thresh", "buffer_steps"])
@torch.no_grad()
def test_blending_arguments_warn_and_change_nothing(name: str) -> None:
    network, image = network_of(7), torch.rand(1, 1, 30, 30)
    with pytest.warns(UserWarning, match=f"{name}: no effect"):
        inferer = OverlapTileInferer(26, **{name: 0.25})
    assert torch.equal(inferer(image, network), OverlapTileInferer(26)(image, network))


def test_every_argument_of_the_stock_inferer_is_known() -> None:
    from inspect import signature

    names = set(signature(SlidingWindowInferer.__init__).parameters)
    for name in names - {"self", "roi_size", "args", "kwargs", "with_coord"}:
        default = {"padding_mode": "reflect", "sw_batch_size": 1}.get(name)
        if name in signature(OverlapTileInferer.__init__).parameters:
            OverlapTileInferer(34, **{name: default})
        else:
            with pytest.warns(UserWarning, match="no effect"):
                OverlapTileInferer(34, **{name: default})


def test_arguments_out_of_range_are_named() -> None:
    with pytest.raises(ArgumentError, match="argument overlapp: expected arguments of"):
        OverlapTileInferer(34, overlapp=0.5)
    with pytest.raises(ValueError, match="padding_mode='circular'"):
        OverlapTileInferer(34, padding_mode="circular")
    with pytest.raises(ValueError, match="sw_batch_size=0"):
        OverlapTileInferer(34, sw_batch_size=0)
    with pytest.raises(ArgumentError, match=r"roi_size=60\.0"):
        OverlapTileInferer(60.0)  # type: ignore[arg-type]


def test_tiles_that_do_not_fit_are_refused() -> None:
    image = torch.rand(1, 1, 50, 50)
    with pytest.raises(GeometryError, match=r"roi_size 35x35.*34x34 or 36x36"):
        OverlapTileInferer(35)(image, network_of(0))
    with pytest.raises(GeometryError, match="expected 2 numbers"):
        OverlapTileInferer((34, 34, 34))(image, network_of(0))
    for shape in ((0, 1, 50, 50), (1, 1, 50, 0)):
        with pytest.raises(GeometryError, match="no axis of size 0"):
            OverlapTileInferer()(torch.rand(shape), network_of(0))


@pytest.mark.parametrize("roi", [26, None])
@torch.no_grad()
def test_further_arguments_reach_the_network(roi: int | None) -> None:
    network, image = network_of(8), torch.rand(1, 1, 30, 30)

    def scaled(tile: Tensor, factor: float, offset: float = 0.0) -> Tensor:
        return factor * network(tile) + offset

    inferer = OverlapTileInferer(roi, geometry=network.geometry)
    assert_same(inferer(image, scaled, 2.0, offset=1.0), 2 * whole(network, image) + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@torch.no_grad()
def test_tiles_run_on_another_device() -> None:
    network, image = network_of(9), torch.rand(1, 1, 60, 60)
    expected = whole(network, image)
    found = OverlapTileInferer(34, sw_device="cuda")(image, network.cuda())
    assert found.device.type == "cpu"
    assert_same(found, expected)


@given(size=st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 6)))
@settings(max_examples=8, deadline=None)
@torch.no_grad()
def test_volumes_far_shorter_than_the_margin(size: tuple[int, ...]) -> None:
    network = network_of(0, dims=3, depth=2)  # margin 20
    image = torch.randn(1, 1, *size)
    assert_same(OverlapTileInferer(48)(image, network), whole(network, image))
