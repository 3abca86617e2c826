"""Nuclei of the Data Science Bowl 2018: results, and what each part is worth.

python -m benchmarks.touching_cells           the bundle as it is, 30 training images
python -m benchmarks.touching_cells ablation  half the budget, part by part
python -m benchmarks.touching_cells curve     half the budget, 5, 10, 20, 30 images; a figure

A run that is stopped goes on when the same command is given again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.experiments import ROOT, Experiment, data_folder, table

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


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["curve"]:
            curve()
        case ["ablation"]:
            results(PARTS, "50 unseen images")
        case _:
            results({"30 training images": WHOLE}, "50 unseen images")
