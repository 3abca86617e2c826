"""A training of the bundle that takes half a second: a tiny network, images of 32 x 32."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import MagicMock

import numpy as np
import tifffile
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "touching_cells"
EPOCHS, SAMPLES = 5, 4
RATE, WARMUP = 0.01, 3


class Store:
    """MLflow's client, which keeps the steps of the losses alone."""

    steps: ClassVar[list[int]] = []

    def __init__(self, uri: str) -> None: ...

    def create_run(self, *_: Any, **__: Any) -> Any:
        made = MagicMock()
        made.info.run_id = "run"
        return made

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        Store.steps += [m.step for m in metrics if m.key == "train_loss"]

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(experiment_id="1", lifecycle_stage="active"))

    def get_experiment(self, number: str) -> Any:
        return SimpleNamespace(name="touching_cells")

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1", lifecycle_stage="active")

    def __getattr__(self, name: str) -> Any:
        return MagicMock()


def write_images(
    folder: Path, names: Sequence[str] = ("0", "1", "2", "3"), scored: int = 1
) -> Path:
    """All of them to train on, the first to validate on, and some to score."""
    rng = np.random.default_rng(0)
    label = np.zeros((32, 32), np.uint16)
    label[4:14, 5:20], label[16:28, 6:24] = 1, 2
    for split, chosen in (("train", names), ("val", names[:1]), ("test", names[:scored])):
        for name in chosen:
            image = (label > 0) * 100 + rng.integers(0, 50, label.shape)
            for kind, array in (("images", image.astype(np.uint8)), ("labels", label)):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(folder / split / kind / f"{name}.tif", array)
    return folder


class Run:
    """A toy run in a folder, from the bundle's own configuration."""

    def __init__(self, folder: Path, *experiments: str) -> None:
        self.folder, self.out = folder, folder / "run"
        self.experiments = experiments

    def train(self, resume: bool = False, config: Path | None = None, **changed: Any) -> None:
        parser = ConfigParser()
        configs = BUNDLE / "configs"
        files = [configs / "train.json", *(configs / "experiments" / e for e in self.experiments)]
        parser.read_config([str(file) for file in ([config] if config else files)])
        settings = {
            **{"bundle_root": str(BUNDLE), "output_dir": str(self.out), "device": "cpu"},
            **{"dataset_dir": str(self.folder / "images"), "cache_dir": str(self.folder / "cache")},
            **{"network_def#features": [2, 3], "tile": 28, "num_workers": 0, "resume": resume},
            **{"max_epochs": EPOCHS, "samples_per_epoch": SAMPLES, "precision": "float32"},
            **{"learning_rate": RATE, "warmup_steps": WARMUP, "folds": 2},
            **changed,
        }
        for name, value in settings.items():
            parser[name] = value
        parser.parse()
        for part in ("initialize", "training"):
            parser.get_parsed_content(part)

    def rows(self) -> list[dict[str, float]]:
        with (self.out / "history.csv").open(newline="") as file:
            return [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file)]

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.out / "models" / "last.pt", weights_only=True)
        return state

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.out)): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file()
        }
