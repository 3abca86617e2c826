"""Say what a folder of images holds, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from overtile.pipelines.data.cache_folder import default_cache
from overtile.pipelines.data.classes import annotation_of
from overtile.pipelines.data.classes import class_names as class_names_of
from overtile.pipelines.data.facts import SPECK, FactBook, ImageFacts, Item, LabelFacts
from overtile.pipelines.data.find import items_of
from overtile.pipelines.data.label_kinds import label_faults
from overtile.pipelines.data.layouts import find_pairs
from overtile.pipelines.data.names import log_remarks
from overtile.pipelines.data.spacing import spread
from overtile.pipelines.data.unlabelled import images_in
from overtile.pipelines.errors import (
    DataError,
    UnknownLayoutError,
    Wording,
    as_argument,
    printable,
)
from overtile.pipelines.images.annotation import Annotation
from overtile.pipelines.images.channels import Channels, check_channels, takes_several
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.read import number_cells, read_image, read_label
from overtile.pipelines.metrics.sections import sections_first
from overtile.pipelines.reporting.figures import name_classes, outlined, save, write_title
from overtile.pipelines.reporting.grid import fullest_section, grid_of

_SHEET = 12  # images on the contact sheet
_VOLUMES = 4  # on one of volumes
_TITLE = 26  # letters that fit above an image
_SHOWN = 4  # remarks of one kind


class ClassCount(NamedTuple):
    """How much there is of a class.

    Attributes:
        pixels: of it, voxels in volumes, over all labels.
        pieces: connected ones.
        labels: that have it.
        lacking: labels that do not.
    """

    pixels: int
    pieces: int
    labels: int
    lacking: int


@dataclass
class Look:
    """What was found in a folder.

    Attributes:
        folder: that was looked at.
        layout: ``""`` if there are images without labels alone.
        images: number of images by split.
        sizes: how many images have which size.
        dtypes: how many image files have which type of pixels.
        channels: how many images have which channels, where they have several or named ones.
        spacings: how many images state which pixel size.
        spread: median, smallest and largest pixel size along each axis, and how many state none;
            empty where all are alike.
        instances: cells over all labels; in masks their connected components.
        per_image: fewest, median and most cells of an image.
        median_size: pixels of the median cell (in masks: the mean cell) of the median image.
        touching: pairs of cells that touch.
        cell_fraction: share of the annotated pixels that are cell, in [0, 1].
        ignored_fraction: share of the pixels of labels that are not annotated, in [0, 1].
        classes: of each class but the background how much of it there is.
        volumes: whether these are volumes, of voxels.
        suspicious: files that deserve a look, and why.
        picture: the contact sheet; None without one.
    """

    folder: str
    layout: str
    images: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    spacings: dict[str, int] = field(default_factory=dict)
    spread: str = ""
    instances: int = 0
    per_image: tuple[int, int, int] = (0, 0, 0)
    median_size: int = 0
    touching: int = 0
    cell_fraction: float = 0.0
    ignored_fraction: float = 0.0
    classes: dict[str, ClassCount] = field(default_factory=dict)
    volumes: bool = False
    suspicious: list[DataError] = field(default_factory=list)
    picture: str | None = None

    def as_dict(self, wording: Wording = as_argument) -> dict[str, Any]:
        """For JSON."""
        classes = {name: count._asdict() for name, count in self.classes.items()}
        suspicious = [r.worded(wording) for r in self.suspicious]
        return {**asdict(self), "classes": classes, "suspicious": suspicious}


def look(
    folder: str | Path,
    layout: str = "auto",
    labels: str = "instances",
    spatial_dims: int = 2,
    channels: Channels = None,
    picture: str | Path | None = None,
    annotation: Annotation | None = None,
    class_names: Sequence[str] | None = None,
) -> Look:
    """Look at every file of a folder.

    Args:
        folder: labelled images in any layout, or images alone.
        layout: as of `overtile.pipelines.data.find.find_data`.
        labels: as of `find_data`.
        spatial_dims: as of `find_data`.
        channels: as of `find_data`.
        picture: file for a contact sheet; None draws none.
        annotation: which pixels of labels are annotated; None: all.
        class_names: as of `find_data`.

    Raises:
        DataError: if there is nothing, or images and labels do not belong together.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(root, "no such folder", hint="give one that holds images")
    annotation = annotation_of(root, labels, annotation or Annotation())
    facts = FactBook(default_cache(), root, spatial_dims, channels, annotation)
    found = Look(str(root), "", volumes=spatial_dims == 3)
    try:
        found.layout, pairs = find_pairs(root, layout)
    except UnknownLayoutError:
        if layout != "auto":
            raise
        items = {"unlabelled": images_in(root, spatial_dims)}
    else:
        items = {}
        for split, members in pairs.items():
            items[split] = []
            for pair in tqdm(members, desc=split, delay=2, leave=False, disable=None):
                try:
                    items[split] += items_of(pair, facts)
                except DataError as error:
                    found.suspicious.append(error)
    seen: list[tuple[Item, ImageFacts, LabelFacts | None]] = []
    for split, members_of_it in items.items():
        found.images[split] = 0
        for item in tqdm(members_of_it, desc=split, delay=2, leave=False, disable=None):
            try:
                image = facts.image(item["image"])
                label = facts.label(**item) if "label" in item else None
            except DataError as error:
                found.suspicious.append(error)
                continue
            found.images[split] += 1
            seen.append((item, image, label))
    if not seen:
        raise found.suspicious[0].within(f"nothing in {root} can be read")
    _sum_up(found, seen, labels)
    known = {item["label"]: label for item, _, label in seen if label is not None}
    classes: tuple[str, ...] = ()
    train = [i["label"] for i in items.get("train", []) if i["label"] in known]
    if labels == "classes" and train:
        try:  # others are compared with those that train
            of_train = [(Path(label), known[label]) for label in train]
            classes = class_names_of(root, class_names, of_train, annotation.ignore)
        except DataError as error:
            found.suspicious.append(error)
        found.classes = _table_of(classes, list(known.values()))
    faults = [
        fault
        for members in items.values()
        for fault in label_faults(
            {i["label"]: known[i["label"]] for i in members if i.get("label") in known},
            labels,
            classes,
        )
    ]
    found.suspicious += faults
    found.suspicious += _suspicions(seen, labels, facts, {fault.where for fault in faults})
    log_remarks(facts.remarks)
    facts.save()
    if picture is not None:
        splits = [split for split, count in found.images.items() for _ in range(count)]
        named = splits if len(items) > 1 else [""] * len(seen)
        shown = [(item, split) for (item, _, _), split in zip(seen, named, strict=True)]
        draw = _contact_sheet if spatial_dims == 2 else _sheet_of_sections
        sheet = draw(shown, labels, channels, annotation)
        if found.classes:
            name_classes(sheet, list(found.classes))
        save(sheet, Path(picture), dpi=80)
        found.picture = str(picture)
    return found


def _sum_up(
    found: Look, seen: Sequence[tuple[Item, ImageFacts, LabelFacts | None]], labels: str
) -> None:
    images = [image for _, image, _ in seen]
    found.sizes = dict(Counter("x".join(map(str, i.shape)) for i in images).most_common())
    found.dtypes = dict(Counter(i.dtype for i in images).most_common())
    told = [", ".join(i.channel_names) or str(i.channels) for i in images]
    found.channels = dict(Counter(told).most_common()) if {*told} != {"1"} else {}
    found.spacings = dict(Counter(i.spacing for i in images if i.spacing).most_common())
    steps = [i.spacing_mm for i in images if i.spacing_mm]
    if steps and len({i.spacing_mm for i in images}) > 1:
        lacking = len(images) - len(steps)
        told = [spread(steps)] + [f"{lacking} of {len(images)} state none"] * (lacking > 0)
        found.spread = "; ".join(told)
    known = [label for _, _, label in seen if label is not None]
    if not known:
        return
    cells = [f.components if labels != "instances" else f.names for f in known]
    found.instances = sum(cells)
    found.per_image = (min(cells), int(np.median(cells)), max(cells))
    sizes = [f.cells // max(f.components, 1) if labels != "instances" else f.median for f in known]
    found.median_size = int(np.median(sizes))
    found.touching = 0 if labels != "instances" else sum(f.touching for f in known)
    pixels = sum(f.background + f.cells for f in known)
    ignored = sum(f.ignored for f in known)
    found.cell_fraction = sum(f.cells for f in known) / max(pixels, 1)
    found.ignored_fraction = ignored / max(pixels + ignored, 1)


def _suspicions(
    seen: Sequence[tuple[Item, ImageFacts, LabelFacts | None]],
    labels: str,
    facts: FactBook,
    refused: Collection[str],
) -> list[DataError]:
    """What deserves a look, beside labels that are ``refused`` already."""
    found = []
    by_content: dict[str, Path] = {}
    for item, image, label in seen:
        name = item["image"]
        if image.low == image.high:
            seen_there = f"every pixel is {image.low:g}"
            found.append(DataError(Path(name), seen_there, "grey values that differ"))
        plane = Plane.of(name)
        file = plane.file
        if plane.number in (None, 0):
            twin = by_content.setdefault(facts.sha256(file), file)
            if twin != file:
                found.append(DataError(file, ("the same bytes as", twin), "images that differ"))
        if label is None:
            continue
        where = Path(item["label"])
        if not label.cells:
            what = "no class but background" if labels == "classes" else "no cell"
            found.append(DataError(where, what, "at least one"))
        if not label.background:
            found.append(DataError(where, "no background", "0 where no cell is"))
        if labels == "instances" and label.split and str(where) not in refused:
            places = f"{label.split} of {label.names} numbers in several places"
            found.append(DataError(where, places, "a number of its own for every cell"))
        if labels == "instances" and 0 < label.smallest < SPECK:
            speck = f"a cell of {label.smallest} pixels"
            found.append(DataError(where, speck, f"{SPECK} pixels or more"))
    return found


def _table_of(classes: Sequence[str], labels: Sequence[LabelFacts]) -> dict[str, ClassCount]:
    """Each class but the background."""
    most = max((len(f.counts) for f in labels), default=0)
    names = [*classes, *map(str, range(len(classes), most))]

    def of(number: int) -> ClassCount:
        having = [f for f in labels if number < len(f.counts) and f.counts[number]]
        pixels, pieces = (sum(getattr(f, n)[number] for f in having) for n in ("counts", "parts"))
        return ClassCount(pixels, pieces, len(having), len(labels) - len(having))

    return {name: of(number) for number, name in enumerate(names) if number}


def _chosen(items: Sequence[tuple[Item, str]], most: int) -> list[tuple[Item, str]]:
    """Some, evenly spread."""
    count = min(len(items), most)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _contact_sheet(
    items: Sequence[tuple[Item, str]], labels: str, channels: Channels, annotation: Annotation
) -> Figure:
    """Some images, evenly chosen, with the outlines of their cells; of several splits with each.

    Gaps are hatched.
    """
    chosen = _chosen(items, _SHEET)
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.4 * rows), layout="constrained")
    for place, (item, split) in enumerate(chosen, start=1):
        image = _shown(read_image(item["image"], channels=channels)[0], channels)
        cells = _label_of(item, labels, annotation)
        axes = figure.add_subplot(rows, columns, place)
        label = np.zeros(image.shape, int) if cells is None else cells
        axes.imshow(outlined(image, label, labels == "classes"))
        told = [split] if split else []
        told += [] if cells is None else [_counted(cells, labels)]
        more = [", ".join(told)] if told else []
        write_title(axes, _short(Path(item["image"]).name), *more, size=9)
        axes.set_axis_off()
    return figure


def _sheet_of_sections(
    items: Sequence[tuple[Item, str]], labels: str, channels: Channels, annotation: Annotation
) -> Figure:
    """Some volumes, each by sections across its three axes, in its proportions.

    These are the middle ones; of classes those with most of the label.
    """
    chosen = _chosen(items, _VOLUMES)
    figure = Figure(figsize=(9.6, 3.4 * len(chosen)), layout="constrained")
    rows = figure.subplots(len(chosen), 3, squeeze=False)
    for axes, (item, split) in zip(rows, chosen, strict=True):
        image, meta = read_image(item["image"], 3, channels)
        image = _shown(image, channels)
        cells = _label_of(item, labels, annotation, 3)
        label = np.zeros(image.shape, int) if cells is None else cells
        grid = grid_of(meta, 3)
        image, label = (sections_first(a, meta["axes"]) for a in (image, label))
        for axis, (shown, letter) in enumerate(zip(axes, grid.axes, strict=True)):
            place = image.shape[axis] // 2
            if labels == "classes":  # the middle may hold none of them
                place = fullest_section(np.maximum(label, 0), axis)
            grey, drawn = (grid.section(a, axis, place) for a in (image, label))
            picture = outlined(grey, drawn, labels == "classes")
            shown.imshow(picture, aspect=grid.aspect(axis))
            told = ["", split, _counted(label, labels)][axis]
            title = ", ".join(filter(None, [f"{letter} = {place}", told]))
            write_title(shown, _short(Path(item["image"]).name), title, size=9)
            shown.set_axis_off()
    return figure


def _shown(image: NDArray[Any], channels: Channels) -> NDArray[Any]:
    """Of several channels the first."""
    first: NDArray[Any] = image[0] if takes_several(check_channels(channels)) else image
    return first


def _short(name: str) -> str:
    return name if len(name) <= _TITLE else f"{name[: _TITLE - 9]}…{name[-8:]}"


def _counted(label: NDArray[Any], labels: str) -> str:
    count = len(np.unique(label[label > 0]))
    if labels == "classes":
        return f"{count} class{'es' * (count != 1)}"
    return f"{count} cell{'s' * (count != 1)}"


def _label_of(
    item: Item, labels: str, annotation: Annotation, spatial_dims: int = 2
) -> NDArray[Any] | None:
    if "label" not in item:
        return None
    array = read_label(item["label"], spatial_dims, item["image"], annotation)[0]
    return array if labels in ("instances", "classes") else number_cells(array)


def _class_rows(found: Look) -> list[tuple[str, str]]:
    """The table of classes: numbers below each other."""
    unit = "voxels" if found.volumes else "pixels"
    pixels, pieces = (
        max(len(str(getattr(c, part))) for c in found.classes.values())
        for part in ("pixels", "pieces")
    )
    rows = []
    for name, count in found.classes.items():
        told = f"{count.pixels:{pixels}} {unit} in {count.pieces:{pieces}} piece"
        told += "s" * (count.pieces != 1)
        if count.lacking:
            told += f"; {count.lacking} of {count.labels + count.lacking} lack it"
        rows.append((f"class {printable(name)}", told))
    return rows


def as_text(
    found: Look, wording: Wording = as_argument, all_of_them: str = "suspicious has all"
) -> str:
    """What was found, for people.

    Args:
        found: by `look`.
        wording: of the front end.
        all_of_them: where this user finds the remarks that are not shown, as there are many alike.
    """

    def counted(values: dict[str, int]) -> str:
        shown = [f"{name} ({n})" for name, n in list(values.items())[:6]]
        return ", ".join(shown) + (f" and {len(values) - 6} more" if len(values) > 6 else "")

    rows = [("layout", found.layout or "images without labels")]
    rows += [("images", ", ".join(f"{n} {split}" for split, n in found.images.items()))]
    rows += [("sizes", counted(found.sizes)), ("pixels", counted(found.dtypes))]
    if found.channels:
        rows += [("channels", counted(found.channels))]
    if found.spacings:
        rows += [("pixel size", counted(found.spacings))]
    if found.spread:
        rows += [("spacing", f"median {found.spread}")]
    if found.classes:
        rows += _class_rows(found)
    elif found.layout:
        few, middle, many = found.per_image
        rows += [
            ("cells", f"{found.instances}; {few} to {many} an image, median {middle}"),
            ("cell area", f"{found.median_size} pixels, median"),
            ("touching pairs", str(found.touching)),
            ("class balance", f"{found.cell_fraction:.1%} cell, {1 - found.cell_fraction:.1%} not"),
        ]
    if found.ignored_fraction:
        rows += [("not annotated", f"{found.ignored_fraction:.1%} of the pixels")]
    count = len(found.suspicious)
    remarks = f"{count} remark{'s' if count > 1 else ''}" if count else "nothing"
    rows.append(("suspicious", remarks))
    width = max(14, *(min(len(name), _TITLE) for name, _ in rows))
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    kinds: dict[tuple[object, ...], list[str]] = {}
    for remark in found.suspicious:  # what differs within a kind is what was found, and where
        kind = (type(remark), remark.expected, remark.hint)
        kinds.setdefault(kind, []).append(remark.worded(wording))
    for alike in kinds.values():
        lines += [f"    {line}" for line in alike[:_SHOWN]]
        if len(alike) > _SHOWN:
            lines.append(f"    and {len(alike) - _SHOWN} like that ({all_of_them})")
    return "\n".join(lines)
