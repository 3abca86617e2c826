"""The stages that an image goes through to be segmented, each chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from overtile.pipelines.images.formats import stem, target_format
from overtile.pipelines.images.formats.ome_zarr import level_shapes
from overtile.pipelines.segment.grid import Key
from overtile.pipelines.segment.job import Job, is_whole, open_array, opened, write_text
from overtile.pipelines.segment.local import Runner, progress
from overtile.pipelines.segment.percentiles import scale_of
from overtile.pipelines.segment.targets import chunk_keys, describe_target, make_array, shrink
from overtile.pipelines.segment.tasks import (
    PredictChunk,
    channels_alike,
    finish_labels,
    label_cores,
    pieces,
    seen,
)


def make(job: Job, runner: Runner, name: str, show: bool | None) -> dict[str, Any]:
    """Go through all stages; what they have finished before is not done again.

    Args:
        job: to do.
        runner: hands out the tasks.
        name: of the target, in whose format the result is left in the work folder.
        show: progress bars: never (False), on a terminal (None).

    Returns:
        What there is to say of the result: ``shape``, ``axes``, number of ``cells``, lines about
        ``unreadable`` chunks.

    Raises:
        DataError: if the source cannot be read, or has colours and none is chosen.
    """
    job = Stages(job, runner, show).colours()
    stages = Stages(job, runner, show)
    stages.grey_values()
    stages.probabilities()
    cells = stages.labels() if job.labels else None
    stages.target(name)
    here = opened(job)
    noted = sorted((here.work / "unreadable").glob("c.*")) if job.skip_unreadable else []
    return {
        "shape": here.grid.shape,
        "axes": here.grid.axes,
        "cells": cells,
        "unreadable": [file.read_text() for file in noted],
    }


@dataclass
class Stages:
    """The stages of one job.

    Attributes:
        job: to do.
        runner: hands out the tasks.
        show: progress bars, as `make`.
    """

    job: Job
    runner: Runner
    show: bool | None

    def colours(self) -> Job:
        """The job with the knowledge whether all channels of its source are equal."""
        here = opened(self.job)
        if not here.planes.mixed:
            return self.job
        file = here.work / "grey.json"
        if not is_whole(file):
            keys = list(here.grid.every_chunk())
            answers = self.runner.map(partial(channels_alike, self.job), keys)
            grey = all(alike for _, alike in self._shown("colours", keys, answers))
            if not grey:
                here.planes.refuse_colours()
            write_text(file, json.dumps(grey))
        return replace(self.job, grey=json.loads(file.read_text()))

    def grey_values(self) -> None:
        """How the grey values of each plane are scaled."""
        here = opened(self.job)
        file = here.work / "grey_values.json"
        told: dict[str, Any] = json.loads(file.read_text()) if is_whole(file) else {}
        mixed = here.planes.mixed and not self.job.grey
        dtype = np.dtype(np.float32) if mixed else here.planes.stored.dtype
        keys: dict[int, list[Key]] = {}
        for key in list(here.grid.every_chunk()):
            keys.setdefault(key[0], []).append(key)
        for plane, own in keys.items():
            if str(plane) not in told:
                each = partial(self._each, own)
                told[str(plane)] = scale_of(here.trained.normalize.method, dtype, each)
                write_text(file, json.dumps(told))

    def _each(self, keys: list[Key], function: Callable[..., Any]) -> Iterable[Any]:
        """What a function finds in all chunks that can be read."""
        answers = self.runner.map(partial(seen, self.job, function), keys)
        return (a for _, a in self._shown("grey values", keys, answers) if a is not None)

    def probabilities(self) -> None:
        """The network's answers."""
        here = opened(self.job)
        make_array(here.folder("probabilities"), here.grid, "float32")
        task = PredictChunk(self.job)
        self._chunks("network", "probabilities", partial(self.runner.predict, task))

    def labels(self) -> int:
        """Labels of the probabilities; returns how many cells there are."""
        here = opened(self.job)
        make_array(here.folder("cores"), here.grid, "int32")
        cut = partial(label_cores, self.job)
        self._chunks("cores", "cores", partial(self.runner.map, cut))
        widest, cells = np.dtype(np.uint16), 0
        for plane in range(here.grid.count):
            file = here.numbering_file(plane)
            if not is_whole(file):
                file.parent.mkdir(exist_ok=True)
                found = partial(pieces, self.job, plane)

                def each(
                    _: Any, indices: Iterable[tuple[int, ...]], found: Any = found
                ) -> Iterable[Any]:
                    # the function that it would apply holds open files, which do not travel
                    return self.runner.map(found, indices)

                here.stitching.join(here.plane("cores", plane), each).save(file)
            numbering = here.numbering(plane)
            widest = max(widest, numbering.dtype, key=lambda dtype: dtype.itemsize)
            cells += numbering.count
        make_array(here.folder("result/0"), here.grid, widest)
        finish = partial(finish_labels, self.job)
        self._chunks("cells", "result/0", partial(self.runner.map, finish))
        return cells

    def target(self, name: str) -> None:
        """The pyramid and the metadata of OME-Zarr, or a TIFF."""
        here = opened(self.job)
        grid, folder, mean = here.grid, here.folder("result"), not self.job.labels
        spacing = here.planes.stored.spacing_um(grid.axes)
        array = open_array(folder / "0")
        format = target_format(name)
        if format is not None and not format.folders:
            bar = partial(self._bar, format.name)
            tile = (grid.chunks[-2], grid.chunks[-1])
            format.write_target(here.work / name, name, array, grid.axes, tile, spacing, bar)
            return
        for level, shape in list(enumerate(level_shapes(grid.shape, grid.chunks)))[1:]:
            make_array(folder / str(level), grid, array.dtype, shape)
            keys = chunk_keys(shape, grid.chunks)
            run = partial(shrink, str(folder), level, mean, grid.chunks)
            for _ in self._bar(f"level {level}", self.runner.map(run, keys), len(keys)):
                pass
        describe_target(folder, stem(name), grid, spacing, mean)
        for left in folder.rglob("*.partial"):  # of writers that were killed
            left.unlink()

    def _chunks(self, name: str, array: str, run: Callable[[list[Key]], Iterable[Any]]) -> None:
        """Make the chunks that an array does not have yet."""
        here = opened(self.job)
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
        pixels = opened(self.job).grid.pixels
        total = done + sum(map(pixels, keys))
        pairs = zip(keys, answers, strict=True)
        return progress(pairs, name, total, done, lambda pair: pixels(pair[0]), "px", self.show)

    def _bar(self, name: str, steps: Iterable[Any], total: int) -> Iterator[Any]:
        """A bar over chunks."""
        return progress(steps, name, total, 0, lambda _: 1, "chunk", self.show)
