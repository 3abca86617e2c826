"""``overtile segment`` of several channels: what the whole image gives, in the network's order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from toy import same_cells, toy_bundle

from overtile.networks import OverlapTileInferer
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.errors import DataError
from overtile.pipelines.inference.trained import Trained, load_trained
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.run import segment

SIZE = (70, 90)
NEARLY = 2e-4  # the toy's steep answers magnify rounding
NAMES = ["DAPI", "GFP", "RFP"]


@pytest.fixture(scope="module")
def image() -> NDArray[Any]:
    """Three channels ``[C, *S]`` that have little in common."""
    rng = np.random.default_rng(0)
    cells = touching_cells(5, SIZE)[0]
    noise = rng.integers(0, 300, SIZE).astype(np.uint16)
    return np.stack([cells, 2 * cells[::-1] + 500, noise])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, image: NDArray[Any]) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("toy") / "bundle", image, channels="all")


def whole(trained: Trained, image: NDArray[Any], method: str) -> NDArray[Any]:
    """Probabilities of an image ``[C, *S]`` at once; each channel by NumPy's own statistics."""
    values = image.astype(np.float32).astype(np.float64)
    axes = tuple(range(1, image.ndim))
    if method == "percentile":
        low, high = np.percentile(values, (1, 99.8), axis=axes, keepdims=True)
    else:
        low = values.mean(axes, keepdims=True)
        high = low + values.std(axes, keepdims=True)
    grey = torch.from_numpy(((values - low) / (high - low)).astype(np.float32))[None]
    with torch.no_grad():
        answer = OverlapTileInferer()(grey, trained.network)
    found: NDArray[Any] = answer[0].softmax(0).numpy()
    return found[-1]


def run(source: Path, target: Path, bundle: Path, **options: Any) -> NDArray[Any]:
    segment(Request(source, target, bundle, chunk=32, show=False, overwrite=True, **options))
    array: NDArray[Any] = zarr.open(target)["0"][:]
    return array


def interleaved(folder: Path, image: NDArray[Any]) -> Path:
    path = folder / "a.tif"
    tifffile.imwrite(path, np.moveaxis(image, 0, -1), tile=(32, 32), photometric="rgb")
    return path


def planar(folder: Path, image: NDArray[Any]) -> Path:
    path = folder / "a.ome.tif"
    told = {"axes": "CYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(path, image, ome=True, metadata=told, tile=(32, 32), photometric="minisblack")
    return path


def pyramid(folder: Path, image: NDArray[Any]) -> Path:
    path = folder / "a.ome.zarr"
    shutil.rmtree(path, ignore_errors=True)
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=image, chunks=(1, 40, 30))
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")]
    group.attrs["ome"] = {
        "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}],
        "omero": {"channels": [{"label": name} for name in NAMES]},
    }
    return path


def apart(folder: Path, image: NDArray[Any]) -> Path:
    for number, channel in enumerate(image):
        tifffile.imwrite(folder / f"a_{number:04d}.tif", channel, tile=(32, 32))
    told = {"channel_names": {str(i): name for i, name in enumerate(NAMES)}}
    (folder / "dataset.json").write_text(json.dumps(told))
    return folder / "a_{0000,0001,0002}.tif"


def packed(folder: Path, image: NDArray[Any]) -> Path:
    for number, channel in enumerate(image):
        path = folder / f"p_{number:04d}.nii.gz"
        nibabel.Nifti1Image(channel[..., None], np.eye(4)).to_filename(path)
    told = {"channel_names": {str(i): name for i, name in enumerate(NAMES)}}
    (folder / "dataset.json").write_text(json.dumps(told))
    return folder / "p_{0000,0001,0002}.nii.gz"


Write = Callable[[Path, NDArray[Any]], Path]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    write=st.sampled_from([interleaved, planar, pyramid, apart]),
    normalize=st.sampled_from(["percentile", "zscore"]),
    dtype=st.sampled_from(["uint16", "float32", "int32"]),
    order=st.permutations([0, 1, 2]),
)
def test_parts_give_what_the_whole_image_gives(
    tmp_path_factory: pytest.TempPathFactory,
    toy: Path,
    image: NDArray[Any],
    write: Write,
    normalize: str,
    dtype: str,
    order: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    pixels = (image * (0.37 if dtype == "float32" else 1) - 300 * (dtype != "uint16")).astype(dtype)
    settings = {"normalize": normalize}
    found = run(
        write(folder, pixels),
        folder / "p.zarr",
        toy,
        output="probabilities",
        channels=tuple(order),
        settings=settings,
    )
    trained = load_trained(toy, settings)
    expected = whole(trained, pixels[order], normalize)
    assert np.abs(found - expected).max() < NEARLY
    assert np.ptp(expected) > 0.1
    if order != [0, 1, 2]:  # it matters
        assert np.abs(whole(trained, pixels, normalize) - expected).max() > 0.05


@pytest.mark.parametrize("write", [planar, pyramid, apart, packed])
def test_names_choose_the_same_channels_everywhere(
    tmp_path: Path, toy: Path, image: NDArray[Any], write: Write
) -> None:
    source = write(tmp_path, image)
    found = run(source, tmp_path / "n.zarr", toy, channels=("RFP", "DAPI", "GFP"))
    by_number = run(source, tmp_path / "m.zarr", toy, channels=(2, 0, 1))
    assert found.max() > 0
    np.testing.assert_array_equal(found, by_number)
    trained = load_trained(toy, {})
    grey = np.asarray(trained.normalize(image[[2, 0, 1]].astype(np.float32)))
    rows = found.squeeze().T if write is packed else found  # NIfTI counts x first
    assert same_cells(rows, trained.instances(grey))


@pytest.mark.parametrize("write", [planar, pyramid, apart, packed])
def test_a_source_with_other_channels_than_the_networks_is_refused(
    tmp_path: Path, image: NDArray[Any], write: Write
) -> None:
    bundle = toy_bundle(tmp_path / "b", image[:2], channels="all", names=["GFP", "DAPI"])
    source = write(tmp_path, image)
    target = tmp_path / "p.zarr"
    with pytest.raises(DataError, match="channels DAPI, GFP, RFP; expected GFP, DAPI, as the netw"):
        run(source, target, bundle)
    with pytest.raises(DataError, match="channels DAPI, GFP; expected GFP, DAPI, as the network"):
        run(source, target, bundle, channels=("DAPI", "GFP"))
    with pytest.raises(DataError, match="one channel; expected 2, as the network was trained with"):
        run(source, target, bundle, channels=1)
    with pytest.raises(DataError, match="no channel 'DAPY'; expected one of DAPI, GFP, RFP"):
        run(source, target, bundle, channels=("GFP", "DAPY"))
    assert not list(tmp_path.glob("partial*/job.json")), "it binds to nothing"
    assert run(source, target, bundle, channels=("GFP", "DAPI")).max() > 0
