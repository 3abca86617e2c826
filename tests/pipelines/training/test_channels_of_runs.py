"""A network of three channels, from its training on: every use reads images as the training did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

SIZE, NEARLY = 96, 1e-4


def write(folder: Path, split: str, count: int) -> None:
    """Red cells beside blue ones that are background: no channel alone tells, nor the luminance."""
    rng = np.random.default_rng(len(split))
    for kind in ("images", "labels"):
        (folder / split / kind).mkdir(parents=True)
    for number in range(count):
        label = np.zeros((SIZE, SIZE), np.uint16)
        image = rng.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
        for place, (y, x) in enumerate((y, x) for y in range(8, 80, 24) for x in range(8, 80, 24)):
            red = (place + number) % 2 == 0
            label[y : y + 14, x : x + 14] = (place + 1) * red
            image[y : y + 14, x : x + 14, 0 if red else 2] += 150
        tifffile.imwrite(folder / split / "images" / f"{number}.tif", image, photometric="rgb")
        tifffile.imwrite(folder / split / "labels" / f"{number}.tif", label)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        write(folder, split, count)
    return folder


def scaled(image: NDArray[Any]) -> NDArray[np.float32]:
    """``[3, *S]`` as the touching cells' networks have it, each channel by NumPy's percentiles."""
    values = np.moveaxis(image, -1, 0).astype(np.float64)
    low, high = np.percentile(values, (1, 99.8), axis=(1, 2), keepdims=True)
    return ((values - low) / (high - low)).astype(np.float32)


def use(folder: Path, name: str, *words: object) -> tuple[object, ...]:
    config = folder / "configs" / f"{name}.json"
    return ("touching_cells", name, "--bundle_root", folder, "--config_file", config, *words)


def test_a_network_of_colours_sees_them_alike_in_every_use(bundle: Any, colours: Path) -> None:
    run, images = bundle.folder / "rgb", colours / "test" / "images"
    done = bundle.run(
        *("touching_cells", "training", "--dataset_dir", colours, "--output_dir", run),
        *("--channels", "all", "--max_epochs", 2, "--samples_per_epoch", 8, "--warmup_steps", 2),
        *("--network_def#features", "[4,8]", "--tile", 60, "--precision", "float32"),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((run / "configs" / "metadata.json").read_text())
    image = told["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], list(image["channel_def"])) == (3, ["0", "1", "2"])

    done = bundle.run(
        *use(run, "inference", "--dataset_dir", images, "--output_dir", bundle.folder / "found"),
        *("--save_probabilities", True, "--precision", "float32"),
    )
    assert done.returncode == 0, done.stderr
    found = tifffile.imread(bundle.folder / "found" / "0_probabilities.tif")
    assert np.ptp(found) > 0.01

    done = bundle.fork(
        "monai.bundle",
        [
            *("ckpt_export", "--bundle_root", str(run)),
            *("--config_file", str(run / "configs" / "inference.json")),
        ],
    )
    assert done.returncode == 0, done.stderr
    exported = torch.jit.load(run / "models" / "model.ts")
    pixels = tifffile.imread(images / "0.tif")
    margin = 8
    for order, same in (((0, 1, 2), True), ((2, 1, 0), False)):
        grey = np.pad(scaled(pixels)[list(order)], [(0, 0), *[(margin, margin)] * 2], "reflect")
        with torch.no_grad():
            answer = exported(torch.from_numpy(grey)[None]).softmax(1)[0, 1].numpy()
        assert answer.shape == found.shape
        assert (np.abs(answer - found).max() < NEARLY) == same, "the order matters, and is kept"

    done = bundle.overtile(
        *("segment", images / "0.tif", bundle.folder / "p.ome.tif", "--bundle", run),
        *("--output", "probabilities", "--chunk", 32, "--set", "precision=float32"),
    )
    assert done.returncode == 0, done.stderr
    parts = tifffile.imread(bundle.folder / "p.ome.tif")
    np.testing.assert_allclose(parts, found, atol=NEARLY)

    out = bundle.folder / "scored"
    done = bundle.run(
        *use(run, "evaluation", "--dataset_dir", colours, "--output_dir", out, "--versions", 1)
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "evaluation.json").read_text())["images"] == 2

    file = colours / "test" / "images" / "1.tif"  # from here on one is grey
    tifffile.imwrite(file, tifffile.imread(file)[..., 0])
    line = f"{file}: one channel; expected 3, as the network was trained with"
    for done in (
        bundle.run(*use(run, "inference", "--dataset_dir", images, "--output_dir", out / "no")),
        bundle.run(*use(run, "evaluation", "--dataset_dir", colours, "--output_dir", out / "no")),
        bundle.overtile("segment", file, out / "no.ome.zarr", "--bundle", run),
    ):
        assert done.returncode == 2, done.stderr
        assert line in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_network_of_one_channel_does_not_begin_one_of_three(bundle: Any, tmp_path: Path) -> None:
    weights = Path(__file__).resolve().parents[3] / "bundles/touching_cells/models/model.pt"
    write(tmp_path, "train", 2)
    done = bundle.run(
        *("touching_cells", "training", "--dataset_dir", tmp_path, "--output_dir", "begun"),
        *("--channels", "[0,1,2]", "--initial_weights", weights, "--val_fraction", 0.5),
        *("--tile", 188),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "model.pt" in done.stderr.splitlines()[-1]
    assert not (bundle.folder / "begun" / "models").exists()
