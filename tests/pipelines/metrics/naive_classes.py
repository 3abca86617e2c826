"""Scores of classes written down from their definitions: loops over pixels, corners and pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Place = tuple[int, ...]
GAP = -1


def counts(label: Array, prediction: Array, number: int) -> tuple[int, int, int, int]:
    """TP, FP, FN, TN of a class."""
    found = [0, 0, 0, 0]
    for place in np.ndindex(label.shape):
        if label[place] != GAP:
            there, said = label[place] == number, prediction[place] == number
            found[(0 if there else 1) if said else (2 if there else 3)] += 1
    return found[0], found[1], found[2], found[3]


def boundary(map_: Array, label: Array, number: int) -> list[Place]:
    """Annotated pixels of the class with a face at the image's edge or at another class."""
    found = []
    for place in np.ndindex(map_.shape):
        if map_[place] != number or label[place] == GAP:
            continue
        for axis, step in product(range(map_.ndim), (-1, 1)):
            beside = tuple(p + step * (a == axis) for a, p in enumerate(place))
            outside = not all(0 <= p < size for p, size in zip(beside, map_.shape, strict=True))
            if outside or (label[beside] != GAP and map_[beside] != number):
                found.append(place)
                break
    return found


def distances(ours: list[Place], theirs: list[Place], spacing: tuple[float, ...]) -> list[float]:
    """From each of ours to the nearest of theirs."""
    return [
        min(math.dist(np.multiply(one, spacing), np.multiply(other, spacing)) for other in theirs)
        for one in ours
    ]


def percentile(values: list[float], percent: float) -> float:
    """Between the two values in order that the rank lies between, linearly."""
    ordered = sorted(values)
    rank = percent / 100 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def hd95(label: Array, prediction: Array, number: int, spacing: tuple[float, ...]) -> float:
    ours, theirs = boundary(label, label, number), boundary(prediction, label, number)
    if not ours or not theirs:
        return math.inf if ours or theirs else math.nan
    pairs = (ours, theirs), (theirs, ours)
    return max(percentile(distances(a, b, spacing), 95) for a, b in pairs)


def length(square: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    """Of the line that cuts the class's pixels off from the others, of 2 x 2: marching squares."""
    (a, b), (c, d) = square[:2], square[2:]
    inside = a + b + c + d
    if inside in (0, 4):
        return 0.0
    if a == b and c == d:  # it runs along the second axis
        return spacing[1]
    if a == c and b == d:
        return spacing[0]
    cut_off = 1 if inside != 2 else 2  # corners, each from the middle of a side to that of another
    return cut_off * math.hypot(spacing[0] / 2, spacing[1] / 2)


def area(cube: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    """Of the surface in 2 x 2 x 2 pixels, for those at the face, an edge or a corner of a box."""
    inside = sum(cube)
    few = np.argwhere(np.reshape(cube, (2, 2, 2)) == (inside <= 4))
    if inside in (0, 8):
        return 0.0
    x, y, z = spacing
    if inside in (1, 7):  # a triangle between the middles of three edges
        return math.sqrt((y * z) ** 2 + (x * z) ** 2 + (x * y) ** 2) / 8
    along = [a for a in range(3) if len(set(few[:, a])) == 2]
    others = [spacing[a] for a in range(3) if a not in along]
    if inside in (2, 6) and len(along) == 1:  # a rectangle, bevelled
        return spacing[along[0]] * math.hypot(others[0] / 2, others[1] / 2)
    if inside == 4 and len(along) == 2:
        return spacing[along[0]] * spacing[along[1]]
    raise AssertionError(f"no part of a box: {cube}")


Measure = Callable[[tuple[int, ...], tuple[float, ...]], float]


def elements(
    map_: Array, label: Array, number: int, spacing: tuple[float, ...], measure: Measure
) -> Iterator[tuple[Place, float]]:
    """Corners of pixels with the least measure that any content of the gaps gives them."""
    for corner in np.ndindex(*(size + 1 for size in map_.shape)):
        choices: list[tuple[int, ...]] = []
        for step in product((-1, 0), repeat=map_.ndim):
            place = tuple(c + s for c, s in zip(corner, step, strict=True))
            if not all(0 <= p < size for p, size in zip(place, map_.shape, strict=True)):
                choices.append((0,))
            elif label[place] == GAP:
                choices.append((0, 1))
            else:
                choices.append((int(map_[place] == number),))
        least = min(measure(cells, spacing) for cells in product(*choices))
        if least > 0:
            yield corner, least


def surface_dice(
    label: Array,
    prediction: Array,
    number: int,
    spacing: tuple[float, ...],
    tolerance: float,
    measure: Measure,
) -> float:
    ours = dict(elements(label, label, number, spacing, measure))
    theirs = dict(elements(prediction, label, number, spacing, measure))
    total = sum(ours.values()) + sum(theirs.values())
    if not total:
        return math.nan
    near = 0.0
    for one, other in ((ours, theirs), (theirs, ours)):
        if one and other:
            far = distances(list(one), list(other), spacing)
            near += sum(s for s, d in zip(one.values(), far, strict=True) if d <= tolerance + 1e-6)
    return near / total
