"""MONAI's own tools on all bundles: what they verify, drive, export and load.

Commands run in this process, through the module that ``python -m monai.bundle`` runs.
"""

from __future__ import annotations

import copy
import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine
from monai.bundle.scripts import _get_fake_spatial_shape as size_at  # as MONAI's tools read it
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from volumes import SIZE, write_organs

import overtile
from overtile.networks import OverlapTileInferer, SpacingInferer, ValidUNet
from overtile.pipelines.bundle.checkpoints import Checkpoints, read_checkpoint
from overtile.pipelines.data.samples import TileDataset
from overtile.pipelines.data.synthesis.datasets import write_touching_cells
from overtile.pipelines.images.read import read_image
from overtile.transforms import SeparateTouching

NAMES = ("touching_cells", "em_membranes", "organs")
SCHEMA = Path(__file__).with_name("metadata_schema.json")
TINY = {"network_def#features": [4, 8], "network_def#kernel_size": 3}

pytestmark = [
    pytest.mark.parametrize("name", NAMES, scope="module"),
    pytest.mark.filterwarnings("ignore:parsing config_file"),  # configurations are code
    pytest.mark.filterwarnings("ignore:No hash value provided"),  # of our own schema
]


@pytest.fixture(scope="module", autouse=True)
def process_state() -> Iterator[None]:
    """Put back what workflows change in their process, and let none write to a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr(sys, "path", list(sys.path))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture
def folder(root: Path, name: str) -> Path:
    return root / "bundles" / name


@pytest.fixture
def metadata(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "configs" / "metadata.json").read_text())
    return content


def command(*words: object) -> None:
    """``python -m monai.bundle`` with these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["monai.bundle", *map(str, words)])
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


# --- metadata ---------------------------------------------------------------------------------


def verify_metadata(file: Path) -> None:
    """MONAI's command, with a schema that lies here already, so that none is downloaded.

    The schema that the metadata name is MONAI's, on the network, and not ours to copy. Ours says
    what the bundle specification and the zoo's bundles ask for. So a pass proves that the command
    comes to its end with our metadata, and that they keep those rules; not that MONAI's file
    accepts them, nor that it still lies at its address.
    """
    command("verify_metadata", "--meta_file", file, "--filepath", SCHEMA)


def test_metadata_are_verified(name: str, folder: Path) -> None:
    verify_metadata(folder / "configs" / "metadata.json")


def test_metadata_with_a_field_missing_or_wrong_are_refused(
    name: str, metadata: dict[str, Any], tmp_path: Path
) -> None:
    schema = json.loads(SCHEMA.read_text())
    wrong = []
    for key in schema["required"]:
        wrong.append(copy.deepcopy(metadata))
        del wrong[-1][key]
    for tensors in metadata["network_data_format"].values():
        (tensor,) = tensors.values()
        for key in schema["$defs"]["tensor"]["required"]:
            kept = tensor.pop(key)
            wrong.append(copy.deepcopy(metadata))
            tensor[key] = None
            wrong.append(copy.deepcopy(metadata))
            tensor[key] = kept
    for content in wrong:
        file = tmp_path / "metadata.json"
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"Failed validating|must provide the `schema`"):
            verify_metadata(file)


def test_metadata_name_the_versions_that_the_tests_run_with(
    name: str, metadata: dict[str, Any], root: Path
) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    named = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    assert named.pop("overtile") == metadata["version"] == overtile.__version__
    assert named == {package: pinned[package] for package in named}
    assert metadata["version"] in metadata["changelog"]


def test_metadata_name_every_channel(name: str, metadata: dict[str, Any]) -> None:
    for tensors in metadata["network_data_format"].values():
        for tensor in tensors.values():
            channels = [str(channel) for channel in range(tensor["num_channels"])]
            assert list(tensor["channel_def"]) == channels


# --- sizes ------------------------------------------------------------------------------------


def network_of(folder: Path, **overrides: Any) -> ValidUNet:
    parser = monai.bundle.ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser.update(overrides)
    network: ValidUNet = parser.get_parsed_content("network_def")
    return network.eval()


def check_sizes(metadata: dict[str, Any], network: ValidUNet) -> None:
    """MONAI never looks at the size of an output: the network itself has to agree."""
    tensors = metadata["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    geometry, dims = network.training_geometry, network.spatial_dims
    for n in range(1, 7):
        given, told = (size_at(tensor["spatial_shape"], n=n) for tensor in (image, pred))
        every = geometry.minimum + (n - 1) * geometry.multiple  # type: ignore[operator]
        assert given == (every,) * dims, "no valid size is left out"
        with torch.no_grad():
            found = network(torch.zeros(1, image["num_channels"], *given)).shape[2:]
        assert told == tuple(found)


def test_sizes_are_those_of_the_network(name: str, folder: Path, metadata: dict[str, Any]) -> None:
    network = network_of(folder)
    check_sizes(metadata, network)
    tensors = metadata["network_data_format"]
    sides = {"inputs": tensors["inputs"]["image"], "outputs": tensors["outputs"]["pred"]}
    right = {side: tensor["spatial_shape"] for side, tensor in sides.items()}
    step, dims = network.geometry.multiple, network.spatial_dims
    for side, other in (("inputs", "outputs"), ("outputs", "inputs")):
        expression = right[side][0]
        for wrong in (
            *([f"{expression}{more}"] * dims for more in (f"+{step}", f"-{step}", "+1", "-2")),
            [f"{expression}+n-1"] * dims,  # right at n = 1, where MONAI looks
            [*[expression] * (dims - 1), f"{expression}+{step}"],
            [expression],
            *([right[other]] if right[other] != right[side] else []),
        ):
            sides[side]["spatial_shape"] = wrong
            with pytest.raises(AssertionError):
                check_sizes(metadata, network)
        sides[side]["spatial_shape"] = right[side]
    check_sizes(metadata, network)


def test_network_takes_and_gives_what_the_metadata_say(
    name: str, folder: Path, metadata: dict[str, Any], tmp_path: Path
) -> None:
    def verify(meta_file: Path, n: int) -> None:
        command(
            *("verify_net_in_out", "network_def", "--meta_file", meta_file, "--n", n),
            *("--config_file", folder / "configs" / "inference.json", "--device", "cpu"),
        )

    for n in (1, 2, 7):
        verify(folder / "configs" / "metadata.json", n)
    pred = metadata["network_data_format"]["outputs"]["pred"]
    told = pred["num_channels"]
    pred["num_channels"] = told + 1
    (tmp_path / "wrong.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=f"output channel number `{told}`"):
        verify(tmp_path / "wrong.json", 1)


# --- files ------------------------------------------------------------------------------------


def test_files_lie_where_init_bundle_puts_them(name: str, folder: Path, tmp_path: Path) -> None:
    command("init_bundle", tmp_path / name, "--dataset_license", "True")
    for path in sorted((tmp_path / name).rglob("*")):
        ours = folder / path.relative_to(tmp_path / name)
        assert ours.is_dir() if path.is_dir() else ours.stat().st_size > 0, ours
    assert (folder / "configs" / "train.json").is_file()


# --- workflows --------------------------------------------------------------------------------


def write_data(name: str, folder: Path) -> Path:
    """Three labelled images, in the layout of the bundle's users."""
    if name == "organs":
        names = ["background", "anterior", "posterior"]
        return write_organs(folder, {"train": 3, "large": 1}, names)
    write_touching_cells(folder, {"train": 3}, size=(96, 112), large=(150, 170))
    if name == "touching_cells":
        return folder
    stack: dict[str, list[Any]] = {}
    for kind in ("images", "labels"):
        files = sorted((folder / "train" / kind).iterdir())
        stack[kind] = [torch.as_tensor(read_image(str(file))[0].astype(np.int32)) for file in files]
    cells = [SeparateTouching(2)(label[None])[0] > 0 for label in stack["labels"]]
    volume = torch.stack(stack["images"]).numpy().astype(np.uint16)
    labels = torch.stack(cells).numpy().astype(np.uint8) * 255
    tifffile.imwrite(folder / "train-volume.tif", volume, photometric="minisblack")
    tifffile.imwrite(folder / "train-labels.tif", labels, photometric="minisblack")
    return folder


@dataclass(frozen=True)
class Trained:
    """A workflow that has run, and what its steps returned."""

    workflow: Any
    results: list[Any]
    finalized: list[Any]
    data: Path
    checkpoint: Path


@pytest.fixture(scope="module")
def trained(
    name: str, root: Path, tmp_path_factory: pytest.TempPathFactory, process_state: None
) -> Trained:
    folder = tmp_path_factory.mktemp(name)
    workflow = monai.bundle.create_workflow(
        config_file=str(root / "bundles" / name / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,  # pytest has its own
        output_dir=str(folder / "run"),
        samples_per_epoch=2,
        tile=18 if name == "organs" else 60,
        batch_size=1,
        num_workers=0,
        **TINY,
    )
    data = write_data(name, folder / "data")
    workflow.bundle_root = str(root / "bundles" / name)
    workflow.dataset_dir = str(data)
    workflow.max_epochs = 1
    workflow.initialize()  # MONAI asks for it after a change
    assert workflow.check_properties() == []
    results = workflow.run()
    return Trained(
        workflow, results, workflow.finalize(), data, folder / "run" / "models" / "model.pt"
    )


def undefined(workflow: Any) -> set[str]:
    return {prop for prop in workflow.properties if getattr(workflow, prop) is None}


def test_training_is_driven_from_python(name: str, trained: Trained, root: Path) -> None:
    workflow = trained.workflow
    assert undefined(workflow) == {"train_postprocessing", "train_key_metric"}  # both optional
    assert workflow.bundle_root == str(root / "bundles" / name)
    assert workflow.dataset_dir == str(trained.data)
    assert workflow.version == overtile.__version__
    assert isinstance(workflow.trainer, SupervisedTrainer)
    assert isinstance(workflow.evaluator, SupervisedEvaluator)
    assert isinstance(workflow.train_dataset, TileDataset)
    assert isinstance(workflow.val_inferer, SpacingInferer)
    assert isinstance(workflow.val_inferer.inferer, OverlapTileInferer)
    assert isinstance(workflow.network_def, ValidUNet)
    assert (len(workflow.train_dataset_data), len(workflow.val_dataset_data)) == (2, 1)

    (summary,) = trained.results
    assert (summary["images"], summary["unseen"]) == (1, False)
    assert trained.finalized == []
    assert trained.checkpoint.is_file()
    scored = json.loads((trained.checkpoint.parents[1] / "evaluation.json").read_text())
    error = name == "em_membranes"
    key = {"touching_cells": "seg", "em_membranes": "pixel_error", "organs": "dice"}[name]
    assert (scored["key_metric"], scored["lower_is_better"]) == (key, error)
    assert (scored["images"], scored["kind"]) == (1, "validation")
    assert (trained.checkpoint.parents[1] / "report.html").is_file()


def test_the_epochs_that_are_set_are_trained_and_scheduled(name: str, trained: Trained) -> None:
    workflow = trained.workflow
    assert workflow.max_epochs == 1
    assert workflow.trainer.state.epoch == 1
    steps = workflow.parser.get_parsed_content("lr_scheduler").t_total
    assert steps == workflow.trainer.state.iteration == 2


def test_inference_is_driven_from_python(name: str, trained: Trained, tmp_path: Path) -> None:
    config = trained.workflow.config_root_path / "inference.json"
    workflow = monai.bundle.create_workflow(
        config_file=str(config),
        workflow_type="infer",
        logging_file=False,
        output_dir=str(tmp_path / "segmented"),
        checkpoint=str(trained.checkpoint),
        **TINY,
    )
    workflow.bundle_root = str(config.parents[1])
    organs = name == "organs"
    workflow.dataset_dir = str(trained.data / "large" / ("images" if organs else ""))
    workflow.initialize()
    assert workflow.check_properties() == []
    assert undefined(workflow) == {"key_metric"}  # optional: there is nothing to compare with
    file = "0.nii.gz" if organs else "large.tif"
    assert [Path(item["image"]).name for item in workflow.dataset_data] == [file]
    workflow.run()
    assert workflow.finalize() == []
    if organs:
        assert nibabel.load(tmp_path / "segmented" / "0_classes.nii.gz").shape == SIZE
    else:
        assert tifffile.imread(tmp_path / "segmented" / "large_instances.tif").shape == (150, 170)
    used = workflow.network_def.state_dict()
    for key, value in read_checkpoint(trained.checkpoint).items():
        assert torch.equal(used[key], value), key


# --- weights ----------------------------------------------------------------------------------


@pytest.fixture
def filled(name: str, folder: Path, tmp_path: Path) -> Path:
    """A copy of the bundle with weights that our `Checkpoints` wrote into ``models/``."""
    shutil.copytree(folder, tmp_path / name)
    torch.manual_seed(3)
    engine = Engine(lambda *_: None)
    engine.state.epoch = 1
    network = network_of(folder, **TINY)
    Checkpoints(tmp_path / name / "models", {"model": network}).save(engine)
    return tmp_path / name


def logits(network: Any, size: int) -> torch.Tensor:
    shape = (size, size + 8, size)[: network.spatial_dims]
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        found: torch.Tensor = network(image)
    return found


def test_weights_are_loaded_by_name(name: str, filled: Path) -> None:
    network = monai.bundle.load(
        name,
        bundle_dir=filled.parent,
        net_override={key.split("#")[1]: value for key, value in TINY.items()},
        workflow_type="inference",  # that of training looks at its images for their channels
        device="cpu",
    )
    assert isinstance(network, ValidUNet)
    for key, value in read_checkpoint(filled / "models" / "model.pt").items():
        assert torch.equal(network.state_dict()[key], value), key


def test_weights_are_exported_to_torchscript(
    name: str, filled: Path, metadata: dict[str, Any]
) -> None:
    config = filled / "configs" / "inference.json"
    command(
        *("ckpt_export", "--bundle_root", filled, "--config_file", config),
        *("--network_def#features", "[4,8]", "--network_def#kernel_size", 3),
    )
    network = network_of(filled, **TINY)
    network.load_state_dict(read_checkpoint(filled / "models" / "model.pt"))
    exported = torch.jit.load(filled / "models" / "model.ts")
    for size in (100, 44):
        assert torch.equal(logits(exported, size), logits(network, size))
    loaded, told, files = monai.bundle.load(
        name,
        bundle_dir=filled.parent,
        load_ts_module=True,
        config_files=("inference.json",),
        device="cpu",
    )
    assert torch.equal(logits(loaded, 60), logits(network, 60))
    assert told == metadata
    assert json.loads(files["inference.json"]) == json.loads(config.read_text())
