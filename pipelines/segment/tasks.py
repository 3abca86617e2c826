"""The tasks of a job: each makes one chunk, whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, Setting, UnreadableError
from overtile.pipelines.segment.grid import Key
from overtile.pipelines.segment.job import Opened
from overtile.pipelines.segment.pyramid import shrink
from overtile.pipelines.segment.stitching import Pieces
from overtile.pipelines.segment.windows import mirrored
from overtile.transforms.normalize import scaled

Answer = TypeVar("Answer")
_NETWORK = threading.Lock()  # one pass at a time in a process: a second would take its threads
_SKIP = Setting("skip_unreadable", True, "to fill such parts with 0")


def seen(
    here: Opened, key: Key, function: Callable[[NDArray[Any]], Answer], channel: int = 0
) -> Answer | None:
    """What a function finds in one channel of one chunk; None where it cannot be read."""
    array = _readable(here, key, partial(here.pixels, key[0], here.grid.box(key), channel))
    return None if array is None else function(array)


def channels_alike(here: Opened, key: Key) -> bool:
    """Whether all channels are equal in one chunk."""
    alike = _readable(here, key, partial(here.planes.alike, key[0], here.grid.box(key)))
    return alike is not False


def _readable(here: Opened, key: Key, read: Callable[[], Answer]) -> Answer | None:
    """What ``read`` gives; None where the source cannot be used and such parts are to be skipped.

    Raises:
        DataError: naming the chunk.
    """
    place = here.grid.text(key)
    try:
        return read()
    except DataError as error:
        if here.job.skip_unreadable:
            here.note_unreadable(key, error)
            return None
        told = error.advising(_SKIP) if isinstance(error, UnreadableError) else error
        raise told.within(place) from error


def predict_chunk(here: Opened, key: Key) -> None:
    """Probabilities of one chunk: its three steps one after the other."""
    if not here.is_done("probabilities", key):
        write_probabilities(here, key, predict(here, key, read_window(here, key)))


def read_window(here: Opened, key: Key) -> NDArray[np.float32] | None:
    """The normalised window ``[C, *W]`` around a chunk, mirrored where the image ends."""
    box, shape = here.grid.box(key), here.grid.plane
    inferer = here.trained.inferer
    start = [s.start - r for s, r in zip(box, inferer.reach, strict=True)]
    stop = [s.stop + r for s, r in zip(box, inferer.reach, strict=True)]
    mode = inferer.tiles.padding_mode
    inside, places = mirrored(start, stop, shape, mode)
    grey = _readable(here, key, partial(here.pixels, key[0], inside))
    if grey is None:
        return None
    channels = (
        scaled(one.astype(np.float32).astype(np.float64), low, width)[np.ix_(*places)]
        for one, (low, width) in zip(grey, here.scales(key[0]), strict=True)
    )
    window = np.stack(list(channels))
    if mode == "constant":
        for axis, (a, b, n) in enumerate(zip(start, stop, shape, strict=True)):
            beyond = np.arange(a, b)
            outside = (beyond < 0) | (beyond >= n)
            window[(slice(None),) * (axis + 1) + (outside,)] = inferer.tiles.cval
    return window


def predict(here: Opened, key: Key, window: NDArray[np.float32] | None) -> NDArray[Any]:
    """Probabilities of a chunk, ``[K, *B]`` of each class, or its classes.

    They are 0 where its window could not be read.
    """
    box = here.grid.box(key)
    if window is None:
        each = (here.grid.classes,) if here.every else ()
        return np.zeros((*each, *(s.stop - s.start for s in box)), np.float32)
    with _NETWORK:
        return here.trained.answer(window, box, here.grid.plane, here.job.roi, here.every)


def write_probabilities(here: Opened, key: Key, probabilities: NDArray[Any]) -> None:
    """Write those of a chunk, or its classes."""
    here.plane("probabilities", key[0])[here.grid.box(key)] = probabilities


def label_cores(here: Opened, key: Key) -> None:
    """Pieces of cores in one chunk."""
    if not here.is_done("cores", key):
        probabilities, cores = (here.plane(n, key[0]) for n in ("probabilities", "cores"))
        here.stitching.label_cores(probabilities, cores, key[1:])


def pieces(here: Opened, index: tuple[int, ...], plane: int) -> Pieces:
    """What joining needs of one chunk of a plane."""
    return here.stitching.pieces(here.plane("cores", plane), index)


def finish_labels(here: Opened, key: Key) -> None:
    """Labels of one chunk."""
    if not here.is_done("result/0", key):
        probabilities, cores, labels = (
            here.plane(n, key[0]) for n in ("probabilities", "cores", "result/0")
        )
        here.stitching.finish(probabilities, cores, here.numbering(key[0]), labels, key[1:])


def shrink_chunk(here: Opened, key: tuple[int, ...], level: int) -> None:
    """One chunk of a level of the pyramid."""
    shrink(here.work / "result", level, not here.job.labels, here.grid.chunks, key)
