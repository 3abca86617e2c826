"""What the folder of a run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet
from torch import nn

from overtile.networks import ValidUNet
from overtile.pipelines.bundle.run_bundle import write_bundle, write_scores
from overtile.transforms import InstancesFromProbabilitiesd

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "touching_cells"
POST = "validate#postprocessing"
FROM = "$monai.handlers.from_engine(['instances', 'label'])"


def written(
    folder: Path,
    overrides: dict[str, Any] | None = None,
    network: nn.Module | None = None,
    channels: tuple[int, int] = (1, 2),
) -> dict[str, dict[str, Any]]:
    """The configurations in the folder of a run with these overrides."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.json")
    parser.update(overrides or {})
    write_bundle(parser, BUNDLE, folder, network or ValidUNet(features=(4, 8)), channels)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("configs/*.json")}


def parsed(folder: Path, name: str, part: str, **more: Any) -> Any:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / f"{name}.json")
    parser.update({"dataset_dir": str(folder), "device": "cpu", **more})
    return parser.get_parsed_content(part)


def instances(folder: Path, name: str) -> InstancesFromProbabilitiesd:
    post = parsed(folder, name, "postprocessing", **{"dataset#data": []})
    (step,) = [t for t in post.transforms if isinstance(t, InstancesFromProbabilitiesd)]
    return step


@given(
    threshold=st.floats(0.3, 0.9),
    literal=st.booleans(),
    key=st.sampled_from(["seg", "ap50", "own"]),
    iou=st.floats(0.5, 0.9),
)
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_postprocessing_and_the_metrics_of_the_run_are_kept(
    tmp_path: Path, threshold: float, literal: bool, key: str, iou: float
) -> None:
    metric = {"_target_": "overtile.pipelines.AveragePrecisionMetric", "iou": "@my_iou"}
    handler = {"_target_": "IgniteMetricHandler", "metric_fn": metric, "output_transform": FROM}
    overrides: dict[str, Any] = {
        "my_threshold": threshold,
        "my_iou": "@my_other",
        "my_other": iou,
        f"{POST}#transforms#1#threshold": threshold if literal else "@my_threshold",
        "validate#key_metric": {key: handler},
    }
    written(tmp_path, overrides)
    for name in ("inference", "evaluation"):
        assert instances(tmp_path, name).instances.threshold == threshold
    found = parsed(tmp_path, "evaluation", "key_metric")
    assert list(found) == [key]
    assert found[key].metric_fn.iou == iou


def test_what_the_run_did_as_its_bundle_is_as_the_bundles(tmp_path: Path) -> None:
    found = written(tmp_path)
    for name in ("inference", "evaluation"):
        shipped = json.loads((BUNDLE / "configs" / f"{name}.json").read_text())
        assert found[name] == {**shipped, "dataset_dir": None}


def test_transforms_of_the_label_alone_are_not_asked_of_unlabelled_images(tmp_path: Path) -> None:
    steps = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "overtile.transforms.InstancesFromProbabilitiesd", "keys": "pred"}
        | {"output_key": "instances"},
        {"_target_": "AsDiscreted", "keys": "label", "threshold": 1},
    ]
    found = written(tmp_path, {POST: {"_target_": "Compose", "transforms": steps}})
    assert found["evaluation"]["postprocessing"]["transforms"] == steps
    kept = found["inference"]["postprocessing"]["transforms"]
    assert kept[:2] == steps[:2]
    assert [step["_target_"] for step in kept[2:]] == ["overtile.pipelines.WriteResultsd"]


@pytest.mark.parametrize("post", ["$my_own()", {"_target_": "Compose", "transforms": []}])
def test_what_makes_no_instances_has_no_inference(tmp_path: Path, post: Any) -> None:
    written(tmp_path)  # an earlier one must not stay
    found = written(tmp_path, {POST: post})
    assert "inference" not in found
    assert found["evaluation"]["postprocessing"] == post


def test_nothing_is_said_of_the_weights_that_the_bundle_came_with(tmp_path: Path) -> None:
    metadata = written(tmp_path)["metadata"]
    for name in ("eval_metrics", "data_source", "data_type", "image_classes", "intended_use"):
        assert name not in metadata
    assert not (tmp_path / "docs").exists()
    write_scores(tmp_path, {"seg": 0.25, "ap50": float("nan")})
    metadata = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] == {"seg": 0.25}
    write_scores(tmp_path / "elsewhere", {"seg": 1.0})  # no bundle, no metadata
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_and_sizes_are_those_of_the_network(tmp_path: Path, dims: int) -> None:
    valid = ValidUNet(dims, 3, 5, features=(4, 8))
    overrides = {"spatial_dims": dims}
    tensors = written(tmp_path, overrides, valid, (3, 5))["metadata"]["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    for tensor, count in ((image, 3), (pred, 5)):
        assert tensor["num_channels"] == count
        assert list(tensor["channel_def"]) == [str(n) for n in range(count)]
    sizes = [tuple(eval(s, {"n": 3}) for s in t["spatial_shape"]) for t in (image, pred)]
    assert valid.geometry.output_size(sizes[0]) == sizes[1]
    assert len(sizes[0]) == dims
    padded = BasicUNet(dims, 1, 2, features=(4, 4, 4, 4, 4, 4))  # takes many sizes
    tensors = written(tmp_path, overrides, padded)["metadata"]["network_data_format"]
    assert tensors["inputs"]["image"]["spatial_shape"] == ["*"] * dims
    assert tensors["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "cell"}
