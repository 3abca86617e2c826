"""The network and the tile that are planned from spacing, extent and memory."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overtile.networks import (
    ArgumentError,
    OverlapTileInferer,
    PaddedUNet,
    TileGeometry,
    UNetPlan,
    ValidUNet,
    peak_bytes,
    plan_unet,
)

SMALL = (2, 3, 4, 5, 6)


def output_of(plan: UNetPlan, tile: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that the planned network gives, run on a tensor without numbers."""
    network = plan.network().to("meta")
    return tuple(network(torch.empty(1, 1, *tile, device="meta")).shape[2:])


def spacings(plan: UNetPlan, spacing: tuple[float, ...]) -> list[list[float]]:
    """On each level."""
    found = [list(spacing)]
    for pool in plan.strides:
        found.append([s * stride for s, stride in zip(found[-1], pool, strict=True)])
    return found


@pytest.mark.parametrize("dims", [2, 3])
def test_equal_spacing_gives_the_papers_network(dims: int) -> None:
    plan = plan_unet((0.5,) * dims, (512,) * dims, memory_limit=2**33 * 2 ** (dims - 2))
    assert plan.features == (64, 128, 256, 512, 1024)
    assert plan.kernel_size == ((3,) * dims,) * 5
    assert plan.strides == ((2,) * dims,) * 4
    with torch.device("meta"):
        network = plan.network()
        paper = ValidUNet(dims)
    assert network.geometry == paper.geometry == TileGeometry.unet(4)
    assert [(n, p.shape) for n, p in network.named_parameters()] == [
        (n, p.shape) for n, p in paper.named_parameters()
    ]


def test_large_images_get_the_papers_tile_where_memory_is_short() -> None:
    whole = plan_unet((1, 1), (512, 512))
    assert whole.tile == (700, 700)  # 512 and twice 92, rounded up to 16 k + 124
    network = ValidUNet().eval()
    limit = peak_bytes(network, (1, 1, 572, 572))
    assert plan_unet((1, 1), (512, 512), memory_limit=limit).tile == (572, 572)
    assert plan_unet((1, 1), (512, 512), memory_limit=limit - 1).tile == (556, 556)


@pytest.mark.parametrize(
    ("spacing", "extent", "kernels", "strides"),
    [
        # sections five times as thick as pixels: a factor below two is reached at 4
        ((5, 1, 1), (40, 512, 512), "133 133 333 333 333", "122 122 222 222"),
        # as read from NIfTI, sections last
        ((1, 1, 3), (300, 300, 100), "331 333 333 333 333", "221 222 222 222"),
        ((1, 3), (512, 170), "31 33 33 33 33", "21 22 22 22"),
        ((1, 1.9, 1.9), (200, 200, 200), "333 333 333 333 333", "222 222 222 222"),
        ((1, 2, 1), (200, 200, 200), "313 333 333 333 333", "212 222 222 222"),
        # shorter than the margin of 44 that a third pooling would make
        ((1, 1, 1), (35, 50, 35), "333 333 333", "222 222"),
        # a short axis goes no farther than it is long: 4 + 8 + 16 of 35; 36 with the next
        ((1, 1, 1), (35, 512, 512), "333 333 333 133 133", "222 222 122 122"),
        ((5, 1, 1), (3, 512, 512), "133 133 133 133 133", "122 122 122 122"),
        ((1, 1, 1), (1, 512, 512), "133 133 133 133 133", "122 122 122 122"),
        # too short to be pooled alone, though not with others
        ((1, 4, 4), (8, 100, 100), "333 333 133 133 133", "122 122 122 122"),
        # the finest axis, too short to be pooled, holds the others back from nothing
        ((0.1, 1, 1), (4, 512, 512), "333 133 133 133 133", "122 122 122 122"),
    ],
)
def test_thin_axes_are_left_alone_until_voxels_are_about_cubic(
    spacing: tuple[float, ...], extent: tuple[int, ...], kernels: str, strides: str
) -> None:
    plan = plan_unet(spacing, extent, SMALL)
    assert " ".join("".join(map(str, level)) for level in plan.kernel_size) == kernels
    assert " ".join("".join(map(str, pool)) for pool in plan.strides) == strides
    assert output_of(plan, plan.tile) == plan.network().geometry.output_size(plan.tile)


@st.composite
def volumes(draw: st.DrawFn) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Spacing and extent, with one axis at most that is too short to be pooled alone."""
    dims = draw(st.integers(2, 3))
    spacing = draw(st.tuples(*[st.sampled_from([0.3, 0.5, 1, 1.3, 2, 4, 5.5])] * dims))
    extent = draw(st.lists(st.integers(12, 120), min_size=dims, max_size=dims))
    extent[draw(st.integers(0, dims - 1))] = draw(st.integers(1, 120))
    return spacing, tuple(extent)


@given(volume=volumes(), limit=st.integers(20, 26).map(lambda p: 2**p), padded=st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_plan_keeps_its_rules(
    volume: tuple[tuple[float, ...], tuple[int, ...]], limit: int, padded: bool
) -> None:
    spacing, extent = volume
    plan = plan_unet(spacing, extent, SMALL, limit, padded=padded)
    network, dims = plan.network().eval(), len(extent)  # dropout would take memory
    assert isinstance(network, PaddedUNet) == padded
    assert len(plan.features) == len(plan.kernel_size) == len(plan.strides) + 1
    assert plan.features == SMALL[: len(plan.features)]
    # the network takes the tile, which is within the budget and of no more than the volume's size
    out = output_of(plan, plan.tile)
    assert peak_bytes(network, (1, 1, *plan.tile)) <= limit
    scale = [math.prod(pool[axis] for pool in plan.strides) for axis in range(dims)]
    consumed = [tile - answer for tile, answer in zip(plan.tile, out, strict=True)]
    for axis in range(dims):
        assert plan.tile[axis] - consumed[axis] < extent[axis] + scale[axis] or (
            plan.tile[axis] == network.geometry.axis(axis)[2]
        )
        if scale[axis] > 1:
            assert extent[axis] / scale[axis] > 2  # more than three after rounding up
        if not padded:
            assert consumed[axis] // 2 <= extent[axis]
    for level, (now, pool) in enumerate(zip(spacings(plan, spacing), plan.strides, strict=False)):
        pooled = [s for s, stride in zip(now, pool, strict=True) if stride == 2]
        assert max(pooled) < 2 * min(pooled)
        for axis in range(dims):
            kernel = plan.kernel_size[level][axis]
            assert kernel == 3 or pool[axis] == 1  # what is pooled is convolved
            so_far = spacings(plan, spacing)[: level + 1]
            finest = [
                min(s for s, stride in zip(s_, p, strict=True) if stride == 2)
                for s_, p in zip(so_far, plan.strides, strict=False)
            ]
            if all(s[axis] >= 2 * f for s, f in zip(so_far, finest, strict=True)):
                assert kernel == 1


@given(
    extent=st.tuples(*[st.integers(60, 200)] * 3),
    most_voxels=st.integers(20_000, 10**6),
)
@settings(max_examples=20, deadline=None)
def test_a_budget_of_voxels_is_used_and_kept(extent: tuple[int, ...], most_voxels: int) -> None:
    plan = plan_unet((1, 1, 1), extent, SMALL, most_voxels=most_voxels)
    geometry = plan.network().geometry
    margin, multiple, _ = geometry.axis(0)
    assert math.prod(plan.tile) <= most_voxels
    whole = geometry.input_size(extent)
    larger = [min(n + multiple, most) for n, most in zip(plan.tile, whole, strict=True)]
    assert math.prod(larger) > most_voxels or plan.tile == whole
    if len(plan.strides) > 1:  # context is no more than two thirds of a tile's side
        assert all(n - 2 * margin >= min(margin, e) for n, e in zip(plan.tile, extent, strict=True))


@torch.no_grad()
def test_a_planned_network_answers_for_a_volume_of_its_kind() -> None:
    plan = plan_unet((2.5, 1, 1), (9, 40, 37), SMALL, memory_limit=2**21)
    torch.manual_seed(0)
    network = plan.network(out_channels=3).eval()
    image = torch.randn(1, 1, 9, 40, 37)
    found = OverlapTileInferer(plan.tile)(image, network)
    whole = OverlapTileInferer(network.geometry.input_size((9, 40, 37)))(image, network)
    assert found.shape == (1, 3, 9, 40, 37)
    assert torch.allclose(found, whole, atol=1e-5)


def test_a_plan_is_what_a_configuration_can_hold_and_changes_nothing() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    plan = plan_unet((5.0, 1.0, 1.0), (20, 100.5, 100), SMALL, in_channels=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert plan == plan_unet([5, 1, 1], [20, 101, 100], list(SMALL), in_channels=2)
    held = json.loads(json.dumps(plan.arguments))
    network = ValidUNet(in_channels=2, **held)
    assert network.geometry == plan.network(2).geometry
    assert network.spatial_dims == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"spacing": (1,), "extent": (9,)}, "spacing 1: expected 2 or 3 numbers"),
        ({"spacing": (1, 0, 1)}, "spacing 1x0x1: expected numbers above 0"),
        ({"spacing": (1, -2, 1)}, "spacing 1x-2x1: expected numbers above 0"),
        ({"spacing": (1, math.nan, 1)}, "spacing 1xnanx1: expected numbers above 0"),
        ({"spacing": (1, math.inf, 1)}, "spacing 1xinfx1: expected numbers above 0"),
        ({"extent": (64, 64)}, "extent 64x64: expected 3 numbers of voxels"),
        ({"extent": (64, 64, 0)}, "extent 64x64x0: expected 3 numbers of voxels, at least 1"),
        ({"extent": (5, 7, 6)}, "extent 5x7x6 at spacing 1x1x1: expected at least 8 voxels"),
        ({"features": (4,)}, "at least two levels"),
        ({"memory_limit": 1000}, "memory_limit of 1000 bytes: expected enough for one tile"),
        ({"most_voxels": 5000}, "most_voxels of 5000: expected enough for one tile"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments: dict[str, Any], said: str) -> None:
    given = {"spacing": (1, 1, 1), "extent": (64, 64, 64), "features": SMALL, **arguments}
    with pytest.raises(ArgumentError) as error:
        plan_unet(**given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
