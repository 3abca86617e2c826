"""The folder in which things are remembered between runs, if it is the user's alone."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)


def default_cache() -> Path:
    """``$OVERTILE_CACHE``, else ``overtile`` in the user's cache folder, or a temporary one."""
    if own := os.environ.get("OVERTILE_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "overtile"
    with suppress(RuntimeError, OSError):  # a user without a home, as in a container
        if Path.home().is_dir():
            return Path.home() / ".cache" / "overtile"
    return Path(tempfile.gettempdir()) / f"overtile-{os.getuid()}"


def private(folder: Path) -> Path | None:
    """``folder``, made if need be; None if it cannot be, or somebody else may write in it.

    What lies there is believed, and somebody else's images would be trained on.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        seen = folder.stat()
    except OSError as error:
        _warn(folder, f"no cache there ({error.strerror}); let it be written")
        return None
    if seen.st_uid not in (os.getuid(), 0) or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _warn(folder, "others may write in it, so it is no cache; chmod go-w it")
        return None
    return folder


@lru_cache  # once in a process
def _warn(folder: Path, why: str) -> None:
    log.warning("%s: %s, or give another one (cache_dir, OVERTILE_CACHE)", folder, why)
