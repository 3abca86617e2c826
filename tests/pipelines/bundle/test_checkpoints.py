"""Files that are no weights, or weights that are no numbers, are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine
from torch import nn
from toy import toy_bundle

from overtile.pipelines.bundle.checkpoints import Checkpoints, load_weights
from overtile.pipelines.cli.main import main
from overtile.pipelines.errors import ConfigurationError

GOOD = nn.Linear(2, 1).state_dict()


def with_nan(weights: dict[str, Any]) -> dict[str, Any]:
    return {k: torch.full_like(v, torch.nan) for k, v in weights.items()}


NONE: dict[str, tuple[Any, str]] = {
    "nan": (with_nan(GOOD), "2 of the 2 weights of weight are NaN or infinite"),
    "one infinite": ({**GOOD, "bias": torch.tensor([torch.inf])}, "1 of the 1 weights of bias"),
    "a list": ([1, 2, 3], "a list without names"),
    "a tensor": (torch.zeros(3), "a Tensor without names"),
    "a number": (7, "a int without names"),
    "integers": ({"weight": 1, "bias": 2}, "weight is a int where weights should be"),
    "numbered": ({0: torch.zeros(1)}, "a dict without names"),
    "nothing": ({}, "weight is missing"),
    "a list inside": ({"model": [1]}, "a list where weights should be"),
    "a tensor inside": ({"model": torch.zeros(2)}, "weight is missing"),
    "one missing": ({"weight": GOOD["weight"]}, "bias is missing"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_weights_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, said = NONE[name]
    torch.save(content, tmp_path / "model.pt")
    network = nn.Linear(2, 1)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(ConfigurationError) as error:
        load_weights(network, tmp_path / "model.pt")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    "content",
    [
        *(content for content, _ in NONE.values()),
        GOOD,
        {"model": GOOD},
        {"model": GOOD, "epoch": "x", "iteration": 1, "best": 0, "best_epoch": 1, "extra": {}},
        {"model": GOOD, "epoch": 1, "iteration": 1, "best": [0], "best_epoch": 1, "extra": {}},
        {"model": GOOD, "epoch": 1, "iteration": 1, "best": 0, "best_epoch": 1, "extra": []},
    ],
)
def test_what_is_no_state_of_a_run_is_not_resumed(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "last.pt")
    checkpoints = Checkpoints(tmp_path, {"model": nn.Linear(2, 1)})
    with pytest.raises(ConfigurationError, match=r"last\.pt"):
        checkpoints.resume(Engine(lambda *_: None))


def test_segment_refuses_weights_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(0).integers(0, 99, (40, 40)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", image)
    bundle = toy_bundle(tmp_path / "bundle", image)
    file = bundle / "models" / "model.pt"
    for content in (with_nan(torch.load(file, weights_only=True)), [1], torch.zeros(1), 3):
        torch.save(content, file)
        words = ("segment", tmp_path / "image.tif", tmp_path / "out.tif", "--bundle", bundle)
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith("overtile: error: ")
        assert "model.pt" in told
        assert len(told.splitlines()) == 1
    assert not (tmp_path / "out.tif").exists()
