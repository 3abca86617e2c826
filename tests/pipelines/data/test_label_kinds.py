"""Labels that are not what they are said to be are refused, by everyone who takes labels."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from overtile.pipelines.data import facts as facts_module
from overtile.pipelines.data.facts import label_facts, touching_pairs
from overtile.pipelines.data.find import find_data, labelled_images
from overtile.pipelines.errors import OvertileError
from overtile.pipelines.reporting.look import look

Array = NDArray[Any]
KINDS = ("instances", "mask", "membranes")
ROW, COLUMN = np.mgrid[:32, :32]


@st.composite
def integer_images(draw: st.DrawFn) -> Array:
    """Noise of few or many values, cells, classes, masks, with a background or without."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(5, 6), (17, 23), (3, 4, 5)]))
    top = draw(st.sampled_from([0, 1, 2, 5, 255, 60000]))
    coarse = rng.integers(0, top + 1, shape)
    for axis in range(draw(st.integers(0, 2))):
        coarse = coarse.repeat(3, axis)
    image = np.where(rng.random(coarse.shape) < draw(st.sampled_from([0.0, 0.3])), 0, coarse)
    return (image + draw(st.integers(0, 1))).astype(np.uint16)


@settings(deadline=None, max_examples=60)
@given(integer_images())
def test_pieces_and_neighbours_are_those_of_a_pass_for_every_number(image: Array) -> None:
    around = np.ones((3,) * image.ndim)
    each = {int(n): ndimage.label(image == n, around)[1] for n in np.unique(image) if n}
    found = label_facts(image)
    assert (found.names, found.pieces) == (len(each), sum(each.values()))
    assert found.split == sum(count > 1 for count in each.values())
    pairs = set()
    for axis in range(image.ndim):
        for a, b in zip(
            np.moveaxis(image, axis, 0)[:-1].ravel(),
            np.moveaxis(image, axis, 0)[1:].ravel(),
            strict=True,
        ):
            if a != b and a and b:
                pairs.add((min(a, b), max(a, b)))
    assert sorted(map(tuple, touching_pairs(image))) == sorted(pairs)
    sizes = [n for i in each for n in np.bincount(ndimage.label(image == i, around)[0].flat)[1:]]
    assert found.specks == sum(size < 5 for size in sizes)
    numbers, counts = np.unique(image, return_counts=True)
    if len(numbers) > 1 and numbers[0] and counts[0] == counts.max():
        assert found.around == len({b for a, b in pairs if a == numbers[0]})
    else:
        assert found.around == 0


def test_grey_values_cost_no_pass_for_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    label = ndimage.label
    monkeypatch.setattr(ndimage, "label", lambda *a, **k: passes.append(1) or label(*a, **k))
    grey = np.random.default_rng(0).integers(0, 200, (100, 120))
    whole = label_facts(grey)
    assert len(passes) == 1
    monkeypatch.setattr(facts_module, "_AT_ONCE", 3000)
    parts = label_facts(grey)
    assert 0 < parts.pieces <= whole.pieces
    assert parts.split > 0.9 * whole.split


def data_set(folder: Path, labels: list[Array]) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number, label in enumerate(labels):
        image = np.arange(label.size).reshape(label.shape).astype(np.uint16)
        tifffile.imwrite(folder / f"images/{number}.tif", image, photometric="minisblack")
        tifffile.imwrite(folder / f"labels/{number}.tif", label, photometric="minisblack")
    return folder


def refusal(take: Any, *words: Any, **options: Any) -> str:
    try:
        take(*words, **options)
    except OvertileError as error:
        return str(error)
    return ""


def annotated(folder: Path, label: Path) -> str:
    """What the label server says to one label of its first image."""
    datastore = pytest.importorskip("overtile.pipelines.label.datastore")
    store = datastore.ImageFolderDatastore(folder / "images")
    return refusal(store.save_label, "0", str(label), "final", {})


# what `look` expects where it remarks on a label that is taken
REMARKED = ("at least one", "no cell is", "for every cell", "that differ", "pixels or more")


@settings(deadline=None, max_examples=25)
@given(integer_images().filter(lambda image: image.ndim == 2))
def test_any_integer_image_is_taken_or_refused_by_all_alike(image: Array) -> None:
    if not image.any():
        image = image + np.uint16(1)
    with tempfile.TemporaryDirectory() as made:
        folder = data_set(Path(made) / "set", [image] * 3)
        said = {}
        for kind in KINDS:
            options = {"labels": kind, "cache_dir": Path(made) / "cache"}
            said[kind] = refusal(find_data, folder, **options)
            assert refusal(labelled_images, folder, **options) == said[kind]
            suspicious = look(folder, labels=kind).suspicious
            seen = [str(e) for e in suspicious if not e.expected.endswith(REMARKED)]
            assert (said[kind] in seen) if said[kind] else not seen
        told = annotated(folder, folder / "labels/0.tif")
        assert bool(told) == bool(said["instances"])


def cells(number: int | None = None) -> Array:
    """Three cells, numbered, or all of one number."""
    found = np.zeros((32, 32), np.uint8)
    for n, (row, column) in enumerate([(6, 7), (20, 9), (15, 24)], 1):
        found[(ROW - row) ** 2 + (COLUMN - column) ** 2 < 16] = n if number is None else number
    return found


def few(number: int) -> Array:
    """Some more of them, five pixels wide, from 1 on."""
    found = np.zeros((32, 32), np.uint8)
    for n in range(number):
        row, column = 5 + 10 * (n // 3), 5 + 10 * (n % 3)
        found[(ROW - row) ** 2 + (COLUMN - column) ** 2 < 10] = n + 1
    return found


def through_jpeg(mask: Array, quality: int) -> Array:
    with BytesIO() as file:
        Image.fromarray(mask).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))


MASK = np.where(few(9), 255, 0).astype(np.uint8)
RIMS = few(2) * (ndimage.grey_erosion(few(2), size=(3, 3)) != few(2))
ONE = np.where(cells() == 1, 255, 0).astype(np.uint8)
GREY = np.random.default_rng(0).normal(100, 20, (32, 32)).astype(np.uint8)
TILES = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((8, 8), int))
SETS = {  # labels, and of which kind they are taken
    "instances": ([cells()] * 3, {"instances", "mask"}),
    "a partition": (
        [np.kron(np.arange(1, 17).reshape(4, 4), np.ones((8, 8), int))] * 3,
        {"instances"},
    ),
    "a mask": ([cells(255)] * 3, {"mask", "membranes"}),
    "one of few masks with several objects": ([ONE, ONE, cells(255)], {"mask", "membranes"}),
    "ilastik's 1 and 2": ([cells(1) + 1] * 3, set()),
    "an image": ([GREY] * 3, set()),
    "classes": ([np.tile(np.where(cells() == 1, 2, cells(1)), (1, 2))] * 3, {"mask"}),
    "a background that is 1": ([few(9) + 1] * 3, set()),
    "that of a crowd": ([np.maximum(TILES, 2) - (ROW == 9) * (TILES - 1)] * 3, {"instances"}),
    "inside and rim of two cells": ([np.where(RIMS, 2, few(2) > 0)] * 3, {"mask"}),
    "five types of nine cells": ([np.where(few(9), (few(9) - 1) % 5 + 1, 0)] * 3, {"mask"}),
    "distances": ([ndimage.distance_transform_cdt(few(9))] * 3, {"mask"}),
    "a mask in JPEG of 100": ([through_jpeg(MASK, 100)] * 3, set()),
    "a mask in JPEG of 95": ([through_jpeg(MASK, 95)] * 3, set()),
    "few steps at the edges": ([np.rint(4 * ndimage.uniform_filter(MASK / 255, 3))] * 3, set()),
    "all cell": ([np.ones((32, 32), np.uint8)] * 3, {"instances"}),
}


@pytest.mark.parametrize("name", SETS)
def test_what_labels_are_taken_for(tmp_path: Path, name: str) -> None:
    labels, taken = SETS[name]
    folder = data_set(tmp_path / "set", [label.astype(np.uint16) for label in labels])
    for kind in KINDS:
        said = refusal(find_data, folder, labels=kind, cache_dir=tmp_path / "cache")
        assert (not said) == (kind in taken), said
    assert bool(annotated(folder, folder / "labels/2.tif")) == ("instances" not in taken)


@pytest.mark.parametrize("case", ["ilastik_1_2", "label_tiff_jpeg", "plain"])
def test_labels_of_the_field(real_data: Path, tmp_path: Path, case: str) -> None:
    folder = real_data.parent / "cases" / "made" / case
    for kind in KINDS:
        said = refusal(find_data, folder, labels=kind, cache_dir=tmp_path)
        if case == "label_tiff_jpeg":  # none can be read
            assert refusal(look, folder, labels=kind).endswith(said)
            assert "j0.tif: a label in JPEG, which changes numbers" in said
            continue
        seen = [str(e) for e in look(folder, labels=kind).suspicious if e.expected]
        assert (said in seen) if said else not seen
        assert bool(said) == (case != "plain" or kind == "membranes"), said
