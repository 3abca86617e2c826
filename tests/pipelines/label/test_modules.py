"""The scripts of the page: what imports what, and shapes against slow computations."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from graphlib import TopologicalSorter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, chromium, opened
from scipy import ndimage

WIDTH, HEIGHT = 40, 30
SIZE = f"{{ width: {WIDTH}, height: {HEIGHT} }}"


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "pipelines" / "label" / "page"


def test_imports_make_no_circle_and_name_files_that_are_served(folder: Path) -> None:
    imports: dict[str, set[str]] = {}
    for file in folder.glob("*.js"):
        text = file.read_text()
        assert text.startswith("// "), f"{file.name} does not say what it is about"
        assert not re.search(r"\b(window|globalThis)(\.\w+|\[.*\]) *=[^=]", text), file.name
        asked = re.findall(r"\b(?:from|import)\s*\(?\s*[\"'`](.*?)[\"'`]", text)
        assert len(asked) == len(re.findall(r"^import\b|\bimport\(|^export.*\bfrom\b", text, re.M))
        imports[file.name] = {name.removeprefix("./") for name in asked}
        for name in asked:
            assert name.startswith("./"), f"{file.name} imports {name}"
            assert (folder / name).is_file(), f"{file.name} imports {name}"
            assert "/" not in name[2:], f"{file.name} imports {name}"
    list(TopologicalSorter(imports).static_order())  # names a circle
    assert set(imports) - set().union(*imports.values()) == {"annotate.js"}  # the others are used
    assert not imports["shapes.js"]


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """An empty page that can import the modules."""
    browser = chromium("the scripts are not run")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with opened(browser, tmp_path_factory.mktemp("browser") / "profile") as page:
                page.open(f"http://127.0.0.1:{server.server_port}/annotate.css")
                yield page
        finally:
            server.shutdown()


def found(page: Page, call: str, given: Any) -> Any:
    """What a call gives for each of ``given``; pixels go to ``act``, numbers to ``all``."""
    return page.value(
        f"""import("/shapes.js").then((shapes) => {json.dumps(given)}.map((given) => {{
            const all = [], act = (i) => all.push(i), size = {SIZE};
            return {call} ?? all;
        }}))"""
    )


def points(seed: int, count: int, about: int) -> list[list[list[float]]]:
    """Polygons and lines, some of which leave the image."""
    random = np.random.default_rng(seed)
    shape = (count, about, 2)
    made: list[list[list[float]]] = random.uniform(-5, (WIDTH + 5, HEIGHT + 5), shape).tolist()
    return made


def test_polygons_are_filled_by_the_even_odd_rule(page: Page) -> None:
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    polygons = [p for corners in (3, 4, 9) for p in points(corners, 40, corners)]
    for polygon, pixels in zip(
        polygons, found(page, "shapes.polygon(given, size, act)", polygons), strict=True
    ):
        odd = np.zeros((HEIGHT, WIDTH), bool)
        for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
            crossed = (y1 <= y) != (y2 <= y)  # by a ray from the pixel's centre
            odd ^= crossed & (x1 + (y - y1) * (x2 - x1) / (y2 - y1) < x)
        assert sorted(pixels) == np.flatnonzero(odd).tolist(), polygon


def test_lines_have_no_gaps(page: Page) -> None:
    lines = points(1, 100, 2)
    inner = np.clip(lines, 0, (WIDTH - 1, HEIGHT - 1))
    drawn = found(page, "shapes.line(given, size, act)", inner.tolist())
    for line, pixels in zip(inner, drawn, strict=True):
        place = np.stack([np.mod(pixels, WIDTH), np.floor_divide(pixels, WIDTH)], 1)
        assert np.abs(np.diff(place, axis=0)).max(initial=0) <= 1
        assert place[0].tolist() == np.floor(line[0]).tolist()
        assert place[-1].tolist() == np.floor(line[1]).tolist()
        along = line[1] - line[0]
        away = np.cross(np.append(along, 0), np.c_[place + 0.5 - line[0], 0 * place[:, 0]])[:, 2]
        assert np.abs(away / np.hypot(*along)).max() < 0.71  # it runs through each
    for pixels in found(page, "shapes.line(given, size, act)", lines):
        assert all(0 <= i < WIDTH * HEIGHT for i in pixels)


def test_strokes_cover_the_centres_that_a_disc_passes(page: Page) -> None:
    strokes = points(2, 60, 2)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    drawn = found(page, "shapes.swept(given[0], given[1], 4, size, act)", strokes)
    for ((x1, y1), (x2, y2)), pixels in zip(strokes, drawn, strict=True):
        far = np.full((HEIGHT, WIDTH), np.inf)
        for share in np.linspace(0, 1, 401):
            at = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
            far = np.minimum(far, np.hypot(x - at[0], y - at[1]))
        covered = np.zeros((HEIGHT, WIDTH), bool)
        covered.flat[pixels] = True
        assert covered[far < 3.5].all()
        assert not covered[far > 3.6].any()
        assert len(set(pixels)) == len(pixels)


@pytest.mark.parametrize("corners", [False, True])
def test_pieces_are_what_hangs_together(page: Page, corners: bool) -> None:
    random = np.random.default_rng(3)
    masks = [random.random((HEIGHT, WIDTH)) < share for share in (0.3, 0.5, 0.6, 0.9)]
    call = f"shapes.pieces(given.keys(), (i) => given[i], size, {json.dumps(corners)})"
    for mask, pieces in zip(
        masks, found(page, call, [m.ravel().tolist() for m in masks]), strict=True
    ):
        label, count = ndimage.label(mask, np.ones((3, 3)) if corners else None)
        expected = [np.flatnonzero(label == k).tolist() for k in range(1, count + 1)]
        assert sorted(map(sorted, pieces)) == sorted(expected)
