"""A whole round of annotating: no label, five labels, a training, better proposals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from labelling import Server, needs_label, save, serving

from overtile.pipelines.data.synthesis.datasets import generate
from overtile.pipelines.metrics.instances import seg_measure

pytestmark = needs_label


def proposed(server: Server, image: str, folder: Path) -> np.ndarray[Any, Any]:
    answer = server.infer(image)
    assert answer.status == 200, answer.body
    (folder / "found.tif").write_bytes(answer.body)
    return tifffile.imread(folder / "found.tif")


@pytest.mark.slow
def test_five_labels_improve_the_proposals(tmp_path: Path) -> None:
    """Dark cells on a bright ground, which the network that comes with the bundle never saw."""
    pairs = list(generate("cells", {"train": 8}, (128, 128), 11)["train"])
    (tmp_path / "studies").mkdir()
    for number, (image, _) in enumerate(pairs):
        dark = (image.max() - image).astype(image.dtype)
        save(tmp_path / "studies" / f"{number}.tif", dark)
    with serving(tmp_path / "studies", tmp_path / "log") as server:
        unseen = ("5", "6", "7")
        truth = [pairs[int(name)][1] for name in unseen]
        before = seg_measure(truth, [proposed(server, name, tmp_path) for name in unseen]).value
        for _ in range(5):
            image = server.post("/activelearning/first").json["id"]
            label = save(tmp_path / "label.tif", pairs[int(image)][1].astype(np.uint16))
            assert server.label(image, label).status == 200
        assert server.post("/activelearning/first").json["id"] == "5"
        assert server.post("/train/touching_cells", {"max_epochs": 3}).status == 200
        task = server.trained(500)
        assert task["status"] == "DONE", task
        after = seg_measure(truth, [proposed(server, name, tmp_path) for name in unseen]).value
        print(json.dumps({"before": before, "after": after}))
        assert after > before + 0.2
