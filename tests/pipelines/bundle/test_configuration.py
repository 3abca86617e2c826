from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser, create_workflow
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.networks.nets import BasicUNet

from overtile.networks import GeometryError, OverlapTileInferer, TileGeometry, ValidUNet
from overtile.pipelines.bundle.checkpoints import load_weights
from overtile.pipelines.bundle.configuration import (
    check_inferer,
    check_tile,
    resolved_values,
)
from overtile.pipelines.bundle.messages import wrong_value
from overtile.pipelines.errors import ConfigurationError, DataError, users_mistake
from overtile.pipelines.inference.write_results import WriteResultsd
from overtile.pipelines.reporting.summary import read_summary


@pytest.mark.parametrize("name", ["touching_cells", "em_membranes", "organs"])
@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("inference", "infer")])
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_monai_finds_every_property_that_it_asks_for(
    root: Path, name: str, config: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.excepthook", None)  # put back what `initialize` replaces
    folder = root / "bundles" / name
    workflow = create_workflow(
        config_file=str(folder / "configs" / f"{config}.json"),
        workflow_type=kind,
        bundle_root=str(folder),
    )
    parser = workflow.parser
    missing = [
        prop
        for prop, told in workflow.properties.items()
        if told["required"] and told["id"].replace("#", "::") not in parser
    ]
    assert missing == []
    assert workflow.version == "0.1.0"
    network = workflow.network_def
    shape = workflow.properties["spatial_shape"]["id"]
    n_in = eval(parser.get(shape)[0], {"n": 5})
    inside = [
        eval(s, {"n": 5}) for s in parser[f"{shape}".replace("inputs::image", "outputs::pred")]
    ]
    dims = network.spatial_dims
    assert network.training_geometry.output_size((n_in,) * dims) == tuple(inside)


def test_leaves_resolve_to_what_they_came_out_as() -> None:
    config = {"epochs": 3, "twice": "$@epochs * 2", "engine": {"max": "@epochs", "of": ["@twice"]}}
    parser = ConfigParser(config)
    for key in config:
        parser.get_parsed_content(key)
    assert resolved_values(parser) == {
        "epochs": "3",
        "twice": "6",
        "engine/max": "3",
        "engine/of/0": "6",
    }


def test_a_valid_network_is_not_paired_with_a_stock_sliding_window() -> None:
    network = ValidUNet(features=(2, 2))
    with pytest.raises(ConfigurationError, match="OverlapTileInferer"):
        check_inferer(SlidingWindowInferer(roi_size=(32, 32)), network)
    check_inferer(OverlapTileInferer(), network)
    check_inferer(SimpleInferer(), network)


def test_a_padded_network_needs_a_geometry() -> None:
    network = BasicUNet(2, 1, 2, features=(2, 2, 2, 2, 2, 2))
    check_inferer(SlidingWindowInferer(roi_size=(32, 32)), network)
    with pytest.raises(GeometryError, match=r"TileGeometry\.padded"):
        check_inferer(OverlapTileInferer(), network)
    check_inferer(OverlapTileInferer(geometry=TileGeometry.padded(100, 16)), network)


def test_a_mistake_is_found_under_what_other_packages_wrap_around_it() -> None:
    mistake = DataError("a.tif: no label")
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = mistake
    assert users_mistake(wrapped) is mistake
    assert users_mistake(KeyError("ours")) is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"_target_": "overtile.transforms.NormalizeImage", "method": "zcore"},
            "NormalizeImage: normalize='zcore'; expected zscore, .*: give KEY=VALUE to take",
        ),
        (
            {"_target_": "overtile.networks.ValidUNet", "featurs": [4, 8]},
            "ValidUNet: .*unexpected keyword argument 'featurs'",
        ),
        ("$int(@tile)", r"\$int\(@tile\): invalid literal"),
        ({"_target_": "overtile.networks.UNet3"}, r"Cannot locate .*'overtile.networks.UNet3'"),
    ],
)
def test_a_value_that_a_class_refuses_is_the_users_mistake(entry: Any, said: str) -> None:
    parser = ConfigParser({"tile": "big", "part": entry})
    with pytest.raises((RuntimeError, ModuleNotFoundError)) as caught:
        parser.get_parsed_content("part")
    assert re.search(said, str(wrong_value(caught.value)))


def test_what_goes_wrong_inside_a_run_keeps_its_traceback() -> None:
    parser = ConfigParser({"part": {"_target_": "tests_of_config.fail"}})
    module = types.ModuleType("tests_of_config")

    def fail() -> None:
        raise ValueError("a bug")

    module.fail = fail  # type: ignore[attr-defined]
    sys.modules["tests_of_config"] = module
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("part")
    assert wrong_value(caught.value) is None


@pytest.mark.parametrize("bare", [True, False])
def test_weights_load_with_and_without_their_key(tmp_path: Path, bare: bool) -> None:
    source, target = ValidUNet(features=(2, 3)), ValidUNet(features=(2, 3))
    state = source.state_dict()
    torch.save(state if bare else {"model": state}, tmp_path / "model.pt")
    load_weights(target, tmp_path / "model.pt")
    assert all(torch.equal(target.state_dict()[name], value) for name, value in state.items())


def test_weights_of_another_architecture_name_the_first_difference(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": ValidUNet(features=(2, 4)).state_dict()}, path)
    with pytest.raises(ConfigurationError, match=r"contract\.0\.0\.weight.*\(2, 1.*\(3, 1"):
        load_weights(ValidUNet(features=(3, 4)), path)
    with pytest.raises(ConfigurationError, match="missing"):
        load_weights(ValidUNet(features=(2, 4, 8)), path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ConfigurationError, match="no checkpoint of tensors"):
        load_weights(ValidUNet(features=(2, 4)), path)


def test_no_checkpoint_and_no_summary_say_where_they_were_sought(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.pt.*train first"):
        load_weights(ValidUNet(features=(2, 4)), tmp_path / "model.pt")
    with pytest.raises(ConfigurationError, match=r"summary\.json"):
        read_summary(tmp_path)


@pytest.mark.parametrize(("cells", "dtype"), [(3, np.uint16), (70_000, np.uint32)])
def test_instances_are_written_whole_however_many(tmp_path: Path, cells: int, dtype: Any) -> None:
    labels = np.zeros((300, 301), np.int32)
    labels.ravel()[:cells] = np.arange(1, cells + 1)
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((8, 2, 2), np.uint8))
    meta = {"filename_or_obj": f"{tmp_path}/stack.tif:7"}
    item = {
        "instances": MetaTensor(torch.from_numpy(labels)[None], meta=meta),
        "image": MetaTensor(torch.rand(1, 300, 301), meta=meta),
    }
    WriteResultsd("instances", tmp_path / "out")(item)
    found = tifffile.imread(tmp_path / "out" / "stack_0007_instances.tif")
    assert found.dtype == dtype
    assert np.array_equal(found, labels)
    assert not list((tmp_path / "out").glob("partial*"))


@pytest.mark.parametrize("features", [(32, 64, 128, 256), (8, 16), (4, 4, 4, 4, 4)])
def test_a_tile_of_an_image_is_not_taken_for_a_volume(features: tuple[int, ...]) -> None:
    geometry = TileGeometry.unet(len(features) - 1)
    whole = geometry.input_size(268)
    assert check_tile(whole, geometry, 2) == (whole, whole)
    with pytest.raises(ConfigurationError, match="million voxels") as error:
        check_tile(whole, geometry, 3)
    most = int(re.search(r"at most (\d+) in 3D", str(error.value))[1])
    least = int(re.search(r"tile=(\d+)", str(error.value))[1])
    for offered in (most, least):
        assert check_tile(offered, geometry, 3) == (offered,) * 3


def test_a_tile_has_a_side_an_axis() -> None:
    geometry = TileGeometry.unet(2, strides=[(1, 2, 2), 2], kernel_size=[(1, 3, 3), 3, 3])
    assert check_tile([22, 44, 52], geometry, 3) == (22, 44, 52)
    with pytest.raises(GeometryError, match="tile 21x44x52 does not fit"):
        check_tile([21, 44, 52], geometry, 3)
    with pytest.raises(ConfigurationError, match="tile: 2 numbers; expected one number, or 3"):
        check_tile([44, 52], geometry, 3)
    with pytest.raises(
        ConfigurationError, match=r"60x260x500 are 8 million voxels.*tile=\[18, 44, 44\]"
    ):
        check_tile([60, 260, 500], geometry, 3)
