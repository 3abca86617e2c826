"""Draw the pictures of the concept pages: ``python docs/draw.py FOLDER``.

Images are generated, and what is shown is computed by the library itself. The same code gives the
same pictures.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from monai.optimizers import WarmupCosineSchedule
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import nn

from overtile.networks import TileGeometry, ValidUNet, plan_tiles, read_tile
from overtile.networks.inferers.tiling import Tile
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.transforms import (
    BorderWeightMap,
    InstancesFromProbabilities,
    MirrorPad,
    RandElasticDeform,
    SeparateTouching,
    two_nearest_cells,
)

# Okabe and Ito's colours, told apart by colour-blind readers too
BLACK, ORANGE, SKY, GREEN, BLUE, RED = "#000000 #E69F00 #56B4E9 #009E73 #0072B2 #D55E00".split()
GREY = "#777777"
WIDTH = 7.0  # inches; pages show 700 pixels or so

Array = NDArray[Any]


def unet_sizes() -> Figure:
    """The paper's network: side lengths of its feature maps, taken from a forward pass."""
    network = ValidUNet(features=(1, 1, 1, 1, 1)).eval()
    sizes: dict[str, list[int]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            sizes[name] = [inputs[0].shape[-1], output.shape[-1]]

        return hook

    for name, module in network.named_modules():
        module.register_forward_hook(remember(name))
    with torch.no_grad():
        network(torch.zeros(1, 1, 572, 572))

    figure = Figure(figsize=(WIDTH, 4.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 64))
    axes.axis("off")
    depth = len(network.contract)

    def box(x: float, y: float, text: str, colour: str) -> None:
        width, height = 8.2, 5.0
        axes.add_patch(
            Rectangle((x - width / 2, y - height / 2), width, height, facecolor=colour, alpha=0.25)
        )
        axes.add_patch(
            Rectangle((x - width / 2, y - height / 2), width, height, fill=False, edgecolor=colour)
        )
        axes.text(x, y, text, ha="center", va="center", fontsize=11)

    def arrow(
        start: tuple[float, float], end: tuple[float, float], colour: str, style: str
    ) -> None:
        axes.add_patch(
            FancyArrowPatch(
                *(start, end),
                arrowstyle="-|>",
                mutation_scale=11,
                color=colour,
                linestyle=style,
                shrinkA=0,
                shrinkB=0,
            )
        )

    def level(place: int) -> float:
        return 56.0 - 12.5 * place

    def down_x(place: int) -> float:
        return 7.0 + 7.6 * place

    def up_x(place: int) -> float:
        return 93.0 - 7.6 * place

    for place in range(depth):
        y, left, right = level(place), down_x(place), up_x(place)
        before, after = sizes[f"contract.{place}"]
        box(left, y, str(before), BLUE)
        box(left + 12.5, y, str(after), BLUE)
        arrow((left + 4.1, y), (left + 8.4, y), BLUE, "-")
        joined, final = sizes[f"expand.{depth - 1 - place}"]
        box(right - 12.5, y, str(joined), GREEN)
        box(right, y, str(final), GREEN)
        arrow((right - 8.4, y), (right - 4.1, y), BLUE, "-")
        arrow((left + 16.6, y), (right - 16.6, y), GREY, "--")
        middle = (left + right) / 2
        cut = (after - joined) // 2
        lift = 1.0 if place + 1 < depth else 3.2  # above the boxes where there is no room between
        axes.text(
            *(middle, y + lift, f"crop {cut} a side"),
            ha="center",
            va="bottom",
            fontsize=9,
            color=GREY,
        )
        following = down_x(place + 1) if place + 1 < depth else 50 - 6.25
        arrow((left + 12.5, y - 2.5), (following + 0.5, level(place + 1) + 2.5), RED, "-")
        source = up_x(place + 1) if place + 1 < depth else 50 + 6.25
        arrow((source - 0.5, level(place + 1) + 2.5), (right - 12.5, y - 2.5), ORANGE, "-")
    y = level(depth)
    before, after = sizes["bottom"]
    box(50 - 6.25, y, str(before), BLUE)
    box(50 + 6.25, y, str(after), BLUE)
    arrow((50 - 2.1, y), (50 + 2.1, y), BLUE, "-")
    axes.text(down_x(0), 61, "input tile", ha="center", fontsize=10)
    axes.text(up_x(0), 61, "output tile", ha="center", fontsize=10)
    legend = (
        (BLUE, "two 3x3 convolutions: 4 pixels less"),
        (RED, "2x2 max-pooling: half"),
        (ORANGE, "2x2 up-convolution: double"),
    )
    for index, (colour, text) in enumerate(legend):
        y = 9.6 - 3.4 * index
        arrow((1.5, y), (6.0, y), colour, "-")
        axes.text(7.2, y, text, va="center", fontsize=9)
    return figure


def overlapping_tiles() -> Figure:
    """Input tiles overlap, output tiles meet: two neighbours on a mirrored image."""
    image = _visible(touching_cells(50, (176, 264))[0])
    geometry = TileGeometry.unet(depth=2)
    tiling = plan_tiles(image.shape, geometry, (128, 128))
    margin = tiling.margin[0]
    reach = (margin + 8, margin + 8)
    around = Tile((-reach[0], -reach[1]), tuple(n + 2 * reach[0] for n in image.shape), ())
    pixels = torch.from_numpy(image.astype(np.float32))[None, None]
    shown = read_tile(pixels, around)[0, 0].numpy()
    figure = Figure(figsize=(WIDTH, 5.1), layout="constrained")
    axes = figure.subplots()
    height, width = image.shape
    frame = (-reach[1] - 0.5, width + reach[1] - 0.5, height + reach[0] - 0.5, -reach[0] - 0.5)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=frame)
    veil = np.ones((*shown.shape, 4))
    veil[..., 3] = 0.5
    veil[reach[0] : reach[0] + height, reach[1] : reach[1] + width, 3] = 0
    axes.imshow(veil, extent=frame)
    for tile in tiling:
        rows, columns = tile.write
        axes.add_patch(
            Rectangle(
                (columns.start - 0.5, rows.start - 0.5),
                columns.stop - columns.start,
                rows.stop - rows.start,
                fill=False,
                edgecolor="white",
                linewidth=1.3,
            )
        )
    picked = [t for t in tiling if t.write[0].start == tiling.starts[0][0]][:2]
    for tile, colour in zip(picked, (ORANGE, SKY), strict=True):
        rows, columns = tile.write
        axes.add_patch(
            Rectangle(
                (columns.start + 0.6, rows.start + 0.6),
                columns.stop - columns.start - 2.2,
                rows.stop - rows.start - 2.2,
                facecolor=colour,
                edgecolor=colour,
                alpha=0.38,
            )
        )
        axes.add_patch(
            Rectangle(
                (tile.start[1] - 0.5, tile.start[0] - 0.5),
                *reversed(tile.size),
                fill=False,
                edgecolor=colour,
                linewidth=2.2,
                linestyle="--",
            )
        )
    axes.add_patch(
        Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="black", linewidth=1.6)
    )
    first, second = picked
    handles = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=ORANGE, linestyle="--", linewidth=2),
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=SKY, linestyle="--", linewidth=2),
        Rectangle((0, 0), 1, 1, facecolor=ORANGE, alpha=0.6),
        Rectangle((0, 0), 1, 1, facecolor=SKY, alpha=0.6),
    ]
    names = [
        f"input of tile 1, {first.size[0]}x{first.size[1]}",
        f"input of tile 2, {second.size[0]}x{second.size[1]}",
        f"its output, {first.written[0]}x{first.written[1]}",
        f"its output, {second.written[0]}x{second.written[1]}",
    ]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    axes.set_title(
        f"inputs overlap by {2 * margin} pixels, outputs meet; pale: mirrored context", fontsize=11
    )
    axes.set_xlabel("x in pixels of the image")
    axes.set_ylabel("y in pixels of the image")
    return figure


def alignment() -> Figure:
    """Why tiles start at multiples of 2^depth: windows that pool, and the error measured."""
    network, size = ValidUNet(features=(8, 16, 32)).eval(), 100
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
    geometry = network.geometry
    multiple = geometry.axis(0)[1]
    image = torch.randn(1, 1, 140, 140)
    shifts = list(range(3 * multiple + 1))
    errors = []
    with torch.no_grad():
        whole = network(image)
        output = geometry.output_size(size)
        for shift in shifts:
            tile = network(image[..., shift : shift + size, shift : shift + size])
            expected = whole[..., shift : shift + output, shift : shift + output]
            errors.append(float((tile - expected).abs().max() / whole.std()))
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=[1.0, 1.25])
    rows = (
        ("whole image", 0, 0, BLUE),
        (f"tile at {multiple}", multiple, 1, GREEN),
        (f"tile at {multiple + 1}", multiple + 1, 2, RED),
    )
    end = 20
    for name, start, row, colour in rows:
        for window in range(start, end, multiple):
            top.add_patch(
                Rectangle(
                    (window + 0.12, -row - 0.36),
                    min(multiple, end - window) - 0.24,
                    0.72,
                    facecolor=colour,
                    alpha=0.28,
                    edgecolor=colour,
                )
            )
        top.text(-0.4, -row, name, ha="right", va="center", fontsize=10, color=colour)
    for line in range(0, end + 1, multiple):
        top.axvline(line, color=GREY, linewidth=0.7, linestyle=":")
    top.text(end + 0.3, -1, "same windows", va="center", fontsize=10, color=GREEN)
    top.text(end + 0.3, -2, "other windows", va="center", fontsize=10, color=RED)
    top.set(xlim=(-4.6, end + 4.8), ylim=(-2.6, 0.6), yticks=[])
    top.set_xticks(range(0, end + 1, multiple))
    top.set_xlabel("x in pixels of the image")
    top.set_title(f"which {multiple} pixels two poolings put together", fontsize=11)
    for side in ("left", "right", "top"):
        top.spines[side].set_visible(False)
    colours = [GREEN if shift % multiple == 0 else RED for shift in shifts]
    bottom.bar(shifts, errors, color=colours, width=0.7)
    for shift, error in zip(shifts, errors, strict=True):
        if shift % multiple == 0:
            text = "0" if error < 1e-5 else f"{error:.2f}"
            bottom.text(shift, 0.04, text, ha="center", fontsize=11, color=GREEN)
    bottom.set_xticks(shifts)
    bottom.set_xlabel("where the tile starts, in pixels of the image")
    bottom.set_ylabel("largest deviation\n(output's std = 1)")
    bottom.set_title("output of the tile against output of the whole image, measured", fontsize=11)
    _bare(bottom)
    return figure


def mirrored_context() -> Figure:
    """An image with its mirrored context, and a tiny one whose mirror repeats."""
    geometry = TileGeometry.unet(depth=2)
    image = _visible(touching_cells(59, (104, 120))[0])
    tiny = image[16:32, 48:66]
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    titles = ("image with mirrored context", "tiny image: the mirror repeats")
    for ax, pixels, title in zip(axes, (image, tiny), titles, strict=True):
        padded = MirrorPad(geometry)(pixels[None])[0]
        margin = geometry.axis(0)[0]
        height, width = padded.shape
        frame = (-margin - 0.5, width - margin - 0.5, height - margin - 0.5, -margin - 0.5)
        ax.imshow(padded, cmap="gray", vmin=0, vmax=1, extent=frame, interpolation="nearest")
        ax.add_patch(
            Rectangle(
                (-0.5, -0.5),
                pixels.shape[1],
                pixels.shape[0],
                fill=False,
                edgecolor=ORANGE,
                linewidth=2.5,
            )
        )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("x in pixels of the image")
    axes[0].set_ylabel("y in pixels of the image")
    margin = geometry.axis(0)[0]
    dark = {"facecolor": "black", "edgecolor": "none", "pad": 1.5}
    edge = image.shape[1] - 0.5
    axes[0].annotate(
        "",
        (edge, -margin / 2),
        (edge + margin, -margin / 2),
        arrowprops={"arrowstyle": "<->", "color": SKY, "linewidth": 2},
    )
    axes[0].text(
        *(edge - 3, -margin / 2, f"margin of {margin} pixels"),
        ha="right",
        va="center",
        color=SKY,
        fontsize=10,
        bbox=dark,
    )
    axes[0].text(3, 10, "image", color=ORANGE, fontsize=11, bbox=dark)
    axes[1].text(0.7, 2.7, "image", color=ORANGE, fontsize=11, bbox=dark)
    return figure


def weight_map() -> Figure:
    """Labels, the distances to the two nearest cells, and the weights."""
    labels = touching_cells(5, (256, 256))[1].astype(np.int32)
    labels = np.asarray(SeparateTouching(width=2)(labels[None]))[0]
    rows, columns = _busiest(labels, 72, 84)
    d1, d2, _ = two_nearest_cells(labels)
    weights = np.asarray(BorderWeightMap(class_weights=None)(labels[None]))[0]
    cut = np.s_[rows, columns]
    figure = Figure(figsize=(WIDTH, 5.5), layout="constrained")
    axes = figure.subplots(2, 2)
    axes[0, 0].imshow(_tinted(labels[cut]), interpolation="nearest")
    axes[0, 0].set_title("labels: one number a cell", fontsize=11)
    panels: tuple[tuple[Axes, Array, str, str, str], ...] = (
        (axes[0, 1], d1, "d1: distance to the nearest cell", "pixels", "cividis"),
        (axes[1, 0], d2, "d2: distance to the second nearest", "pixels", "cividis"),
        (axes[1, 1], weights, "w(x): heavy where both are near", "weight", "inferno"),
    )
    for ax, values, title, unit, colours in panels:
        top = 12 if unit == "pixels" else None
        shown = ax.imshow(values[cut], cmap=colours, vmin=0, vmax=top, interpolation="nearest")
        bar = figure.colorbar(shown, ax=ax, shrink=0.8, extend="max" if top else "neither")
        bar.set_label(unit)
        ax.contour(labels[cut] > 0, [0.5], colors="white", linewidths=0.6)
        ax.set_title(title, fontsize=11)
    _without_ticks(figure)
    return figure


def deformation() -> Figure:
    """Nine drawn vectors, the field between them, and image and label moved by it."""
    transform = RandElasticDeform(sigma=10)
    transform.set_random_state(seed=18)
    image, labels = touching_cells(20, (128, 128))
    grey = _visible(image)
    drawn = transform.draw(image.shape)
    moved, moved_labels = drawn.apply_all(
        [
            torch.from_numpy(grey)[None],
            torch.from_numpy(labels.astype(np.int32))[None],
        ],
        ["bilinear", "nearest"],
    )
    figure = Figure(figsize=(WIDTH, 7.3), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax in axes[0]:
        ax.imshow(grey, cmap="gray", vmin=0, vmax=1)
        ax.set(xlim=(-26, 154), ylim=(154, -26))
    n = image.shape[0]
    y, x = (p.ravel() for p in np.meshgrid(*[np.linspace(0, n - 1, 3)] * 2, indexing="ij"))
    for x0, y0, dx, dy in zip(x, y, drawn.nodes[1].ravel(), drawn.nodes[0].ravel(), strict=True):
        axes[0, 0].annotate(
            *("", (x0 + dx, y0 + dy), (x0, y0)),
            arrowprops={"arrowstyle": "-|>", "color": ORANGE, "linewidth": 2.2, "shrinkA": 0},
            zorder=3,
        )
    axes[0, 0].plot(x, y, "o", color=SKY, markersize=5, zorder=4)
    axes[0, 0].set_title("1. nine vectors are drawn (sigma 10 pixels)", fontsize=11)
    positions, origin = drawn.coordinates()
    ys, xs = (p.numpy() + o for p, o in zip(positions, origin, strict=True))
    for index in np.linspace(0, n - 1, 11).astype(int):
        axes[0, 1].plot(xs[index], ys[index], color=ORANGE, linewidth=1.1)
        axes[0, 1].plot(xs[:, index], ys[:, index], color=ORANGE, linewidth=1.1)
    axes[0, 1].set_title("2. a spline gives every pixel its source", fontsize=11)
    axes[1, 0].imshow(moved[0].numpy(), cmap="gray", vmin=0, vmax=1)
    axes[1, 0].set_title("3. image, interpolated once", fontsize=11)
    axes[1, 1].imshow(_tinted(moved_labels[0].numpy()), interpolation="nearest")
    axes[1, 1].set_title("4. label, the same field, no new values", fontsize=11)
    for ax in axes[1]:
        for place in np.linspace(0, n - 1, 11):
            ax.axvline(place, color=ORANGE, linewidth=0.5, alpha=0.7)
            ax.axhline(place, color=ORANGE, linewidth=0.5, alpha=0.7)
    _without_ticks(figure)
    return figure


def training() -> Figure:
    """The learning rate over a run, and what one outlier does under momentum 0.99."""
    steps, rate = 2000, 0.004
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=rate)
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=40, t_total=steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(rates, color=BLUE, linewidth=2)
    left.set(xlabel="step", ylabel="learning rate", ylim=(0, rate * 1.1))
    left.set_title("40 steps of warm-up, then a cosine", fontsize=11)
    left.set_yticks([0, rate / 2, rate])
    for limit, colour, name in ((None, RED, "as it is"), (1.0, BLUE, "norm bounded to 1")):
        moved = _velocity(20.0, 400, limit)
        right.plot(moved, color=colour, linewidth=2, label=name)
    right.set(xlabel="steps after the outlier", ylabel="step / learning rate")
    right.set_title("one gradient of norm 20, then none", fontsize=11)
    right.legend(frameon=False)
    right.set(ylim=(0, 22), yticks=[0, 5, 10, 15, 20])
    _bare(left)
    _bare(right)
    return figure


def _velocity(gradient: float, steps: int, limit: float | None) -> list[float]:
    """How far SGD with momentum 0.99 moves a weight in each step after a single gradient."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.99)
    moved = []
    for step in range(steps):
        before = float(weight.detach())
        weight.grad = torch.tensor([gradient if step == 0 else 0.0])
        if limit is not None:
            nn.utils.clip_grad_norm_([weight], limit)
        optimizer.step()
        moved.append(abs(float(weight.detach()) - before))
    return moved


def instances() -> Figure:
    """From a cautious network's probabilities to cells: threshold, extent, grow."""
    labels = touching_cells(5, (256, 256))[1].astype(np.int32)
    rows, columns = _busiest(labels, 64, 72)
    rng = np.random.default_rng(0)
    inside = np.max(
        [ndimage.distance_transform_edt(labels == name) for name in np.unique(labels)[1:]], axis=0
    )
    noise = ndimage.gaussian_filter(rng.normal(size=labels.shape), 2.0)
    caution = ndimage.gaussian_filter((inside > 2.2).astype(float), 1.4)
    probability = np.clip(caution * (1 + 0.3 * noise / noise.std() * (1 - caution)), 0, 1)
    steps = (
        ("threshold 0.3 alone: cells run together", InstancesFromProbabilities(0.3)),
        ("threshold 0.6: apart, but too small", InstancesFromProbabilities(0.6, min_size=10)),
        (
            "threshold 0.6, extent 0.1, grow 5",
            InstancesFromProbabilities(0.6, min_size=10, grow=5, extent=0.1),
        ),
    )
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    cut = np.s_[rows, columns]
    shown = axes[0, 0].imshow(probability[cut], cmap="cividis", vmin=0, vmax=1)
    bar = figure.colorbar(shown, ax=axes[0, 0], shrink=0.8)
    bar.set_label("P(cell)")
    bar.set_ticks([0, 0.1, 0.3, 0.6, 1])
    axes[0, 0].set_title("probability of a cautious network", fontsize=11)
    for ax, (title, step) in zip(axes.ravel()[1:], steps, strict=True):
        found = np.asarray(step(probability[None]))[0][cut]
        ax.imshow(_tinted(found), interpolation="nearest")
        for name in np.unique(labels[cut][labels[cut] > 0]):
            ax.contour(labels[cut] == name, [0.5], colors="black", linewidths=0.8)
        count = len(np.unique(found[found > 0]))
        ax.set_title(title, fontsize=11)
        ax.set_xlabel(f"{count} found; black: the {_count(labels[cut])} true outlines")
    _without_ticks(figure)
    return figure


def _visible(image: Array) -> NDArray[np.float32]:
    """Grey values from 0 to 1 in 40 steps, dark cells lifted; few colours make small files."""
    low, high = np.percentile(image, [1, 99.7])
    grey = np.clip((image.astype(np.float64) - low) / (high - low), 0, 1) ** 0.7
    steps: NDArray[np.float32] = (np.round(grey * 40) / 40).astype(np.float32)
    return steps


def _count(labels: Array) -> int:
    return len(np.unique(labels[labels > 0]))


def _busiest(labels: Array, height: int, width: int) -> tuple[slice, slice]:
    """The window in which most pixels lie between two near cells."""
    d1, d2, _ = two_nearest_cells(labels)
    busy = ((d1 + d2 < 6) & (labels == 0)).astype(float) + 0.2 * (labels > 0)
    mean = ndimage.uniform_filter(busy, (height, width), mode="constant")
    inner = mean[height // 2 : -height // 2, width // 2 : -width // 2]
    top, left = (int(i) for i in np.unravel_index(int(inner.argmax()), inner.shape))
    return slice(top, top + height), slice(left, left + width)


def _tinted(labels: Array) -> Array:
    """Instances in five colours that neighbours do not share, on white."""
    palette = ListedColormap(["white", SKY, ORANGE, GREEN, "#F0E442", "#CC79A7", BLUE, RED])
    taken: dict[int, int] = {0: 0}
    for name in np.unique(labels[labels > 0]):
        near = np.unique(labels[ndimage.binary_dilation(labels == name, iterations=5)])
        used = {taken[int(other)] for other in near if int(other) in taken}
        taken[int(name)] = next(c for c in (*range(1, 8), 1) if c not in used or c == 7)
    colours = np.vectorize(taken.__getitem__, otypes=[int])(labels)
    picture: Array = palette(colours)[..., :3]
    return picture


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _without_ticks(figure: Figure) -> None:
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            axes.set(xticks=[], yticks=[])


PICTURES: dict[str, Callable[[], Figure]] = {
    "unet-sizes": unet_sizes,
    "overlapping-tiles": overlapping_tiles,
    "alignment": alignment,
    "mirrored-context": mirrored_context,
    "weight-map": weight_map,
    "deformation": deformation,
    "training": training,
    "instances": instances,
}


def draw(folder: Path) -> None:
    """Write every picture into ``folder``, as a PNG of at most 200 colours."""
    mpl.rcParams.update({"font.size": 10, "savefig.facecolor": "white"})
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PICTURES.items():
        file = io.BytesIO()
        make().savefig(file, dpi=140, metadata={"Software": None})
        picture = (
            Image.open(file)
            .convert("RGB")
            .quantize(200, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        )
        picture.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
