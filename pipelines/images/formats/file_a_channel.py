"""An image that lies in one file a channel, as nnU-Net has them: ``a_{0000,0001}.tif``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import ChannelError, DataError, size_text
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.case_name import (
    as_case,
    channel_files,
    described_names,
    description_of,
    numbered,
)
from overtile.pipelines.images.formats import format_of, open_image, open_source, stem
from overtile.pipelines.images.stored import Format, Index, Stored

_NEAR = 0.1  # voxels by which the same place may differ


class ChannelFiles(Format):
    """Several files, of any other format, that are one image: along an axis C, which is the last.

    A ``dataset.json`` beside or above them says what the channels are called.
    """

    name = "files of one channel each"
    first = True

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """By the name."""
        return bool(channel_files(path))

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it.

        Raises:
            DataError: if a file is missing, or of another size, type of pixels or place in space
                than the first, or has several channels itself.
        """
        files = channel_files(path)
        return _stacked(path, files, [open_image(file, labels) for file in files])

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """As the base class has it; each file has its share of the cache."""
        files, parts = channel_files(path), list[Stored]()
        try:
            for file in files:
                parts.append(open_source(file, level, cache.limit // len(files)))
            return _stacked(path, files, parts)
        except BaseException:
            for part in parts:
                part.close()
            raise

    def unpacked(self, path: Path, folder: Path) -> Path:
        """Every file, as its own format has it."""
        files = channel_files(path)
        made = [_format_of(file).unpacked(file, folder) for file in files]
        return path if made == files else as_case(made)


FORMAT = ChannelFiles()


def _format_of(file: Path) -> Format:
    format = format_of(file)
    return FORMAT if format is None else format


def _stacked(path: Path, files: Sequence[Path], parts: Sequence[Stored]) -> Stored:
    """One image of those in these files."""
    flat = [_flat(file, part) for file, part in zip(files, parts, strict=True)]
    one = flat[0]
    for file, other in zip(files[1:], flat[1:], strict=True):
        _check_alike(file, other, files[0], one)

    def pixels(index: Index) -> NDArray[Any]:
        *rest, which = index
        if not isinstance(which, slice):
            return flat[int(which)].pixels(tuple(rest)).astype(dtype, copy=False)
        chosen = [part.pixels(tuple(rest)) for part in flat[which]]
        return np.stack(chosen, axis=-1).astype(dtype, copy=False)

    def close() -> None:
        for part in parts:
            part.close()

    dtype = np.result_type(*(part.dtype for part in flat))
    remarks = tuple(dict.fromkeys(remark for part in parts for remark in part.remarks))
    return replace(
        one,
        axes=f"{one.axes}C",
        shape=(*one.shape, len(files)),
        dtype=dtype,
        pixels=pixels,
        block=sum(part.block for part in parts),
        remarks=remarks,
        close=close,
        channel_names=_names(path, files),
    )


def _flat(file: Path, part: Stored) -> Stored:
    """A file's image without axes of channels, of which it has one.

    Raises:
        ChannelError: if it has more.
    """
    axes = list(zip(part.axes, part.shape, strict=True))
    if several := [n for axis, n in axes if axis in "CS" and n > 1]:
        raise ChannelError(
            file, f"{several[0]} channels", "one, in a file a channel", "save them apart"
        )
    kept = [axis not in "CS" for axis, _ in axes]

    def pixels(index: Index) -> NDArray[Any]:
        given = iter(index)
        return part.pixels(tuple(next(given) if keep else 0 for keep in kept))

    return replace(
        part,
        axes="".join(axis for axis, _ in axes if axis not in "CS"),
        shape=tuple(n for axis, n in axes if axis not in "CS"),
        pixels=pixels,
    )


def _check_alike(file: Path, part: Stored, first: Path, one: Stored) -> None:
    """Refuse a channel that does not lie upon the first.

    Raises:
        DataError: saying what differs.
    """
    expected = "channels that are alike"
    if (part.axes, part.shape) != (one.axes, one.shape):
        told = f"{size_text(part.shape)} pixels (axes {part.axes}), but", first
        wanted = f"has {size_text(one.shape)} ({one.axes})"
        raise DataError(file, (*told, wanted), expected, "save them in one size")
    if (part.dtype.kind == "f") != (one.dtype.kind == "f"):
        told = f"pixels of {part.dtype}, but", first
        raise DataError(file, (*told, f"has {one.dtype}"), expected, "convert it")
    if (part.affine is None) != (one.affine is None):
        lacks, has = (file, first) if part.affine is None else (first, file)
        raise DataError(lacks, ("no place in space, which", has, "has"), expected, "convert it")
    if part.affine is not None and one.affine is not None:
        size = (*one.shape, 1, 1)[:3]
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in size], [1])).reshape(4, -1)
        apart = float(np.abs((part.affine - one.affine) @ corners).max())
        if apart > _NEAR * np.linalg.norm(one.affine[:3, :3], axis=0).min():
            told = f"its voxels lie up to {apart:.3g} mm from those of", first
            raise DataError(file, told, expected, ("resample it", "mend the affine"))
    for axis in part.spacing.keys() & one.spacing.keys():
        mine, other = part.spacing[axis], one.spacing[axis]
        if abs(mine - other) > 0.01 * other:
            told = f"pixels of {mine:g} µm along {axis}, but", first
            raise DataError(file, (*told, f"has {other:g}"), expected, "resample it")


def _names(path: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """What the channels are called; none where one of them is not."""
    description = description_of(path)
    if description is None:
        return ()
    names = described_names(description)
    numbers = [int(found[1]) for file in files if (found := numbered(stem(file)))]
    return tuple(names[n] for n in numbers) if names.keys() >= set(numbers) else ()
