"""The command ``overtile``: what a bundle's own commands cannot do.

Whatever takes long to import is imported where a command needs it, after its arguments were
checked: help and mistakes answer at once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import webbrowser
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from overtile import __version__
from overtile.pipelines.data.writing import FORMATS, check_format, check_target, write_data
from overtile.pipelines.errors import ConfigurationError, DataError, OvertileError, exit_with
from overtile.pipelines.interrupts import check_interrupt, remembered

Item = TypeVar("Item")
_SIDES = range(16, 16385)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``overtile`` and ``python -m overtile.pipelines``; returns the exit code.

    0 is success and 130 Ctrl-C. A user's mistake raises SystemExit(2) after one line on stderr.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a broken file is told in one line
    try:
        with remembered():
            code: int | None = overtile.main(arguments, prog_name="overtile", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        exit_with(OvertileError(_mistake(error)))
    except (OvertileError, click.ClickException) as error:
        exit_with(error)
    except OSError as error:
        exit_with(OvertileError(f"{error.filename or 'a file'}: {error.strerror or error}"))
    except click.Abort as stop:  # click's name for Ctrl-C
        print("overtile: interrupted", *(stop.__cause__ or stop).args, sep="; ", file=sys.stderr)
        return 130
    return code or 0


def _mistake(error: click.UsageError) -> str:
    """What was mistyped, the nearest thing that exists, and where to read on."""
    text = error.format_message()
    if isinstance(error, click.NoSuchOption | click.NoSuchCommand) and error.possibilities:
        text = f"{error.message} Did you mean {error.possibilities[0]!r}?"
    return f"{text} (see: {error.ctx.command_path} --help)" if error.ctx else text


def _volume(context: click.Context, option: click.Parameter, given: bool) -> None:
    """Keep what ``--quiet`` or ``--verbose`` said, wherever in the line it stood."""
    if given and context.meta.setdefault(__name__, option.name) != option.name:
        raise click.UsageError("--quiet and --verbose exclude each other", context)


def _loudness(command: Callable[..., None]) -> Callable[..., None]:
    """The two options that every command has."""
    given: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _volume}
    verbose = click.option("-v", "--verbose", help="Say on stderr what is done.", **given)
    quiet = click.option("-q", "--quiet", help="Print only what was asked for.", **given)
    return quiet(verbose(command))


def _is(loudness: str) -> bool:
    return bool(click.get_current_context().meta.get(__name__) == loudness)


def _note(text: str) -> None:
    if _is("verbose"):
        click.echo(f"overtile: {text}", err=True)


def _examples(*lines: str) -> str:
    """What the help of a command ends with; the mark keeps click from filling the lines."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class _Size(click.ParamType[tuple[int, int]]):
    """``256x320`` (height x width), or ``256`` for a square."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Height and width in pixels."""
        sides = str(value).lower().split("x")
        if len(sides) > 2 or not all(s.isdecimal() and int(s) in _SIDES for s in sides):
            self.fail(
                f"{value!r}; expected height x width, each {_SIDES[0]} to {_SIDES[-1]}, "
                "e.g. 256x320",
                param,
                ctx,
            )
        return int(sides[0]), int(sides[-1])


@click.group(
    epilog=_examples(
        "overtile data look DIR",
        "overtile data synth cells",
        "overtile show runs/touching_cells",
        "overtile segment slide.tif nuclei.ome.zarr --bundle runs/touching_cells",
        "overtile label --studies DIR",
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="overtile", message="%(prog)s %(version)s")
@_loudness
def overtile() -> None:
    """Beside the bundles: look at data and runs, segment large images, annotate.

    Training, and the segmentation of folders of images, are the bundles' commands
    (python -m monai.bundle run ...).
    """


@overtile.command(
    epilog=_examples(
        "overtile show runs/touching_cells", "overtile show runs/touching_cells --json"
    )
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_loudness
def show(run: Path, as_json: bool) -> None:
    """Print the results of the finished run in folder RUN, and where to look."""
    from overtile.pipelines.reporting.summary import print_summary, read_summary

    summary = read_summary(run)
    _note(f"read {run / 'summary.json'}")
    if as_json:
        click.echo(json.dumps({"run": str(run), **summary}, indent=2))
    else:
        print_summary(summary, run)


@overtile.command(
    epilog=_examples(
        "overtile report runs/touching_cells",
        "overtile report evaluated --output page.html --open",
    )
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="The page.  [default: RUN/report.html]"
)
@click.option("--open/--no-open", "show_it", help="Open the page in the browser.")
@_loudness
def report(run: Path, output: Path | None, show_it: bool) -> None:
    """Make one HTML page of the training or evaluation in folder RUN."""
    if not run.is_dir():
        raise DataError(f"{run}: no such folder; give that of a training or an evaluation")

    from overtile.pipelines.reporting.report import write_report

    path = write_report(run, output)
    if not _is("quiet"):
        click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if show_it and not webbrowser.open(path.resolve().as_uri()):
        raise ConfigurationError(f"{path}: no browser found; open it by hand")


@overtile.group(
    epilog=_examples(
        "overtile data look nuclei", "overtile data synth cells --train 8 --val 2 --test 2"
    )
)
@_loudness
def data() -> None:
    """Look at data sets of labelled images, and make some."""


@data.command(
    epilog=_examples(
        "overtile data look nuclei",
        "overtile data look stack --labels mask --json",
        "overtile data look colour --channel luminance --picture sheet.png",
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["auto", *FORMATS, "annotated"]),
    default="auto",
    show_default=True,
    help="How the files lie; auto looks.",
)
@click.option(
    "--labels",
    type=click.Choice(["instances", "mask", "membranes"]),
    default="instances",
    show_default=True,
    help="One number a cell; cells are what is not 0; the same, of two values.",
)
@click.option(
    "--spatial-dims",
    "--spatial_dims",
    type=click.Choice(["2", "3"]),
    default="2",
    show_default=True,
    help="Take volumes plane by plane, or whole.",
)
@click.option("--channel", metavar="N|luminance", help="Of several channels, the one to take.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Where the contact sheet goes.  [default: NAME-look.png, here]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_loudness
def look(
    folder: Path,
    layout: str,
    labels: str,
    spatial_dims: str,
    channel: str | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Say what the images and labels in DIR are, and which files deserve a look."""
    number = _channel(channel)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one that holds images")
    picture = picture or Path(f"{folder.resolve().name}-look.png")
    if picture.suffix.lower() not in _PICTURES:
        raise DataError(f"{picture}: expected a file ending in {', '.join(_PICTURES)}")
    if not picture.parent.is_dir():
        raise DataError(f"{picture}: no folder {picture.parent}; make it, or name another")

    from overtile.pipelines.reporting.look import as_text
    from overtile.pipelines.reporting.look import look as look_at

    found = look_at(folder, layout, labels, int(spatial_dims), number, picture)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        click.echo(as_text(found))
    if found.picture and not _is("quiet") and not as_json:
        click.echo(f"\n  {'contact sheet':<14}  {found.picture}")


def _channel(given: str | None) -> int | str | None:
    """What ``--channel`` names."""
    if given not in (None, "luminance") and not str(given).isdecimal():
        raise click.UsageError(f"--channel {given}: expected a number from 0, or luminance")
    return int(given) if given is not None and given.isdecimal() else given


_PICTURES = (".png", ".jpg", ".pdf", ".svg")
_COUNT = click.IntRange(0, 100_000)
_FORMATS = list(dict.fromkeys(format for formats in FORMATS.values() for format in formats))


@data.command(
    epilog=_examples(
        "overtile data synth cells",
        "overtile data synth tissue --kind membranes --layout stack --size 512",
        "overtile data synth nuclei --layout kaggle --train 8 --val 0 --test 2 --seed 7",
        "overtile data synth series --format dicom --train 2 --val 1 --test 0 --json",
    )
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
    type=click.Choice(list(FORMATS)),
    default="pairs",
    show_default=True,
    help="How the files lie. A stack of membranes is made of consecutive sections.",
)
@click.option(
    "--format",
    type=click.Choice(_FORMATS),
    help="Of the images: tif (kaggle: png) by default; pairs has all, suffixes the first three.",
)
@click.option("--train", type=_COUNT, default=24, show_default=True, help="Training images.")
@click.option("--val", type=_COUNT, default=4, show_default=True, help="Validation images.")
@click.option("--test", type=_COUNT, default=16, show_default=True, help="Test images.")
@click.option(
    "--size",
    metavar="HxW",
    type=_Size(),
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
@_loudness
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
    _note(f"making {sum(counts.values())} images of {size[0]}x{size[1]} pixels from seed {seed}")

    from tqdm import tqdm

    from overtile.pipelines.data.synthesis import generate

    splits = generate(kind, counts, size, seed, consecutive=layout == "stack")
    off = True if _is("quiet") else None  # None: off where stderr is no terminal
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
    elif not _is("quiet"):
        parts = ", ".join(f"{split} {count}" for split, count in counts.items())
        click.echo(f"{folder}: {parts} images of {kind}; layout {layout}, format {format}")


class _Memory(click.ParamType[int]):
    """``2G``, ``1.5GiB`` or ``800M``: bytes, in steps of 1024."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG])(?:i?B)?", str(value), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r}; expected a number with M or G, e.g. 2G", param, ctx)
        return int(float(found[1]) * {"M": 2**20, "G": 2**30}[found[2].upper()])


@overtile.command(
    epilog=_examples(
        "overtile segment slide.ome.tif nuclei.ome.zarr --bundle runs/mine",
        "overtile segment slide.svs.tif level2.tif --bundle runs/mine --level 2",
        "overtile segment brain.ome.zarr p.ome.zarr --bundle runs/mine --output probabilities",
        "overtile segment slide.tif nuclei.ome.zarr --bundle runs/mine --set threshold=0.7",
        "overtile segment slide.tif nuclei.ome.zarr --bundle runs/mine --scheduler tcp://host:8786",
    )
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of a bundle, or of a run.",
)
@click.option(
    "--output",
    type=click.Choice(["labels", "probabilities"]),
    default="labels",
    show_default=True,
    help="Numbered cells, or P(cell).",
)
@click.option("--level", type=click.IntRange(0), default=0, show_default=True, help="Of a pyramid.")
@click.option("--channel", metavar="N|luminance", help="Of several channels, the one to take.")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="A value of the bundle's inference.json to change; may be repeated.",
)
@click.option(
    "--memory",
    type=_Memory(),
    default="2G",
    show_default=True,
    help="What the process may take (a worker, with --scheduler).",
)
@click.option(
    "--chunk", type=click.IntRange(16), help="Side of a chunk in pixels.  [default: 1024; 3D: 128]"
)
@click.option("--overwrite", is_flag=True, help="Replace a target that exists.")
@click.option(
    "--skip-unreadable",
    "--skip_unreadable",
    is_flag=True,
    help="Fill broken parts of the source with 0, and list them.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster that does the work.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_loudness
def segment(
    source: Path,
    target: Path,
    bundle: Path,
    output: str,
    level: int,
    channel: str | None,
    settings: tuple[str, ...],
    memory: int,
    chunk: int | None,
    overwrite: bool,
    skip_unreadable: bool,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Segment SOURCE, an image of any size, chunk by chunk into TARGET.

    TARGET is NAME.ome.zarr or NAME.tif. Stopped at any moment, the same command goes on.
    """
    number = _channel(channel)

    from overtile.pipelines.segment.request import Request, check_request, parse_settings

    request = Request(
        source,
        target,
        bundle,
        output == "labels",
        level,
        number,
        parse_settings(settings),
        memory,
        chunk,
        overwrite,
        skip_unreadable,
        False if _is("quiet") else None,
    )
    check_request(request)

    from overtile.pipelines.segment.run import segment as segment_image

    _note(f"{'going on with' if request.work.is_dir() else 'working in'} {request.work}")
    if scheduler is None:
        result = segment_image(request)
    else:
        from overtile.pipelines.segment.cluster import on_cluster

        with on_cluster(scheduler) as runner:
            result = segment_image(request, runner)
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
    elif not _is("quiet"):
        cells = "" if result.cells is None else f": {result.cells} cells"
        click.echo(f"{result.target}{cells}")
    for line in result.unreadable:
        click.echo(f"overtile: filled with 0: {line}", err=True)


@overtile.command(
    epilog=_examples(
        "overtile label --studies nuclei",
        "overtile label --studies nuclei --bundle runs/mine --port 8080 --no-open",
        "overtile label --studies colour --channel luminance",
        "overtile label --studies /archive/slides --read-only --work ./proposals",
    )
)
@click.option(
    "--studies",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the images; labels go to labels/ in it.",
)
@click.option(
    "--bundle",
    "bundles",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A further bundle, or folder of a run; may be repeated.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Folder for networks and trainings.  [default: STUDIES/overtile]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--channel", metavar="N|luminance", help="Of several channels, the one to take.")
@click.option("--read-only", "--read_only", is_flag=True, help="Propose labels, but keep none.")
@click.option("--open/--no-open", "show_it", help="Open the page in the browser.")
@_loudness
def label(
    studies: Path,
    bundles: tuple[Path, ...],
    work: Path | None,
    host: str,
    port: int,
    channel: str | None,
    read_only: bool,
    show_it: bool,
) -> None:
    """Annotate, train and segment in the browser, or in a viewer that knows MONAI Label."""
    from overtile.pipelines.label.launch import (
        alone,
        check_host,
        check_installed,
        check_port,
        open_page,
        prepare,
        serve,
    )

    number = _channel(channel)
    check_installed()
    check_host(host)
    check_port(host, port)
    if studies.is_dir() and work is None and not os.access(studies, os.W_OK):
        raise DataError(f"--studies {studies}: read-only; give --work DIR for networks and runs")
    work = work or studies / "overtile"
    models = prepare(studies, work, bundles)
    studies, work = studies.resolve(), work.resolve()  # runs are told by their paths
    _note(f"networks and trainings are kept in {work}")
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/annotate/"
    with alone(work):
        if not _is("quiet"):
            click.echo(f"{address}  (Ctrl-C ends it; models: {', '.join(models)})")
        if show_it:
            open_page(address, host, port)
        serve(studies, work, models, host, port, read_only, number)


@overtile.command(
    epilog=_examples(
        "overtile completion bash >> ~/.bashrc",
        "overtile completion zsh >> ~/.zshrc",
        "overtile completion fish > ~/.config/fish/completions/overtile.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@_loudness
def completion(shell: str) -> None:
    """Print the script by which SHELL completes the commands and options of overtile."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has the three
    click.echo(kind(overtile, {}, "overtile", "_OVERTILE_COMPLETE").source())


if __name__ == "__main__":
    sys.exit(main())
