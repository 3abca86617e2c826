"""What a folder of DICOM files holds, from every header once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from overtile.pipelines.errors import UnreadableError
from overtile.pipelines.images.formats import image_suffix
from overtile.pipelines.images.formats.dicom.headers import Frame, frames_of, is_dicom, stamp_of

SUFFIX = ".dcm"
_SETTLED = 2e9  # nanoseconds after which a further change gives a folder another time
_KEPT = 64  # folders whose headers are remembered


@dataclass(frozen=True, eq=False)
class Contents:
    """What a folder holds, or a file.

    Attributes:
        frames: of all DICOM files that have pixels.
        others: what DICOM files without pixels are, such as reports.
        broken: why further ones cannot be read.
        beside: images of other formats.
    """

    frames: list[Frame] = field(default_factory=list)
    others: dict[Path, str] = field(default_factory=dict)
    broken: list[UnreadableError] = field(default_factory=list)
    beside: list[Path] = field(default_factory=list)

    @property
    def together(self) -> bool:
        """Whether files belong to each other: several are of one series."""
        files = {(frame.series, frame.stack.file) for frame in self.frames}
        return len({series for series, _ in files}) < len(files)

    @cached_property
    def one_image(self) -> bool:
        """Whether the folder is to be taken as one image, not as a folder of images."""
        if self.together or not (self.frames or self.broken or self.others):
            return self.together
        files = len({frame.stack.file for frame in self.frames})
        return not self.beside and (not files or files + len(self.broken) == 1)


def contents_of(files: Iterable[Path]) -> Contents:
    """What files hold, from the header of every DICOM file among them."""
    found = Contents()
    for file in files:
        named = image_suffix(file.name)
        if named not in ("", SUFFIX):
            found.beside.append(file)
        elif named or is_dicom(file):
            try:
                told = frames_of(file)
            except UnreadableError as error:
                found.broken.append(error)
                continue
            if isinstance(told, str):
                found.others[file] = told
            else:
                found.frames.extend(told)
    return found


@lru_cache(maxsize=_KEPT)
def look_at(file: Path, stamp: tuple[int, ...]) -> Contents:
    """What a file holds that has this stamp."""
    return contents_of([file])


class _Known(NamedTuple):
    """A folder that was looked at: its time of change, when, its files, and what they hold."""

    changed: int
    looked: int
    files: dict[Path, tuple[int, ...]]
    contents: Contents


_known: dict[tuple[Path, Path], _Known] = {}  # as it is called, and where that is
_looking = threading.Lock()


def look_into(folder: Path) -> Contents:
    """What a folder holds; looked at once as long as its files are the same.

    A folder that has changed lately is compared file by file, since its time may not tell of
    another change; one that has not, by its time alone, so that a slice costs a slice. A file
    that is written over where it is is noticed once it is read.
    """
    key = folder, folder.absolute()
    with _looking:
        changed, now = folder.stat().st_mtime_ns, time.time_ns()
        known = _known.get(key)
        if known is not None and known.changed == changed and known.looked - changed > _SETTLED:
            return known.contents
        files = {
            file: stamp_of(file)
            for file in sorted(folder.iterdir())
            if file.is_file() and not file.name.startswith(".")
        }
        contents = known.contents if known and known.files == files else contents_of(files)
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[key] = _Known(changed, now, files, contents)
        return contents


def forget(folder: Path) -> None:
    """Look at a folder anew when it is asked for next."""
    with _looking:
        _known.pop((folder, folder.absolute()), None)
