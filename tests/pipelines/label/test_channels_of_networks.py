"""A network of three channels behind the server: proposals, the page, trainings, other images."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from labelling import Server, needs_label, save, serving
from numpy.typing import NDArray
from PIL import Image
from toy import ROOT, same_cells, toy_bundle

from overtile.pipelines.inference.trained import load_trained

pytestmark = needs_label


@pytest.fixture(scope="module")
def colours(cells: Any) -> NDArray[np.uint8]:
    """``[*S, 3]``: cells, others, and noise."""
    (first, _), (second, _) = cells[:2]
    noise = np.random.default_rng(0).integers(0, 255, first.shape)
    stacked = np.stack([first, second, noise], -1).astype(float)
    low, high = stacked.min((0, 1)), stacked.max((0, 1))
    found: NDArray[np.uint8] = np.round((stacked - low) * 255 / (high - low)).astype(np.uint8)
    return found


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory, colours: NDArray[np.uint8]) -> Path:
    """A bundle for colours."""
    folder = tmp_path_factory.mktemp("bundle") / "rgb"
    toy_bundle(folder, np.moveaxis(colours, -1, 0), channels="all")
    configs = ROOT / "bundles/touching_cells/configs"
    config = json.loads((configs / "train.json").read_text())
    config.update(channels="all", tile=60, precision="float32")
    config["network_def"].update(features=[4, 8])
    (folder / "configs" / "train.json").write_text(json.dumps(config))
    shutil.copyfile(configs / "metadata.json", folder / "configs" / "metadata.json")
    return folder


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, colours: NDArray[np.uint8], rgb: Path
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("channels")
    (home / "studies").mkdir()
    save(home / "studies" / "a.png", colours)
    save(home / "studies" / "b.tif", colours[::-1])
    save(home / "studies" / "grey.tif", colours[..., 0])
    with serving(home / "studies", home / "log", "--bundle", str(rgb)) as made:
        yield made


def test_proposals_are_of_all_channels(
    server: Server, rgb: Path, colours: NDArray[np.uint8], tmp_path: Path
) -> None:
    trained = load_trained(rgb, {})
    for name, image in (("a", colours), ("b", colours[::-1])):
        values = np.moveaxis(image, -1, 0).astype(np.float64)
        low, high = np.percentile(values, (1, 99.8), axis=(1, 2), keepdims=True)
        expected = trained.instances(((values - low) / (high - low)).astype(np.float32))
        answer = server.infer(name, "rgb")
        assert answer.status == 200, answer.body
        found = np.asarray(Image.open(io.BytesIO(answer.body))) if name == "a" else None
        if found is None:
            (tmp_path / "b.tif").write_bytes(answer.body)
            found = tifffile.imread(tmp_path / "b.tif")
        assert expected.max() > 1
        assert same_cells(found, expected)


def test_the_page_shows_the_first_channel(server: Server, colours: NDArray[np.uint8]) -> None:
    answer = server.get("/annotate/image?id=b")
    assert answer.status == 200, answer.body
    shown = np.asarray(Image.open(io.BytesIO(answer.body))).astype(float)
    grey = colours[::-1, :, 0].astype(float)
    low, high = np.percentile(grey, (0.5, 99.5))
    assert np.abs(shown - np.clip((grey - low) * 255 / (high - low), 0, 255)).max() <= 1.5


def test_images_of_other_channels_are_refused_in_one_line(server: Server) -> None:
    told = server.infer("grey", "rgb").detail
    assert told.startswith("grey.tif: one channel; expected 3, as the network was trained with")
    told = server.infer("a").detail
    assert told.startswith("a.png: 3 channels")
    assert "one grey channel" in told


def test_images_of_other_channels_are_not_trained_on(
    server: Server, cells: Any, tmp_path: Path
) -> None:
    drawn = save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16))
    assert server.label("grey", drawn).status == 200
    refused = server.post("/train/rgb").detail
    assert "grey.tif: one channel; expected 3, as the network was trained with" in refused


@pytest.mark.slow
def test_a_training_on_colours_changes_the_proposals(
    server: Server, cells: Any, tmp_path: Path
) -> None:
    drawn = save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16))
    for image in ("grey", "b"):
        assert server.label(image, drawn).status == 200
    before = server.infer("a", "rgb").body
    quick = {"max_epochs": 1, "samples_per_epoch": 4, "learning_rate": 0.05}
    answer = server.post("/train/rgb", quick)
    assert answer.status == 200, answer.body
    assert answer.json["left_out"].keys() == {"grey"}
    task = server.trained()
    assert task["status"] == "DONE", task
    after = server.infer("a", "rgb")
    assert after.status == 200, after.body
    assert after.body != before, "the next proposal is the new network's"
