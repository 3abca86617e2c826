"""Classes of images in parts: those of the whole image, in every dimension and by every command."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring as xml_of

import numpy as np
import pytest
import tifffile
import torch
import zarr
from numpy.typing import NDArray
from toy import CLASSES, classes_bundle, grey_of

from overtile.networks import OverlapTileInferer
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.images.formats import open_image
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.run import segment
from overtile.transforms import ClassesFromProbabilities


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


NAMES = ["background", "nucleus", "<b>wall</b>", "rest"]


@pytest.mark.parametrize("target", ["p.ome.zarr", "p.ome.tif"])
def test_probabilities_of_classes_in_parts_are_those_of_the_whole_image(
    drawn: tuple[NDArray[Any], Path], tmp_path: Path, target: str
) -> None:
    image, toy = drawn
    source, made = tmp_path / "image.ome.tif", tmp_path / target
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(source, image, ome=True, metadata={"axes": "ZYX"[-image.ndim :], **sizes})
    settings = {"class_names": NAMES}
    request = Request(source, made, toy, "probabilities", chunk=16, show=False, settings=settings)
    result = segment(request)
    with torch.no_grad():
        answer = OverlapTileInferer()(grey_of(image), load_trained(toy, {}).network)[0]
    stored = open_image(made)
    found = stored.pixels((slice(None),) * len(stored.shape))
    assert result.axes == stored.axes == "C" + "ZYX"[-image.ndim :]
    assert (found.dtype, result.cells) == (np.float32, None)
    assert np.abs(found - answer.softmax(0).numpy()).max() < 1e-5
    assert stored.channel_names == tuple(NAMES)
    kept = "ZYX" if made.suffix == ".tif" else "ZYX"[-image.ndim :]  # Zarr's axes have the sizes
    scale = {"Z": 2.0, "Y": 0.25, "X": 0.5}
    assert stored.spacing_um("ZYX") == {axis: scale[axis] for axis in kept}
    if made.suffix == ".tif":
        with tifffile.TiffFile(made) as tif:
            assert tif.series[0].axes == result.axes
            told = xml_of(tif.ome_metadata)
        assert [c.get("Name") for c in told.iter() if c.tag.endswith("}Channel")] == NAMES
        return
    ome = zarr.open(made).attrs["ome"]
    kinds = [axis["type"] for axis in ome["multiscales"][0]["axes"]]
    assert kinds == ["channel", *["space"] * image.ndim]
    channels = ome["omero"]["channels"]
    assert [channel["label"] for channel in channels] == NAMES
    assert len({channel["color"] for channel in channels}) == CLASSES
    assert all(re.fullmatch("[0-9A-F]{6}", channel["color"]) for channel in channels)
    half = zarr.open(made)["1"][:]
    assert half.shape[0] == CLASSES
    corner = found[..., :2, :2].mean(axis=(-2, -1))
    assert np.allclose(half[..., 0, 0], corner, atol=1e-6)


def test_labels_of_classes_say_what_their_numbers_are_called(
    drawn: tuple[NDArray[Any], Path], tmp_path: Path
) -> None:
    image, toy = drawn
    tifffile.imwrite(tmp_path / "image.tif", image)
    request = Request(tmp_path / "image.tif", tmp_path / "a.zarr", toy, show=False)
    segment(replace(request, settings={"class_names": NAMES}))
    told = zarr.open(request.target).attrs["ome"]["image-label"]
    assert {p["label-value"]: p["name"] for p in told["properties"]} == dict(enumerate(NAMES))
    assert [c["rgba"][3] for c in told["colors"]] == [0, 255, 255, 255]
    with pytest.raises(ConfigurationError, match="class_names: 2 names, a, b; expected 4, as the"):
        segment(replace(request, overwrite=True, settings={"class_names": ["a", "b"]}))


def test_pages_without_a_meaning_leave_no_axis_for_classes(tmp_path: Path) -> None:
    stack = np.stack([touching_cells(seed, (40, 44))[0] for seed in range(3)])
    toy = classes_bundle(tmp_path / "bundle", stack[0])
    tifffile.imwrite(tmp_path / "image.tif", stack, photometric="minisblack")
    request = Request(tmp_path / "image.tif", tmp_path / "a.zarr", toy, "probabilities")
    with pytest.raises(ConfigurationError, match=r"axes QYX; expected none beside .*output=labels"):
        segment(request)
    series = tmp_path / "series.ome.tif"  # but those that have one do
    tifffile.imwrite(series, stack[:2], ome=True, metadata={"axes": "TYX"})
    found = segment(replace(request, source=series, show=False))
    assert (found.axes, found.shape) == ("TCYX", (2, CLASSES, 40, 44))
    with torch.no_grad():
        answer = OverlapTileInferer()(grey_of(stack[1]), load_trained(toy, {}).network)[0]
    assert np.abs(zarr.open(request.target)["0"][1] - answer.softmax(0).numpy()).max() < 1e-5


def test_of_equal_probabilities_the_lowest_class_is_taken() -> None:
    even = torch.full((3, 4, 5), 1 / 3)
    assert not ClassesFromProbabilities()(even).any()
    with pytest.raises(ValueError, match="2 or more"):
        ClassesFromProbabilities()(even[:1])
