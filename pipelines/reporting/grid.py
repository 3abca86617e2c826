"""How an image lies: how far apart its pixels are, and which way is up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.metrics.sections import sections_first_order


@dataclass(frozen=True)
class Grid:
    """Of an array ``[Y, X]`` or ``[Z, Y, X]``, as `sections_first` gives it.

    Attributes:
        spacing: from pixel to pixel along each axis, in one unit.
        upwards: of each axis whether it is drawn upwards where it stands upright. Those of volumes
            that lie in space are where they point to the front or the head.
    """

    spacing: tuple[float, ...]
    upwards: tuple[bool, ...]

    @property
    def axes(self) -> str:
        """A letter an axis."""
        return "ZYX"[-len(self.spacing) :]

    def across(self, axis: int) -> tuple[int, int]:
        """The axes of a section across one: that of its rows, and that of its columns."""
        rows, columns = (other for other in range(len(self.spacing)) if other != axis)
        return rows, columns

    def section(self, array: NDArray[Any], axis: int, place: int) -> NDArray[Any]:
        """Section ``[rows, columns]`` across an axis, rows from top to bottom as it is drawn."""
        taken: NDArray[Any] = np.take(array, place, axis)
        return taken[::-1] if self.upwards[self.across(axis)[0]] else taken

    def aspect(self, axis: int) -> float:
        """Height of a pixel of a section across an axis, its width being 1."""
        rows, columns = self.across(axis)
        return self.spacing[rows] / self.spacing[columns]


def plain_grid(dims: int) -> Grid:
    """Of an array of so many axes of which nothing else is known."""
    return Grid((1.0,) * dims, (False,) * dims)


def grid_of(meta: Mapping[str, Any], dims: int) -> Grid:
    """How an array lies once it is `sections_first`.

    Args:
        meta: of `read_image`, for the order in the file: ``axes`` and ``affine``.
        dims: how many axes it has.
    """
    axes, affine = meta.get("axes"), meta.get("affine")
    if affine is None:
        return plain_grid(dims)
    columns = np.asarray(affine, float)[:3, :dims]
    steps = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(steps).all() and steps.all()):
        return plain_grid(dims)
    # NIfTI and DICOM, which lie in space, have their columns first
    in_space = dims == 3 and isinstance(axes, str) and axes.startswith("X")
    main = np.abs(columns).argmax(axis=0)  # right, front or head

    def up(axis: int) -> bool:
        return bool(in_space and main[axis] > 0 and columns[main[axis], axis] > 0)

    order = sections_first_order(dims, axes)
    return Grid(tuple(float(steps[i]) for i in order), tuple(up(i) for i in order))


def fullest_section(numbers: NDArray[Any], axis: int) -> int:
    """Which section across an axis has most pixels above 0; of several the one nearest the middle.

    Args:
        numbers: ``[*S]``, 0 and up.
    """
    others = tuple(a for a in range(numbers.ndim) if a != axis)
    counts = np.count_nonzero(numbers, axis=others)
    best = np.flatnonzero(counts == counts.max())
    return int(best[np.abs(best - len(counts) // 2).argmin()])
