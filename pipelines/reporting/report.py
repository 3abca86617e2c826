"""One page for a run: curves, scores, and every image beside what was found in it.

The page is one HTML file that needs no network. It is a function of the files that a training or
an evaluation leaves in its folder, so it can be made again at any time.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.errors import DataError, printable
from overtile.pipelines.files import whole
from overtile.pipelines.metrics.score_names import DEFINITIONS, definition_of, name_of
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
from overtile.pipelines.reporting.predictions import COUNTS, ERRORS, SIDE, Layers, load
from overtile.pipelines.reporting.tables import (
    PREDICTIONS,
    REPORT,
    ROWS,
    Run,
    Scored,
    prediction_file,
    read_run,
)

VIEWED = 60  # images in the viewer, and stored, at most
BYTES = 24 * 2**20  # of their layers in the page, at most; the first three always are

_NO_CURVE = ("epoch", "iteration", "images_per_second")
_FILL, _LINE = 120, 255  # opacity of cells and their outlines over the image
# magma of matplotlib at 16 places, linear between: written out, since loading matplotlib is slow
_MAGMA = (
    *("000004", "0b0924", "20114b", "3b0f70", "57157e", "721f81", "8c2981", "a8327d"),
    *("c43c75", "de4968", "f1605d", "fa7f5e", "fe9f6d", "febf84", "fddea0", "fcfdbf"),
)


def write_report(
    folder: str | Path, output: str | Path | None = None, name: str | None = None
) -> Path:
    """Write the page of the run in ``folder``.

    Args:
        folder: of a training or an evaluation.
        output: the page; by default ``report.html`` in the folder.
        name: of the run; by default that of the folder.

    Raises:
        DataError: if the folder is missing or holds no results, a file in it is broken, or the page
            cannot be written there.
    """
    run = read_run(folder)
    run = run if name is None else replace(run, name=name)
    path = run.folder / REPORT if output is None else Path(output)
    if path.is_dir() or not path.parent.is_dir():
        found = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise DataError(path, found, "the name of a file to write")
    with whole(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        _write_page(run, file)
    return path


# --- the page -----------------------------------------------------------------------------------


def _write_page(run: Run, file: TextIO) -> None:
    template = (
        files("overtile.pipelines.reporting").joinpath("report.html").read_text(encoding="utf-8")
    )
    title = f"{printable(run.name)}: report"
    head, tail = template.split("<!-- DATA -->")
    head = head.replace("<!-- TITLE -->", html.escape(title))
    file.write(head.replace("<!-- POLICY -->", f'content="{_policy(template)}"'))
    viewed: dict[int, str] = {}
    classes: list[str] | None = None
    if run.scored is not None:
        for number, group, layers, block in _blocks(run.folder / PREDICTIONS, run.scored):
            viewed[number] = group
            classes = _more_classes(classes, layers)
            file.write(block)
    file.write(_block("run", _content(run, viewed) | {"classes": _coloured(classes)}))
    file.write(tail)


def _policy(template: str) -> str:
    """Nothing is loaded; only this page's own script and style run."""

    def digest(tag: str) -> str:
        text = template.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; img-src data:; style-src '{digest('style')}'; "
        f"script-src '{digest('script')}'; base-uri 'none'; form-action 'none'"
    )


def _block(name: str, content: Any) -> str:
    """JSON that no browser takes for anything else, whatever the names in it are."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _blocks(folder: Path, scored: Scored) -> Iterator[tuple[int, str, Layers, str]]:
    """Number, group, layers and their JSON of the images that the viewer has, one at a time."""
    written = 0
    for place, (number, group) in enumerate(scored.telling()[:VIEWED]):
        path = prediction_file(folder, number)
        if not path.exists():
            continue
        layers = load(path)
        if layers.name != scored.names[number]:
            raise DataError(
                path,
                f"of {layers.name}",
                f"{scored.names[number]} as in {ROWS}",
                "score again",
            )
        flat = layers.image.ndim == 2 and layers.classes is None
        block = _block(f"image-{number}", _pictures(layers) if flat else _arrays(layers))
        if place >= 3 and written + len(block) > BYTES:
            return
        written += len(block)
        yield number, group, layers, block


def _content(run: Run, viewed: dict[int, str]) -> dict[str, Any]:
    scored, summary = run.scored, run.summary
    classes = () if scored is None else scored.class_names
    of_scores = {k: definition_of(k, classes) for k in ({} if scored is None else scored.scores)}
    facts = []
    if isinstance(summary.get("best_epoch"), int):
        facts.append(["best epoch", str(summary["best_epoch"])])
    if isinstance(summary.get("training_seconds"), float | int):
        sitting = "training, last sitting" if summary.get("resumed") else "training"
        facts.append([sitting, f"{summary['training_seconds']:.0f} s"])
    if scored is not None and scored.network:
        facts.append(["network", printable(scored.network)])
    if scored is not None and scored.versions not in ("", "1"):
        facts.append(["averaged over", f"{scored.versions} versions"])
    content: dict[str, Any] = {
        "title": printable(run.name),
        "facts": facts,
        "history": _curves(run.history, classes),
        "best_epoch": summary.get("best_epoch"),
        "definitions": {k: d.sentence for k, d in (DEFINITIONS | of_scores).items() if d},
        "counts": COUNTS,
        "errors": [[kind, _hex(c)] for kind, c in ERROR_COLOURS.items()],
        "ramp": [f"#{colour}" for colour in _MAGMA],
        "hatch": _hex(HATCH),
        "metrics": [],
        "images": [],
    }
    if scored is not None:
        content |= {
            "kind": scored.kind,
            "metrics": [
                {
                    "id": name,
                    "name": name_of(name, classes),
                    "value": _value(value),
                    "signed": bool(told and told.signed),
                    "lower": scored.lower_is_better
                    if name == scored.key_metric
                    else bool(told and told.lower_is_better),
                    "key": name == scored.key_metric,
                }
                for (name, value), told in zip(
                    scored.scores.items(), of_scores.values(), strict=True
                )
            ],
            "images": [
                {
                    "name": short,
                    "scores": [_value(row.get(k, math.nan)) for k in scored.scores],
                    "group": viewed.get(number),
                }
                for number, (short, row) in enumerate(
                    zip(_short(scored.names), scored.rows, strict=True)
                )
            ],
            "note": _note(scored, viewed),
        }
    return content


def _more_classes(names: list[str] | None, layers: Layers) -> list[str] | None:
    """What the classes of the images so far are called, from 0 on; None of cells."""
    if layers.classes is None:
        return names
    found = [layers.classes] if layers.label is None else [layers.classes, layers.label]
    last = max(int(classes.max(initial=0)) for classes in found)
    count = max(len(names or ()), len(layers.class_names), last + 1)
    return [class_label(number, layers.class_names or names or ()) for number in range(count)]


def _coloured(names: list[str] | None) -> list[list[str]] | None:
    """Name and colour of each class from 1 on."""
    if names is None:
        return None
    colours = map(_hex, class_colours(len(names) - 1))
    return [[printable(name), colour] for name, colour in zip(names[1:], colours, strict=True)]


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _note(scored: Scored, viewed: dict[int, str]) -> str:
    """Which images the viewer has."""
    count, shown = len(scored.rows), len(viewed)
    if shown == count:
        return f"All {count} images." if count > 1 else "The only image."
    if not shown:
        return f"No predictions are stored in the folder {PREDICTIONS}: score again to see them."
    groups = list(viewed.values())
    parts = [
        f"the {groups.count(group)} {text}"
        for group, text in (("worst", "worst"), ("median", "around the median"), ("best", "best"))
        if group in groups
    ]
    if "" in groups:
        parts.append(f"{groups.count('')} without a score")
    said = ", ".join(parts[:-1]) + (" and " if parts[:-1] else "") + parts[-1]
    by = f" by {name_of(scored.key_metric, scored.class_names)}" if scored.key_metric else ""
    return f"{shown} of {count} images: {said}{by}. The table has all."


def _curves(
    history: Sequence[dict[str, float]], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Each measured column with its points (epoch, value): loss, validation, then the rest."""
    columns = [k for k in (history[0] if history else ()) if k not in _NO_CURVE]
    columns.sort(key=lambda k: (k != "train_loss", not k.startswith("val_")))
    curves = []
    for column in columns:
        points = [(int(row["epoch"]), row[column]) for row in history]
        metric = column.removeprefix("val_")
        name = name_of(metric, class_names) + (", validation" if metric != column else "")
        points = [p for p in points if math.isfinite(p[1])]
        if points:
            curves.append({"id": metric, "name": name.replace("_", " "), "points": points})
    return curves


def _value(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(names: Sequence[str]) -> list[str]:
    """Paths without the folder that all of them share."""
    if len(set(map(os.path.isabs, names))) != 1:
        return list(names)
    common = os.path.commonpath([os.path.dirname(n) for n in names])  # noqa: PTH120
    return [os.path.relpath(n, common) if common else n for n in names]


# --- pictures -----------------------------------------------------------------------------------


def _pictures(layers: Layers) -> dict[str, Any]:
    """The layers as data URIs: the image, and what lies over it, transparent where nothing is."""
    drawn = {"image": _png(layers.image)}
    height, width = layers.image.shape
    below = None
    for name in ("label", "instances"):
        cells = getattr(layers, name)
        if cells is not None:
            colours = numbered_colours(cells, below)
            below = below or (cells, colours)
            gaps = layers.gaps if name == "label" else None
            drawn[name] = _png(*_filled(cells, colours, gaps))
    if layers.probability is not None:
        drawn["probability"] = _png(layers.probability, _magma())
    if layers.errors is not None and layers.label is not None:
        lines = np.where(outline(layers.label) & (layers.errors == 0), len(ERRORS), layers.errors)
        if layers.gaps is not None:
            lines[hatched(layers.gaps > 0)] = len(ERRORS) + 1
        colours_of_errors = [(*ERROR_COLOURS[kind], 200) for kind in ERRORS[1:]]
        drawn["errors"] = _png(
            lines.astype(np.uint8),
            [(0, 0, 0, 0), *colours_of_errors, (255, 255, 255, 130), (*HATCH, _LINE)],
        )
    return {"width": width, "height": height, **_told(layers), "layers": drawn}


def _arrays(layers: Layers) -> dict[str, Any]:
    """The numbers of a volume, or of classes, for the page to draw sections and classes of."""
    arrays = {"image": _packed(layers.image, differences=True)}
    colours: list[str] | None = None
    if layers.classes is not None:
        arrays["classes"] = _packed(layers.classes)
        if layers.label is not None:
            arrays["label"] = _packed(layers.label.astype(np.uint8))
    else:
        below = None
        top = 0
        for name in ("label", "instances"):
            cells = getattr(layers, name)
            if cells is not None:
                numbers = numbered_colours(cells, below)
                below = below or (cells, numbers)
                top = max(top, int(numbers.max(initial=0)))
                arrays[name] = _packed(numbers)
        colours = [_hex(c) for c in palette(top)]
        if layers.probability is not None:
            arrays["probability"] = _packed(layers.probability, differences=True)
        if layers.errors is not None:
            arrays["errors"] = _packed(layers.errors)
    if layers.gaps is not None:
        arrays["gaps"] = _packed(layers.gaps)
    grid, dims = layers.grid, layers.image.ndim
    before = 3 - dims  # an image is a volume of one section
    return {
        "volume": dims == 3,
        "shape": [1] * before + list(layers.image.shape),
        "size": [1] * before + list(layers.size),
        "spacing": [1.0] * before + list(grid.spacing),
        "upwards": [False] * before + list(grid.upwards),
        "axes": "Z" * before + grid.axes,
        "first": [0] * before + [layers.telling(axis) for axis in range(dims)],
        "colours": colours,
        **_told(layers),
        "arrays": arrays,
    }


def _told(layers: Layers) -> dict[str, Any]:
    """What is said beside the pictures."""
    notes = []
    if layers.gaps is not None:
        notes.append("hatched: not annotated, and not scored")
    if layers.size != layers.image.shape:
        if len(layers.size) == 2:
            before = f"{layers.size[1]}x{layers.size[0]}"
            notes.append(f"scaled down from {before} to at most {SIDE} pixels a side")
        else:
            before, after = ("x".join(map(str, n)) for n in (layers.size, layers.image.shape))
            notes.append(f"thinned from {before} to {after} voxels ({layers.grid.axes})")
    counts = [layers.counts[name] for name in COUNTS] if layers.counts else None
    return {"note": "; ".join(notes), "counts": counts}


def _packed(numbers: NDArray[np.uint8], differences: bool = False) -> str:
    """Deflated, in base64; of what is smooth the difference from one pixel to the next."""
    flat = np.ascontiguousarray(numbers, np.uint8).ravel()
    if differences:
        flat = np.diff(flat, prepend=np.uint8(0))  # modulo 256
    return base64.b64encode(zlib.compress(flat.tobytes(), 9)).decode()


def _filled(
    cells: NDArray[Any], colours: NDArray[np.uint8], gaps: NDArray[Any] | None
) -> tuple[NDArray[np.uint8], list[tuple[int, ...]]]:
    """Cells filled faintly, outlined fully, gaps hatched: numbers and the colour of each number."""
    count = min(int(colours.max(initial=0)), 127)
    numbers = np.where(colours > count, 1, colours)
    numbers = np.where(outline(cells), numbers + count, numbers).astype(np.uint8)
    own = palette(count)
    known = [(0, 0, 0, 0), *((*c, _FILL) for c in own), *((*c, _LINE) for c in own)]
    if gaps is not None:
        numbers[hatched(gaps > 0)] = len(known)
    return numbers, [*known, (*HATCH, _LINE)]


def _magma() -> list[tuple[int, ...]]:
    known = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in _MAGMA])
    places = np.linspace(0, len(known) - 1, 256)
    channels = [np.interp(places, range(len(known)), known[:, c]) for c in range(3)]
    rounded = np.rint(np.stack(channels, axis=1)).astype(int)
    return [(r, g, b, 255) for r, g, b in rounded.tolist()]


def _png(numbers: NDArray[np.uint8], colours: Sequence[tuple[int, ...]] | None = None) -> str:
    """A data URI: grey values, or indices into colours (red, green, blue, opacity)."""
    picture = Image.fromarray(numbers)
    options: dict[str, Any] = {}
    if colours is not None:
        picture.putpalette([channel for colour in colours for channel in colour[:3]])
        if any(colour[3] < 255 for colour in colours):
            options["transparency"] = bytes(colour[3] for colour in colours)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
