"""The bundle of volumes with classes, by whole commands as a user types them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from numpy.typing import NDArray
from volumes import AFFINE, NAMES, SIZE, organs, write_organs

from overtile.networks import MixedPrecisionInferer, OverlapTileInferer, PaddedUNet
from overtile.pipelines.data.find import find_data

SMALL = (
    *("--network_def#_target_", "overtile.networks.PaddedUNet", "--network_def#kernel_size", 3),
    *("--network_def#features", "[4,8]", "--tile", "[12,16,8]", "--warmup_steps", 2),
    *("--batch_size", 1, "--samples_per_epoch", 4, "--num_workers", 0),
)
CLASSES = (1, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("organs")
    return write_organs(folder, {"train": 3, "val": 1, "test": 2})


@pytest.fixture(scope="module")
def trained(data: Path, bundle_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    bundle = bundle_in(tmp_path_factory.mktemp("trained"))
    options = ("--dataset_dir", data, "--max_epochs", 2, "--learning_rate", 0.01)
    done = bundle.run("organs", "training", *options, "--foreground", 0.7, *SMALL)
    assert done.returncode == 0, done.stderr
    for shown in ("2 unseen images", "Dice ", "Dice of front", "Dice of back", "volume error of"):
        assert shown in done.stdout
    return Path(bundle.folder / "runs" / "organs")


def of_run(folder: Path, name: str) -> tuple[object, ...]:
    return ("--bundle_root", folder, "--config_file", folder / "configs" / f"{name}.json")


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def found_by(run: Path, grey: NDArray[Any], precision: str = "float32") -> NDArray[Any]:
    """Probabilities without a bundle: normalised by hand, one tile, no files."""
    network = PaddedUNet(3, 1, 3, (4, 8), norm="batch").eval()
    network.load_state_dict(torch.load(run / "models" / "model.pt", weights_only=True))
    image = torch.from_numpy((grey - grey.mean()) / grey.std()).float()
    with torch.no_grad():
        inferer = MixedPrecisionInferer(OverlapTileInferer(roi_size=52), precision)
        logits = inferer(image[None, None], network)
    likely: NDArray[Any] = logits.softmax(1)[0].numpy()
    return likely


def dice_of(label: NDArray[Any], found: NDArray[Any], number: int) -> float:
    both = ((label == number) & (found == number)).sum()
    return float(2 * both / ((label == number).sum() + (found == number).sum()))


def test_each_class_has_a_curve_and_its_name_is_kept(trained: Path) -> None:
    uri = f"sqlite:///{trained.parent / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("organs")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    for score in ("dice", "volume_error"):
        for name in (score, *(f"{score}_class{n}" for n in CLASSES)):
            history = client.get_metric_history(run.info.run_id, f"val_{name}")
            assert [point.step for point in history] == [1, 2], name
    curves = {m.key: m.value for m in client.get_metric_history(run.info.run_id, "val_dice")}
    assert curves
    settings = read(trained, "models/settings.json")
    assert (settings["class_names"], settings["spatial_dims"]) == (NAMES, 3)
    for name in ("inference", "evaluation"):
        config = read(trained, f"configs/{name}.json")
        assert (config["class_names"], config["num_classes"]) == (NAMES, 3)
        assert config["network_def"]["out_channels"] == "@num_classes"
    metadata = read(trained, "configs/metadata.json")
    named = {str(n): name for n, name in enumerate(NAMES)}
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == named
    assert metadata["label_classes"] == "0 = background, 1 = front, 2 = back"
    report = (trained / "report.html").read_text()
    assert "Dice of front" in report
    assert "of back, mean over the images that have it" in report


@pytest.mark.filterwarnings("ignore:parsing config_file")  # configurations are code
def test_torchscript_carries_the_names_of_the_classes(
    trained: Path, bundle: Any, tmp_path: Path
) -> None:
    network = monai.bundle.load(trained.name, bundle_dir=trained.parent, device="cpu")
    config = trained / "configs" / "inference.json"
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=str(trained / "configs" / "metadata.json"),
        config_file=str(config),
    )
    files = {"metadata.json": "", "inference.json": ""}
    scripted = torch.jit.load(tmp_path / "model.ts", _extra_files=files)
    pred = json.loads(files["metadata.json"])["network_data_format"]["outputs"]["pred"]
    assert list(pred["channel_def"].values()) == NAMES
    image = torch.rand(1, 1, 12, 16, 8)
    with torch.no_grad():
        assert torch.equal(scripted(image), network.eval()(image))


def test_classes_are_found_and_written_as_their_image_lies(
    trained: Path, data: Path, bundle: Any
) -> None:
    done = bundle.run(
        *("organs", "inference", *of_run(trained, "inference"), "--output_dir", "out"),
        *("--dataset_dir", data / "test" / "images", "--save_probabilities", True),
    )
    assert done.returncode == 0, done.stderr
    assert "cells" not in done.stdout + done.stderr
    for number in range(2):
        likely = found_by(trained, organs(20 + number)[0], "auto")
        written = nibabel.load(bundle.folder / "out" / f"{number}_classes.nii.gz")
        assert np.array_equal(written.affine, AFFINE)
        assert written.shape == SIZE
        assert written.get_data_dtype() == np.uint8
        apart = np.sort(likely, 0)
        clear = apart[-1] - apart[-2] > 1e-3
        assert clear.mean() > 0.9
        assert np.array_equal(np.asarray(written.dataobj)[clear], likely.argmax(0)[clear])
        for k in CLASSES:
            kept = nibabel.load(bundle.folder / "out" / f"{number}_probabilities_{k}.nii.gz")
            assert np.abs(kept.get_fdata() - likely[k]).max() < 1e-3


def test_evaluation_scores_each_class(trained: Path, data: Path, bundle: Any) -> None:
    done = bundle.run(
        *("organs", "evaluation", *of_run(trained, "evaluation"), "--dataset_dir", data),
        *("--output_dir", "out"),
    )
    assert done.returncode == 0, done.stderr
    for shown in ("2 images", "Dice of front", "HD95 of back", "surface Dice", "IoU"):
        assert shown in done.stdout
    told = read(bundle.folder / "out", "evaluation.json")
    assert (told["key_metric"], told["lower_is_better"]) == ("dice", False)
    assert told["class_names"] == NAMES
    scores = told["scores"]
    names = ("dice", "iou", "hd95", "surface_dice", "volume_error")
    assert list(scores) == [n for s in names for n in (s, *(f"{s}_class{k}" for k in CLASSES))]
    with (bundle.folder / "out" / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == ["0.nii.gz", "1.nii.gz"]
    for number, row in enumerate(rows):
        grey, label = organs(20 + number)
        found = found_by(trained, grey).argmax(0)
        for k in CLASSES:
            assert float(row[f"dice_class{k}"]) == pytest.approx(dice_of(label, found, k), abs=2e-3)
    for k in CLASSES:
        each = [float(row[f"dice_class{k}"]) for row in rows]
        assert scores[f"dice_class{k}"] == pytest.approx(np.mean(each))
    assert scores["dice"] == pytest.approx(np.mean([scores[f"dice_class{k}"] for k in CLASSES]))
    unseen = read(trained, "summary.json")["scores"]
    assert unseen["dice"] == pytest.approx(scores["dice"], abs=2e-3)


def test_distances_are_in_the_units_of_the_file(trained: Path, data: Path, bundle: Any) -> None:
    """Voxels ten times as long: distances are, the rest stays."""
    wide = bundle.folder / "wide"
    for file in sorted((data / "test").rglob("*.nii.gz")):
        target = wide / file.relative_to(data / "test")
        target.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.load(file)
        longer = AFFINE @ np.diag([10, 10, 10, 1])
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), longer), target)
    scores = []
    for name, folder in (("one", data / "test"), ("ten", wide)):
        done = bundle.run(
            *("organs", "evaluation", *of_run(trained, "evaluation"), "--dataset_dir", folder),
            *("--output_dir", name),
        )
        assert done.returncode == 0, done.stderr
        scores.append(read(bundle.folder / name, "evaluation.json")["scores"])
    one, ten = scores
    assert ten["dice"] == one["dice"]
    assert ten["hd95"] == pytest.approx(10 * one["hd95"], rel=1e-5)
    assert ten["surface_dice"] < one["surface_dice"], "the tolerance stays"


def test_weights_of_the_classes_are_softened_by_one_setting(data: Path, tmp_path: Path) -> None:
    found = find_data(data, labels="classes", spatial_dims=3, cache_dir=tmp_path)
    counts = sum(np.bincount(organs(n)[1].ravel(), minlength=3) for n in range(3))
    for balance in (0.0, 0.5, 1.0):
        expected = counts**-balance / (counts ** (1 - balance)).sum() * counts.sum()
        assert found.class_weights(balance) == pytest.approx(tuple(expected))
    assert found.class_numbers(["back", 1]) == [2, 1]
    assert found.class_numbers(None) is None


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """A copy of the data, to spoil."""
    shutil.copytree(data, tmp_path / "copy")
    return tmp_path / "copy"


def change(folder: Path, described: dict[str, int] | None = None, **voxels: int) -> None:
    if described is not None:
        (folder / "dataset.json").write_text(json.dumps({"labels": described}))
    file = folder / "train" / "labels" / "1.nii.gz"
    array = np.asarray(nibabel.load(file).dataobj).copy()
    for value in voxels.values():
        array[3, 2, 1] = value
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), file)


@pytest.mark.parametrize(
    ("how", "options", "said"),
    [
        ("a fourth class", (), ["labels/1.nii.gz: 3 at (3, 2, 1); expected 0 background, 1 front"]),
        (
            "ignored",
            ("--ignore", 2),
            ["ignore: 2, which is the class back; expected a number that"],
        ),
        ("gap", (), ["dataset.json: classes [0, 2]; expected 0 to 1"]),
        (
            "none",
            ("--labels", "instances"),
            ["labels: 'instances', but", "the bundle touching_cel"],
        ),
        (
            "none",
            ("--network_def#out_channels", 4),
            ["network_def#out_channels: 4; expected 3, one a class: background, front, back"],
        ),
        ("none", ("--class_names", "['a','b']"), ["labels/0.nii.gz: 2 at (", "expected 0 a, 1 b"]),
        ("none", ("--border_classes", "['liver']"), ["border_classes: 'liver'; expected a class"]),
        ("none", ("--tile", "[12,16]"), ["tile: 2 numbers; expected one number, or 3"]),
        ("none", ("--tile", 13), ["tile 13x13x13 does not fit the network"]),
        ("flat", (), ["one pixel along axis 2, where the network pools by 2"]),
    ],
)
def test_what_cannot_be_meant_costs_one_line(
    bundle: Any, copy: Path, how: str, options: tuple[object, ...], said: list[str]
) -> None:
    if how == "a fourth class":
        change(copy, value=3)
    elif how == "gap":
        change(copy, {"background": 0, "back": 2})
    elif how == "flat":
        for file in copy.rglob("*.nii.gz"):
            array = np.asarray(nibabel.load(file).dataobj)[:, :, 7:8]
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), file)
    done = bundle.run(
        *("organs", "training", "--dataset_dir", copy, *SMALL, "--max_epochs", 1, *options)
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "overtile: error:" in text]
    for part in said:
        assert part in line
    assert not (bundle.folder / "runs" / "organs").exists(), "nothing written half"


def test_a_bundle_of_cells_refuses_classes(bundle: Any, data: Path) -> None:
    options = ("--spatial_dims", 3, "--labels", "classes", "--dataset_dir", data)
    done = bundle.run("touching_cells", "training", *options)
    assert done.returncode == 2
    assert "labels: 'classes', but SeparateTouchingd is for cells" in done.stderr
    assert "take the bundle organs" in done.stderr


def test_a_number_that_dataset_json_calls_ignore_is_no_class(bundle: Any, copy: Path) -> None:
    named = {name: n for n, name in enumerate(NAMES)}
    change(copy, {**named, "ignore": 3}, value=3)
    done = bundle.run("organs", "training", "--dataset_dir", copy, *SMALL, "--max_epochs", 1)
    assert done.returncode == 0, done.stderr
    assert read(bundle.folder / "runs" / "organs", "models/settings.json")["class_names"] == NAMES


def test_real_volumes_smaller_than_a_tile_are_trained_on(bundle: Any, real_data: Path) -> None:
    folder = real_data / "hippocampus"
    done = bundle.run(
        *("organs", "training", "--dataset_dir", folder, *SMALL, "--max_epochs", 1),
        *("--tile", "[40,64,40]", "--samples_per_epoch", 2, "--fold", 0, "--train_subset", 3),
    )
    assert done.returncode == 0, done.stderr
    assert "4 unseen images" in done.stdout
    run = bundle.folder / "runs" / "organs"
    source = sorted((folder / "images").iterdir())[0]
    done = bundle.run(
        *("organs", "inference", *of_run(run, "inference"), "--dataset_dir", source),
        *("--output_dir", "out"),
    )
    assert done.returncode == 0, done.stderr
    (file,) = (bundle.folder / "out").iterdir()
    written, image = nibabel.load(file), nibabel.load(source)
    assert written.shape == image.shape
    assert np.array_equal(written.affine, image.affine)
