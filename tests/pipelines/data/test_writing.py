"""What is written, read back with the plain libraries that users have, not with our reader."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from killed import killed_everywhere
from PIL import Image

from overtile.pipelines.data.find import find_data
from overtile.pipelines.data.synthesis import datasets
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.data.synthesis.datasets import generate, given_or_made, write_touching_cells
from overtile.pipelines.data.synthesis.membranes import membranes
from overtile.pipelines.data.write import write_data, written_layouts
from overtile.pipelines.errors import DataError
from overtile.pipelines.files import is_unfinished
from overtile.pipelines.images.formats.tiff import Tiff

SIZE = (48, 61)  # unequal and odd, so that no exchange of axes passes
SPACING = (2.0, 0.5, 0.25)
Pair = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Splits = dict[str, list[Pair]]


@pytest.fixture(scope="module")
def cells() -> Splits:
    counts = {"train": 4, "val": 1, "test": 2}
    return {split: list(pairs) for split, pairs in generate("cells", counts, SIZE, 3).items()}


@pytest.fixture(scope="module")
def volume() -> Pair:
    planes = [touching_cells(seed, SIZE) for seed in range(3)]
    return np.stack([i for i, _ in planes]), np.stack([k for _, k in planes])


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def plain(path: Path) -> np.ndarray[Any, Any]:
    """Pixels in the order [H, W] or [Z, Y, X] that images have in memory."""
    if path.name.endswith(".nii.gz"):
        return np.asarray(nibabel.load(path).dataobj).T
    if path.name.endswith(".png"):
        with Image.open(path) as picture:
            return np.asarray(picture)
    if path.name.endswith(".zarr"):
        return np.asarray(zarr.open_group(path, mode="r")["0"])
    return tifffile.imread(path)


@pytest.mark.parametrize("format", ["tif", "png", "nii.gz", "ome.tif", "ome.zarr"])
def test_pairs_hold_what_was_written(tmp_path: Path, cells: Splits, format: str) -> None:
    root = write_data(tmp_path / "data", cells, format=format, spacing=SPACING)
    label_format = "tif" if format.startswith("ome") else format
    assert {p.name for p in root.iterdir()} == {"train", "val", "test"}
    for split, pairs in cells.items():
        names = sorted(p.name for p in (root / split / "images").iterdir())
        assert names == [f"{k:03d}.{format}" for k in range(len(pairs))]
        for k, (image, labels) in enumerate(pairs):
            found = plain(root / split / "images" / f"{k:03d}.{format}")
            assert np.array_equal(found, image)
            assert found.dtype == np.uint16
            found = plain(root / split / "labels" / f"{k:03d}.{label_format}")
            assert np.array_equal(found, labels)
            assert found.dtype == np.uint16


@pytest.mark.parametrize("format", ["tif", "nii.gz", "ome.tif", "ome.zarr"])
def test_volumes_keep_their_axes(tmp_path: Path, volume: Pair, format: str) -> None:
    root = write_data(tmp_path / "data", {"train": [volume]}, format=format)
    assert np.array_equal(plain(root / f"train/images/000.{format}"), volume[0])


def test_nifti_has_its_spacing(tmp_path: Path, volume: Pair) -> None:
    flat = (volume[0][0], volume[1][0])
    root = write_data(tmp_path / "data", {"train": [volume, flat]}, format="nii.gz")
    image = nibabel.load(root / "train/images/000.nii.gz")
    assert image.shape == (61, 48, 3)
    assert image.header.get_zooms() == (0.5, 0.5, 2.0)
    assert nibabel.load(root / "train/images/001.nii.gz").header.get_zooms() == (0.5, 0.5)
    labels = nibabel.load(root / "train/labels/000.nii.gz")
    assert np.array_equal(image.affine, labels.affine)


def test_ome_tiff_names_axes_and_size_of_a_pixel(tmp_path: Path, volume: Pair) -> None:
    root = write_data(tmp_path / "data", {"train": [volume]}, format="ome.tif", spacing=SPACING)
    with tifffile.TiffFile(root / "train/images/000.ome.tif") as file:
        assert file.is_ome
        assert file.series[0].axes == "ZYX"
        xml = file.ome_metadata or ""
    for axis, step in zip("ZYX", SPACING, strict=True):
        assert re.search(f'PhysicalSize{axis}="{step}"', xml)
        assert re.search(f'PhysicalSize{axis}Unit="µm"', xml)


def test_ome_zarr_follows_the_specification(tmp_path: Path, volume: Pair) -> None:
    """https://ngff.openmicroscopy.org/0.5: the group's metadata, and levels that fit each other."""
    root = write_data(tmp_path / "data", {"train": [volume]}, format="ome.zarr", spacing=SPACING)
    path = root / "train/images/000.ome.zarr"
    metadata = json.loads((path / "zarr.json").read_text())
    assert (metadata["zarr_format"], metadata["node_type"]) == (3, "group")
    ome = metadata["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (scales,) = ome["multiscales"]
    assert [axis["name"] for axis in scales["axes"]] == ["z", "y", "x"]
    assert {axis["type"] for axis in scales["axes"]} == {"space"}
    group = zarr.open_group(path, mode="r")
    steps = []
    for dataset in scales["datasets"]:
        level = group[dataset["path"]]
        assert isinstance(level, zarr.Array)
        assert json.loads((path / dataset["path"] / "zarr.json").read_text())[
            "dimension_names"
        ] == ["z", "y", "x"]
        steps.append((level.shape, [t["scale"] for t in dataset["coordinateTransformations"][:1]]))
    assert steps == [((3, 48, 61), [[2.0, 0.5, 0.25]]), ((3, 24, 31), [[2.0, 1.0, 0.5]])]
    coarse = np.asarray(group["1"])
    assert coarse[1, 3, 4] == np.round(volume[0][1, 6:8, 8:10].mean())


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_a_dicom_series_and_its_labels_lie_on_the_same_grid(
    tmp_path: Path, volume: Pair, flat: bool, dtype: type
) -> None:
    import itk

    image, labels = (a[1] if flat else a for a in volume)
    image = (image % 251).astype(dtype) - (dtype == np.int16) * 100
    pairs = [(image.astype(dtype), labels), (image.astype(dtype), labels)]
    root = write_data(tmp_path / "data", {"val": pairs}, format="dicom", spacing=SPACING)
    names = itk.GDCMSeriesFileNames.New(Directory=str(root / "val/images/000"))
    (uid,) = names.GetSeriesUIDs()
    series = itk.imread(list(names.GetFileNames(uid)))
    grey = itk.array_from_image(series)
    assert grey.dtype == dtype
    assert np.array_equal(grey, image.reshape(-1, *SIZE))
    assert tuple(series.GetSpacing()) == SPACING[::-1]
    other = itk.GDCMSeriesFileNames.New(Directory=str(root / "val/images/001"))
    assert other.GetSeriesUIDs() != (uid,), "another image is another series"

    stored = nibabel.load(root / "val/labels/000.nii.gz")
    assert np.array_equal(np.asarray(stored.dataobj).T, labels.reshape(-1, *SIZE))
    for voxel in ((0, 0, 0), (7, 3, 0 if flat else 2)):
        x, y, z = series.TransformIndexToPhysicalPoint(voxel)
        assert np.allclose(stored.affine @ (*voxel, 1), (-x, -y, z, 1)), "LPS against RAS"
    as_itk = itk.imread(str(root / "val/labels/000.nii.gz"))  # ITK turns NIfTI to LPS itself
    assert np.allclose(as_itk.GetOrigin(), series.GetOrigin())
    assert np.allclose(as_itk.GetDirection(), series.GetDirection())


@pytest.mark.parametrize("format", ["tif", "png", "nii.gz"])
def test_suffixes_as_cellpose_has_them(tmp_path: Path, cells: Splits, format: str) -> None:
    root = write_data(tmp_path / "data", cells, layout="suffixes", format=format)
    for split, pairs in cells.items():
        assert len(list((root / split).iterdir())) == 2 * len(pairs)
        for k, (image, labels) in enumerate(pairs):
            assert np.array_equal(plain(root / split / f"{k:03d}.{format}"), image)
            assert np.array_equal(plain(root / split / f"{k:03d}_masks.{format}"), labels)


def test_a_stack_as_isbi_has_it(tmp_path: Path) -> None:
    sections = [membranes(5, SIZE, section=k) for k in range(4)]
    splits = {"train": sections[:2], "val": sections[2:3], "test": sections[3:]}
    root = write_data(tmp_path / "data", splits, layout="stack", kind="membranes")
    assert tree(root) == {"train-volume.tif", "train-labels.tif", "test-volume.tif"}
    assert np.array_equal(plain(root / "train-volume.tif"), [i for i, _ in sections[:3]])
    labels = plain(root / "train-labels.tif")
    assert labels.dtype == np.uint8
    assert np.array_equal(labels == 0, [k == 0 for _, k in sections[:3]])
    assert set(np.unique(labels)) == {0, 255}
    assert tifffile.imread(root / "test-volume.tif", key=0).shape == SIZE


def test_a_stack_of_cells_keeps_instances(tmp_path: Path, cells: Splits) -> None:
    root = write_data(tmp_path / "data", {"train": cells["train"]}, layout="stack")
    assert np.array_equal(plain(root / "train-labels.tif"), [k for _, k in cells["train"]])
    assert tree(root) == {"train-volume.tif", "train-labels.tif"}


def test_sequences_as_the_cell_tracking_challenge_has_them(tmp_path: Path, cells: Splits) -> None:
    root = write_data(tmp_path / "data", cells, layout="ctc")
    assert {p.name for p in root.iterdir()} == {
        f"0{n}{part}" for n in (1, 2, 3) for part in ("", "_GT", "_ST")
    }
    frames = {f"{k:03d}" for k in range(4)}
    assert tree(root / "01") == {f"t{k}.tif" for k in frames}
    assert tree(root / "01_ST") == {f"SEG/man_seg{k}.tif" for k in frames}
    assert tree(root / "01_GT") == {
        *(f"SEG/man_seg{k}.tif" for k in ("000", "003")),
        *(f"TRA/man_track{k}.tif" for k in frames),
        "TRA/man_track.txt",
    }
    lines = (root / "01_GT/TRA/man_track.txt").read_text().splitlines()
    tracks = {int(t): (int(b), int(e), int(p)) for t, b, e, p in map(str.split, lines)}
    seen: dict[int, list[int]] = {}
    for k, (image, labels) in enumerate(cells["train"]):
        assert np.array_equal(plain(root / f"01/t{k:03d}.tif"), image)
        assert np.array_equal(plain(root / f"01_ST/SEG/man_seg{k:03d}.tif"), labels)
        markers = plain(root / f"01_GT/TRA/man_track{k:03d}.tif")
        assert markers.dtype == np.uint16
        owners = [set(labels[markers == m]) for m in np.unique(markers[markers > 0])]
        assert all(len(owner) == 1 for owner in owners), "a marker lies within one cell"
        assert set.union(*owners) == set(labels[labels > 0]), "every cell has a marker"
        for marker in np.unique(markers[markers > 0]):
            seen.setdefault(int(marker), []).append(k)
    assert tracks == {m: (at[0], at[-1], 0) for m, at in seen.items()}


def test_kaggle_has_a_file_for_every_nucleus(tmp_path: Path, cells: Splits) -> None:
    root = write_data(tmp_path / "data", cells, layout="kaggle")
    folders = list((root / "train").iterdir())
    assert len(folders) == 4
    expected = {_union(labels > 0): labels for _, labels in cells["train"]}
    for folder in folders:
        (file,) = (folder / "images").iterdir()
        assert file.name == f"{folder.name}.png"
        picture = plain(file)
        assert (picture.shape, picture.dtype) == ((*SIZE, 4), np.dtype(np.uint8))
        assert (picture[..., :3].min(), picture[..., :3].max()) == (0, 255)
        assert (picture[..., 3] == 255).all()
        masks = [plain(mask) for mask in (folder / "masks").iterdir()]
        assert all(set(np.unique(mask)) == {0, 255} for mask in masks)
        labels = expected.pop(_union(np.any(masks, axis=0)))
        wanted = {_union(labels == name) for name in np.unique(labels[labels > 0])}
        assert {_union(mask > 0) for mask in masks} == wanted
    assert not list((root / "test").glob("*/masks"))
    assert len(list((root / "test").glob("*/images/*.png"))) == 2


def _union(mask: np.ndarray[Any, Any]) -> bytes:
    return np.packbits(mask).tobytes()


def test_eight_bits_stay_what_they_are(tmp_path: Path) -> None:
    image, labels = membranes(1, SIZE)
    root = write_data(tmp_path / "data", {"train": [(image, labels)]}, layout="kaggle")
    (file,) = root.glob("train/*/images/*.png")
    assert np.array_equal(plain(file)[..., 0], image)


@pytest.mark.parametrize(
    ("layout", "format"), [(layout, f) for layout, fs in written_layouts().items() for f in fs]
)
def test_nothing_is_left_of_what_failed(
    tmp_path: Path, cells: Splits, layout: str, format: str
) -> None:
    image, labels = cells["train"][0]
    bad = {"train": [(image, labels), (image, labels[1:])]}
    with pytest.raises(DataError, match=r"train image 1: size 48x61, but its labels are 47x61"):
        write_data(tmp_path / "data", bad, layout, format)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_filled_if_empty_and_refused_if_not(
    tmp_path: Path, cells: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    write_data(".", cells)
    assert {p.name for p in tmp_path.iterdir()} == {"train", "val", "test"}
    assert tmp_path.stat().st_ino == before, "a shell stands in it"
    with pytest.raises(DataError, match="not empty; expected a new or empty folder"):
        write_data(tmp_path, cells)
    file = tmp_path / "train/images/000.tif"
    content = file.read_bytes()
    with pytest.raises(DataError, match="a file; expected"):
        write_data(file, cells)
    with pytest.raises(DataError, match=r"below: cannot be written \(Not a directory"):
        write_data(file / "below", cells)
    assert file.read_bytes() == content


def test_a_full_disk_costs_one_line(
    tmp_path: Path, cells: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tiff, "write", full)
    with pytest.raises(DataError, match=r"data: cannot be written \(No space left on device\)"):
        write_data(tmp_path / "data", cells)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "labels", "layout", "format", "message"),
    [
        (
            "f4 5 6",
            "u2 5 6",
            "pairs",
            "png",
            "expected uint8, uint16 for png: convert",
        ),
        ("f4 5 6", "u2 5 6", "pairs", "dicom", "float32; expected "),
        ("u2 2 5 6", "u2 2 5 6", "pairs", "png", "shape 2x5x6; expected one channel, HxW"),
        ("u2 2 5 6", "u2 2 5 6", "stack", "tif", "shape 2x5x6; expected one channel, HxW"),
        ("u2 5", "u2 5", "pairs", "tif", "shape 5; expected one channel"),
        ("u2 5 6", "f4 5 6", "pairs", "tif", "labels of float32; expected integers"),
        ("u2 5 6", "u2 5 6", "pears", "tif", "layout: 'pears'; expected one of stack, ctc, pairs"),
        ("u2 5 6", "u2 5 6", "kaggle", "tif", "format: 'tif'; expected png for layout kaggle"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path, image: str, labels: str, layout: str, format: str, message: str
) -> None:
    def zeros(text: str) -> np.ndarray[Any, Any]:
        kind, *shape = text.split()
        return np.zeros([int(n) for n in shape], kind)

    with pytest.raises(DataError, match=message):
        write_data(tmp_path / "data", {"train": [(zeros(image), zeros(labels))]}, layout, format)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_of_unlike_images_is_refused(tmp_path: Path, cells: Splits) -> None:
    image, labels = cells["train"][0]
    pairs = [(image, labels), (image[:40], labels[:40])]
    with pytest.raises(DataError, match=r"train-volume.tif: 40x61 uint16 and 48x61 uint16"):
        write_data(tmp_path / "data", {"train": pairs}, layout="stack")


@pytest.mark.parametrize("there", [False, True])
def test_a_data_set_is_all_or_nothing_wherever_its_writer_is_killed(
    tmp_path: Path, there: bool
) -> None:
    """Into a folder that exists, as the one in which a shell stands, files move one by one."""
    label = np.zeros((4, 5), np.uint16)
    label[1, 1:3], label[3, 3] = 1, 2
    splits = {"train": [(label * 9, label)] * 2, "test": [(label * 9, label)]}
    target = tmp_path / "data"
    complete = tree(write_data(tmp_path / "complete", splits, "pairs", "png"))
    if there:
        target.mkdir()
    states = set()
    for _ in killed_everywhere(lambda: write_data(target, splits, "pairs", "png")):
        try:
            data = find_data(target, val_fraction=0)
        except DataError:
            data = None
        states.add(data is not None)
        if data is None:
            assert not (target.is_dir() and any(not is_unfinished(p) for p in target.iterdir()))
        else:
            assert {name for name in tree(target) if not name.startswith(".")} == complete
            assert len(data.items) == 3
            shutil.rmtree(target)
            if there:
                target.mkdir()
    assert {name for name in tree(target) if not name.startswith(".")} == complete
    assert states == {False, True}, "killed before and after it was done"


def test_made_once_and_whole_wherever_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    small = {"counts": {"train": 1}, "size": (16, 16), "large": (16, 17)}
    with pytest.MonkeyPatch.context() as patch:
        few = functools.partial(write_touching_cells, **small)
        patch.setattr(datasets, "write_touching_cells", few)
        for _ in killed_everywhere(lambda: given_or_made(None, folder)):
            if folder.exists():
                assert len(tree(folder)) == 3
                shutil.rmtree(folder)
        given_or_made(None, folder)
    assert len(tree(folder)) == 3
