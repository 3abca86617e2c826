"""Colours of cells, whose neighbours differ, and of classes, which keep theirs everywhere."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Told apart with any colour vision: Okabe and Ito, "Color Universal Design", 2008.
PALETTE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
ERROR_COLOURS = {
    "missed": (213, 94, 0),
    "extra": (86, 180, 233),
    "merged": (204, 121, 167),
    "split": (240, 228, 66),
}


def numbered_colours(
    cells: NDArray[Any], like: tuple[NDArray[Any], NDArray[np.uint8]] | None = None
) -> NDArray[np.uint8]:
    """The number of each cell's colour, ``[*S]``, 0 = background: neighbours never share one.

    Neighbours are cells with no third one between them, however far apart. The graph is coloured
    greedily, cells with few neighbours last (Matula and Beck 1983): six colours are enough where
    it is planar, and `PALETTE` has seven; volumes may need more.

    Args:
        cells: ``[h, w]`` or ``[d, h, w]``, 0 = background.
        like: other cells of the same image and their colours, taken over where cells overlap most
            and no neighbour objects, so that a cell keeps its colour from label to prediction.
    """
    names, compact = numbered(cells)
    if names[0] != 0:
        names, compact = np.concatenate([[0], names]), compact + 1
    if len(names) == 1:
        return np.zeros(cells.shape, np.uint8)
    near = ndimage.distance_transform_edt(compact == 0, return_distances=False, return_indices=True)
    neighbours = _neighbours(compact[tuple(near)], len(names))
    wanted = np.zeros(len(names), int)
    if like is not None:
        wanted = _colours_below(compact, *like, count=len(names))
    chosen = np.zeros(len(names), int)
    used = np.zeros(len(PALETTE) + 1, int)
    for cell in reversed(_smallest_last(neighbours)):
        taken = {int(chosen[other]) for other in neighbours[cell]}
        free = [c for c in range(1, len(PALETTE) + 1) if c not in taken]
        colour = int(wanted[cell])
        if not colour or colour in taken:
            more = range(len(PALETTE) + 1, 2**8)  # cells in pieces have neighbours without end
            colour = (
                min(free, key=lambda c: used[c])
                if free
                else next((c for c in more if c not in taken), 1)
            )
        chosen[cell] = colour
        if colour < len(used):
            used[colour] += 1
    return chosen.astype(np.uint8)[compact]


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colours 1 to ``count``: `PALETTE`, and beyond it ever darker ones of the same."""
    colours = []
    for number in range(count):
        shade = 0.8 ** (number // len(PALETTE))
        r, g, b = (round(c * shade) for c in PALETTE[number % len(PALETTE)])
        colours.append((r, g, b))
    return colours


def class_colours(count: int) -> list[tuple[int, int, int]]:
    """Red, green and blue of classes 1 to ``count``, each from its number alone.

    The first seven are told apart with any colour vision (`PALETTE`). Every further seven are
    those, darker and lighter in turn; up to 255 no two are equal.
    """
    colours = []
    for number in range(count):
        round_, place = divmod(number, len(PALETTE))
        # 1/2, 1/4, 3/4, ... of the way: van der Corput's sequence, which fills an interval evenly
        way = sum(((round_ + 1) // 2 >> bit & 1) / 2 ** (bit + 1) for bit in range(8))
        mixed, share = (0, 0.75 * way) if round_ % 2 else (255, 0.8 * way)
        r, g, b = (round(c + (mixed - c) * share) for c in PALETTE[place])
        colours.append((r, g, b))
    return colours


def class_label(number: int, names: Sequence[str] = ()) -> str:
    """What a class is called, for people: its name; ``class 3`` where that is a number, or none."""
    name = names[number] if number < len(names) else str(number)
    return f"class {name}" if name.isdecimal() else name


def outline(cells: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of cells, ``[h, w]``, that have another cell or background beside them."""
    padded = np.pad(cells, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    differs = np.zeros(cells.shape, bool)
    for beside in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        differs |= beside != centre
    return differs & (cells > 0)


HATCH = (190, 190, 190)
"""Colour of the stripes where nothing is annotated."""


def hatched(gaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Diagonal stripes in a region, ``[h, w]``."""
    rows, columns = np.indices(gaps.shape)
    stripes: NDArray[np.bool_] = gaps & ((rows + columns) % 8 < 2)
    return stripes


def _neighbours(nearest: NDArray[Any], count: int) -> list[set[int]]:
    """Of each number, those beside it, diagonals included."""
    found: list[set[int]] = [set() for _ in range(count)]
    steps = list(product((0, 1, -1), repeat=nearest.ndim))
    for step in (s for s in steps if s > (0,) * nearest.ndim):  # of each two opposite ones one
        one = nearest[tuple(slice(max(-s, 0), -1 if s > 0 else None) for s in step)]
        other = nearest[tuple(slice(max(s, 0), -1 if s < 0 else None) for s in step)]
        differ = one != other
        for pair in np.unique(one[differ].astype(np.int64) * count + other[differ]).tolist():
            a, b = divmod(pair, count)
            found[a].add(b)
            found[b].add(a)
    return found


def _smallest_last(neighbours: list[set[int]]) -> list[int]:
    """Cells (from 1) in an order in which each has the fewest neighbours among those behind it."""
    degree = [len(n) for n in neighbours]
    queue = [(degree[cell], cell) for cell in range(1, len(neighbours))]
    heapq.heapify(queue)
    order: list[int] = []
    gone = [False] * len(neighbours)
    while queue:
        left, cell = heapq.heappop(queue)
        if gone[cell] or left != degree[cell]:
            continue
        gone[cell] = True
        order.append(cell)
        for other in neighbours[cell]:
            if not gone[other]:
                degree[other] -= 1
                heapq.heappush(queue, (degree[other], other))
    return order


def _colours_below(
    compact: NDArray[Any], below: NDArray[Any], colours: NDArray[np.uint8], count: int
) -> NDArray[np.int64]:
    """For each of ``count`` cells the colour of the other cell it shares most pixels with, or 0."""
    wanted = np.zeros(count, np.int64)
    both = (compact > 0) & (below > 0)
    if not both.any():
        return wanted
    names, place = numbered(below[both])
    found = np.zeros(len(names), np.int64)
    found[place] = colours[both]
    pairs, sizes = np.unique(compact[both] * len(names) + place, return_counts=True)
    for pair in pairs[np.argsort(sizes, kind="stable")].tolist():  # the largest overlap is last
        cell, other = divmod(pair, len(names))
        wanted[cell] = found[other]
    return wanted


def numbered(cells: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """As ``np.unique`` with the inverse, in the shape of ``cells``; faster for small numbers."""
    top = int(cells.max(initial=0))
    if top >= 2**24 or int(cells.min(initial=0)) < 0:
        names, compact = np.unique(cells, return_inverse=True)
        return names, compact.reshape(cells.shape)
    present = np.bincount(cells.ravel(), minlength=top + 1) > 0
    table = np.cumsum(present) - 1
    return np.flatnonzero(present), table[cells]
