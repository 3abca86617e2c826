"""The decoded blocks of a large image that were used last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from cachetools import LRUCache
from numpy.typing import NDArray


class BlockCache:
    """The decoded blocks that were used last, up to so many bytes; safe between threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._blocks: LRUCache[Hashable, NDArray[Any]] = LRUCache(limit, lambda b: b.nbytes)
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The block of that name, loaded if need be."""
        with self._lock:
            if (block := self._blocks.get(key)) is not None:
                return block
        block = load()
        with self._lock, suppress(ValueError):  # larger than the limit: not kept
            self._blocks[key] = block
        return block
