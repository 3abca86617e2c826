"""An image as planes (or volumes) of grey values, and the arrays that are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.networks.geometry import mirror_indices
from overtile.pipelines.errors import ConfigurationError, DataError
from overtile.pipelines.images.formats import Stored
from overtile.pipelines.images.read import Channel, check_pixels
from overtile.pipelines.images.view import view

Box = tuple[slice, ...]
Key = tuple[int, ...]
"""Of a chunk: the plane, and the chunk's index along each axis of it."""


class Planes:
    """A stored image as `overtile.pipelines.images.view.view` sees it, read in windows.

    Args:
        stored: whose ``pixels`` reads parts.
        path: for messages.
        spatial_dims: 2 takes every section and time point as a plane, 3 takes volumes.
        channel: of several the one to take, or ``"luminance"``.
        grey: whether all channels are known to be equal.

    Raises:
        DataError: if the axes do not fit, or the pixels are no real numbers.
    """

    def __init__(
        self,
        stored: Stored,
        path: str | Path,
        spatial_dims: int = 2,
        channel: Channel = None,
        grey: bool = False,
    ) -> None:
        self.stored, self.path, self.channel, self.grey = stored, path, channel, grey
        size = f"{'x'.join(map(str, stored.shape))} pixels (axes {stored.axes})"
        try:
            self.seen = seen = view(stored, path, spatial_dims)
        except DataError as error:
            if "channels" in str(error):
                raise
            raise DataError(
                f"{path}: {size}; the bundle segments images of {spatial_dims} dimensions: give a "
                "file that has them, or a bundle that fits"
            ) from error
        if stored.dtype.kind not in "iufb":
            raise DataError(f"{path}: pixels of {stored.dtype}; expected real numbers")
        self.shape, self.count = seen.shape, seen.count
        self.channels = 1 if seen.channel is None else stored.shape[seen.channel]
        if isinstance(channel, int) and channel >= self.channels > 1:
            raise DataError(
                f"{path}: {self.channels} channels; expected --channel 0 to {self.channels - 1}"
            )

    @property
    def mixed(self) -> bool:
        """Whether one grey value has to be made of several channels."""
        return self.channels > 1 and not isinstance(self.channel, int)

    def read(self, plane: int, box: Box) -> NDArray[Any]:
        """Grey values of a box inside of a plane, in the file's own dtype.

        Raises:
            DataError: if they cannot be read, or are NaN or infinite.
        """
        array = self._pixels(plane, box, 0 if self.grey else self.channel)
        if self.mixed and not self.grey:
            array = (array[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
        check_pixels(self.path, array)
        return array

    def alike(self, plane: int, box: Box) -> bool:
        """Whether all channels are equal in a box."""
        array = self._pixels(plane, box, None)
        return bool((array == array[..., :1]).all())

    def refuse_colours(self) -> None:
        """Refuse channels that differ and of which none was chosen.

        Raises:
            DataError: naming the choice.
        """
        if self.channel == "luminance" and self.channels in (3, 4):
            return
        choice = f"--channel 0 to {self.channels - 1}"
        choice += " or --channel luminance" if self.channels < 5 else ""
        raise DataError(
            f"{self.path}: {self.channels} channels; the bundle wants one grey channel: "
            f"give {choice}"
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
        wanted = np.array(mirror_indices(a, b, n)) if mode == "reflect" else np.arange(a, b)
        wanted = wanted.clip(0, n - 1)
        low = int(wanted.min())
        box.append(slice(low, int(wanted.max()) + 1))
        places.append(wanted - low)
    return tuple(box), places


@dataclass(frozen=True)
class Layout:
    """How planes lie in the array that is made of them, and its chunks.

    The array has the axes that OME wants: time, pages of no stated meaning, depth, rows, columns.

    Attributes:
        axes: letters of the array's axes.
        shape: of the array.
        lead: shape of the axes along which planes follow each other, as planes count.
        lead_order: for each of the array's leading axes, which of ``lead`` it is.
        order: for each of the array's last axes, which axis of a plane it is.
        plane: shape of a plane.
        chunk: size of a chunk along the axes of a plane.
    """

    axes: str
    shape: tuple[int, ...]
    lead: tuple[int, ...]
    lead_order: tuple[int, ...]
    order: tuple[int, ...]
    plane: tuple[int, ...]
    chunk: tuple[int, ...]

    @classmethod
    def of(cls, planes: Planes, chunk: Sequence[int]) -> Layout:
        """The layout for an image.

        Raises:
            ConfigurationError: for more axes than OME-Zarr has.
        """
        seen, axes = planes.seen, planes.stored.axes
        lead = [axes[i] for i in seen.stacked]
        letters = [axes[i] if axes[i] in "XYZ" else "Z" for i in seen.spatial]
        if sum(letter not in "TZ" for letter in lead) > 1:
            raise ConfigurationError(
                f"{planes.path}: axes {axes}; expected at most one beside time, channels and space"
            )
        lead_order = sorted(range(len(lead)), key=lambda i: (lead[i] == "Z", lead[i] != "T"))
        order = sorted(range(len(letters)), key=lambda i: "ZYX".index(letters[i]))
        sizes = [planes.stored.shape[i] for i in seen.stacked]
        return cls(
            "".join([*(lead[i] for i in lead_order), *(letters[i] for i in order)]),
            (*(sizes[i] for i in lead_order), *(seen.shape[i] for i in order)),
            tuple(sizes),
            tuple(lead_order),
            tuple(order),
            seen.shape,
            tuple(chunk),
        )

    @property
    def chunks(self) -> tuple[int, ...]:
        """Size of a chunk along the axes of the array."""
        return (*(1 for _ in self.lead), *(self.chunk[i] for i in self.order))

    @property
    def count(self) -> int:
        """How many planes there are."""
        return int(np.prod(self.lead, dtype=int))

    def every_chunk(self) -> Iterator[Key]:
        """All chunks, plane by plane."""
        grid = [range(-(-n // c)) for n, c in zip(self.plane, self.chunk, strict=True)]
        return product(range(self.count), *grid)

    def box(self, key: Key) -> Box:
        """The pixels of a chunk, in its plane."""
        return tuple(
            slice(i * c, min(n, (i + 1) * c))
            for i, c, n in zip(key[1:], self.chunk, self.plane, strict=True)
        )

    def pixels(self, key: Key) -> int:
        """How many pixels a chunk has."""
        return int(np.prod([s.stop - s.start for s in self.box(key)]))

    def name(self, key: Key) -> str:
        """A chunk's name in the array's folder, as Zarr names it: ``c/0/3/1``."""
        return "/".join(map(str, ("c", *self._lead(key[0]), *(key[1 + i] for i in self.order))))

    def text(self, key: Key) -> str:
        """A chunk for people: ``chunk 0/3/1 (y 3072:4096, x 1024:2048)``."""
        letters = self.axes[len(self.lead) :]
        box = [self.box(key)[i] for i in self.order]
        parts = [f"{a.lower()} {s.start}:{s.stop}" for a, s in zip(letters, box, strict=True)]
        return f"chunk {self.name(key)[2:]} ({', '.join(parts)})"

    def plane_of(self, array: Any, plane: int) -> PlaneOf:
        """One plane of an array in this layout, with its axes as the source has them."""
        return PlaneOf(array, self._lead(plane), self.order)

    def _lead(self, plane: int) -> tuple[int, ...]:
        place = np.unravel_index(plane, self.lead) if self.lead else ()
        return tuple(int(place[i]) for i in self.lead_order)


class PlaneOf:
    """A plane of an array, read and written in boxes; its axes may be in another order."""

    def __init__(self, array: Any, lead: tuple[int, ...], order: tuple[int, ...]) -> None:
        self.array, self.lead, self.order = array, lead, order
        self._back = tuple(int(i) for i in np.argsort(order))

    def __getitem__(self, box: Box) -> NDArray[Any]:
        found = np.asarray(self.array[(*self.lead, *(box[i] for i in self.order))])
        return found.transpose(self._back)

    def __setitem__(self, box: Box, values: NDArray[Any]) -> None:
        self.array[(*self.lead, *(box[i] for i in self.order))] = values.transpose(self.order)
