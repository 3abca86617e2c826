"""Tile geometry, the valid-convolution U-Net, the overlap-tile inferer, losses."""

from overtile.networks.errors import ArgumentError as ArgumentError
from overtile.networks.errors import ClassesError as ClassesError
from overtile.networks.errors import GeometryError as GeometryError
from overtile.networks.geometry import TileGeometry as TileGeometry
from overtile.networks.geometry import context_indices as context_indices
from overtile.networks.inferers.averaging import (
    RotationAveragingInferer as RotationAveragingInferer,
)
from overtile.networks.inferers.cost import peak_bytes as peak_bytes
from overtile.networks.inferers.overlap_tile import OverlapTileInferer as OverlapTileInferer
from overtile.networks.inferers.precision import MixedPrecisionInferer as MixedPrecisionInferer
from overtile.networks.inferers.region import RegionInferer as RegionInferer
from overtile.networks.inferers.spacing import SpacingInferer as SpacingInferer
from overtile.networks.inferers.tiling import Tile as Tile
from overtile.networks.inferers.tiling import Tiling as Tiling
from overtile.networks.inferers.tiling import plan_tiles as plan_tiles
from overtile.networks.inferers.tiling import read_tile as read_tile
from overtile.networks.losses.cross_entropy_dice import (
    CrossEntropyDiceLoss as CrossEntropyDiceLoss,
)
from overtile.networks.losses.weighted_cross_entropy import (
    PixelWeightedCrossEntropyLoss as PixelWeightedCrossEntropyLoss,
)
from overtile.networks.nets.unet import PaddedUNet as PaddedUNet
from overtile.networks.nets.unet import ValidUNet as ValidUNet
from overtile.networks.network import geometry_of as geometry_of
from overtile.networks.plan import UNetPlan as UNetPlan
from overtile.networks.plan import plan_unet as plan_unet
from overtile.networks.receptive_field import (
    ReceptiveField as ReceptiveField,
)
from overtile.networks.receptive_field import (
    measure_receptive_field as measure_receptive_field,
)
