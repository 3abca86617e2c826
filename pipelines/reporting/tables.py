"""The tables that a training or an evaluation leaves in its folder: written, and read back."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overtile.pipelines.bundle.json_file import read_object
from overtile.pipelines.errors import DataError, ran_out
from overtile.pipelines.files import settle, together, whole
from overtile.pipelines.metrics.score_names import definition_of

REPORT = "report.html"
HISTORY, SUMMARY = "history.csv", "summary.json"
SCORES, ROWS, PREDICTIONS = "evaluation.json", "evaluation.csv", "predictions"
FIGURES = "figures"
_AGAIN, _WITHOUT = "score again", "remove it to go on without it"


@dataclass(frozen=True)
class Scored:
    """The scores of a set of images.

    Attributes:
        scores: of the whole set, by metric; NaN where one is not defined.
        names: of the images.
        rows: of each image its scores by metric; NaN where one is not defined.
        key_metric: by which images are ranked; None if there is no metric.
        lower_is_better: whether the key metric is an error.
        kind: what the images are (``unseen``, ``validation``), if known.
        network: its file.
        versions: of the image that were averaged over, if known.
        class_names: where labels are classes, of class 0 on.
    """

    scores: dict[str, float]
    names: list[str]
    rows: list[dict[str, float]]
    key_metric: str | None
    lower_is_better: bool
    kind: str = ""
    network: str = ""
    versions: str = ""
    class_names: tuple[str, ...] = ()

    def ranked(self) -> list[int]:
        """Numbers of the images from worst to best; ties by number, images without a score left."""
        if self.key_metric is None:
            return []
        values = {n: row.get(self.key_metric, math.nan) for n, row in enumerate(self.rows)}
        sign = -1 if self.lower_is_better else 1
        return sorted(
            (n for n in values if not math.isnan(values[n])), key=lambda n: sign * values[n]
        )

    def telling(self) -> list[tuple[int, str]]:
        """Every image once: in turn the next worst, the next around the median, the next best.

        Each with the name of its group; images without a score (group ``""``) at the end.
        """
        ranked = self.ranked()
        middle = len(ranked) // 2
        outward = sorted(range(len(ranked)), key=lambda place: abs(place - middle))
        groups = (
            ("worst", ranked),
            ("median", [ranked[p] for p in outward]),
            ("best", ranked[::-1]),
        )
        found: dict[int, str] = {}
        for place in range(len(ranked)):
            for name, order in groups:
                found.setdefault(order[place], name)
        rest = [(n, "") for n in range(len(self.rows)) if n not in found]
        return [*found.items(), *rest]


@dataclass(frozen=True)
class Run:
    """All that a report tells.

    Attributes:
        folder: of the run.
        name: of the run, that of its folder.
        scored: None if nothing was scored yet.
        history: a row an epoch, by column; empty without a training.
        summary: of the training; empty without.
    """

    folder: Path
    name: str
    scored: Scored | None
    history: list[dict[str, float]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def read_run(folder: str | Path) -> Run:
    """What lies in the folder of a training or an evaluation.

    Raises:
        DataError: as `write_report`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(folder, "no such folder", hint="give that of a training or an evaluation")
    settle(folder)
    scored = read_scored(folder) if (folder / SCORES).exists() else None
    history = read_history(folder / HISTORY) if (folder / HISTORY).exists() else []
    if scored is None and not history:
        raise DataError(
            folder, "no results", f"{SCORES} or {HISTORY}, as training and evaluation write them"
        )
    summary = folder / SUMMARY
    told = read_object(summary, _AGAIN) if summary.exists() else {}
    return Run(folder, folder.resolve().name, scored, history, told)


@contextmanager
def results_of(folder: Path) -> Iterator[Path]:
    """A folder to score in; in the end tables, predictions, pictures and report are in ``folder``.

    They belong together: whoever reads them finds those of one scoring. What the report tells of a
    training, and its pictures, are there from the start.

    Raises:
        OSError: where they cannot be written.
    """
    with together(folder) as results:
        for name in (HISTORY, SUMMARY):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, results / name)
        if (folder / FIGURES).is_dir():
            shutil.copytree(folder / FIGURES, results / FIGURES)
        yield results


def write_scored(
    folder: Path, rows: Sequence[Mapping[str, object]], content: Mapping[str, Any]
) -> None:
    """Write ``evaluation.csv`` and ``evaluation.json``, for `read_scored`.

    Args:
        folder: that `results_of` made.
        rows: of each image its name (``image``) and its scores, ``""`` where one is not defined.
        content: of the whole set: ``images``, ``scores``, ``key_metric``, ``lower_is_better``,
            and perhaps ``kind``, ``network``, ``versions`` and ``class_names``. A score of None is
            not defined.
    """
    _write_table(folder / ROWS, rows, rows[0])
    (folder / SCORES).write_text(json.dumps(content, indent=2) + "\n")


def read_scored(folder: Path) -> Scored:
    """``evaluation.json`` and ``evaluation.csv`` of a folder.

    Raises:
        DataError: if one is missing or broken, or they do not belong together.
    """
    settle(folder)
    content = read_object(folder / SCORES, _AGAIN)
    try:
        scores = {str(k): math.nan if v is None else float(v) for k, v in content["scores"].items()}
        count = int(content["images"])
        texts = {k: str(content.get(k) or "") for k in ("kind", "network", "versions")}
        classes = tuple(map(str, content.get("class_names") or ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            folder / SCORES, "no scores in it", "the entries images and scores", _AGAIN
        ) from error
    path = folder / ROWS
    table = _table(path, _AGAIN)
    rows = [{k: _number(path, v, _AGAIN) for k, v in row.items() if k in scores} for row in table]
    names = [row.get("image", "") for row in table]
    if len(rows) != count or not all(names):
        raise DataError(
            path,
            f"{len(rows)} images",
            f"the {count} of {SCORES}, each with its name",
            _AGAIN,
        )
    measured = [k for k in scores if all(k in row for row in rows)]
    asked = str(content.get("key_metric") or "")
    key = asked if asked in measured else next(iter(measured), None)
    lower = content.get("lower_is_better")
    if key is not None and not isinstance(lower, bool):
        told = definition_of(key)
        lower = told is not None and told.lower_is_better
    return Scored(scores, names, rows, key, bool(lower), **texts, class_names=classes)


def append_epoch(row: Mapping[str, float], path: Path) -> None:
    """Add the row of an epoch to ``history.csv``.

    Rows of this epoch and later ones give way: they are of a run that was stopped before it had
    saved them, and that now repeats them.
    """
    earlier: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(newline="") as file:
            earlier = [
                {k: v for k, v in e.items() if k and v}
                for e in csv.DictReader(file)
                if (e.get("epoch") or "").isdecimal() and int(e["epoch"]) < row["epoch"]
            ]
    own = {k: float(v) if k.startswith("val_") else v for k, v in row.items()}
    rows = [*earlier, {k: "" if math.isnan(v) else v for k, v in own.items()}]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as unfinished:
        _write_table(unfinished, rows, dict.fromkeys(k for r in rows for k in r))


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of ``history.csv``, by epoch; NaN where nothing was measured.

    Raises:
        DataError: if it is broken.
    """
    table = _table(path, _WITHOUT)
    rows = [{k: _number(path, v, _WITHOUT) for k, v in row.items()} for row in table]
    if not rows or any(not row.get("epoch", math.nan).is_integer() for row in rows):
        raise DataError(path, "no epochs in it", "a column epoch of whole numbers", _WITHOUT)
    return rows


def _write_table(path: Path, rows: Iterable[Mapping[str, object]], columns: Iterable[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def _table(path: Path, hint: str) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        if (lacking := ran_out(error)) is not None:
            raise lacking from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(path, f"no table ({reason})", "CSV with a header", hint) from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(
                path,
                f"row {number} is longer or shorter than the header",
                hint=("repair it", hint),
            )
    return rows


def _number(path: Path, text: str, hint: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise DataError(path, repr(text), "a number, or nothing", hint) from None


def prediction_file(folder: Path, number: int) -> Path:
    """The layers of the image in row ``number`` (from 0)."""
    return folder / f"{number:05d}.npz"
