"""Nuclei of which half are hidden: what a training makes of images that are annotated in part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from overtile.pipelines.images.read import read_image, read_label
from overtile.pipelines.metrics.instances import average_precision

HIDDEN = 65535


def half_hidden(label: NDArray[Any], seed: int) -> NDArray[np.bool_]:
    """Which pixels are of cells that nobody has drawn."""
    names = np.unique(label[label > 0])
    return np.isin(label, np.random.default_rng(seed).permutation(names)[: len(names) // 2])


def recall(found: NDArray[Any], hidden: NDArray[Any]) -> tuple[int, int]:
    """How many hidden cells are found, at an overlap (IoU) of half and more; and of how many."""
    ap = average_precision([hidden], [found], 0.5)
    return ap.true_positives, ap.true_positives + ap.false_negatives


@pytest.mark.slow
def test_hidden_nuclei_are_found_if_they_are_not_taken_for_background(
    bundle: Any, real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / "dsb2018" / "train"
    images = sorted((folder / "images").iterdir())[:8]
    hidden = {}
    for way in ("background", "ignore", "band"):
        for number, file in enumerate(images):
            grey, label = read_image(file)[0], read_label(folder / "labels" / file.name)[0]
            unseen = half_hidden(label, number)
            hidden[file.stem] = np.where(unseen, label, 0)
            drawn = np.where(unseen, 0, label).astype(np.uint16)
            if way == "ignore":  # drawn roughly around, as a person would
                drawn[ndimage.binary_dilation(unseen, iterations=2) & (drawn == 0)] = HIDDEN
            for kind, array in (("images", grey), ("labels", drawn)):
                (tmp_path / way / kind).mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(tmp_path / way / kind / f"{file.stem}.tif", array)
    told = {
        "background": (),
        "ignore": ("--ignore", HIDDEN),
        "band": ("--unlabelled", "band", "--band", 4),
    }
    found = {}
    for way, options in told.items():
        run = tmp_path / f"run-{way}"
        done = bundle.run(
            *("touching_cells", "training", "--dataset_dir", tmp_path / way, "--output_dir", run),
            *("--max_epochs", 6, "--samples_per_epoch", 60, "--val_fraction", 0, "--tile", 188),
            *("--network_def#features", "[16,32,64]", "--warmup_steps", 10, *options),
        )
        assert done.returncode == 0, done.stderr
        out = tmp_path / f"found-{way}"
        done = bundle.run(
            *("touching_cells", "inference", "--dataset_dir", tmp_path / way / "images"),
            *("--bundle_root", run, "--config_file", run / "configs" / "inference.json"),
            *("--output_dir", out),
        )
        assert done.returncode == 0, done.stderr
        pairs = [
            recall(tifffile.imread(out / f"{name}_instances.tif"), cells)
            for name, cells in hidden.items()
        ]
        found[way] = sum(a for a, _ in pairs) / sum(b for _, b in pairs)
    print("recall of hidden nuclei:", {way: round(value, 3) for way, value in found.items()})
    assert min(found["ignore"], found["band"]) > found["background"] + 0.2, found
