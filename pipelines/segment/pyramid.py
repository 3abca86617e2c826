"""The arrays that `overtile segment` works in, and the pyramid that becomes of them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from overtile.pipelines.images.formats.ome_zarr import (
    ClassNames,
    beneath,
    describe,
    halved,
    level_shapes,
)
from overtile.pipelines.segment.grid import Grid
from overtile.pipelines.segment.job import is_whole, open_array


def make_array(
    folder: Path, grid: Grid, dtype: str | np.dtype[Any], shape: tuple[int, ...] | None = None
) -> None:
    """Make an empty Zarr array in the grid's chunks, unless it is there.

    Args:
        folder: of the array.
        grid: of its axes and chunks.
        dtype: of its values.
        shape: default: that of the grid.
    """
    if not _is_described(folder):
        zarr.create_array(
            folder,
            shape=grid.shape if shape is None else shape,
            chunks=grid.chunks,
            dtype=dtype,
            fill_value=0,
            dimension_names=list(grid.axes.lower()),
        )


def _is_described(folder: Path) -> bool:
    """Whether an array or a group is there; an empty description is removed, as it says nothing."""
    told = folder / "zarr.json"
    if not is_whole(told):
        told.unlink(missing_ok=True)
    return told.exists()


def describe_target(
    folder: Path,
    name: str,
    grid: Grid,
    spacing: dict[str, float],
    mean: bool,
    classes: ClassNames,
) -> None:
    """Write the metadata of OME-Zarr for the whole pyramid; arguments as of `describe`."""
    _is_described(folder)
    levels = len(level_shapes(grid.shape, grid.chunks))
    describe(folder, name, grid.axes, spacing, levels, mean, classes)


def shrink(
    folder: Path, level: int, mean: bool, chunks: tuple[int, ...], key: tuple[int, ...]
) -> None:
    """Make one chunk of a level of the pyramid from the level above, unless it is there.

    Args:
        folder: of the group.
        level: to make.
        mean: of four pixels; else the first of them, as labels need it.
        chunks: size of a chunk.
        key: of the chunk, along each axis of the array.
    """
    target = folder / str(level)
    if is_whole(chunk_file(target, key)):
        return
    above, array = open_array(folder / str(level - 1)), open_array(target)
    box = [
        slice(i * c, min(n, (i + 1) * c)) for i, c, n in zip(key, chunks, array.shape, strict=True)
    ]
    array[tuple(box)] = halved(np.asarray(above[beneath(box)]), mean)


def chunk_file(folder: Path, key: tuple[int, ...]) -> Path:
    """Of a chunk of an array."""
    return folder.joinpath("c", *map(str, key))


def chunk_keys(shape: tuple[int, ...], chunks: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of all chunks of an array."""
    return list(product(*(range(-(-n // c)) for n, c in zip(shape, chunks, strict=True))))
