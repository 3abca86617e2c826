"""The page for annotating, and what it asks for."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.utils.async_tasks.utils import tasks
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.data.annotations import spatial_dims_of
from overtile.pipelines.errors import OvertileError, size_text
from overtile.pipelines.images.channels import Chosen, takes_several
from overtile.pipelines.images.read import check_pixels, read_image, read_label
from overtile.pipelines.label.classes import LABELS, check_classes, colours
from overtile.pipelines.label.datastore import FINAL
from overtile.pipelines.label.endpoints.dependencies import (
    admin,
    annotator,
    as_read,
    datastore,
    in_rows,
    instance,
    lacking,
    sections,
    user,
)
from overtile.pipelines.label.endpoints.trainings import no_training, train_status
from overtile.pipelines.label.middleware import refused
from overtile.pipelines.label.models import back, network
from overtile.pipelines.label.refusals import (
    ConflictError,
    MissingError,
    RefusedError,
    ReplacedError,
)

routes = APIRouter()
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_PAGE = {  # by the names that may be asked for: no other reaches the disk
    "" if file.name == "annotate.html" else file.name: (file, _KINDS[kind])
    for file in (files("overtile.pipelines.label") / "page").iterdir()
    if (kind := file.name.rpartition(".")[2]) in _KINDS
}


@routes.get("/", include_in_schema=False)
def home() -> Response:
    """The page; MONAI Label would give its list of routes, with scripts from elsewhere."""
    return RedirectResponse("/annotate/")


@routes.get("/annotate/data")
def data(user: User = user) -> dict[str, Any]:
    """Images, models, which of them use a trained network, strategies, and what is locked why."""
    store, app = datastore(), instance()
    closed = "this folder is read-only" if store.read_only else ""
    done = store.labelled()
    return {
        "name": store.name(),
        "images": [
            {"id": i, "file": file.name, "labelled": i in done, "dims": spatial_dims_of(file)}
            for i, file in store.images().items()
        ],
        "unreadable": store.unreadable(),
        "locked": {
            "submit": closed or lacking(user, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR, "submit"),
            "train": closed or lacking(user, settings.MONAI_LABEL_AUTH_ROLE_ADMIN, "train"),
        },
        "models": [
            {"name": name, "dims": task.dimension, "classes": _shown(task.classes)}
            for name, task in app._infers.items()
        ],
        "trained": {name: network(task.bundle) for name, task in app._trainers.items()},
        "strategies": list(app._strategies),
    }


def _shown(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Names and colours of all classes for the page, which draws nothing of the background."""
    own = colours(classes) if classes else {}
    return [{"name": name, "colour": own.get(name, (0, 0, 0))} for name in classes]


@routes.get("/annotate/image")
def picture(id: str, section: int | None = None, user: User = user) -> Response:
    """The grey values of an image as PNG of 8 bits, 0.5 % of them clipped at either end.

    Of several channels it is the first of those that are read; proposals are of all of them. Of a
    volume or a stack it is one section, the middle one if none is named; all are as bright.

    ``X-Version`` tells of which version of the file they are, for `submit`; ``X-Section`` which
    section it is, of ``X-Sections``.
    """
    path = datastore().path_of(id)
    count = sections(path)[0]
    section = count // 2 if section is None else section
    if not 0 <= section < count:
        raise MissingError(f"section {section} of {id!r}", expected=f"0 to {count - 1}")
    version = _version(path)  # before it is read: what comes then is newer
    out = io.BytesIO()
    bits = _grey(path, version, instance().shown)[section]
    Image.fromarray(bits).save(out, "PNG", compress_level=1)
    told = {"X-Version": version, "X-Sections": str(count), "X-Section": str(section)}
    return Response(out.getvalue(), media_type="image/png", headers=told)


@lru_cache(2)
def _grey(path: Path, version: str, channels: Chosen) -> NDArray[np.uint8]:
    """Grey values ``[sections, rows, columns]`` of 8 bits, of a version of a file."""
    dims = spatial_dims_of(path)
    pixels, _ = read_image(path, dims, channels)
    check_pixels(path, pixels)
    if takes_several(channels):  # planes first, then channels
        pixels = np.take(pixels, 0, axis=pixels.ndim - dims - 1)
    grey = in_rows(pixels, path).astype(np.float32)
    some = grey.reshape(-1, grey.shape[-1])
    low, high = np.percentile(some[:: max(1, len(some) // 1000)], (0.5, 99.5))
    bits = np.clip((grey - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(bits)


@routes.get("/annotate/label")
def label(id: str, tag: str = FINAL, user: User = user) -> Response:
    """Numbers of a label, as `_raw` has them, and its version; 404 without one.

    Where it cannot be read, the refusal has the version too, so that it can be replaced.
    ``X-Labels`` says whether they are of ``classes`` or ``instances``, where that is noted.
    """
    path, found = datastore().path_of(id), datastore().label_of(id, tag)
    if found is None:
        raise MissingError(f"image {id!r}", f"no label with the tag {tag!r}", hint="submit one")
    version = {"X-Version": _version(found)}  # before it is read: what comes then is newer
    version["X-Labels"] = datastore().kind(id, tag)
    try:
        cells, size = read_label(found, spatial_dims_of(path), path)[0], sections(path)
        if in_rows(cells, path).shape != size:
            drawn, wanted = size_text(in_rows(cells, path).shape), size_text(size)
            raise RefusedError(found, f"label of {drawn} pixels", f"{wanted}, as its image")
    except OvertileError as error:
        answer = refused(error)
        answer.headers.update(version)
        return answer
    return _raw(cells, path, version)


def _version(file: Path | None) -> str:
    """What changes with a file; empty without one."""
    if file is None:
        return ""
    seen = file.stat()
    return f"{seen.st_mtime_ns}-{seen.st_ino}"  # of two files in one tick of the clock, the latter


@routes.post("/annotate/proposal")
def proposal(id: str, model: str, user: User = user) -> Response:
    """Numbers of cells or classes that a model proposes, as `_raw` has them."""
    path = datastore().path_of(id)
    sections(path)
    return _raw(instance().segmenter(model).segment(path), path)


@routes.put("/annotate/label")
async def submit(
    request: Request,
    id: str,
    width: int,
    height: int,
    version: str | None = None,
    seen: str | None = None,
    model: str | None = None,
    user: User = annotator,
) -> dict[str, Any]:
    """Keep numbers, sent as `_raw` has them, as the final label of an image.

    They are of cells, unless ``model`` tells classes apart: then of these.

    With the ``version`` of the label that they were made from, empty for none, a label that was
    changed since is kept: 409. With ``seen``, the version of the image that they were drawn on,
    nothing is kept once that is another: 412.
    """
    most = await run_in_threadpool(_bytes_of, id)
    body, sent = bytearray(), 0  # the rest of a body that is too long is read, but not kept
    async for part in request.stream():
        sent += len(part)
        body += part[: max(0, most - len(body))]
    return await run_in_threadpool(
        _submit, body, sent, id, width, height, version, seen, model, user.username
    )


def _bytes_of(id: str) -> int:
    """Of the numbers of an image; 0 where there are none to keep."""
    try:
        return 4 * math.prod(sections(datastore().path_of(id)))
    except OvertileError:
        return 0


def _submit(
    body: bytearray,
    sent: int,
    id: str,
    width: int,
    height: int,
    version: str | None,
    seen: str | None,
    model: str | None,
    who: str,
) -> dict[str, Any]:
    path, task = datastore().path_of(id), None if model is None else instance().segmenter(model)
    count, rows, columns = sections(path)
    if min(width, height) < 1 or sent != 4 * width * height * count:
        pixels = f"{width}x{height} pixels{f' of {count} sections' if count > 1 else ''}"
        raise RefusedError(found=f"{sent} bytes", expected=f"4 for each of {pixels}")
    if (height, width) != (rows, columns):
        raise RefusedError(
            f"label of {width}x{height} pixels for image {id!r}", expected="the same size"
        )
    numbers = np.frombuffer(body, "<u4").reshape(count, height, width)
    if numbers.max() >= 2**31:
        raise RefusedError(found=f"cell number {numbers.max()}", expected="less than 2^31")
    if task is not None and task.classes:
        check_classes(id, int(numbers.max()), numbers.shape, task.classes)
    cells = as_read(numbers, path)
    if seen is not None and seen != _version(path):
        raise ReplacedError(
            f"image {id!r}",
            "not saved, for its file was replaced meanwhile",
            hint="open it again, and draw on what it is now",
        )
    with datastore().saving:  # no other label comes between the look and the writing
        if version is not None and version != _version(datastore().label_of(id, FINAL)):
            raise ConflictError(
                f"image {id!r}",
                "its final label was changed since it was opened here",
                hint="open it again to see that one",
            )
        noted = {"user": who, "viewer": "annotate"}
        if task is not None:
            noted |= {"model": task.bundle.name, LABELS: task.kind}
        datastore().save_cells(id, cells, FINAL, noted)
        now = _version(datastore().label_of(id, FINAL))
    count = len(np.unique(cells[cells > 0]))
    return {"image": id, "cells": count, "labels": noted.get(LABELS, ""), "version": now}


def _raw(cells: Any, path: Path, headers: dict[str, str] | None = None) -> Response:
    """Sections of rows of uint32, little-endian, with the size of the image in three headers."""
    rows = in_rows(cells, path)
    sides = zip(("X-Sections", "X-Height", "X-Width"), map(str, rows.shape), strict=True)
    return Response(
        np.ascontiguousarray(rows, "<u4").tobytes(),
        media_type="application/octet-stream",
        headers={**dict(sides), **(headers or {})},
    )


@routes.get("/annotate/training")
def training(user: User = user) -> Any:
    """The last training, as `GET /train/` tells of it; nothing before the first."""
    return train_status() if tasks("train") else None


@routes.post("/annotate/shipped")
def shipped(model: str, user: User = admin) -> None:
    """Let a model use the network again that came with its bundle; 409 while a training goes on."""
    instance().segmenter(model)
    datastore().check_writable()
    with no_training():
        back(instance().segmenter(model).bundle)


@routes.get("/annotate")
@routes.get("/annotate/")
@routes.get("/annotate/{name}")
def page(name: str = "") -> Response:
    """The page, its scripts and its style."""
    if name not in _PAGE:
        raise MissingError(name[:100], "no part of the page", hint="GET /annotate/ is the page")
    file, kind = _PAGE[name]
    return Response(file.read_bytes(), media_type=f"{kind}; charset=utf-8")
