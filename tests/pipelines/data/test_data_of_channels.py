"""Data sets of several channels: which images belong together, and what a network is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from overtile.pipelines.data.find import find_data, labelled_images
from overtile.pipelines.data.unlabelled import images_in
from overtile.pipelines.errors import DataError


def coloured(folder: Path, count: int = 3, channels: int = 3) -> Path:
    """``images/N.tif`` in colour."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        label = np.zeros((20, 24), np.uint8)
        label[3:9, 4:12] = 1
        image = rng.integers(0, 255, (20, 24, channels), np.uint8)
        tifffile.imwrite(folder / "images" / f"{number}.tif", image, photometric="rgb")
        tifffile.imwrite(folder / "labels" / f"{number}.tif", label)
    return folder


def apart(folder: Path, names: dict[str, str] | None = None, images: str = "imagesTr") -> Path:
    """``imagesTr/N_0000.tif`` and ``N_0001.tif``, as nnU-Net has them."""
    coloured(folder)
    (folder / "labels").rename(folder / images.replace("images", "labels"))
    for file in sorted((folder / "images").iterdir()):
        array = tifffile.imread(file)
        file.unlink()
        (folder / images).mkdir(exist_ok=True)
        for channel in range(2):
            to = folder / images / f"{file.stem}_{channel:04d}.tif"
            tifffile.imwrite(to, array[..., channel])
    (folder / "images").rmdir()
    if names is not None:
        (folder / "dataset.json").write_text(json.dumps({"modality": names}))
    return folder


def files_of(items: list[dict[str, str]]) -> list[str]:
    return [Path(item["image"]).name for item in items]


def test_a_network_takes_the_channels_of_the_data(tmp_path: Path) -> None:
    folder = coloured(tmp_path / "rgb")
    assert find_data(folder, channels="all").in_channels == 3
    assert find_data(folder, channels=[2, 0]).in_channels == 2
    for one in (0, "luminance"):
        found = find_data(folder, channels=one)
        assert (found.in_channels, found.channel_names) == (1, None)
    assert find_data(folder, channels=[1]).in_channels == 1


def test_files_of_a_case_are_one_image(tmp_path: Path) -> None:
    folder = apart(tmp_path / "two", {"0": "T1", "1": "FLAIR"})
    found = find_data(folder, channels=["FLAIR", "T1"])
    assert files_of(found.items) == [f"{n}_{{0000,0001}}.tif" for n in range(3)]
    assert (found.in_channels, found.channel_names) == (2, ["FLAIR", "T1"])
    assert find_data(folder, channels="all").channel_names == ["T1", "FLAIR"]
    assert find_data(folder, channels=[1, 0]).channel_names is None
    assert find_data(folder, channels="FLAIR").in_channels == 1
    with pytest.raises(DataError, match=r"\}\.tif: 2 channels .*channels=0 to 1, or channels=all"):
        find_data(folder)


def test_a_digest_changes_with_every_file_of_a_case(tmp_path: Path) -> None:
    folder = apart(tmp_path / "two")
    before = find_data(folder, channels="all").digest()
    file = folder / "imagesTr" / "1_0001.tif"
    tifffile.imwrite(file, tifffile.imread(file)[::-1])
    assert find_data(folder, channels="all").digest() != before


def test_a_case_that_lacks_a_channel_is_named(tmp_path: Path) -> None:
    folder = apart(tmp_path / "two")
    (folder / "imagesTr" / "1_0001.tif").unlink()
    told = r"imagesTr/1_0001\.tif: no such file, but 1_0000\.tif; expected a file for each channel"
    for ask in (
        lambda: find_data(folder, channels="all"),
        lambda: images_in(folder / "imagesTr", channels="all"),
    ):
        with pytest.raises(DataError, match=told):
            ask()


def test_channels_of_two_formats_are_refused(tmp_path: Path) -> None:
    folder = apart(tmp_path / "two")
    file = folder / "imagesTr" / "1_0001.tif"
    file.rename(file.with_suffix(".tiff"))
    with pytest.raises(DataError, match=r"1_0001\.tiff: \.tiff, but 1_0000\.tif has \.tif"):
        find_data(folder, channels="all")


@pytest.mark.parametrize(
    ("channels", "several"),
    [("all", True), ([1, 0], True), (None, False), (0, False), (..., False)],
)
def test_what_looks_like_a_series_is_one_unless_several_are_asked_for(
    tmp_path: Path, channels: Any, several: bool
) -> None:
    images = apart(tmp_path / "two") / "imagesTr"
    assert len(images_in(images, channels=channels)) == (3 if several else 6)


def test_a_description_makes_channels_of_what_looks_like_a_series(tmp_path: Path) -> None:
    images = apart(tmp_path / "two", {"0": "T1", "1": "T2"}, "imagesTs") / "imagesTs"
    assert files_of(images_in(images, channels="T2")) == [
        f"{n}_{{0000,0001}}.tif" for n in range(3)
    ]
    with pytest.raises(DataError, match="2 channels"):
        images_in(images, channels=None)


def test_an_image_with_another_number_of_channels_is_named(tmp_path: Path) -> None:
    folder = coloured(tmp_path / "rgb")
    file = folder / "images" / "1.tif"
    tifffile.imwrite(file, tifffile.imread(file)[..., 0])
    with pytest.raises(DataError, match=r"1\.tif: one channel; expected 3, as 0\.tif has"):
        find_data(folder, channels="all")
    found = find_data(folder, channels="all", skip_unreadable=True)
    assert len(found.items) == 2
    assert "1.tif" in found.skipped[0]


def test_images_whose_channels_have_another_order_are_named(tmp_path: Path) -> None:
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "labels").mkdir()
    for number, names in enumerate((["A", "B"], ["A", "B"], ["B", "A"])):
        array = np.random.default_rng(number).integers(0, 99, (2, 20, 24), np.uint8)
        told = {"axes": "CYX", "Channel": {"Name": names}}
        file = tmp_path / "d" / "images" / f"{number}.ome.tif"
        tifffile.imwrite(file, array, ome=True, metadata=told, photometric="minisblack")
        label = np.zeros((20, 24), np.uint8)
        label[3:9, 4:12] = 1
        tifffile.imwrite(tmp_path / "d" / "labels" / f"{number}.tif", label)
    told_so = r"2\.ome\.tif: channels B, A; expected A, B, as 0\.ome\.tif has: give channels=\['A'"
    with pytest.raises(DataError, match=told_so):
        find_data(tmp_path / "d", channels="all")
    assert find_data(tmp_path / "d", channels=["A", "B"]).channel_names == ["A", "B"]
    assert find_data(tmp_path / "d", channels=[0, 1]).in_channels == 2  # it is said which


def test_images_with_other_channels_than_the_networks_are_refused(tmp_path: Path) -> None:
    folder = apart(tmp_path / "two", {"0": "T1", "1": "T2"})
    told = "expected T2, T1, as the network was trained with: give channels="
    with pytest.raises(DataError, match=told):
        labelled_images(folder, channels="all", in_channels=2, channel_names=["T2", "T1"])
    with pytest.raises(DataError, match=told):
        images_in(folder / "imagesTr", channels="all", in_channels=2, channel_names=["T2", "T1"])
    for count, found in ((1, "2 channels; expected one"), (3, "2 channels; expected 3")):
        with pytest.raises(DataError, match=f"{found}, as the network was trained with"):
            labelled_images(folder, channels="all", in_channels=count)
        with pytest.raises(DataError, match=f"{found}, as the network was trained with"):
            images_in(folder / "imagesTr", channels="all", in_channels=count)
    names = ["T2", "T1"]
    assert len(labelled_images(folder, channels=names, in_channels=2, channel_names=names)) == 3
    assert images_in(folder / "imagesTr", channels=[1, 0], in_channels=2, channel_names=names)
