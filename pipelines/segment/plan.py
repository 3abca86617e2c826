"""From what a user asks for to the job that does it, with its source and its network open."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from overtile import __version__
from overtile.networks.spacing import spacing_text, steps_between
from overtile.pipelines.data.names import log_remarks
from overtile.pipelines.errors import (
    ChannelError,
    ConfigurationError,
    DataError,
    Setting,
    UnreadableError,
)
from overtile.pipelines.images.case_name import channel_files
from overtile.pipelines.images.channels import (
    OF_THE_NETWORK,
    Chosen,
    Taken,
    check_channels,
    check_fit,
)
from overtile.pipelines.images.formats import unpacked
from overtile.pipelines.images.read import check_spacing_known, open_taken, sizes_mm
from overtile.pipelines.images.stored import files_of, sampled
from overtile.pipelines.inference.trained import Trained
from overtile.pipelines.segment.job import Job, Opened, load_once
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.resume import go_on, made_beside, note_job
from overtile.pipelines.segment.windows import open_planes

CHUNK = {2: 1024, 3: 128}
"""Sides of a chunk in pixels, by the dimensions of the bundle; less where memory is short."""
_TILE = 16  # sides of a TIFF's tiles are multiples of it
_LEAST = 2**28  # bytes beside the program itself, for a network's pass and the chunks around it
_A_PIXEL = 150  # bytes of a chunk: answers that wait, and labelling in two threads
_A_WINDOW = 36  # bytes of a pixel of the windows around chunks, which are read ahead
_A_CHANNEL = 28  # bytes more for each further channel of them
_A_CLASS = 20  # bytes of a pixel of a chunk for each class beyond two, while it is answered
_A_PROBABILITY = 12  # likewise for each class whose probabilities wait to be written


def plan(request: Request, source: dict[str, str]) -> tuple[Opened, bool]:
    """The job in its work folder, which is made or gone on with; and whether it was begun already.

    Args:
        request: what is wanted.
        source: its state before it is opened, of `state_of_source`.

    Raises:
        ConfigurationError: if the work folder is of another job, or bundle, source, memory and
            request do not go together.
        DataError: if the source cannot be read.
    """
    settings, labels = json.dumps(_settings(request)), request.output == "labels"
    trained = load_once(str(request.bundle.absolute()), settings)
    if labels and trained.to_instances is None and trained.to_classes is None:
        raise ConfigurationError(
            request.bundle,
            "its postprocessing makes no instances, and no classes",
            hint=Setting("output", "probabilities"),
        )
    given = check_channels(request.channels)
    channels = trained.channels if given is None else given
    asked = _asked(request, trained, channels, source)
    planned = go_on(request, asked)
    cache: int = planned["cache"] if planned else _cache(request, trained)
    with ExitStack() as stack:
        name, path = str(request.source), _unpacked(request)
        dims = trained.spatial_dims
        found: Taken | None = None
        if channel_files(request.source):
            channels, found = _by_number(request, trained, channels)
        planes = open_planes(path, name, request.level, cache, dims, channels)
        stack.callback(planes.stored.close)
        log_remarks({remark: [request.source] for remark in planes.seen.remarks})
        if isinstance(given, int) and given and planes.seen.channel is None:
            raise ChannelError(name, "one channel", "channel 0, or none")
        wanted = trained.in_channels, trained.channel_names
        check_fit(name, found or planes.taken, *wanted, OF_THE_NETWORK)
        if trained.spacing is not None:
            _check_spacing(request.source, sizes_mm(planes.stored, planes.seen), trained.spacing)
        sizes = planned or {
            "token": uuid.uuid4().hex,
            "cache": cache,
            **_sizes(request, trained, planes.shape),
        }
        job = Job(
            name=name,
            source=str(path.absolute()),
            level=request.level,
            channels=channels,
            bundle=str(request.bundle.absolute()),
            settings=settings,
            labels=labels,
            work=str(request.work.absolute()),
            skip_unreadable=request.skip_unreadable,
            chunk=tuple(sizes["chunk"]),
            roi=tuple(sizes["roi"]),
            cache=cache,
            token=sizes["token"],
        )
        here = Opened(job, trained, planes)
        if planned is None:
            note_job(request, asked, sizes)
        stack.pop_all()  # it stays open
    return here, planned is not None


def _unpacked(request: Request) -> Path:
    """The source, or what was in it: in the work folder."""
    source = request.source
    try:
        return unpacked(source, request.work)
    except OSError as error:
        if error.filename != str(source):  # it cannot be written
            raise
        raise _unreadable(request, error) from error


def _unreadable(request: Request, error: OSError) -> UnreadableError:
    found = f"cannot be read ({error.strerror})"
    expected = "a file with the right to read it"
    return UnreadableError(request.source, found, expected, "give the same command again then")


def _by_number(request: Request, trained: Trained, channels: Chosen) -> tuple[Chosen, Taken]:
    """Channels of a source in several files, by number: unpacked ones do not say their names."""
    _, found = open_taken(request.source, trained.spatial_dims, channels)
    if found.several:
        return found.numbers, found
    named = isinstance(channels, str) and channels != "luminance" and found.numbers is not None
    return found.numbers[0] if named and found.numbers else channels, found


def _settings(request: Request) -> dict[str, Any]:
    """Values for the configuration; workers of a cluster have other folders to start from."""
    settings = dict(request.settings or {})
    given = settings.get("checkpoint")
    if isinstance(given, str) and Path(given).is_file():
        settings["checkpoint"] = str(Path(given).absolute())
    return settings


def state_of_source(request: Request) -> dict[str, str]:
    """Size, time and a sample of the bytes of its files: another one once they are written again.

    Raises:
        DataError: if they cannot be read.
    """
    # a target may lie in its source: labels of an OME-Zarr do
    made = made_beside(request)
    try:
        files = [
            (file, file.stat())
            for file in files_of(request.source.resolve())
            if not any(file.is_relative_to(one) for one in made)
        ]
        return {
            "size": str(sum(seen.st_size for _, seen in files)),
            "time": str(max((seen.st_mtime_ns for _, seen in files), default=0)),
            "bytes": sampled([(file, seen.st_size) for file, seen in files]),
        }
    except OSError as error:
        raise _unreadable(request, error) from error


def _check_spacing(source: Path, own: Sequence[float], wanted: Sequence[float]) -> None:
    """Refuse a source of other pixels than the network's: parts of it are not resampled.

    Raises:
        DataError: saying both.
    """
    check_spacing_known(source, own, wanted)
    if any(step != 1 for step in steps_between(own, wanted)):
        raise DataError(
            source,
            f"pixels of {spacing_text(own)} mm",
            f"{spacing_text(wanted)} mm, the spacing of the network",
            ("take another level of a pyramid", "run inference, which resamples"),
        )


def _asked(
    request: Request, trained: Trained, channels: Chosen, source: dict[str, str]
) -> dict[str, str]:
    """All that decides over the result, as text."""
    return {
        **trained.facts,
        "version": __version__,
        "source": str(request.source.resolve()),
        **{f"{name} of the source": state for name, state in source.items()},
        "output": request.output,
        "level": str(request.level),
        "channels": str(channels),
        "chunk": str(request.chunk),
    }


def _cache(request: Request, trained: Trained) -> int:
    """Bytes of the source to keep decoded, before its size is known: at most what is left then."""
    side = request.chunk or CHUNK[trained.spatial_dims]
    taken = _resident() + _needed(request, trained, (side,) * trained.spatial_dims)
    return max(request.memory - taken, _LEAST) // 4


def _sizes(request: Request, trained: Trained, plane: tuple[int, ...]) -> dict[str, Any]:
    """Sizes of chunks and tiles within the memory, for an image with planes of this size."""
    inferer, taken = trained.inferer, _resident()
    units = [int(np.lcm(multiple, _TILE)) for multiple in inferer.multiple]
    largest = request.chunk or CHUNK[trained.spatial_dims]
    sides = (
        [largest]
        if request.chunk
        else [largest >> n for n in range((largest // _TILE).bit_length())]
    )
    for side in sides:
        chunk = tuple(
            min(-(-side // unit), -(-n // unit)) * unit
            for unit, n in zip(units, plane, strict=True)
        )
        left = request.memory - taken - _needed(request, trained, chunk)
        if left >= _LEAST:
            break
    if left < _LEAST:
        needed = (request.memory - left + _LEAST) / 2**30
        smaller = (Setting("chunk", f"less than {side}"),) if side > _TILE else ()
        raise ConfigurationError(
            f"memory {request.memory / 2**30:.2g} GiB",
            f"{needed:.2g} GiB are needed, {taken / 2**30:.2g} by the program alone",
            hint=(Setting("memory", f"{math.ceil(needed * 10) / 10}G"), *smaller),
        )
    return {"chunk": chunk, "roi": inferer.tile_size(chunk, left // 2, trained.in_channels)}


def _needed(request: Request, trained: Trained, chunk: Sequence[int]) -> int:
    """Bytes that chunks of this size take, beside the program and a pass of the network."""
    reach, classes = trained.inferer.reach, len(trained.class_names)
    window = math.prod(n + 2 * r for n, r in zip(chunk, reach, strict=True))
    an_answer = _A_CLASS * max(0, classes - 2)
    if request.output == "probabilities":
        an_answer += _A_PROBABILITY * classes
    return math.prod(chunk) * (_A_PIXEL + an_answer) + window * (
        _A_WINDOW + _A_CHANNEL * (trained.in_channels - 1)
    )


def _resident() -> int:
    """Bytes that this process takes."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # of systems without /proc: the most so far, in bytes on macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
