from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from overtile.pipelines.data.synthesis.datasets import write_touching_cells
from overtile.pipelines.errors import TrainingError
from overtile.pipelines.training.divergence import StopOnCollapse


def run(predictions: list[torch.Tensor], labels: torch.Tensor, patience: int = 3) -> int:
    """Steps until the handler ends the training, as far as it does."""

    def step(engine: Engine, pred: torch.Tensor) -> dict[str, Any]:
        return {"pred": pred, "label": (labels, None)}

    engine = Engine(step)
    StopOnCollapse(patience).attach(engine)
    with suppress(TrainingError):
        engine.run(predictions)
    return engine.state.iteration


LABELS = (torch.arange(64).reshape(1, 1, 8, 8) > 30).long()
CONSTANT = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1).expand(1, 2, 8, 8)
VARIED = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_network_that_predicts_a_constant_is_stopped() -> None:
    assert run([CONSTANT] * 10, LABELS) == 3


@pytest.mark.parametrize("predictions", [[VARIED] * 10, [CONSTANT, CONSTANT, VARIED] * 3])
def test_a_network_that_learns_is_left_alone(predictions: list[torch.Tensor]) -> None:
    assert run(predictions, LABELS) == len(predictions)


def test_a_tile_without_cells_says_nothing() -> None:
    assert run([CONSTANT] * 10, torch.zeros_like(LABELS)) == 10


def test_a_run_that_collapses_says_so_in_one_line(bundle: Any, tmp_path: Path) -> None:
    cells = write_touching_cells(tmp_path, {"train": 2, "val": 1}, size=(96, 96))
    done = bundle.run(
        *("touching_cells", "training", "--dataset_dir", cells, "--output_dir", "runs/small"),
        *("--max_epochs", 2, "--samples_per_epoch", 150, "--network_def#features", "[4,8]"),
        *("--tile", 60, "--learning_rate", 100.0, "--clip_norm", 1000.0),
    )
    assert done.returncode == 2
    assert "error: the network collapsed: for 100 steps" in done.stderr
    assert "lower learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
