"""The work folder beside a target: one run has it, a later one goes on in it or starts anew, and
the finished result is renamed out of it into its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from overtile.pipelines.errors import ConfigurationError, Setting
from overtile.pipelines.files import alone, put_in_place, remove, whole
from overtile.pipelines.segment.job import check_there
from overtile.pipelines.segment.request import MARK, Request, Result

_ANEW = Setting("overwrite", True, "to start anew")
_AGAIN = "give the same command again"


@contextmanager
def target_alone(request: Request) -> Iterator[None]:
    """Keep every other run from this target: two would take each other's files for their own.

    Raises:
        ConfigurationError: if another run has it, on this machine or one that shares the disk.
    """
    lock, hint = _lock(request), ("wait for its end", "name another target")
    taken = ConfigurationError(request.target, "another run is making it", hint=hint)
    with alone(lock, taken):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it looks whether it is still there


def go_on(request: Request, asked: dict[str, str]) -> dict[str, Any] | None:
    """What an earlier run noted for itself, if its work is gone on with.

    Else there is a new, empty work folder afterwards.

    Args:
        request: what is wanted.
        asked: all that decides over the result; the same as then, if it is to be gone on with.

    Raises:
        ConfigurationError: if what was begun is of another job, or what was noted is damaged.
    """
    work, file = request.work, _job(request)
    remove(_trash(request))
    if file.is_file():
        begun = _begun(request, file)
        old, now = begun["asked"], dict(asked)
        if (work / "unreadable").is_dir():  # parts of the source are filled with 0 there
            old["skip_unreadable"] = "True"
            now["skip_unreadable"] = str(request.skip_unreadable)
        differ = [name for name in {**old, **now} if old.get(name) != now.get(name)]
        if not differ:
            planned: dict[str, Any] = begun["planned"]
            return planned
        if not request.overwrite and _has_begun(work):
            name = differ[0]
            found = f"begun with {name} {old.get(name)}, but now it is {now.get(name)}"
            raise ConfigurationError(work, found, "the same as before", _ANEW)
    if work.is_dir():  # also one whose job was not noted yet: its files may be of any source
        discard(request)
    work.mkdir()
    return None


def note_job(request: Request, asked: dict[str, str], planned: dict[str, Any]) -> None:
    """Note what a later run needs to go on."""
    with whole(_job(request)) as file:
        file.write_text(json.dumps({"asked": asked, "planned": planned}, indent=2))


def forget(request: Request) -> None:
    """Remove the work folder if nothing is done, so that the target can be made in another way."""
    if request.work.is_dir() and not _has_begun(request.work):
        discard(request)


def deliver(request: Request, made: dict[str, Any], resumed: bool) -> Result:
    """Put the finished result into its place; may be repeated after a stop at any point.

    Args:
        request: what was wanted.
        made: what there is to say of the result.
        resumed: whether an earlier run had begun.

    Raises:
        ConfigurationError: if it is gone.
        FileNotFoundError: if the work folder is.
    """
    waiting, target = request.mark.is_file(), request.target
    if not (waiting or target.exists()):
        discard(request)
        raise ConfigurationError(
            target,
            "was finished before, and is gone since",
            hint=f"{_AGAIN} to make it anew",
        )
    if not waiting:  # delivered already, or vanished: then a target that is there is an old one
        check_there(request.finished)
    if waiting and (request.listing.exists() or (made["unreadable"] and target.exists())):
        with whole(request.listing) as file:  # it may be read between the two
            file.write_text(f"{target.name} is being replaced: {_AGAIN}\n")
    put_in_place(request.ready, target, moved=not waiting)
    if target.is_dir():
        (target / MARK).unlink(missing_ok=True)
    if made["unreadable"]:
        listing = request.work / "unreadable.txt"
        with whole(listing) as file:
            file.write_text("".join(f"{line}\n" for line in made["unreadable"]))
        listing.replace(request.listing)
    else:
        request.listing.unlink(missing_ok=True)
    discard(request)
    unreadable = tuple(made["unreadable"])
    return Result(target, tuple(made["shape"]), made["axes"], made["cells"], unreadable, resumed)


def discard(request: Request) -> None:
    """Remove the work folder; at any moment it is either whole or has another name."""
    trash = _trash(request)
    remove(trash)
    with suppress(FileNotFoundError):  # somebody else has removed it
        request.work.rename(trash)
    remove(trash)


def made_beside(request: Request) -> list[Path]:
    """The target, and what a run makes beside it."""
    made = (request.target, request.work, _lock(request), _trash(request), request.listing)
    return [request.target.parent.resolve() / path.name for path in made]


def _begun(request: Request, file: Path) -> dict[str, Any]:
    """What an earlier run was asked for; nothing where that is to be forgotten.

    Raises:
        ConfigurationError: if the file is damaged.
    """
    try:
        begun: dict[str, Any] = json.loads(file.read_text())
    except ValueError:
        if not request.overwrite:
            raise ConfigurationError(file, "damaged", hint=_ANEW) from None
        begun = {"asked": {}, "planned": {}}
    return begun


def _has_begun(work: Path) -> bool:
    """Whether anything of the image itself is done, more than unpacked."""
    done = {file.name for file in work.iterdir() if not file.name.startswith(".")}
    return any(
        name not in ("job.json", "grey.json") and not name.lower().endswith(".nii") for name in done
    )


def _job(request: Request) -> Path:
    return request.work / "job.json"


def _lock(request: Request) -> Path:
    return request.work.with_name(f"{request.work.name}.lock")


def _trash(request: Request) -> Path:
    return request.work.with_name(f"{request.work.name}.removed")
