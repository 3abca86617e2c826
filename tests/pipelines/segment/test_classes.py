"""Classes of images in parts: those of the whole image, in every dimension and by every command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from numpy.typing import NDArray
from toy import toy_bundle

from overtile.networks import OverlapTileInferer, ValidUNet
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.run import segment
from overtile.transforms import ClassesFromProbabilities, NormalizeImage

CLASSES = 4


def classes_bundle(folder: Path, image: NDArray[Any]) -> Path:
    """A network of random weights that finds each class about as often as the others."""
    toy_bundle(folder, image)
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"]["out_channels"] = CLASSES
    softmax, _, write = config["postprocessing"]["transforms"]
    classes = {"_target_": "overtile.transforms.ClassesFromProbabilitiesd", "keys": "pred"}
    config["postprocessing"]["transforms"] = [softmax, classes, {**write, "keys": "classes"}]
    file.write_text(json.dumps(config))
    torch.manual_seed(5)
    network = ValidUNet(image.ndim, 1, CLASSES, features=(4, 8)).eval()
    with torch.no_grad():
        answer = OverlapTileInferer()(grey_of(image), network)[0].flatten(1)
        network.head.bias -= answer.mean(1)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def grey_of(image: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(NormalizeImage("percentile")(image[None].astype(np.float32)))[None]


@pytest.fixture(scope="module", params=[2, 3])
def drawn(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[Any], Path]:
    image = touching_cells(2, (70, 90))[0]
    if request.param == 3:
        image = np.stack([np.roll(image[:40, :44], 3 * n, 1) for n in range(22)])
    return image, classes_bundle(tmp_path_factory.mktemp("toy") / "bundle", image)


def test_classes_in_parts_are_those_of_the_whole_image(
    drawn: tuple[NDArray[Any], Path], bundle: Any, tmp_path: Path
) -> None:
    image, toy = drawn
    source = tmp_path / "image.tif"
    tifffile.imwrite(source, image)
    trained = load_trained(toy, {})
    with torch.no_grad():
        answer = OverlapTileInferer()(grey_of(image), trained.network)[0]
    expected = answer.argmax(0).numpy()
    assert len(np.unique(expected)) == CLASSES
    apart = answer.topk(2, 0).values
    clear = (apart[0] - apart[1] > 1e-4).numpy()  # ties are broken by rounding
    request = Request(source, tmp_path / "a.ome.zarr", toy, chunk=16, show=False)
    result = segment(request)
    found = zarr.open(request.target)["0"][:]
    assert (found.dtype, result.cells) == (np.uint8, None)
    assert np.array_equal(found[clear], expected[clear])
    assert clear.mean() > 0.99
    small = zarr.open(request.target)["1"][:] if "1" in zarr.open(request.target) else found
    assert set(np.unique(small)) <= set(range(CLASSES)), "a pyramid of classes has no averages"
    segment(replace(request, target=tmp_path / "a.tif"))
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), found)
    done = bundle.run(
        *("touching_cells", "inference", "--bundle_root", toy, "--dataset_dir", source),
        *("--config_file", toy / "configs" / "inference.json", "--save_probabilities", "True"),
    )
    assert done.returncode == 0, done.stderr
    folder = bundle.folder / "segmented"
    written = tifffile.imread(folder / "image_classes.tif")
    assert written.dtype == np.uint8
    assert np.array_equal(written[clear], expected[clear])
    likely = answer.softmax(0).numpy()
    for number in range(1, CLASSES):
        kept = tifffile.imread(folder / f"image_probabilities_{number}.tif")
        assert np.abs(kept - likely[number]).max() < 1e-5


def test_probabilities_of_classes_are_refused_in_parts(
    drawn: tuple[NDArray[Any], Path], tmp_path: Path
) -> None:
    image, toy = drawn
    tifffile.imwrite(tmp_path / "image.tif", image)
    request = Request(tmp_path / "image.tif", tmp_path / "a.tif", toy, output="probabilities")
    with pytest.raises(ConfigurationError, match=r"tells classes apart.*take them from inference"):
        segment(request)


def test_of_equal_probabilities_the_lowest_class_is_taken() -> None:
    even = torch.full((3, 4, 5), 1 / 3)
    assert not ClassesFromProbabilities()(even).any()
    with pytest.raises(ValueError, match="2 or more"):
        ClassesFromProbabilities()(even[:1])
