"""``overtile segment``: images in chunks give what the whole image gives, whatever happens."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
import tifffile
import torch
import zarr
from conftest import Bundle
from numpy.typing import NDArray
from toy import ROOT, files, same_cells, toy_bundle

from overtile.networks import OverlapTileInferer, RotationAveragingInferer
from overtile.pipelines.cli.main import main
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.errors import ConfigurationError, DataError
from overtile.pipelines.images.formats import open_source, write_image
from overtile.pipelines.images.read import read_image
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.segment import resume as resume_module
from overtile.pipelines.segment import run as run_module
from overtile.pipelines.segment import tasks
from overtile.pipelines.segment.job import Opened
from overtile.pipelines.segment.plan import plan
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.resume import target_alone
from overtile.pipelines.segment.run import segment
from overtile.pipelines.segment.tasks import write_probabilities
from overtile.transforms import NormalizeImage

SIZE = (150, 205)
CHUNK = 48
NEARLY = 2e-4  # the toy's steep answers magnify rounding


@pytest.fixture(scope="module")
def image() -> NDArray[Any]:
    return touching_cells(5, SIZE)[0]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, image: NDArray[Any]) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("toy") / "bundle", image)


@pytest.fixture(scope="module")
def volume() -> NDArray[Any]:
    rng = np.random.default_rng(0)
    return np.stack([touching_cells(i // 3, (40, 52))[0] for i in range(20)]) + rng.integers(
        0, 50, (20, 40, 52), np.uint16
    )


@pytest.fixture(scope="module")
def toy_3d(tmp_path_factory: pytest.TempPathFactory, volume: NDArray[Any]) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("toy") / "bundle", volume)


@pytest.fixture
def tiled(tmp_path: Path, image: NDArray[Any]) -> Path:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, image, tile=(32, 32), compression="zlib")
    return path


def whole(bundle: Path, image: NDArray[Any], **settings: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Probabilities and labels of an image at once, as ``inference`` makes them."""
    trained = load_trained(bundle, settings)
    grey = NormalizeImage(trained.normalize.method)(image[None].astype(np.float32))
    inferer = RotationAveragingInferer(OverlapTileInferer(), settings.get("versions", 1))
    with torch.no_grad():
        answer = inferer(torch.from_numpy(np.asarray(grey))[None], trained.network)
    probabilities = answer[0].softmax(0).numpy()
    assert trained.to_instances is not None
    return probabilities[-1], np.asarray(trained.to_instances(probabilities))[0]


def run(source: Path, target: Path, bundle: Path, **options: Any) -> NDArray[Any]:
    result = segment(Request(source, target, bundle, **{"chunk": CHUNK, "show": False, **options}))
    assert not list(target.parent.glob(f"partial.{target.name}*"))
    assert result.target == target
    array: NDArray[Any] = (
        tifffile.imread(target) if target.suffix == ".tif" else zarr.open(target)["0"][:]
    )
    return array


def test_the_command_gives_what_inference_gives(
    bundle: Bundle, tiled: Path, image: NDArray[Any]
) -> None:
    """With the network that ships; in bfloat16 oneDNN may round otherwise for another tile."""
    shipped = ROOT / "bundles" / "touching_cells"
    for output in ("labels", "probabilities"):
        done = bundle.overtile(
            *("segment", tiled, f"{output}.ome.zarr", "--bundle", shipped, "--chunk", CHUNK),
            *("--output", output, "--json", "--set", "precision=float32"),
        )
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shape"] == list(SIZE)
    done = bundle.run(
        *("touching_cells", "inference", "--dataset_dir", tiled),
        *("--save_probabilities", "True", "--precision", "float32"),
    )
    assert done.returncode == 0, done.stderr
    expected = tifffile.imread(bundle.folder / "segmented" / "image_instances.tif")
    labels = zarr.open(bundle.folder / "labels.ome.zarr")["0"][:]
    assert labels.max() > 20
    assert labels.dtype == np.uint16
    assert same_cells(labels, expected)
    expected = tifffile.imread(bundle.folder / "segmented" / "image_probabilities.tif")
    found = zarr.open(bundle.folder / "probabilities.ome.zarr")["0"][:]
    assert np.abs(found - expected).max() < 1e-5
    assert not list(bundle.folder.glob("partial.*"))


@pytest.mark.parametrize("normalize", ["zscore", "percentile", "none"])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "int32"])
def test_grey_values_are_those_of_the_whole_image(
    tmp_path: Path, toy: Path, image: NDArray[Any], normalize: str, dtype: str
) -> None:
    shifted = (image.astype(np.float64) * (0.37 if dtype == "float32" else 1) - 300).astype(dtype)
    tifffile.imwrite(tmp_path / "image.tif", shifted)
    settings = {"normalize": normalize}
    found = run(
        tmp_path / "image.tif", tmp_path / "p.zarr", toy, output="probabilities", settings=settings
    )
    expected, _ = whole(toy, shifted, **settings)
    # grey values of thousands magnify even more
    assert np.abs(found - expected).max() < (10 if normalize == "none" else 1) * NEARLY
    assert np.ptp(expected) > 0.1


def test_skipping_covers_pixels_that_are_no_numbers(
    tmp_path: Path, toy: Path, image: NDArray[Any]
) -> None:
    spoilt = image.astype(np.float32)
    spoilt[3, 5] = np.nan
    path, target = tmp_path / "image.tif", tmp_path / "p.zarr"
    tifffile.imwrite(path, spoilt)
    with pytest.raises(DataError, match=r"chunk 0/0 .*1 pixels are NaN or infinite"):
        run(path, target, toy, chunk=100)
    wanted = Request(
        path, target, toy, "probabilities", chunk=100, skip_unreadable=True, show=False
    )
    result = segment(wanted)
    assert all("NaN" in line for line in result.unreadable)
    assert "chunk 0/0" in result.unreadable[0]
    found = zarr.open(target)["0"][:]
    assert not found[:100, :100].any()
    assert found[:, -20:].any()


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_as_many_cells_are_said_as_there_are(
    tmp_path: Path, toy: Path, image: NDArray[Any], bias: float
) -> None:
    """Also of an image that is smaller than a hole, all cell or none."""
    folder = tmp_path / "bundle"
    shutil.copytree(toy, folder)
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    weights["head.bias"] += torch.tensor([-bias, bias])
    torch.save(weights, folder / "models" / "model.pt")
    for shape in ((1, 1), (3, 4), (30, 50)):
        source = tmp_path / f"{shape[0]}.tif"
        tifffile.imwrite(source, image[: shape[0], : shape[1]])
        result = segment(
            Request(source, tmp_path / f"out{shape[0]}.tif", folder, chunk=16, show=False)
        )
        found = tifffile.imread(result.target)
        assert result.cells == len(np.unique(found[found > 0]))
        large_enough = found.size >= 10  # min_size of the bundle
        assert (found == (bias > 0 and large_enough)).all()
        trained = load_trained(folder, {})
        whole_image = trained.instances(
            np.asarray(trained.normalize(image[None, : shape[0], : shape[1]]))
        )
        assert same_cells(found, whole_image)


def test_one_nucleus_in_the_dark_is_one_cell_on_every_scale(bundle: Bundle) -> None:
    """So few pixels that both percentiles are the background's."""
    shipped, folder = ROOT / "bundles" / "touching_cells", bundle.folder / "images"
    folder.mkdir()
    row, column = np.mgrid[:136, :136]
    nucleus = (row - 60) ** 2 + (column - 71) ** 2 < 11
    for name, factor, offset in (("low", 3, 0), ("high", 20000, 0), ("raised", 900, 500)):
        pixels = nucleus.astype(np.uint16) * factor + offset
        tifffile.imwrite(folder / f"{name}.tif", pixels, tile=(64, 64))
    done = bundle.run("touching_cells", "inference", "--dataset_dir", folder)
    assert done.returncode == 0, done.stderr
    annotating = pytest.importorskip("overtile.pipelines.label.infer").Segmenter(shipped)
    for file in sorted(folder.iterdir()):
        segmented = tifffile.imread(bundle.folder / "segmented" / f"{file.stem}_instances.tif")
        stored = run(file, bundle.folder / file.name, shipped, chunk=64)
        for found in (segmented, stored, annotating.segment(file)):
            assert set(np.unique(found)) == {0, 1}
            assert np.sum((found > 0) & nucleus) / np.sum((found > 0) | nucleus) > 0.7


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "constant"])
def test_versions_and_borders_are_those_of_the_whole_image(
    tmp_path: Path, toy: Path, tiled: Path, image: NDArray[Any], padding_mode: str
) -> None:
    settings = {"versions": 7, "padding_mode": padding_mode}
    found = run(tiled, tmp_path / "p.zarr", toy, output="probabilities", settings=settings)
    trained = load_trained(toy, {})
    grey = torch.from_numpy(np.asarray(NormalizeImage("percentile")(image[None].astype("f4"))))
    inferer = RotationAveragingInferer(OverlapTileInferer(padding_mode=padding_mode), 7)
    with torch.no_grad():
        expected = inferer(grey[None], trained.network)[0].softmax(0)[1].numpy()
    assert np.abs(found - expected).max() < NEARLY


Writer = Callable[[Path, NDArray[Any]], tuple[Path, dict[str, Any]]]


def striped(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    path = folder / "image.tif"
    tifffile.imwrite(path, image, rowsperstrip=7, bigtiff=True, byteorder=">")
    return path, {}


def one_strip(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    path = folder / "image.tif"
    tifffile.imwrite(path, image, rowsperstrip=len(image), compression="zstd", predictor=True)
    return path, {}


def inverted(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    path = folder / "image.tif"
    tifffile.imwrite(path, 65535 - image, photometric="miniswhite", tile=(64, 32))
    return path, {}


def pyramidal(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    path = folder / "image.tif"
    large = image.repeat(2, 0).repeat(2, 1)
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(large, tile=(64, 64), subifds=1, compression="deflate")
        tif.write(image, tile=(64, 64), subfiletype=1, compression="deflate")
    return path, {"level": 1}


def slide(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    path = folder / "image.svs"
    large = image.repeat(2, 0).repeat(2, 1)
    told = {"description": "Aperio Image Library v11", "metadata": None}
    with tifffile.TiffWriter(path) as tif:
        tif.write(large, tile=(64, 64), compression="deflate", **told)
        tif.write(image[::4, ::4], rowsperstrip=8, **told)  # its second page is a small picture
        tif.write(image, tile=(64, 64), compression="deflate", **told)
    return path, {"level": 1}


def ome_zarr(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    write_image(folder / "image", image, "ome.zarr", (2.0, 0.5, 0.25))
    return folder / "image.ome.zarr", {}


def bare_zarr(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    zarr.create_array(folder / "image.zarr", data=image, chunks=(40, 50), zarr_format=2)
    return folder / "image.zarr", {}


def grey_as_colours(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    path = folder / "image.tif"
    tifffile.imwrite(path, np.stack([image] * 3, -1), tile=(32, 32), photometric="rgb")
    return path, {}


def second_channel(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    path = folder / "image.ome.tif"
    stack = np.stack([image[::-1], image])
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    return path, {"channels": 1}


def picture(folder: Path, image: NDArray[Any]) -> tuple[Path, dict[str, Any]]:
    from PIL import Image

    Image.fromarray(image).save(folder / "image.png")
    return folder / "image.png", {}


SOURCES = [
    *(striped, one_strip, inverted, pyramidal, slide, ome_zarr, bare_zarr),
    *(grey_as_colours, second_channel, picture),
]


@pytest.mark.parametrize("write", SOURCES, ids=lambda write: write.__name__)
def test_every_source_gives_the_labels_of_the_whole_image(
    tmp_path: Path, toy: Path, image: NDArray[Any], write: Writer
) -> None:
    source, options = write(tmp_path, image)
    found = run(source, tmp_path / "labels.ome.zarr", toy, **options)
    assert same_cells(found, whole(toy, image)[1])


def test_colours_become_grey_as_the_reader_has_it(tmp_path: Path, toy: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, colours, tile=(32, 32), photometric="rgb")
    with pytest.raises(DataError, match=r"3 channels.*give channels=0 to 2, or channels=luminance"):
        run(path, tmp_path / "p.zarr", toy, output="probabilities")
    found = run(
        path, tmp_path / "p.zarr", toy, output="probabilities", channels="luminance", overwrite=True
    )
    expected, _ = whole(toy, read_image(path, channels="luminance")[0])
    assert np.abs(found - expected).max() < NEARLY


def test_planes_of_a_stack_are_segmented_one_by_one(tmp_path: Path, toy: Path) -> None:
    stack = np.stack([touching_cells(seed, (60, 70))[0] for seed in range(6)]).reshape(2, 3, 60, 70)
    path = tmp_path / "image.ome.tif"
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "TZYX", **sizes})
    target = tmp_path / "labels.ome.zarr"
    found = run(path, target, toy)
    assert found.shape == stack.shape
    for plane, expected in zip(found.reshape(6, 60, 70), stack.reshape(6, 60, 70), strict=True):
        assert same_cells(plane, whole(toy, expected)[1])
        assert plane.max() == len(np.unique(plane)) - 1  # each counts its own from 1
    described = zarr.open(target).attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in described["axes"]] == ["t", "z", "y", "x"]
    steps = [d["coordinateTransformations"][0]["scale"] for d in described["datasets"]]
    assert steps[:2] == [[1, 2, 0.25, 0.5], [1, 2, 0.5, 1]]


def test_one_slice_keeps_its_thickness(tmp_path: Path, toy: Path) -> None:
    path = tmp_path / "image.ome.tif"
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}
    image = touching_cells(0, (60, 70))[0][None]
    tifffile.imwrite(path, image, ome=True, metadata={"axes": "ZYX", **sizes})
    run(path, tmp_path / "labels.ome.tif", toy)
    with tifffile.TiffFile(tmp_path / "labels.ome.tif") as tif:
        (told,) = (
            e for e in ElementTree.fromstring(tif.ome_metadata or "").iter() if e.get("SizeZ")
        )
    assert {name: float(told.get(name, 0)) for name in sizes} == sizes


@pytest.mark.parametrize("format", ["nii", "nii.gz", "dicom", "tif"])
def test_volumes_are_segmented_whole(
    tmp_path: Path, toy_3d: Path, volume: NDArray[Any], format: str
) -> None:
    if format == "nii":
        import nibabel

        nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([0.5, 0.5, 2, 1])), tmp_path / "v.nii")
    else:
        write_image(tmp_path / "v", volume, format, (2.0, 0.5, 0.5))
    source = next(tmp_path.glob("v*"))
    target = tmp_path / "labels.ome.zarr"
    found = run(source, target, toy_3d, chunk=16)
    array = read_image(source, 3)[0]
    expected = whole(toy_3d, array)[1]
    assert expected.max() > 10
    assert same_cells(found, expected if format == "tif" else expected.transpose())
    if format == "nii":  # millimetres there, micrometres here
        described = zarr.open(target).attrs["ome"]["multiscales"][0]
        scale = described["datasets"][0]["coordinateTransformations"][0]["scale"]
        assert scale == [2000, 500, 500]


def test_the_pyramid_halves_labels_and_averages_probabilities(
    tmp_path: Path, toy: Path, tiled: Path
) -> None:
    for labels in (True, False):
        target = tmp_path / f"{labels}.ome.zarr"
        full = run(tiled, target, toy, output="labels" if labels else "probabilities")
        group = zarr.open(target)
        assert [group[name].shape for name in "012"] == [(150, 205), (75, 103), (38, 52)]
        assert "3" in group
        half = group["1"][:]
        if labels:
            assert (half == full[::2, ::2]).all()
        else:
            assert half[3, 5] == pytest.approx(full[6:8, 10:12].mean())
            assert half[0, 102] == pytest.approx(full[0:2, 204].mean())


def test_a_tiff_holds_the_same_labels(tmp_path: Path, toy: Path, image: NDArray[Any]) -> None:
    source = tmp_path / "image.ome.tif"
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    tifffile.imwrite(source, image, ome=True, metadata={"axes": "YX", **sizes})
    found = run(source, tmp_path / "labels.tif", toy)
    assert (found == run(source, tmp_path / "labels.zarr", toy)).all()
    with tifffile.TiffFile(tmp_path / "labels.tif") as tif:
        assert tif.pages[0].is_tiled
        assert 'PhysicalSizeX="0.5"' in str(tif.ome_metadata)
    first = (tmp_path / "labels.tif").read_bytes()
    run(source, tmp_path / "labels.tif", toy, overwrite=True)
    assert (tmp_path / "labels.tif").read_bytes() == first


def test_the_resolution_of_a_plain_tiff_is_its_pixel_size_unless_it_is_a_printers(
    tmp_path: Path, toy: Path, image: NDArray[Any]
) -> None:
    source, target = tmp_path / "image.tif", tmp_path / "labels.ome.zarr"
    for (x, y), unit, expected in (
        ((40_000, 20_000), "CENTIMETER", [0.5, 0.25]),
        ((101_600, 50_800), "INCH", [0.5, 0.25]),
        ((300, 300), "INCH", [1, 1]),
        ((40_000, 20_000), "NONE", [1, 1]),
    ):
        tifffile.imwrite(source, image, resolution=(x, y), resolutionunit=unit)
        run(source, target, toy, overwrite=True)
        level = zarr.open(target).attrs["ome"]["multiscales"][0]["datasets"][0]
        assert level["coordinateTransformations"][0]["scale"] == pytest.approx(expected)


@pytest.mark.parametrize("target", ["labels.ome.zarr", "labels.ome.tif"])
def test_killed_at_any_moment_it_goes_on(
    bundle: Bundle, toy: Path, tmp_path: Path, target: str
) -> None:
    tifffile.imwrite(tmp_path / "image.tif", touching_cells(6, (160, 190))[0], tile=(64, 64))
    command = ("segment", "image.tif", target, "--bundle", toy, "--chunk", 48)
    began = time.monotonic()
    assert bundle.overtile(*command).returncode == 0
    lasts = time.monotonic() - began
    (tmp_path / "whole").mkdir()
    (tmp_path / target).rename(tmp_path / "whole" / target)
    expected = files(tmp_path / "whole" / target)
    moments, kills = random.Random(target), 0
    while kills < 4:
        done = bundle.overtile(*command, kill_after=moments.uniform(0, lasts))
        assert done.returncode in (0, -9), done.stderr
        kills += done.returncode == -9
        if (tmp_path / target).exists():  # whole, or not there
            assert files(tmp_path / target) == expected
        if (tmp_path / target).exists() and not (
            tmp_path / f"partial.{target}" / "job.json"
        ).exists():
            shutil.move(tmp_path / target, tmp_path / f"finished{lasts}")
            lasts *= 0.8  # the first one had more to load
    assert bundle.overtile(*command).returncode == 0
    assert files(tmp_path / target) == expected
    assert not list(tmp_path.glob("partial.*"))


def test_finished_chunks_are_not_computed_again(
    tmp_path: Path, toy: Path, tiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails half way leaves what it has; another one computes the rest alone."""
    from overtile.pipelines.inference.trained import Trained

    computed, compute = [], Trained.answer

    def failing(self: Trained, window: Any, region: Any, *rest: Any) -> Any:
        if len(computed) == 9:
            raise OSError(28, "No space left on device")
        computed.append(region)
        return compute(self, window, region, *rest)

    monkeypatch.setattr(Trained, "answer", failing)
    with pytest.raises(DataError, match=r"No space left.*make room, and give the same command"):
        run(tiled, tmp_path / "labels.zarr", toy)
    assert not (tmp_path / "labels.zarr").exists()
    monkeypatch.setattr(Trained, "answer", lambda *a: (computed.append(a[2]), compute(*a))[1])
    run(tiled, tmp_path / "labels.zarr", toy)
    chunks = 4 * 5
    assert len(computed) <= chunks + 3  # those that were to be written when it failed
    assert len({str(region) for region in computed}) == chunks


def test_too_little_memory_keeps_what_is_done(
    tmp_path: Path, toy: Path, tiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overtile.pipelines.inference.trained import Trained

    with monkeypatch.context() as patched:
        patched.setattr(Trained, "answer", lambda *_: torch.empty(2**50).numpy())
        with pytest.raises(DataError, match=r"not enough memory; what is done is kept .*chunk="):
            run(tiled, tmp_path / "labels.zarr", toy)
    assert run(tiled, tmp_path / "labels.zarr", toy).any()


def test_other_settings_or_another_source_are_not_mixed_in(
    tmp_path: Path, toy: Path, tiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overtile.pipelines.inference.trained import Trained

    target = tmp_path / "labels.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(Trained, "answer", lambda *_: (_ for _ in ()).throw(OSError(5, "x")))
        with pytest.raises(DataError):
            run(tiled, target, toy)
    with pytest.raises(ConfigurationError, match=r"begun with threshold 0\.5, but now it is 0\.9"):
        run(tiled, target, toy, settings={"threshold": 0.9})
    with pytest.raises(ConfigurationError, match="begun with output labels"):
        run(tiled, target, toy, output="probabilities")
    (tmp_path / "other").mkdir()
    other = Path(shutil.copy2(tiled, tmp_path / "other"))
    with pytest.raises(ConfigurationError, match=r"begun with source .*, but now it is .*/other/"):
        run(other, target, toy)
    os.utime(tiled, (1, 1))
    with pytest.raises(ConfigurationError, match=r"time of the source.*give overwrite=True"):
        run(tiled, target, toy)
    run(tiled, target, toy, overwrite=True)


def stopped(source: Path, target: Path, toy: Path, **options: Any) -> None:
    """A run that ends after three chunks of the network."""
    with pytest.MonkeyPatch.context() as patched:
        written = []

        def failing(here: Opened, key: Any, found: Any) -> None:
            if len(written) == 3:
                raise OSError(5, "x")
            written.append(key)
            write_probabilities(here, key, found)

        patched.setattr("overtile.pipelines.segment.local.write_probabilities", failing)
        with pytest.raises(DataError):
            run(source, target, toy, **options)


def overwritten(source: Path, other: NDArray[Any]) -> None:
    with source.open("r+b") as file:
        file.seek(source.stat().st_size - other.nbytes)
        file.write(other.tobytes())


def mapped(source: Path, other: NDArray[Any]) -> None:
    """Nobody can tell by the times of the file."""
    before = source.stat()
    np.memmap(source, other.dtype, "r+", before.st_size - other.nbytes, other.shape)[:] = other
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(source: Path, other: NDArray[Any]) -> None:
    tifffile.imwrite(source.with_name("new.tif"), other)
    source.with_name("new.tif").replace(source)


@pytest.mark.parametrize("change", [overwritten, mapped, replaced])
def test_a_source_that_changes_while_it_is_read_gives_no_mixture(
    tmp_path: Path, toy: Path, image: NDArray[Any], change: Any
) -> None:
    source, target, other = tmp_path / "image.tif", tmp_path / "l.zarr", image[::-1].copy()
    tifffile.imwrite(source, image)
    assert source.stat().st_size - image.nbytes < 1000  # pixels are the end of the file
    while_it_runs("write_probabilities", 3, lambda: change(source, other), source, target, toy)
    assert not list(tmp_path.glob("*.zarr*"))
    assert same_cells(run(source, target, toy), whole(toy, other)[1])


def test_a_folder_of_chunks_that_is_gone_is_not_black(
    tmp_path: Path, toy: Path, image: NDArray[Any]
) -> None:
    source, target, away = tmp_path / "i.zarr", tmp_path / "l.zarr", tmp_path / "away.zarr"
    zarr.create_array(source, data=image, chunks=(16, 16))
    while_it_runs(
        *("read_window", 3, lambda: source.rename(away), source, target, toy),
        match="cannot be read",
    )
    assert list(tmp_path.glob("partial.l.zarr/probabilities/c/0/*"))  # what is done is kept
    away.rename(source)
    assert same_cells(run(source, target, toy), whole(toy, image)[1])


def while_it_runs(
    task: str,
    after: int,
    change: Callable[[], object],
    source: Path,
    target: Path,
    toy: Path,
    match: str = "changed while it was segmented",
) -> None:
    """A run that is refused, since something is changed before a task is done for the nth time."""
    done, calls = getattr(tasks, task), []

    def changing(*arguments: Any) -> Any:
        calls.append(task)
        if len(calls) == after:
            change()
        return done(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(f"overtile.pipelines.segment.local.{task}", changing)
        with pytest.raises(DataError, match=match) as refused:
            run(source, target, toy)
    assert str(source) in str(refused.value)


def test_two_runs_do_not_make_one_target(tmp_path: Path, toy: Path, tiled: Path) -> None:
    target = tmp_path / "labels.tif"
    expected = run(tiled, target, toy)
    with (
        target_alone(Request(tiled, target, toy)),
        pytest.raises(ConfigurationError, match="another run is making it"),
    ):
        run(tiled, target, toy, overwrite=True)
    assert (run(tiled, target, toy, overwrite=True) == expected).all()


def test_two_commands_at_once(bundle: Bundle, toy: Path, tmp_path: Path) -> None:
    """This process is the first of them: so it is in the middle of its work for certain."""
    tifffile.imwrite(tmp_path / "image.tif", touching_cells(8, (60, 70))[0])
    words = ("segment", "image.tif", "labels.tif", "--bundle", str(toy))
    with target_alone(Request(tmp_path / "image.tif", tmp_path / "labels.tif", toy)):
        done = bundle.overtile(*words)
    assert done.returncode == 2
    assert "labels.tif: another run is making it; wait for its end" in done.stderr
    done = bundle.overtile(*words)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.glob("*labels*")} == {"labels.tif"}


def test_the_source_is_not_replaced_and_a_target_may_lie_in_it(
    tmp_path: Path, toy: Path, image: NDArray[Any]
) -> None:
    source, _ = ome_zarr(tmp_path, image)
    before = files(source)
    with pytest.raises(ConfigurationError, match="holds the source"):
        run(source / "0", source, toy, overwrite=True)
    assert files(source) == before
    (source / "labels").mkdir()
    expected = run(source, tmp_path / "elsewhere.zarr", toy)
    stopped(source, source / "labels" / "cells.zarr", toy)
    result = segment(Request(source, source / "labels" / "cells.zarr", toy, chunk=CHUNK))
    assert result.resumed
    assert (zarr.open(result.target)["0"][:] == expected).all()
    assert {k: v for k, v in files(source).items() if not k.startswith("labels")} == before


@pytest.mark.parametrize(
    "emptied", ["grey_values.json", "finished.json", "result/zarr.json", "numbering/0.npz"]
)
def test_a_file_that_a_power_cut_left_empty_is_made_anew(
    tmp_path: Path, toy: Path, tiled: Path, monkeypatch: pytest.MonkeyPatch, emptied: str
) -> None:
    target = tmp_path / "labels.zarr"
    expected = run(tiled, target, toy)
    shutil.rmtree(target)
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "deliver", lambda *_: interrupted())
        with pytest.raises(KeyboardInterrupt):
            run(tiled, target, toy)
    work = tmp_path / "partial.labels.zarr"
    (work / "finished.json").unlink()
    (work / emptied).write_bytes(b"")
    for later in ("result/0/c", "cores/c", "probabilities/c"):  # each stage is done again
        shutil.rmtree(work / later)
    assert (run(tiled, target, toy) == expected).all()


def test_a_damaged_note_of_the_job_is_named(tmp_path: Path, toy: Path, tiled: Path) -> None:
    target = tmp_path / "labels.zarr"
    stopped(tiled, target, toy)
    (tmp_path / "partial.labels.zarr" / "job.json").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"job\.json: damaged; give overwrite=True"):
        run(tiled, target, toy)
    run(tiled, target, toy, overwrite=True)


def test_a_target_that_is_gone_is_not_called_made(
    tmp_path: Path, toy: Path, tiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "labels.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(resume_module, "discard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tiled, target, toy)
    target.rename(tmp_path / "mine.zarr")
    with pytest.raises(ConfigurationError, match="finished before, and is gone since"):
        run(tiled, target, toy)
    assert (run(tiled, target, toy) == zarr.open(tmp_path / "mine.zarr")["0"][:]).all()


def test_a_disk_that_fails_is_named(
    tmp_path: Path, toy: Path, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "image.tif", image)  # rows are read by themselves

    def pread(file: int, size: int, offset: int) -> bytes:
        if offset > image.nbytes // 2:
            raise OSError(5, "Input/output error")
        return read(file, size, offset)

    read = os.pread
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(DataError, match=r"chunk \d/\d .*image\.tif: row \d+.*Input/output error"):
        run(tmp_path / "image.tif", tmp_path / "a.zarr", toy)
    labels = run(tmp_path / "image.tif", tmp_path / "b.zarr", toy, skip_unreadable=True)
    assert labels[:50].any()
    assert not labels[-40:].any()


def test_a_checkpoint_is_found_from_everywhere(
    tmp_path: Path, toy: Path, tiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of a cluster has another folder to start from."""
    monkeypatch.chdir(toy / "models")
    request = Request(tiled, tmp_path / "a.zarr", toy, settings={"checkpoint": "model.pt"})
    here, _ = plan(request, {})
    here.close()
    assert json.loads(here.job.settings) == {"checkpoint": str(toy / "models" / "model.pt")}


@pytest.mark.parametrize(("unit", "micrometres"), [(1, 1e6), (2, 1e3), (3, 1.0), (0, 1e3)])
def test_pixels_have_the_size_that_nifti_says(
    tmp_path: Path, toy_3d: Path, volume: NDArray[Any], unit: int, micrometres: float
) -> None:
    made = nibabel.Nifti1Image(volume.T.astype(np.float32), np.diag([0.5, 0.25, 2, 1]))
    made.header["xyzt_units"] = unit
    nibabel.save(made, tmp_path / "v.nii")
    run(tmp_path / "v.nii", tmp_path / "l.zarr", toy_3d, chunk=16)
    level = zarr.open(tmp_path / "l.zarr").attrs["ome"]["multiscales"][0]["datasets"][0]
    scale = level["coordinateTransformations"][0]["scale"]
    assert scale == pytest.approx([s * micrometres for s in (2, 0.25, 0.5)])


def test_further_images_of_a_tiff(tmp_path: Path, toy: Path, image: NDArray[Any]) -> None:
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tif:
        for one in (image, image[:60, :70]):
            tif.write(one, tile=(32, 32), metadata={"axes": "YX", **size})
    with pytest.raises(DataError, match=r"2 images that are not alike: two\.ome\.tif/series0"):
        run(tmp_path / "two.ome.tif", tmp_path / "a.zarr", toy)
    run(tmp_path / "two.ome.tif" / "series0", tmp_path / "a.zarr", toy)
    level = zarr.open(tmp_path / "a.zarr").attrs["ome"]["multiscales"][0]["datasets"][0]
    assert level["coordinateTransformations"][0]["scale"] == [0.5, 0.5]
    with tifffile.TiffWriter(tmp_path / "alike.ome.tif", ome=True) as tif:
        for one in (image, image + 1):
            tif.write(one, tile=(32, 32), metadata={"axes": "YX"}, subifds=1)
            tif.write(one[::2, ::2], tile=(32, 32), subfiletype=1)
    for level in (0, 1):
        target = tmp_path / f"{level}.zarr"
        labels = run(tmp_path / "alike.ome.tif", target, toy, level=level)
        assert labels.shape == (2, *image[:: level + 1, :: level + 1].shape)


def test_ome_zarr_of_older_versions(tmp_path: Path, toy: Path, image: NDArray[Any]) -> None:
    """Version 0.2 names no axes, and its folder may be called anything."""
    group = zarr.create_group(tmp_path / "old", zarr_format=2)
    group.create_array("0", data=image[None, None, None], chunks=(1, 1, 1, 64, 64))
    group.attrs["multiscales"] = [{"version": "0.2", "datasets": [{"path": "0"}]}]
    assert (run(tmp_path / "old", tmp_path / "a.zarr", toy) > 0).any()


def test_chunks_that_are_too_large_are_refused(tmp_path: Path) -> None:
    large = zarr.create_array(
        tmp_path / "a.zarr", shape=(3000, 3000), chunks=(3000, 3000), dtype="f4"
    )
    large[:2, :2] = 1
    with pytest.raises(
        DataError, match=r"chunks of 34 MiB.*only 16 MiB.*give memory=SIZE to allow more"
    ):
        open_source(tmp_path / "a.zarr", 0, 2**24)
    assert open_source(tmp_path / "a.zarr", 0, 2**26).pixels((0, 0)) == 1


def test_a_full_disk_loses_nothing(bundle: Bundle, toy: Path, tmp_path: Path) -> None:
    """The system refuses files above a size, as it refuses all on a full disk."""
    noise = np.random.default_rng(0).normal(1000, 200, (130, 130)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", noise)
    command = ("segment", "image.tif", "p.ome.zarr", "--bundle", toy, "--output", "probabilities")
    done = bundle.overtile(*command, "--chunk", 128, limit_file=8_000)
    assert done.returncode == 2, done.stderr
    assert "p.ome.zarr: cannot be written (File too large)" in done.stderr
    assert "give the same command again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "p.ome.zarr").exists()
    # edges are smaller than a whole chunk, and these were written
    chunks = [p for p in (tmp_path / "partial.p.ome.zarr").rglob("c/*/*") if p.is_file()]
    assert all(".partial" not in p.name and p.stat().st_size for p in chunks)
    assert bundle.overtile(*command, "--chunk", 128).returncode == 0
    resumed = files(tmp_path / "p.ome.zarr")
    shutil.rmtree(tmp_path / "p.ome.zarr")
    assert bundle.overtile(*command, "--chunk", 128).returncode == 0
    assert files(tmp_path / "p.ome.zarr") == resumed


def cut(path: Path, share: float) -> None:
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_source_names_the_chunk(
    tmp_path: Path, toy: Path, image: NDArray[Any], compression: str | None
) -> None:
    path, target = tmp_path / "image.tif", tmp_path / "p.zarr"
    options: dict[str, Any] = {"tile": (32, 32), "compression": compression} if compression else {}
    tifffile.imwrite(path, image, **options)
    cut(path, 0.6)
    with pytest.raises(
        DataError,
        match=r"chunk 1/\d \(y 48:96, x \d+:\d+\).*give skip_unreadable=True to fill such",
    ):
        run(path, target, toy, output="probabilities")
    assert not target.exists()
    result = segment(
        Request(
            path, target, toy, output="probabilities", chunk=CHUNK, skip_unreadable=True, show=False
        )
    )
    found = zarr.open(target)["0"][:]
    lines = (tmp_path / "p.zarr.unreadable.txt").read_text().splitlines()
    assert list(result.unreadable) == lines
    # the last rows are lost, the first are not; 0 fills whole chunks
    assert "chunk 3/4 (y 144:150, x 192:205)" in lines[-1]
    assert (found[144:] == 0).all()
    assert (found[:48, :] > 0).all()
    empty = {line.split()[1] for line in lines}
    for row in range(4):
        for column in range(5):
            chunk = found[row * CHUNK : (row + 1) * CHUNK, column * CHUNK : (column + 1) * CHUNK]
            assert (chunk == 0).all() == (f"{row}/{column}" in empty)


def pillow_pages(path: Path, stack: NDArray[Any]) -> None:
    from PIL import Image

    first, *others = map(Image.fromarray, stack)
    first.save(path, save_all=True, append_images=others, compression="tiff_lzw")


@pytest.mark.parametrize(
    "write",
    [
        lambda path, stack: tifffile.imwrite(path, stack, compression="zlib"),
        lambda path, stack: tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"}),
        lambda path, stack: tifffile.imwrite(
            path, stack, bigtiff=True, metadata=None, tile=(32, 32)
        ),
        pillow_pages,
    ],
    ids=["shaped", "imagej", "bigtiff", "pillow"],
)
def test_no_page_of_a_truncated_stack_is_left_out(
    tmp_path: Path, toy: Path, image: NDArray[Any], write: Callable[..., None]
) -> None:
    path = tmp_path / "stack.tif"
    write(path, np.stack([image] * 6))
    assert read_image(path)[0].shape == (6, *SIZE)
    cut(path, 0.55)
    with pytest.raises(DataError, match=r"the file ends before page \d"):
        run(path, tmp_path / "p.zarr", toy, skip_unreadable=True)
    with pytest.raises(DataError, match=r"the file ends before page \d.*skip_unreadable=True"):
        read_image(path)


@pytest.mark.parametrize(
    "elsewhere",
    ["{}/other/x.tif", "../other/x.tif", "beside.tif", "gone.tif", "pipe.tif"],
)
def test_planes_in_files_elsewhere_are_not_followed(
    tmp_path: Path, toy: Path, image: NDArray[Any], elsewhere: str
) -> None:
    """tifffile opens whatever file an OME-TIFF names, and takes zeros for what is not there."""
    (tmp_path / "other").mkdir()
    secret = tmp_path / "other" / "x.tif"
    tifffile.imwrite(secret, image, ome=True, metadata={"axes": "YX", "UUID": "urn:uuid:b"})
    (home := tmp_path / "home").mkdir()
    os.mkfifo(home / "pipe.tif")
    shutil.copyfile(secret, home / "beside.tif")
    path = ome_of(home / "image.tif", elsewhere.format(tmp_path), image)
    for read in (
        lambda: read_image(path),
        lambda: run(path, tmp_path / "p.zarr", toy),
        lambda: run(path, tmp_path / "p.zarr", toy, skip_unreadable=True),
    ):
        with pytest.raises(DataError, match=r"planes of it are in '.*in one file"):
            read()


def test_a_file_that_names_itself_is_read(tmp_path: Path, image: NDArray[Any]) -> None:
    own = ome_of(tmp_path / "before.tif", "before.tif", image, "urn:uuid:a")
    assert (read_image(own)[0] == image).all()
    assert (read_image(own.rename(tmp_path / "now.tif"))[0] == image).all()


def ome_of(path: Path, named: str, image: NDArray[Any], uuid: str = "urn:uuid:b") -> Path:
    """An OME-TIFF that says its plane is in another file."""
    xml = f"""<?xml version="1.0" encoding="UTF-8"?>
    <OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a">
    <Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{image.dtype}"
    SizeX="{image.shape[1]}" SizeY="{image.shape[0]}" SizeZ="1" SizeC="1" SizeT="1">
    <Channel ID="Channel:0:0" SamplesPerPixel="1"/>
    <TiffData IFD="0" PlaneCount="1"><UUID FileName="{named}">{uuid}</UUID></TiffData>
    </Pixels></Image></OME>"""
    tifffile.imwrite(path, image, description=xml, metadata=None)
    return path


def test_parts_that_were_filled_are_not_taken_for_whole(
    tmp_path: Path, toy: Path, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = tmp_path / "image.tif", tmp_path / "p.zarr"
    tifffile.imwrite(path, image, tile=(32, 32), compression="zlib")
    cut(path, 0.6)
    with monkeypatch.context() as patch:
        patch.setattr("overtile.pipelines.segment.stages.Stages.labels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(path, target, toy, skip_unreadable=True)
    with pytest.raises(ConfigurationError, match="begun with skip_unreadable True"):
        run(path, target, toy)
    run(path, target, toy, skip_unreadable=True)
    assert (tmp_path / "p.zarr.unreadable.txt").read_text()


def test_a_start_that_computed_nothing_binds_to_nothing(
    tmp_path: Path, toy: Path, tiled: Path, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = tmp_path / "two.tif", tmp_path / "p.zarr"
    tifffile.imwrite(path, np.stack([image, image[::-1]]), metadata={"axes": "CYX"})
    with pytest.raises(DataError, match=r"give channels=0 to 1$"):
        run(path, target, toy)
    assert not list(tmp_path.glob("partial*"))
    with monkeypatch.context() as patch:  # killed at once
        patch.setattr("overtile.pipelines.segment.run.make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(path, target, toy)
    assert list(tmp_path.glob("partial*"))
    assert same_cells(run(path, target, toy, channels=1), whole(toy, image[::-1])[1])
    with pytest.raises(DataError, match="one channel; expected channel 0, or none"):
        run(tiled, tmp_path / "q.zarr", toy, channels=1)


def test_unpacking_alone_binds_to_nothing(
    tmp_path: Path, toy_3d: Path, volume: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "v", volume, "nii.gz", (2.0, 0.5, 0.5))
    with monkeypatch.context() as patch:
        patch.setattr("overtile.pipelines.segment.run.make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "v.nii.gz", tmp_path / "l.zarr", toy_3d, chunk=16)
    assert list(tmp_path.glob("partial*/v.nii"))
    assert run(tmp_path / "v.nii.gz", tmp_path / "l.zarr", toy_3d, chunk=32).any()


def test_a_packed_source_that_cannot_be_read_is_named(
    tmp_path: Path, toy_3d: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "v.nii.gz"
    source.touch()

    def refused(path: Path, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("gzip.open", refused)
    with pytest.raises(DataError, match=r"v\.nii\.gz: cannot be .*denied\); expected a file"):
        run(source, tmp_path / "l.zarr", toy_3d)
    source.unlink()
    source.mkdir()
    with pytest.raises(DataError, match=r"v\.nii\.gz: "):
        run(source, tmp_path / "l.zarr", toy_3d)


def test_what_was_unpacked_of_another_file_is_not_read(
    tmp_path: Path, toy_3d: Path, volume: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "v.nii.gz"
    write_image(tmp_path / "v", volume, "nii.gz", (2.0, 0.5, 0.5))
    with monkeypatch.context() as patch:  # before the job is noted
        patch.setattr("overtile.pipelines.segment.plan.open_planes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "l.zarr", toy_3d, chunk=16)
    assert list(tmp_path.glob("partial*/v.nii"))
    write_image(tmp_path / "v", volume[::-1], "nii.gz", (2.0, 0.5, 0.5))
    expected = whole(toy_3d, read_image(source, 3)[0])[1].transpose()
    assert same_cells(run(source, tmp_path / "l.zarr", toy_3d, chunk=16), expected)


def test_a_log_gets_a_line_a_minute(
    tmp_path: Path,
    toy: Path,
    tiled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["segment", str(tiled), str(tmp_path / "p.zarr"), "--bundle", str(toy)]
    assert main(command) == 0
    assert "%" not in capsys.readouterr().err  # it took less than a minute
    monkeypatch.setattr("overtile.pipelines.segment.progress.MINUTE", 1e-6)
    assert main([*command, "--overwrite"]) == 0
    told = capsys.readouterr().err
    assert "\r" not in told
    lines = [line for line in told.splitlines() if "px/s" in line]
    assert len(lines) > 3
    assert all(re.search(r"\d+%.*<.*px/s", line) for line in lines)
    assert main([*command, "--overwrite", "--quiet"]) == 0
    assert not capsys.readouterr().err


def test_ctrl_c_says_that_the_same_command_goes_on(
    tmp_path: Path,
    toy: Path,
    tiled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("overtile.pipelines.segment.run.make", interrupted)
    command = ["segment", str(tiled), str(tmp_path / "p.zarr"), "--bundle", str(toy), "-v"]
    assert main(command) == 130
    told = capsys.readouterr().err
    assert "overtile: interrupted; the same command goes on" in told
    assert "partial.p.zarr" in told


def interrupted(*_: Any) -> int:
    raise KeyboardInterrupt


def test_dimension_names_of_a_bare_array_name_each_axis_once(tmp_path: Path, toy: Path) -> None:
    cells = touching_cells(1, (96, 96))[0]
    for names in (["x", "x"], ["y", "yard"]):
        zarr.create_array(tmp_path / "a.zarr", data=cells, dimension_names=names, overwrite=True)
        with pytest.raises(DataError, match=f"dimension_names {names[0]}, {names[1]}; expected"):
            run(tmp_path / "a.zarr", tmp_path / "p.zarr", toy)


def test_a_broken_chunk_of_a_zarr_array_is_named(tmp_path: Path, toy: Path) -> None:
    source = tmp_path / "image.zarr"
    zarr.create_array(source, data=touching_cells(1, (96, 96))[0], chunks=(48, 48))
    cut(source / "c" / "1" / "0", 0.5)
    with pytest.raises(DataError, match=r"chunk 1/0 \(y 48:96, x 0:48\): .*image\.zarr"):
        run(source, tmp_path / "p.zarr", toy)


def test_truncated_nifti_and_missing_slices_are_named(
    tmp_path: Path, toy_3d: Path, volume: NDArray[Any]
) -> None:
    write_image(tmp_path / "v", volume, "nii.gz", (2.0, 0.5, 0.5))
    cut(tmp_path / "v.nii.gz", 0.5)
    with pytest.raises(DataError, match=r"chunk \d/\d/\d \(z \d+:\d+, y .*v\.nii\.gz"):
        run(tmp_path / "v.nii.gz", tmp_path / "l.zarr", toy_3d, chunk=16)
    write_image(tmp_path / "d", volume, "dicom", (2.0, 0.5, 0.5))
    cut(tmp_path / "d" / "012.dcm", 0.4)
    with pytest.raises(DataError, match=r"012\.dcm: cannot be read \(\d+ of \d+ bytes"):
        run(tmp_path / "d", tmp_path / "l.zarr", toy_3d, chunk=16, overwrite=True)


def test_what_cannot_be_is_refused_in_one_line(
    bundle: Bundle, toy: Path, toy_3d: Path, tiled: Path, volume: NDArray[Any], tmp_path: Path
) -> None:
    zarr.create_array(tmp_path / "empty.zarr", shape=(0, 40), chunks=(1, 1), dtype="u1")
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "nothing").mkdir()
    tifffile.imwrite(tmp_path / "nan.tif", np.full((40, 40), np.nan, np.float32))
    (tmp_path / "nowhere.zarr").symlink_to("gone")
    write_image(tmp_path / "gap", volume, "dicom", (2.0, 0.5, 0.5))
    (tmp_path / "gap" / "012.dcm").unlink()
    words: list[tuple[tuple[Any, ...], str]] = [
        ((tiled, "there.zarr"), "there.zarr: exists; name another target, or give --overwrite"),
        ((tiled, tiled, "--overwrite"), "is the source itself"),
        ((tiled, "a.png"), "expected a target that ends in .ome.zarr"),
        ((tiled, "no/a.zarr"), "no folder no"),
        (("none.tif", "a.zarr"), "none.tif: no such file"),
        ((tiled, "a.zarr", "--level", 2), "no level 2; it has 0: 150x205"),
        ((tiled, "a.zarr", "--memory", "100M"), "GiB are needed"),
        ((tiled, "a.zarr", "--memory", "lots"), "expected a number with M or G"),
        ((tiled, "a.zarr", "--set", "treshold=1"), "give --set threshold=1"),
        ((tiled, "a.zarr", "--set", "growth=watershed"), "growth 'watershed'"),
        ((tiled, "a.zarr", "--set", "network#x=3"), "network#x: no such place"),
        (
            (tiled, "a.zarr", "--set", "memory_limit=1G"),
            "memory_limit: '1G'; expected a whole number",
        ),
        ((tiled, f"{'n' * 245}.zarr"), "a name of at most 230 bytes"),
        ((tiled, "nowhere.zarr"), "nowhere.zarr: a link that leads nowhere"),
        (("gap", "a.zarr"), "gap: a gap of 4 mm after 011.dcm, where others are 2 mm apart"),
        (("empty.zarr", "a.zarr"), "0x40 pixels (axes YX); expected none of size 0"),
        (("nothing", "a.zarr"), "nothing: a folder that is no image"),
        (("nan.tif", "a.zarr"), "1600 pixels are NaN"),
    ]
    for arguments, expected in words:
        done = bundle.overtile("segment", *arguments, "--bundle", toy)
        assert done.returncode == 2, (arguments, done.stderr)
        assert expected in done.stderr, arguments
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "skip_unreadable" not in done.stderr  # nothing of these goes on without its image
    done = bundle.overtile("segment", tiled, "a.zarr", "--bundle", toy_3d)
    assert (
        "150x205 pixels (axes YX); expected 3 dimensions, as the bundle segments them"
        in done.stderr
    )
    done = bundle.overtile("segment", tiled, "a.zarr", "--bundle", tmp_path)
    assert "no configs/inference.json" in done.stderr
    assert not (tmp_path / "a.zarr").exists()


def test_a_target_is_replaced_only_once_the_new_one_is_whole(
    tmp_path: Path, toy: Path, tiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "labels.zarr"
    run(tiled, target, toy)
    before = files(target)
    from overtile.pipelines.inference.trained import Trained

    with monkeypatch.context() as patched:
        patched.setattr(Trained, "answer", lambda *_: (_ for _ in ()).throw(OSError(5, "x")))
        with pytest.raises(DataError):
            run(tiled, target, toy, overwrite=True, settings={"threshold": 0.8})
    assert files(target) == before
    run(tiled, target, toy, overwrite=True, settings={"threshold": 0.8})
    assert files(target) != before


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """16 million pixels, of which segmenting at once would take 64 bytes each."""
    part = touching_cells(0, (512, 512))[0]
    tifffile.imwrite(
        tmp_path / "large.tif", np.tile(part, (8, 8)), tile=(256, 256), compression="zlib"
    )
    yield tmp_path / "large.tif"
    (tmp_path / "large.tif").unlink()


def test_memory_stays_within_the_limit(large: Path, toy: Path, tmp_path: Path) -> None:
    """The most that a process took, as the system counts it.

    The limit is that of a 30,000 x 30,000 image, 2 GiB, less the share of what grows with the
    image: nothing may grow by more than a byte a pixel.
    """
    from overtile.pipelines.data.unlabelled import BYTES_PER_PIXEL

    limit = 1.1 * 2**30
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from overtile.pipelines.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        # getrusage's peak is that of the process that started this one, if that was larger
        "status = Path('/proc/self/status').read_text()\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) * 1024)\n"
        "sys.exit(code)\n"
    )
    words = ["segment", str(large), str(tmp_path / "labels.zarr"), "--bundle", str(toy), "-q"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *words, "--memory", "1.1G", "--chunk", "512"],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(done.stdout.split()[-1])
    assert peak < limit
    assert peak / 2 + BYTES_PER_PIXEL * 4096**2 > limit, peak  # not possible at once
