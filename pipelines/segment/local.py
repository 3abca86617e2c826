"""Run tasks on this machine: reading ahead of the network, and writing behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import Self

from overtile.pipelines.segment.grid import Key
from overtile.pipelines.segment.job import Job, Opened
from overtile.pipelines.segment.runner import Answer, Item, windowed
from overtile.pipelines.segment.tasks import predict, read_window, write_probabilities

_AHEAD = 2  # chunks that wait for the network, and behind it
_THREADS = 2  # for everything else: one works while the other reads or writes


class LocalRunner:
    """Tasks on this machine; to be entered, since its threads want an end."""

    def __init__(self) -> None:
        self._reader, self._writer = (ThreadPoolExecutor(1) for _ in range(2))
        self._others = ThreadPoolExecutor(_THREADS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what is being done, and forget the rest."""
        for pool in (self._reader, self._others, self._writer):
            pool.shutdown(cancel_futures=pool is not self._writer)

    def check(self, job: Job) -> None:
        """Everything can be done here."""

    def predict(self, here: Opened, keys: Sequence[Key]) -> Iterator[None]:
        """One thread reads ahead, the caller's runs the network, a third writes behind."""
        written: deque[Future[None]] = deque()
        reading = (self._reader.submit(read_window, here, key) for key in keys)
        with closing(windowed(reading, repeat(_AHEAD + 1))) as windows:
            for key, window in zip(keys, windows, strict=True):
                found = predict(here, key, window)
                written.append(self._writer.submit(write_probabilities, here, key, found))
                while len(written) > _AHEAD:
                    yield written.popleft().result()
        while written:
            yield written.popleft().result()

    def map(
        self, here: Opened, task: Callable[[Opened, Item], Answer], items: Iterable[Item]
    ) -> Iterator[Answer]:
        """A few threads; in order."""
        futures = (self._others.submit(task, here, item) for item in items)
        return windowed(futures, repeat(_THREADS + 1))
