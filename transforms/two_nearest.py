"""Exact distances to the nearest and the second nearest cell, without one pass per cell.

Squared Euclidean distances separate into axes. After each axis every pixel knows its two best
candidates with *different* labels among the pixels of the axes done so far; two are enough,
because a third label that is worse than two others on a line stays worse than them wherever the
line is seen from.

Along a line a candidate of squared distance f at p offers (x - p)^2 + f at x. The best offers are
the lower envelope of these parabolas (Felzenszwalb and Huttenlocher 2012, "Distance transforms of
sampled functions"). The second best ones take further envelopes: where a label A is the nearest
from start to last, the envelope of all offers but A's. Only offers between the site that won just
before start and the one that wins just after last can be on it: of two parabolas, the one that is
lower at x and stands nearer to it is lower everywhere beyond. So every candidate is looked at
three times at most, and the cost is linear in the pixels, whatever the cells are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.networks.errors import ArgumentError
from overtile.transforms.compiled import compiled
from overtile.transforms.instance_labels import refuse_below_ignored, whole_numbers

_FAR = np.float32(1e15)  # "no such cell"; its square is still a float32
_NOTHING = _FAR * _FAR
# Where a loop's index is unsigned, Numba does not ask whether it counts from the end: a sixth of
# the whole time.
_u = np.uintp
_NO_LABELS = np.empty((0, 0), np.int32)
_NO_DISTANCES = np.empty((0, 0), np.float32)


def two_nearest_cells(
    labels: NDArray[Any], spacing: Sequence[float] | None = None, cutoff: float = np.inf
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Distances of every pixel to the two nearest cells, and the label of the nearest.

    Args:
        labels: ``[*S]`` of any number of axes, whole numbers; 0 is background, and -1, where
            nothing is annotated, no cell either.
        spacing: distance between pixels along each axis; default 1.
        cutoff: farther cells need not be found (they count as infinitely far); saves time
            where cells are sparse.

    Returns:
        ``d1``, ``d2`` ``[*S]`` float32 in units of ``spacing`` (inf where there is no such cell;
        d1 is 0 inside a cell), and the nearest label ``[*S]``, 0 where there is none.

    Raises:
        ValueError: for a ``spacing`` of another length, or not above 0, or other labels.
    """
    planes, lengths, steps, values = _prepared(labels, spacing)
    first, second = np.empty(planes.shape, np.float32), np.empty(planes.shape, np.float32)
    names = np.empty(planes.shape, np.int32)
    if labels.size:
        limit = _limit(cutoff)
        _nearest(planes, lengths, steps, (limit, limit), (True, False), first, second, names)
    named = (names if values is None else values[names]).astype(np.int64)
    return first.reshape(labels.shape), second.reshape(labels.shape), named.reshape(labels.shape)


def squared_gap_widths(
    labels: NDArray[Any],
    spacing: Sequence[float] | None = None,
    cutoff: float = np.inf,
    inside: bool = False,
) -> NDArray[np.float32]:
    """(d1 + d2)^2 of `two_nearest_cells`, without keeping either.

    Args:
        labels: see `two_nearest_cells`.
        spacing: see `two_nearest_cells`.
        cutoff: where d1 + d2 is larger, any value above its square may be given; saves time.
        inside: compute it inside cells too, where d1 is 0; else it is infinite there, or huge.

    Returns:
        ``[*S]`` float32; infinite, or huge, where there are fewer than two cells.

    Raises:
        ValueError: for a ``spacing`` of another length, or not above 0, or other labels.
    """
    planes, lengths, steps, _ = _prepared(labels, spacing)
    widths = np.empty(planes.shape, np.float32)
    if labels.size:
        limits = _limit(cutoff / 2), _limit(cutoff)  # d1 <= d2
        _nearest(planes, lengths, steps, limits, (inside, True), widths, _NO_DISTANCES, _NO_LABELS)
    return widths.reshape(labels.shape)


def _prepared(
    labels: NDArray[Any], spacing: Sequence[float] | None
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64] | None]:
    """Labels as ``[first axis, the others]``, lengths of the others, steps, labels renamed."""
    labels = whole_numbers(labels)
    refuse_below_ignored(labels)
    steps = [1.0] * labels.ndim if spacing is None else [float(s) for s in spacing]
    if len(steps) != labels.ndim or min(steps) <= 0:
        raise ArgumentError(f"spacing={spacing}", f"{labels.ndim} distances > 0, one an axis")
    shape = labels.shape
    if labels.ndim == 1:
        shape, steps = (1, *shape), [1.0, *steps]
    values = None
    largest = np.iinfo(np.int32).max
    wide = labels.dtype.itemsize > 4 or labels.dtype == np.uint32
    if wide and labels.size and labels.max() > largest:
        found, labels = np.unique(np.append(labels.dtype.type(0), labels), return_inverse=True)
        values, labels = np.roll(found, -int(labels[0])), labels[1:] - labels[0]
    planes = np.ascontiguousarray(labels, np.int32).reshape(shape[0], int(np.prod(shape[1:])))
    return planes, np.array(shape[1:], np.int64), np.array(steps), values


def _limit(cutoff: float) -> np.float32:
    """Squared, a little more than that, because 0.3 / 0.1 is a little less than 3."""
    return np.float32(min(cutoff * (1 + 1e-6), float(_FAR) / 2) ** 2)


@compiled(error_model="numpy", fastmath={"contract"})
def _nearest(labels, lengths, steps, limits, kinds, first, second, names):  # type: ignore[no-untyped-def]
    """The two nearest cells of all planes ``labels [n, P]``.

    The first axis is a sweep down and one up. To keep only a few planes at a time, what the sweep
    up has seen is kept at every sqrt(n)-th plane, and swept again from there.
    """
    n, size = labels.shape
    inside, widths = kinds
    every = int(np.ceil(np.sqrt(n)))
    kept = np.zeros((-(-n // every), 4, size), np.int32)
    below = np.zeros((4, size), np.int32)
    for z in range(n - 1, -1, -1):
        if (z + 1) % every == 0:
            kept[z // every] = below
        _see(labels[z], z, below)
    above = np.zeros((4, size), np.int32)
    seen = np.zeros((every, 4, size), np.int32)
    f1, f2 = np.empty(size, np.float32), np.empty(size, np.float32)
    k1, k2 = np.empty(size, np.int32), np.empty(size, np.int32)
    longest = lengths.max()
    line = (
        (np.empty(longest, np.float32), np.empty(longest, np.int32)),
        (np.empty(longest, np.float32), np.empty(longest, np.int32)),
    )
    best = np.empty(longest, np.float32), np.empty(longest, np.int32)
    other = np.empty(longest, np.float32), np.empty(longest, np.int32)
    work = (
        np.empty(longest + 1, np.float64),
        np.empty(longest + 1, np.float64),
        np.empty(longest, np.int32),
        np.empty(longest, np.int32),
        np.empty(longest, np.float32),
    )
    last = lengths[-1]
    for z in range(n):
        if z % every == 0:
            below[:] = kept[z // every]
            for upper in range(min(z + every, n) - 1, z - 1, -1):
                _see(labels[upper], upper, below)
                seen[upper - z] = below
        _see(labels[z], z, above)
        _join(z, np.float32(steps[0]), above, seen[z % every], f1, k1, f2, k2)
        inner = size
        for axis in range(len(lengths) - 1):
            length = lengths[axis]
            inner //= length
            for outer in range(size // (length * inner)):
                for start in range(outer * length * inner, outer * length * inner + inner):
                    lines = slice(start, start + length * inner, inner)
                    (g1, m1), (g2, m2) = line
                    g1, m1, g2, m2 = g1[:length], m1[:length], g2[:length], m2[:length]
                    g1[:], m1[:], g2[:], m2[:] = f1[lines], k1[lines], f2[lines], k2[lines]
                    _line(
                        g1,
                        m1,
                        g2,
                        m2,
                        steps[axis + 1],
                        (limits[1], limits[1]),
                        (True, True),
                        best,
                        other,
                        work,
                    )
                    f1[lines], k1[lines] = best[0][:length], best[1][:length]
                    f2[lines], k2[lines] = other[0][:length], other[1][:length]
        for start in range(0, size, last):
            row = slice(start, start + last)
            of_row = f1[row], k1[row], f2[row], k2[row]
            _line(*of_row, steps[-1], limits, (inside, False), best, other, work)
            if widths:
                _widths(best[0], other[0], first[z, row])
            else:
                for x in range(last):
                    a, b = best[0][x], other[0][x]
                    first[z, start + x] = np.sqrt(a) if a < _NOTHING else np.float32(np.inf)
                    second[z, start + x] = np.sqrt(b) if b < _NOTHING else np.float32(np.inf)
                    names[z, start + x] = best[1][x]


@compiled(error_model="numpy", fastmath={"contract"})
def _widths(first, second, widths):  # type: ignore[no-untyped-def]
    """(d1 + d2)^2 of both squares; a loop of its own, which Numba turns into vectors."""
    for x in range(widths.size):
        a, b = first[x], second[x]
        widths[x] = a + b + np.float32(2) * np.sqrt(a * b)


@compiled(error_model="numpy", fastmath={"contract"})
def _see(plane, z, seen):  # type: ignore[no-untyped-def]
    """Update ``seen``: the last label of a sweep, where it was, the last other label, and where."""
    k1, z1, k2, z2 = seen[0], seen[1], seen[2], seen[3]
    for x in range(plane.size):
        label = plane[x]
        fresh = label > 0 and label != k1[x]
        k2[x] = k1[x] if fresh else k2[x]
        z2[x] = z1[x] if fresh else z2[x]
        k1[x] = label if label > 0 else k1[x]
        z1[x] = z if label > 0 else z1[x]


@compiled(error_model="numpy", fastmath={"contract"})
def _join(z, step, above, below, f1, k1, f2, k2):  # type: ignore[no-untyped-def]
    """The two best of what both sweeps have seen, as squared distances and labels."""
    a1, za1, a2, za2 = above[0], above[1], above[2], above[3]
    b1, zb1, b2, zb2 = below[0], below[1], below[2], below[3]
    for x in range(f1.size):
        up1 = np.float32(z - za1[x]) * step if a1[x] != 0 else _FAR
        up2 = np.float32(z - za2[x]) * step if a2[x] != 0 else _FAR
        down1 = np.float32(zb1[x] - z) * step if b1[x] != 0 else _FAR
        down2 = np.float32(zb2[x] - z) * step if b2[x] != 0 else _FAR
        # after the nearer side's first come its second, or the other side's first of another label
        up = up1 <= down1
        nearest = up1 if up else down1
        name = a1[x] if up else b1[x]
        own = up2 if up else down2
        own_name = a2[x] if up else b2[x]
        if a1[x] == b1[x]:
            across = down2 if up else up2
            across_name = b2[x] if up else a2[x]
        else:
            across = down1 if up else up1
            across_name = b1[x] if up else a1[x]
        second = own if own <= across else across
        f1[x], k1[x] = nearest * nearest, name
        f2[x], k2[x] = second * second, own_name if own <= across else across_name


@compiled(error_model="numpy", fastmath={"contract"})
def _line(f1, k1, f2, k2, step, limits, kinds, best, other, work):  # type: ignore[no-untyped-def]
    """The two best offers everywhere on a line, from two candidates a pixel.

    ``limits`` are those of the best and of the second; beyond them ``_NOTHING`` may be given.
    ``kinds``: without ``inside`` the second one is left out in cells, and without ``named`` its
    label everywhere.
    """
    n = len(f1)
    inside, named = kinds
    r1, name1 = best
    r2, name2 = other
    height, slope, apex, site, offers = work
    x = 0
    while x < n:
        if f1[_u(x)] == 0:
            r1[_u(x)], name1[_u(x)], site[_u(x)] = 0, k1[_u(x)], x
            x += 1
            continue
        end = x
        while end < n and f1[_u(end)] != 0:
            end += 1
        # nothing beyond the two cells that bound a gap reaches into it
        start, stop = max(x - 1, 0), min(end, n - 1)
        limit = limits[0]
        if x > 0 and end < n:
            half = (end - x + 1) * step / 2
            limit = min(limit, np.float32(half * half))
        top = _envelope(f1, start, stop, limit, step, height, slope, apex)
        i = 0
        for y in range(x, end):
            r1[_u(y)], name1[_u(y)] = _NOTHING, 0
            if top < 0:
                continue
            at = 2 * y * step
            # mostly it is the same or the next: one step without a branch to guess
            i += slope[_u(i + 1)] < at
            while slope[_u(i + 1)] < at:
                i += 1
            away = (y - apex[_u(i)]) * step
            offer = f1[_u(apex[_u(i)])] + away * away
            if offer <= limits[0]:
                r1[_u(y)], name1[_u(y)], site[_u(y)] = offer, k1[_u(apex[_u(i)])], apex[_u(i)]
        x = end
    r2[:n] = _NOTHING
    if named:
        name2[:n] = 0
    before, start = -1, 0
    while start < n and name1[_u(start)] == 0:
        start += 1
    while start < n:
        name, last, end = name1[_u(start)], start, start + 1
        while end < n and (name1[_u(end)] == name or name1[_u(end)] == 0):
            last = end if name1[_u(end)] == name else last
            end += 1
        # what wins before and after is an offer already: worse candidates cannot win
        limit = limits[1]
        if before >= 0:
            away = (last - before) * step
            limit = min(limit, np.float32(f1[_u(before)] + away * away))
        if end < n:
            away = (site[_u(end)] - start) * step
            limit = min(limit, np.float32(f1[_u(site[_u(end)])] + away * away))
        low, high = max(before, 0), site[_u(end)] if end < n else n - 1
        for j in range(low, high + 1):
            offers[_u(j)] = f2[_u(j)] if k1[_u(j)] == name else f1[_u(j)]
        top = _envelope(offers, low, high, limit, step, height, slope, apex)
        i = 0
        for x in range(start, last + 1 if top >= 0 else start):
            if name1[_u(x)] == 0 or (f1[_u(x)] == 0 and not inside):
                continue
            at = 2 * x * step
            i += slope[_u(i + 1)] < at
            while slope[_u(i + 1)] < at:
                i += 1
            j = apex[_u(i)]
            away = (x - j) * step
            r2[_u(x)] = offers[_u(j)] + away * away
            if named:
                name2[_u(x)] = k2[_u(j)] if k1[_u(j)] == name else k1[_u(j)]
        before, start = site[_u(last)], end


@compiled(error_model="numpy", fastmath={"contract"})
def _envelope(offers, low, high, limit, step, height, slope, apex):  # type: ignore[no-untyped-def]
    """Lower envelope of the parabolas (x - p)^2 + f, f the offers from low to high; its last index.

    It is the lower convex hull of the points (p, p^2 + f): a parabola is the lowest up to half the
    slope that leads to the next; no slope leads beyond the last. Offers above the limit stay out.
    """
    bend = np.float32(2 * step * step)
    top = -1
    for j in range(low, high + 1):
        f = offers[_u(j)]
        # most are hidden by their neighbours already, which is quickly seen
        if f > limit or (low < j < high and offers[_u(j - 1)] + offers[_u(j + 1)] + bend <= 2 * f):
            continue
        p = j * step
        value = f + p * p
        while top > 0 and value - height[_u(top)] <= slope[_u(top)] * (p - apex[_u(top)] * step):
            top -= 1
        if top >= 0:
            slope[_u(top + 1)] = (value - height[_u(top)]) / (p - apex[_u(top)] * step)
        top += 1
        height[_u(top)], apex[_u(top)] = value, j
    slope[_u(top + 1)] = np.inf
    return top
