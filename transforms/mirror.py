"""Mirrored context around an image, and its removal."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from overtile.networks.errors import ArgumentError
from overtile.networks.geometry import TileGeometry, context_indices
from overtile.transforms.metadata import (
    Array,
    as_tensor,
    current,
    if_tracked,
    like,
    record,
    recorded,
    refuse_empty,
    shifted,
    untracked,
)


class MirrorPad(InvertibleTransform):
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
        img = current(img)
        size, margins = tuple(img.shape[1:]), []
        refuse_empty(size)
        result = as_tensor(img) if isinstance(img, Tensor) else img
        for axis, n in enumerate(size):
            margin, multiple, minimum = self.geometry.axis(axis)
            whole = TileGeometry(margin, multiple, minimum).input_size(n)
            positions = context_indices(-margin, whole - margin, n)
            if isinstance(result, Tensor):
                index = torch.tensor(positions, device=result.device)
                result = result.index_select(axis + 1, index)
            else:
                result = np.take(result, positions, axis=axis + 1)
            margins.append(margin)
        affine = shifted([-m for m in margins])
        padded = tuple(result.shape[1:])
        extra = {"margin": tuple(margins), "padded": padded}
        extended: Array = record(self, like(result, img), size, affine, extra)
        return extended

    def inverse(self, data: Array) -> Array:
        """``[C, *input_size(S)]`` -> ``[C, *S]``, exactly; also of a network's output.

        A valid network's output for the extended image begins with the image's own pixels, so
        what is behind them is cut off.

        Raises:
            ValueError: for another size.
        """
        size, extra = recorded(self, data)
        found = tuple(data.shape[1:])
        margin, padded = (tuple(map(int, extra[name])) for name in ("margin", "padded"))
        output = tuple(n - 2 * m for n, m in zip(padded, margin, strict=True))
        if found not in (padded, output):
            raise ArgumentError(
                f"image of {found}",
                f"{padded}, as it was extended, or {output}, the output of a network for that",
            )
        start = margin if found == padded else (0,) * len(margin)
        result = data[(slice(None), *(slice(m, m + n) for m, n in zip(start, size, strict=True)))]
        restored: Array = untracked(self, result, shifted(margin))
        return restored


class CropToOutput(InvertibleTransform):
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
        img = current(img)
        size = tuple(img.shape[1:])
        margins = ensure_tuple_rep(self.margin, len(size))
        if any(n <= 2 * m for n, m in zip(size, margins, strict=True)):
            raise ArgumentError(
                f"tile of {tuple(size)}", f"more than twice the margin of {margins}"
            )
        inner = (slice(None), *(slice(m, n - m) for n, m in zip(size, margins, strict=True)))
        result = if_tracked(img[inner])
        cropped: Array = record(self, result, size, shifted(margins), {"margin": margins})
        return cropped

    def inverse(self, data: Array) -> Array:
        """``[C, *(S - 2 * margin)]`` -> ``[C, *S]``: in its place, with 0 where the margin was.

        Raises:
            ValueError: for another size.
        """
        size, extra = recorded(self, data)
        margins, found = extra["margin"], tuple(data.shape[1:])
        inner = tuple(slice(m, n - m) for n, m in zip(size, margins, strict=True))
        expected = tuple(s.stop - s.start for s in inner)
        if found != expected:
            raise ArgumentError(f"image of {found}", f"{expected}, as it was cropped")
        tensor = as_tensor(data)
        whole = tensor.new_zeros((len(tensor), *size))
        whole[(slice(None), *inner)] = tensor
        restored: Array = untracked(self, like(whole, data), shifted([-m for m in margins]))
        return restored


class MirrorPadd(MapTransform, InvertibleTransform):
    """`MirrorPad` for dictionaries."""

    def __init__(
        self, keys: KeysCollection, geometry: TileGeometry, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform: MirrorPad | CropToOutput = MirrorPad(geometry)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to every key."""
        result = dict(data)
        result.update({key: self.transform(result[key]) for key in self.key_iterator(result)})
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take back from every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.inverse(result[key])
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


MirrorPadD = MirrorPadDict = MirrorPadd
CropToOutputD = CropToOutputDict = CropToOutputd
