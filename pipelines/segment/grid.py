"""How planes lie in the array that is made of them, and the chunks of that array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import ConfigurationError, Setting
from overtile.pipelines.segment.windows import Box, Planes

Key = tuple[int, ...]
"""Of a chunk: the plane, and the chunk's index along each axis of it."""


@dataclass(frozen=True)
class Grid:
    """How planes lie in the array that is made of them, and its chunks.

    The array has the axes that OME wants: time, classes or pages of no stated meaning, depth, rows,
    columns. Of classes each has chunks of its own, since viewers show one at a time.

    Attributes:
        axes: letters of the array's axes.
        shape: of the array.
        lead: shape of the axes along which planes follow each other, as planes count.
        lead_order: for each of the array's leading axes, which of ``lead`` it is.
        order: for each of the array's last axes, which axis of a plane it is.
        plane: shape of a plane.
        chunk: size of a chunk along the axes of a plane.
        classes: how many values a pixel has; 0 for one, without an axis of its own.
    """

    axes: str
    shape: tuple[int, ...]
    lead: tuple[int, ...]
    lead_order: tuple[int, ...]
    order: tuple[int, ...]
    plane: tuple[int, ...]
    chunk: tuple[int, ...]
    classes: int = 0

    @classmethod
    def of(cls, planes: Planes, chunk: Sequence[int], classes: int = 0) -> Grid:
        """The grid for an image.

        Raises:
            ConfigurationError: for more axes than OME-Zarr has.
        """
        seen, axes = planes.seen, planes.stored.axes
        lead = [axes[i] for i in seen.stacked]
        letters = [axes[i] if axes[i] in "XYZ" else "Z" for i in seen.spatial]
        others = [letter for letter in lead if letter not in "TZ"]
        if len(others) > 1:
            raise ConfigurationError(
                planes.name, f"axes {axes}", "at most one beside time, channels and space"
            )
        if others and classes:
            raise ConfigurationError(
                planes.name,
                f"axes {axes}",
                "none beside time, channels and space, for classes take the place of others",
                (Setting("output", "labels"), "split the file"),
            )
        lead_order = sorted(range(len(lead)), key=lambda i: (lead[i] == "Z", lead[i] != "T"))
        order = sorted(range(len(letters)), key=lambda i: "ZYX".index(letters[i]))
        sizes = [planes.stored.shape[i] for i in seen.stacked]
        named = [*(lead[i] for i in lead_order), *(letters[i] for i in order)]
        shape = [*(sizes[i] for i in lead_order), *(seen.shape[i] for i in order)]
        if classes:
            place = lead.count("T")
            named.insert(place, "C")
            shape.insert(place, classes)
        return cls(
            "".join(named),
            tuple(shape),
            tuple(sizes),
            tuple(lead_order),
            tuple(order),
            seen.shape,
            tuple(chunk),
            classes,
        )

    @property
    def chunks(self) -> tuple[int, ...]:
        """Size of a chunk along the axes of the array."""
        before = len(self.axes) - len(self.order)
        return (*(1 for _ in range(before)), *(self.chunk[i] for i in self.order))

    @property
    def count(self) -> int:
        """How many planes there are."""
        return int(np.prod(self.lead, dtype=int))

    def every_chunk(self) -> Iterator[Key]:
        """All chunks, plane by plane."""
        places = [range(-(-n // c)) for n, c in zip(self.plane, self.chunk, strict=True)]
        return product(range(self.count), *places)

    def box(self, key: Key) -> Box:
        """The pixels of a chunk, in its plane."""
        return tuple(
            slice(i * c, min(n, (i + 1) * c))
            for i, c, n in zip(key[1:], self.chunk, self.plane, strict=True)
        )

    def pixels(self, key: Key) -> int:
        """How many pixels a chunk has."""
        return int(np.prod([s.stop - s.start for s in self.box(key)]))

    def names(self, key: Key) -> list[str]:
        """Its files in the array's folder, as Zarr names them: ``c/0/3/1``; of classes one each."""
        places = [key[1 + i] for i in self.order]
        return [
            "/".join(map(str, ("c", *self._lead(key[0], number), *places)))
            for number in range(self.classes or 1)
        ]

    def text(self, key: Key) -> str:
        """A chunk for people: ``chunk 0/3/1 (y 3072:4096, x 1024:2048)``."""
        letters = self.axes[-len(self.order) :]
        box = [self.box(key)[i] for i in self.order]
        parts = [f"{a.lower()} {s.start}:{s.stop}" for a, s in zip(letters, box, strict=True)]
        places = (*self._lead(key[0]), *(key[1 + i] for i in self.order))
        return f"chunk {'/'.join(map(str, places))} ({', '.join(parts)})"

    def plane_of(self, array: Any, plane: int) -> PlaneOf:
        """One plane of an array in this grid, with its axes as the source has them."""
        every = slice(None) if self.classes else None
        return PlaneOf(array, self._lead(plane, every), self.order)

    def _lead(self, plane: int, number: Any = None) -> tuple[Any, ...]:
        """Place of a plane along the axes before its own; ``number`` is that among the classes."""
        found = np.unravel_index(plane, self.lead) if self.lead else ()
        place: list[Any] = [int(found[i]) for i in self.lead_order]
        if self.classes and number is not None:
            place.insert(self.axes.index("C"), number)
        return tuple(place)


class PlaneOf:
    """A plane of an array, read and written in boxes; its axes may be in another order.

    An array of classes gives and takes ``[K, *B]``.
    """

    def __init__(self, array: Any, lead: tuple[Any, ...], order: tuple[int, ...]) -> None:
        self.array, self.lead, self.order = array, lead, order
        self._before = sum(isinstance(place, slice) for place in lead)

    def __getitem__(self, box: Box) -> NDArray[Any]:
        found = np.asarray(self.array[(*self.lead, *(box[i] for i in self.order))])
        return found.transpose(self._axes(np.argsort(self.order)))

    def __setitem__(self, box: Box, values: NDArray[Any]) -> None:
        turned = values.transpose(self._axes(self.order))
        self.array[(*self.lead, *(box[i] for i in self.order))] = turned

    def _axes(self, order: Sequence[int] | NDArray[np.intp]) -> list[int]:
        return [*range(self._before), *(self._before + int(i) for i in order)]
