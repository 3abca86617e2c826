"""Labels of classes: which there are, what they are called, and what is no class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from overtile.pipelines.data.facts import label_facts
from overtile.pipelines.data.find import DataSet, find_data, labelled_images
from overtile.pipelines.errors import DataError
from overtile.pipelines.images.annotation import Annotation
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.pipelines.reporting.look import as_text, look

ORGANS = np.zeros((20, 16), np.uint8)
ORGANS[2:8, 2:9], ORGANS[10:16, 3:7], ORGANS[12:15, 10:14] = 1, 2, 2


def write(folder: Path, *labels: NDArray[Any], suffix: str = ".tif") -> Path:
    for number, label in enumerate(labels):
        for kind, array in (("images", label * 50), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            path = folder / kind / f"{number}{suffix}"
            if suffix == ".tif":
                tifffile.imwrite(path, array)
            elif suffix == ".png":
                picture = Image.fromarray(array)
                if kind == "labels":  # indexed colours, as labelling tools write them
                    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200] + [7] * 759)
                picture.save(path)
            else:
                nibabel.save(nibabel.Nifti1Image(array[:, :, None], np.eye(4)), path)
    return folder


def classes_in(folder: Path, **options: Any) -> DataSet:
    return find_data(folder, labels="classes", cache_dir=folder.parent / "cache", **options)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".nii.gz"])
def test_classes_are_numbers_of_any_format(suffix: str, tmp_path: Path) -> None:
    data = classes_in(write(tmp_path / "set", ORGANS, ORGANS, suffix=suffix))
    assert data.classes == ("background", "1", "2")
    read = ReadImaged(["image", "label"], ("float32", "int32"), labels="classes")(data.train[0])
    assert np.array_equal(read["label"][0].numpy(), ORGANS)
    facts = data.facts.label(**data.train[0])
    assert facts.counts == tuple(np.bincount(ORGANS.ravel()))
    assert facts.parts == (0, 1, 2)


@pytest.mark.parametrize(
    "described",
    [
        {"labels": {"0": "background", "1": "liver", "2": "spleen"}},  # the Decathlon's
        {"labels": {"background": 0, "liver": 1, "spleen": 2}},  # nnU-Net's
        {"labels": {"spleen": 2, "liver": 1, "background": 0, "ignore": 3}},
    ],
)
def test_names_come_from_the_description_or_the_user(
    described: dict[str, Any], tmp_path: Path
) -> None:
    hidden = ORGANS.copy()
    hidden[:, :2] = 3 if "ignore" in described["labels"] else 0
    folder = write(tmp_path / "set", hidden, ORGANS)
    (folder / "dataset.json").write_text(json.dumps(described))
    data = classes_in(folder)
    assert data.classes == ("background", "liver", "spleen")
    assert data.facts.label(**data.train[0]).ignored == (hidden == 3).sum()
    if "ignore" not in described["labels"]:
        assert classes_in(folder, class_names=["a", "b", "c"]).classes == ("a", "b", "c")
        assert classes_in(folder, class_names=list("abcd")).classes == tuple("abcd")


@pytest.mark.parametrize(
    ("described", "told"),
    [
        ("{", "no JSON"),
        ({"labels": {"background": 0, "tumour": [1, 2]}}, "'tumour' is a region of several"),
        ({"labels": {"background": 0, "liver": 2}}, "classes [0, 2]; expected 0 to 1"),
        ({"labels": {"background": 0, "liver": "one"}}, "class 'liver' is 'one'"),
        ({"labels": {"0": "a", "1": "a"}}, "two classes called 'a'"),
        ({"labels": {"background": 0}}, "expected at least two names"),
        ({"modality": {"0": "MRI"}}, "no labels in it"),
    ],
)
def test_a_description_of_something_else_costs_one_line(
    described: Any, told: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "set", ORGANS, ORGANS)
    text = described if isinstance(described, str) else json.dumps(described)
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError) as error:
        classes_in(folder)
    assert str(error.value).startswith(f"{folder / 'dataset.json'}: ")
    assert told in str(error.value)


def test_a_number_that_is_no_class_is_named_with_its_place(tmp_path: Path) -> None:
    wrong = ORGANS.copy()
    wrong[17, 5] = 7
    folder = write(tmp_path / "set", ORGANS, wrong, ORGANS)
    for find in (classes_in, lambda *a, **k: labelled_images(*a, labels="classes", **k)):
        with pytest.raises(DataError) as error:
            find(folder, class_names=["background", "liver", "spleen"])
        told = str(error.value)
        assert told.startswith(
            f"{folder / 'labels' / '1.tif'}: 7 at (17, 5); expected 0 background"
        )
        assert "ignore=7" in told
    found = look(folder, labels="classes", class_names=["background", "liver", "spleen"])
    assert any("7 at (17, 5)" in str(remark) for remark in found.suspicious)
    with pytest.raises(DataError, match=r"no 3, 4, 5, 6; expected classes numbered from 0"):
        classes_in(folder)


def test_a_look_and_a_training_agree_on_what_is_ignored(tmp_path: Path) -> None:
    hidden = ORGANS.copy()
    hidden[:, :2] = 3
    folder = write(tmp_path / "set", hidden, ORGANS)
    described = {"labels": {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}}
    (folder / "dataset.json").write_text(json.dumps(described))
    found = look(folder, labels="classes")
    assert found.suspicious == []
    assert found.ignored_fraction == (hidden == 3).sum() / (2 * hidden.size)
    assert list(found.classes) == ["liver", "spleen"]


def test_a_class_that_only_tests_have_is_suspicious(tmp_path: Path) -> None:
    more = ORGANS.copy()
    more[0, 5] = 3
    for split, label in (("train", ORGANS), ("val", ORGANS), ("test", more)):
        write(tmp_path / "set" / split, label)
    found = look(tmp_path / "set", labels="classes")
    assert any("3 at (0, 5)" in str(remark) for remark in found.suspicious)
    with pytest.raises(DataError, match=r"3 at \(0, 5\)"):
        classes_in(tmp_path / "set")


def test_what_is_ignored_is_no_class(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", ORGANS, ORGANS)
    names = ["background", "liver", "spleen"]
    with pytest.raises(DataError, match="ignore: 1, which is the class liver; expected a number"):
        classes_in(folder, class_names=names, ignore=1)
    cells = ndimage.label(ORGANS)[0].astype(np.uint8)
    with pytest.raises(DataError, match="no background in it"):
        find_data(write(tmp_path / "cells", cells, cells), ignore=0, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (np.arange(400, dtype=np.uint16).reshape(20, 20), "classes, 0 to at most 255"),
        (ORGANS + np.uint8(1), "subtract 1, if 1 is the background"),
        (np.zeros_like(ORGANS), "expected at least two names|no class above 0|fewer"),
    ],
)
def test_what_is_no_label_of_classes_is_refused(
    label: NDArray[Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=told):
        classes_in(write(tmp_path / "set", label, label))


def test_names_of_other_kinds_of_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels='?classes"):
        find_data(write(tmp_path / "set", ORGANS, ORGANS), labels="mask", class_names=["a", "b"])


def test_a_look_has_a_table_of_classes_and_three_sections_of_volumes(tmp_path: Path) -> None:
    volume = np.zeros((14, 12, 10), np.int16)
    volume[2:5, 2:5, 2:5], volume[8:12, 6:9, 5:8], volume[0, 0] = 1, 2, -1
    other = np.where(volume == 2, 0, volume)
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for name, label in (("a", volume), ("b", other)):
            array = label if kind == "labels" else np.arange(label.size).reshape(label.shape)
            image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([1.0, 1, 3, 1]))
            nibabel.save(image, tmp_path / "set" / kind / f"{name}.nii.gz")
    sheet = tmp_path / "sheet.png"
    found = look(tmp_path / "set", "auto", "classes", 3, None, sheet, Annotation(-1))
    assert found.classes == {"1": (54, 2, 2, 0), "2": (36, 1, 1, 1)}
    assert found.as_dict()["classes"]["2"] == {"pixels": 36, "pieces": 1, "labels": 1, "lacking": 1}
    assert "class 2         36 voxels in 1 piece; 1 of 2 lack it" in as_text(found)
    assert "not annotated" in as_text(found)
    with Image.open(sheet) as picture:
        assert picture.width > picture.height


def test_counts_are_those_of_a_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        label = rng.integers(-1, 5, (9, 7))
        facts = label_facts(label)
        for number, (count, first, parts) in enumerate(
            zip(facts.counts, facts.firsts, facts.parts, strict=True)
        ):
            assert count == (label == number).sum()
            assert first == (np.flatnonzero(label == number)[0] if count else -1)
            pieces = ndimage.label(label == number, np.ones((3, 3)))[1]
            assert parts == (pieces if number else 0)


def test_a_network_is_not_scored_on_classes_in_another_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", ORGANS, ORGANS)
    described = {"labels": {"background": 0, "liver": 1, "spleen": 2}}
    (folder / "dataset.json").write_text(json.dumps(described))
    of_network = {"labels": "classes", "cache_dir": tmp_path / "cache"}
    with pytest.raises(DataError, match=r"'liver' is class 1, and class 2 in class_names.*spleen"):
        labelled_images(folder, class_names=["background", "spleen", "liver"], **of_network)
    for names in (["background", "liver", "spleen"], ["background", "Leber", "Milz"]):
        assert len(labelled_images(folder, class_names=names, **of_network)) == 2
