from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from overtile.pipelines.data.find import find_data, labelled_images
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.data.synthesis.datasets import write_touching_cells
from overtile.pipelines.data.unlabelled import images_in
from overtile.pipelines.errors import DataError
from overtile.pipelines.images.formats import stem
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.read import open_view, read_image, read_label
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.transforms import SeparateTouching


def pairs(folder: Path, names: tuple[str, ...] = ("a", "b", "c"), size: int = 8) -> Path:
    for name in names:
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            array = np.full((size, size + 1), ord(name[0]), np.uint16)
            tifffile.imwrite(folder / kind / f"{name}.tif", array)
    return folder


def test_pairs_without_splits_keep_the_last_images_for_validation(tmp_path: Path) -> None:
    data = find_data(pairs(tmp_path / "mine", tuple("abcdefghij")))
    assert (data.name, data.layout) == ("mine", "pairs")
    assert [Path(i["image"]).stem for i in data.train] == list("abcdefgh")
    assert [Path(i["label"]).stem for i in data.val] == ["i", "j"]
    assert data.test == []


def test_pairs_may_differ_in_their_suffix(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    (folder / "labels" / "a.tif").unlink()
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(folder / "labels" / "a.png")
    assert Path(find_data(folder).train[0]["label"]).name == "a.png"


def test_splits_of_the_folder_are_kept(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("val", "de"), ("test", "f")):
        pairs(tmp_path / split, tuple(names))
    data = find_data(tmp_path)
    assert [len(s) for s in (data.train, data.val, data.test)] == [3, 2, 1]
    with pytest.raises(DataError, match=r"no images in it, but in .*/test/images; give that"):
        images_in(tmp_path)  # images of the same name would overwrite each other's results
    shutil.rmtree(tmp_path / "test" / "labels")
    assert find_data(tmp_path).test == [], "test images may have no labels"


def names_of(items: list[dict[str, str]]) -> str:
    return "".join(Path(item["image"]).stem for item in items)


@pytest.mark.parametrize("folds", [2, 3, 5, 8])
def test_folds_are_contiguous_and_each_image_is_unseen_once(tmp_path: Path, folds: int) -> None:
    folder = pairs(tmp_path, tuple("abcdefgh"))
    unseen = ""
    for fold in range(folds):
        data = find_data(folder, fold=fold, folds=folds, val_fraction=0)
        assert data.val == []
        assert sorted(names_of(data.train) + names_of(data.test)) == list("abcdefgh")
        scored = labelled_images(folder, fold=fold, folds=folds)
        assert scored == data.test, "evaluation scores what training did not see"
        unseen += names_of(data.test)
    assert unseen == "abcdefgh"


def test_a_fold_leaves_some_for_validation_and_the_folders_tests_out(tmp_path: Path) -> None:
    pairs(tmp_path / "train", tuple("abcdefghij"))
    pairs(tmp_path / "test", tuple("xyz"))
    data = find_data(tmp_path, fold=4, folds=5)
    assert [names_of(s) for s in (data.train, data.val, data.test)] == ["abcdef", "gh", "ij"]


def test_fewer_training_images_are_spread_evenly(tmp_path: Path) -> None:
    folder = pairs(tmp_path, tuple("abcdefghij"))
    assert names_of(find_data(folder, train_subset=4).train) == "aceg"
    assert names_of(find_data(folder, train_subset=8).train) == "abcdefgh"
    assert names_of(find_data(folder, train_subset=4).val) == "ij"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fold": 5}, "fold: 5; expected 0 to 4, one of 5 folds"),
        ({"fold": -1}, "fold: -1; expected 0 to 4"),
        ({"fold": 0, "folds": 9}, "folds: 9; .* has 8 training images; expected 2 to 8"),
        ({"fold": 0, "folds": 1}, "folds: 1; .* expected 2 to 8"),
        ({"train_subset": 7}, "train_subset: 7; expected 1 to 6, all that there are"),
        ({"train_subset": 0}, "train_subset: 0; expected 1 to 6"),
        ({"val_fraction": 1}, "val_fraction: 1; expected at least 0 and less than 1"),
    ],
)
def test_impossible_splits_are_refused(tmp_path: Path, wrong: dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        find_data(pairs(tmp_path, tuple("abcdefgh")), **wrong)


def stack(folder: Path, pages: int = 5, label_pages: int | None = None) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("volume", pages), ("labels", label_pages or pages)):
        array = rng.integers(0, 2, (count, 6, 7), np.uint8) * 255
        tifffile.imwrite(folder / f"train-{name}.tif", array, photometric="minisblack")
    return folder


def test_a_stack_is_split_into_contiguous_pages(tmp_path: Path) -> None:
    data = find_data(stack(tmp_path), labels="mask")
    assert data.layout == "stack"
    assert [Path(i["image"]).name for i in data.train] == [
        f"train-volume.tif:{i}" for i in range(4)
    ]
    assert Path(data.val[0]["label"]).name == "train-labels.tif:4"
    whole = tifffile.imread(tmp_path / "train-volume.tif")
    assert np.array_equal(read_image(data.val[0]["image"])[0], whole[4])


@pytest.mark.parametrize("read", [find_data, labelled_images])
def test_grey_values_are_no_mask(tmp_path: Path, read: Any) -> None:
    folder = stack(tmp_path)
    file = folder / "train-labels.tif"
    rows = np.arange(6, dtype=np.uint8)[:, None]
    classes = np.broadcast_to(rows % 4, (5, 6, 7))  # a few are fine
    tifffile.imwrite(file, classes, photometric="minisblack")
    read(folder, labels="mask")
    instances = np.tile(np.arange(42, dtype=np.uint8).reshape(6, 7), (5, 1, 1))
    tifffile.imwrite(file, instances, photometric="minisblack")
    read(folder, labels="mask")
    grey = np.random.default_rng(0).integers(200, 220, (5, 30, 30), np.uint8)
    for path in (file, folder / "train-volume.tif"):
        tifffile.imwrite(path, grey, photometric="minisblack")
    with pytest.raises(
        DataError, match=r"train-labels\.tif:0: 20 values.*expected a mask"
    ) as error:
        read(folder, labels="mask")
    assert "\n" not in str(error.value)


def test_the_digest_sees_pixels_and_names_but_not_places(tmp_path: Path) -> None:
    digest = find_data(pairs(tmp_path / "one")).digest()
    assert find_data(pairs(tmp_path / "two")).digest() == digest
    image = tmp_path / "two" / "images" / "b.tif"
    array = tifffile.imread(image)
    array[3, 3] += 1
    tifffile.imwrite(image, array)
    assert find_data(tmp_path / "two").digest() != digest
    assert find_data(pairs(tmp_path / "three", ("a", "b", "d"))).digest() != digest


def test_class_weights_balance_the_training_labels(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    for name in "abc":
        labels = np.zeros((8, 9), np.uint16)
        labels[:2] = 7  # a quarter of the pixels
        tifffile.imwrite(folder / "labels" / f"{name}.tif", labels)
    background, cell = find_data(folder).class_weights()
    assert np.allclose([0.75 * background, 0.25 * cell], 0.5)


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        ("pears", "expected auto, stack, ctc, annotated, pairs, kaggle, suffixes"),
        ("stack", "train-volume.tif: no such file"),
    ],
)
def test_a_forced_layout_has_to_be_there(tmp_path: Path, layout: str, named: str) -> None:
    with pytest.raises(DataError, match=named):
        find_data(pairs(tmp_path), layout)


def test_a_stack_with_a_label_page_too_few_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-labels.tif: 4 planes, .* has 5"):
        find_data(stack(tmp_path, label_pages=4))


@pytest.mark.parametrize("read", [find_data, labelled_images])
@pytest.mark.parametrize(
    ("values", "said"), [((0, 128, 255), "3 values;"), ((1, 255), "2 values, none of them 0;")]
)
def test_membrane_maps_have_two_values(
    tmp_path: Path, read: Any, values: tuple[int, ...], said: str
) -> None:
    folder = stack(tmp_path)
    read(folder, labels="membranes")
    rows = np.array(values, np.uint8)[np.arange(6) % len(values)]
    map = np.broadcast_to(rows[:, None], (5, 6, 7))
    tifffile.imwrite(folder / "train-labels.tif", map, photometric="minisblack")
    with pytest.raises(DataError, match=rf"labels\.tif:0: {said} expected a membrane map"):
        read(folder, labels="membranes")
    if 0 in values:
        read(folder, labels="mask")
        return
    with pytest.raises(DataError, match=rf"labels\.tif:0: {said} expected a mask.*subtract 1"):
        read(folder, labels="mask")


def test_masks_are_not_taken_for_instances(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    mask = np.zeros((8, 9), np.uint8)
    mask[1:3, 1:3] = mask[5:7, 5:7] = 255
    for name in "abc":
        tifffile.imwrite(folder / "labels" / f"{name}.tif", mask)
    with pytest.raises(DataError, match=r"a\.tif: 1 value.s. for 2 separate cells.*labels=mask"):
        find_data(folder)
    assert len(find_data(folder, labels="mask").train) == 2
    mask[5:7, 5:7] = 254
    tifffile.imwrite(folder / "labels" / "b.tif", mask)
    assert len(find_data(folder).train) == 2, "one image with two numbers settles it"


def test_labels_without_any_cell_are_refused(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    for name in "abc":
        tifffile.imwrite(folder / "labels" / f"{name}.tif", np.zeros((8, 9), np.uint8))
    with pytest.raises(DataError, match=r"a\.tif: no cell in it, nor in any other"):
        find_data(folder)


def test_ambiguous_folders_are_refused(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "stems")
    tifffile.imwrite(folder / "images" / "a.tiff", np.zeros((8, 9), np.uint16))
    for call in (lambda: find_data(folder), lambda: images_in(folder / "images")):
        with pytest.raises(DataError, match=r"a\.tiff: a\.tif has the same name"):
            call()
    pairs(tmp_path / "both")
    pairs(tmp_path / "both" / "train")
    with pytest.raises(DataError, match=r"both train/ and images of its own"):
        find_data(tmp_path / "both")


def test_pages_of_stacks_in_folders_are_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        array = rng.permutation(3 * 6 * 7).reshape(3, 6, 7).astype(np.uint8)
        tifffile.imwrite(tmp_path / kind / "s.tif", array, photometric="minisblack")
    data = find_data(tmp_path)
    assert [Path(i["label"]).name for i in data.train + data.val] == [
        f"s.tif:{i}" for i in range(3)
    ]
    assert [Path(i["image"]).name for i in images_in(tmp_path / "images")][-1] == "s.tif:2"
    assert Plane.of(data.train[1]["image"]).stem == "s_0001"


@pytest.mark.parametrize("fraction", [-1, 1, 2])
def test_a_validation_share_that_is_none_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(DataError, match="val_fraction"):
        find_data(pairs(tmp_path), val_fraction=fraction)
    assert len(find_data(tmp_path, val_fraction=0.99).train) == 1, "something is left to train"


@pytest.mark.parametrize("value", [2**31, -3])
def test_labels_beyond_what_is_stored_do_not_wrap(tmp_path: Path, value: int) -> None:
    labels = np.zeros((4, 5), np.int64)
    labels[1, 1] = value
    tifffile.imwrite(tmp_path / "label.tif", labels)
    with pytest.raises(DataError, match=rf"label\.tif: labels from .*{value}"):
        ReadImaged("label", dtype="int32")({"label": tmp_path / "label.tif"})


def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    image = np.ones((4, 5), np.float32)
    image[2, 2] = np.nan
    tifffile.imwrite(tmp_path / "image.tif", image)
    with pytest.raises(DataError, match=r"image\.tif: 1 pixels are NaN or infinite"):
        ReadImaged("image")({"image": tmp_path / "image.tif"})


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "CMYK"])
def test_colour_asks_for_a_channel(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    picture = Image.new("RGB", (5, 4), (200, 100, 50)).convert(mode)
    picture.save(tmp_path / f"x.{suffix}")
    with pytest.raises(DataError, match=rf"x\.{suffix}: 3 channels .*channels=0 to 2.*luminance"):
        read_image(tmp_path / f"x.{suffix}")
    with pytest.raises(DataError, match=r"3 channels.*channels=0 to 2"):
        read_image(tmp_path / f"x.{suffix}", channels=3)
    red = read_image(tmp_path / f"x.{suffix}", channels=0)[0]
    assert red.shape == (4, 5)
    colours = np.asarray(picture.convert("RGB"), np.float64)
    assert np.array_equal(red, colours[..., 0])
    grey = read_image(tmp_path / f"x.{suffix}", channels="luminance")[0]
    assert np.allclose(grey, colours @ [0.299, 0.587, 0.114])


def test_a_channel_that_no_image_has_is_refused(tmp_path: Path) -> None:
    counts = {"train": 3, "val": 1, "test": 1}
    write_touching_cells(tmp_path, counts, size=(32, 32), large=(32, 32))
    grey, images = tmp_path, tmp_path / "train" / "images"
    asks = [lambda c: find_data(grey, channels=c), lambda c: images_in(images, channels=c)]
    for ask in asks:
        for taken in (None, 0, "luminance"):
            ask(taken)
        with pytest.raises(DataError, match=": one channel; expected a channel that is there"):
            ask(1)
    # beside an image of colours a grey one is itself
    Image.fromarray(np.zeros((32, 32, 3), np.uint8) + np.uint8([1, 2, 3])).save(images / "c.png")
    assert len(images_in(images, channels=1)) == 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_grey_stored_as_colour_is_grey(tmp_path: Path, mode: str) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(grey).convert(mode).save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png")[0], grey)


def test_one_pair_cannot_be_validated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least 2"):
        find_data(pairs(tmp_path, ("a",)))


def test_images_to_segment_are_found_one_or_many(tmp_path: Path) -> None:
    folder = pairs(tmp_path) / "images"
    (folder / "notes.txt").write_text("not an image")
    assert [Path(i["image"]).name for i in images_in(folder)] == ["a.tif", "b.tif", "c.tif"]
    assert len(images_in(folder / "b.tif")) == 1
    for wrong in (tmp_path / "nothing", tmp_path):
        with pytest.raises(
            DataError, match=r"no such file or folder|in it, but in .*/images; give"
        ):
            images_in(wrong)


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.nii.gz"])
def test_what_was_written_is_read_with_its_size(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    if name.endswith("png"):
        Image.fromarray(array).save(path)
    elif name.endswith("tif"):
        tifffile.imwrite(path, array, compression="lzw")
    else:
        array = array.reshape(3, 2, 2)
        nibabel.Nifti1Image(array, affine).to_filename(path)
    dims = array.ndim
    found, meta = read_image(path, dims)
    assert np.array_equal(found, array)
    assert found.dtype == np.uint8
    assert open_view(path, dims).shape == array.shape
    assert stem(path) == "x"
    tensor = ReadImaged("image", spatial_dims=dims)({"image": str(path)})["image"]
    assert tuple(tensor.shape) == (1, *array.shape)
    assert tensor.meta["filename_or_obj"] == str(path)
    if name.endswith("gz"):
        assert np.allclose(tensor.affine, affine)
        assert "affine" in meta


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.nii.gz"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"II*\x00garbage")
    for read in (read_image, open_view):
        with pytest.raises(DataError, match=name):
            read(path)


def test_labels_of_floats_are_taken_if_they_are_whole(tmp_path: Path) -> None:
    """As a scale factor in a NIfTI header makes them."""
    cells = np.random.default_rng(0).integers(0, 9, (4, 5, 2))
    for kind in ("f2", "f4", "f8"):
        tifffile.imwrite(tmp_path / "label.tif", cells[..., 0].astype(kind))
        found, _ = read_label(tmp_path / "label.tif")
        assert found.dtype == np.int32
        assert np.array_equal(found, cells[..., 0])
    nibabel.save(nibabel.Nifti1Image(cells.astype(np.int16), np.eye(4)), tmp_path / "label.nii")
    header = bytearray((tmp_path / "label.nii").read_bytes())
    header[112:120] = np.array([3, 0], "<f4").tobytes()  # slope and intercept
    (tmp_path / "label.nii").write_bytes(header)
    found, _ = read_label(tmp_path / "label.nii", 3)
    assert found.dtype == np.int32
    assert np.array_equal(found, 3 * cells)
    for odd in (0.5, np.nan, np.inf):
        tifffile.imwrite(tmp_path / "label.tif", np.full((4, 5), odd, np.float32))
        with pytest.raises(DataError, match=r"label.tif: labels of float32; expected integers"):
            read_label(tmp_path / "label.tif")
    tifffile.imwrite(tmp_path / "label.tif", np.full((4, 5), 3e9, np.float32))
    with pytest.raises(DataError, match=r"label.tif: labels from 3000000000 to 3000000000"):
        read_label(tmp_path / "label.tif")
    tifffile.imwrite(tmp_path / "label.tif", np.full((4, 5), 0.5, np.float32))
    with pytest.raises(DataError, match=r"label.tif: labels of float32"):
        ReadImaged("label", dtype="int32")({"label": tmp_path / "label.tif"})


def test_generated_cells_are_seeded_varied_and_touching() -> None:
    image, labels = touching_cells(3)
    again, same = touching_cells(3)
    assert np.array_equal(image, again)
    assert np.array_equal(labels, same)
    assert not np.array_equal(labels, touching_cells(4)[1])
    areas = np.bincount(labels.ravel())[1:]
    assert len(areas) > 20
    assert areas.std() / areas.mean() > 0.3, "sizes vary"
    taken = labels[None].astype(np.int32)
    taken = taken[SeparateTouching()(taken) != taken]
    assert len(np.unique(taken)) > len(areas) / 4, "many cells touch"
    brightness = [image[labels == i].mean() for i in range(1, len(areas) + 1)]
    assert np.std(brightness) / np.mean(brightness) > 0.1, "brightness varies"
    dark = image[labels == 0]
    assert dark.std() > 3, "there is noise"


def test_a_generated_set_is_the_same_again(tmp_path: Path) -> None:
    counts = {"train": 2, "val": 1, "test": 1}
    digests = [
        find_data(write_touching_cells(tmp_path / name, counts, (64, 80), (90, 100), seed)).digest()
        for name, seed in (("one", 5), ("two", 5), ("three", 6))
    ]
    assert digests[0] == digests[1] != digests[2]
    assert tifffile.imread(tmp_path / "one" / "large" / "large.tif").shape == (90, 100)
