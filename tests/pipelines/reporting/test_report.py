"""The page of a run: its numbers and pictures are those of the files, and a browser shows it."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PAINTED, Page, chromium, opened
from killed import killed_everywhere
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.errors import DataError
from overtile.pipelines.metrics.score_names import DEFINITIONS
from overtile.pipelines.reporting.colours import (
    ERROR_COLOURS,
    PALETTE,
    numbered_colours,
    outline,
    palette,
)
from overtile.pipelines.reporting.grid import plain_grid
from overtile.pipelines.reporting.predictions import COUNTS, ERRORS, compare, layers_of, load, store
from overtile.pipelines.reporting.report import BYTES, VIEWED, write_report
from overtile.pipelines.reporting.summary import write_summary
from overtile.pipelines.reporting.tables import (
    FIGURES,
    PREDICTIONS,
    Scored,
    append_epoch,
    prediction_file,
    read_history,
    read_run,
    read_scored,
    results_of,
    write_scored,
)

NASTY = "</script><img src=x onerror=alert(1)>&\"'\u2028.tif"
NOTHING = "\u2013"  # where a score is not defined


def cells_of(seed: int, side: int = 64, count: int = 30, gap: bool = True) -> NDArray[np.int32]:
    """A mosaic of cells that touch, some with background between them."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, side, (count, 2))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid[:, :, None] - seeds, axis=-1)
    near = np.sort(distance, axis=-1)
    cells = distance.argmin(-1).astype(np.int32) * 3 + 5  # numbers with gaps, as files have them
    if gap:
        cells[(near[..., 1] - near[..., 0] < 1.5) | (near[..., 0] > side / 7)] = 0
    return cells


# --- errors ------------------------------------------------------------------------------------


def test_errors_are_told_apart() -> None:
    label, found = np.zeros((2, 20, 60), int)
    label[2:8, 2:8], found[2:8, 2:8] = 1, 9  # right
    label[2:8, 12:18] = 2  # missed
    found[2:8, 22:28] = 4  # extra
    label[2:8, 32:36], label[2:8, 36:40], found[2:8, 32:40] = 3, 4, 5  # merged
    label[2:8, 42:50], found[2:8, 42:46], found[2:8, 46:50] = 5, 6, 7  # split
    label[12:18, 2:8], found[12:18, 3:9] = 6, 8  # shifted by one
    label[12:18, 12:18], label[12:18, 18:24] = 7, 8
    found[12:18, 12:20], found[12:18, 20:24] = 10, 11  # the border of two displaced by two
    errors, counts = compare(label, found)
    assert counts == dict(zip(COUNTS, (8, 8, 1, 1, 1, 1), strict=True))
    expected = np.zeros_like(label)
    expected[2:8, 12:18] = expected[12:18, 2] = ERRORS.index("missed")
    expected[2:8, 22:28] = expected[12:18, 8] = ERRORS.index("extra")
    expected[2:8, 32:40] = expected[12:18, 18:20] = ERRORS.index("merged")
    expected[2:8, 42:50] = ERRORS.index("split")
    assert np.array_equal(errors, expected)


@pytest.mark.parametrize("seed", range(5))
def test_counts_of_errors_are_those_of_a_slow_loop(seed: int) -> None:
    label, found = cells_of(seed), cells_of(seed + 100, count=25)
    _, counts = compare(label, found)
    names, others = (set(np.unique(a[a > 0]).tolist()) for a in (label, found))

    def share(one: NDArray[Any], a: int, other: NDArray[Any], b: int) -> float:
        return float(((one == a) & (other == b)).sum() / (one == a).sum())

    held = {s: [r for r in names if share(label, r, found, s) > 0.5] for s in others}
    parts = {r: [s for s in others if share(found, s, label, r) > 0.5] for r in names}
    split = {r for r in names if len(parts[r]) > 1}
    assert counts["merged"] == sum(len(r) > 1 for r in held.values())
    assert counts["split"] == len(split)
    assert counts["missed"] == len(names - split - {r for rs in held.values() for r in rs})
    assert counts["extra"] == len(
        {s for s in others if not held[s]} - {s for ss in parts.values() for s in ss}
    )
    assert (counts["labelled"], counts["found"]) == (len(names), len(others))


# --- colours -----------------------------------------------------------------------------------


def shared_colours(cells: NDArray[Any], colours: NDArray[Any]) -> int:
    """Pairs of pixels side by side or across a corner, in two cells of one colour."""
    count = 0
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one, other = (
            (slice(dy, None), slice(max(dx, 0), dx if dx < 0 else None)),
            (
                slice(None, -dy or None),
                slice(max(-dx, 0), -dx if dx > 0 else None),
            ),
        )
        both = (cells[one] > 0) & (cells[other] > 0) & (cells[one] != cells[other])
        count += int((both & (colours[one] == colours[other])).sum())
    return count


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gap", [False, True])
def test_neighbours_have_different_colours(seed: int, gap: bool) -> None:
    cells = cells_of(seed, count=90, gap=gap)
    colours = numbered_colours(cells)
    assert ((colours > 0) == (cells > 0)).all()
    assert colours.max() <= len(PALETTE)
    assert len(np.unique(colours[colours > 0])) > 4, "many cells, many colours"
    for name in np.unique(cells):
        assert len(np.unique(colours[cells == name])) == 1
    assert shared_colours(cells, colours) == 0
    assert shared_colours(cells, np.ones_like(colours)) > 0 or gap

    again = numbered_colours(cells * 2, (cells, colours))
    assert np.array_equal(again, colours), "a cell keeps its colour"
    other = cells_of(seed + 50, count=90, gap=gap)
    assert shared_colours(other, numbered_colours(other, (cells, colours))) == 0


def test_colours_of_no_cell_of_one_and_of_cells_in_many_pieces() -> None:
    assert not numbered_colours(np.zeros((5, 6), int)).any()
    assert np.unique(numbered_colours(np.full((5, 6), 7))).tolist() == [1]
    pieces = np.random.default_rng(0).integers(1, 30, (40, 40))  # each beside all others
    colours = numbered_colours(pieces)
    assert shared_colours(pieces, colours) == 0
    assert len(set(palette(int(colours.max())))) == colours.max()


# --- layers ------------------------------------------------------------------------------------


def layers_for(name: str, seed: int, side: int = 64) -> Any:
    rng = np.random.default_rng(seed)
    label, found = cells_of(seed, side), cells_of(seed + 1, side)
    image = rng.normal(size=label.shape) + 3 * (label > 0)
    return layers_of(name, image, label, rng.uniform(size=label.shape), found)


def test_layers_come_back_from_their_file(tmp_path: Path) -> None:
    layers = layers_for("a.tif", 3)
    store(layers, tmp_path / "00000.npz")
    found = load(tmp_path / "00000.npz")
    for name in ("image", "label", "probability", "instances", "errors"):
        assert np.array_equal(getattr(found, name), getattr(layers, name)), name
    assert (found.name, found.size, found.grid) == ("a.tif", (64, 64), plain_grid(2))
    assert found.counts == layers.counts == compare(layers.label, layers.instances)[1]
    assert np.array_equal(found.label, cells_of(3)), "numbers stay"
    alone = layers_of("b.tif", np.zeros((4, 5)))
    store(alone, tmp_path / "00001.npz")
    assert (load(tmp_path / "00001.npz").label, alone.errors) == (None, None)
    store(replace(layers, label=layers.label[1:]), tmp_path / "00002.npz")
    with pytest.raises(DataError, match=r"00002\.npz: no layers of a prediction"):
        load(tmp_path / "00002.npz")


def test_large_images_are_scaled_down_and_counted_before() -> None:
    label = np.kron(np.arange(1, 7).reshape(2, 3), np.ones((40, 30), int))
    fine = np.zeros_like(label)
    fine[::2, ::2] = np.arange(60 * 30 // 2 * 2)[: 40 * 45].reshape(40, 45) + 1
    layers = layers_of("a", np.arange(7200.0).reshape(80, 90), label, label / 10, fine, side=45)
    assert layers.image.shape == layers.label.shape == layers.errors.shape == (40, 45)
    assert layers.size == (80, 90)
    assert layers.counts["found"] == 1800
    assert np.array_equal(layers.label, label[::2, ::2])
    assert np.abs(layers.probability - label[::2, ::2] * 25.5).max() <= 1


def test_what_is_no_probability_is_left_out() -> None:
    image = np.random.default_rng(0).integers(0, 4, (12, 10))
    assert layers_of("v", image * 1.0, image, image / 4, image).probability is not None
    assert layers_of("v", image * 1.0, image, image * 2.0, image).probability is None, "logits"


# --- the page ----------------------------------------------------------------------------------


def write_run(folder: Path, images: int = 5, side: int = 64, history: bool = True) -> Path:
    """The folder of a run as training leaves it, with scores that are easy to order."""
    (folder / PREDICTIONS).mkdir(parents=True)
    rng = np.random.default_rng(images)
    names = [f"data/set <b>{n % 2}</b>/{n:03d}.tif" for n in range(images - 1)] + [f"data/{NASTY}"]
    seg = rng.permutation(images) / images + 0.01
    rows = []
    for n, name in enumerate(names):
        value = "" if n == 1 and images > 3 else float(seg[n])
        rows.append({"image": name, "seg": value, "pixel_error": float(rng.uniform()), "odd": 1.5})
    with (folder / "evaluation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    scores = {"seg": 0.8125, "pixel_error": 0.0625, "odd": math.nan, "whole": 3.0}
    told = {"key_metric": "seg", "lower_is_better": False, "network": "models/model.pt"}
    content = {"images": images, "kind": "unseen", "scores": scores, "versions": 7, **told}
    (folder / "evaluation.json").write_text(json.dumps(content))
    for number, _ in read_scored(folder).telling()[:VIEWED]:
        store(
            layers_for(names[number], number, side), prediction_file(folder / PREDICTIONS, number)
        )
    if history:
        lines = ["epoch,iteration,train_loss,learning_rate,val_seg"]
        lines += [f"{e},{e * 4},{1 / e},{0.01 / e},{'' if e % 2 else e / 10}" for e in range(1, 7)]
        (folder / "history.csv").write_text("\n".join(lines) + "\n")
        summary = {"best_epoch": 4, "training_seconds": 61.2}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def block(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found is not None, name
    return json.loads(found[1])


def decoded(uri: str) -> NDArray[Any]:
    """Pixels of a data URI: grey, or red, green, blue and opacity."""
    head, content = uri.split(",", 1)
    assert head == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    return np.asarray(picture if picture.mode == "L" else picture.convert("RGBA"))


def test_numbers_of_the_page_are_those_of_the_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    page = write_report(folder).read_text()
    assert page == write_report(folder, tmp_path / "again.html").read_text(), "made of files alone"
    content = block(page, "run")
    assert ["averaged over", "7 versions"] in content["facts"]
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = [m["id"] for m in content["metrics"]]
    assert metrics == ["seg", "pixel_error", "odd", "whole"]
    assert [m["value"] for m in content["metrics"]] == [0.8125, 0.0625, None, 3.0]
    assert [(m["key"], m["lower"]) for m in content["metrics"][:2]] == [
        (True, False),
        (False, True),
    ]
    assert len(content["images"]) == len(rows)
    for shown, row in zip(content["images"], rows, strict=True):
        assert f"data/{shown['name']}" == row["image"]
        for value, metric in zip(shown["scores"], metrics, strict=True):
            told = row.get(metric, "")
            assert value == (float(told) if told else None)
    curves = {c["id"]: c["points"] for c in content["history"]}
    assert list(curves) == ["train_loss", "seg", "learning_rate"]
    assert curves["train_loss"] == [[e, 1 / e] for e in range(1, 7)]
    assert curves["seg"] == [[e, e / 10] for e in (2, 4, 6)], "gaps stay gaps"
    for metric in ("pixel_error", "rand_error", "warping_error", "v_rand", "v_info", "seg", "det"):
        assert content["definitions"][metric] == DEFINITIONS[metric].sentence
    assert {"ap50", "ap75", "ap90", "pq", "mean_iou", "loss"} <= DEFINITIONS.keys()
    assert "odd" not in content["definitions"]


def test_pictures_of_the_page_are_the_stored_layers(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    page = write_report(folder).read_text()
    for number in range(5):
        shown = block(page, f"image-{number}")
        layers = load(prediction_file(folder / PREDICTIONS, number))
        pictures = {name: decoded(uri) for name, uri in shown["layers"].items()}
        assert list(pictures) == ["image", "label", "instances", "probability", "errors"]
        assert shown["counts"] == [layers.counts[c] for c in COUNTS]
        assert np.array_equal(pictures["image"], layers.image)
        for name in ("label", "instances"):
            cells = getattr(layers, name)
            assert np.array_equal(pictures[name][..., 3] > 0, cells > 0)
            assert np.array_equal(pictures[name][..., 3] == 255, outline(cells))
            packed = pictures[name][..., :3].astype(int) @ (65536, 256, 1)
            assert shared_colours(cells, packed) == 0
        steps = np.argsort(layers.probability, axis=None)
        bright = pictures["probability"][..., :3].astype(int).sum(-1).ravel()[steps]
        assert (np.diff(bright) >= -4).all(), "brighter is likelier"
        for index, kind in enumerate(ERRORS[1:], 1):
            coloured = (pictures["errors"][..., :3] == ERROR_COLOURS[kind]).all(-1)
            assert np.array_equal(coloured, layers.errors == index), kind


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a&b<i>")
    page = write_report(folder).read_text()
    assert "<img src=x" not in page
    assert "<title>a&amp;b&lt;i&gt;: report</title>" in page
    assert block(page, "run")["images"][-1]["name"] == NASTY
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert "unsafe" not in policy[1]
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)


def test_of_many_images_the_page_has_the_worst_the_median_and_the_best(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", images=2 * VIEWED, side=24)
    scored = read_scored(folder)
    ranked = scored.ranked()
    assert [scored.rows[n]["seg"] for n in ranked] == sorted(scored.rows[n]["seg"] for n in ranked)
    page = write_report(folder).read_text()
    content = block(page, "run")
    viewed = {n: i["group"] for n, i in enumerate(content["images"]) if i["group"] is not None}
    third = VIEWED // 3
    middle = len(ranked) // 2
    assert {n for n in viewed if viewed[n] == "worst"} == set(ranked[:third])
    assert {n for n in viewed if viewed[n] == "best"} == set(ranked[-third:])
    around = {n for n in viewed if viewed[n] == "median"}
    assert around == set(ranked[middle - third // 2 : middle + third // 2])
    assert len(content["images"]) == 2 * VIEWED
    assert content["note"].startswith(f"{VIEWED} of {2 * VIEWED} images: the {third} worst, the")
    assert page.count('id="image-') == VIEWED


def test_a_page_is_not_larger_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", images=12, side=128)
    monkeypatch.setattr("overtile.pipelines.reporting.report.BYTES", 200_000)
    page = write_report(folder).read_text()
    content = block(page, "run")
    groups = [i["group"] for i in content["images"] if i["group"] is not None]
    assert 3 <= len(groups) < 12
    assert max(map(groups.count, ("worst", "median", "best"))) <= len(groups) // 3 + 1
    assert len(page) < 200_000 + 60_000
    assert f"{len(groups)} of 12 images" in content["note"]
    assert BYTES < 2**25


@pytest.mark.parametrize("lower", [False, True])
def test_every_image_is_told_once_the_worst_first(lower: bool) -> None:
    for count in range(8):
        rows = [{"m": (n * 5 % 8) / 8} for n in range(count)] + [{"m": math.nan}]
        scored = Scored({"m": 0.5}, [str(n) for n in range(count + 1)], rows, "m", lower)
        told = scored.telling()
        assert sorted(n for n, _ in told) == list(range(count + 1))
        assert told[-1] == (count, "")
        if count:
            pick = max if lower else min
            assert told[0] == (pick(range(count), key=lambda n: rows[n]["m"]), "worst")


def test_a_run_that_has_not_scored_yet_has_its_curves(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "evaluation.json").unlink()
    content = block(write_report(folder).read_text(), "run")
    assert len(content["history"]) == 3
    assert (content["images"], content["metrics"]) == ([], [])


def broken(folder: Path, file: str, text: str | None) -> Path:
    write_run(folder)
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("evaluation.json", "{", "evaluation.json: no JSON"),
        ("evaluation.json", "[]", "evaluation.json: list; expected a JSON object"),
        ("evaluation.json", "{}", "evaluation.json: no scores in it"),
        ("evaluation.json", '{"images":5,"scores":{"seg":"x"}}', "evaluation.json: no scores"),
        ("evaluation.csv", None, "evaluation.csv: no table (No such file or directory)"),
        ("evaluation.csv", "image,seg\na,1\n", "evaluation.csv: 1 images; expected the 5 of"),
        ("evaluation.csv", "image,seg\na,good\n", "evaluation.csv: 'good'; expected a number"),
        ("evaluation.csv", "image,seg\na\n", "evaluation.csv: row 2 is longer or shorter"),
        ("history.csv", "epoch,train_loss\none,1\n", "history.csv: 'one'; expected a number"),
        ("history.csv", "train_loss\n1\n", "history.csv: no epochs in it"),
        ("summary.json", "no", "summary.json: no JSON"),
        (f"{PREDICTIONS}/00002.npz", "no", "00002.npz: no layers of a prediction"),
    ],
)
def test_a_broken_file_costs_one_line(
    tmp_path: Path, file: str, text: str | None, said: str
) -> None:
    folder = broken(tmp_path / "run", file, text)
    with pytest.raises(DataError, match=re.escape(said)) as error:
        write_report(folder)
    assert "\n" not in str(error.value)
    assert not list(folder.glob("*report*")), "nothing written half"


def test_a_file_cut_short_or_of_another_image_costs_one_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    first, second = (prediction_file(folder / PREDICTIONS, n) for n in (0, 2))
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match=r"00000\.npz: of .*002\.tif; expected .*000\.tif"):
        write_report(folder)
    for length in (100, len(whole) // 2, len(whole) - 30):
        first.write_bytes(whole[:length])
        with pytest.raises(DataError, match="no layers of a prediction"):
            write_report(folder)
    first.write_bytes(whole[: len(whole) // 2] + b"xxxxxxxx" + whole[len(whole) // 2 + 8 :])
    with pytest.raises(DataError, match="no layers of a prediction"):
        write_report(folder)


# --- scoring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("suffix", [".nii.gz", ".tif"])
def test_images_are_stored_rows_first_and_volumes_sections_first(
    tmp_path: Path, suffix: str, spatial_dims: int
) -> None:
    """NIfTI holds columns first, depth last; TIFF depth first. The page shows rows first."""
    import nibabel
    import tifffile
    import torch
    from monai.data import DataLoader, Dataset
    from monai.engines import SupervisedEvaluator
    from monai.handlers import IgniteMetricHandler, from_engine

    from overtile.pipelines.images.read_transform import ReadImaged
    from overtile.pipelines.inference.evaluation import draw_cases, score
    from overtile.pipelines.metrics.monai_metrics import SegMetric

    rng = np.random.default_rng(1)
    volumes = [rng.integers(0, 3, (5, 12, 20)).astype(np.uint8) for _ in range(3)]
    items = []
    for number, volume in enumerate(volumes):
        pixels = volume if spatial_dims == 3 else volume[2]
        path = tmp_path / f"{number}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(path, pixels, photometric="minisblack")
        else:
            nibabel.save(nibabel.Nifti1Image(pixels.T, np.eye(4)), path)
        items.append({"image": str(path), "label": str(path)})
    read = ReadImaged(["image", "label"], ("float32", "int32"), spatial_dims=spatial_dims)
    metric = IgniteMetricHandler(
        metric_fn=SegMetric(), output_transform=from_engine(["instances", "label"])
    )

    def found(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "instances": (data["pred"][:1] * 2).round().int()}

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items, read), batch_size=1),
        network=torch.nn.Identity(),
        inferer=lambda image, network: network(image).as_tensor() / 2,
        postprocessing=found,
        key_val_metric={"seg": metric},
    )
    folder = tmp_path / "out"
    for _ in range(2):  # the second time over the first
        with results_of(folder) as results:
            result = score(evaluator, {"seg": metric}, results, {})
        assert result["scores"] == {"seg": 1.0}
    assert (result["key_metric"], result["lower_is_better"]) == ("seg", False)
    for number, volume in enumerate(volumes):
        layers = load(prediction_file(folder / PREDICTIONS, number))
        stored = volume if spatial_dims == 3 else volume[2]
        assert np.array_equal(layers.label, stored)
        assert np.array_equal(layers.instances, stored)
        assert np.array_equal(layers.probability, np.rint(stored / 2 * 255))
        assert layers.errors is not None
        assert not layers.errors.any()
        upright = (suffix == ".nii.gz" and spatial_dims == 3,) * 2
        assert layers.grid.upwards[:2] == upright, "the front, and the head, are up"
    cases = draw_cases(folder)
    assert cases is not None
    with Image.open(cases) as picture:
        assert min(picture.size) > 500


def test_a_scoring_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    import torch
    from monai.engines import SupervisedEvaluator

    from overtile.pipelines.inference.evaluation import score

    folder = write_run(tmp_path / "run")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    evaluator = SupervisedEvaluator(torch.device("cpu"), [{"image": [], "label": []}], None)
    with pytest.raises(Exception), results_of(folder) as results:  # noqa: B017, PT011
        score(evaluator, {}, results, {})
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


# --- history -----------------------------------------------------------------------------------


def test_an_epoch_that_is_repeated_replaces_what_came_of_it_before(tmp_path: Path) -> None:
    path = tmp_path / "run" / "history.csv"
    for epoch in (1, 2, 3, 4):
        append_epoch({"epoch": epoch, "train_loss": epoch / 3}, path)
    append_epoch({"epoch": 3, "train_loss": 0.25, "val_seg": np.float32(0.5)}, path)
    append_epoch({"epoch": 4, "train_loss": 0.125}, path)
    rows = read_history(path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["train_loss"] for row in rows] == [1 / 3, 2 / 3, 0.25, 0.125]
    assert [row["val_seg"] for row in rows if not math.isnan(row["val_seg"])] == [0.5]
    assert [file.name for file in path.parent.iterdir()] == ["history.csv"]


# --- killed at any moment ----------------------------------------------------------------------


def write_scoring(folder: Path, value: float) -> None:
    """Tables, layers, a picture and the page of a scoring that can be told from another."""
    with results_of(folder) as results:
        (results / PREDICTIONS).mkdir()
        rows = [{"image": f"{value}.tif", "seg": value}]
        content = {"images": 1, "scores": {"seg": value}, "key_metric": "seg"}
        write_scored(results, rows, content)
        store(layers_for(f"{value}.tif", 0, 16), prediction_file(results / PREDICTIONS, 0))
        (results / FIGURES).mkdir(exist_ok=True)
        (results / FIGURES / "cases.png").write_text(str(value))
        write_summary({"best_epoch": value}, results)
        write_report(results, name=folder.name)


def test_a_scoring_that_is_killed_leaves_what_was_there_or_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / FIGURES).mkdir(parents=True)
    (folder / FIGURES / "training_sample.png").write_text("of the training")
    (folder / "history.csv").write_text("epoch,train_loss\n1,0.5\n")
    write_scoring(folder, 0.25)
    pages: dict[float, set[bytes]] = {}
    for _ in killed_everywhere(lambda: write_scoring(folder, 0.5)):
        run = read_run(folder)
        assert run.scored is not None
        value = run.scored.scores["seg"]
        pages.setdefault(value, set()).add((folder / "report.html").read_bytes())
        assert [row["seg"] for row in run.scored.rows] == [value]
        assert run.summary == {"best_epoch": value}
        assert [row["epoch"] for row in run.history] == [1]
        assert load(prediction_file(folder / PREDICTIONS, 0)).name == f"{value}.tif"
        assert (folder / FIGURES / "cases.png").read_text() == str(value)
        assert (folder / FIGURES / "training_sample.png").read_text() == "of the training"
        if value == 0.5:
            write_scoring(folder, 0.25)
    assert pages.keys() == {0.25, 0.5}, "killed before and after"
    assert pages.pop(0.5) == {write_report(folder).read_bytes()}
    write_scoring(folder, 0.25)
    assert pages.pop(0.25) == {write_report(folder).read_bytes()}
    assert not [path for path in folder.iterdir() if path.name.startswith(".partial")]


def test_one_file_that_is_killed_is_the_old_or_the_new(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", images=1, side=16)
    page = write_report(folder)
    written = {page: (page.read_bytes(), lambda: write_report(folder, name="other"))}
    summary = folder / "summary.json"
    written[summary] = (summary.read_bytes(), lambda: write_summary({"best_epoch": 7}, folder))
    history = folder / "history.csv"
    row = {"epoch": 7, "train_loss": 0.5}
    written[history] = (history.read_bytes(), lambda: append_epoch(row, history))
    for path, (old, write) in written.items():
        found = [path.read_bytes() for _ in killed_everywhere(write)]
        new = path.read_bytes()
        assert new != old
        assert {old} <= set(found) <= {old, new}


# --- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser = chromium("the report is not opened")
    with opened(browser, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("report") / "a run", images=6, side=96))


@pytest.fixture
def shown(page: Page, report: Path) -> Iterator[Page]:
    page.requested.clear()
    page.problems.clear()
    page.open(report.as_uri())
    yield page
    assert page.problems == []
    assert page.requested == [report.as_uri()], "nothing else is asked for"


def column(page: Page, number: int) -> list[str]:
    texts: list[str] = page.value(
        f"Array.from(document.querySelectorAll('#body td:nth-child({number})'), c => c.textContent)"
    )
    return texts


def test_the_table_is_sorted_by_any_metric(shown: Page) -> None:
    scores = column(shown, 2)
    numbers = [float(s) for s in scores if s != NOTHING]
    assert numbers == sorted(numbers), "worst first"
    assert scores[-1] == NOTHING, "no score is last"
    shown.click("#head th:nth-child(2) button")
    scores = column(shown, 2)
    assert [float(s) for s in scores[:-1]] == numbers[::-1]
    assert scores[-1] == NOTHING
    assert shown.value("document.querySelector('#head th:nth-child(2)').ariaSort") == "descending"
    shown.click("#head th:nth-child(3) button")
    errors = [float(s) for s in column(shown, 3)]
    assert errors == sorted(errors, reverse=True), "the worst of an error is the largest"
    shown.click("#head th:nth-child(1) button")
    names = column(shown, 1)
    assert names[-5:] == [f"set <b>{n % 2}</b>/{n:03d}.tif" for n in (0, 2, 4, 1, 3)]
    assert NASTY in names


def test_a_metric_is_explained_on_hover_and_on_focus(shown: Page) -> None:
    hidden = "document.querySelector('#tip').hidden"
    text = "document.querySelector('#tip').textContent"
    assert shown.value(hidden)
    shown.hover("#cards .term")
    assert not shown.value(hidden)
    assert shown.value(text) == DEFINITIONS["seg"].sentence
    low, high = shown.value(
        "['#tip', '#cards .term'].map(s => document.querySelector(s).getBoundingClientRect())"
        ".map((box, i) => i ? box.top : box.bottom)"
    )
    assert low <= high, "the score stays in sight"
    shown.press("Escape")
    assert shown.value(hidden)
    shown.value("document.querySelectorAll('#cards .term')[1].focus()")
    assert shown.value(text) == DEFINITIONS["pixel_error"].sentence
    shown.press("Tab")
    assert shown.value(f"{hidden} || {text} != {json.dumps(DEFINITIONS['pixel_error'].sentence)}")
    assert shown.value("document.querySelectorAll('#cards .card').length") == 4
    assert shown.value("document.querySelectorAll('#cards .term').length") == 2, "odd ones plainly"
    assert shown.value("document.querySelector('#cards .value').textContent") == "0.8125"


def layer(page: Page) -> Any:
    return page.value("document.querySelector('#layers [aria-pressed=true]').value")


def test_layers_flip_by_key_and_by_click(shown: Page) -> None:
    assert layer(shown) == "errors"
    everything = ["image", "label", "probability", "instances", "errors"]
    sources = set()
    for key, name in enumerate(everything, 1):
        shown.press(str(key))
        assert layer(shown) == name
        assert shown.value("over.hidden") == (name == "image")
        if name != "image":
            shown.until("over.complete && over.naturalWidth == 96")
            sources.add(shown.value("over.src"))
        if name == "probability":
            ramp = "document.querySelector('#legend svg').getBoundingClientRect().width"
            assert shown.value(ramp) > 150, "its colours have a scale"
    assert len(sources) == 4
    shown.click("#layers [value=label]")
    assert layer(shown) == "label"
    shown.value("stage.focus()")
    for name in ("probability", "instances", "errors", "image"):
        shown.press("ArrowRight")
        assert layer(shown) == name
    shown.press("ArrowLeft")
    assert layer(shown) == "errors"
    legend = shown.value("document.querySelector('#legend').textContent")
    for kind in ERRORS[1:]:
        assert kind in legend


def scale(page: Page) -> float:
    return float(page.value("stage.dataset.scale"))


def test_the_image_is_zoomed_and_moved(shown: Page) -> None:
    fit = scale(shown)
    assert fit == pytest.approx(shown.value("stage.clientHeight") / 96)
    shown.press("+")
    assert scale(shown) == pytest.approx(1.5 * fit)
    shown.click("#in")
    assert scale(shown) == pytest.approx(2.25 * fit)
    shown.value("stage.focus()")
    place = "over.getBoundingClientRect().x"
    before = shown.value(place)
    shown.press("ArrowRight", shift=True)
    assert shown.value(place) == pytest.approx(before - 60)
    x, y = shown.middle("#stage")
    before = shown.value(place)
    for kind, by in (("mouseMoved", 0), ("mousePressed", 0), ("mouseMoved", 35)):
        shown.mouse(kind, x + by, y)
    shown.mouse("mouseReleased", x + 35, y)
    assert shown.value(place) == pytest.approx(before + 35)
    shown.press("-")
    assert scale(shown) == pytest.approx(1.5 * fit)
    shown.press("0")
    assert scale(shown) == pytest.approx(fit)


def test_keys_and_names_lead_to_other_images(shown: Page) -> None:
    def name() -> Any:
        return shown.value("document.querySelector('#name').textContent")

    order = column(shown, 1)
    assert name() == order[0], "the worst"
    scroll = shown.value("scrollY")
    shown.press("ArrowDown")
    assert name() == order[0], "the page keeps its arrow keys"
    shown.value("stage.focus()")
    shown.press("ArrowDown")
    assert name() == order[1]
    assert shown.value("document.querySelector('.shown td').textContent") == order[1]
    shown.press("ArrowUp")
    shown.press("ArrowUp")
    assert name() == order[0]
    shown.press("2")
    shown.click("#body tr:nth-child(4) button")
    assert (name(), layer(shown)) == (order[3], "label"), "the layer stays"
    assert shown.value("document.activeElement.id") == "stage"
    shown.until("base.complete && base.naturalWidth == 96")
    assert "cells in the label" in shown.value("document.querySelector('#found').textContent")
    shown.press("?")
    assert shown.value("document.querySelector('#help').open")
    shown.press("Escape")
    assert not shown.value("document.querySelector('#help').open")
    assert scroll == 0


def test_curves_are_read_by_keys(shown: Page) -> None:
    read = "document.querySelector('#charts .read').textContent"
    assert shown.value(read) == "epoch 6: 0.1667"
    shown.value("document.querySelector('#charts svg').focus()")
    shown.press("ArrowLeft")
    assert shown.value(read) == "epoch 5: 0.2000"
    assert shown.value("document.querySelectorAll('#charts .chart').length") == 3


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_can_be_read(
    shown: Page, width: int, dark: bool, tmp_path: Path
) -> None:
    shown.resize(width, 844, dark)
    shown.until("document.documentElement.scrollWidth <= innerWidth")
    shown.until(f"stage.clientWidth <= {width}")
    shown.press("4")
    shown.until(PAINTED)
    shown.picture(tmp_path / "page.png", whole=True)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"), float)
    assert pixels.shape[1] <= width
    ground = float(np.median(pixels))
    assert ground < 60 if dark else ground > 200
    colours = shown.value(
        """['.card', '.quiet', 'h1', 'td button', '.term'].map(s => {
        const style = getComputedStyle(document.querySelector(s));
        return style.color;
        })"""
    )
    back = shown.value("getComputedStyle(document.querySelector('.card')).backgroundColor")
    for colour in colours:
        assert contrast(colour, back) >= 4.5
    shown.resize(1280, 900)


def contrast(one: str, other: str) -> float:
    """Of two CSS colours, by WCAG 2.2."""

    def luminance(colour: str) -> float:
        channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_page_without_scores_and_one_without_a_training_are_whole(
    page: Page, tmp_path: Path
) -> None:
    page.problems.clear()
    without = broken(tmp_path / "a", "evaluation.json", None)
    page.open(write_report(without).as_uri())
    visible = "Array.from(document.querySelectorAll('section:not([hidden])'), s => s.id)"
    assert page.value(visible) == ["curves"]
    page.open(write_report(write_run(tmp_path / "b", images=1, history=False)).as_uri())
    assert page.value(visible) == ["scores", "viewing", "rows"]
    assert page.value("document.querySelector('#note').textContent") == "The only image."
    assert page.problems == []


def test_the_page_asks_nothing_of_the_network_even_if_told_to(page: Page, report: Path) -> None:
    page.open(report.as_uri())
    page.requested.clear()
    refused = page.value(
        "fetch('http://127.0.0.1:9/x').then(() => 'sent', error => error.constructor.name)"
    )
    assert refused == "TypeError"
    assert any("Content Security Policy" in text for text in page.problems)
