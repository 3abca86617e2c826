"""Training tiles: position, rotation, flip, scale and elastic deformation in one resampling."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform
from monai.transforms.traits import MultiSampleTrait
from monai.utils import ImageMetaKey, ensure_tuple_rep
from numpy.typing import NDArray

from overtile.networks.errors import ArgumentError
from overtile.networks.geometry import padding_mode_of
from overtile.networks.losses.ignored import IGNORED
from overtile.networks.spacing import checked_spacing, spacing_of, steps_between
from overtile.transforms.deformation import Deformation, mode_of
from overtile.transforms.elastic import DeformItems, RandElasticDeform, check_axes, deform, restore
from overtile.transforms.metadata import Array, as_array, current, refuse_empty


class RandDeformedTile(RandomizableTransform, InvertibleTransform, MultiSampleTrait):
    """Cut one random tile, deformed, with mirrored context, by a single interpolation.

    The tile's position, a rotation by any angle, a flip, a change of scale and the elastic
    deformation are drawn together and composed into one `Deformation`, so a pixel is
    interpolated once. In 3D the rotation turns the plane of the last two axes (sections are
    rarely as fine as pixels), ``[Y, X]`` of ``[Z, Y, X]``; of ``[X, Y, Z]``, as NIfTI and DICOM
    are read, that is Y and Z: move the axes first where sections are coarser, or give an equal
    ``spacing``. Flips take every axis.

    With ``spacing`` the tile is one of an image of that spacing: the same interpolation resamples
    too, linearly, and size, margin, displacements and magnification are in pixels of ``spacing``.
    Of an image that has it (to a thousandth) tiles are the same as without, to the bit.

    The affine becomes that of the tile without its elastic deformation. The inverse puts a tile
    that was neither turned by other than right angles, nor scaled or deformed, back into its image,
    with 0 around it; others have no exact inverse.

    Args:
        size: of the tile: the network's *input* size, an int or one an axis.
        margin: context on each side that the network consumes; the rest of the tile, its
            output, is placed inside the image where the image is large enough.
        grid: nodes of the deformation along each axis.
        sigma: standard deviation of the nodes' displacements, in pixels of the image.
        rotate: largest angle in radians, either way; pi turns to any direction.
        scale: smallest and largest magnification.
        flip: mirror each axis with probability 1/2.
        mode: ``"bilinear"``, ``"bicubic"`` (2D) or ``"nearest"`` (labels), or MONAI's other names.
        padding_mode: ``"reflect"``, ``"replicate"`` or ``"constant"``, or MONAI's other names.
        num_samples: give a list of so many tiles instead of one tile.
        pos: how often a tile is placed around a pixel of the label, relative to ``neg``; as of
            `monai.transforms.RandCropByPosNegLabel`.
        neg: how often a tile is placed around a pixel of the background; never around one that
            is not annotated (-1).
        spacing: size of the tile's pixels along each axis of the array, in the unit of the image's
            affine (millimetres); images are `MetaTensor` s then. None takes the image's pixels,
            whatever their size.

    Attributes:
        recorded: the `Deformation` of the last tile, to replay: ``transform(img, draw=recorded)``.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        margin: int | Sequence[int] = 0,
        grid: int = 3,
        sigma: float = 10.0,
        rotate: float = np.pi,
        scale: tuple[float, float] = (0.9, 1.1),
        flip: bool = True,
        mode: str = "bilinear",
        padding_mode: str = "reflect",
        num_samples: int | None = None,
        pos: float = 1.0,
        neg: float = 1.0,
        spacing: Sequence[float] | None = None,
    ) -> None:
        RandomizableTransform.__init__(self, 1.0)
        if not 0 < scale[0] <= scale[1]:
            raise ArgumentError(f"scale={scale}", "0 < smallest <= largest magnification")
        if np.any(np.asarray(margin) < 0):
            raise ArgumentError(f"margin={margin}", "at least 0 pixels on each side")
        outputs = np.asarray(size) - 2 * np.asarray(margin)
        if (outputs < 1).any():
            raise ArgumentError(f"size={size} with margin={margin}", "some output left of the tile")
        if num_samples is not None and num_samples < 1:
            raise ArgumentError(f"num_samples={num_samples}", "at least 1, or None for one tile")
        if min(pos, neg) < 0 or pos + neg <= 0:
            raise ArgumentError(f"pos={pos}, neg={neg}", ">= 0, and one of them above 0")
        self.size, self.margin = size, margin
        self.rotate, self.scale, self.flip = rotate, scale, flip
        self.mode, self.padding_mode = mode_of(mode), padding_mode_of(padding_mode)
        self.num_samples, self.pos, self.neg = num_samples, pos, neg
        self.spacing = None if spacing is None else checked_spacing(spacing)
        self.elastic = RandElasticDeform(grid, sigma)
        self.recorded: Deformation | None = None

    def draw(
        self,
        spatial_size: Sequence[int],
        label: Array | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Deformation:
        """A new tile of an image of this size.

        Args:
            spatial_size: of the image.
            label: ``[C, *S]`` whose pixels above 0 guide the tile: its output shows one of them
                with the probability pos / (pos + neg), else one of the others that are
                annotated (not -1). Where there is none of the kind, one of the other kind, and
                where nothing is annotated, any pixel.
        """
        dims = len(spatial_size)
        check_axes(dims)
        refuse_empty(spatial_size)
        shape = ensure_tuple_rep(self.size, dims)
        margin = ensure_tuple_rep(self.margin, dims)
        self.elastic.R = self.R
        elastic = self.elastic.draw(shape)
        shown = None if label is None else self._draw_pixel(label, spatial_size)
        steps = (1.0,) * dims
        if self.spacing is not None:
            steps = steps_between(self.spacing if spacing is None else spacing, self.spacing)
        centre = []
        sides = zip(spatial_size, shape, margin, steps, strict=True)
        for axis, (n, tile, context, step) in enumerate(sides):
            half = min(step * (tile - 2 * context) / 2, n / 2)
            if shown is None:
                middle = float(self.R.uniform(half, n - half)) - 0.5
            else:
                middle = min(max(shown[axis] + 0.5, half), n - half) - 0.5
            # on whole pixels: a tile that is neither turned nor deformed is not interpolated
            whole = round(middle - (tile - 1) / 2) + (tile - 1) / 2
            centre.append(whole if step == 1 else middle)
        matrix, nodes = self._draw_matrix(dims), elastic.nodes
        rows = np.reshape(steps, (dims, 1))  # from pixels of the tile to those of the image
        nodes = (rows * nodes.reshape(dims, -1)).reshape(nodes.shape)
        return Deformation(shape, tuple(centre), rows * matrix, nodes)

    def spacing_in(self, image: Array) -> tuple[float, ...] | None:
        """That of an image ``[C, *S]``, where it is asked for.

        Raises:
            ValueError: if it is not known.
        """
        return None if self.spacing is None else spacing_of(image, image.ndim - 1)

    def _draw_pixel(self, label: Array, spatial_size: Sequence[int]) -> tuple[int, ...]:
        array = as_array(label)
        cell = (array > 0).any(0)
        if cell.shape != tuple(spatial_size):
            raise ArgumentError(f"label of {cell.shape}", f"{tuple(spatial_size)}, as the image")
        wanted = self.R.uniform() * (self.pos + self.neg) < self.pos
        annotated = cell | (array != IGNORED).all(0)
        places = np.flatnonzero(annotated & (cell == wanted))
        if not len(places):
            places = np.flatnonzero(annotated) if annotated.any() else np.arange(cell.size)
        place = places[self.R.randint(len(places))]
        return tuple(int(i) for i in np.unravel_index(place, cell.shape))

    def _draw_matrix(self, dims: int) -> NDArray[np.float64]:
        angle = self.R.uniform(-self.rotate, self.rotate)
        low, high = np.log(self.scale)
        magnification = np.exp(self.R.uniform(low, high))
        flips = self.R.randint(2, size=dims) * 2.0 - 1.0 if self.flip else np.ones(dims)
        matrix = np.eye(dims)
        matrix[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turned: NDArray[np.float64] = matrix @ np.diag(flips) / magnification
        return turned

    def __call__(
        self, img: Array, label: Array | None = None, draw: Deformation | None = None
    ) -> Array | list[Array]:
        """Tile ``[C, *size]`` of an image ``[C, *S]``, or a list of tiles.

        Args:
            img: array, tensor or `MetaTensor`; a tile is the same.
            label: guides the tiles, see `draw`; None places them anywhere.
            draw: a tile to cut again, instead of drawing.

        Raises:
            ValueError: with ``spacing``, for an image whose own is not known, or too far from it.
        """
        image = current(img)
        guide = None if label is None else current(label)

        def one(drawn: Deformation | None) -> Array:
            self.recorded = drawn or self.draw(image.shape[1:], guide, self.spacing_in(image))
            return deform(self, [image], self.recorded, [self.mode], self.padding_mode)[0]

        if draw is not None or self.num_samples is None:
            return one(draw)
        return [_numbered(one(None), number) for number in range(self.num_samples)]

    def inverse(self, data: Array) -> Array:
        """The image ``[C, *S]`` with the tile where it was cut, and 0 around it.

        Raises:
            ValueError: where pixels were interpolated: no inverse is exact.
        """
        return restore(self, data)


class RandDeformedTiled(DeformItems, MultiSampleTrait):
    """`RandDeformedTile` for dictionaries: all keys move together.

    Args:
        keys: of images ``[C, *S]`` of one spatial size.
        size: see `RandDeformedTile`.
        margin: see `RandDeformedTile`.
        grid: see `RandDeformedTile`.
        sigma: see `RandDeformedTile`.
        rotate: see `RandDeformedTile`.
        scale: see `RandDeformedTile`.
        flip: see `RandDeformedTile`.
        mode: one for all keys, or one a key; ``"nearest"`` for labels.
        padding_mode: see `RandDeformedTile`.
        allow_missing_keys: leave out keys that an item does not have.
        num_samples: give a list of so many dictionaries instead of one.
        label_key: of the label ``[C, *S]`` that guides the tiles by ``pos`` and ``neg``; None
            places them anywhere.
        pos: see `RandDeformedTile`.
        neg: see `RandDeformedTile`.
        spacing: see `RandDeformedTile`; the image of the first key has to be a `MetaTensor` then,
            and all keys move as it does.

    Attributes:
        recorded: the `Deformation` of the last call, to replay: ``transform(data, draw=recorded)``.

    Raises:
        ValueError: for an argument out of range, or images of different sizes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int | Sequence[int],
        margin: int | Sequence[int] = 0,
        grid: int = 3,
        sigma: float = 10.0,
        rotate: float = np.pi,
        scale: tuple[float, float] = (0.9, 1.1),
        flip: bool = True,
        mode: str | Sequence[str] = "bilinear",
        padding_mode: str = "reflect",
        allow_missing_keys: bool = False,
        num_samples: int | None = None,
        label_key: str | None = None,
        pos: float = 1.0,
        neg: float = 1.0,
        spacing: Sequence[float] | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.mode = tuple(map(mode_of, ensure_tuple_rep(mode, len(self.keys))))
        self.padding_mode = padding_mode_of(padding_mode)
        self.tile = RandDeformedTile(
            size,
            margin,
            grid,
            sigma,
            rotate,
            scale,
            flip,
            num_samples=num_samples,
            pos=pos,
            neg=neg,
            spacing=spacing,
        )
        self.size, self.num_samples, self.label_key = size, num_samples, label_key

    def draw(
        self,
        spatial_size: Sequence[int],
        label: Array | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Deformation:
        """A new tile of an image of this size; arguments as of `RandDeformedTile.draw`."""
        self.tile.R = self.R
        return self.tile.draw(spatial_size, label, spacing)

    def __call__(  # type: ignore[override]
        self, data: Mapping[Hashable, Any], draw: Deformation | None = None
    ) -> dict[Hashable, Any] | list[dict[Hashable, Any]]:
        """Cut the same tile of every key; with ``draw``, replay it instead of drawing.

        Raises:
            KeyError: if the label that guides the tiles is missing.
            ValueError: as `RandDeformedTile`.
        """
        whole = dict(data)
        for key in self.key_iterator(whole):  # once for all tiles
            whole[key] = current(whole[key])
        guide = None if draw is not None or self.label_key is None else whole[self.label_key]
        guide = None if guide is None else current(guide)

        def one(drawn: Deformation | None) -> dict[Hashable, Any]:
            first = next((whole[key] for key in self.key_iterator(whole)), None)
            if drawn is None and first is not None:
                drawn = self.draw(first.shape[1:], guide, self.tile.spacing_in(first))
            return super(RandDeformedTiled, self).__call__(whole, drawn)

        if draw is not None or self.num_samples is None:
            return one(draw)
        items = [one(None) for _ in range(self.num_samples)]
        for number, item in enumerate(items):
            for key in self.key_iterator(item):
                _numbered(item[key], number)
        return items


def _numbered(tile: Array, number: int) -> Array:
    """A tile that knows its number among those of its image, where metadata are tracked."""
    if isinstance(tile, MetaTensor):
        tile.meta[ImageMetaKey.PATCH_INDEX] = number
    return tile


RandDeformedTileD = RandDeformedTileDict = RandDeformedTiled
