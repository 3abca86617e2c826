"""How annotations lie on disk: which file is whose label, of what kind, and what is noted of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError
from overtile.pipelines.files import whole
from overtile.pipelines.images.formats import format_of, open_image, stem, writer_of

FINAL_LABELS = "labels/final"  # where `overtile.pipelines.label.datastore` keeps what was submitted
NOTES = "labels/info.json"  # and what it notes of that


def notes_of(folder: Path) -> dict[str, Any]:
    """What ``overtile label`` notes of images and labels, as objects in objects.

    Raises:
        DataError: if the file is damaged.
    """
    file = folder / NOTES
    try:
        noted = json.loads(file.read_text()) if file.exists() else {}
    except (ValueError, RecursionError, IsADirectoryError):
        noted = None
    noted = {"images": {}, "labels": {}, **noted} if isinstance(noted, dict) else {}
    if not (_nested(noted.get("images"), 2) and _nested(noted.get("labels"), 3)):
        raise DataError(
            file,
            "no JSON object of notes",
            hint=("mend it", "remove it: the labels are files of their own"),
        )
    return noted


def _nested(found: Any, depth: int) -> bool:
    """Whether these are objects in objects, so deep."""
    return isinstance(found, dict) and (
        depth == 1 or all(_nested(inner, depth - 1) for inner in found.values())
    )


def noted_owner(label: Path, notes: dict[str, Any]) -> str | None:
    """The name of the image file that a label was saved for, if that is noted."""
    noted = notes["labels"].get(label.parent.name, {}).get(stem(label), {})
    owner = noted.get("image") if noted.get("file") == label.name else None
    return owner if isinstance(owner, str) else None


def spatial_dims_of(file: Path) -> int:
    """3 for a volume in space (NIfTI, DICOM), 2 for pictures and stacks of them."""
    return 3 if volume_in_space(file) else 2


def volume_in_space(file: Path) -> bool:
    """Whether a file is a volume of more than one section, with a place in space."""
    format = format_of(file)
    if format is not None and not format.in_space:
        return False
    stored = open_image(file)
    return stored.affine is not None and sum(n > 1 for n in stored.shape[:3]) == 3


def suffix_of(image: Path) -> str:
    """The suffix of labels of an image: its own, or that of a lossless format."""
    format = format_of(image)
    return ".tif" if format is None else format.label_suffix(image.name)


def write_label(base: Path, label: NDArray[Any], image: Path) -> Path:
    """Write cell numbers beside ``base``, in the format of their image and as it lies in space.

    uint16, from 65,536 cells on uint32; TIFF where that format cannot hold them, as PNG cannot.
    The file is written whole or not at all.

    Args:
        base: path without suffix.
        label: ``[*S]`` integers from 0 up, as `read_label` gives them.
        image: file that the labels belong to.

    Returns:
        The file.
    """
    top = int(label.max(initial=0))
    label = label.astype(np.uint16 if top < 2**16 else np.uint32)
    path = base.with_name(f"{base.name}{suffix_of(image)}")
    format = format_of(path)
    if format is None or not format.holds(label):
        path, format = base.with_name(f"{base.name}.tif"), writer_of("tif")
    stored = open_image(image) if format.in_space else None
    with whole(path) as unfinished:
        format.write(unfinished, label, stored)
    return path
