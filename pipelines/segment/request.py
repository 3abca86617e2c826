"""What a user of `overtile segment` asks for, checked before anything slow is loaded."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from overtile.pipelines.bundle.json_file import inference_of
from overtile.pipelines.errors import ConfigurationError, Setting
from overtile.pipelines.images.formats import all_formats, check_file, target_format

MARK = ".not_in_its_place"  # a file in a finished folder, which changes places with an old one
_LONGEST = 230  # bytes of a name, since what is made beside the target has a longer one


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    Attributes:
        source: image file or folder.
        target: ``NAME.ome.zarr``, ``NAME.zarr``, ``NAME.tif`` or ``NAME.tiff``.
        bundle: folder of a bundle or a run.
        output: what is wanted.
        level: of the source's pyramid.
        channels: which of the source are read; None is what the bundle says.
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
    output: Literal["labels", "probabilities"] = "labels"
    level: int = 0
    channels: int | str | tuple[int | str, ...] | None = None
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
    def finished(self) -> Path:
        """What there is to say of the result, once it is made; in the work folder."""
        return self.work / "finished.json"

    @property
    def ready(self) -> Path:
        """The finished result, before it is in its place; after that, what it took the place of."""
        return self.work / ("result" if self._is_folder else f"result{self.target.suffix}")

    @property
    def mark(self) -> Path:
        """What is there as long as the finished result is not in its place: it, or a file in it."""
        return self.ready / MARK if self._is_folder else self.ready

    @property
    def _is_folder(self) -> bool:
        format = target_format(self.target.name)
        return format is None or format.folders

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
        ConfigurationError: saying what to name instead; also if there is no such bundle.
        DataError: if there is no such source.
    """
    target, another = request.target, "name another target"
    if target_format(target.name) is None:
        endings = ", ".join(suffix for format in all_formats() for suffix in format.targets)
        raise ConfigurationError(target, expected=f"a target that ends in {endings}")
    if len(os.fsencode(target.name)) > _LONGEST:
        raise ConfigurationError(
            target, expected=f"a name of at most {_LONGEST} bytes", hint=another
        )
    if not target.absolute().parent.is_dir():
        raise ConfigurationError(target, f"no folder {target.parent}", hint=("make it", another))
    check_file(request.source)
    inference_of(request.bundle)
    if target.exists() and request.source.resolve().is_relative_to(target.resolve()):
        what = "is the source itself" if target.samefile(request.source) else "holds the source"
        raise ConfigurationError(target, what, hint=another)
    if target.is_symlink() and not target.exists():
        raise ConfigurationError(target, "a link that leads nowhere", hint="remove it")
    # stopped after the result was put into its place, but before the rest was removed
    delivered = request.finished.is_file() and not request.mark.is_file()
    if target.exists() and not request.overwrite and not delivered:
        hint = (another, Setting("overwrite", True))
        raise ConfigurationError(target, "exists", hint=hint)
