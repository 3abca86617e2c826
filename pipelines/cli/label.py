"""`overtile label`: annotate in the browser."""

from __future__ import annotations

import os
from pathlib import Path

import click

from overtile.pipelines.cli.options import Command, channels_option, examples, is_, loudness, note
from overtile.pipelines.errors import DataError, Setting


@click.command(
    cls=Command,
    epilog=examples(
        "overtile label --studies nuclei",
        "overtile label --studies nuclei --bundle runs/mine --port 8080 --no-open",
        "overtile label --studies colour --channels luminance",
        "overtile label --studies /archive/slides --read-only --work ./proposals",
    ),
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
@channels_option
@click.option("--read-only", "--read_only", is_flag=True, help="Propose labels, but keep none.")
@click.option("--open/--no-open", "show_it", help="Open the page in the browser.")
@loudness
def label(
    studies: Path,
    bundles: tuple[Path, ...],
    work: Path | None,
    host: str,
    port: int,
    channels: int | str | tuple[int | str, ...] | None,
    read_only: bool,
    show_it: bool,
) -> None:
    """Annotate, train and segment in the browser, or in a viewer that knows MONAI Label."""
    from overtile.pipelines.label.launch import (
        check_host,
        check_installed,
        check_port,
        copy_bundles,
        only_server,
        open_page,
        prepare,
        serve,
    )

    check_installed()
    check_host(host)
    check_port(host, port)
    if studies.is_dir() and work is None and not os.access(studies, os.W_OK):
        hint = Setting("work", "DIR", "for networks and runs")
        raise DataError(f"--studies {studies}", "read-only", hint=hint)
    work = work or studies / "overtile"
    prepare(studies, work)
    studies, work = studies.resolve(), work.resolve()  # runs are told by their paths
    note(f"networks and trainings are kept in {work}")
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/annotate/"
    with only_server(work):
        models = copy_bundles(work, bundles)
        if not is_("quiet"):
            click.echo(f"{address}  (Ctrl-C ends it; models: {', '.join(models)})")
        if show_it:
            open_page(address, host, port)
        serve(studies, work, models, host, port, read_only, channels)
