"""Whether the training waits for its data: python -m benchmarks.feeding.

The trainer of the touching_cells bundle as `train.json` sets it, with the default workers, on
generated cells: network, loss, optimiser, deformation, separation, weight map and grey values. What
is left out is what happens between epochs: validation, tracking, checkpoints. Waiting is the time
from when the trainer asks for a batch to when it has it, a step the time from then to the next
question; wall-clock seconds, summed over the steps after the first few.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ignite.engine import Events
from monai.bundle import ConfigParser

from benchmarks.figure import Figure
from overtile.pipelines.data.synthesis.datasets import generate
from overtile.pipelines.data.write import write_data

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "touching_cells"
STEPS, FIRST, IMAGES = 26, 6, 8
KEPT = ("SeedEpochs", "$lambda: @train#sampler", "ClipGradients", "LrScheduleHandler")


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pairs = generate("cells", {"train": IMAGES}, (512, 512), seed=0)
        parser = ConfigParser()
        parser.read_config(BUNDLE / "configs" / "train.json")
        parser["dataset_dir"] = str(write_data(root / "data", pairs, "pairs"))
        parser["cache_dir"], parser["output_dir"] = str(root / "cache"), str(root / "run")
        parser["samples_per_epoch"], parser["max_epochs"] = STEPS, 1
        handlers = parser["train"]["handlers"]
        parser["train#handlers"] = [h for h in handlers if h["_target_"].endswith(KEPT)]
        parser.parse()
        workers = parser.get_parsed_content("num_workers")
        dataset = parser.get_parsed_content("train#dataset")
        trainer = parser.get_parsed_content("train#trainer")
        asked, given = [], []
        trainer.add_event_handler(
            Events.GET_BATCH_STARTED, lambda: asked.append(time.perf_counter())
        )
        trainer.add_event_handler(
            Events.GET_BATCH_COMPLETED, lambda: given.append(time.perf_counter())
        )
        trainer.run()
        dataset[0]  # loads what is compiled
        start = time.process_time()
        for index in range(FIRST):
            dataset[index]
        sample = (time.process_time() - start) / FIRST
    waits = [b - a for a, b in zip(asked, given, strict=False)][FIRST:]
    steps = [b - a for a, b in zip(given, asked[1:], strict=False)][FIRST:]
    share = sum(waits) / sum(steps)
    wait, step = statistics.mean(waits), statistics.mean(steps)
    yield Figure(
        f"waiting for data, {workers} worker",
        share,
        0.05,
        "lower",
        f"{100 * share:.1f}% of a step ({wait * 1e3:.1f} ms of {step * 1e3:.0f} ms; a sample takes "
        f"{sample * 1e3:.0f} ms of CPU time)",
    )


if __name__ == "__main__":
    for figure in figures():
        print(figure, flush=True)
