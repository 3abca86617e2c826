"""The pixels around a tile, also where the image ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overtile.networks.geometry import context_indices


def read_box(
    image: Tensor, box: Sequence[tuple[int, int]], padding_mode: str = "reflect", cval: float = 0.0
) -> Tensor:
    """A box of an image, with what lies beyond the image's edge.

    Args:
        image: ``[..., *S]``, any dtype.
        box: start and stop along each of the last axes, in pixels of the image; may lie outside.
        padding_mode: of `overtile.networks.geometry.PADDING_MODES`.
        cval: the value outside of the image for ``"constant"``.
    """
    for axis, (start, stop) in enumerate(box, start=image.ndim - len(box)):
        n = image.shape[axis]
        if start >= 0 and stop <= n:
            image = image.narrow(axis, start, stop - start)
        elif padding_mode == "constant":
            image = _surrounded(image, axis, start, stop, cval)
        elif padding_mode == "reflect" and stop - start < 4 * n:
            image = _mirrored(image, axis, start, stop)
        else:
            positions = context_indices(start, stop, n, padding_mode)
            image = image.index_select(axis, torch.tensor(positions, device=image.device))
    return image


def _surrounded(image: Tensor, axis: int, start: int, stop: int, cval: float) -> Tensor:
    shape = list(image.shape)
    shape[axis] = stop - start
    result = image.new_full(shape, cval)
    low, high = max(start, 0), min(stop, image.shape[axis])
    if low < high:
        inside = image.narrow(axis, low, high - low)
        result.narrow(axis, low - start, high - low).copy_(inside)
    return result


def _mirrored(image: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """An axis continued by its mirror images, piece by piece: faster than pixel by pixel."""
    period = image.shape[axis] - 1
    pieces = []
    while start < stop:
        number, first = divmod(start, period) if period else (0, 0)
        length = min(period - first, stop - start) if period else 1
        if number % 2 == 0:
            pieces.append(image.narrow(axis, first, length))
        else:
            last = period - first
            back = torch.arange(last, last - length, -1, device=image.device)
            pieces.append(image.index_select(axis, back))  # flip() knows no uint16
        start += length
    return torch.cat(pieces, axis)
