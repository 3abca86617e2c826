"""Make the folder of a run a bundle of its own."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch.nn import Module

from overtile.networks import TileGeometry
from overtile.pipelines.bundle.json_file import REPLACE, read_object
from overtile.pipelines.bundle.schema import carried
from overtile.pipelines.errors import ConfigurationError, Setting
from overtile.pipelines.files import settle, together, whole

log = logging.getLogger(__name__)

# what a run may do otherwise than its bundle when it scores
_SCORING = ("postprocessing", "key_metric", "additional_metrics")
# what the metadata of a bundle say of its own weights and of the images that they come from
_OF_THE_BUNDLE = ("eval_metrics", "data_source", "data_type", "image_classes", "intended_use")
_VERSIONS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}


def write_bundle(
    parser: ConfigParser,
    bundle_root: str | Path,
    folder: Path,
    network: Module,
    channels: tuple[int, int],
    channel_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
) -> None:
    """Copy a bundle into the folder of a run, set as the run was; all of it, or nothing.

    Its ``train.json`` is the run's configuration with all overrides. Its ``inference.json`` and
    ``evaluation.json`` take from it what the network has to be used with, so
    ``models/model.pt`` needs no option at all, and postprocessing and metrics where the run has its
    own. A run whose own postprocessing makes neither instances nor classes has no
    ``inference.json``. Nothing is said of the weights that the bundle came with.

    Args:
        parser: the run's configuration, with all overrides.
        bundle_root: the bundle that trains.
        folder: of the run.
        network: whose geometry, if it has one, gives the sizes in ``metadata.json``.
        channels: of the network's input and output.
        channel_names: of the input, where these are known.
        class_names: of the output, likewise.
        spacing: that images are resampled to, if they are.
    """
    source = check_bundle(bundle_root)
    merged = {k: v for k, v in parser.get().items() if k != parser.meta_key}
    shipped = json.loads((source / "configs" / "train.json").read_text())
    own = {
        name: merged["validate"][name]
        for name in _SCORING
        if merged.get("validate", {}).get(name) != shipped.get("validate", {}).get(name)
        and name in merged["validate"]
    }
    names = None if channel_names is None else list(channel_names)
    classes = None if class_names is None else list(class_names)
    found = merged | {  # in the run's images and labels
        **{"in_channels": channels[0], "channel_names": names},
        **{"num_classes": channels[1], "class_names": classes},
        "spacing": None if spacing is None else list(spacing),
    }
    with together(folder) as unfinished:
        if (folder / "configs").is_dir():  # with files of the user's own, perhaps
            shutil.copytree(folder / "configs", unfinished / "configs")
        configs = unfinished / "configs"
        configs.mkdir(exist_ok=True)
        for path in sorted((source / "configs").iterdir()):
            if path.name in ("inference.json", "evaluation.json"):
                config = _used(read_object(path, REPLACE), found, own)
                if config is None:
                    (configs / path.name).unlink(missing_ok=True)
                    log.warning(
                        "%s is left out: this run's postprocessing makes neither instances nor "
                        "classes",
                        path.name,
                    )
                else:
                    _write(configs / path.name, config)
            elif path.name == "train.json":
                _write(configs / path.name, merged)
            elif path.name == "metadata.json":
                metadata = read_object(path, REPLACE)
                _describe(metadata, network, channels, int(parser.get("spatial_dims", 2)))
                tensors = metadata["network_data_format"]
                if names:
                    image = tensors["inputs"]["image"]
                    image["channel_def"] = {str(i): name for i, name in enumerate(names)}
                if classes:
                    named = {str(i): name for i, name in enumerate(classes)}
                    tensors["outputs"]["pred"]["channel_def"] = named
                    told = ", ".join(f"{i} = {name}" for i, name in named.items())
                    metadata.update(label_classes=told, pred_classes=told)
                _write(configs / path.name, metadata)
            elif path.name == "logging.conf":
                shutil.copyfile(path, configs / path.name)
        if (source / "LICENSE").is_file():
            shutil.copyfile(source / "LICENSE", unfinished / "LICENSE")


def write_scores(folder: Path, scores: Mapping[str, float | None]) -> None:
    """Say in the ``metadata.json`` of a run, if it has one, what was measured in it.

    What has no score, None, is left out.
    """
    path = folder / "configs" / "metadata.json"
    if not path.is_file():
        return
    metadata = json.loads(path.read_text())
    measured = {k: v for k, v in scores.items() if v is not None and math.isfinite(v)}
    metadata["eval_metrics"] = measured
    with whole(path) as unfinished:
        _write(unfinished, metadata)


def _used(
    config: dict[str, Any], merged: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A bundle's configuration, to use a network as its run does; None where it cannot."""
    kept = {key: merged[key] for key in carried() if key in config and key in merged}
    config.update(kept, dataset_dir=None)
    if "key_metric" in config:  # it scores
        config.update(own)
    elif "postprocessing" in own:
        post = own["postprocessing"]
        steps = post.get("transforms") if isinstance(post, dict) else None
        made = json.dumps(steps)
        found = '"instances"' in made or "ClassesFromProbabilities" in made
        if not isinstance(steps, list) or not found:
            return None
        writers = [s for s in config["postprocessing"]["transforms"] if "output_dir" in s]
        config["postprocessing"] = {
            **post,
            "transforms": [*(step for step in steps if not _is_of_label(step)), *writers],
        }
    return _with_names(config, merged, own) if own else config


def _is_of_label(step: Any) -> bool:
    """Whether a transform is of the label alone, which images that are segmented have not."""
    return isinstance(step, dict) and step.get("keys") in ("label", ["label"])


def _with_names(
    config: dict[str, Any], merged: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """A configuration with all that the run's own parts name: keys of the run, and imports."""
    waiting = json.dumps(own, default=str)
    while names := [
        name for name in re.findall(r"[@%](\w+)", waiting) if name in merged and name not in config
    ]:
        config.update({name: merged[name] for name in names})
        waiting = json.dumps({name: merged[name] for name in names}, default=str)
    config["imports"] = list(dict.fromkeys([*config["imports"], *merged.get("imports", ())]))
    return config


def check_bundle(bundle_root: str | Path) -> Path:
    """The folder of a bundle.

    Raises:
        ConfigurationError: if it is none.
    """
    source = Path(bundle_root)
    settle(source)
    if not (source / "configs" / "train.json").is_file():
        raise ConfigurationError(
            ("bundle_root", source),
            "no configs/train.json in it",
            hint=Setting("bundle_root", "DIR", "with the bundle's folder"),
        )
    return source


def _describe(
    metadata: dict[str, Any], network: Module, channels: tuple[int, int], spatial_dims: int
) -> None:
    """Say what is true of this run and its network, and nothing of the bundle's own weights."""
    for name in _OF_THE_BUNDLE:
        metadata.pop(name, None)
    for name, package in _VERSIONS.items():
        metadata[name] = version(package).partition("+")[0]  # not how it was built
    tensors = metadata["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    for tensor, count in ((image, channels[0]), (pred, channels[1])):
        if tensor["num_channels"] != count:
            tensor["channel_def"] = {str(i): f"channel {i}" for i in range(count)}
        tensor["num_channels"] = count
        tensor["spatial_shape"] = ["*"] * spatial_dims
    geometry = getattr(network, "training_geometry", getattr(network, "geometry", None))
    if not isinstance(geometry, TileGeometry):
        return
    image["spatial_shape"], pred["spatial_shape"] = [], []
    for axis in range(spatial_dims):  # n counts from 1, as MONAI evaluates it
        margin, multiple, minimum = geometry.axis(axis)
        image["spatial_shape"].append(f"{multiple}*n+{minimum - multiple}")
        pred["spatial_shape"].append(f"{multiple}*n+{minimum - multiple - 2 * margin}")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4, default=str) + "\n")
