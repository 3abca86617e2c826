"""Segment an image that may be larger than memory: `overtile segment`.

The image goes through stages, each of which makes an array in the work folder beside the target,
chunk by chunk: probabilities, pieces of cores, labels, the levels of the pyramid. What a stage has
finished is not done again. The finished result is renamed into its place.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from overtile.networks import GeometryError
from overtile.pipelines.errors import (
    FULL,
    DataError,
    OvertileError,
    Setting,
    of_argument,
    ran_out,
)
from overtile.pipelines.files import whole
from overtile.pipelines.segment.job import is_whole
from overtile.pipelines.segment.local import LocalRunner
from overtile.pipelines.segment.plan import plan, state_of_source
from overtile.pipelines.segment.request import Request, Result, check_request
from overtile.pipelines.segment.resume import deliver, discard, forget, target_alone
from overtile.pipelines.segment.runner import Runner
from overtile.pipelines.segment.stages import make


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
    try:
        with target_alone(request):
            check_request(request)  # another run may have made it meanwhile
            try:
                return deliver(request, *_finished(request, runner))
            except (OvertileError, GeometryError):
                forget(request)
                raise
    except GeometryError as error:
        raise of_argument(error) from error
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command goes on with what is done") from stop
    except FileNotFoundError as error:
        raise DataError(
            request.target,
            f"{error.filename} is gone, which was made for it: removed, or its folder renamed",
            hint="leave such files alone while it runs, and give the same command again",
        ) from error
    except (MemoryError, RuntimeError) as error:
        lacking = ran_out(error)
        if lacking is None:
            raise
        raise DataError(
            request.target,
            f"{lacking.found}{_kept(request)}",
            hint=(
                "end other programs, and give the same command again",
                Setting("chunk", "a smaller side", "to start anew in smaller parts"),
            ),
        ) from error
    except OSError as error:
        raise DataError(
            request.target,
            f"cannot be written ({error.strerror or error}){_kept(request)}",
            hint=(
                "make room, and give the same command again"
                if error.errno in FULL
                else "let it be written, or name another target"
            ),
        ) from error


def _kept(request: Request) -> str:
    return f"; what is done is kept in {request.work}" if request.work.is_dir() else ""


def _finished(request: Request, runner: Runner | None) -> tuple[dict[str, Any], bool]:
    """What there is to say of the finished result, and whether an earlier run had begun."""
    source = state_of_source(request)
    with ExitStack() as stack:
        here, resumed = plan(request, source)
        stack.callback(here.close)
        runner = stack.enter_context(LocalRunner()) if runner is None else runner
        runner.check(here.job)
        if not is_whole(request.finished):
            try:
                made = make(here, runner, request)
            except DataError:  # which may have come of a change
                _check_unchanged(request, source)
                raise
            _check_unchanged(request, source)
            if request.mark != request.ready:
                request.mark.touch()
            with whole(request.finished) as file:
                file.write_text(json.dumps(made))
    return json.loads(request.finished.read_text()), resumed


def _check_unchanged(request: Request, source: dict[str, str]) -> None:
    """Refuse a source that was written while it was read, and forget what was made of it.

    Raises:
        DataError: if it is not as it was.
    """
    now = state_of_source(request)
    if now == source:
        return
    if request.work.is_dir():
        discard(request)
    name = next(name for name in source if now.get(name) != source[name])
    raise DataError(
        request.source,
        f"changed while it was segmented (its {name}), so nothing is kept",
        "a file that nobody writes to",
        "give the same command again once it is whole",
    )
