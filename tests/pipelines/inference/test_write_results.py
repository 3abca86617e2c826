"""Results of inference are whole files, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from killed import killed_everywhere
from monai.data import MetaTensor
from PIL import Image

from overtile.pipelines.inference.write_results import WriteResultsd


def test_results_that_are_killed_are_the_old_or_the_new(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 200, (9, 12), np.uint8)
    source, out = tmp_path / "a.tif", tmp_path / "out"
    tifffile.imwrite(source, grey, photometric="minisblack")
    cells = [np.zeros((1, 9, 12), np.int32) for _ in range(2)]
    cells[0][0, :4, :5], cells[1][0, 2:, 3:] = 1, 1

    def write(number: int) -> None:
        meta = {"filename_or_obj": str(source)}
        item: dict[Any, Any] = {
            "image": MetaTensor(torch.from_numpy(grey[None]), meta=meta),
            "instances": MetaTensor(torch.from_numpy(cells[number]), meta=meta),
        }
        WriteResultsd("instances", out)(item)

    files = {"a_instances.tif": tifffile.imread, "a_outlines.png": Image.open}

    def found() -> dict[str, bytes]:
        return {name: np.asarray(read(out / name)).tobytes() for name, read in files.items()}

    write(0)
    old, seen = found(), []
    for _ in killed_everywhere(lambda: write(1)):
        seen.append(found())
    new = found()
    for name in files:
        assert old[name] != new[name]
        assert {old[name]} < {each[name] for each in [*seen, new]} == {old[name], new[name]}
