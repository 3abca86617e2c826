"""Training tiles: position, rotation, flip, scale and elastic deformation in one resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep
from numpy.typing import NDArray

from overtile.networks.errors import ArgumentError
from overtile.transforms.deformation import Deformation, check_choices
from overtile.transforms.elastic import DeformItems, RandElasticDeform


class RandDeformedTiled(DeformItems):
    """Cut one random tile, deformed, with mirrored context, by a single interpolation.

    The tile's position, a rotation by any angle, a flip, a change of scale and the elastic
    deformation are drawn together and composed into one `Deformation`, so a pixel is
    interpolated once. In 3D the rotation turns the plane of the last two axes (sections are
    rarely as fine as pixels), ``[Y, X]`` of ``[Z, Y, X]``; of ``[X, Y, Z]``, as NIfTI and DICOM
    are read, that is Y and Z: move the axes first where sections are coarser. Flips take every
    axis.

    Args:
        keys: of images ``[C, *S]`` of one spatial size.
        size: of the tile: the network's *input* size, an int or one an axis.
        margin: context on each side that the network consumes; the rest of the tile, its
            output, is placed inside the image where the image is large enough.
        grid: nodes of the deformation along each axis.
        sigma: standard deviation of the nodes' displacements, in pixels of the image.
        rotate: largest angle in radians, either way; pi turns to any direction.
        scale: smallest and largest magnification.
        flip: mirror each axis with probability 1/2.
        mode: one for all keys, or one a key; ``"nearest"`` for labels.
        padding_mode: ``"reflect"``, ``"replicate"`` or ``"constant"``.
        allow_missing_keys: leave out keys that an item does not have.

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
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        if not 0 < scale[0] <= scale[1]:
            raise ArgumentError(f"scale={scale}", "0 < smallest <= largest magnification")
        if np.any(np.asarray(margin) < 0):
            raise ArgumentError(f"margin={margin}", "at least 0 pixels on each side")
        outputs = np.asarray(size) - 2 * np.asarray(margin)
        if (outputs < 1).any():
            raise ArgumentError(f"size={size} with margin={margin}", "some output left of the tile")
        self.size, self.margin = size, margin
        self.rotate, self.scale, self.flip = rotate, scale, flip
        self.mode, self.padding_mode = ensure_tuple_rep(mode, len(self.keys)), padding_mode
        check_choices(self.mode, padding_mode)
        self.elastic = RandElasticDeform(grid, sigma)

    def draw(self, spatial_size: Sequence[int]) -> Deformation:
        """A new tile of an image of this size."""
        dims = len(spatial_size)
        shape = ensure_tuple_rep(self.size, dims)
        margin = ensure_tuple_rep(self.margin, dims)
        self.elastic.R = self.R
        elastic = self.elastic.draw(shape)
        centre = []
        for n, tile, context in zip(spatial_size, shape, margin, strict=True):
            half = min((tile - 2 * context) / 2, n / 2)
            middle = float(self.R.uniform(half, n - half)) - 0.5
            # on whole pixels: a tile that is neither turned nor deformed is not interpolated
            centre.append(round(middle - (tile - 1) / 2) + (tile - 1) / 2)
        return Deformation(shape, tuple(centre), self._draw_matrix(dims), elastic.nodes)

    def _draw_matrix(self, dims: int) -> NDArray[np.float64]:
        angle = self.R.uniform(-self.rotate, self.rotate)
        low, high = np.log(self.scale)
        magnification = np.exp(self.R.uniform(low, high))
        flips = self.R.randint(2, size=dims) * 2.0 - 1.0 if self.flip else np.ones(dims)
        matrix = np.eye(dims)
        matrix[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turned: NDArray[np.float64] = matrix @ np.diag(flips) / magnification
        return turned
