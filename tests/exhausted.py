"""Little of what a computer has, for real: bytes of a file, of a disk, of memory, descriptors."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(kind: int, limit: int) -> Iterator[None]:
    """This process may take no more of a resource (``resource.RLIMIT_...``)."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextmanager
def files_below(size: int) -> Iterator[None]:
    """Files may not grow above so many bytes: the system refuses as on a full disk."""
    with limited(resource.RLIMIT_FSIZE, size):
        yield
