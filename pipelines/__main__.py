"""Command line: what a bundle cannot do. Heavy imports happen inside the commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``overtile`` and ``python -m overtile.pipelines``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="overtile",
        description="What the bundles' own commands (python -m monai.bundle run ...) cannot do.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    about = "print the results of a run and where to look, e.g. overtile show runs/touching_cells"
    show = commands.add_parser("show", help=about, description=about)
    show.add_argument("run", type=Path, help="folder of the run, e.g. runs/touching_cells")
    options = parser.parse_args(arguments)
    return _show(options.run)


def _show(run: Path) -> int:
    from overtile.pipelines.errors import OvertileError
    from overtile.pipelines.summary import print_summary, read_summary

    try:
        summary = read_summary(run)
    except OvertileError as error:
        print(f"overtile: error: {error}", file=sys.stderr)
        return 2
    print_summary(summary, run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
