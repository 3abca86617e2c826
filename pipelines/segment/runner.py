"""What hands tasks out, on this machine (`local`) or on a cluster (`cluster`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from overtile.pipelines.segment.grid import Key
from overtile.pipelines.segment.job import Job, Opened

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Runner(Protocol):
    """What hands tasks out."""

    def check(self, job: Job) -> None:
        """Refuse a job that cannot be done here."""

    def predict(self, here: Opened, keys: Sequence[Key]) -> Iterator[None]:
        """Do `predict_chunk` for all keys in order; something comes back once each is done."""

    def map(
        self, here: Opened, task: Callable[[Opened, Item], Answer], items: Iterable[Item]
    ) -> Iterator[Answer]:
        """What a task of a job answers to all items, in order."""


def windowed(futures: Iterable[Any], widths: Iterable[int]) -> Generator[Any]:
    """What tasks answer, in order, with so many under way at a time.

    Args:
        futures: of the tasks, which begin when they are asked for.
        widths: less than how many may be under way when the next one is asked for; without end.
    """
    waiting: deque[Any] = deque()
    for future, width in zip(futures, widths, strict=False):
        waiting.append(future)
        while len(waiting) >= width:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
