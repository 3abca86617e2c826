"""Run tasks on this machine: reading ahead of the network, and writing behind it."""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from overtile.pipelines.interrupts import check_interrupt
from overtile.pipelines.segment.grid import Key
from overtile.pipelines.segment.job import Job
from overtile.pipelines.segment.tasks import PredictChunk

Item = TypeVar("Item")
MINUTE = 60.0
"""Seconds between two lines of progress in a log."""
_AHEAD = 2  # chunks that wait for the network, and behind it
_THREADS = 2  # for everything else: one works while the other reads or writes


class Runner(Protocol):
    """What hands tasks out."""

    def check(self, job: Job) -> None:
        """Refuse a job that cannot be done here."""

    def predict(self, task: PredictChunk, keys: Iterable[Key]) -> Iterator[Any]:
        """Do the task for all keys in order; something comes back once each is done."""

    def map(self, function: Callable[[Item], Any], items: Iterable[Item]) -> Iterator[Any]:
        """What the function answers to all items, in order."""


def windowed(
    submit: Callable[[Item], Any], items: Iterable[Item], width: Callable[[], int]
) -> Generator[Any]:
    """The answers in order, with no more than ``width()`` tasks under way."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(submit(item))
        while len(waiting) >= width():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class LocalRunner:
    """Tasks on this machine."""

    def __init__(self) -> None:
        self._reader, self._writer = (ThreadPoolExecutor(1) for _ in range(2))
        self._others = ThreadPoolExecutor(_THREADS)

    def check(self, job: Job) -> None:
        """Everything can be done here."""

    def predict(self, task: PredictChunk, keys: Iterable[Key]) -> Iterator[Key]:
        """One thread reads ahead, the caller's runs the network, a third writes behind."""
        written: deque[tuple[Key, Future[None]]] = deque()

        def read(key: Key) -> Future[tuple[Key, Any]]:
            return self._reader.submit(lambda: (key, task.read(key)))

        with closing(windowed(read, keys, lambda: _AHEAD + 1)) as windows:
            for key, window in windows:
                found = task.compute(key, window)
                written.append((key, self._writer.submit(task.write, key, found)))
                while len(written) > _AHEAD:
                    yield _done(written)
        while written:
            yield _done(written)

    def map(self, function: Callable[[Item], Any], items: Iterable[Item]) -> Iterator[Any]:
        """A few threads; in order."""
        return windowed(
            lambda item: self._others.submit(function, item), items, lambda: _THREADS + 1
        )

    def close(self) -> None:
        """Wait for what is being done, and forget the rest."""
        for pool in (self._reader, self._others, self._writer):
            pool.shutdown(cancel_futures=pool is not self._writer)


def _done(written: deque[tuple[Key, Future[None]]]) -> Key:
    key, future = written.popleft()
    future.result()
    return key


class _Lines(io.StringIO):
    """stderr for a bar that is no terminal's: each of its states is a line."""

    def write(self, text: str) -> int:
        """Write what is to be seen of ``text``."""
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)
        return len(text)


def progress(
    steps: Iterable[Item],
    name: str,
    total: int,
    done: int,
    size: Callable[[Item], int],
    unit: str,
    show: bool | None,
) -> Iterator[Item]:
    """A bar over what is done, with rate and time left.

    Args:
        steps: one after the other.
        name: of the stage.
        total: of all sizes.
        done: how much of it was done before; that says nothing of the rate.
        size: of a step.
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
        for step in steps:
            check_interrupt()
            bar.update(size(step))
            yield step
