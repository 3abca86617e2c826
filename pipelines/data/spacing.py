"""The size of pixels of a data set: which one a network gets, and how far images differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, Setting
from overtile.pipelines.images.read import check_spacing_known

Wanted = Sequence[float] | str | None
"""Millimetres a pixel along each axis of the array; ``"median"``; None takes pixels as they are."""
MEDIAN = "median"


def check_spacing(spacing: Wanted, spatial_dims: int) -> list[float] | str | None:
    """``spacing``, if it can be.

    Raises:
        DataError: for anything but ``"median"``, None, or a finite number above 0 for each axis.
    """
    if spacing is None or spacing == MEDIAN:
        return spacing
    numbers = [] if isinstance(spacing, str) else list(spacing)
    good = all(isinstance(n, (int, float)) and 0 < n < math.inf for n in numbers)
    if not good or len(numbers) != spatial_dims:
        raise DataError(
            "spacing",
            f"{spacing!r}" if isinstance(spacing, str) else f"{numbers}",
            f"{spatial_dims} numbers above 0, millimetres a pixel along each axis, or {MEDIAN}",
            Setting("spacing", None, "to take pixels as they are"),
        )
    return [float(n) for n in numbers]


def median_spacing(spacings: Sequence[Sequence[float]]) -> list[float]:
    """Along each axis the median of those of the images."""
    return [float(step) for step in np.median(np.asarray(spacings, np.float64), axis=0)]


def resolved_spacing(
    wanted: list[float] | str | None,
    train: Sequence[tuple[str, Sequence[float]]],
    others: Sequence[tuple[str, Sequence[float]]],
) -> list[float] | None:
    """The spacing of a network in numbers.

    Args:
        wanted: as of `check_spacing`.
        train: names of the training images, each with its spacing.
        others: likewise, of images that will be resampled too.

    Raises:
        DataError: for an image that is far too fine or coarse for it.
    """
    if wanted is None:
        return None
    found = wanted if isinstance(wanted, list) else median_spacing([own for _, own in train])
    for name, own in (*train, *others):
        check_spacing_known(name, own, found)
    return found


def spread(spacings: Sequence[Sequence[float]]) -> str:
    """Median, smallest and largest size of a pixel along each axis, for people; empty for none.

    In millimetres, or micrometres where all are below a hundredth of a millimetre.
    """
    if not spacings:
        return ""
    sizes = np.asarray(spacings, np.float64)
    unit, factor = ("µm", 1e3) if sizes.max() < 0.01 else ("mm", 1.0)
    sizes = sizes * factor

    def told(steps: NDArray[np.float64]) -> str:
        return " x ".join(f"{step:.3g}" for step in steps)

    middle, low, high = (told(f(sizes, axis=0)) for f in (np.median, np.min, np.max))
    return f"{middle} {unit}" + (f", from {low} to {high}" if low != high else "")
