"""Put the network of an experiment into its bundle, in half precision.

python -m benchmarks.ship touching_cells dsb2018
python -m benchmarks.ship em_membranes fold4

Ends with exit code 1, and ships nothing, if a score moves in the third digit.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.em_membranes import fold
from benchmarks.experiments import ROOT, bundle, data_folder, scores_in, table
from benchmarks.touching_cells import WHOLE

RUNS = {
    "touching_cells": {"dsb2018": (WHOLE, "dsb2018")},
    "em_membranes": {f"fold{n}": (fold(n), "isbi2012") for n in range(5)},
}


def main(name: str, run_name: str) -> None:
    run, data_name = RUNS[name][run_name]
    data = data_folder(data_name)
    whole = next(iter(run.scores(data).values()))
    source, target = run.folder / "models", ROOT / "bundles" / name / "models"
    weights = torch.load(source / "model.pt", weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / "model.pt"
        torch.save({key: value.half() for key, value in weights.items()}, half)
        shutil.copyfile(source / "settings.json", half.with_name("settings.json"))
        options = {"dataset_dir": data, "output_dir": Path(folder) / "scores", "checkpoint": half}
        config = str(run.folder / "configs" / "evaluation.json")
        bundle("evaluation", run.folder, config, options)
        found = scores_in(Path(folder) / "scores")
        table(
            [
                ["score", "float32", "float16"],
                *([key, f"{whole[key]:.6f}", f"{found[key]:.6f}"] for key in whole),
            ]
        )
        if any(abs(whole[key] - found[key]) >= 0.0005 for key in whole):
            raise SystemExit("half precision moves a score by 0.0005 or more: not shipped")
        for file in (half, half.with_name("settings.json")):
            shutil.copyfile(file, target / file.name)
    print(f"{target / 'model.pt'}: {(target / 'model.pt').stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    if tuple(sys.argv[1:]) not in {(name, run) for name, runs in RUNS.items() for run in runs}:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
