"""Nuclei of the Data Science Bowl 2018: results, and what each part is worth.

python -m benchmarks.touching_cells           the bundle as it is, 30 training images
python -m benchmarks.touching_cells ablation  half the budget, part by part
python -m benchmarks.touching_cells curve     half the budget, 5, 10, 20, 30 images; a figure
python -m benchmarks.touching_cells instances the bundle's network: from probabilities to instances

A run that is stopped goes on when the same command is given again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.experiments import ROOT, Experiment, chosen, data_folder, table
from overtile.pipelines.images.read import read_image, read_label
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.metrics.instances import seg_measure
from overtile.transforms import InstancesFromProbabilities

METRICS = ("seg", "det", "ap50", "ap75", "ap90", "pq", "mean_iou")
HALF = {"max_epochs": 15, "val_interval": 15}
WHOLE = Experiment("touching_cells", "dsb2018", {"val_interval": 5})


def part(name: str, **options: object) -> Experiment:
    return Experiment("touching_cells", name, {**HALF, **options})


BASE = part("half")
PARTS = {
    "all of it": BASE,
    "without border weights (w0 = 0)": part("ablation-w0", w0=0),
    "separation line of 2 px instead of 1": part("ablation-line", separation_width=2),
    "without elastic deformation": part("ablation-deformation", deformation_sigma=0),
}
CURVE = {n: part(f"images-{n}", train_subset=n) for n in (5, 10, 20)} | {30: BASE}
FIGURE = ROOT / "docs" / "pictures" / "learning_curve.png"


def results(runs: dict[str, Experiment], what: str) -> None:
    data = data_folder("dsb2018")
    rows = [[what, *METRICS, "training, minutes"]]
    for name, run in runs.items():
        run.train(data)
        scores = run.scores(data)["scores"]
        rows.append([name, *(f"{scores[m]:.4f}" for m in METRICS), f"{run.seconds() / 60:.0f}"])
    table(rows)


def curve() -> None:
    results({str(n): run for n, run in CURVE.items()}, "training images")
    data = data_folder("dsb2018")
    scores = {n: run.scores(data)["scores"] for n, run in CURVE.items()}
    draw(scores, FIGURE)


def draw(scores: dict[int, dict[str, float]], path: Path) -> None:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for metric, name in (("seg", "SEG"), ("ap50", "AP at IoU 0.5")):
        axes.plot(list(scores), [s[metric] for s in scores.values()], "o-", label=name)
    axes.set(xlabel="annotated training images", ylabel="score on 50 unseen images", ylim=(0, 1))
    axes.set_xticks(list(scores))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


CUTS: tuple[dict[str, Any], ...] = (
    *(
        {"threshold": t, "extent": e}
        for t in (0.3, 0.4, 0.5, 0.6)
        for e in (0.2, 0.3, 0.4)
        if e <= t
    ),
    *({"line": n} for n in (0, 1, 3)),
    {"growth": "watershed"},
)
"""What differs from the bundle's own settings."""


def instances() -> None:
    """SEG on the validation images, by what makes instances of probabilities."""
    data = data_folder("dsb2018") / "val"
    trained = load_trained(ROOT / "bundles" / "touching_cells", {"versions": 7})
    assert trained.to_instances is not None
    names = ("threshold", "extent", "line", "growth", "grow", "min_size", "max_hole")
    own = {name: getattr(trained.to_instances, name) for name in names}
    labels, maps = [], []
    for file in sorted((data / "images").iterdir()):
        labels.append(read_label(data / "labels" / file.name)[0])
        grey = read_image(file, 2, trained.channels)[0].astype(np.float32)
        with torch.no_grad():
            image = torch.from_numpy(np.asarray(trained.normalize(grey[None])))[None]
            answer = trained.inferer.whole(image, trained.network)[0]
        maps.append(np.asarray(trained.activation({"pred": answer})["pred"].float()))
    rows = [[*names[:4], "SEG"]]
    for cut in ({}, *CUTS):
        settings = own | cut
        found = InstancesFromProbabilities(**settings)
        seg = float(seg_measure(labels, [np.asarray(found(p))[0] for p in maps]))
        rows.append([*(str(settings[name]) for name in names[:4]), f"{seg:.4f}"])
    table(rows)


if __name__ == "__main__":
    commands = {
        "": lambda: results({"30 training images": WHOLE}, "50 unseen images"),
        "ablation": lambda: results(PARTS, "50 unseen images"),
        "curve": curve,
        "instances": instances,
    }
    chosen(commands, __doc__)()
