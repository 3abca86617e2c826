"""Which pixels of a label are annotated: what a file says, and what is taken for granted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from overtile.pipelines.data.facts import label_facts
from overtile.pipelines.data.find import find_data, labelled_images
from overtile.pipelines.errors import DataError
from overtile.pipelines.images.annotation import Annotation
from overtile.pipelines.images.read import number_cells, read_label
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.pipelines.reporting.look import as_text, look

LABELS = arrays(np.uint8, st.tuples(*[st.integers(2, 9)] * 2), elements=st.integers(0, 4))


@settings(deadline=None)
@given(LABELS)
def test_a_number_for_what_is_not_annotated_may_be_any(drawn: np.ndarray) -> None:
    """255 of uint8, -1 of int16, 65535 of uint16: the same label."""
    gaps = drawn == 4
    expected = np.where(gaps, -1, drawn.astype(int))
    for dtype, number in ((np.uint8, 255), (np.int16, -1), (np.uint16, 65535), (np.uint8, 4)):
        stored = np.where(gaps, number, drawn.astype(int)).astype(dtype)
        found = Annotation(ignore=number).of("a.tif", stored)
        assert found.dtype.kind in "iu"
        assert np.array_equal(found, expected)
        facts = label_facts(found)
        kept = drawn[~gaps]
        assert (facts.ignored, facts.background) == (gaps.sum(), (kept == 0).sum())
        assert (facts.cells, facts.names) == ((kept > 0).sum(), len(np.unique(kept[kept > 0])))


@settings(deadline=None)
@given(LABELS, st.floats(0.5, 6))
def test_a_band_is_as_far_from_cells_as_it_says(drawn: np.ndarray, band: float) -> None:
    cells = np.where(drawn > 2, drawn, 0)
    band = min(band, max(cells.shape))
    found = Annotation(unlabelled="band", band=band).of("a.tif", cells)
    places = np.argwhere(cells > 0)
    for pixel in np.ndindex(cells.shape):
        far = not len(places) or np.sqrt(((places - pixel) ** 2).sum(1)).min() > band
        assert found[pixel] == (-1 if far else cells[pixel])


def test_components_are_numbered_beside_gaps() -> None:
    mask = np.array([[7, 7, -1, 7], [0, 0, -1, 7]])
    assert number_cells(mask).tolist() == [[1, 1, -1, 2], [0, 0, -1, 2]]


def folder(home: Path, label: np.ndarray) -> Path:
    for kind, array in (("images", np.arange(label.size).reshape(label.shape)), ("labels", label)):
        (home / kind).mkdir(parents=True)
        for name in "ab":
            tifffile.imwrite(home / kind / f"{name}.tif", array.astype(label.dtype))
    return home


def test_what_is_not_annotated_is_the_same_for_all_who_read_labels(tmp_path: Path) -> None:
    label = np.zeros((12, 10), np.uint16)
    label[2:5, 2:5], label[6:9, 5:8], label[:, 8:] = 1, 2, 255
    home = folder(tmp_path / "set", label)
    data = find_data(home, ignore=255, cache_dir=tmp_path)
    facts = data.facts.label(**data.train[0])
    assert (facts.ignored, facts.cells, facts.background) == (24, 18, 78)
    assert data.class_weights() == pytest.approx((96 / (2 * 78), 96 / (2 * 18)))
    assert labelled_images(home, ignore=255, cache_dir=tmp_path)[0] == data.train[0]
    read = ReadImaged(["image", "label"], ("float32", "int32"), ignore=255)(data.train[0])
    expected = np.where(label == 255, -1, label.astype(int))
    assert np.array_equal(read["label"][0].numpy(), expected)
    found = look(home, annotation=Annotation(255), picture=tmp_path / "sheet.png")
    assert found.instances == 4
    assert found.ignored_fraction == 0.2
    assert "not annotated   20.0% of the pixels" in as_text(found)


@pytest.mark.parametrize(
    ("annotation", "stored", "told"),
    [
        (Annotation(), -1, "labels from -1 to 3; expected 0 (background) to 2147483647"),
        (Annotation(ignore=-2), -1, "labels from -1 to 3"),
        (Annotation(unlabelled="band", band=50), 0, "wider than the image of 6x5 pixels"),
    ],
)
def test_what_cannot_be_meant_costs_one_line(
    annotation: Annotation, stored: int, told: str, tmp_path: Path
) -> None:
    label = np.zeros((6, 5), np.int16)
    label[1, 1], label[2, 2] = 3, stored
    tifffile.imwrite(tmp_path / "l.tif", label)
    with pytest.raises(DataError) as error:
        read_label(tmp_path / "l.tif", annotation=annotation)
    assert str(error.value).startswith(f"{tmp_path / 'l.tif'}: ")
    assert told in str(error.value)
    assert ("ignore=-1" in str(error.value)) == (annotation == Annotation())


def test_labels_without_any_background_say_which_setting_helps(tmp_path: Path) -> None:
    label = np.zeros((12, 10), np.uint8)
    label[2:5, 2:5] = 1
    with pytest.raises(DataError, match=r"no background in it.*unlabelled='?band"):
        find_data(folder(tmp_path / "set", label), unlabelled="ignore", cache_dir=tmp_path)
