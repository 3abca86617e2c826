"""MONAI transforms: elastic deformation, tiles, borders, weight map, mirrored context.

Of a name, ``d``, ``D`` and ``Dict`` at its end are the same form for dictionaries, as in MONAI.
"""

from overtile.transforms.class_weight_map import ClassWeightMap as ClassWeightMap
from overtile.transforms.class_weight_map import ClassWeightMapD as ClassWeightMapD
from overtile.transforms.class_weight_map import ClassWeightMapd as ClassWeightMapd
from overtile.transforms.class_weight_map import ClassWeightMapDict as ClassWeightMapDict
from overtile.transforms.classes import ClassesFromProbabilities as ClassesFromProbabilities
from overtile.transforms.classes import ClassesFromProbabilitiesD as ClassesFromProbabilitiesD
from overtile.transforms.classes import ClassesFromProbabilitiesd as ClassesFromProbabilitiesd
from overtile.transforms.classes import (
    ClassesFromProbabilitiesDict as ClassesFromProbabilitiesDict,
)
from overtile.transforms.deformation import Deformation as Deformation
from overtile.transforms.deformed_tile import RandDeformedTile as RandDeformedTile
from overtile.transforms.deformed_tile import RandDeformedTileD as RandDeformedTileD
from overtile.transforms.deformed_tile import RandDeformedTiled as RandDeformedTiled
from overtile.transforms.deformed_tile import RandDeformedTileDict as RandDeformedTileDict
from overtile.transforms.each_channel import RandEachChannelD as RandEachChannelD
from overtile.transforms.each_channel import RandEachChanneld as RandEachChanneld
from overtile.transforms.each_channel import RandEachChannelDict as RandEachChannelDict
from overtile.transforms.elastic import RandElasticDeform as RandElasticDeform
from overtile.transforms.elastic import RandElasticDeformD as RandElasticDeformD
from overtile.transforms.elastic import RandElasticDeformd as RandElasticDeformd
from overtile.transforms.elastic import RandElasticDeformDict as RandElasticDeformDict
from overtile.transforms.foreground import ForegroundFromInstances as ForegroundFromInstances
from overtile.transforms.foreground import ForegroundFromInstancesD as ForegroundFromInstancesD
from overtile.transforms.foreground import ForegroundFromInstancesd as ForegroundFromInstancesd
from overtile.transforms.foreground import (
    ForegroundFromInstancesDict as ForegroundFromInstancesDict,
)
from overtile.transforms.instances import InstancesFromProbabilities as InstancesFromProbabilities
from overtile.transforms.instances import InstancesFromProbabilitiesD as InstancesFromProbabilitiesD
from overtile.transforms.instances import InstancesFromProbabilitiesd as InstancesFromProbabilitiesd
from overtile.transforms.instances import (
    InstancesFromProbabilitiesDict as InstancesFromProbabilitiesDict,
)
from overtile.transforms.mirror import CropToOutput as CropToOutput
from overtile.transforms.mirror import CropToOutputD as CropToOutputD
from overtile.transforms.mirror import CropToOutputd as CropToOutputd
from overtile.transforms.mirror import CropToOutputDict as CropToOutputDict
from overtile.transforms.mirror import MirrorPad as MirrorPad
from overtile.transforms.mirror import MirrorPadD as MirrorPadD
from overtile.transforms.mirror import MirrorPadd as MirrorPadd
from overtile.transforms.mirror import MirrorPadDict as MirrorPadDict
from overtile.transforms.normalize import NormalizeImage as NormalizeImage
from overtile.transforms.normalize import NormalizeImageD as NormalizeImageD
from overtile.transforms.normalize import NormalizeImaged as NormalizeImaged
from overtile.transforms.normalize import NormalizeImageDict as NormalizeImageDict
from overtile.transforms.separate import SeparateTouching as SeparateTouching
from overtile.transforms.separate import SeparateTouchingD as SeparateTouchingD
from overtile.transforms.separate import SeparateTouchingd as SeparateTouchingd
from overtile.transforms.separate import SeparateTouchingDict as SeparateTouchingDict
from overtile.transforms.two_nearest import two_nearest_cells as two_nearest_cells
from overtile.transforms.weight_map import BorderWeightMap as BorderWeightMap
from overtile.transforms.weight_map import BorderWeightMapD as BorderWeightMapD
from overtile.transforms.weight_map import BorderWeightMapd as BorderWeightMapd
from overtile.transforms.weight_map import BorderWeightMapDict as BorderWeightMapDict
from overtile.transforms.weight_map import balanced_class_weights as balanced_class_weights
from overtile.transforms.weight_map import class_weights_of_counts as class_weights_of_counts
