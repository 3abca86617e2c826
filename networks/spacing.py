"""The size of pixels: of an image, of a network, and how many of one make one of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor

from overtile.networks.errors import ArgumentError

SAME = 1e-3
"""Share by which two spacings may differ and be taken for equal: headers have rounded numbers."""
FARTHEST = 100
"""Times that a spacing may be finer or coarser than another: beyond, units were mixed up."""


def resampled_size(
    size: Sequence[int], own: Sequence[float], wanted: Sequence[float]
) -> tuple[int, ...]:
    """How many pixels of spacing ``wanted`` an image of ``size`` pixels of spacing ``own`` has.

    Raises:
        ValueError: as `steps_between`.
    """
    steps = steps_between(own, wanted)
    return tuple(max(1, math.floor(n / s + 0.5)) for n, s in zip(size, steps, strict=True))


def steps_between(own: Sequence[float], wanted: Sequence[float]) -> tuple[float, ...]:
    """Pixels of an image from one pixel of another spacing to the next; 1 where both are equal.

    Args:
        own: spacing of the image, along each axis.
        wanted: the other one.

    Raises:
        ValueError: for spacings that are not above 0, of other numbers of axes, or more than
            `FARTHEST` times finer or coarser than each other.
    """
    own, wanted = checked_spacing(own), checked_spacing(wanted)
    if len(own) != len(wanted):
        raise ArgumentError(f"spacing {spacing_text(wanted)}", f"{len(own)} numbers, one an axis")
    steps = tuple(w / o for o, w in zip(own, wanted, strict=True))
    if not all(1 / FARTHEST <= step <= FARTHEST for step in steps):
        raise ArgumentError(
            f"a spacing of {spacing_text(own)} for one of {spacing_text(wanted)}",
            f"at most {FARTHEST} times finer or coarser",
            "give both in one unit, millimetres",
        )
    return tuple(1.0 if abs(step - 1) <= SAME else step for step in steps)


def checked_spacing(spacing: Sequence[float]) -> tuple[float, ...]:
    """A spacing, if it can be one.

    Raises:
        ValueError: for anything but two or three finite numbers above 0.
    """
    try:
        found = tuple(float(step) for step in spacing)
    except (TypeError, ValueError):
        found = ()
    if isinstance(spacing, str) or len(found) not in (2, 3) or not all(map(_is_size, found)):
        raise ArgumentError(f"spacing {spacing}", "2 or 3 numbers above 0, one an axis")
    return found


def _is_size(step: float) -> bool:
    return 0 < step < math.inf


def spacing_text(spacing: Sequence[float]) -> str:
    """For people: ``1 x 1 x 2.5``."""
    return " x ".join(f"{step:.4g}" for step in spacing)


def spacing_of(image: Any, axes: int) -> tuple[float, ...]:
    """Spacing of an image ``[C, *S]``, or of a batch ``[B, C, *S]``, from its affine.

    Args:
        image: a `MetaTensor`.
        axes: how many spatial ones it has.

    Raises:
        ValueError: for one without metadata, of too few axes, or of pixels of size 0, and for
            images of several spacings in a batch.
    """
    if not isinstance(image, MetaTensor):
        raise ArgumentError(
            f"an image without metadata ({type(image).__name__})",
            "a MetaTensor, whose affine has the spacing",
        )
    affines = np.asarray(image.affine, np.float64)
    affines = affines.reshape(-1, *affines.shape[-2:])
    if affines.shape[-1] <= axes:
        raise ArgumentError(f"an affine of {affines.shape[-2:]}", f"one of {axes} axes")
    sizes = np.linalg.norm(affines[:, :-1, :axes], axis=1)
    if not np.allclose(sizes, sizes[0], rtol=SAME, atol=0):
        several = " and ".join(map(spacing_text, np.unique(sizes, axis=0)[:2]))
        raise ArgumentError(f"spacings {several} in one batch", "one", "run one image at a time")
    return checked_spacing(sizes[0].tolist())
