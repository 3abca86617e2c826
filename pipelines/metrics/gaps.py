"""Predictions and labels without the pixels that are not annotated, whatever is found there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def annotated_instances(found: Array, label: Array) -> tuple[Array, Array]:
    """Cells found and labelled where there is an annotation; elsewhere 0 in both.

    A found cell that lies for more than half of it where nothing is annotated is left out: nobody
    can say whether it is there. So the regions of a crowd are treated by the tools of COCO. Of
    others, as of labelled ones, what is annotated counts.

    Args:
        found: ``[*S]`` numbered cells.
        label: ``[*S]`` numbered cells, below 0 where nothing is annotated.

    Returns:
        Both, ``label`` from 0 up.
    """
    gaps = label < 0
    if not gaps.any():
        return found, label
    numbers, place = np.unique(found, return_inverse=True)
    place = place.reshape(found.shape)
    hidden = np.bincount(place[gaps], minlength=len(numbers))
    unknown = 2 * hidden > np.bincount(place.ravel(), minlength=len(numbers))
    return np.where(gaps | unknown[place], 0, found), np.where(gaps, 0, label)


def annotated_cells(probabilities: Array, label: Array) -> tuple[Array, Array]:
    """P(cell) and a map of cells, both membrane where nothing is annotated.

    So they agree there: no pixel of it is right or wrong, and cells end at it in both.

    Args:
        probabilities: ``[*S]`` of cell.
        label: ``[*S]``, above 0 in cells, below 0 where nothing is annotated.
    """
    gaps = label < 0
    if not gaps.any():
        return probabilities, label
    return np.where(gaps, 0, probabilities), np.where(gaps, 0, label)
