"""Growth of labels by flooding, likely pixels first."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.transforms.compiled import compiled


def watershed(
    labels: NDArray[Any], probability: NDArray[Any], open_to: NDArray[np.bool_]
) -> NDArray[Any]:
    """Watershed by flooding from the labels into the pixels that are open, likely ones first.

    Of pixels as likely as each other the one that was reached earlier goes first.
    """
    padded = np.pad(labels.astype(np.int64), 1)
    strides = np.array(padded.strides) // padded.itemsize
    flat = padded.ravel()
    _flood_flat(
        flat,
        np.pad(-probability.astype(np.float64), 1).ravel(),
        np.pad(open_to, 1).ravel(),
        np.concatenate([-strides, strides[::-1]]),
    )
    return padded[(slice(1, -1),) * labels.ndim]


@compiled()
def _flood_flat(labels, level, open_to, steps):  # type: ignore[no-untyped-def]
    """Flood ``labels`` in place; each entry of the queue is a pixel and who reached it."""
    order = 0
    queue = [(0.0, order, 0, labels[0])]  # the padding's corner, which is closed
    for start in np.nonzero(labels)[0]:
        for step in steps:
            if open_to[start + step]:
                order += 1
                heapq.heappush(queue, (level[start + step], order, start + step, labels[start]))
    while queue:
        _, _, pixel, label = heapq.heappop(queue)
        if not open_to[pixel]:
            continue
        open_to[pixel], labels[pixel] = False, label
        for step in steps:
            if open_to[pixel + step]:
                order += 1
                heapq.heappush(queue, (level[pixel + step], order, pixel + step, label))
