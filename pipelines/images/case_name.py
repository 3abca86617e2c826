"""An image that lies in one file a channel, and how it is written down: ``a_{0000,0001}.tif``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from overtile.pipelines.errors import DataError

_CASE = re.compile(r"(.+)_\{(\d{4}(?:,\d{4})+)\}(.*)", re.DOTALL)
_FILE = re.compile(r"(.+)_(\d{4})", re.DOTALL)
_DESCRIPTION = "dataset.json"  # of nnU-Net and of the Medical Segmentation Decathlon
_ABOVE = 3  # folders: imagesTr/ lies beside it, train/images/ one deeper


def channel_files(path: Path) -> list[Path]:
    """The files of ``DIR/a_{0000,0001}.tif``, as a shell has it; none for any other name.

    A file or folder of that very name is meant itself.
    """
    match = _CASE.fullmatch(path.name)
    if match is None or path.exists():
        return []
    return [path.with_name(f"{match[1]}_{number}{match[3]}") for number in match[2].split(",")]


def case_of(name: str) -> str:
    """``a.tif`` for ``a_{0000,0001}.tif``; any other name as it is."""
    match = _CASE.fullmatch(name)
    return name if match is None else match[1] + match[3]


def as_case(files: Sequence[Path]) -> Path:
    """The name by which `channel_files` finds these files, ``a_0000.tif`` and others.

    Raises:
        DataError: if their suffixes differ.
    """
    if len(files) == 1:
        return files[0]
    case, numbers = _parts(files[0]), [_parts(file)[1] for file in files]
    for file in files:
        if _parts(file)[::2] != case[::2]:
            told = f"{file.suffix or 'no suffix'}, but {files[0].name} has {files[0].suffix}"
            raise DataError(file, told, "channels in files of one format", "convert it")
    return files[0].with_name(f"{case[0]}_{{{','.join(numbers)}}}{case[2]}")


def numbered(name: str) -> tuple[str, str] | None:
    """Case and channel of a name without suffix, ``("a", "0001")``; None for other names."""
    match = _FILE.fullmatch(name)
    return None if match is None else (match[1], match[2])


def _parts(file: Path) -> tuple[str, str, str]:
    match = re.fullmatch(r"(.+)_(\d{4})(.*?)", file.name, re.DOTALL)
    assert match is not None  # `numbered` took it
    return match[1], match[2], match[3]


def description_of(file: Path) -> Path | None:
    """The ``dataset.json`` that says what the channels of a file are called; None without one."""
    return next(
        (
            found
            for folder in [*file.absolute().parents][:_ABOVE]
            if (found := folder / _DESCRIPTION).is_file()
        ),
        None,
    )


def described_names(file: Path) -> dict[int, str]:
    """What a ``dataset.json`` calls channels, by their numbers; empty if it calls them nothing.

    Raises:
        DataError: if it is no JSON object.
    """
    try:
        told = json.loads(file.read_text())
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise DataError(file, "no JSON object", "a description of the data set", "mend it")
    names = told.get("channel_names", told.get("modality"))
    if not isinstance(names, dict):
        return {}
    return {int(key): str(name) for key, name in names.items() if str(key).isdecimal()}
