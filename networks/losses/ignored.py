"""The number of a pixel that nobody has annotated."""

from __future__ import annotations

IGNORED = -1
"""In labels in memory, whatever value their files have for it: 0 and up are classes or cells."""
