"""See a stored image as planes or volumes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from overtile.pipelines.errors import ChannelError, DataError, Setting, UnreadableError, size_text
from overtile.pipelines.images.stored import Stored


@dataclass(frozen=True)
class View:
    """How a stored image is seen: planes of two or volumes of three dimensions.

    Attributes:
        spatial: axes of one plane (or volume), in the order in which they are stored.
        channel: the axis of channels; None without one.
        stacked: the axes along which planes follow each other.
        shape: of one plane.
        count: of the planes.
        remarks: as of `Stored`.
    """

    spatial: tuple[int, ...]
    channel: int | None
    stacked: tuple[int, ...]
    shape: tuple[int, ...]
    count: int
    remarks: tuple[str, ...] = ()


_MOST = 2**20  # planes: each is an item of a data set


def view(stored: Stored, path: Path, spatial_dims: int = 2) -> View:
    """See a stored image as planes (or volumes).

    In two dimensions every section of a volume, page and time point is a plane of its own. In
    three, a stack of pages of no stated meaning is a volume.

    Raises:
        DataError: if it has too few axes.
        UnreadableError: if it has far too many planes.
        ChannelError: if it has channels along two of them.
    """
    axes = stored.axes
    if spatial_dims == 3 and "Z" not in axes:
        pages = [a for a, n in zip(axes, stored.shape, strict=True) if a not in "XYCST" and n > 1]
        axes = axes.replace(pages[0], "Z") if len(pages) == 1 else axes
    letters = "XYZ" if spatial_dims == 3 else "XY"
    spatial = tuple(i for i, a in enumerate(axes) if a in letters)
    if len(spatial) != spatial_dims:
        raise DataError(
            path,
            f"{size_text(stored.shape)} pixels (axes {stored.axes})",
            f"an image of {spatial_dims} dimensions",
            Setting("spatial_dims", 5 - spatial_dims, "to take others"),
        )
    channels = [i for i, a in enumerate(axes) if a in "CS" and stored.shape[i] > 1]
    if len(channels) > 1:
        raise ChannelError(path, f"channels along two axes ({stored.axes})", "one")
    rest = set(range(len(axes))) - {*spatial, *channels}
    # time before depth, in whatever order the file has them: so image and label agree
    stacked = tuple(
        sorted((i for i in rest if stored.shape[i] > 1), key=lambda i: ("TZ".find(axes[i]), i))
    )
    shape = tuple(stored.shape[i] for i in spatial)
    count = math.prod(stored.shape[i] for i in stacked)
    if count > _MOST:
        found = f"{count} planes of {size_text(shape)} pixels (axes {stored.axes})"
        raise UnreadableError(path, found, f"at most {_MOST}", "split the file")
    return View(spatial, channels[0] if channels else None, stacked, shape, count, stored.remarks)
