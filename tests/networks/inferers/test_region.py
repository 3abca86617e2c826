"""A region's answers are those of the whole image, in every version."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from overtile.networks import (
    GeometryError,
    MixedPrecisionInferer,
    OverlapTileInferer,
    PaddedUNet,
    RegionInferer,
    RotationAveragingInferer,
    ValidUNet,
    context_indices,
)
from overtile.networks.inferers.averaging import turn
from overtile.networks.inferers.region import turned_spans


def window_of(image: Tensor, region: tuple[slice, ...], reach: tuple[int, ...]) -> Tensor:
    for axis, (part, r) in enumerate(zip(region, reach, strict=True), start=2):
        places = context_indices(part.start - r, part.stop + r, image.shape[axis])
        image = image.index_select(axis, torch.tensor(places))
    return image


@pytest.mark.parametrize("version", range(8))
def test_turned_spans_follow_the_pixels(version: int) -> None:
    image = torch.zeros(1, 1, 5, 8)
    image[..., 1:3, 4:7] = 1
    turned = turn(image, version)[0, 0]
    spans = turned_spans([(1, 3, 5), (4, 7, 8)], version)
    assert tuple(size for _, _, size in spans) == tuple(turned.shape)
    assert turned[tuple(slice(a, b) for a, b, _ in spans)].sum() == turned.sum() == 6


@pytest.mark.parametrize("network_type", [ValidUNet, PaddedUNet])
@pytest.mark.parametrize("versions", [1, 8])
def test_a_region_is_answered_as_the_whole(network_type: type, versions: int) -> None:
    torch.manual_seed(0)
    network = network_type(features=(4, 8, 8)).double().eval()
    inferer = RotationAveragingInferer(OverlapTileInferer(roi_size=68), versions)
    region_inferer = RegionInferer(inferer, network)
    image = torch.rand(1, 1, 97, 70, dtype=torch.float64)  # no multiple of 4
    with torch.no_grad():
        whole = inferer(image, network)
        for rows, columns in ((0, 0), (32, 64), (64, 32), (96, 64)):
            region = (slice(rows, min(97, rows + 32)), slice(columns, min(70, columns + 32)))
            window = window_of(image, region, region_inferer.reach)
            found = region_inferer(window, region, (97, 70), (68, 68))
            # the averages over versions pass through float32
            bound = 1e-12 if versions == 1 else 1e-5
            assert (found - whole[(..., *region)]).abs().max() < bound


def test_a_region_of_a_volume_is_answered_as_the_whole() -> None:
    torch.manual_seed(0)
    network = ValidUNet(spatial_dims=3, features=(2, 4)).double().eval()
    inferer = RotationAveragingInferer(OverlapTileInferer(), 7)
    region_inferer = RegionInferer(inferer, network, 3)
    image = torch.rand(1, 1, 9, 30, 21, dtype=torch.float64)
    region = (slice(4, 9), slice(16, 30), slice(0, 16))
    with torch.no_grad():
        whole = inferer(image, network)
        window = window_of(image, region, region_inferer.reach)
        roi = region_inferer.tile_size((16, 16, 16), 2**28)
        found = region_inferer(window, region, (9, 30, 21), roi)
    assert (found - whole[(..., *region)]).abs().max() < 1e-5


@pytest.mark.parametrize("kernels", [[(1, 3, 3), 3], [(3, 3, 1), 3], [(1, 1, 3), (1, 3, 3), 3]])
def test_a_region_of_a_volume_is_answered_by_kernels_of_each_axis(kernels: list[Any]) -> None:
    torch.manual_seed(0)
    strides = [tuple(1 if k == 1 else 2 for k in level) for level in kernels[:-1]]
    features = (2,) * len(kernels)
    network = ValidUNet(3, features=features, kernel_size=kernels, strides=strides).double().eval()
    inferer = RotationAveragingInferer(OverlapTileInferer(), 8)
    region_inferer = RegionInferer(inferer, network, 3)
    image = torch.rand(1, 1, 13, 30, 21, dtype=torch.float64)
    region = (slice(4, 13), slice(16, 30), slice(0, 18))
    with torch.no_grad():
        whole = inferer(image, network)
        window = window_of(image, region, region_inferer.reach)
        roi = region_inferer.tile_size((16, 16, 20), 2**28)
        found = region_inferer(window, region, (13, 30, 21), roi)
    assert (found - whole[(..., *region)]).abs().max() < 1e-5


def test_half_precision_is_kept_and_sliding_windows_are_refused() -> None:
    network = ValidUNet(features=(4, 8)).eval()
    image = torch.rand(1, 1, 40, 40)
    inferer = MixedPrecisionInferer(OverlapTileInferer(), "bfloat16")
    region_inferer = RegionInferer(inferer, network)
    region = (slice(0, 40), slice(0, 40))
    with torch.no_grad():
        window = window_of(image, region, region_inferer.reach)
        found = region_inferer(window, region, (40, 40), (80, 80))
        assert found.dtype == torch.float32
        assert torch.equal(found, inferer(image, network))
    with pytest.raises(GeometryError, match=r"SlidingWindowInferer.*OverlapTileInferer"):
        RegionInferer(SlidingWindowInferer(32), network)


def test_the_inferer_that_others_share_stays_as_it_is() -> None:
    network = ValidUNet(features=(4, 8)).eval()
    for limit in (None, 2**26):
        inferer = OverlapTileInferer(memory_limit=limit)
        small = RegionInferer(inferer, network).tile_size((4096, 4096), 2**20)
        assert inferer.memory_limit == limit
        large = RegionInferer(inferer, network).tile_size((4096, 4096), 2**28)
        assert small[0] < large[0]


@pytest.mark.parametrize("images", [1, 2])
def test_tiles_of_a_region_go_together_as_those_of_an_image_do(images: int) -> None:
    network = ValidUNet(features=(4, 8)).double().eval()
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    inferer = OverlapTileInferer(roi_size=34, sw_batch_size=3)
    image = torch.rand(images, 1, 70, 50, dtype=torch.float64)
    region = (slice(0, 70), slice(0, 50))
    region_inferer = RegionInferer(inferer, network)
    with torch.no_grad():
        window = window_of(image, region, region_inferer.reach)
        found = region_inferer(window, region, (70, 50), (34, 34))
        assert max(sizes) == 3
        assert (found - inferer(image, network)).abs().max() < 1e-12
