"""Real images, re-arranged into every layout, come out as they went in."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from monai.transforms import Compose
from PIL import Image

from overtile.pipelines.data.cache import CachedDataset
from overtile.pipelines.data.find import DataSet, find_data, labelled_images
from overtile.pipelines.data.layouts import find_pairs
from overtile.pipelines.data.synthesis.datasets import generate
from overtile.pipelines.data.unlabelled import images_in
from overtile.pipelines.data.write import write_data, written_layouts
from overtile.pipelines.errors import DataError, UnknownLayoutError
from overtile.pipelines.images.formats import all_formats
from overtile.pipelines.images.handed_on import handed_on
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.read import read_image, read_label
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.pipelines.images.stored import Format, Stored
from overtile.pipelines.reporting.look import look

Pair = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def nuclei(real_data: Path) -> dict[str, list[Pair]]:
    """Eight real images of one size, and their labels."""
    found: list[Pair] = []
    for path in sorted((real_data / "dsb2018" / "train" / "images").glob("*.png")):
        image = np.asarray(Image.open(path))
        label = np.asarray(Image.open(path.parents[1] / "labels" / path.name))
        if image.shape == (256, 256):
            found.append((image, label))
    return {"train": found[:4], "val": found[4:6], "test": found[6:8]}


def same(item: dict[str, str], pair: Pair, turned: bool, names: bool = True) -> None:
    image, label = read_image(item["image"])[0], read_label(item["label"], 2, item["image"])[0]
    image, label = (array.T if turned else array for array in (image, label))
    assert np.array_equal(image, pair[0])
    if names:
        assert np.array_equal(label, pair[1])
    else:  # numbered anew: the same cells
        both = np.unique(np.stack([label, pair[1]]).reshape(2, -1), axis=1)
        assert len(np.unique(both[0])) == len(np.unique(both[1])) == both.shape[1]


CASES = [(layout, format) for layout, formats in written_layouts().items() for format in formats]


@pytest.mark.parametrize(("layout", "format"), CASES)
def test_a_layout_is_recognised_and_read(
    nuclei: dict[str, list[Pair]], tmp_path: Path, layout: str, format: str
) -> None:
    folder = write_data(tmp_path / "data", nuclei, layout, format)
    for how in ("auto", layout):
        data = find_data(folder, how)
        assert data.layout == layout
    turned = format in ("nii.gz", "dicom")
    if layout == "ctc":  # every third frame is annotated: 2 of 4, 1 of 2, 1 of 2
        pairs = [nuclei["train"][0], nuclei["train"][3], nuclei["val"][0], nuclei["test"][0]]
        assert len(data.items) == 4
    elif layout == "stack":
        pairs = [*nuclei["train"], *nuclei["val"]]
    elif layout == "kaggle":  # no masks in the test split, and folders in order of their names
        assert [len(s) for s in (data.train, data.val, data.test)] == [4, 2, 0]
        by_sum = {int(image.sum()): (image, label) for s in nuclei.values() for image, label in s}
        pairs = [by_sum[int(read_image(item["image"])[0].sum())] for item in data.items]
    else:
        assert [len(s) for s in (data.train, data.val, data.test)] == [4, 2, 2]
        pairs = [*nuclei["train"], *nuclei["val"], *nuclei["test"]]
    assert len(pairs) == len(data.items)
    for item, pair in zip(data.items, pairs, strict=True):
        same(item, pair, turned, names=layout != "kaggle")


def test_the_real_folders_are_recognised(real_data: Path) -> None:
    nuclei = find_data(real_data / "dsb2018")
    assert [len(s) for s in (nuclei.train, nuclei.val, nuclei.test)] == [30, 10, 50]
    isbi = find_data(real_data / "isbi2012", labels="mask")
    assert (isbi.layout, len(isbi.train), len(isbi.val)) == ("stack", 24, 6)
    assert 0.7 < sum(isbi.facts.label(**i).cells for i in isbi.items) / (30 * 512**2) < 0.85
    volumes = find_data(real_data / "hippocampus", spatial_dims=3)
    assert len(volumes.items) == 24
    assert all(len(volumes.facts.image(i["image"]).shape) == 3 for i in volumes.items)


def test_a_dicom_series_meets_its_nifti_label_in_space(real_data: Path, tmp_path: Path) -> None:
    pairs = []
    for path in sorted((real_data / "hippocampus" / "images").glob("*.nii.gz"))[:3]:
        image, label = (
            np.asarray(nibabel.load(path.parents[1] / kind / path.name).dataobj)
            for kind in ("images", "labels")
        )
        pairs.append((np.clip(image, 0, 30000).astype(np.int16).T, label.astype(np.uint8).T))
    folder = write_data(tmp_path / "mri", {"train": pairs}, "pairs", "dicom", spacing=(2, 1, 0.5))
    data = find_data(folder, spatial_dims=3)
    read = ReadImaged(["image", "label"], ["float32", "int32"], spatial_dims=3)
    for item, (image, label) in zip(data.items, pairs, strict=True):
        got = read(item)
        assert np.array_equal(got["image"][0].numpy(), image.T)
        assert np.array_equal(got["label"][0].numpy(), label.T)
        assert np.allclose(np.linalg.norm(got["image"].affine[:3, :3], axis=0), (0.5, 1, 2))
    planes = find_data(folder)
    assert len(planes.items) == sum(image.shape[0] for image, _ in pairs)
    assert np.array_equal(read_image(planes.items[3]["image"])[0], pairs[0][0][3].T)


def turned(label: np.ndarray[Any, Any], affine: np.ndarray[Any, Any]) -> nibabel.Nifti1Image:
    """The same label, stored with its first axis reversed and the last two exchanged."""
    size = label.shape[0]
    flip = np.array([[-1, 0, 0, size - 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    return nibabel.Nifti1Image(label[::-1].transpose(0, 2, 1), affine @ flip)


def test_a_label_stored_with_other_axes_is_turned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    affine = np.array([[-2, 0, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1.0]])
    for name in "ab":
        label = rng.permutation(120).reshape(4, 5, 6).astype(np.uint16)
        image = label.astype(np.int16) * 10
        nibabel.Nifti1Image(image, affine).to_filename(tmp_path / "images" / f"{name}.nii.gz")
        turned(label, affine).to_filename(tmp_path / "labels" / f"{name}.nii.gz")
    for dims in (2, 3):
        for item in find_data(tmp_path, spatial_dims=dims).items:
            got = read_label(item["label"], dims, item["image"])[0]
            assert np.array_equal(got * 10, read_image(item["image"], dims)[0])
    moved = affine + np.array([[0, 0, 0, 1.5], *np.zeros((3, 4))])
    turned(label, moved).to_filename(tmp_path / "labels" / "b.nii.gz")
    with pytest.raises(DataError, match=r"b\.nii\.gz: its voxels lie up to 1\.5 mm from"):
        find_data(tmp_path, spatial_dims=3)


def test_a_section_of_a_volume_may_be_annotated_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "01_GT" / "SEG").mkdir(parents=True)
    (tmp_path / "01").mkdir()
    for t in range(2):
        volume = rng.integers(0, 255, (5, 8, 9), np.uint8)
        tifffile.imwrite(tmp_path / "01" / f"t{t:03d}.tif", volume, photometric="minisblack")
        label = np.zeros((8, 9), np.uint16)
        label[2:4, 2:4], label[5:7, 5:7] = 1, 2
        tifffile.imwrite(tmp_path / "01_GT" / "SEG" / f"man_seg_{t:03d}_003.tif", label)
    data = find_data(tmp_path)
    assert [Path(i["image"]).name for i in data.items] == ["t000.tif:3", "t001.tif:3"]
    assert np.array_equal(read_image(data.items[1]["image"])[0], volume[3])


def test_silver_truth_serves_where_there_is_no_gold(
    nuclei: dict[str, list[Pair]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_data(tmp_path / "c", {"train": nuclei["train"]}, "ctc")
    assert len(find_data(folder).items) == 2
    shutil.rmtree(folder / "01_GT")
    assert len(find_data(folder).items) == 4
    shutil.copytree(folder / "01", folder / "02")
    shutil.copytree(folder / "01_ST", folder / "02_GT")
    shutil.rmtree(folder / "01_ST" / "SEG")
    left = find_data(folder)  # the other sequence has labels
    assert {Path(i["image"]).parent.name for i in left.items} == {"02"}
    assert "01_GT/SEG: no man_seg" in caplog.text
    shutil.rmtree(folder / "02_GT" / "SEG")
    with pytest.raises(DataError, match=r"01_GT/SEG: no man_seg.*01_ST"):
        find_data(folder)


def test_nnu_nets_and_other_tools_names_are_paired(
    nuclei: dict[str, list[Pair]], tmp_path: Path
) -> None:
    for ours, theirs, end in (("images", "imagesTr", "_0000"), ("labels", "labelsTr", "")):
        (tmp_path / "n" / theirs).mkdir(parents=True)
        for n, pair in enumerate(nuclei["train"]):
            array = pair[ours == "labels"]
            tifffile.imwrite(tmp_path / "n" / theirs / f"case{n}{end}.tif", array)
    assert len(find_data(tmp_path / "n").items) == 4
    for kind, end in (("images", ""), ("masks", "_mask")):
        (tmp_path / "m" / kind).mkdir(parents=True)
        for n, pair in enumerate(nuclei["train"]):
            tifffile.imwrite(tmp_path / "m" / kind / f"{n}{end}.tif", pair[kind == "masks"])
    assert len(find_data(tmp_path / "m").items) == 4


# --- what other programs write ----------------------------------------------------------------


def test_pages_written_one_by_one_are_all_seen(tmp_path: Path) -> None:
    pages = np.arange(4 * 8 * 9, dtype=np.uint16).reshape(4, 8, 9)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page)
    assert len(images_in(tmp_path)) == 4
    assert np.array_equal(read_image(tmp_path / "a.tif")[0], pages)
    assert np.array_equal(read_image(f"{tmp_path}/a.tif:2")[0], pages[2])
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 5), np.uint16), append=True)
    with pytest.raises(DataError, match=r"a\.tif: 5 images that are not alike"):
        images_in(tmp_path)


def test_planes_of_image_and_label_agree_whatever_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for name in "ab":
        label = rng.permutation(432).reshape(2, 3, 8, 9).astype(np.uint16)  # time, depth
        for kind, array, axes in (
            ("labels", label, "TZYX"),
            ("images", label.swapaxes(0, 1) * 10, "ZTYX"),
        ):
            path = tmp_path / kind / f"{name}.ome.tif"
            tifffile.imwrite(path, array, ome=True, metadata={"axes": axes})
    items = find_data(tmp_path).items
    assert len(items) == 12
    for item in items:
        image, label = read_image(item["image"])[0], read_label(item["label"], 2, item["image"])[0]
        assert np.array_equal(image, label * 10)


def test_one_channel_of_several_is_taken(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 8 * 9, dtype=np.uint16).reshape(2, 3, 8, 9)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, ome=True, metadata={"axes": "ZCYX"})
    with pytest.raises(DataError, match=r"3 channels .*channels=0 to 2"):
        read_image(f"{tmp_path}/a.ome.tif:1")
    assert np.array_equal(read_image(f"{tmp_path}/a.ome.tif:1", channels=2)[0], array[1, 2])
    assert np.array_equal(read_image(tmp_path / "a.ome.tif", 3, channels=1)[0], array[:, 1])
    for wrong in (" ", -1, 0.5, True, [], [0, None]):
        with pytest.raises(DataError, match="expected all, luminance, a number from 0, a name, or"):
            ReadImaged("image", channels=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_tiff_label_of_a_nifti_image_is_not_transposed(tmp_path: Path, dims: int) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for name in "ab":
        label = rng.permutation(256).reshape(4, 8, 8).astype(np.uint16)  # z, y, x; square sections
        volume = nibabel.Nifti1Image(label.T.astype(np.int16) * 10, np.eye(4))
        volume.to_filename(tmp_path / "images" / f"{name}.nii.gz")
        tifffile.imwrite(tmp_path / "labels" / f"{name}.tif", label, photometric="minisblack")
    for item in find_data(tmp_path, spatial_dims=dims).items:
        got = read_label(item["label"], dims, item["image"])[0]
        assert np.array_equal(got * 10, read_image(item["image"], dims)[0])


def test_an_axis_of_one_at_the_end_of_a_nifti_is_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.permutation(120).reshape(4, 5, 6).astype(np.uint16)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for name in "ab":
        image = nibabel.Nifti1Image(label[..., None].astype(np.int16) * 10, affine)
        image.to_filename(tmp_path / "images" / f"{name}.nii.gz")
        turned(label, affine).to_filename(tmp_path / "labels" / f"{name}.nii.gz")
    for item in find_data(tmp_path, spatial_dims=3).items:
        got = read_label(item["label"], 3, item["image"])[0]
        assert np.array_equal(got * 10, read_image(item["image"], 3)[0])


def test_inverted_and_deep_pictures(tmp_path: Path) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    tifffile.imwrite(tmp_path / "w.tif", 255 - grey, photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "w.tif")[0], grey)
    deep = np.random.default_rng(0).integers(0, 65535, (4, 5, 3), np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    assert np.array_equal(read_image(tmp_path / "deep.png", channels=1)[0], deep[..., 1])


def test_pixel_sizes_are_read_with_their_units(tmp_path: Path) -> None:
    volume = np.zeros((3, 8, 9), np.uint8)
    tifffile.imwrite(
        *(tmp_path / "i.tif", volume),
        **{"imagej": True, "resolution": (4, 4)},
        metadata={"axes": "ZYX", "unit": "um", "spacing": 1.5},
    )
    assert read_image(tmp_path / "i.tif", 3)[1]["spacing"] == "1.5 x 0.25 x 0.25 µm"
    group = zarr.open_group(tmp_path / "z.zarr", mode="w")
    group["0"] = np.zeros((8, 9), np.uint8)
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "yx"]
    scale = {"type": "scale", "scale": [500.0, 250.0]}
    level = {"path": "0", "coordinateTransformations": [scale]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]
    assert read_image(tmp_path / "z.zarr")[1]["spacing"] == "0.5 x 0.25 µm"


# --- what was annotated in the page -----------------------------------------------------------


def annotated(folder: Path, *files: str) -> Path:
    """Small images and labels, and what else ``overtile label`` leaves in a folder."""
    for name in (*files, "overtile/runs/a/figures/cases.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.zeros((8, 9), np.uint8)
        array[2:5, 3:7] = 1 if "labels" in name else len(name)
        if name.endswith(".nii.gz"):
            nibabel.Nifti1Image(array.T, np.eye(4)).to_filename(path)
        elif "tif" in name:
            tifffile.imwrite(path, array)
        else:
            Image.fromarray(array).save(path)
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "info.json").write_text("{}")
    return folder


def names_in(folder: Path) -> dict[str, str]:
    """The labels by their images."""
    items = find_data(folder, val_fraction=0).items
    return {Path(item["image"]).name: Path(item["label"]).name for item in items}


PAGE = [f"{name}.tif" for name in "abcde"]
FINAL = [f"labels/final/{name}.tif" for name in "abc"]


def test_a_folder_annotated_in_the_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = annotated(tmp_path, *PAGE, *FINAL, "labels/original/d.tif")
    for how in ("auto", "annotated"):
        caplog.clear()
        data = find_data(folder, how)
        assert data.layout == "annotated"
        assert [(i["image"], i["label"]) for i in data.items] == [
            (str(folder / image), str(folder / label))
            for image, label in zip(PAGE[:3], FINAL, strict=True)
        ]
        assert caplog.messages == [
            f"left out: 2 of 5 images, without a label in {folder / 'labels' / 'final'}"
        ]
    assert [Path(item["image"]).name for item in images_in(folder)] == PAGE
    annotated(folder, "labels/final/d.tif", "labels/final/e.tif")
    caplog.clear()
    assert names_in(folder) == {name: name for name in PAGE}
    assert not caplog.messages


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("a.png b.nii.gz c.jpg d.tiff e.ome.tif", "a.png b.nii.gz c.png d.tiff e.tif"),
        ("a.png b.tif", "a.tif b.png"),  # another format
        ("a.png a.tif b.tif", "a.png.png a.tif.tif b.tif"),
        ("a.png a.tif b.tif", "a.png - b.tif"),  # labelled before the other came
        ("a.png b.tif", "a.png.png b.tif"),  # labelled while there was another
        ("a.png.tif a.png b.tif", "a.png.tif - b.tif"),
        ("a.jpg a.tiff b.tif", "a.png a.tiff b.tif"),
        ("a.jpg a.png b.tif", "a.jpg.png a.png.png b.tif"),
        ("cell.tif cell_mask.tif", "cell.tif cell_mask.tif"),  # `suffixes`, but for labels/final/
        ("a.tif images/a.tif imgs/a.tif train-labels.tif", "a.tif - - -"),
    ],
)
def test_a_label_belongs_to_the_image_for_which_the_page_shows_it(
    tmp_path: Path, images: str, labels: str
) -> None:
    pairs = dict(zip(images.split(), labels.split(), strict=True))
    wanted = {image: label for image, label in pairs.items() if label != "-"}
    folder = annotated(tmp_path, *pairs, *(f"labels/final/{name}" for name in wanted.values()))
    assert find_pairs(folder)[0] == "annotated"
    assert names_in(folder) == wanted
    page = pytest.importorskip("overtile.pipelines.label.datastore").ImageFolderDatastore(folder)
    assert {i.name: label.name for i, label in page.labelled().values()} == wanted


def test_a_label_stays_with_the_image_that_it_is_noted_of(tmp_path: Path) -> None:
    files = ("a.jpg", "a.png", "b.tif", "labels/final/a.png", "labels/final/b.tif")
    folder = annotated(tmp_path, *files)
    noted = {"a": {"image": "a.jpg", "file": "a.png"}, "b": {"image": "b.tif"}}
    (folder / "labels" / "info.json").write_text(json.dumps({"labels": {"final": noted}}))
    assert names_in(folder) == {"a.jpg": "a.png", "b.tif": "b.tif"}
    page = pytest.importorskip("overtile.pipelines.label.datastore").ImageFolderDatastore(folder)
    assert page.labelled().keys() == {"a.jpg", "b"}
    (folder / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.png: of a\.jpg, which is not there any more; put it"):
        find_pairs(folder)
    assert page.labelled().keys() == {"b"}
    assert "of a.jpg, which is gone" in page.unreadable()["labels/final/a.png"]
    (folder / "labels" / "info.json").write_text("[]")
    with pytest.raises(DataError, match=r"info\.json: no JSON object of notes"):
        find_pairs(folder)


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (("images/a.tif", "labels/a.tif", "labels/final/a.tif"), "pairs"),
        (("a.tif", "images/a.tif", "labels/a.tif", "labels/final/a.tif"), "pairs"),
        (("a.tif", "a_masks.tif", "labels/a.tif"), "suffixes"),
        (("train-volume.tif", "train-labels.tif", "labels/final/train-volume.tif"), "stack"),
        (("a.tif", "labels/a.tif"), None),
        (("a.tif", "labels/original/a.tif"), None),
        (("labels/final/a.tif",), None),
        (("train/a.tif", "train/labels/final/a.tif", "test/a.tif"), "annotated"),
    ],
)
def test_other_folders_are_recognised_as_ever(
    tmp_path: Path, files: tuple[str, ...], layout: str | None
) -> None:
    folder = annotated(tmp_path, *files)
    (folder / "labels" / "final").mkdir(parents=True, exist_ok=True)
    if layout is None:
        with pytest.raises(UnknownLayoutError, match="no layout recognised"):
            find_pairs(folder)
    else:
        found, pairs = find_pairs(folder)
        assert (found, list(pairs)) == (layout, ["train"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("labels/final/z.tif",), r"labels/final/z\.tif: nothing of that name in "),
        (("labels/final/a.png",), r"a\.tif: belongs to 'a' as a\.png does; expected one file"),
        (("e.png", "labels/final/e.nii.gz"), r"final/e\.nii\.gz: nothing of that name in "),
        (("train/a.tif",), r"both train/ and images of its own \(layout annotated\)"),
    ],
)
def test_labels_of_the_page_that_belong_to_no_image(
    tmp_path: Path, files: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        find_data(annotated(tmp_path, *PAGE, *FINAL, *files))


def test_the_layout_of_the_page_has_to_be_there(tmp_path: Path) -> None:
    folder = annotated(tmp_path, *PAGE, "labels/original/a.tif")
    with pytest.raises(DataError, match=r"labels/final: no labels; expected those that were subm"):
        find_data(folder, "annotated")
    assert look(folder).images == {"unlabelled": 5}
    assert look(annotated(folder, *FINAL)).images == {"train": 3}


def test_a_folder_annotated_in_the_page_trains_a_network_further(bundle: Any, root: Path) -> None:
    """The command of docs/how-to/own-data.md, but for its length."""
    folder = bundle.folder / "mine"
    made = write_data(bundle.folder / "made", generate("cells", {"train": 4}, (96, 112), 0))
    final = folder / "labels" / "final"
    final.mkdir(parents=True)
    for file in (made / "train" / "images").iterdir():
        shutil.copy(file, folder / file.name)
    for file in sorted((made / "train" / "labels").iterdir())[:2]:
        shutil.copy(file, final / file.name)
    remark = f"left out: 2 of 4 images, without a label in {final}"

    done = bundle.overtile("data", "look", folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"layout +annotated\n +images +2 train\n", done.stdout)
    assert done.stderr.count(remark) == 1

    weights = root / "bundles" / "touching_cells" / "models" / "model.pt"
    run = ("--dataset_dir", folder, "--output_dir", "runs/mine", "--initial_weights", weights)
    short = ("--max_epochs", 1, "--samples_per_epoch", 1, "--tile", 92, "--warmup_steps", 0)
    options = (*run, "--learning_rate", 0.0003, *short)
    done = bundle.run("touching_cells", "training", *options)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count(remark) == 2, "at once, and at the end"
    assert done.stderr.splitlines()[-1] == f"overtile: warning: {remark}"
    trained = bundle.folder / "runs" / "mine"
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["warnings"] == [remark]
    assert summary["scores"]["seg"] > 0.3, "random weights find nothing after one step"

    bundled = ("--bundle_root", trained, "--config_file", trained / "configs" / "inference.json")
    images = ("--dataset_dir", folder, "--output_dir", "segmented")
    done = bundle.run("touching_cells", "inference", *bundled, *images)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (bundle.folder / "segmented").glob("*_instances.tif")}
    assert written == {f"{number:03d}_instances.tif" for number in range(4)}

    next(final.iterdir()).rename(final / "gone.tif")
    done = bundle.run("touching_cells", "training", *options)
    assert done.returncode == 2
    (line,) = [text for text in done.stderr.splitlines() if "overtile: error:" in text]
    assert f"{final / 'gone.tif'}: nothing of that name in {folder}" in line


# --- bad input --------------------------------------------------------------------------------


def test_files_that_contend_for_one_image_are_named(folder: Path, tmp_path: Path) -> None:
    labels = folder / "train" / "labels"
    shutil.copytree(labels, folder / "train" / "masks")
    with pytest.raises(DataError, match="both labels/ and masks/"):
        find_data(folder)
    shutil.rmtree(folder / "train" / "masks")
    flat = tmp_path / "flat"
    flat.mkdir()
    for name, source in (("a", "images"), ("a_mask", "labels"), ("a_label", "labels")):
        shutil.copy(folder / "train" / source / "000.tif", flat / f"{name}.tif")
    with pytest.raises(DataError, match=r"a_mask\.tif: belongs to 'a' as a_label\.tif does"):
        find_data(flat)
    (flat / "a_label.tif").unlink()
    assert [Path(i["image"]).name for i in images_in(flat)] == ["a.tif"], "labels are no images"


def test_a_frame_twice_and_labels_of_no_frame(
    nuclei: dict[str, list[Pair]], tmp_path: Path
) -> None:
    folder = write_data(tmp_path / "c", {"train": nuclei["train"]}, "ctc")
    shutil.copy(folder / "01" / "t001.tif", folder / "01" / "t0001.tif")
    with pytest.raises(DataError, match="expected one file"):
        find_data(folder)
    (folder / "01" / "t0001.tif").unlink()
    (folder / "01_GT" / "SEG" / "man_seg000.tif").rename(folder / "01_GT/SEG/exp2_seg000.tif")
    with pytest.raises(DataError, match=r"exp2_seg000\.tif: another name; expected man_segT\.tif"):
        find_data(folder)


def test_kaggle_cases_are_complete(nuclei: dict[str, list[Pair]], tmp_path: Path) -> None:
    folder = write_data(tmp_path / "k", {"train": nuclei["train"]}, "kaggle") / "train"
    case, other, *_ = sorted(folder.iterdir())
    (image,) = (case / "images").iterdir()
    image.rename(case / "images" / "named_otherwise.png")
    assert len(find_data(folder).items) == 4, "the file's name does not matter"
    shutil.copy(case / "images" / "named_otherwise.png", case / "images" / "b.png")
    with pytest.raises(DataError, match="2 images; expected one"):
        find_data(folder)
    (case / "images" / "b.png").unlink()
    whole = np.full((256, 256), 255, np.uint8)
    Image.fromarray(whole).save(other / "masks" / "000.png")
    with pytest.raises(DataError, match="a mask that lies wholly under others"):
        find_data(folder)
    (other / "masks" / "000.png").unlink()
    for mask in (other / "masks").iterdir():
        mask.unlink()
    for call in (find_data, look):
        with pytest.raises(DataError, match=r"no masks in .*expected one file a cell"):
            call(folder)


def test_every_split_and_evaluation_check_the_kind_of_labels(
    nuclei: dict[str, list[Pair]], tmp_path: Path
) -> None:
    splits = {**nuclei, "val": [(i, (n > 0).astype(np.uint8) * 255) for i, n in nuclei["val"]]}
    folder = write_data(tmp_path / "v", splits)
    for call in (find_data, labelled_images):
        with pytest.raises(DataError, match="labels=mask"):
            call(folder)
    classes = {"train": [(i, (n % 5 + 1) * (n > 0)) for i, n in nuclei["train"]]}
    with pytest.raises(DataError, match=r"5 value.s. for \d+ separate cells"):
        find_data(write_data(tmp_path / "c", classes))


def test_labels_in_jpeg_are_refused(folder: Path) -> None:
    label = folder / "train" / "labels" / "000.tif"
    Image.fromarray(tifffile.imread(label).astype(np.uint8)).save(label.with_suffix(".jpg"))
    label.unlink()
    with pytest.raises(DataError, match=r"000\.jpg: a label in JPEG.*expected PNG or TIFF"):
        find_data(folder)


def test_links_that_lead_nowhere_can_be_left_out(folder: Path) -> None:
    image = folder / "train" / "images" / "000.tif"
    image.unlink()
    image.symlink_to(folder / "gone.tif")
    with pytest.raises(DataError, match=r"000\.tif"):
        find_data(folder)
    assert len(find_data(folder, skip_unreadable=True).items) == 3


@pytest.fixture
def folder(nuclei: dict[str, list[Pair]], tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", {"train": nuclei["train"]})


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataset_dir: it is not set; give dataset_dir=DIR"):
        find_data(None)
    with pytest.raises(DataError, match="nothing: no such folder"):
        find_data(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"no layout recognised; expected .*images/ and labels/"):
        find_data(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no folder labels/"):
        find_data(tmp_path)
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="images: no images"):
        find_data(tmp_path)


def test_images_and_labels_without_partner(folder: Path) -> None:
    (folder / "train" / "labels" / "001.tif").unlink()
    with pytest.raises(DataError, match=r"images/001\.tif: nothing of that name in .*labels"):
        find_data(folder)
    (folder / "train" / "images" / "001.tif").unlink()
    (folder / "train" / "images" / "002.tif").unlink()
    with pytest.raises(DataError, match=r"labels/002\.tif: nothing of that name in .*images"):
        find_data(folder)


def test_sizes_that_differ_are_named(folder: Path) -> None:
    tifffile.imwrite(folder / "train" / "labels" / "002.tif", np.zeros((256, 250), np.uint16))
    with pytest.raises(DataError, match=r"002\.tif: size 256x250, but its image .* is 256x256"):
        find_data(folder)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (np.full((256, 256), 0.5, np.float32), "labels of float32; expected integers"),
        (np.full((256, 256), -1, np.int16), "labels from -1 to -1; expected 0"),
    ],
)
def test_labels_that_are_none(folder: Path, label: np.ndarray[Any, Any], said: str) -> None:
    tifffile.imwrite(folder / "train" / "labels" / "003.tif", label)
    with pytest.raises(DataError, match=rf"003\.tif: {said}"):
        find_data(folder)


def test_masks_say_which_option_reads_them(folder: Path) -> None:
    for path in (folder / "train" / "labels").iterdir():
        mask = (tifffile.imread(path) > 0).astype(np.uint8) * 255
        path.unlink()
        tifffile.imwrite(path, mask)
    with pytest.raises(DataError, match=r"000\.tif: 1 value.*labels=mask"):
        find_data(folder)
    data = find_data(folder, labels="mask")
    read = ReadImaged("label", "int32", labels="mask")
    found = read({"label": data.train[0]["label"]})["label"]
    assert found.max() == data.facts.label(**data.train[0]).components > 1


def test_a_truncated_file_is_named_or_left_out(folder: Path) -> None:
    path = folder / "train" / "images" / "001.tif"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"001\.tif: the file ends.*skip_unreadable=True"):
        find_data(folder)
    data = find_data(folder, skip_unreadable=True)
    assert len(data.items) == 3
    assert len(data.skipped) == 1
    assert "001.tif" in data.skipped[0]
    images = folder / "train" / "images"
    assert [Path(i["image"]).stem for i in images_in(images, skip_unreadable=True)] == [
        *("000", "002", "003")
    ]
    seen = look(folder)
    assert any("001.tif" in remark.where for remark in seen.suspicious)
    assert seen.images == {"train": 3}


def test_pixels_that_are_no_numbers_and_colour_are_named(folder: Path) -> None:
    path = folder / "train" / "images" / "000.tif"
    image = tifffile.imread(path).astype(np.float32)
    image[5, 5] = np.inf
    tifffile.imwrite(path, image)
    with pytest.raises(DataError, match=r"000\.tif: 1 pixels are NaN or infinite"):
        find_data(folder)
    rng = np.random.default_rng(0)
    tifffile.imwrite(path, rng.integers(0, 9, (256, 256, 3), np.uint8), photometric="rgb")
    with pytest.raises(DataError, match=r"000\.tif: 3 channels .*channels=luminance"):
        find_data(folder)
    with pytest.raises(DataError, match="000"):
        find_data(folder, channels=3)
    assert len(find_data(folder, channels="luminance").items) == 4


def nan(path: Path) -> None:
    image = tifffile.imread(path).astype(np.float32)
    image[5, 5] = np.nan
    tifffile.imwrite(path, image)


def coloured(path: Path) -> None:
    rng = np.random.default_rng(0)
    tifffile.imwrite(path, rng.integers(0, 9, (256, 256, 3), np.uint8), photometric="rgb")


def complex_numbers(path: Path) -> None:
    tifffile.imwrite(path, tifffile.imread(path).astype(np.complex64))


def another_size(path: Path) -> None:
    tifffile.imwrite(path, tifffile.imread(path)[:200])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("spoil", [nan, coloured, complex_numbers, another_size, cut_short])
def test_skipping_covers_every_fault_of_a_file_and_lists_it(
    folder: Path, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    images = folder / "train" / "images"
    spoil(images / "002.tif")
    with pytest.raises(DataError, match=r"002\.tif"):
        find_data(folder)
    data = find_data(folder, skip_unreadable=True)
    assert [Path(i["image"]).stem for i in data.items] == ["000", "001", "003"]
    assert "002.tif" in data.skipped[0]
    assert f"left out: {data.skipped[0]}" in caplog.messages
    assert len(labelled_images(folder, skip_unreadable=True)) == 3
    caplog.clear()
    found = images_in(images, skip_unreadable=True, channels=None)
    alone = spoil is another_size  # without its label nothing is wrong with it
    assert len(found) == 3 + alone
    assert any("left out: " in m and "002.tif" in m for m in caplog.messages) != alone


def test_colours_are_refused_before_the_first_image_is_segmented(folder: Path) -> None:
    images = folder / "train" / "images"
    coloured(images / "002.tif")
    with pytest.raises(DataError, match=r"002\.tif: 3 channels"):
        images_in(images, channels=None)
    for fine in (0, "luminance", ...):
        assert len(images_in(images, channels=fine)) == 4


def test_an_image_too_large_says_which_option_allows_it(folder: Path) -> None:
    images = folder / "train" / "images"
    with pytest.raises(DataError, match=r"000\.tif: 256x256 pixels .*image_memory_limit=BYTES"):
        images_in(images, image_memory_limit=10**6)
    assert len(images_in(images, image_memory_limit=10**8)) == 4


def test_a_split_that_is_not_there(folder: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'; expected all, train"):
        labelled_images(folder, split="test")
    assert len(labelled_images(folder)) == 4
    data = find_data(folder)
    assert labelled_images(folder, split="val") == data.val, "those that training set aside"
    assert labelled_images(folder, split="train") == data.train


# --- the cache --------------------------------------------------------------------------------


def decoded(monkeypatch: pytest.MonkeyPatch, data: DataSet, cache: Path, **options: Any) -> Any:
    """The data set in a cache, and how many files were decoded for it."""
    from monai.transforms import Compose

    from overtile.pipelines.images import read_transform
    from overtile.transforms import NormalizeImaged

    count = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return read_image(*args, **kwargs)

    monkeypatch.setattr(read_transform, "read_image", counting)
    steps = [ReadImaged(["image", "label"], ("float32", "int32")), NormalizeImaged("image")]
    return CachedDataset(data.items, Compose(steps), cache_dir=cache, **options), count


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> DataSet:
    return find_data(folder, cache_dir=tmp_path / "cache")


def test_images_are_decoded_once_until_they_change(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first, count = decoded(monkeypatch, data, cache)
    assert count == 4
    again, count = decoded(monkeypatch, data, cache)
    assert count == 0
    mapped, count = decoded(monkeypatch, data, cache, memory_limit=0)
    assert count == 0
    for index in range(4):
        for key in ("image", "label"):
            assert np.array_equal(first[index][key], again[index][key])
            assert np.array_equal(first[index][key], mapped[index][key])
            assert first[index][key].meta["filename_or_obj"] == data.items[index][key]
    path = Path(data.items[2]["image"])
    tifffile.imwrite(path, 255 - tifffile.imread(path))
    os.utime(path, (time.time() + 5, time.time() + 5))
    changed, count = decoded(monkeypatch, data, cache)
    assert count == 1
    assert not np.array_equal(changed[2]["image"], first[2]["image"])


def test_a_broken_cache_costs_nothing_but_time(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    cache = tmp_path / "cache"
    first, _ = decoded(monkeypatch, data, cache)
    for file in cache.rglob("*.*"):
        if file.is_file():
            file.write_bytes(b"[]" if file.suffix == ".json" else b"garbage")
    assert len(find_data(folder, cache_dir=cache).items) == 4
    again, count = decoded(monkeypatch, data, cache)
    assert count == 4
    assert np.array_equal(first[0]["image"], again[0]["image"])
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    anyway, _ = decoded(monkeypatch, data, blocked)
    assert np.array_equal(first[0]["image"], anyway[0]["image"])
    assert len(find_data(folder, cache_dir=blocked).items) == 4


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file is decoded from now on, by every format's own reader of pixels."""
    counts: Counter[Path] = Counter()
    for kind in {type(format) for format in all_formats()}:

        def counting(
            self: Format, path: Path, labels: bool = False, inner: Any = kind.open
        ) -> Stored:
            stored = inner(self, path, labels)

            def pixels(index: Any) -> Any:
                counts[path] += 1
                return stored.pixels(index)

            return replace(stored, pixels=pixels)

        monkeypatch.setattr(kind, "open", counting)
    return counts


@pytest.mark.parametrize(("layout", "format"), CASES)
@pytest.mark.parametrize("limit", [2**30, 100_000])
def test_a_first_training_decodes_every_image_once(
    nuclei: dict[str, list[Pair]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    format: str,
    limit: int,
) -> None:
    """However little is kept in memory; and a second one decodes nothing."""
    monkeypatch.setattr(handed_on, "limit", limit)
    folder = write_data(tmp_path / "data", nuclei, layout, format)
    counts = counted(monkeypatch)
    read = ReadImaged(["image", "label"], ("float32", "int32"))

    def prepare(cache: Path) -> tuple[DataSet, list[Any]]:
        data = find_data(folder, cache_dir=cache)
        sets = [CachedDataset(s, Compose([read]), cache_dir=cache) for s in (data.train, data.val)]
        return data, [item for one in sets for item in one]

    data, first = prepare(tmp_path / "cache")
    pages = 6 if layout == "stack" else 1  # which are decoded one by one
    assert set(counts.values()) == {pages}
    assert {Plane.of(item["label"]).file for item in data.items} <= {*counts}
    counts.clear()
    for file in (tmp_path / "cache").glob("facts-*"):
        file.unlink()  # so they are looked at again, and not read again
    prepare(tmp_path / "cache")
    assert set(counts.values()) == {pages}
    assert not handed_on._kept
    counts.clear()
    _, again = prepare(tmp_path / "cache")
    assert not counts
    for one, other in zip(first, again, strict=True):
        for key in ("image", "label"):
            assert np.array_equal(one[key], other[key])
            expected, _ = (
                read_image(one[key].meta["filename_or_obj"])
                if key == "image"
                else read_label(
                    one[key].meta["filename_or_obj"], 2, one["image"].meta["filename_or_obj"]
                )
            )
            assert np.array_equal(one[key][0], expected)


def test_an_image_that_was_written_again_is_not_handed_on(folder: Path, tmp_path: Path) -> None:
    data = find_data(folder, cache_dir=tmp_path / "cache")
    path = Path(data.train[0]["image"])
    new = 255 - tifffile.imread(path)
    tifffile.imwrite(path, new)
    assert np.array_equal(read_image(str(path))[0], new)


def test_nothing_is_kept_of_what_does_not_train(folder: Path, tmp_path: Path) -> None:
    data = find_data(folder, cache_dir=tmp_path / "cache", fold=0, folds=2, train_subset=1)
    wanted = {path for item in (*data.train, *data.val) for path in item.values()}
    assert {reading.path for reading in handed_on._kept} == wanted
    with pytest.raises(DataError):
        find_data(tmp_path / "nothing")
    assert not handed_on._kept
    assert handed_on._size == 0
