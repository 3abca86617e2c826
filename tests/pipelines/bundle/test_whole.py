"""A network with its settings, and the bundle of a run, are of one state whatever kills."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from killed import killed_everywhere
from monai.bundle import ConfigParser

from overtile.networks import ValidUNet
from overtile.pipelines.bundle.checkpoints import Checkpoints, check_settings, load_weights
from overtile.pipelines.bundle.run_bundle import check_bundle, write_bundle
from overtile.pipelines.errors import ConfigurationError

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "touching_cells"


def test_a_network_is_never_found_with_the_settings_of_another(tmp_path: Path) -> None:
    def save(epoch: int) -> None:
        network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(network.weight, epoch)
        engine: Any = SimpleNamespace(state=SimpleNamespace(epoch=epoch, iteration=epoch))
        Checkpoints(tmp_path, {"model": network}, settings={"epoch": epoch}).save(engine)

    def found() -> int:
        network = torch.nn.Linear(1, 1)
        load_weights(network, tmp_path / "model.pt")
        epoch = int(network.weight.item())
        check_settings({"epoch": epoch}, tmp_path / "model.pt")
        assert json.loads((tmp_path / "settings.json").read_text()) == {"epoch": epoch}
        last = torch.load(tmp_path / "last.pt", weights_only=True)
        assert (last["epoch"], last["best_epoch"]) == (epoch, epoch)
        return epoch

    save(1)
    assert found() == 1
    seen = [found() for _ in killed_everywhere(lambda: save(2))]
    assert (seen[0], found()) == (1, 2)
    assert len(seen) > 5
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_disk_that_is_full_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            raise OSError("disk full")

    engine = Engine(lambda *_: None)
    part: Any = SimpleNamespace(state_dict=lambda: {"weight": torch.ones(1)})
    Checkpoints(tmp_path, {"model": part}).save(engine)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"last.pt", "model.pt", "settings.json"}
    part.state_dict = lambda: {"weight": Bad()}
    with pytest.raises(OSError, match="disk full"):
        Checkpoints(tmp_path, {"model": part}).save(engine)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_bundle_of_a_run_is_of_one_run(tmp_path: Path) -> None:
    def write(folder: Path, seed: int) -> None:
        parser = ConfigParser()
        parser.read_config(BUNDLE / "configs" / "train.json")
        parser.update({"seed": seed, "min_size": seed, "network_def#features": [4, 4 * seed]})
        write_bundle(parser, BUNDLE, folder, ValidUNet(features=(4, 8)), (1, 2))

    def told() -> set[int]:
        check_bundle(tmp_path)
        configs = {
            path.stem: json.loads(path.read_text())
            for path in (tmp_path / "configs").glob("[tie]*.json")
        }
        assert configs.keys() >= {"train", "inference", "evaluation"}
        assert (tmp_path / "LICENSE").is_file()
        assert (tmp_path / "configs" / "my_own.json").read_text() == "{}"
        return {c["min_size"] for c in configs.values()} | {configs["train"]["seed"]}

    write(tmp_path, 1)
    (tmp_path / "configs" / "my_own.json").write_text("{}")
    seen = [told() for _ in killed_everywhere(lambda: write(tmp_path, 2))]
    assert seen[0] == {1}
    assert all(one in ({1}, {2}) for one in seen)
    assert told() == {2}
    with pytest.raises(ConfigurationError, match=r"no configs/train\.json in it"):
        check_bundle(tmp_path / "configs")
