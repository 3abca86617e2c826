"""Whole commands as a user types them, on small generated data."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import tifffile
import torch
from mlflow import MlflowClient
from PIL import Image
from ports import free_port
from test_face import FACES, named_in

from overtile.networks import MixedPrecisionInferer, OverlapTileInferer, ValidUNet
from overtile.pipelines.data.synthesis.datasets import write_touching_cells
from overtile.pipelines.data.write import write_data
from overtile.pipelines.images.read import read_image
from overtile.pipelines.metrics.instances import seg_measure
from overtile.pipelines.reporting.predictions import load
from overtile.pipelines.reporting.report import write_report
from overtile.transforms import InstancesFromProbabilities

SMALL = ("--network_def#features", "[4,8]", "--tile", "60", "--warmup_steps", "2")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": 3, "val": 1, "test": 2}
    return write_touching_cells(
        tmp_path_factory.mktemp("cells"), counts, size=(96, 112), large=(150, 230)
    )


def small(data: Path, epochs: int, samples: int = 4) -> tuple[object, ...]:
    return (
        *("--dataset_dir", data, "--output_dir", "runs/small"),
        *("--max_epochs", epochs, "--samples_per_epoch", samples, *SMALL),
    )


def runs_in(uri: str, experiment: str = "touching_cells") -> list[Any]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def artifacts(client: MlflowClient, run_id: str, folder: str = "") -> set[str]:
    names: set[str] = set()
    for entry in client.list_artifacts(run_id, folder):
        names |= artifacts(client, run_id, entry.path) if entry.is_dir else {entry.path}
    return names


def check_run(uri: str, run: Any, epochs: int, samples: int) -> None:
    client = MlflowClient(uri)
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert params["max_epochs"] == str(epochs)
    assert params["train/trainer/max_epochs"] == str(epochs), "references are resolved"
    assert params["network_def/features"] == "[4, 8]"
    assert params["data/train_images"] == "3"
    assert len(params["data/digest"]) == 64
    assert run.data.tags["version.torch"] == torch.__version__
    assert len(run.data.tags["mlflow.source.git.commit"]) in (40, len("unknown"))

    def steps(name: str) -> list[int]:
        return [m.step for m in client.get_metric_history(run.info.run_id, name)]

    assert steps("train_loss") == list(range(1, epochs * samples + 1))
    for name in ("val_seg", "val_mean_iou", "learning_rate", "images_per_second"):
        assert steps(name) == list(range(1, epochs + 1)), name
    assert artifacts(client, run.info.run_id) >= {
        *("config/merged.json", "config/bundle/train.json", "environment.txt", "summary.json"),
        *("figures/training_sample.png", "figures/predictions.png", "figures/cases.png"),
        "report.html",
        *("models/last.pt", "models/model.pt"),
    }


def check_history(folder: Path, uri: str, run: Any, epochs: int) -> None:
    """What MLflow has by epoch, without MLflow; the losses of an epoch as their mean."""
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, epochs + 1)), "no epoch twice"
    client, run_id = MlflowClient(uri), run.info.run_id
    for name in ("learning_rate", "val_seg", "val_mean_iou"):
        tracked = {m.step: m.value for m in client.get_metric_history(run_id, name)}
        assert {int(row["epoch"]): float(row[name]) for row in rows} == tracked
    losses = {m.step: m.value for m in client.get_metric_history(run_id, "train_loss")}
    ends = [0, *(int(row["iteration"]) for row in rows)]
    for row, first, last in zip(rows, ends, ends[1:], strict=False):
        mean = np.mean([losses[step] for step in range(first + 1, last + 1)])
        assert float(row["train_loss"]) == pytest.approx(mean)


def check_stored(folder: Path, data: Path) -> list[dict[str, str]]:
    """Layers of every image as its files have them, and rows of a score each; returns the rows."""
    scores = json.loads((folder / "evaluation.json").read_text())
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = sorted((data / "images").iterdir())
    assert [Path(row["image"]).name for row in rows] == [file.name for file in files]
    assert len(list((folder / "predictions").iterdir())) == len(rows) == scores["images"]
    for number, (row, file) in enumerate(zip(rows, files, strict=True)):
        layers = load(folder / "predictions" / f"{number:05d}.npz")
        label = tifffile.imread(data / "labels" / file.name)
        assert np.array_equal(layers.label, label)
        assert float(row["seg"]) == pytest.approx(float(seg_measure(label, layers.instances)))
        assert np.corrcoef(layers.image.ravel(), tifffile.imread(file).ravel())[0, 1] > 0.9
        assert (layers.instances[layers.probability < 255 * 0.1 - 1] == 0).all()
    assert (folder / "figures" / "cases.png").is_file()
    assert not (folder / "predictions.partial").exists()
    made = (folder / "report.html").read_text()
    assert write_report(folder).read_text() == made, "made again from the same files"
    assert made.count('id="image-') == len(rows)
    return rows


def test_training_is_tracked_and_its_network_segments_a_large_image(
    bundle: Any, cells: Path
) -> None:
    done = bundle.run("touching_cells", "training", *small(cells, epochs=2))
    assert done.returncode == 0, done.stderr
    for shown in ("2 unseen images", "mean IoU", "SEG", "MLflow", "figures"):
        assert shown in done.stdout
    folder = bundle.folder / "runs" / "small"
    uri = f"sqlite:///{bundle.folder / 'runs' / 'mlflow.db'}"
    (run,) = runs_in(uri)
    check_run(uri, run, epochs=2, samples=4)
    check_history(folder, uri, run, epochs=2)
    check_stored(folder, cells / "test")
    shown = show(folder)
    assert shown.returncode == 0
    assert "2 unseen images" in shown.stdout
    assert str(folder / "models" / "model.pt") in shown.stdout

    done = bundle.run(
        *("touching_cells", "inference", "--dataset_dir", cells / "large", "--roi_size", 100),
        *("--bundle_root", folder, "--config_file", folder / "configs" / "inference.json"),
        *("--output_dir", "out"),
    )
    assert done.returncode == 0, done.stderr
    assert "tile" not in done.stderr, "bars are for terminals"
    found = tifffile.imread(bundle.folder / "out" / "large_instances.tif")
    assert found.dtype == np.uint16
    assert np.array_equal(found, segment_at_once(cells, folder / "models" / "model.pt"))
    assert (bundle.folder / "out" / "large_outlines.png").is_file()


def show(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "overtile.pipelines", "show", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_showing_what_is_no_run_costs_one_line(tmp_path: Path) -> None:
    shown = show(tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1
    assert "summary.json: no such file; expected the folder of a finished run" in shown.stderr


def segment_at_once(cells: Path, checkpoint: Path) -> np.ndarray[Any, Any]:
    """The same without a bundle: one tile, no files."""
    image = read_image(cells / "large" / "large.tif")[0].astype(np.float64)
    low, high = np.percentile(image, (1, 99.8))
    return segmented((image - low) / (high - low), checkpoint)


def segmented(
    image: np.ndarray[Any, Any], checkpoint: Path, min_size: int = 10, max_hole: int = 60
) -> np.ndarray[Any, Any]:
    network = ValidUNet(features=(4, 8)).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    with torch.no_grad():
        inferer = MixedPrecisionInferer(OverlapTileInferer())
        logits = inferer(torch.from_numpy(image).float()[None, None], network)
    p = logits.softmax(1)[0].numpy()
    find = InstancesFromProbabilities(0.5, min_size, grow=3, extent=0.3, max_hole=max_hole, line=2)
    return find(p)[0]


def state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "models" / "last.pt", weights_only=True)
    return state


def wait_for_epoch(folder: Path, epoch: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "models" / "last.pt").is_file() and state_of(folder)["epoch"] >= epoch:
            return
        time.sleep(0.02)
    pytest.fail(f"no epoch {epoch}: {process.stdout.read() if process.stdout else ''}")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_resumes_to_the_same_bits(
    bundle: Any, cells: Path, how: signal.Signals
) -> None:
    overrides = small(cells, epochs=4, samples=60)
    uri = f"sqlite:///{bundle.folder / 'runs' / 'mlflow.db'}"
    folder = bundle.folder / "runs" / "small"

    with bundle.start("touching_cells", "training", *overrides) as process:
        wait_for_epoch(folder, 1, process)
        process.send_signal(how)
        output, _ = process.communicate(timeout=60)
    stopped = state_of(folder)["epoch"]
    assert 1 <= stopped < 4, "stopped too late for this test to mean anything"
    if how == signal.SIGINT:
        assert process.returncode == 130, output
        assert f"end of epoch {stopped} is saved" in output
        assert "--resume True" in output
        assert "Traceback" not in output
        assert [run.info.status for run in runs_in(uri)] == ["KILLED"]

    done = bundle.run("touching_cells", "training", *overrides, "--resume", "True")
    assert done.returncode == 0, done.stderr
    resumed = state_of(folder)
    (run,) = runs_in(uri)  # the same run goes on
    assert run.info.status == "FINISHED"
    with (folder / "history.csv").open(newline="") as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
    assert epochs == [1, 2, 3, 4], "no epoch twice, none lost"
    if how == signal.SIGINT:
        history = MlflowClient(uri).get_metric_history(run.info.run_id, "train_loss")
        assert [m.step for m in history] == list(range(1, 4 * 60 + 1)), "no step twice"

    done = bundle.run("touching_cells", "training", *overrides, "--num_workers", "0")
    assert done.returncode == 0, done.stderr
    assert (bundle.folder / "runs" / "small.1").is_dir(), "an earlier run is moved, not lost"
    assert_same_bits(resumed, state_of(folder))
    assert len(runs_in(uri)) == 2, "another run is another run"


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    pairs = zip(*(s["optimizer"]["state"].values() for s in (one, other)), strict=True)
    for mine, theirs in pairs:
        assert mine.keys() == theirs.keys() >= {"exp_avg", "exp_avg_sq"}
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    for key in ("epoch", "iteration", "best", "best_epoch", "lr_scheduler"):
        assert one[key] == other[key], key


def test_two_runs_at_once_keep_out_of_each_others_way(bundle: Any, cells: Path) -> None:
    with (
        bundle.start("touching_cells", "training", *small(cells, 500, 60)) as first,
        bundle.start(
            *("touching_cells", "training", *small(cells, 1), "--output_dir", "runs/other")
        ) as second,
    ):
        wait_for_epoch(bundle.folder / "runs" / "small", 1, first)
        third = bundle.run("touching_cells", "training", *small(cells, 1))
        finished = second.communicate(timeout=120)[0]
        first.send_signal(signal.SIGINT)  # it had no end in sight
        stopped = first.communicate(timeout=60)[0]
    assert (first.returncode, second.returncode) == (130, 0), stopped + finished
    assert third.returncode == 2
    assert "another run is writing there" in third.stderr
    uri = f"sqlite:///{bundle.folder / 'runs' / 'mlflow.db'}"
    assert sorted(run.info.status for run in runs_in(uri)) == ["FINISHED", "KILLED"]


def test_a_run_that_never_validated_validates_at_its_end(bundle: Any, cells: Path) -> None:
    overrides = (*small(cells, 2), "--val_interval", 5)
    done = bundle.run("touching_cells", "training", *overrides)
    assert done.returncode == 0, done.stderr
    assert "2 unseen images" in done.stdout
    done = bundle.run("touching_cells", "training", *overrides, "--resume", "True")
    assert done.returncode == 0, done.stderr
    assert "2 unseen images" in done.stdout, "a finished run only repeats its end"


def test_training_without_any_image_to_score_still_gives_a_network(
    bundle: Any, cells: Path
) -> None:
    options = (*small(cells, epochs=1), "--dataset_dir", cells / "train", "--val_fraction", 0)
    done = bundle.run("touching_cells", "training", *options)
    assert done.returncode == 0, done.stderr
    folder = bundle.folder / "runs" / "small"
    assert json.loads((folder / "summary.json").read_text())["scores"] == {}
    assert (folder / "models" / "model.pt").is_file()
    assert (folder / "report.html").is_file()  # of the curves


def test_one_fold_without_validation_keeps_the_last_network(bundle: Any, cells: Path) -> None:
    command = ("--dataset_dir", cells / "train", "--fold", 1, "--folds", 3)
    done = bundle.run(
        *("touching_cells", "training", *small(cells, epochs=2), *command, "--val_fraction", 0)
    )
    assert done.returncode == 0, done.stderr
    assert "1 unseen image" in done.stdout
    folder = bundle.folder / "runs" / "small"
    best = torch.load(folder / "models" / "model.pt", weights_only=True)
    last = torch.load(folder / "models" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(best[name], last[name]) for name in last)
    scores = json.loads((folder / "summary.json").read_text())["scores"]
    done = bundle.run(
        *("touching_cells", "evaluation", *of_run(folder, "evaluation")),
        *("--dataset_dir", cells / "train", "--output_dir", "out", "--versions", 1),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((bundle.folder / "out" / "evaluation.json").read_text())
    assert found["images"] == 1, "the fold that the network has not seen"
    assert {name: found["scores"][name] for name in scores} == scores


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--workers", "1"),
        *("--artifacts-destination", str(tmp_path / "server-artifacts")),
    ]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 180
    try:
        while True:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=10):
                    break
            except OSError:
                time.sleep(0.25)
        yield uri
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


def test_a_run_goes_to_the_server_that_the_environment_names(
    bundle: Any, cells: Path, server: str
) -> None:
    env = {"MLFLOW_TRACKING_URI": server}
    done = bundle.run("touching_cells", "training", *small(cells, epochs=1), env=env)
    assert done.returncode == 0, done.stderr
    assert not (bundle.folder / "runs" / "mlflow.db").exists()
    (run,) = runs_in(server)
    check_run(server, run, epochs=1, samples=4)


def broken(cells: Path, folder: Path, how: str) -> tuple[list[object], list[str]]:
    """Overrides that make a mistake, and what its message has to name."""
    if how == "missing folder":
        return ["--dataset_dir", folder / "nothing"], ["nothing: no such folder"]
    if how == "empty folder":
        (folder / "empty").mkdir()
        return ["--dataset_dir", folder / "empty"], ["empty: no layout", "images/ and labels/"]
    copy = folder / "copy"
    for split in ("images", "labels"):
        (copy / split).mkdir(parents=True)
        for file in sorted((cells / "train" / split).iterdir()):
            (copy / split / file.name).write_bytes(file.read_bytes())
    if how == "no label":
        (copy / "labels" / "001.tif").unlink()
        return ["--dataset_dir", copy], ["images/001.tif", "one label for every image"]
    if how == "no image":
        (copy / "images" / "001.tif").unlink()
        return ["--dataset_dir", copy], ["labels/001.tif", "one label for every image"]
    if how == "sizes differ":
        tifffile.imwrite(copy / "labels" / "002.tif", np.zeros((50, 60), np.uint16))
        return ["--dataset_dir", copy], ["labels/002.tif", "50x60", "96x112"]
    image, label = copy / "images" / "002.tif", copy / "labels" / "002.tif"
    if how == "truncated":
        image.write_bytes(image.read_bytes()[:3000])
        return ["--dataset_dir", copy], [
            "images/002.tif: the file ends within",
            "--skip_unreadable",
        ]
    if how == "infinite":
        tifffile.imwrite(image, np.full((96, 112), np.inf, np.float32))
        return ["--dataset_dir", copy], ["images/002.tif: 10752 pixels are NaN or infinite"]
    if how == "colour":
        colours = np.random.default_rng(0).integers(0, 255, (96, 112, 3), np.uint8)
        tifffile.imwrite(image, colours, photometric="rgb")
        return ["--dataset_dir", copy], ["images/002.tif: 3 channels", "--channels luminance"]
    if how == "float labels":
        tifffile.imwrite(label, np.full((96, 112), 0.5, np.float32))
        return ["--dataset_dir", copy], ["labels/002.tif: labels of float32", "integers"]
    if how == "negative labels":
        tifffile.imwrite(label, np.full((96, 112), -7, np.int16))
        return ["--dataset_dir", copy], ["labels/002.tif: labels from -7 to -7", "expected 0"]
    if how == "masks":
        for file in (copy / "labels").iterdir():
            tifffile.imwrite(file, (tifffile.imread(file) > 0).astype(np.uint8) * 255)
        return ["--dataset_dir", copy], ["labels/000.tif: 1 value(s)", "--labels mask"]
    if how == "tile":
        return ["--dataset_dir", copy, "--tile", 61], ["61x61", "60x60 or 62x62"]
    if how == "misspelt key":
        return ["--dataset_dir", copy, "--learning_rat", 1], ["give --learning_rate 1"]
    if how == "wrong value":
        return ["--dataset_dir", copy, "--normalize", "zcore"], [
            "normalize: 'zcore'",
            "give --normalize zscore",
        ]
    if how == "sliding window":
        stock = ["--inferer", '{"_target_": "SlidingWindowInferer", "roi_size": 60}']
        return ["--dataset_dir", copy, *stock], ["SlidingWindowInferer", "OverlapTileInferer"]
    assert how == "diverges"
    wild = ["--learning_rate", 1e6, "--clip_norm", 1e9]
    return ["--dataset_dir", copy, *wild], ["the loss became", "learning_rate"]


@pytest.mark.parametrize(
    "how",
    [
        *("missing folder", "empty folder", "no label", "no image", "sizes differ"),
        *("truncated", "infinite", "colour", "float labels", "negative labels", "masks"),
        *("tile", "misspelt key", "wrong value", "sliding window", "diverges"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(bundle: Any, cells: Path, how: str) -> None:
    overrides, named = broken(cells, bundle.folder, how)
    done = bundle.run("touching_cells", "training", *small(cells, 1), *overrides)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "overtile: error:" in text]
    for part in named:
        assert part in line
    if how == "diverges":
        uri = f"sqlite:///{bundle.folder / 'runs' / 'mlflow.db'}"
        assert [run.info.status for run in runs_in(uri)] == ["FAILED"]
    else:
        assert not (bundle.folder / "runs" / "small").exists(), "nothing written half"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("--dataset_dir", "nothing"), "nothing: no such file or folder"),
        (("--checkpoint", "nothing.pt"), "nothing.pt: no such file; train first"),
        (("--roi_size", 61), "roi_size 61x61 does not fit the network; expected at least 92"),
        (("--network_def#features", "[4,8]"), "contract.0.0.weight is (32, 1, 3, 3)"),
        (("--image_memory_limit", 10**6), "large.tif: 150x230 pixels need about"),
        (("--save_probabilities", "false"), "save_probabilities: 'false'; expected True or False"),
        (("--device", "gpu"), "device: 'gpu'; expected a device"),
        (("--device", "cuda:7"), "device: 'cuda:7'; expected a device of this machine, as cpu"),
    ],
)
def test_a_mistake_in_inference_costs_one_line(
    bundle: Any, cells: Path, overrides: tuple[object, ...], named: str
) -> None:
    network = ValidUNet(features=(32, 64, 128, 256))
    torch.save({"model": network.state_dict()}, bundle.folder / "model.pt")
    given = ("--dataset_dir", cells / "large", "--checkpoint", "model.pt", "--output_dir", "out")
    done = bundle.run("touching_cells", "inference", *given, *overrides)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert named in done.stderr
    assert not (bundle.folder / "out").exists()


@pytest.fixture(scope="module")
def trained(cells: Path, bundle_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that normalised in another way than the bundle does."""
    bundle = bundle_in(tmp_path_factory.mktemp("trained"))
    options = ("--normalize", "zscore", "--min_size", 20)
    done = bundle.run("touching_cells", "training", *small(cells, 1), *options)
    assert done.returncode == 0, done.stderr
    return bundle.folder / "runs" / "small"


def test_every_name_in_the_folder_of_a_run_is_there(trained: Path) -> None:
    files = sorted((trained / "configs").glob("*.json"))
    names = {name for file in files for name in named_in(file)}
    assert len(names) > 30
    for name in names:
        assert name.rpartition(".")[0] in FACES, name
        assert locate(name) is not None, name


def of_run(folder: Path, name: str) -> tuple[object, ...]:
    return ("--bundle_root", folder, "--config_file", folder / "configs" / f"{name}.json")


def test_a_training_starts_from_given_weights(bundle: Any, trained: Path, cells: Path) -> None:
    weights = trained / "models" / "model.pt"
    still = ("--learning_rate", 1e-12, "--weight_decay", 0, "--initial_weights", weights)
    wrong = bundle.run("touching_cells", "training", *small(cells, 1, 2), *still)
    assert wrong.returncode == 2
    assert "trained with normalize=zscore" in wrong.stderr
    options = (*still, "--normalize", "zscore")
    done = bundle.run("touching_cells", "training", *small(cells, 1, 2), *options)
    assert done.returncode == 0, done.stderr
    found = torch.load(bundle.folder / "runs/small/models/model.pt", weights_only=True)
    for name, given in torch.load(weights, weights_only=True).items():
        torch.testing.assert_close(found[name], given, rtol=0, atol=1e-6)
    other = (*options, "--network_def#features", "[4,9]")
    wrong = bundle.run("touching_cells", "training", *small(cells, 1, 2), *other)
    assert wrong.returncode == 2
    assert "set network_def as it was in training" in wrong.stderr


def test_every_format_comes_back_in_its_own_geometry(
    bundle: Any, trained: Path, tmp_path: Path
) -> None:
    images, rng = tmp_path / "images", np.random.default_rng(0)
    images.mkdir()
    volume = rng.integers(0, 200, (3, 60, 70), np.uint16)
    for format in ("nii.gz", "dicom", "ome.zarr"):
        pair = (volume, np.zeros(volume.shape, np.uint8))
        folder = write_data(tmp_path / format, {"train": [pair]}, "pairs", format)
        (file,) = (folder / "train" / "images").iterdir()
        file.rename(images / file.name.replace("000", format.split(".")[-1]))
    tifffile.imwrite(
        *(images / "stack.tif", volume),
        **{"photometric": "minisblack", "resolution": (5000, 4000), "resolutionunit": 3},
    )
    Image.fromarray(volume[0].astype(np.uint8)).save(images / "flat.png")
    done = bundle.run(
        *("touching_cells", "inference", *of_run(trained, "inference"), "--dataset_dir", images),
        *("--output_dir", "out", "--save_probabilities", True, "--max_hole", 9),
    )
    assert done.returncode == 0, done.stderr
    out = bundle.folder / "out"
    names = {f"{n}_{k}" for n in ("flat", "gz", "dicom", "zarr", "stack") for k in KINDS}
    assert {file.name.split(".")[0] for file in out.iterdir()} == names

    found = tifffile.imread(out / "stack_instances.tif")
    assert (found.shape, found.dtype) == (volume.shape, np.uint16)
    for page, cells in zip(volume, found, strict=True):
        alone = segmented(
            *(
                ((page - page.mean()) / page.std()).astype(np.float32),
                trained / "models" / "model.pt",
            ),
            **{"min_size": 20, "max_hole": 9},
        )
        assert np.array_equal(cells, alone)
    with tifffile.TiffFile(out / "stack_instances.tif") as tif:
        tags = tif.pages[0].tags
        assert tags["XResolution"].value == (5000, 1)
        assert tags["YResolution"].value == (4000, 1)
    for name in ("gz", "dicom"):
        source = nibabel.load(images / "gz.nii.gz") if name == "gz" else None
        written = nibabel.load(out / f"{name}_instances.nii.gz")
        assert np.array_equal(np.asarray(written.dataobj), found.T)
        spacing = np.linalg.norm(written.affine[:3, :3], axis=0)
        assert np.allclose(spacing, (0.5, 0.5, 2.0))
        assert source is None or np.allclose(written.affine, source.affine)
    with tifffile.TiffFile(out / "zarr_instances.ome.tif") as tif:
        assert tif.series[0].axes == "ZYX"
        assert np.array_equal(tif.asarray(), found)
        assert 'PhysicalSizeZ="2.0"' in str(tif.ome_metadata)
    likely = tifffile.imread(out / "stack_probabilities.tif")
    assert (likely.shape, likely.dtype) == (volume.shape, np.float32)
    assert 0 <= likely.min() <= likely.max() <= 1
    assert tifffile.imread(out / "flat_instances.tif").shape == (60, 70)


KINDS = ("instances", "probabilities", "outlines")


@pytest.mark.filterwarnings("ignore:parsing config_file")  # configurations are code
def test_the_folder_of_a_run_is_a_bundle_for_monai(trained: Path) -> None:
    network = monai.bundle.load(trained.name, bundle_dir=trained.parent, device="cpu")
    assert isinstance(network, ValidUNet)
    saved = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(saved[k], v) for k, v in network.state_dict().items())
    metadata = json.loads((trained / "configs" / "metadata.json").read_text())
    tensors = metadata["network_data_format"]
    sizes = [tensors[a][b]["spatial_shape"] for a, b in (("inputs", "image"), ("outputs", "pred"))]
    for n in (1, 2, 7):
        given, got = (tuple(eval(s, {"n": n}) for s in shape) for shape in sizes)
        assert network.geometry.output_size(given) == got
    summary = json.loads((trained / "summary.json").read_text())
    assert metadata["eval_metrics"] == summary["scores"]


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"network_def#out_channels": 3}, "network_def#out_channels: probabilities of 3 classes"),
        ({"network_def#out_channels": 1}, "network_def#out_channels: logits of 1 class"),
        ({"network_def#in_channels": 3}, "give --network_def#in_channels 1"),
        ({"loss": {"_target_": "DiceCELoss", "to_onehot_y": True}}, "configuration: train"),
        (
            {"validate#postprocessing": {"_target_": "Compose", "transforms": []}},
            "configuration: validate: KeyError: 'instances'",
        ),
    ],
)
def test_a_task_that_is_not_ours_costs_one_line_at_the_start(
    bundle: Any, root: Path, cells: Path, own: dict[str, Any], told: str
) -> None:
    file = bundle.folder / "own.json"
    file.write_text(json.dumps(own))
    config = root / "bundles" / "touching_cells" / "configs" / "train.json"
    options = ("--config_file", f"['{config}','{file}']")
    done = bundle.run("touching_cells", "training", *small(cells, 1), *options)
    assert done.returncode == 2
    assert told in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (bundle.folder / "runs" / "small").exists()


def test_a_forgotten_bundle_root_and_an_unknown_run_cost_one_line(bundle: Any, cells: Path) -> None:
    done = bundle.run("touching_cells", "training", *small(cells, 1), "--bundle_root", ".")
    assert done.returncode == 2
    assert "bundle_root .: no configs/train.json in it; give --bundle_root" in done.stderr
    assert not (bundle.folder / "runs").exists()
    done = bundle.run("touching_cells", "trainin", *small(cells, 1))
    assert done.returncode == 2
    assert "run ID 'trainin' doesn't exist" in done.stderr
    done = bundle.run("touching_cells", "training", "--max_epochs", 1, "--dataset_dir")
    assert done.returncode == 2
    assert "dataset_dir: no value" in done.stderr


def test_images_are_not_normalised_otherwise_than_in_training(
    bundle: Any, trained: Path, cells: Path
) -> None:
    done = bundle.run(
        *("touching_cells", "inference", "--dataset_dir", cells / "large"),
        *("--network_def#features", "[4,8]", "--checkpoint", trained / "models" / "model.pt"),
    )
    assert done.returncode == 2
    assert "trained with normalize=zscore, but normalize is percentile" in done.stderr
    assert "give --normalize zscore" in done.stderr


def test_evaluation_repeats_the_scores_of_training(bundle: Any, trained: Path, cells: Path) -> None:
    done = bundle.run(
        *("touching_cells", "evaluation", *of_run(trained, "evaluation")),
        *("--dataset_dir", cells, "--output_dir", "out", "--versions", 1),
    )
    assert done.returncode == 0, done.stderr
    assert "2 images" in done.stdout
    assert "mean IoU" in done.stdout
    scores = json.loads((bundle.folder / "out" / "evaluation.json").read_text())["scores"]
    unseen = json.loads((trained / "summary.json").read_text())["scores"]
    assert unseen.keys() == {"seg", "ap50", "mean_iou"}
    assert {name: scores[name] for name in unseen} == unseen
    assert scores.keys() - unseen.keys() == {"det", "ap75", "ap90", "pq"}
    rows = check_stored(bundle.folder / "out", cells / "test")
    assert [Path(row["image"]).name for row in rows] == ["000.tif", "001.tif"]
    assert {row["image"].split("/")[-3] for row in rows} == {"test"}, "none that trained"
    assert scores["mean_iou"] == pytest.approx(np.mean([float(r["mean_iou"]) for r in rows]))


def test_evaluation_scores_annotated_frames_alone(
    bundle: Any, trained: Path, cells: Path, tmp_path: Path
) -> None:
    names = [cells / "train" / "images" / f"00{n}.tif" for n in (0, 1, 2, 0)]
    frames = [
        (tifffile.imread(n), tifffile.imread(str(n).replace("images", "labels"))) for n in names
    ]
    folder = write_data(tmp_path / "ctc", {"train": frames}, "ctc")
    done = bundle.run(
        *("touching_cells", "evaluation", *of_run(trained, "evaluation")),
        *("--dataset_dir", folder, "--split", "all", "--output_dir", "out"),
    )
    assert done.returncode == 0, done.stderr
    with (bundle.folder / "out" / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == ["t000.tif", "t003.tif"]
    seg = json.loads((bundle.folder / "out/evaluation.json").read_text())["scores"]["seg"]
    assert seg == pytest.approx(float(rows[0]["seg"])), "the two are the same image"


def test_a_broken_image_among_others_costs_only_itself(
    bundle: Any, trained: Path, cells: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    content = (cells / "large" / "large.tif").read_bytes()
    for name in "abc":
        (images / f"{name}.tif").write_bytes(content[:5000] if name == "b" else content)
    command = ("touching_cells", "inference", *of_run(trained, "inference"))
    done = bundle.run(*command, "--dataset_dir", images, "--output_dir", "out")
    assert done.returncode == 2
    assert "b.tif: the file ends within" in done.stderr
    assert "--skip_unreadable True" in done.stderr
    assert "Traceback" not in done.stderr
    out = bundle.folder / "out"
    assert {file.name for file in out.iterdir()} == {"a_instances.tif", "a_outlines.png"}
    done = bundle.run(
        *(*command, "--dataset_dir", images, "--output_dir", "out", "--skip_unreadable", True)
    )
    assert done.returncode == 0, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("overtile: warning: left out: ")
    assert "b.tif: the file ends within" in last
    assert {f.name for f in out.glob("*_instances.tif")} == {
        *("a_instances.tif", "c_instances.tif")
    }


def test_results_are_not_mixed_with_the_images(bundle: Any, trained: Path, cells: Path) -> None:
    images = bundle.folder / "images"
    images.mkdir()
    (images / "a.tif").write_bytes((cells / "large" / "large.tif").read_bytes())
    (images / "a_instances.tif").write_bytes(b"the label of a.tif")
    command = ("touching_cells", "inference", *of_run(trained, "inference"))
    given = (*command, "--dataset_dir", images / "a.tif")
    done = bundle.run(*given, "--output_dir", images)
    assert done.returncode == 2
    assert "output_dir" in done.stderr
    assert "the images lie there" in done.stderr
    assert (images / "a_instances.tif").read_bytes() == b"the label of a.tif"
    done = bundle.run(*given, "--output_dir", images / "a.tif" / "out")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Not a directory" in done.stderr


def test_the_same_bundle_trains_on_real_nuclei(bundle: Any, real_data: Path) -> None:
    done = bundle.run("touching_cells", "training", *small(real_data / "dsb2018", 1, 2))
    assert done.returncode == 0, done.stderr
    assert "50 unseen images" in done.stdout


def test_volumes_are_trained_on_and_segmented_whole(bundle: Any, real_data: Path) -> None:
    data = real_data / "hippocampus"
    overrides = (*small(data, 1, 2), "--spatial_dims", 3, "--tile", 44)
    done = bundle.run("touching_cells", "training", *overrides)
    assert done.returncode == 0, done.stderr
    assert "5 validation images" in done.stdout
    run = bundle.folder / "runs" / "small"
    assert (run / "figures" / "predictions.png").is_file()
    source = sorted((data / "images").glob("*.nii.gz"))[0]  # smaller than its mirrored context
    done = bundle.run(
        *("touching_cells", "inference", *of_run(run, "inference")),
        *("--dataset_dir", source, "--output_dir", "out"),
    )
    assert done.returncode == 0, done.stderr
    (found,) = (nibabel.load(file) for file in (bundle.folder / "out").iterdir())
    assert found.shape == nibabel.load(source).shape
    assert np.allclose(found.affine, nibabel.load(source).affine)


def test_the_membrane_bundle_trains_on_the_real_stack(bundle: Any, real_data: Path) -> None:
    data = real_data / "isbi2012"
    done = bundle.run("em_membranes", "training", *small(data, 1, 2))
    assert done.returncode == 0, done.stderr
    assert "6 validation images" in done.stdout
    summary = json.loads((bundle.folder / "runs/small/summary.json").read_text())
    assert 0 < summary["scores"]["pixel_error"] < 1
    assert 0 < summary["scores"]["v_rand"] < 1
    done = bundle.run(
        *("em_membranes", "evaluation", *of_run(bundle.folder / "runs/small", "evaluation")),
        *("--dataset_dir", data, "--split", "val", "--output_dir", "out", "--versions", 1),
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((bundle.folder / "out/evaluation.json").read_text())["scores"]
    membranes = {"pixel_error", "rand_error", "warping_error", "v_rand", "v_info"}
    assert scores.keys() == membranes | {"seg", "mean_iou"}
    assert {name: scores[name] for name in summary["scores"]} == summary["scores"]
    assert "V_info " in done.stdout
    done = bundle.run(
        *("em_membranes", "inference", "--dataset_dir", f"{data / 'test-volume.tif'}:2"),
        *("--bundle_root", "runs/small", "--config_file", "runs/small/configs/inference.json"),
        *("--output_dir", "out"),
    )
    assert done.returncode == 0, done.stderr
    assert tifffile.imread(bundle.folder / "out/test-volume_0002_instances.tif").shape == (512, 512)
