"""A stored image as planes or volumes of grey values, read in windows."""

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
    Setting,
    UnreadableError,
    size_text,
)
from overtile.pipelines.images.channels import Channel
from overtile.pipelines.images.formats import open_source
from overtile.pipelines.images.read import check_pixels
from overtile.pipelines.images.stored import Stored
from overtile.pipelines.images.view import view

Box = tuple[slice, ...]


def open_planes(
    path: Path, name: str, level: int, cache: int, spatial_dims: int, channel: Channel
) -> Planes:
    """Open a stored image for reading in windows.

    Args:
        path: file or folder.
        name: of it, as the user knows it.
        level: of a pyramid.
        cache: bytes to keep decoded.
        spatial_dims: as `Planes`.
        channel: as `Planes`.

    Raises:
        DataError: if it cannot be read, or is no such image.
        ConfigurationError: if it has no such level.
    """
    stored = open_source(path, level, cache, name)
    try:
        return Planes(stored, path, name, spatial_dims, channel)
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
        channel: of several the one to take, or ``"luminance"``.

    Raises:
        DataError: if the axes do not fit, or the pixels are no real numbers.
    """

    def __init__(
        self, stored: Stored, path: Path, name: str, spatial_dims: int, channel: Channel
    ) -> None:
        self.stored, self.path, self.name, self.channel = stored, path, name, channel
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
        self.channels = 1 if seen.channel is None else stored.shape[seen.channel]
        if isinstance(channel, int) and channel >= self.channels > 1:
            raise ChannelError(
                name, f"{self.channels} channels", f"channel 0 to {self.channels - 1}"
            )

    @property
    def mixed(self) -> bool:
        """Whether one grey value has to be made of several channels."""
        return self.channels > 1 and not isinstance(self.channel, int)

    def read(self, plane: int, box: Box, grey: bool = False) -> NDArray[Any]:
        """Grey values of a box inside of a plane, in the file's own dtype.

        Args:
            plane: its number.
            box: the pixels of it.
            grey: whether all channels are known to be equal.

        Raises:
            DataError: if they cannot be read, or are NaN or infinite.
        """
        array = self._pixels(plane, box, 0 if grey else self.channel)
        if self.mixed and not grey:
            array = (array[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
        check_pixels(self.name, array)
        return array

    def alike(self, plane: int, box: Box) -> bool:
        """Whether all channels are equal in a box.

        Raises:
            DataError: if they cannot be read.
        """
        array = self._pixels(plane, box, None)
        return bool((array == array[..., :1]).all())

    def refuse_colours(self) -> None:
        """Refuse channels that differ and of which none was chosen.

        Raises:
            ChannelError: naming the choice.
        """
        if self.channel == "luminance" and self.channels in (3, 4):
            return
        choice: list[Setting] = [Setting("channel", f"0 to {self.channels - 1}")]
        if self.channels in (3, 4):  # the fourth is opacity
            choice.append(Setting("channel", "luminance"))
        raise ChannelError(
            self.name,
            f"{self.channels} channels",
            "one grey channel, as the bundle wants it",
            tuple(choice),
        )

    def _pixels(self, plane: int, box: Box, channel: Channel) -> NDArray[Any]:
        """``[*S]``, or ``[*S, channels]`` where no single one is taken."""
        seen, shape = self.seen, self.stored.shape
        index: list[Any] = [0] * len(shape)
        if seen.stacked:
            place = np.unravel_index(plane, [shape[i] for i in seen.stacked])
            for axis, number in zip(seen.stacked, place, strict=True):
                index[axis] = int(number)
        for axis, part in zip(seen.spatial, box, strict=True):
            index[axis] = part
        if seen.channel is not None:
            index[seen.channel] = channel if isinstance(channel, int) else slice(None)
        array = self.stored.pixels(tuple(index))
        if isinstance(index[seen.channel] if seen.channel is not None else 0, slice):
            assert seen.channel is not None
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
