"""A training is the bundle's command; why it failed is worded for the user of the server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from labelling import needs_label

from overtile.pipelines.errors import HAND_OVER, Setting, TrainingError, handed_over

pytestmark = needs_label

ENDS_WITH_A_MISTAKE = """
import sys
from pathlib import Path
from overtile.pipelines.errors import DataError, Setting, exit_with
print("epoch 1/5")
hint = (Setting("val_fraction", 0.5), Setting("channels", "0 to 2", "to take one"), "replace it")
exit_with(DataError(Path(sys.argv[1], "a.tif"), "3 channels", "one", hint))
"""


@pytest.fixture
def failing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trainer whose command fails as a text says."""
    from overtile.pipelines.label.train import Trainer

    monkeypatch.delenv(HAND_OVER, raising=False)

    def make(code: str) -> Trainer:
        trainer = Trainer(root / "bundles" / "touching_cells", tmp_path / "runs")
        command = [sys.executable, "-c", code, str(tmp_path)]
        monkeypatch.setattr(trainer, "command", lambda *_: command)
        monkeypatch.setattr(trainer, "trainable", lambda _: ([], {}))
        return trainer

    return make


def test_a_training_hands_on_the_parts_of_its_mistake(
    failing: Any, tmp_path: Path, capsys: Any
) -> None:
    from overtile.pipelines.label.train import why_it_failed

    trainer = failing(ENDS_WITH_A_MISTAKE)
    with pytest.raises(TrainingError) as caught:
        trainer({}, None)
    error = caught.value
    assert (error.where, error.found) == (str(tmp_path / "a.tif"), "3 channels")
    assert error.expected == "one"
    assert "overtile: error" not in capsys.readouterr().out  # it would be in the bundle's words
    told = why_it_failed(trainer.runs, tmp_path)
    hint = "give overtile label --channels 0 to 2 to take one, or replace it"
    assert told == f"a.tif: 3 channels; expected one: {hint}"


def test_what_is_no_mistake_of_the_user_is_told_by_its_last_line(
    failing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overtile.pipelines.label.train import why_it_failed

    trainer = failing(ENDS_WITH_A_MISTAKE)
    with pytest.raises(TrainingError):
        trainer({}, None)
    monkeypatch.setattr("time.strftime", lambda _: "later")
    trainer = failing("raise MemoryError('too much')")
    with pytest.raises(TrainingError, match=r"ended with code 1 \(MemoryError: too much\)"):
        trainer({}, None)
    told = why_it_failed(trainer.runs, tmp_path)
    assert "3 channels" not in told  # of the training before
    assert "MemoryError: too much" in told


def test_what_the_bundles_command_hands_over_is_not_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overtile.pipelines.bundle.messages import _report
    from overtile.pipelines.errors import ConfigurationError

    file = tmp_path / "mistake.json"
    monkeypatch.setenv(HAND_OVER, str(file))
    error = ConfigurationError("tile", "500", "a size that fits", Setting("tile", 508))
    with pytest.raises(SystemExit, match="2"):
        _report(type(error), error, None, None)  # type: ignore[arg-type]
    told = handed_over(file)
    assert told is not None
    assert (told.where, told.hint) == ("tile", (Setting("tile", 508),))
