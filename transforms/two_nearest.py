"""Exact distances to the nearest and the second nearest cell, without one pass per cell.

Squared Euclidean distances separate into axes. After each axis every pixel knows its two best
candidates with *different* labels among the pixels of the axes done so far; two are enough,
because a third label that is worse than two others on a line stays worse than them wherever the
line is seen from. The cost does not depend on the number of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


def two_nearest_cells(
    labels: NDArray[Any], spacing: Sequence[float] | None = None, cutoff: float = np.inf
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Distances of every pixel to the two nearest cells, and the label of the nearest.

    Args:
        labels: ``[*S]`` of any number of axes, integers; 0 is background.
        spacing: distance between pixels along each axis; default 1.
        cutoff: farther cells need not be found (they count as infinitely far); saves time
            where cells are sparse.

    Returns:
        ``d1``, ``d2`` ``[*S]`` float32 in units of ``spacing`` (inf where there is no such cell;
        d1 is 0 inside a cell), and the nearest label ``[*S]``, 0 where there is none.

    Raises:
        ValueError: for a ``spacing`` of another length, or not above 0.
    """
    steps = [1.0] * labels.ndim if spacing is None else [float(s) for s in spacing]
    if len(steps) != labels.ndim or min(steps) <= 0:
        raise ValueError(f"spacing={spacing}: expected {labels.ndim} distances > 0, one an axis")
    shape = labels.shape
    first = np.where(labels != 0, np.float32(0), np.float32(np.inf))
    second = np.full(shape, np.inf, np.float32)
    first_label = np.ascontiguousarray(labels, dtype=np.int64)
    if first_label is labels:
        first_label = first_label.copy()
    second_label = np.zeros(shape, np.int64)
    for axis in reversed(range(labels.ndim)):
        inner = int(np.prod(shape[axis + 1 :]))
        lines = (-1, shape[axis], inner)
        views = [a.reshape(lines) for a in (first, first_label, second, second_label)]
        _pass(*views, steps[axis], min(cutoff, steps[axis] * shape[axis]))
    return np.sqrt(first), np.sqrt(second), first_label


@njit(cache=True)
def _pass(h1, l1, h2, l2, step, cutoff):  # type: ignore[no-untyped-def]
    """Update the two best candidates of every pixel along the middle axis, in place."""
    outer, n, inner = h1.shape
    g1, g2 = np.empty(n, np.float32), np.empty(n, np.float32)
    k1, k2 = np.empty(n, np.int64), np.empty(n, np.int64)
    reach = int(cutoff / step + 1e-6)  # 0.3 / 0.1 is a little less than 3
    for o in range(outer):
        for c in range(inner):
            empty = True
            for i in range(n):
                g1[i], k1[i], g2[i], k2[i] = h1[o, i, c], l1[o, i, c], h2[o, i, c], l2[o, i, c]
                empty = empty and k1[i] == 0
            if empty:
                continue
            for i in range(n):
                best, label, other, other_label = g1[i], k1[i], g2[i], k2[i]
                for k in range(1, reach + 1):
                    apart = np.float32(k * step * k * step)
                    if apart >= other:
                        break
                    for j in (i - k, i + k):
                        if j < 0 or j >= n:
                            continue
                        for candidate, name in ((g1[j] + apart, k1[j]), (g2[j] + apart, k2[j])):
                            if name == 0 or candidate >= other:
                                continue
                            if name == label:
                                best = min(best, candidate)
                            elif candidate < best:
                                other, other_label = best, label
                                best, label = candidate, name
                            else:
                                other, other_label = candidate, name
                h1[o, i, c], l1[o, i, c], h2[o, i, c], l2[o, i, c] = best, label, other, other_label
