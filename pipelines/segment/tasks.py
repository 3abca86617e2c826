"""The tasks of a job: each makes one chunk, whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, UnreadableError
from overtile.pipelines.segment.grid import Key
from overtile.pipelines.segment.job import Job, Opened, opened
from overtile.pipelines.segment.stitching import Pieces
from overtile.pipelines.segment.windows import mirrored
from overtile.transforms.normalize import scaled

_NETWORK = threading.Lock()  # one pass at a time in a process: a second would take its threads


def seen(job: Job, function: Callable[[NDArray[Any]], Any], key: Key) -> Any:
    """What a function finds in the grey values of one chunk; None where it cannot be read."""
    here = opened(job)
    read = partial(here.planes.read, key[0], here.grid.box(key))
    array = _readable(here, key, read)
    return None if array is None else function(array)


def channels_alike(job: Job, key: Key) -> bool:
    """Whether all channels are equal in one chunk."""
    here = opened(job)
    alike = _readable(here, key, partial(here.planes.alike, key[0], here.grid.box(key)))
    return alike is not False


def _readable(here: Opened, key: Key, read: Callable[[], Any]) -> Any:
    """What ``read`` gives; None where the source is broken and such parts are to be skipped.

    Raises:
        DataError: naming the chunk.
    """
    try:
        return read()
    except DataError as error:
        placed = error.within(here.grid.text(key))
        if here.job.skip_unreadable and isinstance(error, UnreadableError):
            here.note_unreadable(key, placed.worded(lambda _: None))
            return None
        raise placed from error


class PredictChunk:
    """Probabilities of one chunk, in three steps that may run beside each other.

    Args:
        job: to do.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, key: Key) -> None:
        """All three steps."""
        if not opened(self.job).is_done("probabilities", key):
            self.write(key, self.compute(key, self.read(key)))

    def read(self, key: Key) -> NDArray[np.float32] | None:
        """The normalised window around a chunk, mirrored where the image ends."""
        here = opened(self.job)
        box, shape = here.grid.box(key), here.grid.plane
        inferer = here.trained.inferer
        start = [s.start - r for s, r in zip(box, inferer.reach, strict=True)]
        stop = [s.stop + r for s, r in zip(box, inferer.reach, strict=True)]
        mode = inferer.tiles.padding_mode
        inside, places = mirrored(start, stop, shape, mode)
        grey = _readable(here, key, partial(here.planes.read, key[0], inside))
        if grey is None:
            return None
        low, width = here.scale(key[0])
        window = scaled(grey.astype(np.float32).astype(np.float64), low, width)
        window = window[np.ix_(*places)]
        if mode == "constant":
            for axis, (a, b, n) in enumerate(zip(start, stop, shape, strict=True)):
                beyond = np.arange(a, b)
                outside = (beyond < 0) | (beyond >= n)
                window[(slice(None),) * axis + (outside,)] = inferer.tiles.cval
        return window

    def compute(self, key: Key, window: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Probabilities of the chunk; 0 where the window could not be read."""
        here = opened(self.job)
        box = here.grid.box(key)
        if window is None:
            return np.zeros([s.stop - s.start for s in box], np.float32)
        with _NETWORK:
            return here.trained.probabilities(window, box, here.grid.plane, self.job.roi)

    def write(self, key: Key, probabilities: NDArray[np.float32]) -> None:
        """Write the chunk."""
        here = opened(self.job)
        here.plane("probabilities", key[0])[here.grid.box(key)] = probabilities


def label_cores(job: Job, key: Key) -> None:
    """Pieces of cores in one chunk."""
    here = opened(job)
    if not here.is_done("cores", key):
        probabilities, cores = (here.plane(n, key[0]) for n in ("probabilities", "cores"))
        here.stitching.label_cores(probabilities, cores, key[1:])


def pieces(job: Job, plane: int, index: tuple[int, ...]) -> Pieces:
    """What joining needs of one chunk."""
    here = opened(job)
    return here.stitching.pieces(here.plane("cores", plane), index)


def finish_labels(job: Job, key: Key) -> None:
    """Labels of one chunk."""
    here = opened(job)
    if not here.is_done("result/0", key):
        probabilities, cores, labels = (
            here.plane(n, key[0]) for n in ("probabilities", "cores", "result/0")
        )
        here.stitching.finish(probabilities, cores, here.numbering(key[0]), labels, key[1:])
