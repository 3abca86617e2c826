import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from overtile.networks import (
    GeometryError,
    OverlapTileInferer,
    PaddedUNet,
    ValidUNet,
    measure_receptive_field,
)


class Wide(nn.Module):
    """Sees ``radius`` pixels to each side, and pools by ``period``: nothing in between."""

    def __init__(self, radius: int, period: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 2 * radius + 1, padding=radius)
        self.pool = nn.AvgPool2d(period) if period > 1 else nn.Identity()
        self.up = nn.Upsample(scale_factor=period) if period > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.up(self.pool(self.convolution(x)))
        return result


@pytest.mark.parametrize(("radius", "period"), [(0, 1), (1, 1), (5, 1), (3, 2), (2, 4), (4, 3)])
def test_what_was_built_is_measured(radius: int, period: int) -> None:
    found = measure_receptive_field(Wide(radius, period), 60)
    assert (found.radius, found.period) == (radius + period - 1, period)


@pytest.mark.parametrize("depth", [1, 2])
def test_our_networks_have_the_geometry_that_is_measured(depth: int) -> None:
    features = (4, 8, 16)[: depth + 1]
    valid, padded = ValidUNet(features=features), PaddedUNet(features=features)
    size = valid.geometry.input_size(160)
    assert isinstance(size, int)
    margin, multiple, _ = valid.geometry.axis(0)
    found = measure_receptive_field(valid, size)
    assert (found.radius, found.period) == (margin + multiple - 1, multiple)
    found = measure_receptive_field(padded, 160)
    assert found.geometry == padded.geometry
    assert valid.training  # as it was


def test_a_measured_geometry_makes_tiles_exact() -> None:
    network = UNet(2, 1, 2, (4, 8, 16), (2, 2), norm="batch").eval()
    geometry = measure_receptive_field(network, 96).geometry
    image = torch.randn(1, 1, 96, 128)
    with torch.no_grad():
        tiles = OverlapTileInferer(roi_size=64, geometry=geometry)(image, network)
        whole = network(image)
    inner = (..., slice(16, -16), slice(16, -16))
    assert torch.allclose(tiles[inner], whole[inner], atol=1e-5)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(GeometryError, match="sees 20 pixels"):
        measure_receptive_field(Wide(20, 1), 60)
    with pytest.raises(GeometryError, match="no shift below"):
        measure_receptive_field(UNet(2, 1, 2, (4, 8), (2,), norm="instance"), 32)
