"""Files of ours that are damaged cost one line with their name, whoever reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator
from toy import ROOT, toy_bundle

from overtile.networks import ValidUNet
from overtile.pipelines.bundle.run_bundle import write_bundle
from overtile.pipelines.errors import OvertileError
from overtile.pipelines.inference.folder import make_ready
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.label.models import copied
from overtile.pipelines.reporting.predictions import layers_of, store
from overtile.pipelines.reporting.report import write_report
from overtile.pipelines.reporting.summary import read_summary, write_summary
from overtile.pipelines.reporting.tables import append_epoch, results_of, write_scored

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "list": lambda _: b"[]",
    "text": lambda _: b'"a text"',
    "zeros": lambda whole: bytes(len(whole)),
    "no UTF-8": lambda whole: b"\xff\xfe" + whole,
    "deep": lambda _: b"[" * 100_000,
}


def use(run: Path) -> object:
    """As ``segment --bundle`` and ``label`` load it."""
    return load_trained(run, {})


def label(run: Path) -> object:
    return copied(run, run.with_name("models"))


def infer(run: Path) -> object:
    """As ``inference`` and ``evaluation`` begin."""
    evaluator: Any = SupervisedEvaluator(torch.device("cpu"), [1], network())
    return make_ready(evaluator, run / "models" / "model.pt", {"normalize": "percentile"})


def train(run: Path) -> object:
    """As a training begins with the bundle."""
    parser = ConfigParser()
    parser.read_config(ROOT / "bundles" / "touching_cells" / "configs" / "train.json")
    return write_bundle(parser, run, run.with_name("new"), network(), (1, 2))


READERS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "configs/inference.json": (use, label, train),
    "configs/evaluation.json": (train,),
    "configs/metadata.json": (label, train),
    "configs/train.json": (label,),
    "models/settings.json": (use, label, infer),
    "models/model.pt": (use, label, infer),
    "summary.json": (read_summary, write_report),
    "history.csv": (write_report,),
    "evaluation.json": (write_report,),
    "evaluation.csv": (write_report,),
    "predictions/00000.npz": (write_report,),
}


def network() -> ValidUNet:
    return ValidUNet(features=(4, 8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, of all its kinds of files one."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 40)).astype(np.uint8)
    run = toy_bundle(tmp_path_factory.mktemp("damaged") / "run", image)
    configs = ROOT / "bundles" / "touching_cells" / "configs"
    for name in ("train", "evaluation", "metadata"):
        shutil.copy(configs / f"{name}.json", run / "configs")
    (run / "models" / "settings.json").write_text(json.dumps({"normalize": "percentile"}))
    keys = "best_epoch figures images mlflow network resumed scores training_seconds unseen"
    write_summary(dict.fromkeys(keys.split(), 0), run)
    append_epoch({"epoch": 1, "train_loss": 0.5}, run / "history.csv")
    with results_of(run) as results:
        write_scored(results, [{"image": "a.tif", "seg": 0.5}], {"images": 1, "scores": {"seg": 1}})
        (results / "predictions").mkdir()
        cells = (image > 200).astype(np.int32)
        layers = layers_of("a.tif", image, cells, image / 255, cells)
        store(layers, results / "predictions" / "00000.npz")
    return run


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_costs_one_line(run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    for reader in READERS[name]:
        reader(run)
        shutil.rmtree(run.with_name("models"), ignore_errors=True)
        for how, damage in DAMAGE.items():
            (run / name).write_bytes(damage(whole))
            try:
                with pytest.raises(OvertileError) as caught:
                    reader(run)
            finally:
                (run / name).write_bytes(whole)
            said = str(caught.value)
            assert "\n" not in said, (how, said)
            assert said.startswith(str(run / name)), (how, said)
            assert ": " in said.partition("; ")[2], ("what to do", how, said)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1], "list"),
        (torch.ones(3), "Tensor"),
        (7, "int"),
        ({"epoch": 1}, "int where weights should be"),
        ({"model": {"epoch": 1}}, "int where weights should be"),
        ({"model": 3}, "int where weights should be"),
        ({k: torch.full_like(v, torch.nan) for k, v in network().state_dict().items()}, "finite"),
        ({k: v.to(torch.int32) for k, v in network().state_dict().items()}, "int32"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path: Path, content: Any, found: str) -> None:
    run = toy_bundle(tmp_path / "run", np.eye(40))
    torch.save(content, run / "models" / "model.pt")
    for reader in (use, infer):
        with pytest.raises(OvertileError, match=rf"model\.pt: .*{found}"):
            reader(run)
