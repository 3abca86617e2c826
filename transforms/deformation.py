"""A drawn deformation as a record, and its application: one resampling, replayable.

Source: the U-Net paper, section 3.1: random displacement vectors on a coarse 3 by 3 grid,
Gaussian with a standard deviation of 10 pixels, per-pixel displacement by bicubic interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.nn.functional import grid_sample

from overtile.networks.blocks.context import read_box
from overtile.networks.errors import ArgumentError
from overtile.networks.geometry import padding_mode_of
from overtile.transforms import volumes

MODES = ("nearest", "bilinear", "bicubic")
_ALSO_CALLED = {  # by MONAI: in other dimensions, or as the order of a spline
    "nearest-exact": "nearest",
    "linear": "bilinear",
    "trilinear": "bilinear",
    "0": "nearest",
    "1": "bilinear",
}


@dataclass(frozen=True, eq=False)
class Deformation:
    """Where every pixel of an output comes from, in pixels of the image.

    The output pixel ``o`` shows the image at ``centre + matrix @ (o - middle) + u(o)``, where
    ``middle = (shape - 1) / 2`` and ``u`` interpolates ``nodes``.

    Args:
        shape: spatial size of the output.
        centre: position in the image that the middle of the output shows.
        matrix: linear map from output offsets to image offsets, ``[D, D]`` (rotation, scale, flip).
        nodes: displacements ``[D, *grid]`` in pixels of the image; the outermost nodes lie on the
            centres of the output's outermost pixels.
    """

    shape: tuple[int, ...]
    centre: tuple[float, ...]
    matrix: NDArray[np.float64]
    nodes: NDArray[np.float64]

    @classmethod
    def elastic(cls, shape: Sequence[int], nodes: NDArray[np.float64]) -> Deformation:
        """The displacement alone: output and image have the same size and position."""
        middle = tuple((n - 1) / 2 for n in shape)
        return cls(tuple(shape), middle, np.eye(len(middle)), np.asarray(nodes, dtype=np.float64))

    def displacement(self, device: torch.device | str | None = None) -> Tensor:
        """u(o), ``[D, *shape]`` in pixels: a cubic spline through the nodes, along each axis."""
        field = torch.as_tensor(self.nodes, dtype=torch.float32, device=device)
        for axis, n in enumerate(self.shape, start=1):
            weights = _spline_weights(self.nodes.shape[axis], n).to(field.device)
            field = torch.tensordot(field, weights, dims=([axis], [1])).movedim(-1, axis)
        return field

    def coordinates(self, device: torch.device | str | None = None) -> tuple[Tensor, list[int]]:
        """Image positions ``[D, *shape]`` relative to an integer origin, and that origin.

        Relative, because float32 holds small numbers more exactly than positions in a huge image.
        """
        origin = [int(np.floor(c)) for c in self.centre]
        dims = len(self.shape)
        positions = (
            self.displacement(device)
            if self.nodes.any()
            else torch.zeros(dims, *self.shape, device=device)
        )
        for axis, n in enumerate(self.shape):
            offset = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
            ramp = torch.as_tensor(self.matrix[:, axis])[:, None] * offset
            if axis == 0:  # added once, in float64
                start = [c - o for c, o in zip(self.centre, origin, strict=True)]
                ramp = ramp + torch.tensor(start, dtype=torch.float64)[:, None]
            shape = [1] * dims
            shape[axis] = n
            positions += ramp.reshape(dims, *shape).to(positions)
        return positions, origin

    @property
    def affine(self) -> NDArray[np.float64]:
        """From indices of the output to indices of the image, ``[D + 1, D + 1]``, without ``u``."""
        affine = np.eye(len(self.shape) + 1)
        affine[:-1, :-1] = self.matrix
        affine[:-1, -1] = self._corner
        return affine

    @property
    def _corner(self) -> NDArray[np.float64]:
        """Where the output's first pixel comes from."""
        middle = (np.asarray(self.shape) - 1) / 2
        corner: NDArray[np.float64] = np.asarray(self.centre) - self.matrix @ middle
        return corner

    @cached_property
    def _on_pixels(self) -> bool:
        """Whether every output pixel shows exactly one image pixel, so nothing interpolates."""
        if self.nodes.any():
            return False
        corner = self._corner
        return bool(
            np.array_equal(corner, np.round(corner))
            and np.array_equal(self.matrix, np.round(self.matrix))
        )

    def apply(self, image: Tensor, mode: str = "bilinear", padding_mode: str = "reflect") -> Tensor:
        """The deformed image ``[C, *shape]`` of ``image`` ``[C, *S]``, on the image's device.

        Args:
            image: any dtype for ``"nearest"`` (kept), else floating point results.
            mode: ``"nearest"`` for labels, ``"bilinear"`` (trilinear in 3D) or ``"bicubic"`` (2D);
                MONAI's other names for them too.
            padding_mode: what lies beyond the image: ``"reflect"`` mirrors it without doubling
                the edge, ``"replicate"`` repeats the edge, ``"constant"`` is 0; MONAI's other
                names for them too.
        """
        return self.apply_all([image], [mode], padding_mode)[0]

    def apply_all(
        self, images: Sequence[Tensor], modes: Sequence[str], padding_mode: str = "reflect"
    ) -> list[Tensor]:
        """`apply` for several images of one size, which share the field."""
        modes, padding_mode = [mode_of(mode) for mode in modes], padding_mode_of(padding_mode)
        positions, origin = self.coordinates(images[0].device)
        box = [(int(p.min().floor()) - 1, int(p.max().ceil()) + 2) for p in positions]
        local = positions - torch.tensor([low for low, _ in box]).to(positions).reshape(
            -1, *[1] * len(box)
        )
        results = []
        for image, mode in zip(images, modes, strict=True):
            window = [(low + o, high + o) for (low, high), o in zip(box, origin, strict=True)]
            source = read_box(image, window, padding_mode)
            if mode != "nearest" and not source.is_floating_point():
                source = source.float()
            if mode == "nearest" or self._on_pixels:
                results.append(_nearest(source, local))
            else:
                results.append(_interpolate(source, local, mode))
        return results

    def undo(self, tile: Tensor, size: Sequence[int]) -> Tensor:
        """The image ``[C, *size]`` that ``tile`` is of, exactly; 0 where the tile shows none of it.

        Raises:
            ValueError: for a tile of another size, and where no inverse is exact: pixels were
                interpolated or left out.
        """
        places = abs(self.matrix)
        turned = self._on_pixels and (places.sum(0) == 1).all() and (places.sum(1) == 1).all()
        if not turned:
            raise ArgumentError(
                "a deformation that interpolates has no exact inverse",
                "flips, quarter turns and whole pixels alone",
            )
        if tuple(tile.shape[1:]) != self.shape:
            raise ArgumentError(f"tile of {tuple(tile.shape[1:])}", f"{self.shape}")
        axes = places.argmax(1)  # of the tile, for each axis of the image
        tile = tile.permute(0, *(int(axis) + 1 for axis in axes))
        signs = self.matrix[np.arange(len(axes)), axes]
        tile = tile.flip([i + 1 for i, sign in enumerate(signs) if sign < 0])
        image = tile.new_zeros((len(tile), *size))
        inside, shown = [slice(None)], [slice(None)]
        for n, length, centre in zip(size, tile.shape[1:], self.centre, strict=True):
            low = round(centre - (length - 1) / 2)
            first, last = max(low, 0), max(min(low + length, n), max(low, 0))
            inside.append(slice(first, last))
            shown.append(slice(first - low, last - low))
        image[tuple(inside)] = tile[tuple(shown)]
        return image


def _nearest(source: Tensor, local: Tensor) -> Tensor:
    if volumes.takes(local):
        flat = volumes.nearest(local, source.shape[1:])
        return source.flatten(1).index_select(1, flat).reshape(-1, *local.shape[1:])
    small = source[0].numel() < 2**31
    # rounding to even would favour even pixels on exact halves: floor(x + 1/2), x > 0, does not
    index = (local + 0.5).to(torch.int32 if small else torch.int64)
    flat = index[0]
    for axis in range(1, len(index)):
        flat = flat * source.shape[axis + 1] + index[axis]
    found = source.flatten(1).index_select(1, flat.flatten())
    return found.reshape(source.shape[0], *local.shape[1:])


def _interpolate(source: Tensor, local: Tensor, mode: str) -> Tensor:
    if mode == "bicubic" and len(local) == 3:
        raise ArgumentError("mode='bicubic' for a volume", "'bilinear' or 'nearest'")
    pixels = source if source.dtype == torch.float64 else source.float()
    if volumes.takes(local) and not pixels.requires_grad:
        return volumes.linear(pixels, local).to(source.dtype)
    sizes = torch.tensor(source.shape[1:]).to(local).reshape(-1, *[1] * (local.ndim - 1))
    grid = (local * (2 / (sizes - 1)) - 1).flip(0).movedim(0, -1)
    # positions in half precision would be off by pixels
    sampled = grid_sample(pixels[None], grid[None].to(pixels.dtype), mode=mode, align_corners=True)
    return sampled[0].to(source.dtype)


@lru_cache(maxsize=64)
def _spline_weights(grid: int, n: int) -> Tensor:
    """``[n, grid]``: n equidistant points of the cubic spline through ``grid`` values.

    The spline's slope vanishes at both ends, as if the grid were mirrored there.
    """
    spline = CubicSpline(np.linspace(0, 1, grid), np.eye(grid), bc_type="clamped")
    where = np.linspace(0, 1, n) if n > 1 else np.array([0.5])
    return torch.as_tensor(spline(where), dtype=torch.float32)


def mode_of(name: str | int) -> str:
    """One of `MODES`, for it or for what MONAI's transforms call it.

    Raises:
        ValueError: for another name.
    """
    mode = _ALSO_CALLED.get(str(name), str(name))
    if mode not in MODES:
        raise ArgumentError(f"mode={name!r}", f"one of {', '.join(MODES)}")
    return mode
