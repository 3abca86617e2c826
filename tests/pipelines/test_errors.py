"""Errors carry parts, which each front end words; nothing is lost of them on the way."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from overtile.networks import ArgumentError, GeometryError, TileGeometry
from overtile.pipelines.data.facts import FactBook
from overtile.pipelines.data.find import items_of
from overtile.pipelines.data.layout import Pair
from overtile.pipelines.errors import (
    HAND_OVER,
    DataError,
    OvertileError,
    Setting,
    exit_with,
    hand_over,
    handed_over,
    users_mistake,
)

ROOT = Path(__file__).parents[2]
TREES = {
    file: ast.parse(file.read_text())
    for room in ("networks", "transforms", "pipelines")
    for file in sorted((ROOT / room).rglob("*.py"))
}


def our_kinds() -> set[str]:
    """Names of the classes of errors that are told to users."""
    kinds, before = {"OvertileError", "ArgumentError"}, 0
    classes = [n for t in TREES.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)]
    while len(kinds) > before:
        before = len(kinds)
        kinds |= {c.name for c in classes if kinds & {ast.unparse(base) for base in c.bases}}
    return kinds


def made() -> Iterator[tuple[str, ast.Call]]:
    """Every place in which such an error is made."""
    kinds = our_kinds()
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in kinds:
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def test_every_error_says_what_was_expected_or_what_to_do() -> None:
    places = list(made())
    assert len(places) > 300  # the search finds them
    # the first part of others is where
    least = dict.fromkeys(("ArgumentError", "ClassesError", "GeometryError"), 2)
    bare = [
        place
        for place, call in places
        if len(call.args) < least.get(ast.unparse(call.func), 3)
        and not {"expected", "hint"} & {word.arg for word in call.keywords}
        and not any(isinstance(argument, ast.Starred) for argument in call.args)  # another's parts
    ]
    # the lines of chunks that were left out: nothing is to be done about them
    assert [place.partition(":")[0] for place in bare] == ["pipelines/segment/job.py"], bare


def test_no_error_of_an_argument_is_bare_text() -> None:
    raised = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if file.relative_to(ROOT).parts[0] in ("networks", "transforms")
        and isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("ValueError", "TypeError")
    ]
    assert not raised


WORDS = st.text(st.characters(categories=("L", "N"), include_characters=" /:;"), max_size=9)
PATHS = WORDS.map(lambda text: Path("/data") / text.strip("/ "))
PARTS = WORDS | PATHS | st.lists(WORDS | PATHS, max_size=4).map(tuple)
SETTINGS = st.builds(Setting, WORDS, WORDS | st.integers() | st.booleans(), WORDS)
HINTS = WORDS | SETTINGS | st.lists(WORDS | SETTINGS, max_size=3).map(tuple)
ERRORS = st.builds(DataError, PARTS, PARTS, WORDS, HINTS)


@given(ERRORS)
def test_the_parts_survive_another_process(
    tmp_path_factory: pytest.TempPathFactory, error: OvertileError
) -> None:
    file = tmp_path_factory.mktemp("left") / "mistake.json"
    assert handed_over(file) is None
    hand_over(error, file)
    told, again = handed_over(file), pickle.loads(pickle.dumps(error))
    for other in (told, again):
        assert other is not None
        assert (other.where, other.found, other.expected) == (
            error.where,
            error.found,
            error.expected,
        )
        assert other.hint == error.hint
        moved = [e.moved(lambda p: Path("there") / p.name).worded() for e in (error, other)]
        assert moved[0] == moved[1]


def test_paths_are_told_as_a_front_end_wants_and_words_stay() -> None:
    home = Path("/archive/cells")
    error = DataError(home / "a.tif", (f"in {home}, as", home / "b.tif", "is"), "one")
    moved = error.moved(lambda p: p.relative_to(home)).within("chunk 0")
    assert str(moved) == "chunk 0: a.tif: in /archive/cells, as b.tif is; expected one"
    assert str(error.advising("mend it")) == f"{error}: mend it"


def test_what_a_network_refuses_keeps_its_parts() -> None:
    with pytest.raises(GeometryError) as caught:
        TileGeometry.unet(4).check(512, "tile")
    error = caught.value
    assert isinstance(error, ArgumentError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    told = users_mistake(RuntimeError("of MONAI", error)) or users_mistake(error)
    assert told is not None
    assert (told.found, told.expected, told.hint) == (error.found, error.expected, (error.hint,))
    assert told.__cause__ is error


def test_a_command_hands_its_mistake_over_instead_of_wording_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mistake.json"
    monkeypatch.setenv(HAND_OVER, str(file))
    with pytest.raises(SystemExit, match="2"):
        exit_with(DataError("a.tif", "broken", hint=Setting("skip_unreadable", True)))
    assert capsys.readouterr().err == ""
    told = handed_over(file)
    assert told is not None
    assert told.hint == (Setting("skip_unreadable", True),)


def broken(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Pairs of image and label that cannot be used, each in a way of its own."""
    good, cells = np.arange(64, dtype=np.uint8).reshape(8, 8), np.eye(8, dtype=np.uint16)
    save = tifffile.imwrite
    for name, image, label in (
        ("small", good, cells[:4]),
        ("planes", good, np.stack([cells, cells])),
        ("colours", np.random.default_rng(0).integers(0, 9, (8, 8, 3), np.uint8), cells),
        ("nan", np.full((8, 8), np.nan, np.float32), cells),
        ("floats", good, cells / 3),
        ("negative", good, -cells.astype(np.int16)),
        ("complex", good.astype(np.complex64), cells),
    ):
        image_file, label_file = folder / f"{name}.tif", folder / f"{name}_masks.tif"
        save(image_file, image, photometric="rgb" if name == "colours" else "minisblack")
        save(label_file, label, photometric="minisblack")
        yield image_file, label_file
    label = folder / "small_masks.tif"
    for name in ("text.png", "text.tif", "text.nii", "text.jpg", "text.dcm"):
        (folder / name).write_text("no image")
        yield folder / name, label
    whole = (folder / "small.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[:-40])
    yield folder / "cut.tif", label
    yield folder / "missing.tif", label
    flat, turned = (nibabel.Nifti1Image(cells, np.diag(d)) for d in ((1, 1, 1, 1), (9, 9, 9, 1)))
    for name, volume in (("a.nii", flat), ("b.nii", turned)):
        nibabel.save(volume, folder / name)
    yield folder / "a.nii", folder / "b.nii"


def test_no_fault_of_a_file_tells_where_a_server_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "secret"
    folder.mkdir()
    count = 0
    for image, label in broken(folder):
        with pytest.raises(DataError) as caught:
            items_of(Pair(image, label), FactBook(None, folder))
        error = caught.value
        told = error.moved(lambda p: p.relative_to(folder)).worded()
        assert str(folder) not in told, told
        assert image.name in told or label.name in told
        assert str(folder) in str(error)  # whoever is at home is told where
        count += 1
    assert count == 15
