"""`overtile show` and `overtile report`: what a run reached."""

from __future__ import annotations

import json
import logging
import webbrowser
from pathlib import Path

import click

from overtile.pipelines.cli.options import Command, examples, is_, loudness, note
from overtile.pipelines.errors import ConfigurationError, DataError, printable

log = logging.getLogger(__name__)


@click.command(
    cls=Command,
    epilog=examples(
        "overtile show runs/touching_cells", "overtile show runs/touching_cells --json"
    ),
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@loudness
def show(run: Path, as_json: bool) -> None:
    """Print the results of the finished run in folder RUN, and where to look."""
    from overtile.pipelines.reporting.summary import print_summary, read_summary

    summary = read_summary(run)
    note(f"read {run / 'summary.json'}")
    if as_json:
        click.echo(json.dumps({"run": str(run), **summary}, indent=2))
    else:
        print_summary(summary, run)
        for line in summary.get("warnings", []):
            log.warning("%s", line)


@click.command(
    cls=Command,
    epilog=examples(
        "overtile report runs/touching_cells",
        "overtile report evaluated --output page.html --open",
    ),
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="The page.  [default: RUN/report.html]"
)
@click.option("--open/--no-open", "show_it", help="Open the page in the browser.")
@loudness
def report(run: Path, output: Path | None, show_it: bool) -> None:
    """Make one HTML page of the training or evaluation in folder RUN."""
    if not run.is_dir():
        raise DataError(run, "no such folder", hint="give that of a training or an evaluation")

    from overtile.pipelines.reporting.report import write_report

    path = write_report(run, output)
    if not is_("quiet"):
        click.echo(f"{printable(path)}: {path.stat().st_size / 1e6:.1f} MB")
    if show_it and not webbrowser.open(path.resolve().as_uri()):
        raise ConfigurationError(path, "no browser found", hint="open it by hand")
