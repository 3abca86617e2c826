"""Images to segment: those of a folder, and whether they fit into memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType

from overtile.pipelines.data.facts import Item
from overtile.pipelines.data.names import (
    cases,
    image_of,
    images_by_stem,
    images_of,
    is_one_image,
    log_remarks,
    log_strangers,
)
from overtile.pipelines.errors import DataError, Setting, size_text
from overtile.pipelines.images.case_name import described_names, description_of, numbered
from overtile.pipelines.images.channels import (
    OF_THE_NETWORK,
    Channels,
    check_channels,
    check_fit,
    check_some_have,
    takes_several,
)
from overtile.pipelines.images.formats import check_file, names_of_formats, stem
from overtile.pipelines.images.plane_name import Plane, planes_of
from overtile.pipelines.images.read import (
    check_pixels,
    check_spacing_known,
    machine_memory,
    open_spacing,
    open_taken,
    open_view,
    read_image,
)

log = logging.getLogger(__name__)


def images_in(
    source: str | Path | None,
    spatial_dims: int = 2,
    skip_unreadable: bool = False,
    image_memory_limit: int | None = None,
    channels: Channels | EllipsisType = ...,
    in_channels: int | None = None,
    channel_names: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
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
        channels: as of `read_image`: an image that has none such is refused before any is
            segmented; without it nobody asks. Where several are asked for and no image has more
            than one, files ``a_0000``, ``a_0001`` are an image; so they are where a
            ``dataset.json`` names several channels.
        in_channels: of the network; None for any number.
        channel_names: that it was trained with, in their order; None where that is not known.
        spacing: that it was trained with, in millimetres a pixel along each axis; None takes images
            as they are.

    Raises:
        DataError: if there are none, two have the same name up to the suffix, one cannot be
            read, has other channels than the network, does not say the size of its pixels where
            that is needed, or is too large.
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
        named = cases(named) if _are_cases(named, spatial_dims, channels) else named
        # beside the images of a data set may lie their labels
        labels = {n for n in named if {image_of(n), f"{image_of(n)}_img"} & named.keys()}
        files = [file for name, file in named.items() if name not in labels]
        if labels:
            log.warning("left out: %d labels of images beside them", len(labels))
        log_strangers(path)
        kaggle = [f for folder in sorted(path.glob("*/images")) for f in images_of(folder)]
        files += [f for f in kaggle if f.parents[1].name == stem(f)]  # Kaggle's
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
            if spacing is not None:
                _check_resampled(file, seen.shape, spacing, image_memory_limit)
            planes = planes_of(file, seen.count)
            for remark in seen.remarks:
                remarks.setdefault(remark, []).append(file)
            several |= seen.channel is not None
            if channels is not ...:
                found = open_taken(planes[0], spatial_dims, channels)[1]
                check_fit(file, found, in_channels, channel_names, OF_THE_NETWORK)
            asked = seen.channel is not None and channels in (None, "luminance")
            for plane in planes if skip_unreadable else planes[:asked]:
                pixels, _ = read_image(plane, spatial_dims, 0 if channels is ... else channels)
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
        told = f"none of its {len(files)} images can be read"
        raise DataError(path, told, hint="replace them")
    check_some_have(path, None if channels is ... else check_channels(channels), several)
    return items


def _images_below(folder: Path) -> Path | None:
    """The folder that is meant where one gives that of a data set."""
    splits = ("test", "val", "train", "")
    places = [folder / split / images for split in splits for images in ("images", "")][:-1]
    found = (p for p in places if p.is_dir() and (images_of(p) or any(p.glob("*/images"))))
    return next(found, None)


def _are_cases(
    named: Mapping[str, Path], spatial_dims: int, channels: Channels | EllipsisType
) -> bool:
    """Whether ``a_0000`` and ``a_0001`` are channels of one image, and not images of a series."""
    numbers = [parts[1] for name in named if (parts := numbered(name))]
    if not numbers or len(numbers) < len(named) or len(set(numbers)) == 1:
        return False
    description = description_of(next(iter(named.values())))
    if description is not None and len(described_names(description)) > 1:
        return True
    if channels is ... or not takes_several(check_channels(channels)):
        return False
    return all(open_view(file, spatial_dims).channel is None for file in named.values())


def _check_resampled(
    file: Path, shape: Sequence[int], spacing: Sequence[float], limit: int | None
) -> None:
    """Refuse an image that cannot be resampled, or would not fit then."""
    from overtile.networks.spacing import resampled_size  # loads PyTorch: not before it is needed

    own = open_spacing(file, len(shape))
    check_spacing_known(file, own, spacing)
    check_memory(file, resampled_size(shape, own, spacing), limit)


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
