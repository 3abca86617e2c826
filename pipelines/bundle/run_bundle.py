"""Make the folder of a run a bundle of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch.nn import Module

from overtile.networks import TileGeometry
from overtile.pipelines.bundle.json_file import REPLACE, read_object
from overtile.pipelines.bundle.schema import carried
from overtile.pipelines.errors import ConfigurationError, Setting
from overtile.pipelines.files import settle, together


def write_bundle(
    parser: ConfigParser, bundle_root: str | Path, folder: Path, network: Module
) -> None:
    """Copy a bundle into the folder of a run, set as the run was; all of it, or nothing.

    Its ``train.json`` is the run's configuration with all overrides. Its ``inference.json`` and
    ``evaluation.json`` take from it what the network has to be used with, so
    ``models/model.pt`` needs no option at all.

    Args:
        parser: the run's configuration, with all overrides.
        bundle_root: the bundle that trains.
        folder: of the run.
        network: whose geometry, if it has one, gives the sizes in ``metadata.json``.
    """
    source = check_bundle(bundle_root)
    merged = {k: v for k, v in parser.get().items() if k != parser.meta_key}
    with together(folder) as unfinished:
        for name in ("configs", "docs"):
            if (folder / name).is_dir():  # with files of the user's own, perhaps
                shutil.copytree(folder / name, unfinished / name)
        configs = unfinished / "configs"
        configs.mkdir(exist_ok=True)
        for path in sorted((source / "configs").iterdir()):
            if path.name in ("inference.json", "evaluation.json"):
                config = read_object(path, REPLACE)
                own = {key: merged[key] for key in carried() if key in config and key in merged}
                config.update(own, dataset_dir=None)
                _write(configs / path.name, config)
            elif path.name == "train.json":
                _write(configs / path.name, merged)
            elif path.name == "metadata.json":
                metadata = read_object(path, REPLACE)
                geometry = getattr(network, "geometry", None)
                if isinstance(geometry, TileGeometry):
                    _put_sizes(metadata, geometry, int(parser.get("spatial_dims", 2)))
                _write(configs / path.name, metadata)
            elif path.name == "logging.conf":
                shutil.copyfile(path, configs / path.name)
        if (source / "LICENSE").is_file():
            shutil.copyfile(source / "LICENSE", unfinished / "LICENSE")
        if (source / "docs").is_dir():
            shutil.copytree(source / "docs", unfinished / "docs", dirs_exist_ok=True)


def check_bundle(bundle_root: str | Path) -> Path:
    """The folder of a bundle.

    Raises:
        ConfigurationError: if it is none.
    """
    source = Path(bundle_root)
    settle(source)
    if not (source / "configs" / "train.json").is_file():
        raise ConfigurationError(
            f"bundle_root {source}",
            "no configs/train.json in it",
            hint=Setting("bundle_root", "DIR", "with the bundle's folder"),
        )
    return source


def _put_sizes(metadata: dict[str, Any], geometry: TileGeometry, spatial_dims: int) -> None:
    """Say which sizes the network takes; ``n`` counts from 1, as MONAI evaluates it."""
    inputs, outputs = [], []
    for axis in range(spatial_dims):
        margin, multiple, minimum = geometry.axis(axis)
        inputs.append(f"{multiple}*n+{minimum - multiple}")
        outputs.append(f"{multiple}*n+{minimum - multiple - 2 * margin}")
    tensors = metadata["network_data_format"]
    tensors["inputs"]["image"]["spatial_shape"] = inputs
    tensors["outputs"]["pred"]["spatial_shape"] = outputs


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4, default=str) + "\n")
