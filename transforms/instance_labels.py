"""What is taken for instance labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.networks.errors import ArgumentError
from overtile.networks.losses.ignored import IGNORED
from overtile.transforms.metadata import Array, as_array

Labels = Array
_LARGEST = 2**53  # up to which float64 tells whole numbers apart


def instance_array(labels: Labels) -> NDArray[Any]:
    """The array ``[*S]`` of labels ``[1, *S]``, of integers; -1 is `IGNORED`.

    MONAI's readers give labels as floating point: whole numbers are taken whatever their type.

    Raises:
        ValueError: if they are not whole numbers, below -1, or not of one channel.
    """
    array = whole_numbers(as_array(labels))
    if array.ndim not in (3, 4) or array.shape[0] != 1:
        raise ArgumentError(f"labels of shape {array.shape}", "[1, H, W] or [1, D, H, W]")
    refuse_below_ignored(array)
    instances: NDArray[Any] = array[0]
    return instances


def refuse_below_ignored(array: NDArray[Any]) -> None:
    """Raise an `ArgumentError` for labels that are neither `IGNORED` nor 0 and up."""
    if array.dtype.kind == "i" and array.size and array.min() < IGNORED:
        raise ArgumentError(
            f"labels down to {array.min()}",
            f"0 (background) and up, or {IGNORED} where nothing is annotated",
        )


def whole_numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Labels as integers: themselves, or floating point numbers that are whole.

    Raises:
        ValueError: for others.
    """
    if array.dtype.kind in "iub":
        return array
    if array.dtype.kind != "f":
        raise ArgumentError(f"labels of dtype {array.dtype}", "integers, one per cell or class")
    values = array.astype(np.float64)
    broken = ~(np.abs(values) <= _LARGEST)  # what is no number is not below anything
    broken |= values != np.rint(values)
    if broken.any():
        raise ArgumentError(
            f"labels with a {values[broken][0]:g} in it", "whole numbers, one per cell or class"
        )
    return values.astype(np.int64)
