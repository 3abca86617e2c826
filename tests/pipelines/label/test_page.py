"""The page in a browser: draw, undo, submit, train, and see other proposals."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from browser import Page, chromium, opened
from labelling import Server, needs_label, save, serving
from PIL import Image

pytestmark = [needs_label, pytest.mark.slow]  # together four minutes
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


def reload(page: Page) -> None:
    page.value("document.body.dataset.old = 'yes'; location.reload()")
    page.until(f"document.body && !document.body.dataset.old && {IDLE}")  # none at the very start


def painted(page: Page) -> str:
    """What the canvas shows once the next frame, which draws the newest cells, is past."""
    frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    return str(page.value(f"{frames}.then(() => document.querySelector('#canvas').toDataURL())"))


PLACE = "document.querySelector('#place').textContent"


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


def saved(page: Page) -> None:
    """Submit the image that is open."""
    page.press("Enter")
    page.until(f"document.querySelector('#status').textContent.includes('saved as') && {IDLE}")


def hold(page: Page, method: str = "POST", path: str = "/annotate/proposal") -> None:
    """Keep requests waiting until ``letGo()``."""
    page.value(
        """((method, part) => {
        const ask = window.fetch, gate = new Promise((go) => { window.letGo = go; });
        window.fetch = async (path, options = {}) => {
            if (options.method === method && path.startsWith(part)) await gate;
            return ask(path, options);
        };
        })"""
        f"({method!r}, {path!r})"
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
    reload(page)
    page.until("document.querySelector('.labelled') !== null")
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


def test_edits_while_a_label_is_saved_are_kept(page: Page, server: Server) -> None:
    show(page, "02")
    page.click("#clear")
    drawn(page, "b", (20, 20), (60, 20))
    hold(page, "PUT", "/annotate/label")
    page.press("Enter")
    drawn(page, "b", (20, 60), (60, 60))
    page.value("document.querySelectorAll('#images button')[3].click()")
    let_go(page)
    page.until("document.body.dataset.image === '03'")
    file = server.studies / "labels" / "final" / "02.tif"
    assert len(np.unique(tifffile.imread(file))) == 2
    show(page, "02")
    assert count(page) == 2
    assert len(np.unique(submitted(page, server, "02"))) == 3  # its own label is no other one


def test_what_nobody_has_seen_is_not_submitted(page: Page, server: Server) -> None:
    file = server.studies / "labels" / "final" / "02.tif"
    hold(page)
    page.value("document.querySelectorAll('#images button')[2].click()")
    page.until("document.body.dataset.image === '02'")
    page.press("Enter")  # the proposal is still coming
    assert "02 is not saved" in status(page)
    let_go(page)
    assert not file.exists()
    proposed = count(page)
    assert proposed > 3
    assert len(np.unique(submitted(page, server, "02"))) == proposed + 1
    page.value(
        """(() => {
        const ask = window.fetch;
        window.fetch = (path, options) =>
            path.startsWith("/annotate/proposal") ? Promise.reject() : ask(path, options);
        })()"""
    )
    show(page, "03")
    show(page, "02")
    assert "does not answer" in status(page)
    page.press("Enter")
    assert "02 is not saved" in status(page)
    assert not file.exists()
    page.click("#clear")  # now somebody says that there is none
    assert not submitted(page, server, "02").any()


def test_a_label_that_cannot_be_read_can_be_replaced(page: Page, server: Server) -> None:
    file = server.studies / "labels" / "final" / "02.tif"
    whole, colours = np.ones((128, 128), np.uint16), np.full((128, 128, 3), (1, 0, 0), np.uint8)
    for bad in (np.ones((9, 9), np.uint16), colours, None):
        save(file, whole if bad is None else bad)
        if bad is None:
            os.truncate(file, file.stat().st_size - 9000)
        show(page, "02")
        assert "02.tif" in status(page)
        assert "proposed" in status(page)
        page.problems.clear()  # the browser notes the refusal itself
        proposed = count(page)
        assert proposed > 3
        page.press("Enter")
        page.until(f"document.querySelector('#status').textContent.includes('saved as') && {IDLE}")
        assert len(np.unique(tifffile.imread(file))) == proposed + 1
        show(page, "03")
    save(file, np.ones((9, 9), np.uint16))
    show(page, "02")
    page.problems.clear()
    save(file, whole)  # mended elsewhere meanwhile
    page.press("Enter")
    page.until("document.querySelector('#changed').open")
    page.click("#changed [value=theirs]")
    page.until(f"!document.querySelector('#changed').open && {IDLE}")
    assert count(page) == 1
    assert status(page) == "02: not saved"
    drawn(page, "b", (20, 2), (20, 60))
    save(file, np.ones((9, 9), np.uint16))
    page.press("Enter")
    page.until("document.querySelector('#changed').open")
    page.click("#changed [value=theirs]")
    page.until(f"!document.querySelector('#changed').open && {IDLE}")
    assert "02: not saved; " in status(page)
    assert "9x9" in status(page)
    page.problems.clear()
    file.unlink()


def test_labels_that_come_and_go_while_the_page_is_open(page: Page, server: Server) -> None:
    file = save(
        server.studies / "labels" / "final" / "02.tif", np.full((128, 128), 2**31 - 1, np.uint32)
    )
    marked = "!!document.querySelector('#images [aria-current=true].labelled')"
    show(page, "02")  # from another page; this one knew of none
    assert count(page) == 1
    assert page.value(marked)
    drawn(page, "e", (20, 2), (20, 126))
    drawn(page, "b", (20, 20), (20, 60))
    assert len(np.unique(submitted(page, server, "02"))) == 4  # left, right and a free number
    assert not file.exists()
    show(page, "03")
    show(page, "02")
    assert count(page) > 3
    assert not page.value(marked)


def test_a_draft_of_another_size_is_given_up(page: Page, server: Server, cells: Any) -> None:
    image = server.studies / "02.tif"
    before = image.read_bytes()
    show(page, "02")
    drawn(page, "e", (2, 2), (120, 120))
    show(page, "03")
    save(image, cells[4][0][:64, :96])
    show(page, "02")
    assert "draft" in status(page)
    proposed = count(page)
    label = submitted(page, server, "02")
    assert label.shape == (64, 96)
    assert len(np.unique(label)) == proposed + 1
    image.write_bytes(before)


def test_a_draft_stays_with_its_file_when_its_id_changes(
    page: Page, server: Server, cells: Any
) -> None:
    show(page, "02")
    page.click("#clear")
    drawn(page, "b", (20, 20), (40, 20))
    other = save(server.studies / "02.png", (cells[5][0] >> 8).astype(np.uint8))
    show(page, "03")
    show(page, "02.tif")
    assert count(page) == 1
    assert "draft" in page.value("document.querySelector('#kind').textContent")
    assert len(np.unique(submitted(page, server, "02.tif"))) == 2
    other.unlink()


def test_a_drawing_is_not_saved_for_an_image_that_came_in_its_place(
    page: Page, server: Server, cells: Any
) -> None:
    image = server.studies / "02.tif"
    before = image.read_bytes()
    show(page, "02")
    page.click("#clear")
    drawn(page, "b", (20, 20), (40, 20))
    save(image, cells[5][0])
    page.press("Enter")
    page.until(f"document.querySelector('#status').textContent.includes('not saved') && {IDLE}")
    assert "your draft was drawn on the picture before" in status(page)
    assert count(page) == 1
    assert not list(server.studies.glob("labels/final/02*"))
    page.problems.clear()  # the browser notes the refusal itself
    # and another file of its stem
    save(server.studies / "02.png", (cells[5][0] >> 8).astype(np.uint8))
    image.unlink()
    page.press("Enter")
    page.until(f"document.querySelector('#status').textContent.includes('not saved') && {IDLE}")
    assert count(page) > 3  # a proposal for what is there
    assert not list(server.studies.glob("labels/final/02*"))
    page.problems.clear()
    image.write_bytes(before)
    (server.studies / "02.png").unlink()
    show(page, "03")
    show(page, "02")
    assert count(page) == 1
    assert len(np.unique(submitted(page, server, "02"))) == 2


def test_a_proposal_can_be_undone(page: Page, server: Server) -> None:
    kind = "document.querySelector('#kind').textContent"
    show(page, "02")
    page.click("#clear")
    drawn(page, "b", (20, 20), (40, 20))
    page.press("Enter")
    page.until(f"document.body.dataset.edited === 'false' && {IDLE}")
    page.press("p")
    page.until(f"{kind}.startsWith('proposal') && {IDLE}")
    assert count(page) > 3
    page.press("z", control=True)
    assert count(page) == 1
    assert page.value(kind).startswith("final label")
    page.press("z", control=True)
    assert count(page) == 0
    page.press("z", control=True, shift=True)
    page.press("z", control=True, shift=True)
    assert count(page) > 3
    assert page.value(kind).startswith("proposal")
    submitted(page, server, "02")


def test_what_was_undone_is_no_edit(page: Page, server: Server) -> None:
    def edited() -> bool:
        listed = "!!document.querySelector('#images [aria-current=true].edited')"
        told = page.value("document.querySelector('#kind').textContent").endswith(" (edited)")
        assert page.value(listed) == told == page.value("document.body.dataset.edited === 'true'")
        return bool(told)

    show(page, "02")
    assert not edited()
    for x in (20, 60):
        drawn(page, "e", (x, 2), (x, 120))
    page.press("z", control=True)
    assert edited()
    page.press("z", control=True)
    assert not edited()
    page.press("z", control=True, shift=True)
    assert edited()
    saved(page)
    assert not edited()
    page.press("z", control=True)
    assert edited()
    page.press("z", control=True, shift=True)
    assert not edited()
    page.press("z", control=True)
    drawn(page, "e", (100, 2), (100, 120))  # as many changes as when it was saved, but others
    assert edited()
    page.click("#clear")
    saved(page)
    page.click("#clear")  # there was no cell, and now somebody says so
    assert edited()
    saved(page)
    for number in range(202):  # more than are remembered
        page.drag(at(page, (10 + number % 100, 10 + 9 * (number // 100))))
    for _ in range(202):
        page.press("z", control=True)
    assert page.value("document.querySelector('#undo').disabled")
    assert edited()
    page.click("#clear")
    submitted(page, server, "02")


def test_what_is_said_is_of_the_cells_that_are_shown(page: Page, server: Server) -> None:
    show(page, "02")
    page.click("#clear")
    drawn(page, "b", (20, 20), (60, 20))
    for change in (
        lambda: page.press("z", control=True),
        lambda: page.press("z", control=True, shift=True),
        lambda: page.drag(at(page, (20, 60), (60, 60))),
        lambda: page.click("#clear"),
    ):
        saved(page)
        change()
        assert status(page) == ""
    page.drag(at(page, (64.5, 64.5)))
    page.until(f"{PLACE} === '64, 64  cell 1'", 10)
    page.press("z", control=True)
    page.until(f"{PLACE} === '64, 64  cell none'", 10)
    page.press("f")
    page.press("ArrowLeft")
    page.until(f"!{PLACE}.startsWith('64,')", 10)
    page.press("f")
    page.press("z", control=True, shift=True)
    page.until(f"{PLACE} === '64, 64  cell 1'", 10)
    saved(page)
    page.press("n")  # by its key: the pointer stays where it is
    page.until(f"document.body.dataset.image !== '02' && {IDLE}")
    page.click("#clear")
    page.until(f"{PLACE} === ''", 10)
    page.mouse("mouseMoved", *at(page, (64.5, 64.5))[0])
    page.until(f"{PLACE} === '64, 64  cell none'", 10)
    show(page, "02")
    submitted(page, server, "02")


def white(page: Page, *area: tuple[float, float]) -> int:
    """How many pixels of the canvas are white between two points of the image."""
    left, top = page.value(
        "(b => [b.x, b.y])(document.querySelector('#canvas').getBoundingClientRect())"
    )
    shown = Image.open(io.BytesIO(base64.b64decode(painted(page).partition(",")[2])))
    (x0, y0), (x1, y1) = at(page, *area)
    part = np.asarray(shown)[int(y0 - top) : int(y1 - top), int(x0 - left) : int(x1 - left)]
    return int((part == 255).all(axis=-1).sum())


def test_the_selected_cell_has_a_white_outline(page: Page, server: Server) -> None:
    show(page, "02")
    page.click("#clear")
    upper, lower = ((0, 0), (128, 45)), ((0, 45), (128, 128))
    ground = white(page, *upper), white(page, *lower)
    drawn(page, "b", (20, 30), (100, 30))
    drawn(page, "b", (20, 60), (100, 60))
    for place, marked in ((None, (0, 1)), (30, (1, 0)), (60, (0, 1)), (100, (0, 0))):
        if place:
            drawn(page, "v", (60, place))
        page.hover("#submit")
        found = white(page, *upper) - ground[0], white(page, *lower) - ground[1]
        assert tuple(pixels > 1000 for pixels in found) == tuple(map(bool, marked)), place
    drawn(page, "v", (60, 30))
    page.press("z", control=True)  # selects none
    page.hover("#submit")
    assert white(page, *upper) == ground[0]
    page.click("#clear")
    submitted(page, server, "02")


def test_faint_cells_can_be_made_bright(page: Page, server: Server) -> None:
    def grey() -> float:
        page.hover("#kind")
        shown = Image.open(io.BytesIO(base64.b64decode(painted(page).partition(",")[2])))
        return float(np.asarray(shown)[..., :3].mean())

    show(page, "02")
    page.click("#clear")
    before = grey()
    page.value(
        """(bright => { bright.value = 3; bright.dispatchEvent(new Event("input")); })
        (document.querySelector("#bright"))"""
    )
    assert grey() > 1.5 * before
    assert not submitted(page, server, "02").any()
    show(page, "03")
    show(page, "02")
    page.click("#clear")
    assert page.value("document.querySelector('#bright').value") == "3"
    assert grey() > 1.5 * before
    x, y = page.middle("#bright")
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            event = {"x": x, "y": y, "button": "left", "clickCount": clicks}
            page.send("Input.dispatchMouseEvent", type=kind, **event)
    assert page.value("document.querySelector('#bright').value") == "1"
    assert grey() == before
    page.value("document.querySelector('#bright').focus()")
    page.press("ArrowRight")  # of the slider that has the focus, not of the image
    assert page.value("document.querySelector('#bright').value") == "1.25"
    submitted(page, server, "02")


def test_a_cell_of_two_pieces_stays_one_unless_cut(page: Page, server: Server) -> None:
    show(page, "02")
    page.click("#clear")
    drawn(page, "b", (20, 20), (60, 20))
    drawn(page, "b", (20, 60), (60, 60))
    drawn(page, "m", (40, 20), (40, 60))
    assert count(page) == 1
    assert len(np.unique(submitted(page, server, "02"))) == 2
    drawn(page, "e", (66, 10), (66, 30))
    drawn(page, "s", (20, 20), (30, 20))
    assert "nothing is split" in status(page)
    assert count(page) == 1
    drawn(page, "s", (30, 10), (30, 30))
    assert count(page) == 2
    drawn(page, "e", (50, 5), (50, 75))  # both pieces
    assert count(page) == 4


def test_trainings_that_begin_and_end_elsewhere(page: Page) -> None:
    told = "document.querySelector('#trained').textContent"
    page.value(
        """(() => {
        const ask = window.fetch, progress = { epoch: 1, max_epochs: 5, done: 0.2 };
        window.told = { status: "RUNNING", request: { model: "m" }, progress };
        window.fetch = async (path, options) =>
            path === "/annotate/training" ? Response.json(window.told) : ask(path, options);
        })()"""
    )
    page.value("window.dispatchEvent(new Event('focus'))")
    going = "!document.querySelector('#stop').hidden && !document.querySelector('#bar').hidden"
    able = "!document.querySelector('#train').disabled"
    page.until(f"{going} && !({able})")
    page.value("window.told = null")  # as a server says that was started anew
    page.until(f"document.querySelector('#stop').hidden && {able}")
    assert page.value("document.querySelector('#bar').hidden")
    assert "started anew" in page.value(told)
    page.value(
        """window.told = { status: "ERROR", request: { model: "m" }, progress: {},
        error: "the training ended" }"""
    )
    page.value("window.dispatchEvent(new Event('focus'))")
    page.until(f"{told} === 'the training ended'")


def test_a_training_that_ends_while_somebody_draws(page: Page) -> None:
    show(page, "03")
    drawn(page, "e", (2, 2), (120, 120))
    hint = "document.querySelector('#stale').checkVisibility()"
    reached = "trained on 8 images, SEG 0.71 on 2 of them"
    page.value(
        """((reached) => {
        const ask = window.fetch, request = { model: "touching_cells" };
        window.told = { status: "RUNNING", request, progress: {} };
        window.fetch = async (path, options) => {
            if (path === "/annotate/training") return Response.json(window.told);
            const answer = await ask(path, options);
            if (path !== "/annotate/data") return answer;
            const trained = { touching_cells: { told: "trained", reached } };
            return Response.json({ ...await answer.json(), trained });
        };
        window.dispatchEvent(new Event('focus'));
        })"""
        f"({reached!r})"
    )
    page.until("document.body.dataset.training === 'RUNNING'")
    cells = count(page)
    page.value("window.told.status = 'DONE'")
    told = "document.querySelector('#trained').textContent"
    page.until(f"{told} === 'touching_cells: {reached}' && {hint}")
    page.value("window.dispatchEvent(new Event('focus'))")  # of somebody who comes back to it
    page.until(IDLE)
    assert page.value(hint)
    assert count(page) == cells
    page.press("p")
    page.until(f"!({hint}) && {IDLE}")


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
    page.until(f"{PLACE} === '64, 64  cell 1'", 10)


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
    save(torn, cells[6][0])  # mended, so its turn comes, if last
    for _ in range(20):
        page.press("n")
        page.until(IDLE)
        if page.value("document.body.dataset.image") == "+bad":
            break
    assert not page.value("document.querySelectorAll('#images .unreadable').length")
    page.problems.clear()  # the browser notes the refusal itself
    for file in (new, torn):
        file.unlink()


def test_names_are_shown_as_they_are(page: Page) -> None:
    name = "<img src=x onerror=alert(1)>"
    show(page, name)
    assert page.value("document.querySelector('#image').textContent") == name
    assert page.value("document.querySelectorAll('img').length") == 0
    assert "broken.png" in page.value("document.querySelector('#broken').textContent")


def test_draw_submit_train_and_see_the_proposal_change(
    page: Page, server: Server, cells: Any, tmp_path: Path
) -> None:
    for number in range(2):
        label = save(tmp_path / "label.tif", cells[number][1].astype(np.uint16))
        assert server.label(f"{number:02d}", label).status == 200
    name = "<img src=x onerror=alert(1)>"
    (bad := server.studies / "labels" / "final" / f"{name}.tif").write_bytes(b"no label")
    show(page, "03")
    before = painted(page)
    page.value("document.querySelector('#epochs').value = 1")
    page.press("t")
    page.until("document.body.dataset.training === 'RUNNING'")
    page.until("!document.querySelector('#bar').hidden")
    assert status(page).startswith(f"training without {name}: ")
    bad.unlink()
    page.until("document.body.dataset.training === 'DONE'", 500)
    page.until(IDLE)
    page.until("document.querySelector('#status').textContent.includes('proposed')")
    assert painted(page) != before
    trained = "document.querySelector('#trained').textContent"
    said = "touching_cells: trained on 2 images; from 5 on, some of them validate it"
    assert page.value(trained) == said
    network = "document.querySelector('#network').textContent"
    assert re.fullmatch(r"trained [-\d]+ [:\d]+ on 2 images", page.value(network))
    reload(page)
    show(page, "03")
    assert page.value(network).endswith("on 2 images")
    page.click("#back")
    page.until(f"{network} === 'as shipped' && {IDLE}")
    page.hover("#network")
    assert painted(page) == before
    page.until(f"{trained} === ''")
    assert not page.value("document.querySelector('#back').checkVisibility()")
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


def test_an_image_of_2048_pixels(page: Page, server: Server, cells: Any) -> None:
    save(server.studies / "large.tif", np.tile(cells[5][0], (16, 16)))
    reload(page)
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
