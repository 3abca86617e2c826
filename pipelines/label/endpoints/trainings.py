"""Routes that start, watch and stop trainings."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter
from monailabel.endpoints.train import run_model, status
from monailabel.endpoints.user.auth import User
from monailabel.utils.async_tasks.utils import tasks

from overtile.pipelines.label.endpoints.dependencies import admin, datastore, instance, user
from overtile.pipelines.label.refusals import (
    ConflictError,
    ForbiddenError,
    MissingError,
    RefusedError,
)
from overtile.pipelines.label.train import checked, stop_training, why_it_failed

routes = APIRouter()
_STARTING = threading.Lock()  # of two requests to train, the latter sees the training
_PROGRESS = re.compile(r"epoch (\d+)/(\d+)(?::\s+(\d+)%)?")


@routes.get("/train/")
def train_status(all: bool = False, check_if_running: bool = False, user: User = user) -> Any:
    """What MONAI Label says of its trainings, how far each has come, and why the last failed."""
    found = status(all, check_if_running)
    listed = found if isinstance(found, list) else [found]
    for task in listed:
        task["progress"] = _progress(list(task.get("details", ())), task["status"])
    if listed and listed[-1]["status"] == "ERROR" and not check_if_running:
        listed[-1].setdefault("error", why_it_failed(instance().runs, datastore().folder))
    return found


def _progress(lines: list[str], state: str) -> dict[str, Any]:
    for line in reversed(lines):
        if found := _PROGRESS.search(line):
            epoch, epochs, percent = (int(g) if g else None for g in found.groups())
            assert epoch is not None
            assert epochs is not None
            done = epoch if percent is None else epoch - 1 + percent / 100
            share = 1.0 if state == "DONE" else done / epochs
            return {"epoch": epoch, "max_epochs": epochs, "done": round(share, 4)}
    return {"epoch": 0, "max_epochs": 0, "done": 1.0 if state == "DONE" else 0.0}


@routes.post("/train/")
def train_all(user: User = admin) -> Any:
    """Refused: models share one machine."""
    raise RefusedError(expected="the name of a model", hint="POST /train/MODEL")


@routes.post("/train/{model}")
def train(model: str, params: dict[str, Any] | None = None, user: User = admin) -> Any:
    """Train on the final labels; `train_status` says how far it is.

    ``left_out`` in the answer says which of them cannot be trained on, and why.
    """
    instance().segmenter(model)
    options = checked(params or {})  # and nothing else: MONAI Label puts them on a command line
    datastore().check_writable()
    _, left_out = instance()._trainers[model].trainable(datastore())
    with no_training():
        return {**run_model(model, options), "left_out": left_out}


@contextmanager
def no_training() -> Iterator[None]:
    """Meanwhile no training goes on, and none begins.

    Raises:
        ConflictError: if one goes on.
    """
    with _STARTING:
        if any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks("train")):
            raise ConflictError(
                found="a training goes on",
                hint=("wait for its end", "stop it"),
            )
        yield


@routes.delete("/train/")
def stop(user: User = admin) -> Any:
    """End the training that goes on; its run is marked as KILLED."""
    task = stop_training(instance().runs)
    if task is None:
        raise MissingError(found="no training goes on", hint="begin one")
    return task


@routes.put("/model/{model}")
@routes.delete("/model/{model}")
def change_model(model: str, user: User = admin) -> None:
    """Refused: a network is what a training made it."""
    raise ForbiddenError(found="networks are changed by training alone", hint="train one")
