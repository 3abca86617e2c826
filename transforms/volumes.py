"""Volumes at places between their voxels: PyTorch's loops for that are several times slower."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from overtile.transforms.compiled import compiled

_u = np.uintp  # where an index is unsigned, Numba does not ask whether it counts from the end


def takes(local: Tensor) -> bool:
    """Whether these positions can be handed to `linear` and `nearest`: on the CPU, of volumes."""
    return local.ndim == 4 and local.dtype == torch.float32 and local.device.type == "cpu"


def linear(source: Tensor, local: Tensor) -> Tensor:
    """What a volume shows at these positions, each from its eight neighbours, ``[C, *shape]``.

    Args:
        source: ``[C, D, H, W]``, float32 or float64, without gradients.
        local: positions ``[3, *shape]`` in voxels, from 0 to less than the last voxel.
    """
    found = torch.empty(len(source), *local.shape[1:], dtype=source.dtype)
    _linear(source.contiguous().numpy(), local.flatten(1).numpy(), found.flatten(1).numpy())
    return found


def nearest(local: Tensor, size: torch.Size) -> Tensor:
    """Numbers of the nearest voxels in a flattened volume of ``size``; halves are rounded up.

    Args:
        local: as of `linear`.
        size: ``[D, H, W]``.
    """
    flat = torch.empty(local[0].numel(), dtype=torch.int64)
    _nearest(local.flatten(1).numpy(), size[1], size[2], flat.numpy())
    return flat


@compiled(error_model="numpy", fastmath={"contract"}, nogil=True)
def _linear(source: Any, local: Any, found: Any) -> None:
    channels, depth, height, width = source.shape
    row, section = _u(width), _u(height * width)
    voxels = source.reshape(-1)
    for i in range(local.shape[1]):
        z, y, x = local[0, i], local[1, i], local[2, i]
        k, m, n = _u(z), _u(y), _u(x)
        z, y, x = z - np.float32(k), y - np.float32(m), x - np.float32(n)
        a = k * section + m * row + n
        for channel in range(channels):
            b, c, d = a + row, a + section, a + section + row
            above = voxels[a] + x * (voxels[a + _u(1)] - voxels[a])
            below = voxels[b] + x * (voxels[b + _u(1)] - voxels[b])
            near = above + y * (below - above)
            above = voxels[c] + x * (voxels[c + _u(1)] - voxels[c])
            below = voxels[d] + x * (voxels[d + _u(1)] - voxels[d])
            far = above + y * (below - above)
            found[channel, i] = near + z * (far - near)
            a += _u(depth) * section


@compiled(error_model="numpy", nogil=True)
def _nearest(local: Any, height: int, width: int, flat: Any) -> None:
    half = np.float32(0.5)
    for i in range(len(flat)):
        row = np.int64(local[0, i] + half) * height + np.int64(local[1, i] + half)
        flat[i] = row * width + np.int64(local[2, i] + half)
