"""Cross-validation on the ISBI 2012 stack, and what each part is worth.

python -m benchmarks.em_membranes           five folds
python -m benchmarks.em_membranes ablation  one fold at half the budget, part by part

A run that is stopped goes on when the same command is given again.
"""

from __future__ import annotations

import statistics

from benchmarks.experiments import Experiment, chosen, data_folder, table

FOLDS = 5
EPOCHS = 35
METRICS = ("pixel_error", "rand_error", "warping_error", "v_rand", "v_info")
AVERAGED = {"averaged": {"versions": 7}, "once": {"versions": 1}}


def fold(number: int) -> Experiment:
    options = {"fold": number, "val_fraction": 0, "max_epochs": EPOCHS}
    return Experiment("em_membranes", f"fold{number}", options, scoring=AVERAGED)


def part(name: str, overlay: str = "", scoring: dict[str, object] | None = None, **options: object):  # type: ignore[no-untyped-def]
    common = {"fold": FOLDS - 1, "val_fraction": 0, "max_epochs": EPOCHS // 2}
    return Experiment(
        "em_membranes",
        f"ablation-{name}",
        {**common, **options},
        [overlay] if overlay else [],
        {"averaged": {"versions": 7, **(scoring or {})}},
    )


SIMPLE = "{'_target_': 'SimpleInferer'}"
PARTS = {
    "all of it": part("none"),
    "without elastic deformation": part("deformation", deformation_sigma=0),
    "zeros instead of mirrored context": part("zeros", padding_mode="constant"),
    "padded instead of valid convolutions": part(
        "padded", "padded.json", {"inferer#inferer#inferer": SIMPLE}
    ),
    "SGD with momentum 0.99 instead of AdamW": part("sgd", "sgd.json"),
}


def cross_validation() -> None:
    data = data_folder("isbi2012")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in AVERAGED}
    minutes = []
    for number in range(FOLDS):
        run = fold(number)
        run.train(data)
        for name, scores in run.scores(data).items():
            found[name].append(scores)
        minutes.append(run.seconds() / 60)
    for name, folds in found.items():
        print(f"\n{AVERAGED[name]['versions']} version(s) of every slice")
        rows = [["fold", *METRICS]]
        for number, scores in enumerate(folds):
            rows.append([str(number), *(text(m, scores[m]) for m in METRICS)])
        columns = {m: [scores[m] for scores in folds] for m in METRICS}
        rows.append(["mean", *(text(m, statistics.mean(columns[m])) for m in METRICS)])
        rows.append(
            ["standard deviation", *(text(m, statistics.stdev(columns[m])) for m in METRICS)]
        )
        table(rows)
    print(f"\ntraining, minutes a fold: {', '.join(f'{m:.0f}' for m in minutes)}")


def ablation() -> None:
    data = data_folder("isbi2012")
    rows = [["slices 24 to 29", *METRICS]]
    for name, run in PARTS.items():
        run.train(data)
        scores = run.scores(data)["averaged"]
        rows.append([name, *(text(m, scores[m]) for m in METRICS)])
    table(rows)


def text(metric: str, value: float) -> str:
    return f"{value:.6f}" if metric == "warping_error" else f"{value:.4f}"


if __name__ == "__main__":
    chosen({"": cross_validation, "ablation": ablation}, __doc__)()
