"""Pictures of a run: a training sample, predictions beside labels, a segmented image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from numpy.typing import NDArray

from overtile.pipelines.errors import printable
from overtile.pipelines.files import whole
from overtile.pipelines.reporting.colours import (
    ERROR_COLOURS,
    HATCH,
    class_colours,
    class_label,
    hatched,
    numbered_colours,
    outline,
    palette,
)
from overtile.pipelines.reporting.predictions import ERRORS, Layers

if TYPE_CHECKING:  # loads PyTorch, and a contact sheet needs none
    from overtile.transforms import Deformation

_LINES = 9  # of the deformation grid, each way
_NAMED = 12  # classes in a legend, at most


@dataclass(frozen=True)
class Case:
    """An image that was scored.

    Attributes:
        title: what it stands for, and its score.
        layers: of it.
    """

    title: str
    layers: Layers


def training_sample(
    source: NDArray[Any],
    tile: NDArray[Any],
    label: NDArray[Any],
    weight: NDArray[Any],
    deformation: Deformation,
) -> Figure:
    """One training sample as the network sees it.

    Args:
        source: the image that the tile was cut from, ``[H, W]``.
        tile: the deformed tile, ``[h, w]``.
        label: classes of the tile's output region, ``[h', w']``; below 0 = not annotated.
        weight: w(x) there, ``[h', w']``.
        deformation: that made the tile.
    """
    figure = Figure(figsize=(16, 4.4), layout="constrained")
    axes = figure.subplots(1, 4)
    _grey(axes[0], source, "image, and where the tile comes from")
    positions, origin = deformation.coordinates()
    y, x = (p.numpy() + o for p, o in zip(positions, origin, strict=True))
    for index in np.linspace(0, y.shape[0] - 1, _LINES).astype(int):
        axes[0].plot(x[index], y[index], color="gold", linewidth=0.8)
    for index in np.linspace(0, y.shape[1] - 1, _LINES).astype(int):
        axes[0].plot(x[:, index], y[:, index], color="gold", linewidth=0.8)
    _grey(axes[1], tile, "tile: one interpolation, mirrored context")
    margin = (tile.shape[0] - label.shape[0]) // 2
    low, high = margin - 0.5, tile.shape[0] - margin - 0.5
    axes[1].plot(
        [low, high, high, low, low], [low, low, high, high, low], color="deepskyblue", linewidth=1.2
    )
    shown = np.repeat(np.maximum(label, 0)[..., None] / max(label.max(), 1), 3, axis=-1)
    shown[hatched(label < 0)] = np.array(HATCH) / 255
    axes[2].imshow(shown, interpolation="nearest")
    axes[2].set_title("label of the output region (blue frame)")
    heat = axes[3].imshow(weight, cmap="jet", interpolation="nearest")
    axes[3].set_title("weight map w(x)")
    figure.colorbar(heat, ax=axes[3])
    return _without_ticks(figure)


def predictions(rows: Sequence[Case]) -> Figure:
    """Image, label and what was found side by side, a row an image; empty what there is not.

    Of cells with P(cell), of classes with where they differ. Of volumes it is a section.
    """
    figure = Figure(figsize=(16, 4.1 * len(rows)), layout="constrained")
    for axes, row in zip(figure.subplots(len(rows), 4, squeeze=False), rows, strict=True):
        layers = row.layers.section()
        _grey(axes[0], layers.image, Path(layers.name).name)
        if layers.classes is None:
            _draw_cells(figure, axes[1:], layers, row.title)
        else:
            _draw_classes(axes[1:], layers, row.title)
        _in_proportion(axes, layers)
    return _without_ticks(figure)


def _draw_cells(figure: Figure, axes: Sequence[Axes], layers: Layers, title: str) -> None:
    label, likely, found = (
        np.zeros_like(layers.image) if layer is None else layer
        for layer in (layers.label, layers.probability, layers.instances)
    )
    axes[0].imshow(_with_gaps(coloured(label), layers), interpolation="nearest")
    axes[0].set_title(f"label: {_count(label)} cells")
    shown = axes[1].imshow(likely / 255, cmap="magma", vmin=0, vmax=1)
    axes[1].set_title("P(cell)")
    figure.colorbar(shown, ax=axes[1])
    axes[2].imshow(coloured(found), interpolation="nearest")
    axes[2].set_title(", ".join(filter(None, (f"found: {_count(found)}", title))))


def _draw_classes(axes: Sequence[Axes], layers: Layers, title: str) -> None:
    """Label, prediction, and where they differ, over the image, with the colours' names."""
    found = np.zeros_like(layers.image) if layers.classes is None else layers.classes
    label = np.zeros_like(found) if layers.label is None else layers.label
    colours = class_colours(max(int(label.max()), int(found.max())))
    over = _over(layers.image, label, outline(label), colours) / 255
    axes[0].imshow(_with_gaps(over, layers), interpolation="nearest")
    axes[0].set_title("label")
    axes[1].imshow(_over(layers.image, found, outline(found), colours), interpolation="nearest")
    write_title(axes[1], ", ".join(filter(None, ("prediction", title))))
    known = {n: class_label(n, layers.class_names) for n in np.union1d(label, found) if n}
    _legend(axes[1], [(name, colours[number - 1]) for number, name in known.items()])
    differ = (label != found) & (True if layers.gaps is None else layers.gaps == 0)
    kinds = np.where(found == 0, 1, np.where(label == 0, 2, 3)) * differ
    table = [ERROR_COLOURS[kind] for kind in ("missed", "extra", "merged")]
    over = _over(layers.image, kinds, differ, table) / 255
    axes[2].imshow(_with_gaps(over, layers), interpolation="nearest")
    annotated = label.size if layers.gaps is None else int((layers.gaps == 0).sum())
    axes[2].set_title(f"errors: {differ.sum() / max(annotated, 1):.1%} of the pixels")
    _legend(axes[2], list(zip(("missed", "extra", "another class"), table, strict=True)))


def cases(rows: Sequence[Case]) -> Figure:
    """Label beside prediction, and where they differ, a row an image; of volumes a section."""
    figure = Figure(figsize=(14, 4.9 * len(rows)), layout="constrained")
    for axes, row in zip(figure.subplots(len(rows), 3, squeeze=False), rows, strict=True):
        layers = row.layers.section()
        if layers.classes is None:
            _draw_errors(axes, layers, row.title)
        else:
            _draw_classes(axes, layers, "")
            write_title(axes[0], row.title, f"{Path(layers.name).name}, label")
        _in_proportion(axes, layers)
    return _without_ticks(figure)


def _draw_errors(axes: Sequence[Axes], layers: Layers, title: str) -> None:
    counts = layers.counts
    label = np.zeros_like(layers.image) if layers.label is None else layers.label
    found = np.zeros_like(label) if layers.instances is None else layers.instances
    colours = numbered_colours(label)
    over = _over(layers.image, colours, outline(label)) / 255
    axes[0].imshow(_with_gaps(over, layers), interpolation="nearest")
    name = Path(layers.name).name
    write_title(axes[0], title, f"{name}, label: {_count(label)} cells")
    same = numbered_colours(found, (label, colours))
    axes[1].imshow(_over(layers.image, same, outline(found)), interpolation="nearest")
    axes[1].set_title(f"found: {_count(found)} cells")
    errors = np.zeros_like(layers.image) if layers.errors is None else layers.errors
    kinds = [ERROR_COLOURS[kind] for kind in ERRORS[1:]]
    over = _over(layers.image, errors, errors > 0, kinds) / 255
    axes[2].imshow(_with_gaps(over, layers), interpolation="nearest")
    axes[2].set_title("errors" if counts else "errors: no cells to compare")
    told = [(f"{kind} ({counts.get(kind, 0)})", c) for kind, c in ERROR_COLOURS.items()]
    _legend(axes[2], told)


def name_classes(figure: Figure, names: Sequence[str]) -> None:
    """Below a whole figure the colours of classes, from 1 on; of very many the first."""
    told = [class_label(0, [name]) for name in names]
    handles = _swatches(list(zip(told, class_colours(len(names)), strict=True)))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    _as_text(legend)


def _legend(axes: Axes, told: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    """What colours mean, below a picture; of very many the first."""
    legend = axes.legend(
        handles=_swatches(told),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=4,
        frameon=False,
        columnspacing=1.0,
        handlelength=1.0,
        fontsize="small",
    )
    _as_text(legend)


def _swatches(told: Sequence[tuple[str, tuple[int, int, int]]]) -> list[Patch]:
    return [
        Patch(color=(c[0] / 255, c[1] / 255, c[2] / 255), label=printable(name))
        for name, c in told[:_NAMED]
    ]


def _as_text(legend: Legend) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)  # a ``$`` in a name is no formula


def _in_proportion(axes: Sequence[Axes], layers: Layers) -> None:
    """Pixels as high and as wide as they are."""
    down, across = layers.grid.spacing
    for each in axes:
        each.set_aspect(down / across)


def _over(
    image: NDArray[Any],
    numbers: NDArray[Any],
    opaque: NDArray[np.bool_],
    colours: Sequence[tuple[int, int, int]] | None = None,
) -> NDArray[np.uint8]:
    """Grey values ``[h, w]`` uint8 under numbered colours: faint, and full where ``opaque``."""
    known = palette(int(numbers.max(initial=0))) if colours is None else list(colours)
    table = np.array([(0, 0, 0), *known], float)
    strength = np.where(opaque, 0.85, 0.45)[..., None] * (numbers > 0)[..., None]
    grey = np.repeat(image[..., None].astype(float), 3, axis=-1)
    mixed: NDArray[np.uint8] = (grey * (1 - strength) + table[numbers] * strength).astype(np.uint8)
    return mixed


def _with_gaps(picture: NDArray[np.float64], layers: Layers) -> NDArray[np.float64]:
    """What comes of a label, ``[h, w, 3]`` in [0, 1], hatched where nothing is annotated."""
    if layers.gaps is not None:
        picture[hatched(layers.gaps > 0)] = np.array(HATCH) / 255
    return picture


def coloured(instances: NDArray[Any], classes: bool = False) -> NDArray[np.float64]:
    """Instance labels ``[H, W]`` in colours ``[H, W, 3]`` of which neighbours rarely share one.

    With ``classes`` those of `class_colours`.
    """
    if classes:
        numbers = np.maximum(instances, 0)
        table = np.array([(0, 0, 0), *class_colours(int(numbers.max(initial=0)))]) / 255
        found: NDArray[np.float64] = table[numbers]
        return found
    names, compact = np.unique(instances, return_inverse=True)
    golden = 0.618034
    colours = np.stack(
        [
            np.arange(len(names)) * golden % 1,
            np.full(len(names), 0.65),
            np.where(names > 0, 0.95, 0.0),
        ],
        axis=-1,
    )
    picture: NDArray[np.float64] = hsv_to_rgb(colours)[compact.reshape(instances.shape)]
    return picture


def outlined(
    image: NDArray[Any], instances: NDArray[Any], classes: bool = False
) -> NDArray[np.uint8]:
    """Grey image with every instance's outline in its colour, ``[H, W, 3]`` uint8.

    Where ``instances`` are below 0 nothing is annotated: there it is hatched. ``classes`` as of
    `coloured`.
    """
    low, high = np.percentile(image, [0.5, 99.8])
    grey = np.clip((image - low) / max(high - low, 1e-9), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    edge = np.zeros(instances.shape, bool)
    for axis in range(instances.ndim):
        first = np.take(instances, range(instances.shape[axis] - 1), axis)
        second = np.take(instances, range(1, instances.shape[axis]), axis)
        differs = np.pad(first != second, [(0, a == axis) for a in range(instances.ndim)])
        edge |= differs | np.roll(differs, 1, axis)
    edge &= instances > 0
    picture[edge] = coloured(instances, classes)[edge]
    picture[hatched(instances < 0)] = np.array(HATCH) / 255
    return (picture * 255).round().astype(np.uint8)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a picture, whole or not at all, in a folder that is made if need be.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi, bbox_inches="tight")


def _count(instances: NDArray[Any]) -> int:
    return len(np.unique(instances[instances > 0]))


def _grey(axes: Axes, image: NDArray[Any], title: str) -> None:
    low, high = np.percentile(image, [0.5, 99.8])
    axes.imshow(image, cmap="gray", vmin=low, vmax=high)
    write_title(axes, title)


def write_title(axes: Axes, *lines: str, size: float | str = "large") -> None:
    """Lines with names above a picture; a ``$`` in a name is no formula."""
    axes.set_title("\n".join(map(printable, lines)), fontsize=size, parse_math=False)


def _without_ticks(figure: Figure) -> Figure:
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            axes.set_xticks([])
            axes.set_yticks([])
    return figure
