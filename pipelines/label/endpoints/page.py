"""The page for annotating, and what it asks for."""

from __future__ import annotations

import io
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
from PIL import Image

from overtile.pipelines.errors import OvertileError, size_text
from overtile.pipelines.images.channels import takes_several
from overtile.pipelines.images.read import check_pixels, open_view, read_image, read_label
from overtile.pipelines.label.datastore import FINAL
from overtile.pipelines.label.endpoints.dependencies import (
    admin,
    annotator,
    columns_first,
    datastore,
    flat_image,
    instance,
    lacking,
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
            {"id": i, "file": file.name, "labelled": i in done}
            for i, file in store.images().items()
        ],
        "unreadable": store.unreadable(),
        "locked": {
            "submit": closed or lacking(user, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR, "submit"),
            "train": closed or lacking(user, settings.MONAI_LABEL_AUTH_ROLE_ADMIN, "train"),
        },
        "models": [name for name, task in app._infers.items() if task.dimension == 2],
        "trained": {name: network(task.bundle) for name, task in app._trainers.items()},
        "strategies": list(app._strategies),
    }


@routes.get("/annotate/image")
def picture(id: str, user: User = user) -> Response:
    """The grey values of an image as PNG of 8 bits, 0.5 % of them clipped at either end.

    Of several channels it is the first of those that are read; proposals are of all of them.

    ``X-Version`` tells of which version of the file they are, for `submit`.
    """
    path = flat_image(id)
    version = {"X-Version": _version(path)}  # before it is read: what comes then is newer
    channels = instance().shown
    pixels, _ = read_image(path, 2, channels)
    check_pixels(path, pixels)
    grey = (pixels[0] if takes_several(channels) else pixels).astype(np.float32)
    low, high = np.percentile(grey[:: max(1, len(grey) // 1000)], (0.5, 99.5))
    bits = np.clip((grey - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    if columns_first(path):
        bits = np.ascontiguousarray(bits.T)
    out = io.BytesIO()
    Image.fromarray(bits).save(out, "PNG", compress_level=1)
    return Response(out.getvalue(), media_type="image/png", headers=version)


@routes.get("/annotate/label")
def label(id: str, tag: str = FINAL, user: User = user) -> Response:
    """Cell numbers of a label, as `_raw` has them, and its version; 404 without one.

    Where it cannot be read, the refusal has the version too, so that it can be replaced.
    """
    path, found = flat_image(id), datastore().label_of(id, tag)
    if found is None:
        raise MissingError(f"image {id!r}", f"no label with the tag {tag!r}", hint="submit one")
    version = {"X-Version": _version(found)}  # before it is read: what comes then is newer
    try:
        cells, size = read_label(found, 2, path)[0], open_view(path, 2).shape
        if cells.shape != size:
            drawn, wanted = size_text(cells.shape), size_text(size)
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
    """Cell numbers that a model proposes, as `_raw` has them."""
    path = flat_image(id)
    return _raw(instance().segmenter(model).segment(path), path)


@routes.put("/annotate/label")
async def submit(
    request: Request,
    id: str,
    width: int,
    height: int,
    version: str | None = None,
    seen: str | None = None,
    user: User = annotator,
) -> dict[str, Any]:
    """Keep cell numbers, sent as `_raw` has them, as the final label of an image.

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
        _submit, body, sent, id, width, height, version, seen, user.username
    )


def _bytes_of(id: str) -> int:
    """Of the cell numbers of an image; 0 where there are none to keep."""
    try:
        return 4 * int(np.prod(open_view(flat_image(id), 2).shape))
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
    who: str,
) -> dict[str, Any]:
    path = flat_image(id)
    if min(width, height) < 1 or sent != 4 * width * height:
        raise RefusedError(found=f"{sent} bytes", expected=f"4 for each of {width}x{height} pixels")
    if len(body) < sent:
        raise RefusedError(
            f"label of {width}x{height} pixels for image {id!r}", expected="the same size"
        )
    cells = np.frombuffer(body, "<u4").reshape(height, width)
    if cells.max() >= 2**31:
        raise RefusedError(found=f"cell number {cells.max()}", expected="less than 2^31")
    if columns_first(path):
        cells = cells.T
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
        datastore().save_cells(id, cells, FINAL, {"user": who, "viewer": "annotate"})
        now = _version(datastore().label_of(id, FINAL))
    return {"image": id, "cells": len(np.unique(cells[cells > 0])), "version": now}


def _raw(cells: Any, path: Path, headers: dict[str, str] | None = None) -> Response:
    """Rows of uint32, little-endian, with the size of the image in two headers."""
    rows = cells.T if columns_first(path) else cells
    height, width = rows.shape
    return Response(
        np.ascontiguousarray(rows, "<u4").tobytes(),
        media_type="application/octet-stream",
        headers={"X-Width": str(width), "X-Height": str(height), **(headers or {})},
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
