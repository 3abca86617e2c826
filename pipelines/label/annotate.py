"""The page for annotating, and what it asks for."""

from __future__ import annotations

import io
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from monailabel.endpoints.user.auth import User
from monailabel.utils.async_tasks.utils import tasks
from PIL import Image

from overtile.pipelines.errors import DataError
from overtile.pipelines.formats import GOES_ON
from overtile.pipelines.label.refusals import ConflictError, MissingError, RefusedError
from overtile.pipelines.label.results import write_label
from overtile.pipelines.label.shared import (
    annotator,
    columns_first,
    flat_image,
    instance,
    studies,
    user,
)
from overtile.pipelines.label.studies import FINAL
from overtile.pipelines.label.viewers import train_status
from overtile.pipelines.reading import read_image, read_label

routes = APIRouter()
_PAGE = {"": "text/html", "annotate.js": "text/javascript", "annotate.css": "text/css"}


@routes.get("/", include_in_schema=False)
def home() -> Response:
    """The page; MONAI Label would give its list of routes, which is at /docs."""
    return RedirectResponse("/annotate/")


@routes.get("/annotate/data")
def data(user: User = user) -> dict[str, Any]:
    """Images, models and strategies."""
    store, app = studies(), instance()
    done = store.labelled()
    return {
        "name": store.name(),
        "images": [{"id": i, "labelled": i in done} for i in store.images()],
        "unreadable": store.unreadable(),
        "read_only": store.read_only,
        "models": [name for name, task in app._infers.items() if task.dimension == 2],
        "strategies": list(app._strategies),
    }


@routes.get("/annotate/image")
def picture(id: str, user: User = user) -> Response:
    """The grey values of an image as PNG of 8 bits, 0.5 % of them clipped at either end."""
    path = flat_image(id)
    try:
        grey = read_image(path, 2, instance().channel)[0].astype(np.float32)
    except DataError as error:
        raise RefusedError(str(error).removesuffix(f" {GOES_ON}")) from None
    low, high = np.percentile(grey[:: max(1, len(grey) // 1000)], (0.5, 99.5))
    bits = np.clip((grey - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    if columns_first(path):
        bits = np.ascontiguousarray(bits.T)
    out = io.BytesIO()
    Image.fromarray(bits).save(out, "PNG", compress_level=1)
    return Response(out.getvalue(), media_type="image/png")


@routes.get("/annotate/label")
def label(id: str, tag: str = FINAL, user: User = user) -> Response:
    """Cell numbers of a label, as `_raw` has them, and its version; 404 without one."""
    path, found = flat_image(id), studies().label_of(id, tag)
    if found is None:
        raise MissingError(f"image {id!r}: no label with the tag {tag!r}")
    version = {"X-Version": _version(found)}  # before it is read: what comes then is newer
    return _raw(read_label(found, 2, path)[0], path, version)


def _version(label: Path | None) -> str:
    """What changes with a file; empty without one."""
    return "" if label is None else str(label.stat().st_mtime_ns)


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
    user: User = annotator,
) -> dict[str, Any]:
    """Keep cell numbers, sent as `_raw` has them, as the final label of an image.

    With the ``version`` of the label that they were made from, empty for none, a label that was
    changed since is kept: 409.
    """
    body = await request.body()
    return await run_in_threadpool(_submit, body, id, width, height, version, user.username)


def _submit(
    body: bytes, id: str, width: int, height: int, version: str | None, who: str
) -> dict[str, Any]:
    path = flat_image(id)
    if version is not None and version != _version(studies().label_of(id, FINAL)):
        raise ConflictError(f"image {id!r}: its final label was changed since it was opened here")
    if min(width, height) < 1 or len(body) != 4 * width * height:
        raise RefusedError(f"{len(body)} bytes; expected 4 for each of {width}x{height} pixels")
    cells = np.frombuffer(body, "<u4").reshape(height, width)
    if cells.max() >= 2**31:
        raise RefusedError(f"cell number {cells.max()}; expected less than 2^31")
    if columns_first(path):
        cells = cells.T
    with tempfile.TemporaryDirectory(prefix="overtile-") as folder:
        file = write_label(Path(folder) / "label", cells, path)
        studies().save_label(id, str(file), FINAL, {"user": who, "viewer": "annotate"})
    now = _version(studies().label_of(id, FINAL))
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


@routes.get("/annotate")
@routes.get("/annotate/")
@routes.get("/annotate/{name}")
def page(name: str = "") -> Response:
    """The page, its script and its style."""
    if name not in _PAGE:
        raise MissingError(f"{name[:100]}: no part of the page")
    part = files("overtile.pipelines.label") / "page" / (name or "annotate.html")
    return Response(part.read_bytes(), media_type=f"{_PAGE[name]}; charset=utf-8")
