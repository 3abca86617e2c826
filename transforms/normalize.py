"""Bring the grey values of an image to a common range."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray
from torch import Tensor

from overtile.networks.errors import ArgumentError
from overtile.transforms.metadata import as_array, current, like, refuse_empty

METHODS = ("zscore", "percentile", "none")
PERCENTILES = (1, 99.8)


class NormalizeImage(Transform):
    """Normalise each channel of an image by its own grey values.

    Args:
        method: ``"zscore"``: mean 0 and standard deviation 1, the default of this package;
            ``"percentile"``: the 1st percentile becomes 0 and the 99.8th 1, without clipping, as
            in StarDist, for images with a few very bright spots, or, where one grey value is
            all between them, the lowest becomes 0 and the highest 1; ``"none"``: as they are, for
            images whose grey values mean something absolute.

    Raises:
        ValueError: for another method.
    """

    def __init__(self, method: str = "zscore") -> None:
        if method not in METHODS:
            raise ArgumentError(f"normalize={method!r}", ", ".join(METHODS))
        self.method = method

    def __call__(self, image: NDArray[Any] | Tensor) -> NDArray[np.float32] | Tensor:
        """Image ``[C, *S]`` -> the same shape, float32. A constant channel becomes 0."""
        image = current(image)
        refuse_empty(image.shape)
        given = as_array(image)
        result = np.empty(given.shape, np.float32)
        for channel, values in zip(result, given, strict=True):
            channel[...] = self._normalised(values.astype(np.float64))
        normalised: NDArray[np.float32] | Tensor
        normalised = like(result, image)
        return normalised

    def _normalised(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        low, width = 0.0, 1.0
        if self.method == "zscore":
            spread = float(values.min()), float(values.max())
            low, width = moment_scale(float(values.mean()), float(values.std()), *spread)
        elif self.method == "percentile":
            wanted = ranks(values.size)
            ordered = np.partition(values.ravel(), wanted)
            low, width = percentile_scale({r: float(ordered[r]) for r in wanted}, values.size)
        return scaled(values, low, width)


def moment_scale(
    mean: float, deviation: float, lowest: float, highest: float
) -> tuple[float, float]:
    """Mean and width; the deviation of equal values is 0, and not what rounding leaves of it."""
    return (mean, deviation) if lowest < highest else (lowest, 0.0)


def ranks(count: int) -> list[int]:
    """Which of so many values in order, from 0, `percentile_scale` needs."""
    around = (end(place) for place in _places(count) for end in (math.floor, math.ceil))
    return sorted({0, count - 1, *around})


def percentile_scale(ordered: Mapping[int, float], count: int) -> tuple[float, float]:
    """Low and width of `PERCENTILES`, from the values at the `ranks` of so many.

    The range of the values, where nothing but one grey value lies between the percentiles: in an
    image of a few spots they are both the background's, or a little off it by interpolation.
    """
    first, last = _places(count)
    if ordered[math.ceil(first)] >= ordered[math.floor(last)]:
        return ordered[0], ordered[count - 1] - ordered[0]
    low, high = (_between(ordered, place) for place in (first, last))
    return low, high - low


def _places(count: int) -> list[float]:
    return [(count - 1) * (q / 100) for q in PERCENTILES]


def _between(ordered: Mapping[int, float], place: float) -> float:
    """Linear between two neighbours in order, computed as NumPy does."""
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    share = place - math.floor(place)
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def scaled(values: NDArray[Any], low: float, width: float) -> NDArray[np.float32]:
    """Grey values of which ``low`` becomes 0 and ``low + width`` 1; all 0 if they are constant."""
    result: NDArray[np.float32] = ((values - low) / (width or 1)).astype(np.float32)
    return result


class NormalizeImaged(MapTransform):
    """`NormalizeImage` for dictionaries."""

    def __init__(
        self, keys: KeysCollection, method: str = "zscore", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalize = NormalizeImage(method)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.normalize(result[key])
        return result


NormalizeImageD = NormalizeImageDict = NormalizeImaged
