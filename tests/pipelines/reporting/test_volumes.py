"""Volumes and classes: what is stored of them, and what a browser shows of the page of a run."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from browser import PAINTED, Page, chromium, opened
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.metrics.sections import sections_first
from overtile.pipelines.reporting import figures
from overtile.pipelines.reporting.colours import (
    ERROR_COLOURS,
    HATCH,
    PALETTE,
    class_colours,
    class_label,
    numbered_colours,
    palette,
)
from overtile.pipelines.reporting.grid import Grid, grid_of, plain_grid
from overtile.pipelines.reporting.predictions import Layers, compare, layers_of, load, store
from overtile.pipelines.reporting.report import write_report
from overtile.pipelines.reporting.tables import (
    PREDICTIONS,
    prediction_file,
    results_of,
    write_scored,
)

NAMES = ("background", "liver <b>", "$spleen$", "3")


def organs(seed: int, shape: tuple[int, ...] = (6, 10, 14), last: int = 3) -> NDArray[np.int32]:
    """Blocks of classes that touch each other, and the border of the volume."""
    coarse = np.random.default_rng(seed).integers(0, last + 1, [-(-n // 3) for n in shape])
    fine = coarse.astype(np.int32)
    for axis, length in enumerate(shape):
        fine = fine.repeat(3, axis).take(range(length), axis)
    return fine


# --- colours -----------------------------------------------------------------------------------

# of linear light, as someone without one kind of cone sees it (Viénot, Brettel and Mollon 1999)
_MISSING = {
    "none": np.eye(3),
    "red": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "green": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


def lab(colour: tuple[int, int, int], missing: str) -> NDArray[np.float64]:
    """A colour in CIE L*a*b*, in which distances are differences that are seen."""
    channels = np.array(colour) / 255
    linear = np.where(channels > 0.04045, ((channels + 0.055) / 1.055) ** 2.4, channels / 12.92)
    light = np.clip(np.array(_MISSING[missing]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ light / [0.9505, 1, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    found: NDArray[np.float64] = np.array(
        [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]
    )
    return found


def test_a_class_has_its_colour_whatever_others_there_are() -> None:
    colours = class_colours(255)
    assert len(set(colours)) == 255
    for count in (0, 1, 7, 8, 40):
        assert class_colours(count) == colours[:count]
    label = np.array([[0, 3, 3], [1, 0, 12]])
    drawn = np.rint(figures.coloured(label, classes=True) * 255).astype(int)
    for number in (1, 3, 12):
        assert (drawn[label == number] == colours[number - 1]).all()
    assert not drawn[label == 0].any()


@pytest.mark.parametrize("missing", _MISSING)
def test_the_first_classes_are_told_apart_with_any_colour_vision(missing: str) -> None:
    seen = [lab(colour, missing) for colour in class_colours(len(PALETTE))]
    for n, one in enumerate(seen):
        for other in seen[:n]:
            assert np.linalg.norm(one - other) > 15


def test_a_class_is_called_by_its_name_or_number() -> None:
    told = [class_label(n, ("background", "liver", "2")) for n in range(4)]
    assert told == ["background", "liver", "class 2", "class 3"]


def test_cells_of_a_volume_have_no_colour_of_a_neighbour() -> None:
    rng = np.random.default_rng(2)
    seeds = rng.uniform(0, 24, (60, 3))
    places = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), axis=-1)
    cells = np.linalg.norm(places[..., None, :] - seeds, axis=-1).argmin(-1) + 1
    colours = numbered_colours(cells).astype(int)
    for step in product((0, 1), repeat=3):
        one = tuple(slice(None, -s or None) for s in step)
        other = tuple(slice(s, None) for s in step)
        assert not ((cells[one] != cells[other]) & (colours[one] == colours[other])).any()


# --- layers ------------------------------------------------------------------------------------


def test_volumes_of_classes_come_back_from_their_file(tmp_path: Path) -> None:
    label, found = organs(0) - 1, organs(1)
    grid = Grid((3.0, 0.5, 0.75), (True, False, True))
    layers = layers_of("a.nii", label * 2.5, label, None, None, found, NAMES, grid)
    store(layers, tmp_path / "00000.npz")
    again = load(tmp_path / "00000.npz")
    assert (again.grid, again.class_names, again.size) == (grid, NAMES, (6, 10, 14))
    assert np.array_equal(again.label, np.maximum(label, 0))
    assert np.array_equal(again.gaps, label < 0)
    assert np.array_equal(again.classes, found)
    assert (again.errors, again.counts) == (None, {})


def test_large_volumes_are_thinned_along_their_longest_sides() -> None:
    label = organs(3, (5, 60, 40))
    grid = Grid((4.0, 1.0, 1.5), (False,) * 3)
    image = np.arange(label.size, dtype=float).reshape(label.shape)
    layers = layers_of("a", image, label, None, None, label, NAMES, grid, voxels=5 * 30 * 30)
    assert layers.image.shape == (5, 30, 30)
    assert layers.size == (5, 60, 40)
    assert layers.grid.spacing == (4.0, 2.0, 1.5 * 40 / 30)
    columns = ((np.arange(30) + 0.5) * 40 / 30).astype(int)
    assert np.array_equal(layers.classes, label[:, 1::2][:, :, columns])
    even = layers_of("a", image, voxels=5 * 30 * 20, side=30).image
    assert even.shape == (5, 24, 24)
    half = layers_of("a", image[:, :, :30], side=30).image
    mean = (image[:, ::2, :30] + image[:, 1::2, :30]) / 2
    low, high = np.percentile(image[:, :, :30], [0.5, 99.8])
    assert np.abs(half - np.clip((mean - low) / (high - low), 0, 1) * 255).max() <= 1.5
    assert layers_of("a", image, side=2**20, voxels=label.size).image.shape == label.shape


def test_the_section_that_is_shown_first_has_most_of_the_label() -> None:
    label = np.zeros((9, 8, 7), int)
    label[6, 1:4, 2], label[7, 1, 2] = 2, 1
    image = label * 1.0
    layers = layers_of("a", image, label, classes=np.ones_like(label))
    assert [layers.telling(axis) for axis in range(3)] == [6, 1, 2]
    empty = np.zeros_like(label)
    assert layers_of("a", image, empty, classes=label).telling(0) == 6, "of the prediction"
    assert layers_of("a", image, empty, classes=empty).telling(0) == 4
    assert layers_of("a", image, label, instances=label).telling(0) == 4, "of cells the middle"
    section = layers.section()
    assert np.array_equal(section.label, label[6])
    assert section.grid == plain_grid(2)


@pytest.mark.parametrize("codes", ["".join(c) for c in product("RL", "AP", "SI")])
def test_volumes_that_lie_in_space_are_drawn_with_front_and_head_up(codes: str) -> None:
    volume = np.random.default_rng(1).integers(0, 255, (4, 5, 6)).astype(np.uint8)
    standing = nibabel.Nifti1Image(volume, np.diag([0.5, 1, 2, 1]))  # right, front, head
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(tuple(codes))
    )
    turned = standing.as_reoriented(turn)
    stored = np.asanyarray(turned.dataobj)
    grid = grid_of({"axes": "XYZ", "affine": turned.affine}, 3)
    assert grid.spacing == (2, 1, 0.5)
    array = sections_first(stored, "XYZ")
    right = volume if codes[0] == "R" else volume[::-1]  # columns stay as they are
    head = 2 if codes[2] == "S" else 3
    assert np.array_equal(grid.section(array, 0, head), right[:, ::-1, 2].T)
    front = 4 if codes[1] == "A" else 0
    assert np.array_equal(grid.section(array, 1, front), right[:, 4, ::-1].T)
    assert grid.aspect(1) == 4
    assert grid_of({"axes": "ZYX", "affine": turned.affine}, 3).upwards == (False,) * 3
    assert grid_of({"axes": "XYZ"}, 3) == plain_grid(3)


def test_a_scoring_of_classes_stores_what_was_found_with_its_spacing(tmp_path: Path) -> None:
    import torch
    from monai.data import DataLoader, Dataset
    from monai.engines import SupervisedEvaluator

    from overtile.pipelines.images.read_transform import ReadImaged
    from overtile.pipelines.inference.evaluation import draw_cases, score

    label = organs(0)  # sections first; the file has its columns first
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label.T.astype(np.int16), np.diag([0.5, 1, 3, 1])), path)
    item = {"image": str(path), "label": str(path)}
    read = ReadImaged(
        ["image", "label"], ("float32", "int32"), spatial_dims=3, labels="classes", ignore=3
    )

    def found(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "classes": (data["image"] + 1) % 4}

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([item], read), batch_size=1),
        network=torch.nn.Identity(),
        postprocessing=found,
    )
    folder = tmp_path / "out"
    with results_of(folder) as results:
        score(evaluator, {}, results, {}, NAMES)
    layers = load(prediction_file(folder / PREDICTIONS, 0))
    assert np.array_equal(layers.classes, (label + 1) % 4)
    assert np.array_equal(layers.label, np.where(label == 3, 0, label))
    assert np.array_equal(layers.gaps, label == 3)
    assert (layers.class_names, layers.grid.spacing) == (NAMES, (3, 1, 0.5))
    assert layers.grid.upwards == (True, True, False)
    assert draw_cases(folder) is None, "without a score none is the best"
    for draw in (figures.cases, figures.predictions):
        figure = draw([figures.Case("$a$", layers)])
        panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        assert {axes.get_aspect() for axes in panels} == {2.0}, "pixels twice as high as wide"
        legends = [axes.get_legend() for axes in panels]
        told = [[text.get_text() for text in one.get_texts()] for one in legends if one]
        assert told[0] == ["liver <b>", "$spleen$", "class 3"]
        figures.save(figure, tmp_path / "figure.png", 50)
        section = layers.section()
        expected = (section.label != section.classes)[section.gaps == 0].mean()
        assert panels[-1].get_title() == f"errors: {expected:.1%} of the pixels"


# --- the page ----------------------------------------------------------------------------------


def write_run(folder: Path, all_layers: list[Layers]) -> Path:
    """The page of a run that scored these, the first with the worst score."""
    with results_of(folder) as results:
        (results / PREDICTIONS).mkdir()
        names = [layers.name for layers in all_layers]
        rows = [{"image": name, "class_dice": n / 10} for n, name in enumerate(names)]
        told = {"images": len(rows), "scores": {"class_dice": 0.5}, "key_metric": "class_dice"}
        write_scored(results, rows, told | {"lower_is_better": False})
        for number, layers in enumerate(all_layers):
            store(layers, prediction_file(results / PREDICTIONS, number))
        write_report(results, name="run")
    return folder / "report.html"


def block(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found is not None, name
    return json.loads(found[1])


def unpacked(shown: dict[str, Any], name: str) -> NDArray[np.uint8]:
    flat = np.frombuffer(zlib.decompress(base64.b64decode(shown["arrays"][name])), np.uint8)
    if name in ("image", "probability"):
        flat = np.cumsum(flat, dtype=np.uint8)
    return flat.reshape(shown["shape"])


def classes_of(name: str, seed: int, gap: bool = False, **more: Any) -> Layers:
    label, found = organs(seed), organs(seed)
    found[:, 1:8, 2:11] = (found[:, 1:8, 2:11] + 1) % 4
    if gap:
        label[:, 7:, 10:] = -1
    image = np.random.default_rng(seed).normal(size=label.shape)
    return layers_of(name, image, label, None, None, found, NAMES, **more)


def test_the_page_has_the_stored_numbers_and_asks_for_nothing(tmp_path: Path) -> None:
    layers = [classes_of("a.nii", 0), classes_of("b.nii", 5, gap=True)]
    page = write_run(tmp_path / "run", layers).read_text()
    for number, stored in enumerate(layers):
        shown = block(page, f"image-{number}")
        names = ["image", "classes", "label"] + ["gaps"] * number
        assert list(shown["arrays"]) == names
        for name in names:
            assert np.array_equal(unpacked(shown, name), getattr(stored, name)), name
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "<b>" not in page, "names are text"
    expected = zip(("liver <b>", "$spleen$", "class 3"), class_colours(3), strict=True)
    assert block(page, "run")["classes"] == [
        [name, "#{:02x}{:02x}{:02x}".format(*colour)] for name, colour in expected
    ]


def test_a_page_of_volumes_is_not_larger_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = classes_of("a.nii", 0)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 40)).astype(np.uint8)
    many = [
        replace(one, name=str(n), image=noise, label=noise % 3, classes=noise % 4, size=noise.shape)
        for n in range(9)
    ]
    monkeypatch.setattr("overtile.pipelines.reporting.report.BYTES", 200_000)
    page = write_run(tmp_path / "run", many).read_text()
    count = page.count('id="image-')
    assert 3 <= count < 9
    assert len(page) < 200_000 + 90_000
    assert f"{count} of 9 images" in block(page, "run")["note"]


# --- in a browser ------------------------------------------------------------------------------

SPACING = (3.0, 1.0, 0.5)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser = chromium("the report of volumes is not opened")
    with opened(browser, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def volumes() -> list[Layers]:
    grid = Grid(SPACING, (False, True, False))
    return [classes_of("a.nii", 0, gap=True, grid=grid), classes_of("b.nii", 7)]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, volumes: list[Layers]) -> Path:
    return write_run(tmp_path_factory.mktemp("volumes") / "run", volumes)


@pytest.fixture
def shown(page: Page, report: Path) -> Iterator[Page]:
    page.requested.clear()
    page.problems.clear()
    page.open(report.as_uri())
    page.until("stage.dataset.drawn")
    yield page
    assert page.problems == []
    assert page.requested == [report.as_uri()], "nothing else is asked for"


def drawn(page: Page, layer: str, axis: str, place: int, off: tuple[int, ...] = ()) -> None:
    """Wait until the stage shows this."""
    told = json.dumps([layer, axis, place, list(off)], separators=(",", ":"))
    page.until(f"stage.dataset.drawn == {json.dumps(told)}")


def seen(page: Page, layers: Layers, axis: int, path: Path) -> NDArray[np.int64]:
    """Colours in the middle of the pixels of the section on the screen ``[rows, columns, 3]``."""
    page.middle("#stage")
    page.until(PAINTED)
    page.picture(path)
    screen = np.asarray(Image.open(path).convert("RGB")).astype(int)
    x, y, width, height = page.value(
        "(box => [box.x, box.y, box.width, box.height])(pixels.getBoundingClientRect())"
    )
    rows, columns = (n for a, n in enumerate(layers.image.shape) if a != axis)
    down = (y + (np.arange(rows) + 0.5) * height / rows).astype(int)
    right = (x + (np.arange(columns) + 0.5) * width / columns).astype(int)
    found: NDArray[np.int64] = screen[np.ix_(down, right)]
    return found


def section(array: NDArray[Any], layers: Layers, axis: int, place: int) -> NDArray[Any]:
    """Independent of the grid's own: rows that are to stand on their head are turned."""
    taken = array[(slice(None),) * axis + (place,)]
    rows = min(a for a in range(3) if a != axis)
    return np.flipud(taken) if layers.grid.upwards[rows] else taken


def mixed(
    grey: NDArray[Any], numbers: NDArray[Any], colours: list[tuple[int, int, int]], share: float
) -> NDArray[np.float64]:
    """Numbers in their colours over grey values; 0 has none."""
    table = np.array([(0, 0, 0), *colours], float)
    part = share * (numbers > 0)[..., None]
    found: NDArray[np.float64] = grey[..., None] * (1 - part) + table[numbers] * part
    return found


def test_the_slider_and_keys_go_through_the_sections(
    shown: Page, volumes: list[Layers], tmp_path: Path
) -> None:
    layers = volumes[0]
    first = layers.telling(0)
    drawn(shown, "both", "Z", first)
    shown.press("1")
    drawn(shown, "image", "Z", first)

    def shows(axis: int, place: int) -> None:
        letter = "ZYX"[axis]
        drawn(shown, "image", letter, place)
        expected = section(layers.image, layers, axis, place)[..., None]
        assert np.abs(seen(shown, layers, axis, tmp_path / "a.png") - expected).max() <= 1
        last = layers.image.shape[axis] - 1
        assert shown.value("where.textContent") == f"{letter} = {place} / {last}"
        assert shown.value("section.valueAsNumber") == place

    shows(0, first)
    shown.value("section.focus()")
    shown.press("Home")
    shows(0, 0)
    shown.press("ArrowRight")
    shows(0, 1)
    shown.press("ArrowRight")
    shows(0, 2)
    assert layer(shown) == "image", "the arrows are the slider's"
    shown.value("stage.focus()")
    shown.press("PageDown")
    shows(0, 3)
    shown.press("PageUp")
    shows(0, 2)
    shown.press("End")
    shows(0, 5)
    shown.click("#before")
    shows(0, 4)
    box = "(box => [box.x, box.y + box.height / 2, box.width])(section.getBoundingClientRect())"
    x, y, width = shown.value(box)
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        shown.mouse(kind, x + width - 3, y)
    shows(0, 5)
    shown.click("#axes [value=X]")
    shows(2, layers.telling(2))
    shown.press("y")
    shows(1, layers.telling(1))
    shown.press("z")
    shows(0, 5)


def layer(page: Page) -> Any:
    return page.value("document.querySelector('#layers [aria-pressed=true]').value")


def test_the_wheel_goes_through_the_sections_once_the_viewer_is_clicked(shown: Page) -> None:
    shown.resize(1280, 500)
    place = int(shown.value("section.valueAsNumber"))
    shown.click("#stage")
    top = shown.value("scrollY")
    shown.wheel("#stage", -120)
    drawn(shown, "both", "Z", place - 1)
    for _ in range(3):  # fingers, little by little
        shown.wheel("#stage", 20)
    drawn(shown, "both", "Z", place)
    assert shown.value("scrollY") == top, "the page stays"
    shown.value("document.activeElement.blur()")
    shown.wheel("#stage", 120)
    shown.until(f"scrollY != {top}")
    drawn(shown, "both", "Z", place)
    shown.resize(1280, 900)


def test_a_section_has_the_proportions_of_its_spacing(shown: Page, volumes: list[Layers]) -> None:
    shape = volumes[0].image.shape
    for axis, letter in enumerate("ZYX"):
        shown.click(f"#axes [value={letter}]")
        drawn(shown, "both", letter, volumes[0].telling(axis))
        rows, columns = (shape[a] * SPACING[a] for a in range(3) if a != axis)
        for of in ("pixels", "lines"):
            width, height = shown.value(
                f"(box => [box.width, box.height])({of}.getBoundingClientRect())"
            )
            assert width / height == pytest.approx(columns / rows, rel=0.01), (of, letter)
        fits = shown.value("[stage.clientWidth, stage.clientHeight]")
        assert any(a == pytest.approx(b, abs=1) for a, b in zip((width, height), fits, strict=True))


def test_the_legend_switches_classes(shown: Page, volumes: list[Layers], tmp_path: Path) -> None:
    layers, colours = volumes[0], class_colours(3)
    place = layers.telling(0)
    assert layers.label is not None
    assert layers.classes is not None
    grey, label, found = (
        section(a, layers, 0, place) for a in (layers.image, layers.label, layers.classes)
    )
    gaps = section(layers.gaps, layers, 0, place) > 0
    names = shown.value("[...document.querySelectorAll('#legend label')].map(l => l.textContent)")
    assert names == ["liver <b>", "$spleen$", "class 3"]

    def shows(name: str, off: tuple[int, ...]) -> None:
        drawn(shown, name, "Z", place, off)
        filled, lined = {"label": (label, label), "prediction": (found, found)}.get(
            name, (found, label)
        )
        there = np.where(np.isin(filled, off), 0, filled)
        expected = mixed(grey, there, colours, 120 / 255)
        difference = np.abs(seen(shown, layers, 0, tmp_path / "a.png") - expected).max(-1)
        assert difference[~gaps].max() <= 1
        numbers = shown.value("[...document.querySelectorAll('.line')].map(l => l.dataset.number)")
        assert sorted(map(int, numbers)) == [n for n in np.unique(lined) if n and n not in off]

    shows("both", ())
    shown.click("#legend [value='2']")
    shows("both", (2,))
    shown.press("2")
    shows("label", (2,))
    shown.click("#legend [value='1']")
    shows("label", (1, 2))
    shown.press("3")
    shows("prediction", (1, 2))
    shown.click("#legend li:last-child button")
    shows("prediction", ())
    shown.click("#legend li:last-child button:last-child")
    shows("prediction", (1, 2, 3))
    shown.value("stage.focus()")
    shown.press("ArrowDown")
    drawn(shown, "prediction", "Z", volumes[1].telling(0), (1, 2, 3))
    boxes = "[...document.querySelectorAll('#legend input')].map(b => b.checked)"
    assert shown.value(boxes) == [False] * 3, "off for every image"


def sides(d: str) -> set[tuple[str, int, int]]:
    """The sides of pixels in a path: direction, row and column of where each begins."""
    found = set()
    for x, y, way, to in re.findall(r"M(\d+) (\d+)([HV])(\d+)", d):
        for place in range(int(x) if way == "H" else int(y), int(to)):
            found.add((way, int(y), place) if way == "H" else (way, place, int(x)))
    return found


def test_lines_run_around_the_pixels_of_a_class(shown: Page, volumes: list[Layers]) -> None:
    place = volumes[0].telling(0)
    assert volumes[0].label is not None
    label = section(volumes[0].label, volumes[0], 0, place)
    rows, columns = label.shape
    for number in np.unique(label[label > 0]).tolist():
        inside = label == number
        expected = {
            ("H", r, c)
            for r in range(1, rows)
            for c in range(columns)
            if inside[r, c] != inside[r - 1, c]
        } | {
            ("V", r, c)
            for r in range(rows)
            for c in range(1, columns)
            if inside[r, c] != inside[r, c - 1]
        }
        path = f"document.querySelector('.line[data-number=\"{number}\"]')"
        assert sides(shown.value(f"{path}.getAttribute('d')")) == expected
        colour = "#{:02x}{:02x}{:02x}".format(*class_colours(3)[number - 1])
        assert shown.value(f"{path}.getAttribute('stroke')") == colour


def test_gaps_are_hatched_and_errors_have_colours_of_their_own(
    shown: Page, volumes: list[Layers], tmp_path: Path
) -> None:
    layers = volumes[0]
    place = layers.telling(0)
    arrays = (layers.image, layers.label, layers.classes, layers.gaps)
    grey, label, found, gaps = (section(a, layers, 0, place) for a in arrays if a is not None)
    hatch = "document.querySelector('.gaps')"
    inside = shown.value(
        f"""Array.from({{length: {label.size}}}, (_, i) => {hatch}.isPointInFill(
        new DOMPoint(i % {label.shape[1]} + 0.5, Math.floor(i / {label.shape[1]}) + 0.5)))"""
    )
    assert np.array_equal(np.reshape(inside, label.shape), gaps > 0)
    shown.press("5")
    drawn(shown, "errors", "Z", place)
    kinds = np.select([(label == found) | (gaps > 0), found == 0, label == 0], [0, 1, 2], 3)
    assert set(np.unique(kinds)) == {0, 1, 2, 3}, "the test shows all"
    colours = [ERROR_COLOURS[kind] for kind in ("missed", "extra", "merged")]
    expected = mixed(grey, kinds, colours, 200 / 255)
    difference = np.abs(seen(shown, layers, 0, tmp_path / "a.png") - expected).max(-1)
    assert difference[gaps == 0].max() <= 1
    screen = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    x, y, width, height = shown.value(
        "(box => [box.x, box.y, box.width, box.height])(pixels.getBoundingClientRect())"
    )
    whole = screen[round(y) : round(y + height), round(x) : round(x + width)]
    striped = (whole == HATCH).all(-1)
    rows, columns = (
        np.linspace(0, n, m, endpoint=False).astype(int)
        for n, m in zip(gaps.shape, striped.shape, strict=True)
    )
    where = gaps[np.ix_(rows, columns)] > 0
    assert 0.1 < striped[where].mean() < 0.5, "stripes"
    assert striped[~where].mean() < 0.01
    shown.click("#legend [value='1']")
    drawn(shown, "errors", "Z", place, (1,))
    left, right = (np.where(a == 1, 0, a) for a in (label, found))
    kinds = np.select([(left == right) | (gaps > 0), right == 0, left == 0], [0, 1, 2], 3)
    difference = np.abs(
        seen(shown, layers, 0, tmp_path / "a.png") - mixed(grey, kinds, colours, 200 / 255)
    ).max(-1)
    assert difference[gaps == 0].max() <= 1


def test_images_of_classes_have_a_legend_and_no_sections(page: Page, tmp_path: Path) -> None:
    label, found = organs(1, (1, 30, 20))[0], organs(2, (1, 30, 20))[0]
    image = np.random.default_rng(0).normal(size=label.shape)
    layers = layers_of("a.png", image, label, None, None, found, None)
    page.open(write_run(tmp_path / "run", [layers]).as_uri())
    drawn(page, "both", "Z", 0)
    assert page.value("document.querySelector('#through').hidden")
    names = page.value("[...document.querySelectorAll('#legend label')].map(l => l.textContent)")
    assert names == ["class 1", "class 2", "class 3"]
    colours = class_colours(3)
    assert layers.classes is not None
    expected = mixed(layers.image, layers.classes, colours, 120 / 255)
    volume = replace(layers, image=layers.image[None])
    assert np.abs(seen(page, volume, 0, tmp_path / "a.png") - expected).max() <= 1
    page.press("x")
    page.value("stage.focus()")
    page.press("PageDown")
    page.press("2")
    drawn(page, "label", "Z", 0)


def test_volumes_of_cells_are_gone_through_as_well(page: Page, tmp_path: Path) -> None:
    cells = np.arange(1, 9).reshape(2, 2, 2)
    label = np.kron(cells, np.ones((4, 5, 6), int))
    label[:, 0] = 0
    found = np.where(label == 3, 0, label)
    likely = np.linspace(0, 1, label.size).reshape(label.shape)
    layers = layers_of("a.tif", label * 2.0, label, likely, found)
    assert layers.counts == compare(label, found)[1]
    page.open(write_run(tmp_path / "run", [layers]).as_uri())
    drawn(page, "errors", "Z", 4)
    assert "8 cells in the label, 7 found" in page.value("found.textContent")
    page.value("stage.focus()")
    page.press("Home")
    drawn(page, "errors", "Z", 0)
    assert layers.errors is not None
    colours = list(ERROR_COLOURS.values())
    expected = mixed(layers.image[0], layers.errors[0], colours, 200 / 255)
    assert (layers.errors[0] == 1).any()
    assert np.abs(seen(page, layers, 0, tmp_path / "a.png") - expected).max() <= 1
    page.press("2")
    drawn(page, "label", "Z", 0)
    colours = palette(8)  # each beside all others
    expected = mixed(layers.image[0], numbered_colours(label)[0], colours, 120 / 255)
    assert np.abs(seen(page, layers, 0, tmp_path / "a.png") - expected).max() <= 1
    page.press("3")
    drawn(page, "probability", "Z", 0)
    bright = seen(page, layers, 0, tmp_path / "a.png").sum(-1).ravel()
    assert (np.diff(bright) >= 0).all()
    assert page.problems == []


def test_a_browser_that_cannot_unpack_says_so(page: Page, report: Path) -> None:
    page.open(report.as_uri())
    page.until("stage.dataset.drawn")
    page.value("delete window.DecompressionStream")
    page.click("#next")
    page.until("scaled.textContent.startsWith('This browser cannot unpack')")
