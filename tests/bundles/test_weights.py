"""The trained networks that the bundles ship, as a user gets them: no option but the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tifffile
import torch
from monai.bundle import ConfigParser

from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.metrics.instances import seg_measure


@pytest.mark.parametrize("name", ["touching_cells", "em_membranes", "organs"])
def test_weights_are_small_plain_and_of_the_bundles_network(root: Path, name: str) -> None:
    folder = root / "bundles" / name
    path = folder / "models" / "model.pt"
    assert path.stat().st_size <= 16 * 2**20
    weights = torch.load(path, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    parser = ConfigParser(json.loads((folder / "configs" / "inference.json").read_text()))
    network = parser.get_parsed_content("network_def")
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert {key: value.shape for key, value in weights.items()} == shapes
    settings = json.loads((folder / "models" / "settings.json").read_text())
    assert settings["normalize"] == parser.get("normalize")


def test_inference_needs_nothing_but_images(bundle: Any, tmp_path: Path) -> None:
    image, label = touching_cells(3, (256, 256))
    tifffile.imwrite(tmp_path / "cells.tif", image)
    done = bundle.run(
        *("touching_cells", "inference", "--dataset_dir", tmp_path, "--output_dir", "out")
    )
    assert done.returncode == 0, done.stderr
    found = tifffile.imread(bundle.folder / "out" / "cells_instances.tif")
    assert float(seg_measure(label, found)) > 0.5, "it has never seen generated cells"


def scores(bundle: Any, name: str, data: Path, *options: object) -> dict[str, float]:
    done = bundle.run(name, "evaluation", "--dataset_dir", data, "--versions", 1, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((bundle.folder / "evaluated" / "evaluation.json").read_text())
    return dict(found["scores"])


def test_nuclei_are_found_as_the_results_say(bundle: Any, real_data: Path) -> None:
    found = scores(bundle, "touching_cells", real_data / "dsb2018")
    assert found["seg"] > 0.755
    assert found["ap50"] > 0.755


def test_membranes_are_found_as_the_results_say(bundle: Any, real_data: Path) -> None:
    found = scores(bundle, "em_membranes", real_data / "isbi2012", "--fold", 4)
    assert found["v_rand"] > 0.95
    assert found["pixel_error"] < 0.052


def test_organs_are_found_as_the_results_say(bundle: Any, real_data: Path) -> None:
    found = scores(bundle, "organs", real_data / "hippocampus", "--fold", 0)
    assert found["dice"] == pytest.approx(0.869, abs=0.005)
