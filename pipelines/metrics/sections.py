"""Which axis of a volume its sections follow each other along."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def sections_first(array: NDArray[Any], axes: object) -> NDArray[Any]:
    """An image as ``[Y, X]``, or a volume as ``[Z, Y, X]``, whatever the order in its file.

    Args:
        array: ``[*S]``.
        axes: a letter for each axis, as in the metadata of `read_image`; the array of anything
            else, as other readers leave it, is returned as it is.
    """
    order = sections_first_order(array.ndim, axes)
    return array if order == tuple(range(array.ndim)) else array.transpose(order)


def sections_first_order(dims: int, axes: object) -> tuple[int, ...]:
    """The axes of an array of so many in the order that `sections_first` gives them."""
    if not isinstance(axes, str) or len(axes) != dims or not {"X", "Y"} <= set(axes):
        return tuple(range(dims))
    return tuple(sorted(range(dims), key=lambda axis: "YX".find(axes[axis])))
