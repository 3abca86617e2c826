"""Warnings of a command: kept while it runs, and said at its end, where a user sees them."""

from __future__ import annotations

import logging
import sys

_OURS = logging.getLogger("overtile")


class _Kept(logging.Handler):
    """Keeps every warning of this package once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines[" ".join(record.getMessage().split())] = None


_KEPT = _Kept()


def keep_warnings() -> None:
    """From now on keep what this package warns of.

    A command calls this when it begins; MONAI's bundles call it more than once.
    """
    if _KEPT not in _OURS.handlers:
        _KEPT.lines.clear()
        _OURS.addHandler(_KEPT)


def kept_warnings() -> list[str]:
    """What a command has warned of so far, a line each; nothing outside of one."""
    return list(_KEPT.lines)


def print_warnings() -> None:
    """End a command: say all of it on stderr, where nothing scrolls it away any more."""
    _OURS.removeHandler(_KEPT)
    for line in kept_warnings():
        print(f"overtile: warning: {line}", file=sys.stderr, flush=True)
    _KEPT.lines.clear()
