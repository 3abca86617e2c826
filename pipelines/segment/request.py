"""What a user of `overtile segment` asks for, checked before anything slow is loaded."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from overtile.pipelines.errors import ConfigurationError, DataError
from overtile.pipelines.images.formats import all_formats, target_format

_LONGEST = 230  # bytes of a name, since what is made beside the target has a longer one


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    Attributes:
        source: image file or folder.
        target: ``NAME.ome.zarr``, ``NAME.zarr``, ``NAME.tif`` or ``NAME.tiff``.
        bundle: folder of a bundle or a run.
        labels: whether labels are wanted, else probabilities.
        level: of the source's pyramid.
        channel: of several; None is what the bundle says.
        settings: other values for the bundle's configuration.
        memory: bytes that the process may take.
        chunk: side of a chunk in pixels; None is `CHUNK`.
        overwrite: replace a target that exists, and start anew where the work folder is of another
            job.
        skip_unreadable: fill what cannot be read with 0, and list it.
        show: progress bars: never (False), on a terminal (None).
    """

    source: Path
    target: Path
    bundle: Path
    labels: bool = True
    level: int = 0
    channel: int | str | None = None
    settings: dict[str, Any] | None = None
    memory: int = 2 * 2**30
    chunk: int | None = None
    overwrite: bool = False
    skip_unreadable: bool = False
    show: bool | None = None

    @property
    def work(self) -> Path:
        """The folder of unfinished work, beside the target."""
        return self.target.with_name(f"partial.{self.target.name}")

    @property
    def listing(self) -> Path:
        """Where chunks that could not be read are listed."""
        return self.target.with_name(f"{self.target.name}.unreadable.txt")


@dataclass(frozen=True)
class Result:
    """What was made.

    Attributes:
        target: the file or folder.
        shape: of it.
        axes: letters of its axes.
        cells: how many, in all planes; None for probabilities.
        unreadable: lines about chunks that were filled with 0.
        resumed: whether an earlier run had begun.
    """

    target: Path
    shape: tuple[int, ...]
    axes: str
    cells: int | None
    unreadable: tuple[str, ...]
    resumed: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "target": str(self.target)}


def check_request(request: Request) -> None:
    """Refuse what cannot become a target, before anything is read.

    Raises:
        ConfigurationError: saying what to name instead.
    """
    target = request.target
    if target_format(target.name) is None:
        endings = ", ".join(suffix for format in all_formats() for suffix in format.targets)
        raise ConfigurationError(target, expected=f"a target that ends in {endings}")
    if len(os.fsencode(target.name)) > _LONGEST:
        raise ConfigurationError(
            f"{target}: expected a name of at most {_LONGEST} bytes; name another target"
        )
    if not target.absolute().parent.is_dir():
        raise ConfigurationError(f"{target}: no folder {target.parent}; make it, or name another")
    if not request.source.exists():
        raise DataError(f"{request.source}: no such file or folder")
    if target.exists() and request.source.resolve().is_relative_to(target.resolve()):
        what = "is the source itself" if target.samefile(request.source) else "holds the source"
        raise ConfigurationError(f"{target}: {what}; name another target")
    if target.is_symlink() and not target.exists():
        raise ConfigurationError(f"{target}: a link that leads nowhere; remove it")
    # stopped after the result was put into its place, but before the rest was removed
    delivered = (request.work / "finished.json").is_file() and not ready(request).exists()
    if target.exists() and not request.overwrite and not delivered:
        raise ConfigurationError(f"{target}: exists; name another target, or give --overwrite")


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """``["threshold=0.6", ...]`` as a bundle's command line would take them.

    Raises:
        ConfigurationError: for one without a name or a value.
    """
    settings: dict[str, Any] = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not (name and mark and value):
            raise ConfigurationError(f"--set {text}: expected KEY=VALUE, e.g. threshold=0.6")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value
    return settings


def ready(request: Request) -> Path:
    """The finished result, before it is in its place."""
    format = target_format(request.target.name)
    file = format is not None and not format.folders
    return request.work / (request.target.name if file else "result")
