"""What the readers of large images share: the blocks used last, and spans of an index."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from overtile.pipelines.errors import ConfigurationError


class BlockCache:
    """The decoded blocks that were used last, up to so many bytes; safe between threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._blocks: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The block of that name, loaded if need be."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        block = load()
        with self._lock:
            if key not in self._blocks and block.nbytes <= self.limit:
                self._blocks[key] = block
                self._size += block.nbytes
            while self._size > self.limit:
                self._size -= self._blocks.popitem(last=False)[1].nbytes
        return block


def no_level(path: Path, level: int, shapes: Sequence[Sequence[int]]) -> ConfigurationError:
    """The error for a level that a pyramid of these sizes does not have."""
    sizes = ", ".join(f"{i}: {'x'.join(map(str, s))}" for i, s in enumerate(shapes))
    return ConfigurationError(f"{path}: no level {level}; it has {sizes}: give one of these")


def spans_of(index: Sequence[Any], shape: Sequence[int]) -> list[tuple[int, int]]:
    """Start and stop along each axis of an index of slices and numbers."""
    spans = [
        i.indices(n)[:2] if isinstance(i, slice) else (int(i), int(i) + 1)
        for i, n in zip(index, shape, strict=True)
    ]
    return [(a, b) for a, b in spans]


def squeezed(array: NDArray[Any], index: Sequence[Any]) -> NDArray[Any]:
    """Without the axes that the index gave a number for."""
    result: NDArray[Any] = array[tuple(slice(None) if isinstance(i, slice) else 0 for i in index)]
    return result
