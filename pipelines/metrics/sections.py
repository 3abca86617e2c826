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
    if not isinstance(axes, str) or len(axes) != array.ndim or not {"X", "Y"} <= set(axes):
        return array
    return array.transpose(sorted(range(array.ndim), key=lambda axis: "YX".find(axes[axis])))
