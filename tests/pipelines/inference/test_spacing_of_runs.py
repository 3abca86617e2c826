"""A run at a spacing of its own: trained, carried by the network, used on images of any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile

SMALL = ("--max_epochs", 1, "--samples_per_epoch", 2, "--tile", 28, "--num_workers", 0)


def save(path: Path, array: Any, affine: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def test_a_run_keeps_its_spacing_and_its_results_lie_on_their_images(
    bundle: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for number, step in enumerate((1.0, 1.0, 0.5)):
        affine = np.diag([step, 1.0, 2.0, 1.0])
        cells = np.zeros((int(20 / step), 18, 8), np.int16)
        cells[4 : int(10 / step), 3:9, 2:6] = 1
        pixels = (cells * 200 + rng.integers(0, 50, cells.shape)).astype(np.int16)
        save(tmp_path / "d" / "images" / f"{number}.nii.gz", pixels, affine)
        save(tmp_path / "d" / "labels" / f"{number}.nii.gz", cells, affine)
    run = tmp_path / "run"
    train = ("touching_cells", "training", "--dataset_dir", tmp_path / "d", "--output_dir", run)
    small = (*SMALL, "--spatial_dims", 3, "--network_def#features", "[4,8]")
    done = bundle.run(*train, *small, "--spacing", "median")
    assert done.returncode == 0, done.stderr
    kept = json.loads((run / "models" / "settings.json").read_text())
    assert kept["spacing"] == [1.0, 1.0, 2.0]
    for name in ("inference", "evaluation"):
        config = json.loads((run / "configs" / f"{name}.json").read_text())
        assert config["spacing"] == [1.0, 1.0, 2.0]

    turn = np.array([[0, 0, -2.5], [0.4, 0, 0], [0, 1.3, 0]])  # some other way to lie
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (3, -20, 7)
    save(tmp_path / "new" / "a.nii.gz", rng.integers(0, 99, (41, 15, 7)).astype(np.int16), affine)
    used = ("monai.bundle", ["run", "inference", "--bundle_root", str(run), "--config_file"])
    config_file = str(run / "configs" / "inference.json")
    words = [*used[1], config_file, "--output_dir", str(tmp_path / "out"), "--dataset_dir"]
    done = bundle.fork(used[0], [*words, str(tmp_path / "new"), "--save_probabilities", "True"])
    assert done.returncode == 0, done.stderr
    for kind in ("instances", "probabilities"):
        found = nibabel.load(tmp_path / "out" / f"a_{kind}.nii.gz")
        assert found.shape == (41, 15, 7)
        assert np.allclose(found.affine, affine, atol=1e-4)
    likely = np.asanyarray(found.dataobj)
    assert likely.min() >= 0
    assert likely.max() <= 1
    assert likely.std() > 0

    # other numbers than the network's, images without any, and parts of images: one line each
    done = bundle.fork(used[0], [*words, str(tmp_path / "new"), "--spacing", "[2, 2, 2]"])
    assert done.returncode == 2
    assert "trained with spacing=[1.0, 1.0, 2.0], but spacing is [2, 2, 2]" in done.stderr
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((7, 20, 20), np.uint8), photometric="minisblack")
    done = bundle.fork(used[0], [*words, str(tmp_path / "b.tif")])
    assert done.returncode == 2
    assert "b.tif: it does not say the size of its pixels" in done.stderr.strip().splitlines()[-1]
    done = bundle.overtile(
        *("segment", tmp_path / "new" / "a.nii.gz", tmp_path / "s.zarr", "--bundle", run)
    )
    assert done.returncode == 2
    assert "pixels of 0.4 x 1.3 x 2.5 mm; expected 1 x 1 x 2 mm" in done.stderr
