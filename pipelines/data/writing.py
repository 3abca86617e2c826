"""Write labelled images in the layouts and formats of the field. Imports what a format needs."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, size_text
from overtile.pipelines.images.formats import write_image, writer_of
from overtile.pipelines.images.stored import Spacing

Array = NDArray[Any]
Splits = Mapping[str, Iterable[tuple[Array, Array]]]

FORMATS: dict[str, tuple[str, ...]] = {
    "pairs": ("tif", "png", "nii.gz", "ome.tif", "ome.zarr", "dicom"),
    "suffixes": ("tif", "png", "nii.gz"),
    "stack": ("tif",),
    "ctc": ("tif",),
    "kaggle": ("png",),
}
"""Layouts, and the formats that each can have; the first one is its default."""


def write_data(
    folder: str | Path,
    splits: Splits,
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
        layout: a key of `FORMATS`.
        format: one of the layout's `FORMATS`; default: the first.
        kind: ``"cells"``, or ``"membranes"``, which a ``stack`` stores as 0 (membrane) and 255.
        spacing: of slices, rows and columns: millimetres, in OME's formats micrometres.

    Returns:
        The folder.

    Raises:
        DataError: if the folder is not empty or cannot be written, layout and format do not go
            together, an image and its labels differ in size, or the format cannot hold them.
    """
    folder, format = Path(folder), check_format(layout, format)
    with _all_or_nothing(folder) as partial:
        flat = layout == "stack" or 3 not in writer_of(format).dims
        checked = {split: _checked(split, pairs, flat) for split, pairs in splits.items()}
        if layout == "pairs":
            _write_pairs(partial, checked, format, spacing)
        elif layout == "suffixes":
            _write_suffixes(partial, checked, format, spacing)
        elif layout == "stack":
            _write_stack(partial, checked, kind)
        elif layout == "ctc":
            _write_ctc(partial, checked)
        else:
            _write_kaggle(partial, checked)
    return folder


def check_format(layout: str, format: str | None = None) -> str:
    """The format to write ``layout`` in.

    Raises:
        DataError: if there is no such layout, or the layout has no such format.
    """
    if layout not in FORMATS:
        raise DataError(f"layout {layout!r}: expected one of {', '.join(FORMATS)}")
    if format is None:
        return FORMATS[layout][0]
    if format not in FORMATS[layout]:
        raise DataError(
            f"format {format!r}: layout {layout} is written as {', '.join(FORMATS[layout])}"
        )
    return format


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        DataError: unless the folder is new or empty.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file; expected a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: not empty; expected a new or empty folder: name another one")


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A hidden folder that becomes ``folder`` at the end, and vanishes if it does not come to it.

    It lies beside a folder that is to be made, but inside one that exists: that one may be a
    mount point, or the shell's current folder, and stays the same.
    """
    target = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links
    partial: Path | None = None
    try:
        check_target(folder)
        existed = target.is_dir()
        home = target if existed else target.parent
        partial = home / f".{target.name}.{os.getpid()}.partial"
        partial.mkdir(parents=True)
        yield partial
        if existed:
            for child in sorted(partial.iterdir()):
                child.rename(target / child.name)
        else:
            partial.rename(target)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "expected a folder with the right to write and enough space"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _checked(
    split: str, pairs: Iterable[tuple[Array, Array]], flat: bool
) -> Iterator[tuple[Array, NDArray[np.uint16]]]:
    for index, (image, labels) in enumerate(pairs):
        name = f"{split} image {index}"
        if image.shape != labels.shape:
            raise DataError(
                f"{name}: size {size_text(image.shape)}, "
                f"but its labels are {size_text(labels.shape)}; "
                "expected the same size"
            )
        if image.ndim not in ((2,) if flat else (2, 3)) or not image.size:
            wanted = "HxW" if flat else "HxW, or ZxYxX for a volume"
            raise DataError(
                f"{name}: shape {size_text(image.shape)}; expected one channel, {wanted}"
            )
        if labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() > 65535:
            raise DataError(f"{name}: labels of {labels.dtype}; expected integers 0 to 65535")
        yield image, labels.astype(np.uint16)


def _write_pairs(root: Path, splits: Splits, format: str, spacing: Spacing) -> None:
    own = writer_of(format)
    for split, pairs in splits.items():
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index, (image, labels) in enumerate(pairs):
            if 2 not in own.dims and image.ndim == 2:  # a series of one slice is a volume
                image, labels = image[None], labels[None]
            path = write_image(root / split / "images" / f"{index:03d}", image, format, spacing)
            suffix = own.label_suffix(path.name).removeprefix(".")
            write_image(root / split / "labels" / f"{index:03d}", labels, suffix, spacing)


def _write_suffixes(root: Path, splits: Splits, format: str, spacing: Spacing) -> None:
    for split, pairs in splits.items():
        (root / split).mkdir(parents=True)
        for index, (image, labels) in enumerate(pairs):
            write_image(root / split / f"{index:03d}", image, format, spacing)
            write_image(root / split / f"{index:03d}_masks", labels, format, spacing)


def _write_stack(root: Path, splits: Splits, kind: str) -> None:
    train = [pair for split, pairs in splits.items() if split != "test" for pair in pairs]
    pages = {
        "train-volume": [image for image, _ in train],
        "train-labels": [labels for _, labels in train],
        "test-volume": [image for image, _ in splits.get("test", [])],
    }
    if kind == "membranes":
        pages["train-labels"] = [np.where(a == 0, 0, 255).astype(np.uint8) for _, a in train]
    for name, planes in pages.items():
        kinds = sorted({f"{size_text(plane.shape)} {plane.dtype}" for plane in planes})
        if len(kinds) > 1:
            raise DataError(f"{name}.tif: {' and '.join(kinds)}; expected images that are alike")
        if planes:
            write_image(root / name, np.stack(planes), "tif")


def _write_ctc(root: Path, splits: Splits) -> None:
    for number, pairs in enumerate(splits.values(), 1):
        frames = root / f"{number:02d}"
        gold, markers, silver = (
            root / f"{number:02d}_{part}" for part in ("GT/SEG", "GT/TRA", "ST/SEG")
        )
        for path in (frames, gold, markers, silver):
            path.mkdir(parents=True)
        tracks: list[str] = []
        for frame, (image, labels) in enumerate(pairs):
            write_image(frames / f"t{frame:03d}", image, "tif")
            write_image(silver / f"man_seg{frame:03d}", labels, "tif")
            if frame % 3 == 0:
                write_image(gold / f"man_seg{frame:03d}", labels, "tif")
            marked, count = _mark(labels, len(tracks))
            write_image(markers / f"man_track{frame:03d}", marked, "tif")
            tracks += [f"{len(tracks) + k} {frame} {frame} 0" for k in range(1, count + 1)]
        (markers / "man_track.txt").write_text("".join(f"{line}\n" for line in tracks))


def _mark(labels: NDArray[np.uint16], used: int) -> tuple[NDArray[np.uint16], int]:
    """A ball of radius 2 around each cell's innermost pixel, numbered from ``used`` + 1 on."""
    from scipy import ndimage

    marked = np.zeros_like(labels)
    count = 0
    for name, window in enumerate(ndimage.find_objects(labels), 1):
        if window is None:
            continue
        count += 1
        if used + count > 65535:
            raise DataError("more than 65535 cells in a sequence; expected fewer or smaller images")
        cell = labels[window] == name
        depth = ndimage.distance_transform_edt(np.pad(cell, 1))[(slice(1, -1),) * cell.ndim]
        centre = np.unravel_index(depth.argmax(), cell.shape)
        grid = np.ogrid[tuple(slice(n) for n in cell.shape)]
        near = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= 4
        marked[window][cell & near] = used + count
    return marked, count


def _write_kaggle(root: Path, splits: Splits) -> None:
    for split, pairs in splits.items():
        (root / split).mkdir(parents=True)
        for index, (image, labels) in enumerate(pairs):
            name = _hex(split, index)
            grey = _eight_bits(image)
            (root / split / name / "images").mkdir(parents=True)
            picture = np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)
            write_image(root / split / name / "images" / name, picture, "png")
            if split == "test":
                continue
            masks = root / split / name / "masks"
            masks.mkdir()
            for cell in np.unique(labels[labels > 0]):
                mask = np.where(labels == cell, 255, 0).astype(np.uint8)
                write_image(masks / _hex(name, cell), mask, "png")


def _hex(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def _eight_bits(image: Array) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    scaled = (image.astype(np.float64) - low) * (255 / max(high - low, np.finfo(float).tiny))
    return np.round(scaled).astype(np.uint8)
