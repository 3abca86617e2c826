"""What the metrics of membranes count in one slice, compiled.

Every image here is flat and has a frame of one background pixel, so that a neighbour is an offset
and no kernel asks where the image ends. Rows of the flat image are the columns of the picture: the
definitions go through pixels with x outer and y inner, and so walking the flat image is that order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.transforms.compiled import compiled

_MASK, _QUEUED, _OUTSIDE = -1, -2, -3  # of a watershed; its dams are 0
REACH = 20  # pixels around a lost one in which its object may hang together
NARROW = 19  # sides of a slice up to which all of it is that neighbourhood


def framed(image: NDArray[Any]) -> NDArray[Any]:
    """``[H, W]`` -> ``[W + 2, H + 2]``, x first, with a frame of 0."""
    return np.pad(image.T, 1)


def _simple_rings() -> NDArray[np.bool_]:
    """Whether a pixel with these 8 neighbours (bit n: n-th of the ring) may flip.

    It may if exactly one 4-connected part of its neighbours' foreground touches it along an edge,
    and some neighbour is background: then neither an object nor a hole is made, lost, cut or
    joined, with 4-connected objects in an 8-connected background. Even places of the ring are its
    corners, odd ones its edges.
    """
    simple = np.zeros(256, np.bool_)
    for ring in range(255):  # 255: all foreground
        bits = [ring >> n & 1 for n in range(8)]
        gap = bits.index(0)
        around = bits[gap:] + bits[:gap]  # a part does not wrap around
        places = [(gap + n) % 8 for n in range(8)]
        touching, inside = 0, False
        for bit, place in zip(around, places, strict=True):
            if not bit:
                inside = False
            elif place % 2 and not inside:
                touching, inside = touching + 1, True
        simple[ring] = touching == 1
    return simple


_SIMPLE = _simple_rings()


@compiled(nogil=True)
def _ring(stride):  # type: ignore[no-untyped-def]
    """Offsets of the 8 neighbours, going round; corners at even places."""
    return np.array(
        (-stride - 1, -stride, -stride + 1, 1, stride + 1, stride, stride - 1, -1), np.int64
    )


@compiled(nogil=True)
def components(cell, stride, labels, queue):  # type: ignore[no-untyped-def]
    """Number the 4-connected components of ``cell`` into ``labels``; return how many there are."""
    count = 0
    labels[:] = 0
    for start in range(cell.size):
        if not cell[start] or labels[start]:
            continue
        count += 1
        labels[start] = count
        queue[0], size = start, 1
        while size:
            size -= 1
            p = queue[size]
            for q in (p - stride, p - 1, p + 1, p + stride):
                if cell[q] and not labels[q]:
                    labels[q] = count
                    queue[size] = q
                    size += 1
    return count


@compiled(nogil=True)
def thin(labels, count, stride, basins, queue):  # type: ignore[no-untyped-def]
    """Grow the components over the membranes until only dams (0) of one pixel are between them.

    Flooding by Soille and Vincent (1990), of two levels: cells, which are the minima, and
    membranes. A map without cells is a single basin. Returns the number of basins.
    """
    rows = labels.size // stride
    size = 0
    for x in range(rows):
        for y in range(stride):
            p = x * stride + y
            if x == 0 or y == 0 or x == rows - 1 or y == stride - 1:
                basins[p] = _OUTSIDE
            elif count == 0:
                basins[p] = 1
            else:
                basins[p] = labels[p] if labels[p] else _MASK
    if count == 0:
        return 1
    for p in range(labels.size):
        if basins[p] == _MASK:
            for q in (p - stride, p - 1, p + 1, p + stride):
                if labels[q] > 0:
                    basins[p] = _QUEUED
                    queue[size] = p
                    size += 1
                    break
    first, undecided = 0, False
    while first < size:
        p = queue[first]
        first += 1
        for q in (p - stride, p - 1, p + stride, p + 1):
            own, other = basins[p], basins[q]
            if other > 0:
                if own == _QUEUED or (own == 0 and undecided):
                    basins[p] = other
                elif own > 0 and own != other:
                    basins[p] = 0
                    undecided = False
            elif other == 0:
                if own == _QUEUED:
                    basins[p] = 0
                    undecided = True
            elif other == _MASK:
                basins[q] = _QUEUED
                queue[size] = q
                size += 1
    return count


@compiled(nogil=True)
def by_object(labels, count):  # type: ignore[no-untyped-def]
    """Pixels of object 1, then of object 2 ...; and where each begins, ``[count + 1]``."""
    starts = np.zeros(count + 2, np.int64)
    for p in range(labels.size):
        starts[labels[p] + 1] += 1
    starts[1] = 0  # not the background
    starts = np.cumsum(starts)
    pixels = np.empty(int(starts[-1]), np.int64)
    place = starts[1:].copy()
    for p in range(labels.size):
        if labels[p]:
            pixels[place[labels[p] - 1]] = p
            place[labels[p] - 1] += 1
    return pixels, starts[1:]


@compiled(nogil=True)
def contingency(pixels, starts, found, count):  # type: ignore[no-untyped-def]
    """Sums over the table c_ij of objects i >= 1 (see `by_object`) and segments j >= 0.

    Returns:
        n, the pixels of objects; s, those of them in no segment (j = 0); the sums of squares of
        c_ij (j >= 1), of rows (all j), and of columns (j >= 1); and the entropies, in nats, of
        table, rows and columns, where each pixel of j = 0 is a segment of its own.
    """
    row, column = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    n = pixels.size
    single = squares = row_squares = column_squares = 0
    joint_entropy = row_entropy = column_entropy = 0.0
    for i in range(starts.size - 1):
        first, last = starts[i], starts[i + 1]
        for k in range(first, last):
            row[found[pixels[k]]] += 1
        size = last - first
        row_squares += size * size
        row_entropy -= size / n * np.log(size / n)
        single += row[0]
        row[0] = 0
        for k in range(first, last):
            j = found[pixels[k]]
            c = row[j]
            if c:
                squares += c * c
                joint_entropy -= c / n * np.log(c / n)
                column[j] += c
                row[j] = 0
    for j in range(1, count + 1):
        c = column[j]
        if c:
            column_squares += c * c
            column_entropy -= c / n * np.log(c / n)
    if single:
        each = single / n * np.log(n)
        joint_entropy += each
        column_entropy += each
    return (
        (n, single, squares, row_squares, column_squares),
        (joint_entropy, row_entropy, column_entropy),
    )


@compiled(nogil=True)
def warp(label, mismatches, stride, simple):  # type: ignore[no-untyped-def]
    """Flip what can flip of ``mismatches``, in their order, again and again, in place.

    Returns how many are left; they are then the first of ``mismatches``, in their old order.
    """
    ring = _ring(stride)
    left = mismatches.size
    while True:
        kept = 0
        for k in range(left):
            p = mismatches[k]
            around = 0
            for n in range(8):
                around |= int(label[p + ring[n]]) << n
            if simple[around]:
                label[p] = not label[p]
            else:
                mismatches[kept] = p
                kept += 1
        if kept == left:
            return left
        left = kept


@compiled(nogil=True)
def _cuts(p, label, stride, seen, queue):  # type: ignore[no-untyped-def]
    """Whether the neighbours of cell pixel p fall apart without it, in the crop around it."""
    ring, rows = _ring(stride), label.size // stride
    x, y = p // stride, p % stride
    reach = REACH if min(rows, stride) - 2 > NARROW else label.size
    low_x, high_x = max(x - reach, 1), min(x + reach, rows - 2)
    low_y, high_y = max(y - reach, 1), min(y + reach, stride - 2)
    seen[:] = False
    seen[x - low_x, y - low_y] = True
    flooded = False
    for n in range(8):
        start = p + ring[n]
        if not label[start] or seen[start // stride - low_x, start % stride - low_y]:
            continue
        if flooded:
            return True
        flooded = True
        seen[start // stride - low_x, start % stride - low_y] = True
        queue[0], size = start, 1
        while size:
            size -= 1
            q = queue[size]
            for r in (q - stride, q - 1, q + 1, q + stride):
                u, v = r // stride, r % stride
                inside = low_x <= u <= high_x and low_y <= v <= high_y
                if inside and label[r] and not seen[u - low_x, v - low_y]:
                    seen[u - low_x, v - low_y] = True
                    queue[size] = r
                    size += 1
    return False


@compiled(nogil=True)
def classify(label, mismatches, objects, stride, queue):  # type: ignore[no-untyped-def]
    """What each mismatch of a warped label is.

    Args:
        label: warped; ``objects`` numbers its components.
        mismatches: that are left.

    Returns:
        Object deletions and additions, hole deletions and additions, splits, merges, ``[6]``.
    """
    ring = _ring(stride)
    counts = np.zeros(6, np.int64)
    rows, crop = label.size // stride, 2 * REACH + 1
    narrow = min(rows, stride) - 2 <= NARROW
    seen = np.empty((rows, stride) if narrow else (crop, crop), np.bool_)
    ids = np.empty(8, np.int64)
    for p in mismatches:
        distinct = 0
        for n in range(8):
            name = objects[p + ring[n]]
            new = True
            for k in range(distinct):
                new = new and ids[k] != name
            if new:
                ids[distinct] = name
                distinct += 1
        if distinct == 1:
            kind = (0 if label[p] else 1) if ids[0] == 0 else (3 if label[p] else 2)
        elif distinct == 2:
            kind = (4 if _cuts(p, label, stride, seen, queue) else 2) if label[p] else 3
        else:
            kind = 4 if label[p] else 5
        counts[kind] += 1
    return counts
