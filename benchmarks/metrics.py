"""What the compiled metrics save: python -m benchmarks.metrics.

Membranes: the report (pixel, Rand and warping error, V_rand, V_info over all thresholds) of a
stack of 30 slices of 512 x 512 pixels. The peer follows the definitions literally, in NumPy and
Python (tests/pipelines/metrics/naive_membranes.py). It would take most of an hour, so it is
measured on a corner of 96 x 96 pixels of one slice, and extrapolated by the number of pixels; that
is in its favour, as it is slower than linear.

Instances: SEG and AP of 50 generated images of 512 x 512 pixels with touching cells. The peer makes
a mask of every object and compares those that meet.

Membranes are those of ../shared/data where they are, generated ones otherwise.
"""

from __future__ import annotations

import runpy
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy import ndimage

from benchmarks.figure import Figure
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.data.synthesis.membranes import membranes
from overtile.pipelines.metrics.instances import average_precision, seg_measure
from overtile.pipelines.metrics.membranes import THRESHOLDS, THRESHOLDS_OF_V, em_report

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data" / "isbi2012"
SLICES, SIZE, CORNER, IMAGES, REPEATS = 30, 512, 96, 50, 3
Array = np.ndarray[Any, Any]


def stack() -> tuple[str, Array, Array]:
    """Labels, and a map that a mediocre network could give: the labels blurred, with noise."""
    if SHARED.is_dir():
        name, labels = "ISBI 2012", tifffile.imread(SHARED / "train-labels.tif") > 0
    else:
        name = "generated membranes"
        labels = np.stack([membranes(0, (SIZE, SIZE), n)[1] > 0 for n in range(SLICES)])
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=labels.shape), (0, 2, 2))
    blurred = ndimage.gaussian_filter(labels.astype(float), (0, 2, 2))
    return name, labels, np.clip(blurred + noise / noise.std() * 0.15, 0, 1).astype(np.float32)


def seconds(task: Callable[[], object], repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def naive_report(labels: Array, p: Array) -> None:
    naive = runpy.run_path(str(ROOT / "tests" / "pipelines" / "metrics" / "naive_membranes.py"))
    for t in THRESHOLDS:
        for name in ("pixel_f", "rand_f"):
            naive[name](labels, p, t)
        for label, q in zip(labels, p, strict=True):
            naive["warping_counts"](label, q, t)
    for t in THRESHOLDS_OF_V:
        for label, q in zip(labels, p, strict=True):
            naive["v_rand_f"](label, q, t)
            naive["v_info_f"](label, q, t)


def naive_seg_and_ap(labels: list[Array], found: list[Array]) -> tuple[float, float]:
    scores, hits, objects = [], 0, 0
    for label, prediction in zip(labels, found, strict=True):
        masks = {name: prediction == name for name in np.unique(prediction[prediction > 0])}
        objects += len(masks)
        for name in np.unique(label[label > 0]):
            r, score, good = label == name, 0.0, False
            for other in np.unique(prediction[r]):
                if other:
                    s = masks[other]
                    shared, either = (r & s).sum(), (r | s).sum()
                    score = shared / either if shared > 0.5 * r.sum() else score
                    good = good or shared / either >= 0.5
            scores.append(score)
            hits, objects = hits + good, objects + (not good)
    return float(np.mean(scores)), hits / objects


def figures() -> Iterator[Figure]:
    name, labels, p = stack()
    em_report(labels[:1, :CORNER, :CORNER], p[:1, :CORNER, :CORNER])  # compiles
    ours = seconds(lambda: em_report(labels, p))
    corner = labels[:1, :CORNER, :CORNER], p[:1, :CORNER, :CORNER]
    theirs = seconds(lambda: naive_report(*corner), 1) * labels.size / corner[0].size
    yield Figure(
        f"membrane report of {len(labels)} slices ({name})",
        theirs / ours,
        None,
        "higher",
        f"{theirs / ours:.0f} times faster than the definitions ({ours:.1f} s against "
        f"{theirs / 3600:.1f} h, extrapolated)",
    )
    yield Figure("that report alone", ours, 60, "lower", f"{ours:.1f} s")
    cells = [touching_cells(n, (SIZE, SIZE))[1] for n in range(IMAGES)]
    found = [np.roll(label, 2, 0) for label in cells]

    def both() -> tuple[float, float]:
        return float(seg_measure(cells, found)), float(average_precision(cells, found))

    assert np.allclose(both(), naive_seg_and_ap(cells, found))
    ours, theirs = seconds(both), seconds(lambda: naive_seg_and_ap(cells, found), 1)
    count = sum(len(np.unique(label)) - 1 for label in cells)
    yield Figure(
        f"SEG and AP of {IMAGES} images with {count} cells",
        theirs / ours,
        None,
        "higher",
        f"{theirs / ours:.0f} times faster than a mask an object ({ours:.2f} s against "
        f"{theirs:.0f} s)",
    )
    yield Figure("these scores alone", ours, 5, "lower", f"{ours:.2f} s")


if __name__ == "__main__":
    for figure in figures():
        print(figure)
