"""Bring the grey values of an image to a common range."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray
from torch import Tensor

from overtile.networks.errors import ArgumentError

METHODS = ("zscore", "percentile", "none")
PERCENTILES = (1, 99.8)


class NormalizeImage(Transform):
    """Normalise each image by its own grey values.

    Args:
        method: ``"zscore"``: mean 0 and standard deviation 1, the default of this package;
            ``"percentile"``: the 1st percentile becomes 0 and the 99.8th 1, without clipping, as
            in StarDist, for images with a few very bright spots; ``"none"``: as they are, for
            images whose grey values mean something absolute.

    Raises:
        ValueError: for another method.
    """

    def __init__(self, method: str = "zscore") -> None:
        if method not in METHODS:
            raise ArgumentError(f"normalize={method!r}", ", ".join(METHODS))
        self.method = method

    def __call__(self, image: NDArray[Any] | Tensor) -> NDArray[np.float32] | Tensor:
        """Image ``[1, *S]`` -> the same shape, float32. A constant image becomes 0."""
        plain = image
        if isinstance(plain, Tensor):
            plain = (plain.as_tensor() if isinstance(plain, MetaTensor) else plain).cpu().numpy()
        values = plain.astype(np.float64)
        if self.method == "zscore":
            low, width = values.mean(), values.std()
        elif self.method == "percentile":
            low, high = np.percentile(values, PERCENTILES)
            width = high - low
        else:
            low, width = 0.0, 1.0
        result = scaled(values, float(low), float(width))
        normalised: NDArray[np.float32] | Tensor
        normalised = convert_to_dst_type(result, image, dtype=np.float32)[0]
        return normalised


def scaled(values: NDArray[Any], low: float, width: float) -> NDArray[np.float32]:
    """Grey values of which ``low`` becomes 0 and ``low + width`` 1; a width of 0 counts as 1."""
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
