"""Does asking for the most uncertain image beat asking for any? Nuclei, 3 seeds, a figure.

python -m benchmarks.annotate_next        all seeds, table and figure
python -m benchmarks.annotate_next SEED   one of them, so that several can go on side by side

Each seed begins with the same 5 images for all strategies, trains from random weights, lets the
strategy choose 5 more by that network, trains anew, and 10 more likewise. A run that is stopped
goes on when the same command is given again.
"""

from __future__ import annotations

import json
import random
import statistics
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.experiments import ROOT, RUNS, Experiment, chosen, data_folder, table
from overtile.pipelines.images.formats import is_image, stem
from overtile.pipelines.images.read import read_image
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.inference.uncertainty import METHODS, uncertainty

SEEDS = (0, 1, 2)
SIZES = (5, 10, 20)
STRATEGIES = ("random", *METHODS)
BUDGET = {
    "max_epochs": 10,
    "samples_per_epoch": 150,
    "val_interval": 5,
    "network_def#features": "[16,32,64,128]",
}
HOME = RUNS / "annotate_next"
FIGURE = ROOT / "docs" / "pictures" / "annotate_next.png"


def linked(data: Path, labelled: list[str], folder: Path) -> Path:
    """The data set with ``labelled`` as its only training images, made of links."""
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            target = folder / split / kind
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted((data / split / kind).iterdir()):
                link = target / file.name
                wanted = is_image(file) and (split != "train" or stem(file) in labelled)
                if wanted and not link.is_symlink():
                    link.symlink_to(file)
    return folder


def trained(data: Path, labelled: list[str], name: str, seed: int) -> Experiment:
    """Train on these images, unless it is done."""
    run = Experiment("touching_cells", f"next-{name}", {**BUDGET, "seed": seed})
    run.train(linked(data, labelled, HOME / name))
    return run


def most_uncertain(run: Experiment, data: Path, pool: list[str], method: str) -> list[str]:
    """The pool, least sure first."""
    network = load_trained(run.folder, {})
    images = {stem(f): f for f in (data / "train" / "images").iterdir() if is_image(f)}

    def value(name: str) -> float:
        grey = read_image(images[name], 2, network.channels)[0].astype(np.float32)
        scaled = np.asarray(network.normalize(grey[None]))
        return uncertainty(network, scaled, method).value

    return sorted(pool, key=value, reverse=True)


def curve(data: Path, strategy: str, seed: int) -> dict[int, float]:
    """SEG on the test images by number of labelled images."""
    chance = random.Random(seed)
    names = sorted(stem(f) for f in (data / "train" / "images").iterdir() if is_image(f))
    pool = chance.sample(names, len(names))
    labelled, pool = pool[: SIZES[0]], pool[SIZES[0] :]
    run = trained(data, labelled, f"{seed}-start-{len(labelled)}", seed)
    found = {len(labelled): seg(run)}
    for before, size in pairwise(SIZES):
        name = f"{seed}-{strategy}-{size}"
        memory = HOME / f"{name}.json"  # a choice is made once, whatever the threads round to
        if not memory.is_file():
            if strategy != "random":
                pool = most_uncertain(run, data, pool, strategy)
            memory.write_text(json.dumps(pool[: size - before]))
        fresh = json.loads(memory.read_text())
        labelled, pool = labelled + fresh, [n for n in pool if n not in fresh]
        run = trained(data, labelled, name, seed)
        found[size] = seg(run)
    return found


def seg(run: Experiment) -> float:
    return run.scores(HOME / run.name.removeprefix("next-"))["scores"]["seg"]


def draw(found: dict[str, list[dict[int, float]]], path: Path) -> None:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for (strategy, curves), mark in zip(found.items(), "osv", strict=True):
        means = [statistics.mean(c[n] for c in curves) for n in SIZES]
        (line,) = axes.plot(SIZES, means, f"{mark}-", label=strategy)
        for one in curves:
            axes.plot(SIZES, list(one.values()), mark, color=line.get_color(), alpha=0.35, ms=4)
    axes.set(xlabel="annotated images", ylabel="SEG on 50 unseen images", xticks=SIZES)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main(seeds: tuple[int, ...] = SEEDS) -> None:
    data = data_folder("dsb2018")
    found = {s: [curve(data, s, seed) for seed in seeds] for s in STRATEGIES}
    if seeds != SEEDS:
        return
    rows = [["strategy", *(f"{n} images" for n in SIZES)]]
    for strategy, curves in found.items():
        columns = [[c[n] for c in curves] for n in SIZES]
        cells = [f"{statistics.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in columns]
        rows.append([strategy, *cells])
    table(rows)
    draw(found, FIGURE)
    (HOME / "found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    each = {str(seed): partial(main, (seed,)) for seed in SEEDS}
    chosen({"": main, **each}, __doc__)()
