"""Random transforms that look at each channel of an image alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from torch import Tensor


class RandEachChanneld(Randomizable, MapTransform):
    """Apply a random transform to each channel as to an image of its own, drawn anew each time.

    For transforms of MONAI that have no ``channel_wise``. Of one channel it gives to the bit what
    the transform alone does.

    Args:
        keys: of images ``[C, *S]``.
        transform: of dictionaries, with these keys; it is given images ``[1, *S]``.
        allow_missing_keys: leave out keys that an item does not have.
    """

    def __init__(
        self, keys: KeysCollection, transform: Any, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = transform

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandEachChanneld:
        """Seed the transform."""
        self.transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Any) -> None:
        """Nothing is drawn here, but by the transform."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform every channel of every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            image: Tensor = result[key]
            alone = (image[n : n + 1] for n in range(len(image)))
            channels = [self.transform({key: channel})[key] for channel in alone]
            result[key] = channels[0] if len(channels) == 1 else torch.cat(channels)
        return result


RandEachChannelD = RandEachChannelDict = RandEachChanneld
