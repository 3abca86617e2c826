"""Mirrored context around an image, and its removal."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import ensure_tuple_rep
from numpy.typing import NDArray
from torch import Tensor

from overtile.networks.errors import ArgumentError
from overtile.networks.geometry import TileGeometry, context_indices

Array = NDArray[Any] | Tensor


class MirrorPad(Transform):
    """Extend an image by mirrored context so that a network's output covers all of it.

    The edge pixel is not doubled; an image shorter than the margin is mirrored repeatedly.
    ``CropToOutput(geometry)`` of the extended image begins with the image itself.

    Args:
        geometry: of the network that will see the image.

    Example:
        >>> pad = MirrorPad(TileGeometry.unet(depth=1))  # margin 8
        >>> pad(np.arange(10)[None])[0, :12].tolist()
        [8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3]
    """

    def __init__(self, geometry: TileGeometry) -> None:
        self.geometry = geometry

    def __call__(self, img: Array) -> Array:
        """``[C, *S]`` -> ``[C, *input_size(S)]``, the image at offset ``margin``."""
        for axis, n in enumerate(img.shape[1:]):
            margin, multiple, minimum = self.geometry.axis(axis)
            size = TileGeometry(margin, multiple, minimum).input_size(n)
            positions = context_indices(-margin, size - margin, n)
            if isinstance(img, Tensor):
                index = torch.tensor(positions, device=img.device)
                img = img.index_select(axis + 1, index)
            else:
                img = np.take(img, positions, axis=axis + 1)
        return img


class CropToOutput(Transform):
    """The pixels of a tile that the network answers for: ``margin`` less on each side.

    Args:
        geometry: of the network, or the margin itself: an int or one an axis.

    Raises:
        ValueError: if the margin leaves nothing.
    """

    def __init__(self, geometry: TileGeometry | int | Sequence[int]) -> None:
        self.margin = geometry.margin if isinstance(geometry, TileGeometry) else geometry

    def __call__(self, img: Array) -> Array:
        """``[C, *S]`` -> ``[C, *(S - 2 * margin)]``, a view."""
        size = img.shape[1:]
        margins = ensure_tuple_rep(self.margin, len(size))
        if any(n <= 2 * m for n, m in zip(size, margins, strict=True)):
            raise ArgumentError(
                f"tile of {tuple(size)}", f"more than twice the margin of {margins}"
            )
        return img[(slice(None), *(slice(m, n - m) for n, m in zip(size, margins, strict=True)))]


class MirrorPadd(MapTransform):
    """`MirrorPad` for dictionaries."""

    def __init__(
        self, keys: KeysCollection, geometry: TileGeometry, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform: Transform = MirrorPad(geometry)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to every key."""
        result = dict(data)
        result.update({key: self.transform(result[key]) for key in self.key_iterator(result)})
        return result


class CropToOutputd(MirrorPadd):
    """`CropToOutput` for dictionaries."""

    def __init__(
        self,
        keys: KeysCollection,
        geometry: TileGeometry | int | Sequence[int],
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = CropToOutput(geometry)
