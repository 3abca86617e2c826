"""All benchmarks, a line a figure: make bench, or python -m benchmarks [NAME...].

A line that misses its target says so. The experiments (trainings of hours) are not among them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from benchmarks.figure import Figure

MODULES = (
    *("weights", "elastic", "elastic_volume", "feeding", "tiles", "volume_tiles"),
    *("segment", "metrics", "startup", "step"),
)


def send(name: str, connection: Connection) -> None:
    for figure in importlib.import_module(f"benchmarks.{name}").figures():
        connection.send(figure)


def figures(name: str) -> Iterator[Figure | None]:
    """Those of one benchmark, which runs in a process of its own; None if it fails.

    Some fork, which threads that another one left behind do not survive; and none starts with
    memory and caches that another one has filled.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=send, args=(name, there))
    child.start()
    there.close()
    try:
        while True:
            yield here.recv()
    except EOFError:
        child.join()
    if child.exitcode:
        yield None


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in MODULES]:
        raise SystemExit(f"{unknown[0]}: no benchmark; expected some of {', '.join(MODULES)}")
    start, missed, failed, count = time.perf_counter(), 0, 0, 0
    for name in names or MODULES:
        for figure in figures(name):
            print(figure or f"benchmarks.{name} FAILED", flush=True)
            failed += figure is None
            missed, count = missed + bool(figure and figure.missed), count + bool(figure)
    minutes = (time.perf_counter() - start) / 60
    print(
        f"{count} figures in {minutes:.0f} minutes, {missed} of them missed their target"
        + f"; {failed} benchmarks failed" * (failed > 0)
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
