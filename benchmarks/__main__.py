"""All benchmarks, a line a figure: make bench, or python -m benchmarks [NAME...].

A line that misses its target says so. The experiments (trainings of hours) are not among them.
"""

from __future__ import annotations

import importlib
import sys
import time

MODULES = ("weights", "elastic", "feeding", "tiles", "segment", "metrics", "startup", "step")


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in MODULES]:
        raise SystemExit(f"{unknown[0]}: no benchmark; expected some of {', '.join(MODULES)}")
    start, missed, count = time.perf_counter(), 0, 0
    for name in names or MODULES:
        for figure in importlib.import_module(f"benchmarks.{name}").figures():
            print(figure, flush=True)
            missed, count = missed + figure.missed, count + 1
    minutes = (time.perf_counter() - start) / 60
    print(f"{count} figures in {minutes:.0f} minutes, {missed} of them missed their target")


if __name__ == "__main__":
    main(sys.argv[1:])
