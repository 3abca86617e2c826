from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from overtile.pipelines.errors import HAND_OVER
from overtile.pipelines.training.handlers import Progress


@pytest.mark.parametrize("read", [False, True])
def test_a_pipe_gets_lines_and_no_bar_unless_its_reader_wants_one(
    read: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HAND_OVER, raising=False)
    if read:
        monkeypatch.setenv(HAND_OVER, "mistake.json")
    trainer = Engine(lambda *_: {"loss": torch.tensor(0.25)})
    Progress().attach(trainer)
    trainer.run([0, 1], max_epochs=2)
    shown, bars = capfd.readouterr()
    assert shown.splitlines() == ["epoch 1/2  loss 0.2500", "epoch 2/2  loss 0.2500"]
    assert ("epoch 2/2:" in bars) == bool(bars) == read
