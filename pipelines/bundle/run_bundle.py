"""Make the folder of a run a bundle of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch.nn import Module

from overtile.networks import TileGeometry
from overtile.pipelines.bundle.schema import carried
from overtile.pipelines.errors import ConfigurationError


def write_bundle(
    parser: ConfigParser, bundle_root: str | Path, folder: Path, network: Module
) -> None:
    """Copy a bundle into the folder of a run, set as the run was.

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
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    for path in sorted((source / "configs").iterdir()):
        if path.name in ("inference.json", "evaluation.json"):
            config = json.loads(path.read_text())
            own = {key: parser.get(key) for key in carried() if key in config and key in parser}
            config.update(own, dataset_dir=None)
            _write(folder / "configs" / path.name, config)
        elif path.name == "train.json":
            merged = {k: v for k, v in parser.get().items() if k != parser.meta_key}
            _write(folder / "configs" / path.name, merged)
        elif path.name == "metadata.json":
            metadata = json.loads(path.read_text())
            geometry = getattr(network, "geometry", None)
            if isinstance(geometry, TileGeometry):
                _put_sizes(metadata, geometry, int(parser.get("spatial_dims", 2)))
            _write(folder / "configs" / path.name, metadata)
        elif path.name == "logging.conf":
            shutil.copyfile(path, folder / "configs" / path.name)
    if (source / "LICENSE").is_file():
        shutil.copyfile(source / "LICENSE", folder / "LICENSE")
    if (source / "docs").is_dir():
        shutil.copytree(source / "docs", folder / "docs", dirs_exist_ok=True)


def check_bundle(bundle_root: str | Path) -> Path:
    """The folder of a bundle.

    Raises:
        ConfigurationError: if it is none.
    """
    source = Path(bundle_root)
    if not (source / "configs" / "train.json").is_file():
        raise ConfigurationError(
            f"bundle_root {source}: no configs/train.json in it; give --bundle_root with the "
            "bundle's folder"
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
