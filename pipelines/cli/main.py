"""The command ``overtile``: what a bundle's own commands cannot do.

Whatever takes long to import is imported where a command needs it, after its arguments were
checked: help and mistakes answer at once.
"""

from __future__ import annotations

import getpass
import logging
import os
import sys
from pathlib import Path

import click

from overtile import __version__
from overtile.pipelines.cli.completion import completion
from overtile.pipelines.cli.data import data
from overtile.pipelines.cli.label import label
from overtile.pipelines.cli.options import examples, loudness
from overtile.pipelines.cli.runs import report, show
from overtile.pipelines.cli.segment import segment
from overtile.pipelines.errors import OvertileError, exit_with, ran_out
from overtile.pipelines.interrupts import remembered


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``overtile`` and ``python -m overtile.pipelines``; returns the exit code.

    0 is success and 130 Ctrl-C. A user's mistake raises SystemExit(2) after one line on stderr.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a broken file is told in one line
    _name_the_user()
    try:
        with remembered():
            code: int | None = overtile.main(arguments, prog_name="overtile", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        found, hint = _mistake(error)
        exit_with(OvertileError(found=found, hint=hint))
    except click.ClickException as error:
        exit_with(OvertileError(found=error.format_message(), hint="overtile --help tells more"))
    except OvertileError as error:
        exit_with(error)
    except click.Abort as stop:  # click's name for Ctrl-C
        print("overtile: interrupted", *(stop.__cause__ or stop).args, sep="; ", file=sys.stderr)
        return 130
    except (OSError, MemoryError, RuntimeError) as error:
        lacking = ran_out(error)
        if lacking is None and isinstance(error, OSError):
            file = Path(os.fsdecode(error.filename)) if error.filename else "a file"
            found, expected = error.strerror or str(error), "a file or folder that can be used"
            lacking = OvertileError(file, found, expected)
        if lacking is None:
            raise
        exit_with(lacking, lambda _: None)
    return code or 0


def _name_the_user() -> None:
    """MONAI asks for the user's name when it is imported; that of a container may have none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def _mistake(error: click.UsageError) -> tuple[str, str]:
    """What was mistyped; the nearest thing that exists, and where to read on."""
    see, text = f"{error.ctx.command_path if error.ctx else 'overtile'} --help", error.message
    if isinstance(error, click.NoSuchOption | click.NoSuchCommand) and error.possibilities:
        return text.rstrip("."), f"did you mean {error.possibilities[0]!r}? (see: {see})"
    return error.format_message().rstrip("."), f"see: {see}"


@click.group(
    epilog=examples(
        "overtile data look DIR",
        "overtile data synth cells",
        "overtile show runs/touching_cells",
        "overtile segment slide.tif nuclei.ome.zarr --bundle runs/touching_cells",
        "overtile label --studies DIR",
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="overtile", message="%(prog)s %(version)s")
@loudness
def overtile() -> None:
    """Beside the bundles: look at data and runs, segment large images, annotate.

    Training, and the segmentation of folders of images, are the bundles' commands
    (python -m monai.bundle run ...).
    """


for command in (data, show, report, segment, label, completion):
    overtile.add_command(command)
