"""The page in a browser: draw, undo, submit, train, and see other proposals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from browser import Page, chromium, opened
from labelling import Server, needs_label, save, serving

pytestmark = needs_label
IDLE = "document.body?.dataset.image && document.body.dataset.busy === 'false'"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, studies_in: Callable[[Path], Path], cells: Any
) -> Iterator[Server]:
    chromium("the page is not opened")
    home = tmp_path_factory.mktemp("page")
    studies = studies_in(home / "studies", 4)
    save(studies / "<img src=x onerror=alert(1)>.tif", cells[4][0])
    (studies / "labels" / "final").mkdir(parents=True)
    (studies / "broken.png").write_bytes(b"no picture")
    with serving(studies, home / "log") as server:
        yield server


@pytest.fixture
def page(server: Server, tmp_path: Path) -> Iterator[Page]:
    with opened(chromium("the page is not opened"), tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{server.port}/annotate/")
        page.until(IDLE)
        yield page
        assert not page.problems
        assert all(a.startswith(f"http://127.0.0.1:{server.port}/") for a in page.requested)


def show(page: Page, name: str) -> None:
    if page.value("document.body.dataset.image") == name:
        return
    page.value(
        "[...document.querySelectorAll('#images button')]"
        f".find(b => b.textContent === {name!r}).click()"
    )
    page.until(f"document.body.dataset.image === {name!r} && {IDLE}")


def count(page: Page) -> int:
    return int(page.value("document.body.dataset.cells"))


def status(page: Page) -> str:
    return str(page.value("document.querySelector('#status').textContent"))


def at(page: Page, *points: tuple[float, float], size: int = 128) -> list[tuple[float, float]]:
    """Where in the window points of an image of ``size`` are, fitted to the stage."""
    left, top, width, height = page.value(
        "(b => [b.x, b.y, b.width, b.height])"
        "(document.querySelector('#canvas').getBoundingClientRect())"
    )
    zoom = 0.96 * min(width, height) / size
    x0, y0 = left + (width - size * zoom) / 2, top + (height - size * zoom) / 2
    return [(x0 + x * zoom, y0 + y * zoom) for x, y in points]


def drawn(page: Page, tool: str, *points: tuple[float, float], size: int = 128) -> None:
    """Use a tool along points of an image."""
    page.press(tool)
    page.drag(at(page, *points, size=size))


def submitted(page: Page, server: Server, name: str) -> Any:
    """The label of the image that is open, submitted and taken away again."""
    page.press("Enter")
    page.until(f"document.body.dataset.edited === 'false' && {IDLE}")
    file = server.studies / "labels" / "final" / f"{name}.tif"
    label = tifffile.imread(file)
    file.unlink()
    return label


def hold(page: Page) -> None:
    """Keep proposals waiting until ``letGo()``."""
    page.value(
        """(() => {
        const ask = window.fetch, gate = new Promise((go) => { window.letGo = go; });
        window.fetch = async (path, ...others) => {
            if (path.includes("/proposal")) await gate;
            return ask(path, ...others);
        };
        })()"""
    )


def test_every_tool(page: Page, server: Server) -> None:
    show(page, "00")
    assert count(page) > 3  # proposed
    page.click("#clear")
    assert count(page) == 0
    drawn(page, "b", (20, 20), (40, 20))
    assert count(page) == 1
    drawn(page, "b", (40, 20), (40, 40))  # from the cell: more of it
    assert count(page) == 1
    drawn(page, "l", (60, 60), (100, 60), (100, 100), (60, 100))
    assert count(page) == 2
    drawn(page, "s", (80, 50), (80, 110))
    assert count(page) == 3
    page.press("z", control=True)
    assert count(page) == 2
    page.press("z", control=True, shift=True)
    assert count(page) == 3
    drawn(page, "m", (70, 80), (90, 80))
    assert count(page) == 2
    drawn(page, "s", (80, 50), (80, 110))
    drawn(page, "v", (65, 80))
    page.press("Delete")
    assert count(page) == 2
    drawn(page, "e", (81, 62), (99, 62))
    assert count(page) == 2
    drawn(page, "e", (92, 55), (92, 110))
    assert count(page) == 3  # what the eraser cuts
    page.press("z", control=True)
    assert count(page) == 2
    drawn(page, "s", (5, 5), (15, 5))
    assert "nothing is split" in status(page)
    # what was drawn stays while another image is looked at
    show(page, "01")
    show(page, "00")
    assert count(page) == 2
    page.click("#show")  # Enter submits nevertheless, and does not press that button again
    page.press("Enter")
    page.until(f"document.body.dataset.edited === 'false' && {IDLE}", 10)
    kept = tifffile.imread(server.studies / "labels" / "final" / "00.tif")
    assert kept.shape == (128, 128)
    assert len(np.unique(kept)) == 3
    (lassoed,) = np.unique(kept[70:98, 83:98])
    assert lassoed > 0
    assert kept[80, 65] == 0
    assert kept[62, 90] == 0
    assert kept[20, 30] == kept[35, 40] > 0
    page.value("document.body.dataset.old = 'yes'; location.reload()")
    page.until(f"document.querySelector('.labelled') && !document.body.dataset.old && {IDLE}")
    show(page, "00")
    assert count(page) == 2
    assert "final label" in page.value("document.querySelector('#kind').textContent")


def let_go(page: Page) -> None:
    page.value("letGo()")
    page.until(IDLE)


@pytest.mark.parametrize("finished", [True, False])
def test_a_late_proposal_leaves_a_drawing_alone(page: Page, server: Server, finished: bool) -> None:
    hold(page)
    page.value("document.querySelectorAll('#images button')[2].click()")
    page.until("document.body.dataset.image === '02'")
    page.press("b")
    first, middle, last = at(page, (20, 20), (40, 20), (60, 20))
    page.mouse("mouseMoved", *first)
    page.mouse("mousePressed", *first)
    page.mouse("mouseMoved", *middle, pressed=True)
    if not finished:
        let_go(page)
    page.mouse("mouseMoved", *last, pressed=True)
    page.mouse("mouseReleased", *last)
    if finished:
        let_go(page)
    assert "press P" in status(page)
    assert count(page) == 1
    label = submitted(page, server, "02")
    assert len(np.unique(label)) == 2
    assert label[20, 15:65].all()


@pytest.mark.parametrize("slope", [0, 10])
def test_a_straight_stroke_has_straight_edges(page: Page, server: Server, slope: int) -> None:
    show(page, "03")
    page.click("#clear")
    for row in range(5):  # wherever the edges lie between pixels
        y = 14 + 24 * row + row / 5
        drawn(page, "b", (20, y), (110, y + slope))
    label = submitted(page, server, "03")
    assert len(np.unique(label)) == 6
    for cell in range(1, 6):
        for edge in (np.argmax(label == cell, 0), np.argmax(label[::-1] == cell, 0)):
            steps = np.abs(np.diff(edge[25:105]))
            assert steps.max() == min(slope, 1)
            assert steps.sum() <= slope


def test_a_label_that_was_changed_elsewhere_is_not_overwritten_unasked(
    page: Page, server: Server
) -> None:
    file = server.studies / "labels" / "final" / "03.tif"
    asked = "document.querySelector('#changed').open"
    theirs = np.full((128, 128), 7, np.uint16)
    show(page, "03")
    save(file, theirs)  # as a second page does
    page.press("Enter")
    page.until(asked)
    page.click("#changed [value=theirs]")
    page.until(f"!{asked} && {IDLE}")
    assert count(page) == 1
    drawn(page, "e", (2, 2), (20, 2))
    save(file, theirs)
    page.press("Enter")
    page.until(asked)
    page.click("#changed button")
    page.until(f"!{asked} && {IDLE}")
    assert status(page) == "03: not saved"
    assert tifffile.imread(file).all()
    page.press("Enter")
    page.until(asked)
    page.click("#changed [value=mine]")
    page.until(f"document.body.dataset.edited === 'false' && {IDLE}")
    assert not tifffile.imread(file).all()
    page.press("Enter")  # its own is no other one, however often
    page.press("Enter")
    page.until(f"document.querySelector('#status').textContent.includes('saved as') && {IDLE}")
    assert not page.value(asked)
    page.problems.clear()  # the browser notes the refusals itself
    file.unlink()


@pytest.mark.parametrize("width", [1280, 1000, 700, 390])
def test_the_window_may_have_any_size(page: Page, width: int) -> None:
    page.resize(width, 800)
    page.until(f"innerWidth === {width}", 10)
    rows = "new Set([...document.querySelectorAll('#tools > *')].map(e => e.offsetTop)).size"
    assert width < 1280 or page.value(rows) == 1
    assert page.value("document.documentElement.scrollWidth") <= width
    for part in ("#next", "#submit", "#train", "#canvas"):
        page.middle(part)
        x, y, w, h = page.value(
            f"(b => [b.x, b.y, b.width, b.height])(document.querySelector('{part}')"
            ".getBoundingClientRect())"
        )
        assert min(w, h) > 20
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= 800
    assert page.value("document.querySelector('#canvas').height") > 200
    page.click("#clear")
    drawn(page, "b", (64, 64), (64, 100))  # of the image as it is fitted now
    page.mouse("mouseMoved", *at(page, (64.5, 64.5))[0])
    assert page.value("document.querySelector('#place').textContent") == "64, 64  cell 1"


def test_next_goes_on(page: Page, server: Server) -> None:
    for name in ("00", "01", "02"):
        save(server.studies / "labels" / "final" / f"{name}.tif", np.ones((128, 128), np.uint16))
    last = "<img src=x onerror=alert(1)>"
    show(page, "03")
    page.press("n")
    page.until(f"document.body.dataset.image === {last!r} && {IDLE}")
    page.press("n")  # the other one was skipped, but nothing else is left
    page.until(f"document.body.dataset.image === '03' && {IDLE}")
    assert "only images that were skipped are left" in status(page)
    save(server.studies / "labels" / "final" / f"{last}.tif", np.ones((128, 128), np.uint16))
    page.press("b")
    drawn(page, "b", (2, 2), (20, 2))
    cells = count(page)
    page.press("n")
    page.until(f"document.querySelector('#status').textContent.startsWith('every') && {IDLE}")
    assert status(page) == "every other image has a final label"
    page.press("z", control=True)  # it was not opened again
    assert count(page) != cells
    for file in (server.studies / "labels" / "final").iterdir():
        file.unlink()


def test_files_that_come_while_the_page_is_open(page: Page, server: Server, cells: Any) -> None:
    show(page, "03")
    new, torn = server.studies / "+new.tif", server.studies / "+bad.tif"
    for file in (new, torn):
        save(file, cells[6][0])
    os.truncate(torn, torn.stat().st_size - 9000)
    page.press("n")
    page.until(f"document.body.dataset.image === '+new' && {IDLE}")
    assert "+bad cannot be opened" in status(page)
    assert "--" not in status(page)
    assert page.value("document.querySelector('#images .unreadable').textContent") == "+bad"
    assert count(page) > 3
    page.problems.clear()  # the browser notes the refusal itself
    for file in (new, torn):
        file.unlink()


def test_names_are_shown_as_they_are(page: Page) -> None:
    name = "<img src=x onerror=alert(1)>"
    show(page, name)
    assert page.value("document.querySelector('#image').textContent") == name
    assert page.value("document.querySelectorAll('img').length") == 0
    assert "broken.png" in page.value("document.querySelector('#broken').textContent")


@pytest.mark.slow
def test_draw_submit_train_and_see_the_proposal_change(
    page: Page, server: Server, cells: Any, tmp_path: Path
) -> None:
    for number in range(2):
        label = save(tmp_path / "label.tif", cells[number][1].astype(np.uint16))
        assert server.label(f"{number:02d}", label).status == 200
    show(page, "03")
    before = page.value("document.querySelector('#canvas').toDataURL()")
    page.value("document.querySelector('#epochs').value = 1")
    page.press("t")
    page.until("document.body.dataset.training === 'RUNNING'")
    page.until("!document.querySelector('#bar').hidden")
    assert status(page) == ""  # it has started
    page.until("document.body.dataset.training === 'DONE'", 500)
    page.until(IDLE)
    page.until("document.querySelector('#status').textContent.includes('proposed')")
    assert page.value("document.querySelector('#canvas').toDataURL()") != before
    assert "trained" in page.value("document.querySelector('#trained').textContent")
    page.press("n")  # and the next image without a label
    page.until(f"document.body.dataset.image === '02' && {IDLE}")


def test_mistakes_are_shown(page: Page, server: Server) -> None:
    show(page, "02")
    (server.studies / "02.tif").rename(server.studies / "02.away")
    page.press("p")
    page.until("document.querySelector('#status.bad') !== null")
    assert "no such image" in page.value("document.querySelector('#status').textContent")
    (server.studies / "02.away").rename(server.studies / "02.tif")
    page.problems.clear()  # the browser notes the 404 itself
    page.value(  # as FastAPI tells of a parameter
        """(window.fetch = async () => new Response(
            '{"detail": [{"loc": ["query", "id"], "msg": "Field required"}]}', {status: 422}
        ), 0)"""
    )
    page.press("p")
    page.until("document.querySelector('#status').textContent === 'id: Field required'")


def test_an_image_of_2048_pixels(page: Page, server: Server, cells: Any) -> None:
    save(server.studies / "large.tif", np.tile(cells[5][0], (16, 16)))
    page.value("location.reload()")
    page.until(
        f"{IDLE} && [...document.querySelectorAll('#images button')].at(-1).textContent === 'large'"
    )
    show(page, "large")
    proposed = count(page)
    assert proposed > 255
    page.press("o")
    drawn(page, "s", (0, 0), (2047, 2047), size=2048)
    assert count(page) > proposed
    page.press("z", control=True)
    assert count(page) == proposed
    page.press("Enter")
    page.until(
        f"document.querySelector('#status').textContent.includes('saved as final') && {IDLE}"
    )
    kept = tifffile.imread(server.studies / "labels" / "final" / "large.tif")
    assert kept.shape == (2048, 2048)
    assert len(np.unique(kept)) == proposed + 1
    (server.studies / "large.tif").unlink()
