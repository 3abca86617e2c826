"""A stored image as planes or volumes of grey values, a channel or several, read in windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.networks.geometry import context_indices
from overtile.pipelines.errors import (
    ChannelError,
    DataError,
    OvertileError,
    UnreadableError,
    size_text,
)
from overtile.pipelines.images.channels import Chosen, channel_hint, luminance, taken
from overtile.pipelines.images.formats import open_source
from overtile.pipelines.images.read import check_pixels
from overtile.pipelines.images.stored import Stored
from overtile.pipelines.images.view import view

Box = tuple[slice, ...]


def open_planes(
    path: Path, name: str, level: int, cache: int, spatial_dims: int, channels: Chosen
) -> Planes:
    """Open a stored image for reading in windows.

    Args:
        path: file or folder.
        name: of it, as the user knows it.
        level: of a pyramid.
        cache: bytes to keep decoded.
        spatial_dims: as `Planes`.
        channels: as `Planes`.

    Raises:
        DataError: if it cannot be read, or is no such image.
        ConfigurationError: if it has no such level.
    """
    stored = open_source(path, level, cache, name)
    try:
        return Planes(stored, path, name, spatial_dims, channels)
    except OvertileError:
        stored.close()
        raise


class Planes:
    """A stored image as `overtile.pipelines.images.view.view` sees it, read in windows.

    Args:
        stored: whose ``pixels`` reads parts.
        path: that it was opened from.
        name: of it, as the user knows it.
        spatial_dims: 2 takes every section and time point as a plane, 3 takes volumes.
        channels: as of `overtile.pipelines.images.read.read_image`.

    Raises:
        DataError: if the axes do not fit, or the pixels are no real numbers.
    """

    def __init__(
        self, stored: Stored, path: Path, name: str, spatial_dims: int, channels: Chosen
    ) -> None:
        self.stored, self.path, self.name, self.chosen = stored, path, name, channels
        try:
            self.seen = seen = view(stored, Path(name), spatial_dims)
        except (ChannelError, UnreadableError):
            raise
        except DataError as error:
            raise DataError(
                name,
                f"{size_text(stored.shape)} pixels (axes {stored.axes})",
                f"{spatial_dims} dimensions, as the bundle segments them",
                "give a file that has them, or a bundle that fits",
            ) from error
        if stored.dtype.kind not in "iufb":
            raise DataError(name, f"pixels of {stored.dtype}", "real numbers")
        self.shape, self.count = seen.shape, seen.count
        self.taken = taken(Path(name), stored, seen, channels)

    @property
    def mixed(self) -> bool:
        """Whether one grey value has to be made of several channels."""
        return self.taken.numbers is None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` gives, unless mixed channels are equal."""
        return np.dtype(np.float32) if self.mixed else self.stored.dtype

    def read(
        self, plane: int, box: Box, grey: bool = False, channel: int | None = None
    ) -> NDArray[Any]:
        """Grey values ``[C, *B]`` of a box inside of a plane, in the file's own dtype.

        Args:
            plane: its number.
            box: the pixels of it.
            grey: whether all channels are known to be equal.
            channel: of those that are taken the only one wanted, from 0.

        Raises:
            DataError: if they cannot be read, or are NaN or infinite.
        """
        numbers = self.taken.numbers
        if numbers is None and not grey:
            array = luminance(self._pixels(plane, box, self.taken.span))[None]
        elif channel is None and numbers is not None and self.taken.several:
            apart = self.taken.of_span(self._pixels(plane, box, self.taken.span))
            array = np.moveaxis(apart, -1, 0)
        else:
            number = 0 if numbers is None else numbers[channel or 0]
            array = self._pixels(plane, box, number)[None]
        check_pixels(self.name, array)
        return array

    def alike(self, plane: int, box: Box) -> bool:
        """Whether all channels are equal in a box.

        Raises:
            DataError: if they cannot be read.
        """
        array = self._pixels(plane, box, self.taken.span)
        return bool((array == array[..., :1]).all())

    def refuse_colours(self) -> None:
        """Refuse channels that differ and of which none was chosen.

        Raises:
            ChannelError: naming the choice.
        """
        assert self.seen.channel is not None  # else nothing is mixed
        count = self.stored.shape[self.seen.channel]
        if self.chosen == "luminance" and count in (3, 4):
            return
        raise ChannelError(
            self.name,
            f"{count} channels",
            "one grey channel, as the bundle wants it",
            channel_hint(count)[:-1],  # a network of one channel does not take all
        )

    def _pixels(self, plane: int, box: Box, channel: int | slice) -> NDArray[Any]:
        """``[*B]``, or ``[*B, channels]`` of a slice of these."""
        seen, shape = self.seen, self.stored.shape
        index: list[Any] = [0] * len(shape)
        if seen.stacked:
            place = np.unravel_index(plane, [shape[i] for i in seen.stacked])
            for axis, number in zip(seen.stacked, place, strict=True):
                index[axis] = int(number)
        for axis, part in zip(seen.spatial, box, strict=True):
            index[axis] = part
        if seen.channel is None:
            array = self.stored.pixels(tuple(index))
            return array[..., None] if isinstance(channel, slice) else array
        index[seen.channel] = channel
        array = self.stored.pixels(tuple(index))
        if isinstance(channel, slice):
            array = np.moveaxis(array, sum(axis < seen.channel for axis in seen.spatial), -1)
        return array


def mirrored(
    start: Sequence[int], stop: Sequence[int], shape: Sequence[int], mode: str
) -> tuple[Box, list[NDArray[np.intp]]]:
    """What to read for a window that reaches beyond the image, and how to unfold it.

    Args:
        start: of the window; may be negative.
        stop: of the window; may lie beyond the image.
        shape: of the image.
        mode: ``"reflect"`` or ``"replicate"``, as `overtile.networks.read_tile`.

    Returns:
        The box to read, and for each axis the positions in it that make the window.
    """
    box, places = [], []
    for a, b, n in zip(start, stop, shape, strict=True):
        wanted = np.array(context_indices(a, b, n, mode))
        low = int(wanted.min())
        box.append(slice(low, int(wanted.max()) + 1))
        places.append(wanted - low)
    return tuple(box), places
