"""A small bundle whose network separates something, and what is compared with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from overtile.networks import OverlapTileInferer, ValidUNet
from overtile.transforms import NormalizeImage

CLASSES = 4  # of `classes_bundle`
ROOT = Path(__file__).resolve().parents[1]


def toy_bundle(
    folder: Path, image: NDArray[Any], seed: int = 3, channels: Any = None, names: Any = None
) -> Path:
    """A bundle with a network of random weights, scaled so that a quarter of ``image`` is cell.

    With ``channels`` it takes several, and the image is ``[C, *S]``.
    """
    image = image[None] if channels is None else image
    config = json.loads((ROOT / "bundles/touching_cells/configs/inference.json").read_text())
    config["spatial_dims"], config["precision"] = image.ndim - 1, "float32"
    config.update(channels=channels, in_channels=len(image), channel_names=names)
    config["network_def"].update(features=[4, 8], dropout=0.0)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    network = ValidUNet(image.ndim - 1, len(image), features=(4, 8)).eval()
    grey = torch.from_numpy(NormalizeImage("percentile")(image.astype(np.float32)))[None]
    with torch.no_grad():
        answer = OverlapTileInferer()(grey, network)[0]
        apart = (answer[1] - answer[0]).ravel()
        apart = apart[:: max(1, len(apart) // 100_000)]
        middle, high = (torch.quantile(apart, q) for q in (0.75, 0.9))
        scale = 2 / (high - middle)
        network.head.weight *= scale
        network.head.bias *= scale
        network.head.bias[1] -= middle * scale
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def classes_bundle(folder: Path, image: NDArray[Any], **network_def: Any) -> Path:
    """A network of random weights that finds each class about as often as the others.

    ``network_def`` of `ValidUNet`, for every axis of the image.
    """
    toy_bundle(folder, image)
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    network_def = {"features": [4, 8], "out_channels": CLASSES, **network_def}
    config["network_def"].update(network_def)
    config["class_names"] = None
    config["settings"]["class_names"] = "@class_names"
    softmax, _, write = config["postprocessing"]["transforms"]
    classes = {"_target_": "overtile.transforms.ClassesFromProbabilitiesd", "keys": "pred"}
    config["postprocessing"]["transforms"] = [softmax, classes, {**write, "keys": "classes"}]
    file.write_text(json.dumps(config))
    torch.manual_seed(5)
    network = ValidUNet(image.ndim, 1, **network_def).eval()
    with torch.no_grad():
        answer = OverlapTileInferer()(grey_of(image), network)[0].flatten(1)
        network.head.bias -= answer.mean(1)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def grey_of(image: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(NormalizeImage("percentile")(image[None].astype(np.float32)))[None]


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, or one file."""
    if folder.is_file():
        return {folder.name: folder.read_bytes()}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def same_cells(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two labellings differ in the numbers of the cells at most."""
    if first.shape != second.shape:
        return False
    both = np.stack([first.ravel().astype(np.int64), second.ravel().astype(np.int64)])
    pairs = np.unique(both, axis=1)
    one_to_one = all(len(np.unique(side)) == pairs.shape[1] for side in pairs)
    return one_to_one and bool(((pairs[0] == 0) == (pairs[1] == 0)).all())
