"""Runs of a bundle that an experiment is made of: trained once, resumed where they stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "experiments"
DATA = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Experiment:
    """One training of a bundle, and how it is scored.

    Attributes:
        bundle: its name.
        name: of the run's folder.
        options: overrides of ``train.json``.
        overlays: further configuration files of the bundle, under ``configs/experiments``.
        scoring: overrides of the run's ``evaluation.json``, by name of the evaluation.
    """

    bundle: str
    name: str
    options: Mapping[str, Any]
    overlays: Sequence[str] = ()
    scoring: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"scores": {}})

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return RUNS / self.bundle / self.name

    def train(self, data: Path) -> None:
        """Train, or go on, unless it is done."""
        if (self.folder / "summary.json").is_file():
            return
        configs = Path("bundles") / self.bundle / "configs"
        files = [configs / "train.json", *(configs / "experiments" / o for o in self.overlays)]
        resume = (self.folder / "models" / "last.pt").is_file()
        bundle(
            *("training", configs.parent, ",".join(map(str, files))),
            {"dataset_dir": data, "output_dir": self.folder, "resume": resume, **self.options},
        )

    def scores(self, data: Path) -> dict[str, dict[str, float]]:
        """Scores of every evaluation, made once."""
        found = {}
        for name, options in self.scoring.items():
            out = self.folder / name
            if not (out / "evaluation.json").is_file():
                config = self.folder / "configs" / "evaluation.json"
                bundle(
                    *("evaluation", self.folder, str(config)),
                    {"dataset_dir": data, "output_dir": out, **options},
                )
            found[name] = scores_in(out)
        return found

    def seconds(self) -> float:
        """What the training took, in its last sitting."""
        seconds: float = json.loads((self.folder / "summary.json").read_text())["training_seconds"]
        return seconds


def chosen(runs: Mapping[str, Callable[[], None]], usage: str | None) -> Callable[[], None]:
    """What the command line names, ``""`` being nothing; ends the program for another word."""
    words = " ".join(sys.argv[1:])
    if words not in runs:
        print(usage)
        raise SystemExit(0 if words in ("-h", "--help") else 2)
    return runs[words]


def bundle(run: str, root: Path, configs: str, options: Mapping[str, Any]) -> None:
    """``monai.bundle run``, with its output on the terminal."""
    files = f"[{','.join(repr(c) for c in configs.split(','))}]" if "," in configs else configs
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run]
    command += ["--bundle_root", str(root), "--config_file", files]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    subprocess.run(command, cwd=ROOT, check=True)


def scores_in(folder: Path) -> dict[str, float]:
    """What an evaluation found."""
    scores: dict[str, float] = json.loads((folder / "evaluation.json").read_text())["scores"]
    return scores


def data_folder(name: str) -> Path:
    """A data set beside the repository; ends the program where it is missing."""
    folder = DATA / name
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; this experiment needs the data set {name}")
    return folder


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as Markdown, the first one as the header."""
    head, *body = rows
    for row in (head, ["---"] * len(head), *body):
        print("| " + " | ".join(row) + " |")
