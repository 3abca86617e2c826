"""Recipes for small volumes at equal CPU seconds: hippocampus, 24 volumes of about 35 x 50 x 35.

python -m benchmarks.volumes              every recipe, 90 CPU seconds of training each; a table
python -m benchmarks.volumes NAME [NAME]  those alone; NAME@1 is another seed

A recipe trains in one thread on 18 volumes and is scored on the 6 others, every fourth by name,
in exact tiles. Deforming and steps count, in CPU seconds, so that other programs do not. What was
run is not run again: its scores are in ``runs/experiments/volumes``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd
from torch import Tensor, nn

from benchmarks.experiments import RUNS, data_folder, table
from overtile.networks import CrossEntropyDiceLoss, OverlapTileInferer, PaddedUNet, ValidUNet
from overtile.networks.blocks.crop import centre_crop
from overtile.networks.inferers.precision import has_bfloat16
from overtile.pipelines.images.read import read_image, read_label
from overtile.transforms import RandDeformedTiled
from overtile.transforms.weight_map import class_weights_of_counts

CLASSES, SECONDS = 3, 90.0
FOLDER = RUNS / "volumes"
HALF = has_bfloat16("cpu")
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a network of volumes is made and trained.

    Attributes:
        padded: `PaddedUNet`, else `ValidUNet`.
        features: channels a level.
        kernel_size: as of `ValidUNet`.
        norm: batch normalisation behind every convolution.
        dropout: as of `ValidUNet`.
        output: voxels of a tile that are learned from, one number an axis; as many or a little
            more, as the network's geometry allows.
        context: voxels around them that a padded network is given besides; a valid one gets its
            margin.
        learned: the context is learned from as well, as far as the image goes on by its mirror.
        tiles: of one volume, in one step.
        guided: how often a tile is placed around a voxel of a class, else anywhere.
        dice: weight of the soft Dice loss beside cross-entropy.
        balance: exponent of the classes' weights in cross-entropy.
        rate: learning rate of AdamW, at the start.
        poly: the rate falls with (1 - done)^poly.
        sigma: of the deformation, in voxels.
        rotate: largest angle.
        scale: smallest and largest magnification.
        flip: mirror the axes.
        grey: vary grey values.
        half: bfloat16.
    """

    padded: bool = True
    features: tuple[int, ...] = (16, 32, 64)
    kernel_size: Any = 3
    norm: bool = True
    dropout: float = 0.0
    output: tuple[int, int, int] = (24, 24, 24)
    context: int = 8
    learned: bool = True
    tiles: int = 1
    guided: float | None = 0.5
    dice: float = 1.0
    balance: float = 0.0
    rate: float = 3e-3
    poly: float = 0.9
    sigma: float = 2.0
    rotate: float = 0.26
    scale: tuple[float, float] = (0.85, 1.2)
    flip: bool = False
    grey: bool = True
    half: bool = HALF

    def network(self) -> ValidUNet:
        kind = PaddedUNet if self.padded else ValidUNet
        return kind(
            3,
            out_channels=CLASSES,
            features=self.features,
            dropout=self.dropout,
            kernel_size=self.kernel_size,
            norm="batch" if self.norm else None,
        )

    def tile(self, network: ValidUNet) -> tuple[tuple[int, ...], int | tuple[int, ...]]:
        """Size of a training tile, and what of it is context."""
        geometry = network.geometry
        if not self.padded:
            return geometry.input_size(self.output), geometry.margin
        c, multiples = self.context, [geometry.axis(axis)[1] for axis in range(3)]
        tile = (-(-(n + 2 * c) // m) * m for n, m in zip(self.output, multiples, strict=True))
        return tuple(tile), c


def volumes() -> tuple[list[Pair], list[Pair]]:
    """Images of mean 0 and deviation 1, and classes; for training and for scores."""
    folder = data_folder("hippocampus")
    pairs = []
    for path in sorted((folder / "images").iterdir()):
        image = torch.as_tensor(read_image(path, 3)[0].astype(np.float32))
        label = torch.as_tensor(read_label(folder / "labels" / path.name, 3)[0].astype(np.int32))
        image = image.reshape(1, *image.shape[-3:])
        pairs.append(((image - image.mean()) / image.std(), label.reshape(image.shape)))
    return [p for i, p in enumerate(pairs) if i % 4], pairs[::4]


def batches(recipe: Recipe, network: ValidUNet, pairs: list[Pair], seed: int) -> Iterator[Pair]:
    size, margin = recipe.tile(network)
    cut = RandDeformedTiled(
        ["image", "label"],
        size,
        margin,
        sigma=recipe.sigma,
        rotate=recipe.rotate,
        scale=recipe.scale,
        flip=recipe.flip,
        mode=["bilinear", "nearest"],
        num_samples=recipe.tiles,
        label_key=None if recipe.guided is None else "label",
        pos=1 if recipe.guided is None else recipe.guided,
        neg=1 if recipe.guided is None else 1 - recipe.guided,
    )
    grey = Compose(
        [
            RandScaleIntensityd("image", 0.25, prob=1),
            RandShiftIntensityd("image", 0.25, prob=1),
            RandGaussianNoised("image", prob=0.25, std=0.1),
        ]
    )
    cut.set_random_state(seed)
    grey.set_random_state(seed)
    order = np.random.default_rng(seed)
    margins = [margin] * 3 if isinstance(margin, int) else list(margin)
    margins = [0] * 3 if recipe.padded and recipe.learned else margins
    inside: Any = (..., *(slice(m, n - m) for m, n in zip(margins, size, strict=True)))
    while True:
        for number in order.permutation(len(pairs)):
            image, label = pairs[number]
            items: Any = cut({"image": image, "label": label})
            items = [grey(item) if recipe.grey else item for item in items]
            yield (
                torch.stack([plain(item["image"]) for item in items]),
                torch.stack([plain(item["label"]) for item in items])[inside].long(),
            )


def plain(tensor: Tensor) -> Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def class_weights(pairs: list[Pair], exponent: float) -> Tensor:
    labels = torch.cat([label.flatten() for _, label in pairs])
    counts = torch.bincount(labels, minlength=CLASSES)
    return torch.tensor(class_weights_of_counts(counts.tolist(), exponent))


def train(recipe: Recipe, pairs: list[Pair], seed: int, budget: float) -> tuple[ValidUNet, int]:
    """The network after so many CPU seconds, and its steps."""
    torch.manual_seed(seed)
    network = recipe.network()
    weights = class_weights(pairs, recipe.balance)
    loss_function = CrossEntropyDiceLoss(recipe.dice)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=0.01)
    stream, steps, start = batches(recipe, network, pairs, seed), 0, time.process_time()
    while (done := (time.process_time() - start) / budget) < 1:
        warm = min(1.0, (steps + 1) / 20)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * warm * (1 - done) ** recipe.poly
        image, label = next(stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.half):
            logits = network(image)
        loss = loss_function(centre_crop(logits, label).float(), label, weights[label])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return network.eval(), steps


def scores(network: ValidUNet, pairs: list[Pair], tiles: bool = True) -> list[list[float]]:
    """Dice a volume and class, in exact tiles or in one padded pass."""
    found = []
    for image, label in pairs:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            if tiles:
                logits = OverlapTileInferer()(image[None], network)
            else:
                multiple = network.geometry.axis(0)[1]
                pads = [p for n in reversed(image.shape[1:]) for p in (0, -n % multiple)]
                logits = network(nn.functional.pad(image[None], pads, mode="replicate"))
                logits = logits[(..., *(slice(n) for n in image.shape[1:]))]
        classes = logits.float().argmax(1)
        found.append([dice(classes == c, label == c) for c in range(1, CLASSES)])
    return found


def dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def run(name: str, seed: int = 0) -> dict[str, Any]:
    """Steps, and scores in exact tiles and, of a padded network, in one padded pass."""
    recipe = RECIPES[name][1]
    path = FOLDER / f"{name}-{seed}-{SECONDS:.0f}.json"
    if not path.is_file():
        torch.set_num_threads(1)
        training, held_out = volumes()
        network, steps = train(recipe, training, seed, SECONDS)
        result = {"recipe": repr(recipe), "steps": steps, "scores": scores(network, held_out)}
        if recipe.padded:
            result["padded"] = scores(network, held_out, tiles=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def row(name: str, seeds: list[int]) -> list[str]:
    """Of a table: means over the seeds."""
    runs = [run(name, seed) for seed in seeds]
    tiles = " and ".join(f"{np.mean(one['scores']):.3f}" for one in runs)
    padded = " and ".join(f"{np.mean(one['padded']):.3f}" for one in runs if "padded" in one)
    return [RECIPES[name][0], str(runs[0]["steps"]), tiles, padded]


BASE = Recipe()
VALID = replace(BASE, padded=False, context=0)
WHOLE = replace(BASE, output=(36, 52, 36), context=0, guided=None)
TWICE = ("base", "plain", "entropy", "rigid", "valid-two", "valid-two-plain", "valid-flat")
RECIPES: dict[str, tuple[str, Recipe]] = {
    "base": ("padded, tiles of 40 placed as a valid network's of margin 8 would be", BASE),
    "plain": ("the same without batch norm, rate 0.001", replace(BASE, norm=False, rate=1e-3)),
    "entropy": ("cross-entropy alone", replace(BASE, dice=0)),
    "balanced": ("cross-entropy alone, balanced (s = 0.5)", replace(BASE, dice=0, balance=0.5)),
    "rigid": ("no deformation", replace(BASE, sigma=0)),
    "float32": ("float32", replace(BASE, half=False)),
    "two": ("two tiles a step", replace(BASE, tiles=2)),
    "anywhere": ("tiles anywhere", replace(BASE, guided=None)),
    "wide": ("features 24, 48, 96", replace(BASE, features=(24, 48, 96))),
    "deep": ("features 16, 32, 64, 128", replace(BASE, features=(16, 32, 64, 128))),
    "shallow": ("features 16, 32", replace(BASE, features=(16, 32))),
    "large": ("tiles of 56, of which 40 lie inside", replace(BASE, output=(40, 40, 40))),
    "context": (
        "context not learned from, two tiles",
        replace(BASE, learned=False, tiles=2, guided=0.7),
    ),
    "patch": (
        "tiles of 32 inside, no context, two tiles",
        replace(BASE, output=(32, 32, 32), context=0, tiles=2),
    ),
    "whole": ("whole volumes, no context", WHOLE),
    "valid": ("valid, 3 levels (margin 20), 24^3 answered", replace(VALID, guided=0.7)),
    "valid-whole": ("the same, whole volumes", replace(WHOLE, padded=False)),
    "valid-two-plain": (
        "valid, 2 levels, without batch norm, rate 0.001",
        replace(VALID, features=(16, 32), norm=False, rate=1e-3),
    ),
    "valid-two": ("valid, 2 levels (margin 8), 24^3 answered", replace(VALID, features=(16, 32))),
    "valid-two-whole": (
        "the same, whole volumes, features 16, 32",
        replace(WHOLE, padded=False, features=(16, 32)),
    ),
    "valid-flat": (
        "valid, 3 levels, kernels of 1 at the bottom (margin 12)",
        replace(VALID, kernel_size=[3, 3, 1]),
    ),
}


def main(words: list[str]) -> None:
    asked: dict[str, list[int]] = {}
    for word in words or [*RECIPES, *(f"{name}@1" for name in TWICE)]:
        name, _, seed = word.partition("@")
        if name not in RECIPES:
            raise SystemExit(f"{name}: no recipe; expected some of {', '.join(RECIPES)}")
        asked.setdefault(name, []).append(int(seed or 0))
    head = ["recipe", "steps", "Dice in exact tiles", "in one padded pass"]
    table([head, *(row(name, seeds) for name, seeds in asked.items())])


if __name__ == "__main__":
    main(sys.argv[1:])
