"""Run tasks on an existing Dask cluster (dask.distributed)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from overtile import __version__
from overtile.pipelines.errors import ConfigurationError, DataError
from overtile.pipelines.images.case_name import channel_files
from overtile.pipelines.segment.grid import Key
from overtile.pipelines.segment.job import Job, Opened
from overtile.pipelines.segment.runner import Answer, Item, windowed
from overtile.pipelines.segment.tasks import predict_chunk

try:
    import distributed
except ImportError as error:
    raise ConfigurationError(
        "scheduler", "dask.distributed is not installed", hint="install overtile[cluster]"
    ) from error

_PATIENCE = 15  # seconds for scheduler and first worker to answer
_WAITING = 3  # tasks a thread of a worker: one runs, others are there when it is done
_TRIES = 5  # to ask all workers, while one of them is being lost
_RECOUNT = 5  # seconds after which threads are counted again: workers come and go
_KEPT = 4  # jobs that may be open at once on a worker, which may serve several users


@contextmanager
def on_cluster(address: str, patience: float = _PATIENCE) -> Iterator[ClusterRunner]:
    """A runner on the workers of a scheduler.

    Args:
        address: of the scheduler, ``tcp://host:8786``.
        patience: seconds to wait for it, and for a first worker.

    Raises:
        ConfigurationError: if nothing answers there, or no worker comes.
    """
    try:
        client = distributed.Client(address, timeout=patience, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigurationError(
            f"scheduler {address}",
            f"no answer ({error})",
            hint=("start one with `dask scheduler`", "mend the address"),
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=patience)
        except TimeoutError as error:
            raise ConfigurationError(
                f"scheduler {address}",
                "no workers",
                hint=f"start some with `dask worker {address}`",
            ) from error
        yield ClusterRunner(client, address)


class ClusterRunner:
    """Tasks on the workers of a cluster; a worker that is lost has its tasks done by others.

    Args:
        client: of the scheduler.
        address: for messages.
    """

    def __init__(self, client: Any, address: str) -> None:
        self.client, self._name = client, f"scheduler {address}"
        self._counted, self._width = 0.0, _WAITING

    def check(self, job: Job) -> None:
        """Ask every worker whether it can do the job.

        Raises:
            ConfigurationError: if one has another version, or does not see the files.
        """
        with self._explained():
            answers = self._asked(job)
        for worker, (version, missing) in answers.items():
            if version != __version__:
                raise ConfigurationError(
                    self._name, f"worker {worker} has overtile {version}", f"{__version__}, as here"
                )
            if missing:
                raise ConfigurationError(
                    self._name,
                    f"worker {worker} does not see {missing[0]}",
                    "a file system that all share, under the same names",
                )

    def _asked(self, job: Job) -> dict[str, tuple[str, list[str]]]:
        """What each worker answers; again without one that is lost meanwhile."""
        left = _TRIES
        source = Path(job.source)
        paths = (*map(str, channel_files(source) or [source]), job.bundle, job.work)
        while True:
            try:
                answers: dict[str, tuple[str, list[str]]] = self.client.run(_look, paths)
                return answers
            except OSError:  # CommClosedError is one
                left -= 1
                if not left or self.client.status != "running":
                    raise
                time.sleep(1)

    def predict(self, here: Opened, keys: Sequence[Key]) -> Iterator[None]:
        """A worker does all steps of a chunk; its other threads read and write meanwhile."""
        return self.map(here, predict_chunk, keys)

    def map(
        self, here: Opened, task: Callable[[Opened, Item], Answer], items: Iterable[Item]
    ) -> Iterator[Answer]:
        """What a task answers to all items, in order; workers are sent the job."""
        submit = partial(self.client.submit, _on_worker, here.job, task, pure=False)
        with self._explained():
            yield from windowed(map(submit, items), self._widths())

    def _widths(self) -> Iterator[int]:
        """How many tasks to keep under way, from now on."""
        while True:
            if time.monotonic() - self._counted > _RECOUNT:
                threads = sum(self.client.nthreads().values())
                self._width, self._counted = max(1, threads) * _WAITING, time.monotonic()
            yield self._width

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in one line what becomes of the work when the cluster fails."""
        try:
            yield
        except distributed.KilledWorker as error:
            raise DataError(
                self._name,
                f"several workers died at the same chunk ({' '.join(str(error).split())[:200]})",
                hint="give them more memory, and the same command again: what is done is kept",
            ) from error
        except (distributed.CancelledError, distributed.comm.CommClosedError) as error:
            raise DataError(
                self._name,
                "the connection is lost",
                hint="give the same command again once it is back: what is done is kept",
            ) from error
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                self._name,
                f"a worker has no module {error.name}",
                hint="install the same packages there as here",
            ) from error


def _look(paths: tuple[str, ...]) -> tuple[str, list[str]]:
    """On a worker: its version, and what it does not see."""
    return __version__, [path for path in paths if not Path(path).exists()]


def _on_worker(job: Job, task: Callable[[Opened, Item], Answer], item: Item) -> Answer:
    """On a worker: do a task with as many threads as the worker was given."""
    import torch

    torch.set_num_threads(max(1, distributed.get_worker().state.nthreads))
    return task(_opened(job), item)


_lock = threading.Lock()
_jobs: dict[Job, Opened] = {}


def _opened(job: Job) -> Opened:
    """On a worker: a job that it was sent, opened once in every process."""
    with _lock:
        if job not in _jobs:
            if len(_jobs) == _KEPT:  # not closed: another thread may be using the oldest
                del _jobs[next(iter(_jobs))]
            _jobs[job] = Opened.of(job)
        return _jobs[job]
