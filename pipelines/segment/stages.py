"""The stages that an image goes through to be segmented, each chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from overtile.pipelines.files import whole
from overtile.pipelines.images.formats import stem, target_format
from overtile.pipelines.images.formats.ome_zarr import level_shapes
from overtile.pipelines.inference.trained import Trained
from overtile.pipelines.reporting.colours import palette
from overtile.pipelines.segment.grid import Key
from overtile.pipelines.segment.job import Opened, check_there, is_whole, open_array
from overtile.pipelines.segment.percentiles import scale_of
from overtile.pipelines.segment.progress import progress
from overtile.pipelines.segment.pyramid import chunk_file, chunk_keys, describe_target, make_array
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.runner import Runner
from overtile.pipelines.segment.tasks import (
    channels_alike,
    finish_labels,
    label_cores,
    pieces,
    seen,
    shrink_chunk,
)

_BACKGROUND = 128, 128, 128  # its colour as a class of its own


def make(here: Opened, runner: Runner, request: Request) -> dict[str, Any]:
    """Go through all stages; what they have finished before is not done again.

    Args:
        here: the job to do.
        runner: hands out the tasks.
        request: for which the result is left ready in the work folder.

    Returns:
        What there is to say of the result: ``shape``, ``axes``, number of ``cells``, lines about
        ``unreadable`` chunks.

    Raises:
        DataError: if the source cannot be read, or has colours and none is chosen.
    """
    stages = Stages(here, runner, request.show)
    stages.colours()
    stages.grey_values()
    stages.probabilities()
    cells = stages.labels() if here.numbers_cells else None
    stages.target(request.ready, request.target.name)
    noted = sorted((here.work / "unreadable").glob("c.*")) if here.job.skip_unreadable else []
    return {
        "shape": here.grid.shape,
        "axes": here.grid.axes,
        "cells": cells,
        "unreadable": [file.read_text() for file in noted],
    }


def class_colours(trained: Trained) -> list[tuple[int, int, int]]:
    """Of each class, that of the background first."""
    return [_BACKGROUND, *palette(len(trained.class_names) - 1)] if trained.class_names else []


@dataclass
class Stages:
    """The stages of one job.

    Attributes:
        here: the job to do.
        runner: hands out the tasks.
        show: progress bars: never (False), on a terminal (None).
    """

    here: Opened
    runner: Runner
    show: bool | None

    def colours(self) -> None:
        """Find out whether all channels of the source are equal."""
        here = self.here
        if not here.planes.mixed or is_whole(here.grey_file):
            return
        keys = list(here.grid.every_chunk())
        answers = self.runner.map(here, channels_alike, keys)
        grey = all(alike for _, alike in self._shown("colours", keys, answers))
        if not grey:
            here.planes.refuse_colours()
        with whole(here.grey_file) as file:
            file.write_text(json.dumps(grey))

    def grey_values(self) -> None:
        """How the grey values of each channel of each plane are scaled."""
        here = self.here
        told: dict[str, Any] = {}
        if is_whole(here.scales_file):
            told = json.loads(here.scales_file.read_text())
        dtype = here.planes.stored.dtype if here.grey else here.planes.dtype
        keys: dict[int, list[Key]] = {}
        for key in here.grid.every_chunk():
            keys.setdefault(key[0], []).append(key)
        for plane, own in keys.items():
            if str(plane) not in told:
                told[str(plane)] = [
                    scale_of(
                        here.trained.normalize.method, dtype, partial(self._each, own, channel)
                    )
                    for channel in range(here.planes.taken.count)
                ]
                with whole(here.scales_file) as file:
                    file.write_text(json.dumps(told))

    def _each(self, keys: list[Key], channel: int, function: Callable[..., Any]) -> Iterable[Any]:
        """What a function finds in a channel of all chunks that can be read."""
        task = partial(seen, function=function, channel=channel)
        answers = self.runner.map(self.here, task, keys)
        return (a for _, a in self._shown("grey values", keys, answers) if a is not None)

    def probabilities(self) -> None:
        """The network's answers: probabilities, or classes."""
        classes = self.here.trained.to_classes is not None and not self.here.every
        self._array("probabilities", "uint8" if classes else "float32")
        self._chunks("network", "probabilities", partial(self.runner.predict, self.here))

    def labels(self) -> int:
        """Labels of the probabilities; returns how many cells there are."""
        here, run = self.here, self.runner.map
        self._array("cores", "int32")
        self._chunks("cores", "cores", partial(run, here, label_cores))
        widest, cells = np.dtype(np.uint16), 0
        for plane in range(here.grid.count):
            file = here.numbering_file(plane)
            if not is_whole(file):
                file.parent.mkdir(exist_ok=True)
                found = run(here, partial(pieces, plane=plane), here.stitching.chunks())
                here.stitching.join(found).save(file)
            numbering = here.numbering(plane)
            widest = max(widest, numbering.dtype, key=lambda dtype: dtype.itemsize)
            cells += numbering.count
        self._array("result/0", widest)
        self._chunks("cells", "result/0", partial(run, here, finish_labels))
        return cells

    def target(self, ready: Path, name: str) -> None:
        """The pyramid and the metadata of OME-Zarr, or a TIFF; ``name`` is that of the target."""
        here = self.here
        grid, folder, mean = here.grid, here.work / "result", not here.job.labels
        spacing = here.planes.stored.spacing_um("XYZ")  # also of one slice, which is no axis
        array = open_array(folder / "0")
        format = target_format(name)
        if format is not None and not format.folders:
            tile, bar = (grid.chunks[-2], grid.chunks[-1]), partial(self._bar, format.name)
            with whole(ready) as file:
                names = here.trained.class_names if here.every else ()
                format.write_target(file, name, array, grid.axes, tile, spacing, bar, names)
            return
        levels = level_shapes(grid.shape, grid.chunks)
        for level, shape in list(enumerate(levels))[1:]:
            self._array(f"result/{level}", array.dtype, shape)
            keys = chunk_keys(shape, grid.chunks)
            made = self.runner.map(here, partial(shrink_chunk, level=level), keys)
            for _ in self._bar(f"level {level}", made, len(keys)):
                pass
        check_there(here.noted)
        classes = tuple(zip(here.trained.class_names, class_colours(here.trained), strict=True))
        describe_target(folder, stem(name), grid, spacing, mean, classes)
        for left in folder.rglob("*.partial"):  # of writers that were killed
            left.unlink()
        for level, shape in enumerate(levels):  # what was made may have been removed since
            check_there(folder / str(level) / "zarr.json")
            for key in chunk_keys(shape, grid.chunks):
                check_there(chunk_file(folder / str(level), key))

    def _array(
        self, name: str, dtype: str | np.dtype[Any], shape: tuple[int, ...] | None = None
    ) -> None:
        """Make an array, unless it is there; arguments as of `Opened.folder` and `make_array`."""
        check_there(self.here.noted)  # Zarr would make the work folder again
        make_array(self.here.folder(name), self.here.grid, dtype, shape)

    def _chunks(self, name: str, array: str, run: Callable[[list[Key]], Iterable[Any]]) -> None:
        """Make the chunks that an array does not have yet."""
        here = self.here
        missing, done = [], 0
        for key in here.grid.every_chunk():
            if here.is_done(array, key):
                done += here.grid.pixels(key)
            else:
                missing.append(key)
        for _ in self._shown(name, missing, run(missing), done):
            pass

    def _shown(
        self, name: str, keys: list[Key], answers: Iterable[Any], done: int = 0
    ) -> Iterator[tuple[Key, Any]]:
        """Each chunk with its answer, under a bar over pixels."""
        sizes = [self.here.grid.pixels(key) for key in keys]
        pairs = zip(keys, answers, strict=True)
        return progress(pairs, sizes, name, done + sum(sizes), done, "px", self.show)

    def _bar(self, name: str, steps: Iterable[Any], total: int) -> Iterator[Any]:
        """A bar over chunks."""
        return progress(steps, repeat(1, total), name, total, 0, "chunk", self.show)
