"""Little of what a computer has, for real: bytes of a file, of a disk, of memory, descriptors."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


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


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes at ``folder``; the test is skipped where none can be made."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(folder: Path, content: Path) -> Iterator[Path]:
    """What is in another folder on a disk that cannot be written, else the test is skipped."""
    folder.mkdir()
    mounts = [["--bind", str(content), str(folder)], ["-o", "remount,bind,ro", str(folder)]]
    done = [subprocess.run(["mount", *words], capture_output=True).returncode for words in mounts]
    try:
        if any(done):
            pytest.skip("nothing may be mounted here")
        yield folder
    finally:
        if not done[0]:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def enlarge(folder: Path, size: int) -> None:
    """Make room on a `small_disk`."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
