"""Channels by number and name, of one file and of a file each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from overtile.pipelines.errors import DataError
from overtile.pipelines.images.channels import check_channels
from overtile.pipelines.images.formats import open_image, open_source, stem
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.read import read_image
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.pipelines.images.stored import stamp
from overtile.pipelines.images.write_like import write_like

STACK = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)
NAMES = ["DAPI", "GFP", "RFP"]


def ome_tiff(folder: Path, names: list[str] = NAMES) -> Path:
    path = folder / "a.ome.tif"
    told = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(path, STACK, ome=True, metadata=told, photometric="minisblack")
    return path


def ome_zarr(folder: Path, names: list[str] = NAMES) -> Path:
    path = folder / "a.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=STACK, chunks=(1, 8, 9))
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}],
        "omero": {"channels": [{"label": name} for name in names]},
    }
    return path


def nnu_net(folder: Path, names: list[str] = NAMES) -> Path:
    (folder / "imagesTr").mkdir()
    for number, array in enumerate(STACK):
        tifffile.imwrite(folder / "imagesTr" / f"a_{number:04d}.tif", array)
    told = {"channel_names": {str(i): name for i, name in enumerate(names)}}
    (folder / "dataset.json").write_text(json.dumps(told))
    return folder / "imagesTr" / "a_{0000,0001,0002}.tif"


WRITERS = (ome_tiff, ome_zarr, nnu_net)


@pytest.mark.parametrize("write", WRITERS)
def test_channels_are_found_by_name_in_the_order_asked_for(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path)
    found, meta = read_image(path, channels=["RFP", "DAPI"])
    assert np.array_equal(found, STACK[[2, 0]])
    assert meta["channel_names"] == ["RFP", "DAPI"]
    assert np.array_equal(read_image(path, channels="GFP")[0], STACK[1])
    found, meta = read_image(path, channels="all")
    assert np.array_equal(found, STACK)
    assert meta["channel_names"] == NAMES
    assert np.array_equal(read_image(path, channels=[2, "GFP"])[0], STACK[[2, 1]])
    item = ReadImaged("image", channels=["GFP", "DAPI"])({"image": str(path)})
    assert item["image"].shape == (2, 8, 9)
    assert np.array_equal(item["image"].numpy(), STACK[[1, 0]].astype(np.float32))


@pytest.mark.parametrize("write", WRITERS)
def test_an_unknown_name_is_told_those_that_there_are(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path)
    with pytest.raises(
        DataError, match="no channel 'DPI'; expected one of DAPI, GFP, RFP: give"
    ) as e:
        read_image(path, channels="DPI")
    assert str(e.value).endswith("channels=DAPI")


def test_opacity_of_a_tiff_is_left_out_but_can_be_named(tmp_path: Path) -> None:
    """Four channels of anything are often written so: none is out of reach."""
    grey, seen = STACK[0], STACK[1]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([grey] * 3 + [seen], -1), photometric="rgb", extrasamples=[2])
    assert np.array_equal(read_image(path)[0], grey)
    assert np.array_equal(read_image(path, channels=3)[0], seen)
    assert np.array_equal(read_image(path, channels="all")[0], [grey, grey, grey, seen])
    tifffile.imwrite(path, np.stack([grey] * 3 + [seen], -1), photometric="rgb", extrasamples=[0])
    with pytest.raises(DataError, match="4 channels"):
        read_image(path)


@pytest.mark.parametrize("write", WRITERS)
def test_a_name_of_two_channels_is_refused_where_it_is_asked_for(
    tmp_path: Path, write: Any
) -> None:
    path = write(tmp_path, ["DAPI", "GFP", "DAPI"])
    with pytest.raises(DataError, match=r"2 channels called 'DAPI' \(0, 2\); expected names that"):
        read_image(path, channels=["DAPI", "GFP"])
    assert np.array_equal(read_image(path, channels="GFP")[0], STACK[1])


def test_without_names_a_name_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(STACK, 0, -1), photometric="rgb")
    with pytest.raises(DataError, match=r"channels without names; .*'lumnance'.*=luminance, or"):
        read_image(tmp_path / "a.tif", channels="lumnance")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([0, 0], r"channels: \[0, 0\]: 0 twice"),
        (["DAPI", "DAPI"], "'DAPI' twice"),
        (True, "True"),
        ([], "expected all, luminance, a number from 0, a name, or a list"),
        ([[0]], "expected all"),
        (-1, "-1"),
    ],
)
def test_what_names_no_channels(wrong: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        check_channels(wrong)


def test_a_channel_by_number_and_by_name_is_listed_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="channel 1 twice, by number and as 'GFP'"):
        read_image(ome_tiff(tmp_path), channels=[1, "GFP"])


@settings(max_examples=25, deadline=None)
@given(st.permutations(["C", "Z", "T"]), st.permutations([0, 1, 2, 3]), st.integers(1, 4))
def test_planes_of_several_channels(
    tmp_path_factory: pytest.TempPathFactory, lead: list[str], order: list[int], count: int
) -> None:
    """Every plane with its channels, wherever their axis lies."""
    sizes, chosen = {"C": 4, "Z": 2, "T": 3, "Y": 5, "X": 6}, order[:count]
    axes = [*lead, "Y", "X"]
    array = np.random.default_rng(0).integers(0, 999, [sizes[a] for a in axes], np.uint16)
    path = tmp_path_factory.mktemp("planes") / "a.ome.tif"
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "".join(axes)})
    ordered = array.transpose([axes.index(a) for a in "TZCYX"]).reshape(6, 4, 5, 6)
    assert np.array_equal(read_image(path, channels=chosen)[0], ordered[:, chosen])
    for plane in (0, 4):
        found = read_image(Plane(path, plane), channels=chosen)[0]
        assert np.array_equal(found, ordered[plane, chosen])
    volumes = array.transpose([axes.index(a) for a in "TCZYX"])
    assert np.array_equal(read_image(path, 3, chosen)[0], volumes[:, chosen])


def test_one_channel_where_several_are_asked_for_has_an_axis(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0])
    for channels in ("all", [0]):
        assert np.array_equal(read_image(tmp_path / "a.tif", channels=channels)[0], STACK[:1])
    with pytest.raises(DataError, match="one channel; expected one with channel 1: replace it"):
        read_image(tmp_path / "a.tif", channels=[0, 1])


# --- a file a channel -------------------------------------------------------------------------


def test_the_name_of_an_image_in_several_files(tmp_path: Path) -> None:
    path = nnu_net(tmp_path)
    assert stem(path) == "a"
    assert Plane.of(f"{path}:3") == Plane(path, 3)
    before = stamp(path)
    (tmp_path / "dataset.json").write_text("{}")
    assert stamp(path) != before, "what the channels are called has changed"
    before = stamp(path)
    tifffile.imwrite(path.with_name("a_0001.tif"), STACK[0])
    assert stamp(path) != before
    tifffile.imwrite(path, STACK[2])  # a file of that very name is meant itself
    assert np.array_equal(read_image(path)[0], STACK[2])


def test_windows_of_several_files(tmp_path: Path) -> None:
    stored = open_source(nnu_net(tmp_path))
    assert (stored.axes, stored.shape) == ("YXC", (8, 9, 3))
    index = (slice(2, 5), slice(1, 9), slice(1, 3))
    assert np.array_equal(stored.pixels(index), np.moveaxis(STACK, 0, -1)[index])
    assert np.array_equal(stored.pixels((3, slice(0, 9), 2)), STACK[2, 3])
    stored.close()


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    path = nnu_net(tmp_path)
    path.with_name("a_0001.tif").unlink()
    for open_it in (open_image, open_source):
        with pytest.raises(DataError, match=r"a_0001\.tif: no such file"):
            open_it(path)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (STACK[0, :7], r"a_0001\.tif: 7x9 pixels \(axes YX\), but .*a_0000\.tif has 8x9"),
        (STACK[0].astype("f4"), r"a_0001\.tif: pixels of float32, but .*a_0000\.tif has uint16"),
        (np.stack([STACK[0]] * 3, -1), r"a_0001\.tif: 3 channels; expected one, in a file a"),
    ],
)
def test_files_that_are_not_alike(tmp_path: Path, array: Any, told: str) -> None:
    path = nnu_net(tmp_path)
    tifffile.imwrite(path.with_name("a_0001.tif"), array)
    with pytest.raises(DataError, match=told):
        read_image(path, channels="all")


def test_volumes_that_lie_elsewhere(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(np.int16)
    moved = np.diag([1.0, 2, 3, 1])
    for number in range(2):
        nibabel.Nifti1Image(volume + number, moved).to_filename(tmp_path / f"v_000{number}.nii.gz")
    path = tmp_path / "v_{0000,0001}.nii.gz"
    assert np.array_equal(read_image(path, 3, "all")[0], np.stack([volume, volume + 1]))
    assert np.array_equal(open_image(path).affine, moved)
    written = write_like(tmp_path / "found", volume.astype(np.uint16), open_image(path))
    again = nibabel.load(written)
    assert np.array_equal(np.asarray(again.dataobj), volume)
    assert np.array_equal(again.affine, moved)
    moved[0, 3] = 5
    nibabel.Nifti1Image(volume, moved).to_filename(tmp_path / "v_0001.nii.gz")
    with pytest.raises(DataError, match=r"v_0001\.nii\.gz: its voxels lie up to 5 mm from those"):
        read_image(path, 3, "all")


def test_a_broken_description_is_named(tmp_path: Path) -> None:
    path = nnu_net(tmp_path)
    (tmp_path / "dataset.json").write_text("[")
    with pytest.raises(DataError, match=r"dataset\.json: no JSON object"):
        read_image(path, channels="all")
