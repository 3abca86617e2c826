"""`overtile data`: look at data sets of labelled images, and make some."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import click

from overtile.pipelines.cli.options import (
    Command,
    Size,
    channels_option,
    examples,
    is_,
    loudness,
    note,
)
from overtile.pipelines.data.layouts import all_layouts
from overtile.pipelines.data.write import check_format, check_target, write_data, written_layouts
from overtile.pipelines.errors import DataError, as_argument, printable
from overtile.pipelines.interrupts import check_interrupt
from overtile.pipelines.notices import kept_warnings

Item = TypeVar("Item")


@click.group(
    epilog=examples(
        "overtile data look nuclei", "overtile data synth cells --train 8 --val 2 --test 2"
    )
)
@loudness
def data() -> None:
    """Look at data sets of labelled images, and make some."""


@data.command(
    cls=Command,
    epilog=examples(
        "overtile data look nuclei",
        "overtile data look stack --labels mask --json",
        "overtile data look colour --channels luminance --picture sheet.png",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["auto", *all_layouts()]),
    default="auto",
    show_default=True,
    help="How the files lie; auto looks.",
)
@click.option(
    "--labels",
    type=click.Choice(["instances", "mask", "membranes", "classes"]),
    default="instances",
    show_default=True,
    help="One number a cell; cells are what is not 0; the same, of two values; one number a class.",
)
@click.option(
    "--class-names",
    "--class_names",
    metavar="A,B,...",
    help="Of classes, from 0 on; without: of dataset.json, else numbers.",
)
@click.option(
    "--spatial-dims",
    "--spatial_dims",
    type=click.Choice(["2", "3"]),
    default="2",
    show_default=True,
    help="Take volumes plane by plane, or whole.",
)
@channels_option
@click.option(
    "--ignore",
    type=int,
    metavar="N",
    help="The value of labels at pixels that are not annotated.",
)
@click.option(
    "--unlabelled",
    type=click.Choice(["background", "ignore", "band"]),
    default="background",
    show_default=True,
    help="What 0 in labels means; band: background near to cells, else not annotated.",
)
@click.option(
    "--band",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="PIXELS",
    help="How near that is.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Where the contact sheet goes.  [default: NAME-look.png, here]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@loudness
def look(
    folder: Path,
    layout: str,
    labels: str,
    class_names: str | None,
    spatial_dims: str,
    channels: int | str | tuple[int | str, ...] | None,
    ignore: int | None,
    unlabelled: str,
    band: float,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Say what the images and labels in DIR are, and which files deserve a look."""
    if not folder.is_dir():
        raise DataError(folder, "no such folder", hint="give one that holds images")
    picture = picture or Path(f"{folder.resolve().name}-look.png")
    if picture.suffix.lower() not in _PICTURES:
        raise DataError(picture, expected=f"a file ending in {', '.join(_PICTURES)}")
    if not picture.parent.is_dir():
        hint = ("make it", "name another")
        raise DataError(picture, f"no folder {picture.parent}", hint=hint)

    from overtile.pipelines.images.annotation import Annotation
    from overtile.pipelines.reporting.look import as_text
    from overtile.pipelines.reporting.look import look as look_at

    annotation = Annotation(ignore, unlabelled, band)
    names = None if class_names is None else [name.strip() for name in class_names.split(",")]
    dims = int(spatial_dims)
    found = look_at(folder, layout, labels, dims, channels, picture, annotation, names)
    command = click.get_current_context().command
    wording = command.worded if isinstance(command, Command) else as_argument
    if as_json:
        told = {**found.as_dict(wording), "warnings": kept_warnings()}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(as_text(found, wording, "--json lists all"))
    if found.picture and not is_("quiet") and not as_json:
        click.echo(f"\n  {'contact sheet':<14}  {printable(found.picture)}")


_PICTURES = (".png", ".jpg", ".pdf", ".svg")
_COUNT = click.IntRange(0, 100_000)
_WRITTEN = written_layouts()
_FORMATS = list(dict.fromkeys(format for formats in _WRITTEN.values() for format in formats))


@data.command(
    cls=Command,
    epilog=examples(
        "overtile data synth cells",
        "overtile data synth tissue --kind membranes --layout stack --size 512",
        "overtile data synth nuclei --layout kaggle --train 8 --val 0 --test 2 --seed 7",
        "overtile data synth series --format dicom --train 2 --val 1 --test 0 --json",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(["cells", "membranes"]),
    default="cells",
    show_default=True,
    help="Touching cells (fluorescence), or neural tissue (electron microscopy).",
)
@click.option(
    "--layout",
    type=click.Choice(list(_WRITTEN)),
    default="pairs",
    show_default=True,
    help="How the files lie. A stack of membranes is made of consecutive sections.",
)
@click.option(
    "--format",
    type=click.Choice(_FORMATS),
    help="Of the images: tif (kaggle: png) by default; pairs has all of them.",
)
@click.option("--train", type=_COUNT, default=24, show_default=True, help="Training images.")
@click.option("--val", type=_COUNT, default=4, show_default=True, help="Validation images.")
@click.option("--test", type=_COUNT, default=16, show_default=True, help="Test images.")
@click.option(
    "--size",
    metavar="HxW",
    type=Size(),
    default="256x256",
    show_default=True,
    help="Height and width in pixels.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="The same seed gives the same pixels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@loudness
def synth(
    folder: Path,
    kind: str,
    layout: str,
    format: str | None,
    train: int,
    val: int,
    test: int,
    size: tuple[int, int],
    seed: int,
    as_json: bool,
) -> None:
    """Make microscope-like images with labels in DIR, a new or empty folder.

    A split of 0 images is left out. Stopped half-way, the command leaves nothing behind.
    """
    format = check_format(layout, format)
    counts = {s: n for s, n in (("train", train), ("val", val), ("test", test)) if n}
    if not counts:
        raise click.UsageError("--train, --val and --test are all 0; expected at least one image")
    check_target(folder)
    note(f"making {sum(counts.values())} images of {size[0]}x{size[1]} pixels from seed {seed}")

    from tqdm import tqdm

    from overtile.pipelines.data.synthesis.datasets import generate

    splits = generate(kind, counts, size, seed, consecutive=layout == "stack")
    off = True if is_("quiet") else None  # None: off where stderr is no terminal
    with tqdm(total=sum(counts.values()), unit="image", delay=0.5, disable=off) as bar:

        def counted(items: Iterable[Item]) -> Iterator[Item]:
            for item in items:
                check_interrupt()
                yield item
                bar.update()

        write_data(folder, {s: counted(p) for s, p in splits.items()}, layout, format, kind)
    made = {
        "folder": str(folder),
        "kind": kind,
        "layout": layout,
        "format": format,
        "size": size,
        "seed": seed,
        "images": counts,
    }
    if as_json:
        click.echo(json.dumps(made, indent=2))
    elif not is_("quiet"):
        parts = ", ".join(f"{split} {count}" for split, count in counts.items())
        click.echo(
            f"{printable(folder)}: {parts} images of {kind}; layout {layout}, format {format}"
        )
