"""Images to segment: those of a folder, and whether they fit into memory."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from overtile.pipelines.data.facts import Item
from overtile.pipelines.data.names import image_of, images_by_stem, images_of
from overtile.pipelines.errors import DataError, Setting, UnreadableError, printable, size_text
from overtile.pipelines.images.formats import is_image, names_of_formats, stem
from overtile.pipelines.images.plane_name import Plane, planes_of
from overtile.pipelines.images.read import open_view, read_image

log = logging.getLogger(__name__)

_OTHERS = {
    *(".czi", ".nd2", ".lif", ".lsm", ".oib", ".oif", ".ims", ".svs", ".ndpi", ".mrxs", ".vsi"),
    *(".jp2", ".npy", ".npz", ".gif", ".webp", ".mrc", ".h5", ".hdf5", ".mha", ".mhd", ".nrrd"),
}


def images_in(
    source: str | Path | None,
    spatial_dims: int = 2,
    skip_unreadable: bool = False,
    image_memory_limit: int | None = None,
) -> list[Item]:
    """The images of a folder, or the one image named, as items without labels.

    Each plane of a stack is an item.

    Args:
        source: image or folder; None is no image, so that a configuration can be looked at.
        spatial_dims: 2 takes volumes plane by plane, 3 whole.
        skip_unreadable: leave out broken files, and list them, instead of raising.
        image_memory_limit: bytes that segmenting one image may take; None is the memory of the
            machine. An image takes about `BYTES_PER_PIXEL`.

    Raises:
        DataError: if there are none, two have the same name up to the suffix, one cannot be
            read, or one is too large.
    """
    if source is None:
        return []
    path = Path(source)
    file = Plane.of(path).file
    if not file.exists():
        raise DataError(path, "no such file or folder")
    if file != path:  # one plane of it
        return [{"image": str(path)}]
    if file.is_file() or is_image(file):
        files = [file]
    else:
        named = images_by_stem(path)
        # beside the images of a data set may lie their labels
        labels = {n for n in named if {image_of(n), f"{image_of(n)}_img"} & named.keys()}
        files = [file for name, file in named.items() if name not in labels]
        if labels:
            log.warning("left out: %d labels of images beside them", len(labels))
        others = [f for f in sorted(path.iterdir()) if f.suffix.lower() in _OTHERS]
        if others:
            log.warning(
                "left out: %d files in formats that are not read, as %s",
                len(others),
                printable(others[0]),
            )
        cases = [f for folder in sorted(path.glob("*/images")) for f in images_of(folder)]
        files += [f for f in cases if f.parents[1].name == stem(f)]  # Kaggle's
    if not files:
        below = next((p for p in ("images", "test", "train") if (path / p).is_dir()), None)
        hint = f" (it has {below}/: give a folder in it)" if below else ""
        raise DataError(path, f"no images{hint}", names_of_formats())
    items = []
    for file in files:
        try:
            seen = open_view(file, spatial_dims)
            check_memory(file, seen.shape, image_memory_limit)
            planes = planes_of(file, seen.count)
            if skip_unreadable:
                for plane in planes:
                    read_image(plane, spatial_dims, channel=0)
        except UnreadableError as error:
            if not skip_unreadable:
                raise
            log.warning("left out: %s", error.worded(lambda _: None))
            continue
        items += [{"image": str(plane)} for plane in planes]
    if not items:
        found = f"none of its {len(files)} images can be read"
        raise DataError(path, found, hint="replace them")
    return items


BYTES_PER_PIXEL = 64  # image, logits, probabilities, labels and what making them takes


def check_memory(path: Path, shape: Sequence[int], limit: int | None = None) -> None:
    """Refuse an image that would not fit.

    Raises:
        DataError: saying what it needs, what there is, and what to do.
    """
    if limit is None:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = BYTES_PER_PIXEL * math.prod(shape)
    if needed > limit:
        gib = 2**30
        raise DataError(
            path,
            f"{size_text(shape)} pixels need about {needed / gib:.1f} GiB of memory",
            f"at most {limit / gib:.1f} GiB",
            ("cut the image into parts", Setting("image_memory_limit", "BYTES", "to allow more")),
        )
