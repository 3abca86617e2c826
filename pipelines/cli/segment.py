"""`overtile segment`: one image of any size."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

import click

from overtile.pipelines.cli.options import (
    Command,
    KeyValue,
    Memory,
    channels_option,
    examples,
    is_,
    loudness,
    note,
)
from overtile.pipelines.errors import printable
from overtile.pipelines.notices import kept_warnings

log = logging.getLogger(__name__)


@click.command(
    cls=Command,
    epilog=examples(
        "overtile segment slide.ome.tif nuclei.ome.zarr --bundle runs/mine",
        "overtile segment slide.svs.tif level2.tif --bundle runs/mine --level 2",
        "overtile segment brain.ome.zarr p.ome.zarr --bundle runs/mine --output probabilities",
        "overtile segment slide.tif nuclei.ome.zarr --bundle runs/mine --set threshold=0.7",
        "overtile segment slide.tif nuclei.ome.zarr --bundle runs/mine --scheduler tcp://host:8786",
    ),
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
    help="Numbered cells or classes; or P(cell), P of each class.",
)
@click.option("--level", type=click.IntRange(0), default=0, show_default=True, help="Of a pyramid.")
@channels_option
@click.option(
    "--set",
    "settings",
    type=KeyValue(),
    metavar="KEY=VALUE",
    multiple=True,
    help="A value of the bundle's inference.json to change; may be repeated.",
)
@click.option(
    "--memory",
    type=Memory(),
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
@loudness
def segment(
    source: Path,
    target: Path,
    bundle: Path,
    output: Literal["labels", "probabilities"],
    level: int,
    channels: int | str | tuple[int | str, ...] | None,
    settings: tuple[tuple[str, Any], ...],
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
    from overtile.pipelines.segment.request import Request, check_request

    request = Request(
        source=source,
        target=target,
        bundle=bundle,
        output=output,
        level=level,
        channels=channels,
        settings=dict(settings),
        memory=memory,
        chunk=chunk,
        overwrite=overwrite,
        skip_unreadable=skip_unreadable,
        show=False if is_("quiet") else None,
    )
    check_request(request)

    from overtile.pipelines.segment.run import segment as segment_image

    note(f"{'going on with' if request.work.is_dir() else 'working in'} {request.work}")
    if scheduler is None:
        result = segment_image(request)
    else:
        from overtile.pipelines.segment.cluster import on_cluster

        with on_cluster(scheduler) as runner:
            result = segment_image(request, runner)
    for line in result.unreadable:
        log.warning("filled with 0: %s", printable(line))
    if as_json:
        told = {**result.as_dict(), "warnings": kept_warnings()}
        click.echo(json.dumps(told, indent=2))
    elif not is_("quiet"):
        cells = "" if result.cells is None else f": {result.cells} cells"
        click.echo(f"{printable(result.target)}{cells}")
