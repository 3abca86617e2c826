"""Write labelled images in the layouts and formats of the field: all of them, or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.data.layouts import all_layouts
from overtile.pipelines.errors import DataError, size_text
from overtile.pipelines.files import is_unfinished, settle, together, whole
from overtile.pipelines.images.formats import writer_of
from overtile.pipelines.images.stored import Spacing

Array = NDArray[Any]


def written_layouts() -> dict[str, tuple[str, ...]]:
    """Layouts, and the formats that each can have; the first one is its default."""
    found = {name: tuple(layout.formats) for name, layout in all_layouts().items()}
    return {name: formats for name, formats in found.items() if formats}


def write_data(
    folder: str | Path,
    splits: Mapping[str, Iterable[tuple[Array, Array]]],
    layout: str = "pairs",
    format: str | None = None,
    kind: str = "cells",
    spacing: Spacing = (2.0, 0.5, 0.5),
) -> Path:
    """Write labelled images to a new or empty folder: all of them, or nothing.

    Layouts, with EXT for the format's suffix:

    - ``pairs``: ``SPLIT/images/000.EXT`` and ``SPLIT/labels/000.EXT``. Labels are TIFF for
      ``ome.tif`` and ``ome.zarr`` (OME-NGFF 0.5, two resolution levels), and NIfTI for ``dicom``,
      whose images are folders ``000/`` with one file a slice.
    - ``suffixes``: ``SPLIT/000.EXT`` beside ``SPLIT/000_masks.EXT``, as Cellpose has it.
    - ``stack``: ISBI 2012's ``train-volume.tif`` and ``train-labels.tif``; the split ``test``
      becomes ``test-volume.tif`` without labels, every other split pages of the former.
    - ``ctc``: Cell Tracking Challenge, a sequence ``01``, ``02``, ... for each split:
      ``01_GT/SEG`` with every third frame, ``01_GT/TRA`` with markers, ``01_ST/SEG`` complete.
      The images are taken for unrelated: each cell is a track of one frame.
    - ``kaggle``: Data Science Bowl 2018: ``SPLIT/ID/images/ID.png`` (RGBA of 8 bits, others are
      stretched to that) and one mask a cell in ``SPLIT/ID/masks/``; none in the split ``test``.

    Args:
        folder: must not exist, or be empty.
        splits: name of each split and its pairs of image and instance labels (0 = background
            or membrane), both ``[H, W]``, or ``[Z, Y, X]`` where the format has volumes. They
            are taken one by one, so a generator need not hold them all.
        layout: one of `written_layouts`.
        format: one of those of the layout; default: the first.
        kind: ``"cells"``, or ``"membranes"``, which a ``stack`` stores as 0 (membrane) and 255.
        spacing: of slices, rows and columns: millimetres, in OME's formats micrometres.

    Returns:
        The folder.

    Raises:
        DataError: if the folder is not empty or cannot be written, layout and format do not go
            together, an image and its labels differ in size, or the format cannot hold them.
    """
    folder, format = Path(folder), check_format(layout, format)
    own = all_layouts()[layout]
    flat = own.flat or 3 not in writer_of(format).dims
    checked = {split: _checked(split, pairs, flat) for split, pairs in splits.items()}
    try:
        check_target(folder)
        with _made(folder) as unfinished:
            own.write(unfinished, checked, format, kind == "membranes", spacing)
    except OSError as error:
        raise DataError(
            folder,
            f"cannot be written ({error.strerror or error})",
            "a folder with the right to write and enough space",
        ) from error
    return folder


def check_format(layout: str, format: str | None = None) -> str:
    """The format to write ``layout`` in.

    Raises:
        DataError: if there is no such layout, or the layout has no such format.
    """
    known = written_layouts()
    if layout not in known:
        raise DataError("layout", repr(layout), f"one of {', '.join(known)}")
    if format is None:
        return known[layout][0]
    if format not in known[layout]:
        raise DataError("format", repr(format), f"{', '.join(known[layout])} for layout {layout}")
    return format


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        DataError: unless the folder is new or empty.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(folder, "a file", "a new or empty folder")
    settle(folder)
    if folder.is_dir() and not all(map(is_unfinished, folder.iterdir())):
        raise DataError(folder, "not empty", "a new or empty folder", "name another one")


def _made(folder: Path) -> AbstractContextManager[Path]:
    """A folder to write into, which becomes ``folder`` at the end, or vanishes.

    One that exists may be a mount point, or the shell's current folder, and stays the same.
    """
    target = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links
    if target.is_dir():
        return together(target)
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
    return _new(target)


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    with whole(folder) as unfinished:
        unfinished.mkdir()
        yield unfinished


def _checked(
    split: str, pairs: Iterable[tuple[Array, Array]], flat: bool
) -> Iterator[tuple[Array, NDArray[np.uint16]]]:
    for index, (image, labels) in enumerate(pairs):
        name = f"{split} image {index}"
        if image.shape != labels.shape:
            raise DataError(
                name,
                f"size {size_text(image.shape)}, but its labels are {size_text(labels.shape)}",
                "the same size",
            )
        if image.ndim not in ((2,) if flat else (2, 3)) or not image.size:
            wanted = "HxW" if flat else "HxW, or ZxYxX for a volume"
            raise DataError(name, f"shape {size_text(image.shape)}", f"one channel, {wanted}")
        if labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() > 65535:
            raise DataError(name, f"labels of {labels.dtype}", "integers 0 to 65535")
        yield image, labels.astype(np.uint16)
