"""The formats of image files, one a module, and the doors through which all of them are opened.

A format is known as soon as its module lies in this folder, or in another one on ``__path__``.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, OvertileError, Setting, UnreadableError, size_text
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.case_name import case_of, channel_files
from overtile.pipelines.images.stored import (
    SKIP,
    Format,
    Spacing,
    Stored,
    no_file,
    series_of,
    spans_of,
    unreadable,
)


def all_formats() -> tuple[Format, ...]:
    """Every format, in the order in which they are asked."""
    return _formats_in(tuple(__path__))


@lru_cache(maxsize=4)
def _formats_in(folders: tuple[str, ...]) -> tuple[Format, ...]:
    names = sorted(module.name for module in iter_modules(folders))
    found: list[Format] = [import_module(f"{__name__}.{name}").FORMAT for name in names]
    return tuple(sorted(found, key=lambda format: format.last))


def image_suffix(name: str, single: bool = False) -> str:
    """The suffix of an image, in lower case; empty for other names, with ``single`` for folders."""
    suffix, format = _named(name.lower())
    return "" if format is None or (single and format.folders) else suffix


def stem(path: str | Path) -> str:
    """File name without its suffix: ``a.nii.gz`` -> ``a``, of `channel_files` that of the case."""
    name = case_of(Path(path).name)
    return name[: len(name) - len(image_suffix(name))]


def _named(name: str) -> tuple[str, Format | None]:
    """The longest suffix that a name ends with, and whose it is."""
    found: tuple[str, Format | None] = ("", None)
    for format in all_formats():
        for suffix in format.suffixes:
            if name.endswith(suffix) and len(suffix) > len(found[0]):
                found = suffix, format
    return found


def format_of(path: Path, labels: bool = False) -> Format | None:
    """The format of a file or folder: by its name, else by what is inside; None for no image."""
    path, _ = series_of(path)
    early = next((one for one in all_formats() if one.first and one.recognises(path, labels)), None)
    if early is not None:
        return early
    _, named = _named(path.name.lower())
    if named is not None and (named.folders or not path.is_dir()):
        return named
    return next((one for one in all_formats() if one.recognises(path, labels)), None)


def is_image(path: Path) -> bool:
    """Whether a file or folder is to be looked for in folders: one image, by its name.

    One may also be known by its content: a DICOM series has no name of its own, nor need its files.
    """
    if path.name.startswith("."):
        return False
    _, named = _named(path.name.lower())
    if named is not None and (named.folders or not path.is_dir()):
        return named.folders == path.is_dir()
    if path.suffix[1:].strip("0123456789") and not path.is_dir():
        return False  # a name that says something else; that of a DICOM file may be all numbers
    return any(format.recognises(path) for format in all_formats() if not format.last)


def names_of_formats(single: bool = False) -> str:
    """For people: ``TIFF, PNG, JPEG or OME-Zarr``; with ``single`` those of one file alone."""
    names = [f.name for f in all_formats() if f.suffixes and not (single and f.folders)]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def open_image(path: Path, labels: bool = False) -> Stored:
    """Open an image file, or a folder that is one image: axes and size now, pixels on demand.

    Args:
        path: file or folder.
        labels: an indexed picture gives its indices, not its colours, and a folder may be of
            masks, one file a cell.

    Raises:
        DataError: if it is missing or cannot be read.
    """
    return _opened(path, path, labels, lambda format: format.open(path, labels))


def open_source(
    path: Path, level: int = 0, cache_limit: int = 2**28, name: str | Path | None = None
) -> Stored:
    """Open an image that may be larger than memory: any part is read without the rest.

    What has no parts, such as a picture, is decoded whole and kept.

    Args:
        path: file or folder.
        level: of a pyramid, 0 is full resolution.
        cache_limit: bytes of decoded blocks to keep.
        name: what errors call it; default: its path.

    Raises:
        DataError: if it is missing or cannot be read, has no pixels, or has to be unpacked in
            pieces of more than ``cache_limit`` bytes.
        ConfigurationError: if there is no such level.
    """
    cache = BlockCache(cache_limit)
    shown = path if name is None else Path(name)
    try:
        source = _opened(path, shown, False, lambda format: format.open_windows(path, level, cache))
    except UnreadableError as error:
        # an image that cannot even be opened has no parts to go on with
        hint = tuple(advice for advice in error.hint if advice != SKIP)
        raise error.advising(*hint) from error
    if not all(source.shape):
        size = f"{size_text(source.shape)} pixels (axes {source.axes})"
        raise DataError(shown, size, "none of size 0")
    return source


def _opened(path: Path, shown: Path, labels: bool, open_it: Callable[[Format], Stored]) -> Stored:
    check_file(path, shown, SKIP)
    format = format_of(path, labels)
    if format is None:
        folder = path.is_dir()
        found = "a folder that is no image" if folder else "no image file"
        hint = "many images go through inference" if folder else ()
        raise DataError(shown, found, names_of_formats(), hint)
    try:
        stored = open_it(format)
    except OvertileError as error:
        raise _renamed(error, path, shown) from error.__cause__
    except Exception as error:  # decoders raise whatever their formats suggest
        raise unreadable(shown, error) from error
    return _checked(replace(stored, format=stored.format or format), path, shown)


def check_file(path: Path, shown: Path | None = None, hint: Setting | tuple[()] = ()) -> None:
    """Refuse a path behind which is neither a file nor a folder.

    Args:
        path: of an image.
        shown: what errors call it; default: its path.
        hint: of the error.

    Raises:
        UnreadableError: saying what it is.
    """
    if files := channel_files(path):
        for file in files:
            check_file(file, None if shown is None else shown.with_name(file.name), hint)
        return
    try:
        mode = series_of(path)[0].stat().st_mode
    except OSError as error:
        raise no_file(path if shown is None else shown, error, hint) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        found = next(name for is_kind, name in _NO_FILES if is_kind(mode))
        raise UnreadableError(path if shown is None else shown, found, "an image file", hint)


_NO_FILES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a pipe, which would be waited for"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: True, "a device"),
)


def _checked(stored: Stored, path: Path, shown: Path) -> Stored:
    """The same image, whose pixels are what its header says, or an error that names the file.

    What is black and white comes as 0 and 1 of 8 bits.
    """
    dtype = np.dtype(np.uint8) if stored.dtype.kind == "b" else stored.dtype.newbyteorder("=")

    def pixels(index: Any) -> NDArray[Any]:
        spans = spans_of(index, stored.shape)
        shape = tuple(b - a for (a, b), i in zip(spans, index, strict=True) if isinstance(i, slice))
        try:
            array = stored.pixels(index)
        except OvertileError as error:
            raise _renamed(error, path, shown) from error.__cause__
        except Exception as error:  # decoders raise whatever their formats suggest
            raise unreadable(shown, error) from error
        if array.shape != shape or not np.can_cast(array.dtype, stored.dtype):
            found = f"it decodes to {size_text(array.shape)} pixels of {array.dtype}"
            told = f"{size_text(shape)} of {stored.dtype}, as its header says"
            raise UnreadableError(shown, found, told, SKIP)
        return array.astype(dtype, copy=False)

    return replace(stored, dtype=dtype, pixels=pixels)


def unpacked(path: Path, folder: Path) -> Path:
    """The file that `open_source` reads parts of: itself, or what it is unpacked to.

    Args:
        path: file or folder.
        folder: for what is unpacked.
    """
    check_file(path)
    format = format_of(path)
    return path if format is None else format.unpacked(path, folder)


def _renamed(error: OvertileError, path: Path, shown: Path) -> OvertileError:
    """The same error with the name that the user knows the image by."""
    return error.moved(lambda p: shown / p.relative_to(path) if p.is_relative_to(path) else p)


def names_to_write() -> tuple[str, ...]:
    """Names of the formats in which images can be made, TIFF first."""
    names = sorted(name for format in all_formats() for name in format.written)
    return ("tif", *(name for name in names if name != "tif"))


def write_image(base: Path, array: NDArray[Any], name: str, spacing: Spacing | None = None) -> Path:
    """Write an image in a format of a name in `names_to_write`.

    Args:
        base: path without suffix.
        array: ``[Y, X]`` or ``[Z, Y, X]``.
        name: of the format, which is the suffix unless an image is a folder of files.
        spacing: of slices, rows and columns: millimetres, in OME's formats micrometres.

    Returns:
        The file or folder.

    Raises:
        DataError: if the format cannot hold the array.
    """
    format = writer_of(name)
    kinds = [np.dtype(kind) for kind in format.dtypes.split()]
    if array.dtype not in kinds:
        wanted = f"{', '.join(kind.name for kind in kinds)} for {name}"
        raise DataError(found=f"an image of {array.dtype}", expected=wanted, hint="convert it")
    path = base.with_name(f"{base.name}.{name}") if image_suffix(f".{name}") else base
    format.write(path, array, spacing=spacing)
    return path


def writer_of(name: str) -> Format:
    """The format that writes images under a name in `names_to_write`."""
    return next(format for format in all_formats() if name in format.written)


def target_format(name: str) -> Format | None:
    """The format in which an image larger than memory is written under a name; None for none."""
    found = [
        (len(suffix), format)
        for format in all_formats()
        for suffix in format.targets
        if name.lower().endswith(suffix)
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None
