"""Classes: a model of them for images and one for volumes, over HTTP and on the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from browser import Page, chromium, opened
from labelling import Server, needs_label, save, serving
from numpy.typing import NDArray
from toy import CLASSES, ROOT, classes_bundle

from overtile.pipelines.inference.trained import load_trained

pytestmark = needs_label

NAMES = ["background", "Anterior", "posterior", "<b>rest</b>"]
SHAPE = (20, 24, 9)  # of the volume [X, Y, Z]
TURNED = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 4.0, 1], [0, 0, 0, 1]])  # P, R, S


def model(folder: Path, image: NDArray[Any]) -> Path:
    """A bundle of classes that can be trained, too."""
    made = classes_bundle(folder, image)
    source = ROOT / "bundles" / "organs" / "configs"
    for name in ("train.json", "metadata.json", "evaluation.json", "logging.conf"):
        shutil.copyfile(source / name, made / "configs" / name)
    config = json.loads((made / "configs" / "inference.json").read_text())
    config |= {"class_names": NAMES, "num_classes": CLASSES}
    config["network_def"]["out_channels"] = "@num_classes"
    (made / "configs" / "inference.json").write_text(json.dumps(config))
    train = json.loads((made / "configs" / "train.json").read_text())
    train |= {key: config[key] for key in ("spatial_dims", "normalize", "class_names")}
    train |= {"tile": 28, "num_workers": 0, "precision": "float32", "normalize": "percentile"}
    train["network_def"] = config["network_def"]
    (made / "configs" / "train.json").write_text(json.dumps(train))
    metadata = json.loads((made / "configs" / "metadata.json").read_text())
    tensors = metadata["network_data_format"]
    tensors["inputs"]["image"]["spatial_shape"] = ["2*n+18"] * image.ndim
    tensors["outputs"]["pred"]["num_channels"] = CLASSES
    (made / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return made


@pytest.fixture(scope="module")
def volume() -> NDArray[Any]:
    grid = np.indices(SHAPE).sum(0)
    noise = np.random.default_rng(3).integers(0, 40, SHAPE)
    return (grid * 20 + noise).astype(np.int16)


@pytest.fixture(scope="module")
def truth() -> NDArray[Any]:
    """All classes, whose places cannot be mistaken for each other."""
    found = np.zeros(SHAPE, np.uint8)
    found[2:9, 3:14, 1:5], found[11:18, 5:20, 4:8], found[4:7, 16:22, 6:8] = 1, 2, 3
    return found


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    studies_in: Callable[[Path], Path],
    cells: Any,
    volume: NDArray[Any],
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("label")
    studies = studies_in(home / "studies", 2)
    for name in ("organ", "other"):
        nibabel.save(nibabel.Nifti1Image(volume, TURNED), studies / f"{name}.nii.gz")
    flat, solid = model(home / "tissue", cells[0][0]), model(home / "solid", volume)
    with serving(studies, home / "log", "--bundle", str(flat), "--bundle", str(solid)) as made:
        yield made


def nifti(body: bytes, path: Path) -> Any:
    path.write_bytes(body)
    return nibabel.load(path)


def test_names_and_colours_of_classes_are_told(server: Server) -> None:
    models = server.get("/info/").json["models"]
    for name, dims in (("tissue", 2), ("solid", 3)):
        told = models[name]
        assert told["dimension"] == dims
        assert told["labels"] == {name: number for number, name in enumerate(NAMES) if number}
        assert told["label_colors"].keys() == told["labels"].keys()
        assert len({tuple(colour) for colour in told["label_colors"].values()}) == CLASSES - 1
    assert "label_colors" not in models["touching_cells"]


def test_a_volume_is_segmented_trained_on_and_segmented_anew(
    server: Server, volume: NDArray[Any], truth: NDArray[Any], tmp_path: Path
) -> None:
    answer = server.infer("organ", "solid")
    assert answer.status == 200, answer.body
    found = nifti(answer.body, tmp_path / "found.nii.gz")
    trained = load_trained(server.work / "model" / "solid", {})
    expected = trained.labels(np.asarray(trained.normalize(volume[None].astype(np.float32))))
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_allclose(found.affine, TURNED)
    assert len(np.unique(expected)) > 2
    told = server.send("POST", "/infer/solid?image=organ&output=json", params="{}").json
    counts = {name: int((expected == number).sum()) for number, name in enumerate(NAMES)}
    assert told["pixels"] == counts

    # drawn elsewhere, in another orientation: kept as the image lies
    drawn = nibabel.Nifti1Image(truth, TURNED).as_reoriented([[1, -1], [0, 1], [2, -1]])
    nibabel.save(drawn, tmp_path / "drawn.nii.gz")
    assert server.label("organ", tmp_path / "drawn.nii.gz").status == 200
    kept = nibabel.load(server.studies / "labels" / "final" / "organ.nii.gz")
    np.testing.assert_array_equal(np.asarray(kept.dataobj), truth)
    np.testing.assert_allclose(kept.affine, TURNED)
    beyond = nibabel.Nifti1Image((truth + 3 * (truth > 0)).astype(np.uint8), TURNED)
    nibabel.save(beyond, tmp_path / "beyond.nii.gz")
    refused = server.label("other", tmp_path / "beyond.nii.gz").detail
    assert "4 at (2, 3, 1)" in refused
    assert "0 background, 1 Anterior" in refused

    started = server.post("/train/solid", {"max_epochs": 1, "samples_per_epoch": 4})
    assert started.status == 200, started.body
    task = server.trained()
    assert task["status"] == "DONE", task
    anew = nifti(server.infer("organ", "solid").body, tmp_path / "anew.nii.gz")
    assert (np.asarray(anew.dataobj) != expected).any()
    now = load_trained(server.work / "model" / "solid", {})
    assert now.facts["weights"] != trained.facts["weights"]
    assert now.class_names == tuple(NAMES)


def test_labels_go_to_those_who_learn_them(server: Server, cells: Any, tmp_path: Path) -> None:
    """A folder may have labels of cells and of classes; each model takes its own."""
    numbered = save(tmp_path / "numbered.tif", cells[0][1].astype(np.uint16))
    assert server.label("00", numbered).status == 200
    assert "labels" not in server.get("/datastore/label/info?label=00&tag=final").json
    told = server.post("/train/tissue", {"max_epochs": 1}).detail
    assert "labels/final/00.tif: 4 at (" in told
    classes = (cells[1][1] > 0) * (1 + np.indices((128, 128))[0] // 64)
    of_classes = save(tmp_path / "classes.tif", classes.astype(np.uint8))
    assert server.label("01", of_classes).status == 200
    assert server.get("/datastore/label/info?label=01&tag=final").json["labels"] == "classes"
    (server.studies / "labels" / "final" / "00.tif").unlink()
    assert "a label of classes; expected instances" in server.post("/train/touching_cells").detail
    (server.studies / "labels" / "final" / "01.tif").unlink()
    grey = save(tmp_path / "grey.tif", cells[0][0])
    assert "image '00'" in server.label("00", grey).detail


IDLE = "document.body?.dataset.image && document.body.dataset.busy === 'false'"


@pytest.fixture
def page(server: Server, tmp_path: Path) -> Iterator[Page]:
    with opened(chromium("the page is not looked at"), tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{server.port}/annotate/")
        page.until(IDLE)
        yield page
        assert not page.problems
        assert all(a.startswith(f"http://127.0.0.1:{server.port}/") for a in page.requested)


def show(page: Page, image: str, model: str, section: int = 0) -> None:
    page.click(f"#images button[value='{image}']")
    page.until(f"document.body.dataset.image === '{image}' && {IDLE}")
    page.value(
        f"""(select => {{ select.value = '{model}'; select.dispatchEvent(new Event('change')); }})
        (document.querySelector('#model'))"""
    )
    page.until(f"document.querySelector('#legend').checkVisibility() && {IDLE}")
    turn_to(page, section)
    page.click("#clear")


def turn_to(page: Page, section: int) -> None:
    now = int(page.value("document.body.dataset.section"))
    for _ in range(abs(section - now)):
        page.press("PageDown" if section > now else "PageUp")
    page.until(f"document.body.dataset.section === '{section}' && {IDLE}")


def place(page: Page, points: list[tuple[float, float]], size: tuple[int, int]) -> list[Any]:
    """Points of the image, which is fitted, on the screen."""
    x, y, width, height = page.value(
        "(b => [b.x, b.y, b.width, b.height])(document.querySelector('#canvas')"
        ".getBoundingClientRect())"
    )
    zoom = 0.96 * min(width / size[0], height / size[1])
    left, top = x + (width - size[0] * zoom) / 2, y + (height - size[1] * zoom) / 2
    return [(left + u * zoom, top + v * zoom) for u, v in points]


def submitted(page: Page) -> None:
    page.press("Enter")
    page.until(
        f"document.querySelector('#status').textContent.includes('saved as final') && {IDLE}"
    )


def brush(page: Page, size: float) -> None:
    page.value(f"document.querySelector('#size').value = {size}")


def test_classes_of_an_image_are_drawn_filled_and_submitted(page: Page, server: Server) -> None:
    show(page, "01", "tissue")
    told = page.value("document.querySelector('#legend').textContent")
    assert all(name in told for name in NAMES)
    assert page.value("document.querySelectorAll('#legend b').length") == 0
    assert page.value("document.querySelector('[data-tool=split]').checkVisibility()") is False
    colours = [
        page.value(f"document.querySelectorAll('#legend i')[{n}].style.background")
        for n in range(CLASSES)
    ]
    assert len(set(colours)) == CLASSES
    flat = (128, 128)
    brush(page, 5)
    page.press("b")
    page.press("2")
    frame = [(30, 30), (90, 30), (90, 90), (30, 90), (30, 30)]
    page.drag(place(page, frame, flat))
    page.click("#legend li:nth-child(2) button")
    page.press("g")
    page.mouse("mouseMoved", *place(page, [(60, 60)], flat)[0])
    page.drag(place(page, [(60, 60)], flat))
    page.press("b")
    page.press("3")
    page.drag(place(page, [(30, 60), (60, 60)], flat))  # over both
    page.press("e")
    page.drag(place(page, [(90, 60)], flat))
    submitted(page)
    label = tifffile.imread(server.studies / "labels" / "final" / "01.tif")
    assert label.shape == (128, 128)
    assert label[60, 75] == 1
    assert label[30, 60] == label[75, 30] == 2
    assert label[60, 30] == label[60, 55] == 3
    assert label[60, 90] == label[10, 10] == 0
    counts = np.bincount(label.ravel(), minlength=CLASSES)
    told = page.value(
        "[...document.querySelectorAll('#legend span:last-child')].map(s => s.textContent)"
    )
    assert [int(text.replace(",", "")) for text in told] == counts.tolist()
    noted = server.get("/datastore/label/info?label=01&tag=final").json
    assert (noted["model"], noted["labels"]) == ("tissue", "classes")
    page.press("z", control=True)
    page.until("document.body.dataset.edited === 'true'")
    page.press("z", control=True, shift=True)
    (server.studies / "labels" / "final" / "01.tif").unlink()


def test_a_volume_is_drawn_section_by_section_and_keeps_its_place(
    page: Page, server: Server
) -> None:
    show(page, "other", "solid", 3)
    assert page.value("document.querySelector('#section').max") == str(SHAPE[2] - 1)
    flat = SHAPE[:2]  # columns are x, rows are y
    brush(page, 1)
    page.press("b")
    page.press("1")
    page.drag(place(page, [(4.5, 6.5), (12.5, 6.5)], flat))
    turn_to(page, 5)
    page.press("2")
    page.drag(place(page, [(15.5, 4.5), (15.5, 20.5)], flat))
    page.press("3")
    page.press("g")
    page.drag(place(page, [(2.5, 2.5)], flat))
    page.press("z", control=True)  # the fill
    page.press("z", control=True)
    page.press("z", control=True)  # in another section, which is shown then
    page.until(f"document.body.dataset.section === '3' && {IDLE}")
    for _ in range(3):
        page.press("y", control=True)
    page.until(f"document.body.dataset.section === '5' && {IDLE}")
    submitted(page)
    file = server.studies / "labels" / "final" / "other.nii.gz"
    kept, image = nibabel.load(file), nibabel.load(server.studies / "other.nii.gz")
    label = np.asarray(kept.dataobj)
    assert label.shape == SHAPE
    np.testing.assert_allclose(kept.affine, TURNED)
    assert nibabel.aff2axcodes(kept.affine) == nibabel.aff2axcodes(image.affine)
    assert kept.header.get_zooms() == pytest.approx(image.header.get_zooms())
    assert (label[4:13, 6, 3] == 1).all()
    assert (label[15, 4:21, 5] == 2).all()
    assert label[2, 2, 5] == 3
    assert sorted(np.unique(np.nonzero(label)[2])) == [3, 5]
    page.click("#images button[value='organ']")
    page.until(f"document.body.dataset.image === 'organ' && {IDLE}")
    page.click("#images button[value='other']")  # and comes back
    page.until(f"document.body.dataset.image === 'other' && {IDLE}")
    told = page.value("document.querySelectorAll('#legend span:last-child')[3].textContent")
    assert int(told) == int((label == 3).sum())
    file.unlink()
