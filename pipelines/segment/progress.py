"""A bar over the steps of a stage, with rate and time left."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from overtile.pipelines.interrupts import check_interrupt

Item = TypeVar("Item")
MINUTE = 60.0
"""Seconds between two lines of progress in a log."""


def progress(
    steps: Iterable[Item],
    sizes: Iterable[int],
    name: str,
    total: int,
    done: int,
    unit: str,
    show: bool | None,
) -> Iterator[Item]:
    """The steps, under a bar over what is done; Ctrl-C is looked for between them.

    Args:
        steps: one after the other.
        sizes: of the steps.
        name: of the stage.
        total: of all sizes.
        done: how much of it was done before; that says nothing of the rate.
        unit: of sizes.
        show: False shows none, None a bar where stderr is a terminal, elsewhere a line a minute.
    """
    lines = show is None and not sys.stderr.isatty()
    with tqdm(
        total=total,
        initial=done,
        desc=name,
        unit=unit,
        unit_scale=True,
        disable=show is False,
        leave=False,
        file=_Lines() if lines else None,
        delay=MINUTE if lines else 0,
        mininterval=MINUTE if lines else 0.1,
        maxinterval=MINUTE if lines else 10,  # or it tells of every ten seconds in between
    ) as bar:
        for step, size in zip(steps, sizes, strict=True):
            check_interrupt()
            bar.update(size)
            yield step


class _Lines(io.StringIO):
    """stderr for a bar that is no terminal's: each of its states is a line."""

    def write(self, text: str) -> int:
        """Write what is to be seen of ``text``."""
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)
        return len(text)
