"""What a network that tells cells from background learns of instances."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from overtile.networks.losses.ignored import IGNORED
from overtile.transforms.instance_labels import Labels, instance_array
from overtile.transforms.metadata import current, like


class ForegroundFromInstances(Transform):
    """Classes of instances: 0 is background, 1 any cell, and -1 stays: nothing is annotated.

    `monai.transforms.AsDiscrete` with a threshold would take what is not annotated for background.

    Raises:
        ValueError: for labels that are no instance labels.

    Example:
        >>> ForegroundFromInstances()(np.array([[[0, 7, 7, -1, 2]]])).tolist()
        [[[0, 1, 1, -1, 1]]]
    """

    def __call__(self, labels: Labels) -> Labels:
        """Instances ``[1, *S]``, whole numbers -> classes ``[1, *S]`` int32."""
        labels = current(labels)
        array = instance_array(labels)
        classes = np.where(array < 0, np.int32(IGNORED), (array > 0).astype(np.int32))
        result: Labels = like(classes[None], labels)
        return result


class ForegroundFromInstancesd(MapTransform):
    """`ForegroundFromInstances` for dictionaries."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.foreground = ForegroundFromInstances()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make classes of the instances of every key."""
        result = dict(data)
        result.update({key: self.foreground(result[key]) for key in self.key_iterator(result)})
        return result


ForegroundFromInstancesD = ForegroundFromInstancesDict = ForegroundFromInstancesd
