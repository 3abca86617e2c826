"""Cells as polygons, and back: what QuPath, the Digital Slide Archive and CVAT exchange."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from overtile.pipelines.errors import DataError
from overtile.pipelines.label.classes import colours

Polygon = list[tuple[int, int]]
COLOUR = (255, 170, 0)


def outlines(labels: NDArray[Any]) -> Iterator[tuple[int, Polygon]]:
    """Each cell of ``[H, W]`` with the polygon along the edges of its pixels.

    Vertices (x, y) are corners of pixels, (0, 0) the upper left one of the image. A cell of
    several parts has a polygon for each; holes are left out.
    """
    for cell, window in enumerate(ndimage.find_objects(labels), 1):
        if window is None:
            continue
        rows, columns = window
        for loop in _loops(labels[window] == cell):
            yield cell, [(x + columns.start, y + rows.start) for x, y in loop]


def _loops(mask: NDArray[np.bool_]) -> Iterator[Polygon]:
    """Outer edges of a mask, clockwise, without the vertices in the middle of a straight edge."""
    wide = np.pad(mask, 1)
    inner = wide[1:-1, 1:-1]
    ahead: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for beside, start, end in (
        (wide[:-2, 1:-1], (0, 0), (1, 0)),  # above: to the right
        (wide[1:-1, 2:], (1, 0), (1, 1)),
        (wide[2:, 1:-1], (1, 1), (0, 1)),
        (wide[1:-1, :-2], (0, 1), (0, 0)),
    ):
        for y, x in np.argwhere(inner & ~beside).tolist():
            ahead.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    while ahead:
        first = next(iter(ahead))
        loop, here, step = [first], first, (0, 0)
        while True:
            ends = ahead[here]
            # where two corners meet, turn right: so both stay parts of their own
            right = (here[0] - step[1], here[1] + step[0])
            there = right if len(ends) > 1 and right in ends else ends[0]
            ends.remove(there)
            if not ends:
                del ahead[here]
            step = (there[0] - here[0], there[1] - here[1])
            here = there
            if here == first:
                break
            loop.append(here)
        if _area(loop) > 0:
            yield _corners(loop)


def _area(loop: Polygon) -> float:
    x, y = np.array(loop, float).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _corners(loop: Polygon) -> Polygon:
    kept = []
    for before, here, after in zip(loop[-1:] + loop, loop, loop[1:] + loop[:1], strict=False):
        straight = (here[0] - before[0]) * (after[1] - here[1]) == (here[1] - before[1]) * (
            after[0] - here[0]
        )
        if not straight:
            kept.append(here)
    return kept


def filled(polygons: Iterable[list[tuple[float, float]]], shape: tuple[int, int]) -> NDArray[Any]:
    """Labels ``[H, W]`` uint32 of the pixels whose centres lie in a polygon; later ones win."""
    from skimage.draw import polygon

    labels = np.zeros(shape, np.uint32)
    for number, vertices in enumerate(polygons, 1):
        x, y = np.array(vertices, float).T
        labels[polygon(y - 0.5, x - 0.5, shape)] = number
    return labels


def read_asap(file: BinaryIO, name: str) -> list[list[tuple[float, float]]]:
    """The polygons of an ASAP file, as QuPath's extension sends its annotations.

    Args:
        file: open.
        name: of it, for messages.

    Raises:
        DataError: if it is none, holds no polygon, or a coordinate that is not finite.
    """
    try:
        root = ElementTree.parse(file).getroot()
        found = [
            [(float(c.attrib["X"]), float(c.attrib["Y"])) for c in one.iter("Coordinate")]
            for one in root.iter("Annotation")
        ]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError(
            name, f"no annotations of ASAP ({error})", "XML with Annotation and Coordinate"
        ) from error
    if not all(np.isfinite(vertices).all() for vertices in found):
        raise DataError(name, "a coordinate that is no number", "x and y in pixels")
    polygons = [vertices for vertices in found if len(vertices) > 2]
    if not polygons:
        raise DataError(name, "no polygon in it", "one a cell")
    return polygons


def as_annotations(
    labels: NDArray[Any],
    location: tuple[int, int] = (0, 0),
    size: tuple[int, int] = (0, 0),
    classes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Polygons as MONAI Label's own writers and clients of slides take them.

    Args:
        labels: ``[H, W]``.
        location: upper left corner (x, y) of the region that is asked for.
        size: width and height of it; 0 is all of the image. Cells belong to it by their middle.
        classes: what the numbers are called, where they are no cells.
    """
    kept: dict[str, list[Any]] = {}
    for number, loop in outlines(labels):
        x, y = np.mean(loop, axis=0) - location
        if not all(size) or (0 <= x < size[0] and 0 <= y < size[1]):
            name = classes[number] if classes else "cell"
            kept.setdefault(name, []).append([list(vertex) for vertex in loop])
    elements = [{"label": name, "contours": loops} for name, loops in kept.items()]
    shown = colours(classes) if classes else {"cell": COLOUR}
    return [{"annotation": {"labels": shown, "elements": elements}}]
