"""Tile geometry, the valid-convolution U-Net, the overlap-tile inferer, losses."""

from overtile.networks.averaging import RotationAveragingInferer as RotationAveragingInferer
from overtile.networks.geometry import GeometryError as GeometryError
from overtile.networks.geometry import TileGeometry as TileGeometry
from overtile.networks.geometry import mirror_indices as mirror_indices
from overtile.networks.inferer import OverlapTileInferer as OverlapTileInferer
from overtile.networks.inferer import geometry_of as geometry_of
from overtile.networks.losses import (
    PixelWeightedCrossEntropyLoss as PixelWeightedCrossEntropyLoss,
)
from overtile.networks.memory import peak_bytes as peak_bytes
from overtile.networks.precision import MixedPrecisionInferer as MixedPrecisionInferer
from overtile.networks.region import RegionInferer as RegionInferer
from overtile.networks.tiling import Tile as Tile
from overtile.networks.tiling import Tiling as Tiling
from overtile.networks.tiling import plan_tiles as plan_tiles
from overtile.networks.tiling import read_tile as read_tile
from overtile.networks.unet import PaddedUNet as PaddedUNet
from overtile.networks.unet import ValidUNet as ValidUNet
