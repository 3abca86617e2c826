"""Images to segment: those of a folder, and whether they fit into memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from overtile.pipelines.data.facts import Item
from overtile.pipelines.data.names import (
    image_of,
    images_by_stem,
    images_of,
    is_one_image,
    log_remarks,
    log_strangers,
)
from overtile.pipelines.errors import DataError, Setting, size_text
from overtile.pipelines.images.channels import Channel, check_some_have
from overtile.pipelines.images.formats import check_file, names_of_formats, stem
from overtile.pipelines.images.plane_name import Plane, planes_of
from overtile.pipelines.images.read import check_pixels, machine_memory, open_view, read_image

log = logging.getLogger(__name__)


def images_in(
    source: str | Path | None,
    spatial_dims: int = 2,
    skip_unreadable: bool = False,
    image_memory_limit: int | None = None,
    channel: Channel | Literal["any"] = "any",
) -> list[Item]:
    """The images of a folder, or the one image named, as items without labels.

    Each plane of a stack is an item.

    Args:
        source: image or folder; None is no image, so that a configuration can be looked at.
        spatial_dims: 2 takes volumes plane by plane, 3 whole.
        skip_unreadable: leave out what cannot be segmented, whatever is wrong with it, and list
            it, instead of raising. Every image is decoded for that.
        image_memory_limit: bytes that segmenting one image may take; None is the memory of the
            machine. An image takes about `BYTES_PER_PIXEL`.
        channel: as of `read_image`: an image that has none such is refused before any is
            segmented. ``"any"`` does not ask.

    Raises:
        DataError: if there are none, two have the same name up to the suffix, one cannot be
            read, or one is too large.
    """
    if source is None:
        return []
    path = Path(source)
    file = Plane.of(path).file
    check_file(file)
    if file != path:  # one plane of it
        return [{"image": str(path)}]
    if is_one_image(file):
        files = [file]
    else:
        named = images_by_stem(path)
        # beside the images of a data set may lie their labels
        labels = {n for n in named if {image_of(n), f"{image_of(n)}_img"} & named.keys()}
        files = [file for name, file in named.items() if name not in labels]
        if labels:
            log.warning("left out: %d labels of images beside them", len(labels))
        log_strangers(path)
        cases = [f for folder in sorted(path.glob("*/images")) for f in images_of(folder)]
        files += [f for f in cases if f.parents[1].name == stem(f)]  # Kaggle's
    if not files:
        below = _images_below(path)
        if below is not None:
            raise DataError(path, ("no images in it, but in", below), hint="give that folder")
        raise DataError(path, "no images", names_of_formats())
    items = []
    remarks: dict[str, list[Path]] = {}
    several = False
    for file in files:
        try:
            seen = open_view(file, spatial_dims)
            check_memory(file, seen.shape, image_memory_limit)
            planes = planes_of(file, seen.count)
            for remark in seen.remarks:
                remarks.setdefault(remark, []).append(file)
            several |= seen.channel is not None
            asked = seen.channel is not None and channel != "any"
            for plane in planes if skip_unreadable else planes[:asked]:
                pixels, _ = read_image(plane, spatial_dims, 0 if channel == "any" else channel)
                if skip_unreadable:
                    check_pixels(plane, pixels)
        except DataError as error:
            if not skip_unreadable:
                raise
            log.warning("left out: %s", error.worded(lambda _: None))
            continue
        items += [{"image": str(plane)} for plane in planes]
    log_remarks(remarks)
    if not items:
        found = f"none of its {len(files)} images can be read"
        raise DataError(path, found, hint="replace them")
    check_some_have(path, channel, several)
    return items


def _images_below(folder: Path) -> Path | None:
    """The folder that is meant where one gives that of a data set."""
    splits = ("test", "val", "train", "")
    places = [folder / split / images for split in splits for images in ("images", "")][:-1]
    found = (p for p in places if p.is_dir() and (images_of(p) or any(p.glob("*/images"))))
    return next(found, None)


BYTES_PER_PIXEL = 64  # image, logits, probabilities, labels and what making them takes


def check_memory(path: Path, shape: Sequence[int], limit: int | None = None) -> None:
    """Refuse an image that would not fit.

    Raises:
        DataError: saying what it needs, what there is, and what to do.
    """
    if limit is None:
        limit = machine_memory()
    needed = BYTES_PER_PIXEL * math.prod(shape)
    if needed > limit:
        gib = 2**30
        raise DataError(
            path,
            f"{size_text(shape)} pixels need about {needed / gib:.1f} GiB of memory",
            f"at most {limit / gib:.1f} GiB",
            ("cut the image into parts", Setting("image_memory_limit", "BYTES", "to allow more")),
        )
