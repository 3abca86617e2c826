"""Random deformations as MONAI transforms: drawing and applying are separate steps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep

from overtile.networks.errors import ArgumentError
from overtile.networks.geometry import padding_mode_of
from overtile.transforms.deformation import Deformation, mode_of
from overtile.transforms.metadata import (
    Array,
    as_tensor,
    current,
    like,
    record,
    recorded,
    refuse_empty,
    untracked,
)


class RandElasticDeform(RandomizableTransform, InvertibleTransform):
    """Elastic deformation by random displacements on a coarse grid (U-Net paper, section 3.1).

    Args:
        grid: nodes along each axis, at least 2; the paper's 3.
        sigma: standard deviation of every node's displacement along every axis, in pixels.
        mode: ``"bilinear"``, ``"bicubic"`` (2D) or ``"nearest"`` (labels), or MONAI's other names.
        padding_mode: ``"reflect"``, ``"replicate"`` or ``"constant"``, or MONAI's other names.
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
        self.grid, self.sigma = grid, sigma
        self.mode, self.padding_mode = mode_of(mode), padding_mode_of(padding_mode)
        self.recorded: Deformation | None = None

    def draw(self, spatial_size: Sequence[int]) -> Deformation:
        """A new `Deformation` for images of this size."""
        super().randomize(None)
        check_axes(len(spatial_size))
        refuse_empty(spatial_size)
        dims = len(spatial_size)
        nodes = self.R.normal(0.0, 1.0, size=(dims, *[self.grid] * dims)) * self.sigma
        return Deformation.elastic(spatial_size, nodes if self._do_transform else 0 * nodes)

    def __call__(self, img: Array, draw: Deformation | None = None) -> Array:
        """Deform ``img`` ``[C, *S]``; with ``draw``, replay it instead of drawing.

        Arrays come back as arrays, tensors as tensors on their device, metadata is kept.
        """
        img = current(img)
        self.recorded = draw if draw is not None else self.draw(img.shape[1:])
        return deform(self, [img], self.recorded, [self.mode], self.padding_mode)[0]

    def inverse(self, data: Array) -> Array:
        """The image as it was, where it was spared.

        Raises:
            ValueError: where it was deformed: no inverse is exact.
        """
        return restore(self, data)


class DeformItems(MapTransform, RandomizableTransform, InvertibleTransform):
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
        images = [current(result[key]) for key, _ in found]
        if len({tuple(image.shape[1:]) for image in images}) > 1:
            named = ", ".join(
                f"{key} {tuple(image.shape[1:])}"
                for (key, _), image in zip(found, images, strict=True)
            )
            raise ArgumentError(f"{named}", "one spatial size for keys that move together")
        if images:
            self.recorded = draw if draw is not None else self.draw(images[0].shape[1:])
            modes = [mode for _, mode in found]
            moved = deform(self, images, self.recorded, modes, self.padding_mode)
            result.update({key: image for (key, _), image in zip(found, moved, strict=True)})
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put every key back to where it was in its image.

        Raises:
            ValueError: where pixels were interpolated: no inverse is exact.
        """
        result = dict(data)
        result.update({key: restore(self, result[key]) for key in self.key_iterator(result)})
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
        self.mode = tuple(map(mode_of, ensure_tuple_rep(mode, len(self.keys))))
        self.padding_mode = padding_mode_of(padding_mode)
        self.elastic = RandElasticDeform(grid, sigma, prob=prob)

    def draw(self, spatial_size: Sequence[int]) -> Deformation:
        """A new `Deformation` for images of this size."""
        self.elastic.R = self.R
        return self.elastic.draw(spatial_size)


RandElasticDeformD = RandElasticDeformDict = RandElasticDeformd


def deform(
    transform: InvertibleTransform,
    images: Sequence[Array],
    deformation: Deformation,
    modes: Sequence[str],
    padding_mode: str,
) -> list[Array]:
    """Apply one deformation to images of one size, keeping their kind (array, tensor, metadata).

    Their affine becomes that of the deformation's rigid part.
    """
    tensors = [as_tensor(image) for image in images]
    for tensor in tensors:
        check_axes(tensor.ndim - 1)
    moved = deformation.apply_all(tensors, modes, padding_mode)
    size, drawn = tensors[0].shape[1:], vars(deformation)
    extra = {name: drawn[name] for name in ("shape", "centre", "matrix", "nodes")}
    return [
        record(transform, like(result, image), size, deformation.affine, extra)
        for result, image in zip(moved, images, strict=True)
    ]


def check_axes(count: int) -> None:
    """Refuse images of another number of spatial axes than two or three.

    Raises:
        ValueError: for such a number.
    """
    if count not in (2, 3):
        raise ArgumentError(f"image of {count} spatial axes", "[C, H, W] or [C, D, H, W]")


def restore(transform: InvertibleTransform, image: Array) -> Array:
    """The inverse of `deform` for one image."""
    size, extra = recorded(transform, image)
    deformation = Deformation(  # of tuples and arrays decollating makes lists
        tuple(map(int, extra["shape"])),
        tuple(map(float, extra["centre"])),
        np.asarray(extra["matrix"], np.float64),
        np.asarray(extra["nodes"], np.float64),
    )
    result = like(deformation.undo(as_tensor(image), size), image)
    back = np.linalg.inv(deformation.affine).astype(np.float64)
    restored: Array = untracked(transform, result, back)
    return restored
