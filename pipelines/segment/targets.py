"""What `overtile segment` writes: OME-Zarr with its pyramid, or a tiled BigTIFF made from it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from overtile.pipelines.images.formats import Stored
from overtile.pipelines.segment.grid import Grid
from overtile.pipelines.segment.job import is_whole, open_array

_UNITS = {"µm": "micrometer"}
_MICROMETRES = {"meter": 1e6, "mm": 1e3, "micron": 1.0}  # of NIfTI's units; unknown ones are mm
_DOWN = 2  # from one level to the next, in the plane


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


def spacing_of(stored: Stored, axes: str) -> dict[str, float]:
    """Micrometres a pixel by axis letter, where the source says so."""
    if stored.affine is None:
        return {a: s for a, s in stored.spacing.items() if a in axes}
    unit, _ = stored.tags.get("units", ("mm", ""))
    steps = np.linalg.norm(stored.affine[:3, :3], axis=0) * _MICROMETRES.get(unit, 1e3)
    return {a: float(s) for a, s in zip(stored.axes, steps, strict=False) if a in axes}


def level_shapes(grid: Grid) -> list[tuple[int, ...]]:
    """Of all levels of the pyramid: halved in the plane until one chunk holds it."""
    shapes = [grid.shape]
    while any(n > c for n, c in zip(shapes[-1][-2:], grid.chunks[-2:], strict=True)):
        *rest, rows, columns = shapes[-1]
        shapes.append((*rest, -(-rows // _DOWN), -(-columns // _DOWN)))
    return shapes


def describe(folder: Path, name: str, grid: Grid, spacing: dict[str, float], mean: bool) -> None:
    """Write the metadata of OME-NGFF 0.5 (ngff.openmicroscopy.org/0.5) for the whole pyramid.

    Args:
        folder: of the group.
        name: of the image.
        grid: of the arrays in it.
        spacing: micrometres a pixel by axis letter.
        mean: whether a level's pixel is the mean of four, and so lies between them.
    """
    kinds = {"T": "time", "Z": "space", "Y": "space", "X": "space"}
    axes = []
    for letter in grid.axes:
        axis = {"name": letter.lower()}
        if letter in kinds:
            axis["type"] = kinds[letter]
        if letter in spacing:
            axis["unit"] = _UNITS["µm"]
        axes.append(axis)
    steps = [spacing.get(letter, 1.0) for letter in grid.axes]
    datasets = []
    for level in range(len(level_shapes(grid))):
        factor = float(_DOWN**level)
        factors = [*(1.0 for _ in grid.axes[:-2]), factor, factor]
        scale = [f * s for f, s in zip(factors, steps, strict=True)]
        changes: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if mean and level:
            shift = [(f - 1) / 2 * s for f, s in zip(factors, steps, strict=True)]
            changes.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": changes})
    _is_described(folder)
    group = zarr.open_group(folder, mode="a", zarr_format=3)
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
    }


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
    if is_whole(target / "c" / "/".join(map(str, key))):
        return
    above, array = open_array(folder / str(level - 1)), open_array(target)
    box = [
        slice(i * c, min(n, (i + 1) * c)) for i, c, n in zip(key, chunks, array.shape, strict=True)
    ]
    wide = [slice(s.start * _DOWN, s.stop * _DOWN) for s in box[-2:]]
    pixels = np.asarray(above[(*box[:-2], *wide)])
    array[tuple(box)] = _means(pixels) if mean else pixels[..., ::_DOWN, ::_DOWN]


def _means(pixels: NDArray[Any]) -> NDArray[Any]:
    *_, rows, columns = pixels.shape
    odd = [(0, 0)] * (pixels.ndim - 2) + [(0, rows % _DOWN), (0, columns % _DOWN)]
    padded = np.pad(pixels, odd, "edge")
    *rest, rows, columns = padded.shape
    blocks = padded.reshape(*rest, rows // _DOWN, _DOWN, columns // _DOWN, _DOWN)
    means: NDArray[Any] = blocks.mean(axis=(-3, -1)).astype(pixels.dtype)
    return means


def chunk_keys(shape: tuple[int, ...], chunks: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of all chunks of an array."""
    return list(product(*(range(-(-n // c)) for n, c in zip(shape, chunks, strict=True))))


def write_tiff(
    array: Any,
    path: Path,
    name: str,
    grid: Grid,
    spacing: dict[str, float],
    progress: Callable[[Iterator[Any], int], Iterator[Any]],
) -> None:
    """Write an array as a tiled OME-TIFF, BigTIFF where it is large, one chunk at a time.

    Args:
        array: to write, in the grid's chunks.
        path: of the file.
        name: that it will have.
        grid: of the array.
        spacing: micrometres a pixel by axis letter.
        progress: goes around the iterator over so many tiles.
    """
    import tifffile

    tile = grid.chunks[-2:]

    def tiles() -> Iterator[NDArray[Any]]:
        # sections one by one: a tile of a TIFF is flat
        *lead, rows, columns = array.shape
        for place in product(*map(range, lead)):
            for row, column in product(range(0, rows, tile[0]), range(0, columns, tile[1])):
                part = np.asarray(
                    array[(*place, slice(row, row + tile[0]), slice(column, column + tile[1]))]
                )
                missing = [(0, t - n) for t, n in zip(tile, part.shape, strict=True)]
                yield np.pad(part, missing)

    count = len(chunk_keys(array.shape, (*(1 for _ in array.shape[:-2]), *tile)))
    # OME knows no axis without a meaning
    axes = "".join(a if a in "TZYX" else "C" for a in grid.axes)
    units = {f"PhysicalSize{a}Unit": "µm" for a in spacing}
    sizes = {f"PhysicalSize{a}": size for a, size in spacing.items()}
    # the file's identity follows from what is in it, so that it is the same when made again
    own = uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {array.shape} {array.dtype}")
    tifffile.imwrite(
        path,
        progress(tiles(), count),
        shape=array.shape,
        dtype=array.dtype,
        tile=tile,
        bigtiff=array.nbytes > 2**31,
        ome=True,
        photometric="minisblack",
        compression="zlib",
        metadata={"axes": axes, "UUID": str(own), **sizes, **units},
    )
