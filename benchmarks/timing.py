"""Timing of two ways in turn, so that what else the machine does falls on both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Task = Callable[[], object]


def seconds(task: Task) -> float:
    """CPU seconds of one call: of all threads, and not of other programs."""
    start = time.process_time()
    task()
    return time.process_time() - start


def compare(tasks: Mapping[str, Task], repeats: int = 7) -> dict[str, list[float]]:
    """CPU seconds of every task, ``repeats`` times in turn, after one call that is not counted."""
    for task in tasks.values():
        task()
    rounds = [{name: seconds(task) for name, task in tasks.items()} for _ in range(repeats)]
    return {name: [r[name] for r in rounds] for name in tasks}


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
