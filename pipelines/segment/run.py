"""Segment an image that may be larger than memory: `overtile segment`.

The image goes through stages, each of which makes an array in the work folder beside the target,
chunk by chunk: probabilities, pieces of cores, labels, the levels of the pyramid. What a stage has
finished is not done again. The finished result is renamed into its place.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from overtile import __version__
from overtile.networks import GeometryError
from overtile.pipelines.errors import ConfigurationError, DataError, OvertileError
from overtile.pipelines.images.formats import unpacked
from overtile.pipelines.images.stored import files_of
from overtile.pipelines.segment.job import Job, Opened, close_jobs, is_whole, opened, write_text
from overtile.pipelines.segment.local import LocalRunner, Runner
from overtile.pipelines.segment.request import Request, Result, check_request, ready
from overtile.pipelines.segment.stages import make
from overtile.pipelines.segment.stitching import Stitching

CHUNK = {2: 1024, 3: 128}
"""Sides of a chunk in pixels, by the dimensions of the bundle."""
_TILE = 16  # sides of a TIFF's tiles are multiples of it
_LEAST = 2**28  # bytes beside the program itself, for a network's pass and the chunks around it


def segment(request: Request, runner: Runner | None = None) -> Result:
    """Segment an image into a new file, or go on with what was begun.

    Args:
        request: what is wanted.
        runner: hands out the tasks; default: this machine alone.

    Raises:
        DataError: if the source cannot be read, or the target cannot be written.
        ConfigurationError: if the bundle, the source and the request do not go together, or the
            work folder is of another job.
    """
    check_request(request)
    own = LocalRunner() if runner is None else None
    runner = own if runner is None else runner
    assert runner is not None
    try:
        with _alone(request):
            check_request(request)  # another run may have made it meanwhile
            return _segment(request, runner)
    except GeometryError as error:
        raise ConfigurationError(str(error)) from error
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command goes on with what is done") from stop
    except OSError as error:
        raise DataError(
            f"{request.target}: cannot be written ({error.strerror or error}); what is done is "
            f"kept in {request.work}: make room, and give the same command again"
        ) from error
    finally:
        if own is not None:
            own.close()
        close_jobs()


def _segment(request: Request, runner: Runner) -> Result:
    try:
        job, resumed = prepare(request)
        runner.check(job)
        finished = request.work / "finished.json"
        if not is_whole(finished):
            write_text(finished, json.dumps(make(job, runner, request.target.name, request.show)))
        return _deliver(request, json.loads(finished.read_text()), resumed)
    except (OvertileError, GeometryError):
        if request.work.is_dir() and not _has_begun(request.work):
            _discard(request)  # so that the same target can be asked for in another way
        raise


@contextmanager
def _alone(request: Request) -> Iterator[None]:
    """Keep every other run from this target: two would take each other's files for their own.

    Raises:
        ConfigurationError: if another run has it, on this machine or one that shares the disk.
    """
    file = _lock(request)
    try:
        with FileLock(file, timeout=0):
            try:
                yield
            finally:
                file.unlink(missing_ok=True)  # who waits for it looks whether it is still there
    except Timeout:
        raise ConfigurationError(
            f"{request.target}: another run is making it; wait for its end, or name another target"
        ) from None


def prepare(request: Request) -> tuple[Job, bool]:
    """The job in its work folder, which is made or gone on with; and whether it was begun already.

    Raises:
        ConfigurationError: if the work folder is of another job, or bundle, source, memory and
            request do not go together.
        DataError: if the source cannot be read.
    """
    job = Job(
        str(request.source),
        str(request.source.absolute()),
        request.level,
        request.channel,
        str(request.bundle.absolute()),
        json.dumps(_settings(request)),
        request.labels,
        str(request.work.absolute()),
        request.skip_unreadable,
        cache=request.memory // 4,
    )
    work, file = request.work, request.work / "job.json"
    _remove(_trash(request))
    here = opened(job)
    asked, resumed = _asked(request, here), False
    if file.is_file():
        begun = _begun(request, file)
        old, now = begun["asked"], dict(asked)
        if (request.work / "unreadable").is_dir():  # parts of the source are filled with 0 there
            old["--skip_unreadable"] = "True"
            now["--skip_unreadable"] = str(request.skip_unreadable)
        differ = [name for name in {**old, **now} if old.get(name) != now.get(name)]
        if differ and not request.overwrite and _has_begun(work):
            name = differ[0]
            raise ConfigurationError(
                f"{work}: begun with {name} {old.get(name)}, but now it is {now.get(name)}; "
                "give the same as before, or --overwrite to start anew"
            )
        if differ:
            _discard(request)
        else:
            resumed, planned = True, {k: _tuple(v) for k, v in begun["planned"].items()}
    if isinstance(request.channel, int) and request.channel >= here.planes.channels:
        raise DataError(f"{request.source}: one channel; expected --channel 0, or none")
    if not resumed:
        if request.labels and here.trained.to_instances is None:
            raise ConfigurationError(
                f"--bundle {request.bundle}: its postprocessing makes no instances; give --output "
                "probabilities"
            )
        planned = {"token": uuid.uuid4().hex, **_plan(request, here)}
        if here.trained.to_instances is not None and request.labels:
            Stitching(here.trained.to_instances, here.grid.plane, planned["chunk"])  # may refuse
        work.mkdir(exist_ok=True)
        write_text(file, json.dumps({"asked": asked, "planned": planned}, indent=2))
    planned["source"] = str(unpacked(request.source, work).absolute())
    return replace(job, **planned), resumed


def _settings(request: Request) -> dict[str, Any]:
    """Values for the configuration; workers of a cluster have other folders to start from."""
    settings = dict(request.settings or {})
    given = settings.get("checkpoint")
    if isinstance(given, str) and Path(given).is_file():
        settings["checkpoint"] = str(Path(given).absolute())
    return settings


def _begun(request: Request, file: Path) -> dict[str, Any]:
    """What an earlier run was asked for; nothing where that is to be forgotten.

    Raises:
        ConfigurationError: if the file is damaged.
    """
    try:
        begun: dict[str, Any] = json.loads(file.read_text())
    except ValueError:
        if not request.overwrite:
            raise ConfigurationError(f"{file}: damaged; give --overwrite to start anew") from None
        begun = {"asked": {}, "planned": {}}
    return begun


def _has_begun(work: Path) -> bool:
    """Whether anything of the image itself is done, more than unpacked."""
    files = [file.name for file in work.iterdir() if not file.name.lower().endswith(".nii")]
    return bool(set(files) - {"job.json", "grey.json"})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _asked(request: Request, here: Opened) -> dict[str, str]:
    """All that decides over the result, as text."""
    # a target may lie in its source: labels of an OME-Zarr do
    made = _made(request)
    files = [
        file.stat()
        for file in files_of(request.source.resolve())
        if not any(file.is_relative_to(one) for one in made)
    ]
    return {
        "version": __version__,
        "source": str(request.source.resolve()),
        "size of the source": str(sum(f.st_size for f in files)),
        "time of the source": str(max(f.st_mtime_ns for f in files)),
        "output": "labels" if request.labels else "probabilities",
        "--level": str(request.level),
        "--channel": str(here.planes.channel),
        "--chunk": str(request.chunk),
        **here.trained.facts,
    }


def _plan(request: Request, here: Opened) -> dict[str, Any]:
    """Sizes of chunks and tiles, and of the cache, within the memory."""
    inferer = here.trained.inferer
    side = request.chunk or CHUNK[here.trained.spatial_dims]
    units = [int(np.lcm(multiple, _TILE)) for multiple in inferer.multiple]
    chunk = tuple(
        min(-(-side // unit), -(-n // unit)) * unit
        for unit, n in zip(units, here.grid.plane, strict=True)
    )
    free = request.memory - _resident()
    # windows and answers that wait, and what labelling takes in two threads
    for_chunks = 200 * int(np.prod(chunk))
    left = free - for_chunks
    if left < _LEAST:
        needed = request.memory - left + _LEAST
        raise ConfigurationError(
            f"--memory {request.memory / 2**30:.2g} GiB: {needed / 2**30:.2g} GiB are needed, "
            f"{_resident() / 2**30:.2g} by the program alone; allow more, or give a smaller --chunk"
        )
    roi = inferer.tile_size(chunk, left // 2)
    return {"chunk": chunk, "roi": roi, "cache": left // 4}


def _resident() -> int:
    """Bytes that this process takes."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # of systems without /proc: the most so far, in bytes on macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _deliver(request: Request, made: dict[str, Any], resumed: bool) -> Result:
    """Put the finished result into its place; may be repeated after a stop at any point."""
    result = ready(request)
    if not (result.exists() or request.target.exists()):
        _discard(request)
        raise ConfigurationError(
            f"{request.target}: was finished before, and is gone since; give the same command "
            "again to make it anew"
        )
    if result.exists():
        if request.target.exists():
            aside = request.work / "replaced"
            _remove(aside)
            request.target.rename(aside)
        result.rename(request.target)
    if made["unreadable"]:
        write_text(request.listing, "".join(f"{line}\n" for line in made["unreadable"]))
    else:
        request.listing.unlink(missing_ok=True)
    _discard(request)
    return Result(
        request.target,
        tuple(made["shape"]),
        made["axes"],
        made["cells"],
        tuple(made["unreadable"]),
        resumed,
    )


def _made(request: Request) -> list[Path]:
    """The target, and what a run makes beside it."""
    made = (request.target, request.work, _lock(request), _trash(request), request.listing)
    return [request.target.parent.resolve() / path.name for path in made]


def _lock(request: Request) -> Path:
    return request.work.with_name(f"{request.work.name}.lock")


def _trash(request: Request) -> Path:
    return request.work.with_name(f"partial.{request.target.name}.removed")


def _discard(request: Request) -> None:
    """Remove the work folder; at any moment it is either whole or has another name."""
    trash = _trash(request)
    _remove(trash)
    request.work.rename(trash)
    _remove(trash)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
