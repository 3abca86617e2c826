"""The table that a run ends with. Imports nothing heavy: it is also a command of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from overtile.pipelines.bundle.json_file import read_object
from overtile.pipelines.errors import ConfigurationError, printable
from overtile.pipelines.files import settle, whole
from overtile.pipelines.metrics.score_names import name_of
from overtile.pipelines.reporting.tables import REPORT, SCORES, SUMMARY

_KEYS = frozenset(
    "best_epoch figures images mlflow network resumed scores training_seconds unseen".split()
)


def write_summary(summary: dict[str, Any], folder: Path) -> None:
    """Keep the summary in the run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / SUMMARY) as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n")


def read_summary(folder: str | Path) -> dict[str, Any]:
    """The summary of a run.

    Raises:
        ConfigurationError: if the folder holds no finished run.
        DataError: if its summary is damaged.
    """
    settle(Path(folder))
    path = Path(folder) / SUMMARY
    if not path.is_file():
        if (Path(folder) / SCORES).is_file():
            raise ConfigurationError(
                Path(folder),
                "an evaluation",
                "the folder of a finished training",
                f"overtile report {folder} makes its page",
            )
        raise ConfigurationError(path, "no such file", "the folder of a finished run")
    summary = read_object(path, "train again")
    if not summary.keys() >= _KEYS:
        raise ConfigurationError(
            path, "no summary of a run", f"the entries {', '.join(sorted(_KEYS))}"
        )
    return summary


def print_summary(summary: dict[str, Any], folder: str | Path) -> None:
    """Print the scores of the run in ``folder``, and where to look."""
    sitting = "training, last sitting" if summary["resumed"] else "training"
    rows = [(sitting, f"{summary['training_seconds']:.0f} s")]
    rows += [("best epoch", str(summary["best_epoch"]))]
    width = print_scores(summary, "unseen " if summary["unseen"] else "validation ", rows)
    places = [("MLflow", summary["mlflow"])]
    places += [(name, str(Path(folder) / summary[name])) for name in ("network", "figures")]
    report = Path(folder) / REPORT
    places += [("report", str(report))] if report.is_file() else []
    places += [(p.stem, str(p)) for p in sorted(Path(folder).glob("*/*_outlines.png"))]
    print()
    for name, place in places:
        print(f"  {name:<{width}}  {printable(place)}")
    if str(summary["mlflow"]).startswith("sqlite:"):
        python = os.path.relpath(sys.executable)
        print(
            f"\n  to look at it: {python} -m mlflow ui --backend-store-uri "
            f"{printable(summary['mlflow'])}"
        )
    print(flush=True)


def print_scores(
    summary: dict[str, Any], kind: str = "", more: Iterable[tuple[str, str]] = ()
) -> int:
    """Print the table of scores, with ``more`` rows; returns the width of its first column."""
    classes = summary.get("class_names", ())
    rows = [(f"{summary['images']} {kind}image{'' if summary['images'] == 1 else 's'}", "")]
    # a warping error of 0.000353 is a usual one
    rows += [
        (name_of(k, classes), "no score" if v is None else f"{v:.{6 if 0 < v < 0.01 else 4}f}")
        for k, v in summary["scores"].items()
    ]
    rows += more
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    return width
