"""The membrane metrics as their definitions read: NumPy and Python, an image at a time, no tricks.

Images are indexed [y, x] here, and pixels are (x, y) pairs, as in the definitions.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Any

import numpy as np
from scipy import ndimage

Array = np.ndarray[Any, Any]
EIGHT = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
FOUR = [(-1, 0), (0, -1), (1, 0), (0, 1)]


def thresholds(count: int) -> list[float]:
    result, t = [], 0.0
    for _ in range(count):
        result.append(t)
        t += 0.1
    return result


def components(cells: Array) -> Array:
    return np.asarray(ndimage.label(cells)[0])


def pixel_f(labels: Array, p: Array, t: float) -> float:
    found = p.astype(np.float64) > t
    hits = (found & labels).sum()
    total = found.sum() + labels.sum()
    return float(2 * hits / total) if total else 1.0


def table_of(label: Array, segments: Array) -> dict[tuple[int, int], int]:
    """Pixels of object i of the label (a mask) in segment j."""
    objects = components(label)
    pairs = zip(objects[label].tolist(), segments[label].tolist(), strict=True)
    return dict(Counter(pairs))


def sums(table: dict[tuple[int, int], int]) -> tuple[Counter[int], Counter[int]]:
    rows: Counter[int] = Counter()
    columns: Counter[int] = Counter()
    for (i, j), n in table.items():
        rows[i] += n
        if j:
            columns[j] += n
    return rows, columns


def rand_f(labels: Array, p: Array, t: float) -> float:
    both = labelled = found = 0
    for label, q in zip(labels, p, strict=True):
        table = table_of(label, components(q.astype(np.float64) > t))
        rows, columns = sums(table)
        both += sum(math.comb(n, 2) for (_, j), n in table.items() if j)
        labelled += sum(math.comb(n, 2) for n in rows.values())
        found += sum(math.comb(n, 2) for n in columns.values())
    return 2 * both / (labelled + found) if labelled + found else 1.0


def thinned(cells: Array) -> Array:
    """Basins of the flooding of cell = 0, membrane = 255 (Soille and Vincent, 1990)."""
    height, width = cells.shape
    image = {(x, y): 0 if cells[y, x] else 255 for x in range(width) for y in range(height)}
    basin: dict[tuple[int, int], Any] = dict.fromkeys(image)
    count, flag = 0, False

    def around(p: tuple[int, int]) -> list[tuple[int, int]]:
        places = [(p[0] + dx, p[1] + dy) for dx, dy in FOUR]
        return [q for q in places if q in image]

    for level in (0, 255):
        here = [p for p in image if image[p] == level]
        for p in here:
            basin[p] = "mask"
        queue: deque[tuple[int, int]] = deque()
        for p in here:
            if any(isinstance(basin[q], int) for q in around(p)):
                basin[p] = "queued"
                queue.append(p)
        while queue:
            p = queue.popleft()
            for q in around(p):
                other = basin[q]
                if isinstance(other, int) and other > 0:
                    if basin[p] == "queued" or (basin[p] == 0 and flag):
                        basin[p] = other
                    elif isinstance(basin[p], int) and basin[p] > 0 and basin[p] != other:
                        basin[p], flag = 0, False
                elif other == 0 and isinstance(other, int):
                    if basin[p] == "queued":
                        basin[p], flag = 0, True
                elif other == "mask":
                    basin[q] = "queued"
                    queue.append(q)
        for p in here:
            if basin[p] == "mask":
                count += 1
                basin[p] = count
                queue.append(p)
                while queue:
                    for q in around(queue.popleft()):
                        if basin[q] == "mask":
                            basin[q] = count
                            queue.append(q)
    return np.array([[basin[x, y] for x in range(width)] for y in range(height)])


def v_rand_f(label: Array, q: Array, t: float) -> float:
    table = table_of(label, thinned(q.astype(np.float64) > t))
    rows, columns = sums(table)
    single = sum(n for (_, j), n in table.items() if not j)
    both = sum(n * n for (_, j), n in table.items() if j) + single
    below = sum(n * n for n in (*rows.values(), *columns.values())) + single
    return 2 * both / below if below else 0.0


def entropy(sizes: list[int]) -> float:
    n = sum(sizes)
    return -sum(s / n * math.log(s / n) for s in sizes)


def v_info_f(label: Array, q: Array, t: float) -> float:
    segments = thinned(q.astype(np.float64) > t)
    segments[segments == 0] = segments.max() + 1 + np.arange((segments == 0).sum())  # singletons
    table = table_of(label, segments)
    rows, columns = sums(table)
    both = entropy(list(rows.values())) + entropy(list(columns.values()))
    return 2 * (both - entropy(list(table.values()))) / both if both else 0.0


def simple(image: Array, x: int, y: int) -> bool:
    near = image[y - 1 : y + 2, x - 1 : x + 2].copy()
    near[1, 1] = False
    parts = components(near)
    touching = {parts[1 + dy, 1 + dx] for dx, dy in FOUR} - {0}
    return len(touching) == 1 and near.sum() < 8


def ids_around(parts: Array, x: int, y: int) -> set[int]:
    return {int(parts[y + dy, x + dx]) for dx, dy in EIGHT}


def warping_counts(label: Array, q: Array, t: float) -> list[int]:
    """Object deletions and additions, hole deletions and additions, splits, merges."""
    image, p = np.pad(label, 1), np.pad(q.astype(np.float32), 1)
    found = p.astype(np.float64) > t
    height, width = image.shape
    wrong = [(x, y) for x in range(width) for y in range(height) if image[y, x] != found[y, x]]
    wrong.sort(key=lambda xy: -np.float32(abs(float(p[xy[1], xy[0]]) - t)))
    before = -1
    while len(wrong) != before:
        before = len(wrong)
        for x, y in list(wrong):
            if simple(image, x, y):
                image[y, x] = not image[y, x]
                wrong.remove((x, y))
    parts, counts = components(image), [0] * 6
    for x, y in wrong:
        white, ids = bool(image[y, x]), ids_around(parts, x, y)
        if ids == {0}:
            kind = 0 if white else 1
        elif len(ids) == 1:
            kind = 3 if white else 2
        elif len(ids) == 2:
            kind = 3
            if white:
                reach = 20 if min(label.shape) > 19 else max(label.shape)
                crop = np.pad(image, reach)[y : y + 2 * reach + 1, x : x + 2 * reach + 1].copy()
                crop[reach, reach] = False
                kind = 4 if len(ids_around(components(crop), reach, reach)) > 2 else 2
        else:
            kind = 4 if white else 5
        counts[kind] += 1
    return counts
