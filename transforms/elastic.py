"""Random deformations as MONAI transforms: drawing and applying are separate steps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from numpy.typing import NDArray
from torch import Tensor

from overtile.networks.errors import ArgumentError
from overtile.transforms.deformation import Deformation, check_choices

Array = NDArray[Any] | Tensor


class RandElasticDeform(RandomizableTransform):
    """Elastic deformation by random displacements on a coarse grid (U-Net paper, section 3.1).

    Args:
        grid: nodes along each axis, at least 2; the paper's 3.
        sigma: standard deviation of every node's displacement along every axis, in pixels.
        mode: ``"bilinear"``, ``"bicubic"`` (2D) or ``"nearest"`` (labels).
        padding_mode: ``"reflect"``, ``"replicate"`` or ``"constant"``.
        prob: probability of deforming at all.

    Attributes:
        recorded: the `Deformation` of the last call, the identity where ``prob`` spared the
            image. Give it to ``transform(image, draw=recorded)``, or to ``recorded.apply``, to
            replay it.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> transform = RandElasticDeform(sigma=10).set_random_state(seed=0)
        >>> image = torch.rand(1, 64, 64)
        >>> first = transform(image)
        >>> bool((transform(image, draw=transform.recorded) == first).all())
        True
    """

    def __init__(
        self,
        grid: int = 3,
        sigma: float = 10.0,
        mode: str = "bilinear",
        padding_mode: str = "reflect",
        prob: float = 1.0,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if grid < 2:
            raise ArgumentError(f"grid={grid}", "at least 2 nodes an axis")
        if sigma < 0:
            raise ArgumentError(f"sigma={sigma}", "a standard deviation >= 0, in pixels")
        check_choices([mode], padding_mode)
        self.grid, self.sigma = grid, sigma
        self.mode, self.padding_mode = mode, padding_mode
        self.recorded: Deformation | None = None

    def draw(self, spatial_size: Sequence[int]) -> Deformation:
        """A new `Deformation` for images of this size."""
        super().randomize(None)
        dims = len(spatial_size)
        nodes = self.R.normal(0.0, 1.0, size=(dims, *[self.grid] * dims)) * self.sigma
        return Deformation.elastic(spatial_size, nodes if self._do_transform else 0 * nodes)

    def __call__(self, img: Array, draw: Deformation | None = None) -> Array:
        """Deform ``img`` ``[C, *S]``; with ``draw``, replay it instead of drawing.

        Arrays come back as arrays, tensors as tensors on their device, metadata is kept.
        """
        self.recorded = draw if draw is not None else self.draw(img.shape[1:])
        return deform([img], self.recorded, [self.mode], self.padding_mode)[0]


class DeformItems(MapTransform, RandomizableTransform):
    """What the dictionary transforms share: one draw moves all keys."""

    mode: tuple[str, ...]
    padding_mode: str
    recorded: Deformation | None = None

    def draw(self, spatial_size: Sequence[int]) -> Deformation:
        """A new `Deformation` for images of this size."""
        raise NotImplementedError

    def __call__(
        self, data: Mapping[Hashable, Any], draw: Deformation | None = None
    ) -> dict[Hashable, Any]:
        """Deform every key by one field; with ``draw``, replay it instead of drawing."""
        result = dict(data)
        found = list(self.key_iterator(result, self.mode))
        images = [result[key] for key, _ in found]
        if len({tuple(image.shape[1:]) for image in images}) > 1:
            named = ", ".join(f"{key} {tuple(result[key].shape[1:])}" for key, _ in found)
            raise ArgumentError(named, "one spatial size for keys that move together")
        if images:
            self.recorded = draw if draw is not None else self.draw(images[0].shape[1:])
            modes = [mode for _, mode in found]
            moved = deform(images, self.recorded, modes, self.padding_mode)
            result.update({key: image for (key, _), image in zip(found, moved, strict=True)})
        return result


class RandElasticDeformd(DeformItems):
    """`RandElasticDeform` for dictionaries: all keys move together.

    Args:
        keys: of images ``[C, *S]`` of one spatial size.
        grid: see `RandElasticDeform`.
        sigma: see `RandElasticDeform`.
        mode: one for all keys, or one a key; ``"nearest"`` for labels.
        padding_mode: see `RandElasticDeform`.
        prob: see `RandElasticDeform`.
        allow_missing_keys: leave out keys that an item does not have.

    Raises:
        ValueError: for an argument out of range, or images of different sizes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        grid: int = 3,
        sigma: float = 10.0,
        mode: str | Sequence[str] = "bilinear",
        padding_mode: str = "reflect",
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.mode, self.padding_mode = ensure_tuple_rep(mode, len(self.keys)), padding_mode
        check_choices(self.mode, padding_mode)
        self.elastic = RandElasticDeform(grid, sigma, prob=prob)

    def draw(self, spatial_size: Sequence[int]) -> Deformation:
        """A new `Deformation` for images of this size."""
        self.elastic.R = self.R
        return self.elastic.draw(spatial_size)


def deform(
    images: Sequence[Array],
    deformation: Deformation,
    modes: Sequence[str],
    padding_mode: str,
) -> list[Array]:
    """Apply one deformation to images of one size, keeping their kind (array, tensor, metadata)."""
    tensors = [_plain(image) for image in images]
    if wrong := [tensor.shape for tensor in tensors if tensor.ndim not in (3, 4)]:
        raise ArgumentError(f"image of shape {tuple(wrong[0])}", "[C, H, W] or [C, D, H, W]")
    moved = deformation.apply_all(tensors, modes, padding_mode)
    return [
        convert_to_dst_type(result, image, dtype=result.dtype)[0]
        for result, image in zip(moved, images, strict=True)
    ]


def _plain(image: Array) -> Tensor:
    if isinstance(image, MetaTensor):
        return image.as_tensor()
    return image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image))
