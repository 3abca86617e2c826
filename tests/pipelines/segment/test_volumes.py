"""Volumes of voxels that are not cubic: kernels, strides and tiles of each axis, in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
import zarr
from numpy.typing import NDArray
from toy import CLASSES, classes_bundle, grey_of

from overtile.networks import OverlapTileInferer, RotationAveragingInferer
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.images.formats import write_image
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.segment import plan as plan_module
from overtile.pipelines.segment.plan import plan
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.run import segment

SHAPE = (11, 35, 38)  # no multiples of chunks
SPACING = {"z": 5.0, "y": 0.5, "x": 0.25}  # millimetres
THIN = {
    "features": [2, 4, 4],
    "kernel_size": [[1, 3, 3], [1, 3, 3], [3, 3, 3]],
    "strides": [[1, 2, 2], [2, 2, 2]],
}


@pytest.fixture(scope="module")
def volume() -> NDArray[Any]:
    rng = np.random.default_rng(7)
    smooth = rng.normal(size=SHAPE)
    for axis in (1, 2):
        smooth = sum(np.roll(smooth, n, axis) for n in range(5))
    return (1000 + 100 * smooth / smooth.std()).astype(np.uint16)


def nifti(folder: Path, volume: NDArray[Any]) -> Path:
    """[X, Y, Z], packed, with a place and a direction of its own."""
    affine = np.diag([-SPACING["x"], SPACING["y"], SPACING["z"], 1])
    affine[:3, 3] = 3, -7, 11
    nibabel.save(nibabel.Nifti1Image(volume.T, affine), folder / "v.nii.gz")
    return folder / "v.nii.gz"


def ome_zarr(folder: Path, volume: NDArray[Any]) -> Path:
    return write_image(folder / "v", volume, "ome.zarr", tuple(1e3 * s for s in SPACING.values()))


def tiff(folder: Path, volume: NDArray[Any]) -> Path:
    """A stack as ImageJ writes it."""
    told = {"axes": "ZYX", "spacing": 1e3 * SPACING["z"], "unit": "um"}
    steps = 1 / (1e3 * SPACING["x"]), 1 / (1e3 * SPACING["y"])
    tifffile.imwrite(folder / "v.tif", volume, imagej=True, metadata=told, resolution=steps)
    return folder / "v.tif"


def bundle(folder: Path, volume: NDArray[Any], columns_first: bool, roi: Any = None) -> Path:
    """Its kernels follow the axes of the file."""
    turn = slice(None, None, -1 if columns_first else 1)
    levels = {k: [one[turn] for one in v] for k, v in THIN.items() if k != "features"}
    made = classes_bundle(
        folder, volume.T if columns_first else volume, features=THIN["features"], **levels
    )
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["roi_size"] = roi if roi is None else roi[turn]
    file.write_text(json.dumps(config))
    return made


ROI = [16, 56, 72]


@pytest.mark.parametrize(
    ("write", "roi", "versions"), [(nifti, ROI, 4), (ome_zarr, None, 1), (tiff, ROI, 1)]
)
def test_a_volume_in_parts_is_the_whole_volume(
    tmp_path: Path,
    volume: NDArray[Any],
    write: Callable[[Path, NDArray[Any]], Path],
    roi: list[int] | None,
    versions: int,
) -> None:
    flipped = write is nifti
    source = write(tmp_path, volume)
    toy = bundle(tmp_path / "bundle", volume, flipped, roi)
    settings = {"versions": versions}
    request = Request(
        source,
        tmp_path / "p.ome.zarr",
        toy,
        "probabilities",
        chunk=16,
        settings=settings,
        show=False,
    )
    segment(request)
    inferer = RotationAveragingInferer(OverlapTileInferer(), versions)
    given = volume.T if flipped else volume
    with torch.no_grad():
        answer = inferer(grey_of(given), load_trained(toy, {}).network)[0].softmax(0).numpy()
    expected = answer.transpose(0, 3, 2, 1) if flipped else answer
    group = zarr.open(request.target)
    assert group["0"].shape == (CLASSES, *SHAPE)
    assert group["0"].chunks == (1, 16, 16, 16)
    assert np.abs(group["0"][:] - expected).max() < 1e-5
    told = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
    assert told["scale"] == pytest.approx([1, *(1e3 * s for s in SPACING.values())])
    labels = replace(request, target=tmp_path / "l.ome.tif", output="labels")
    segment(labels)
    apart = np.sort(expected, 0)
    clear = apart[-1] - apart[-2] > 1e-4
    assert clear.mean() > 0.9
    found = tifffile.imread(labels.target)
    assert np.array_equal(found[clear], expected.argmax(0)[clear])
    assert len(np.unique(found)) > 2


def test_chunks_of_a_volume_shrink_with_the_memory(
    tmp_path: Path, volume: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window in space is many times its chunk; what is asked for is kept, or refused."""
    large = np.tile(volume, (24, 5, 4))
    source, toy = ome_zarr(tmp_path, large), bundle(tmp_path / "bundle", volume, False)
    monkeypatch.setattr(plan_module, "_resident", lambda: 2**29)
    request = Request(source, tmp_path / "p.zarr", toy, "probabilities")
    sides = []
    for memory in (4 * 2**30, 900 * 2**20, 800 * 2**20):
        here, _ = plan(replace(request, memory=memory, target=tmp_path / f"{memory}.zarr"), {})
        sides.append(here.job.chunk[1:])
        here.close()
    assert sides == [(128, 128), (64, 64), (32, 32)]
    with pytest.raises(
        ConfigurationError, match=r"are needed, .* give memory=.*, or chunk=less tha"
    ):
        plan(replace(request, memory=800 * 2**20, chunk=128), {})
    with pytest.raises(ConfigurationError, match=r"are needed, .* give memory=[\d.]+G$"):
        plan(replace(request, memory=700 * 2**20), {})
