"""The weight map against distance transforms: python -m benchmarks.weights.

Ours is the whole call of `BorderWeightMap`, weights and all. The peers are one call of `edt.edt`
(the background of the same image, one thread: what a *single* distance transform costs), one
SciPy transform a cell, stacked or one by one, and one a cell on its surroundings (6.5 sigma).
All run in one thread, in turn; times are CPU seconds, ratios medians over the rounds.

Draws the cost against the number of cells and of pixels to docs/pictures/weight-map-cost.png.
"""

from __future__ import annotations

import statistics
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import edt
import matplotlib.figure
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.figure import Figure
from benchmarks.timing import compare, ratio, seconds
from overtile.transforms import BorderWeightMap, two_nearest_cells

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "weight-map-cost.png"
CELLS, SIZES = (10, 30, 100, 300, 1000, 3000, 10000), (256, 512, 1024, 2048, 4096, 8192)
SIGMA, W0 = 5.0, 10.0
Labels = NDArray[np.int32]
OURS = BorderWeightMap(W0, SIGMA, class_weights=None)


def discs(size: int, count: int, seed: int = 0) -> Labels:
    """Discs of many sizes on a disturbed grid; about half of the pixels, some touch."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(count**0.5))
    step = size / side
    grid = np.stack(np.divmod(np.arange(count), side), -1)
    labels = np.zeros((size, size), np.int32)
    for name, middle in enumerate((grid + 0.5 + rng.uniform(-0.3, 0.3, grid.shape)) * step, 1):
        radius = max(rng.uniform(0.25, 0.55) * step, 1.0)
        y, x = (slice(max(int(m - radius), 0), int(m + radius) + 2) for m in middle)
        rows, columns = np.ogrid[y, x]
        away = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
        box = labels[y, x]
        box[away[: box.shape[0], : box.shape[1]] < radius**2] = name
    return labels


def stacked(labels: Labels) -> NDArray[np.float64]:
    """Equation 2 by a stack of distance transforms, one a cell."""
    cells = np.unique(labels[labels > 0])
    stack = np.stack([ndimage.distance_transform_edt(labels != cell) for cell in cells])
    stack.partition(1, axis=0)
    return equation_2(labels, stack[0], stack[1])


def one_by_one(labels: Labels, cropped: bool) -> NDArray[np.float64]:
    """The same without a stack, keeping the two smallest; ``cropped`` to a cell's surroundings."""
    first, second = np.full((2, *labels.shape), np.inf)
    reach = int(6.5 * SIGMA) + 1
    for name, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        where: tuple[slice, ...] = (slice(None),) * labels.ndim
        if cropped:
            where = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
        away = ndimage.distance_transform_edt(labels[where] != name)
        near, far = first[where], second[where]
        np.minimum(far, np.maximum(near, away), out=far)
        np.minimum(near, away, out=near)
    return equation_2(labels, first, second)


def equation_2(labels: Labels, d1: Any, d2: Any) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(-((d1 + d2) ** 2) / (2 * SIGMA**2))
    weights = 1 + W0 * weights * (labels == 0)
    return weights


def transform(background: NDArray[np.bool_]) -> Any:
    return edt.edt(background, parallel=1)


def ms(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.0f} ms"


def figures() -> Iterator[Figure]:
    labels = discs(2048, 1000)
    background = labels == 0
    times = compare(
        {
            "edt": lambda: transform(background),
            "ours": lambda: OURS(labels[None]),
            "distances": lambda: two_nearest_cells(labels),
        }
    )
    cost = ratio(times["ours"], times["edt"])
    yield Figure(
        "weight map of 2048 x 2048 pixels with 1000 cells",
        cost,
        1.5,
        "lower",
        f"{cost:.2f} times one distance transform by edt ({ms(times['ours'])} against "
        f"{ms(times['edt'])})",
    )
    cost = ratio(times["distances"], times["edt"])
    yield Figure(
        "both distances and the nearest label, however far, of the same image",
        cost,
        None,
        "lower",
        f"{cost:.2f} times one distance transform by edt ({ms(times['distances'])})",
    )
    tracemalloc.start()
    OURS(labels[None])
    held = tracemalloc.get_traced_memory()[1] / labels.size
    tracemalloc.stop()
    text = f"{held:.1f} bytes a pixel at most, the result's 4 included"
    yield Figure("memory of the weight map of the same image", held, 24, "lower", text)
    labels = discs(1024, 250)
    expected: list[NDArray[np.float64]] = []
    whole = seconds(lambda: expected.append(stacked(labels)))
    times = compare(
        {"cropped": lambda: one_by_one(labels, cropped=True), "ours": lambda: OURS(labels[None])}
    )
    faster = whole / statistics.median(times["ours"])
    yield Figure(
        "weight map of 1024 x 1024 pixels with 250 cells",
        faster,
        500,
        "higher",
        f"{faster:.0f} times faster than a stack of SciPy transforms ({ms(times['ours'])} against "
        f"{whole:.1f} s)",
    )
    one = seconds(lambda: one_by_one(labels, cropped=False))
    faster = one / statistics.median(times["ours"])
    yield Figure(
        "the same",
        faster,
        None,
        "higher",
        f"{faster:.0f} times faster than these transforms without a stack ({one:.1f} s)",
    )
    faster = ratio(times["cropped"], times["ours"])
    yield Figure(
        "the same",
        faster,
        4,
        "higher",
        f"{faster:.1f} times faster than a SciPy transform a cell on its surroundings "
        f"({ms(times['cropped'])})",
    )
    error = float(np.abs(np.asarray(OURS(labels[None]))[0] - expected[0]).max())
    text = f"{error:.1e} at most, where w0 is {W0:g}"
    yield Figure("error of these weights", error, 1e-4, "lower", text)
    yield from curves()


def curves() -> Iterator[Figure]:
    """Nanoseconds a pixel, ours and edt's, over cells and over pixels."""
    images = {count: discs(2048, count) for count in CELLS}
    over_cells = {count: per_pixel(image) for count, image in images.items()}
    tile = discs(256, 16)
    over_pixels = {}
    for size in SIZES:
        repeats = size // len(tile)
        number = np.arange(repeats**2, dtype=np.int32).reshape(repeats, repeats) * tile.max()
        image = np.tile(tile, (repeats, repeats))
        image += np.where(image > 0, np.kron(number, np.ones_like(tile)), 0)
        over_pixels[size] = per_pixel(image)
    draw(over_cells, over_pixels)
    for name, found in (
        (f"weight map of 2048 x 2048 pixels with {CELLS[0]} to {CELLS[-1]} cells", over_cells),
        (f"weight map of {SIZES[0]} x {SIZES[0]} to {SIZES[-1]} x {SIZES[-1]} pixels", over_pixels),
    ):
        ours, theirs = zip(*found.values(), strict=True)
        text = f"{min(ours):.0f} to {max(ours):.0f} ns a pixel (edt {min(theirs):.0f} to"
        yield Figure(name, max(ours), None, "lower", f"{text} {max(theirs):.0f})")


def per_pixel(labels: Labels) -> tuple[float, float]:
    background = labels == 0
    tasks = {"ours": lambda: OURS(labels[None]), "edt": lambda: transform(background)}
    times = compare(tasks, repeats=3)
    ours, theirs = (statistics.median(times[name]) / labels.size * 1e9 for name in tasks)
    return ours, theirs


def draw(
    over_cells: dict[int, tuple[float, float]], over_pixels: dict[int, tuple[float, float]]
) -> None:
    figure = matplotlib.figure.Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, found in zip(axes, (over_cells, over_pixels), strict=True):
        for n, name in enumerate(("whole weight map", "one distance transform (edt)")):
            ax.plot(list(found), [values[n] for values in found.values()], "o-", label=name)
        ax.set_xscale("log")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set(xlabel="cells in 2048 x 2048 pixels", ylabel="ns a pixel, one thread")
    axes[1].set(xlabel="pixels along each axis", xticks=SIZES, xticklabels=SIZES)
    axes[1].minorticks_off()
    axes[0].set_ylim(0)
    axes[0].legend(frameon=False)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    for figure in figures():
        print(figure, flush=True)
