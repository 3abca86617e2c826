"""MONAI Label's server with our checks before it, and the page for annotating.

Uvicorn serves ``app``. MONAI Label's own routes answer where none of these does.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints.activelearning import sample
from monailabel.endpoints.batch_infer import run as run_batch
from monailabel.endpoints.infer import ResultType, send_response
from monailabel.endpoints.scoring import run_method
from monailabel.endpoints.train import run_model, status
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.utils import tasks
from PIL import Image

from overtile.networks import GeometryError
from overtile.pipelines.errors import OvertileError
from overtile.pipelines.formats import SUFFIXES, open_image
from overtile.pipelines.label.app import OvertileLabel
from overtile.pipelines.label.guard import Guard, refused
from overtile.pipelines.label.refusals import (
    ConflictError,
    ForbiddenError,
    MissingError,
    RefusedError,
)
from overtile.pipelines.label.results import spatial_dims_of, write_label
from overtile.pipelines.label.studies import FINAL, Studies
from overtile.pipelines.label.train import checked, stop_training, trainable
from overtile.pipelines.reading import open_view, read_image, read_label
from overtile.transforms import NormalizeImage

HOSTS, LIMIT = "OVERTILE_LABEL_HOSTS", "OVERTILE_LABEL_LIMIT"
"""Environment: names that the server is reached under, by commas; bytes of a request at most."""

_PAGE = {"": "text/html", "annotate.js": "text/javascript", "annotate.css": "text/css"}
_PROGRESS = re.compile(r"epoch (\d+)/(\d+)(?::\s+(\d+)%)?")

user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))
routes = APIRouter()


def instance() -> OvertileLabel:
    """The app."""
    found: OvertileLabel = app_instance()
    return found


def studies() -> Studies:
    """Its images and labels."""
    found: Studies = instance().datastore()
    return found


def _parameters(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise RefusedError(
            f"params: no JSON ({error.msg} at {error.pos}); expected an object"
        ) from None
    if not isinstance(found, dict):
        raise RefusedError(f"params: {type(found).__name__}; expected a JSON object")
    return found


@contextmanager
def _uploaded(file: UploadFile) -> Iterator[Path]:
    """An upload as a temporary file of a name that we choose."""
    name = Path((file.filename or "").replace("\0", "")).name.lower()
    suffix = next((s for s in SUFFIXES if name.endswith(s)), None)
    if suffix is None or suffix.endswith(".zarr"):
        raise RefusedError(
            f"{name[:100] or 'a file without a name'}: expected TIFF, PNG, JPEG or NIfTI"
        )
    with tempfile.TemporaryDirectory(prefix="overtile-") as folder:
        path = Path(folder) / f"{name[: -len(suffix)][:100] or 'upload'}{suffix}"
        with path.open("wb") as target:
            while part := file.file.read(2**20):
                target.write(part)
        yield path


# what MONAI Label's clients ask for


@routes.post("/infer/{model}")
def infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
    user: User = user,
) -> Any:
    """Segment an image of the studies folder, or one that comes with the request."""
    instance().segmenter(model)
    wanted = {k: v for k, v in _parameters(params).items() if k in ("save_label", "label_tag")}
    request = {"model": model, "image": image, **wanted}
    if output is ResultType.dicom_seg:
        raise RefusedError("output dicom_seg: expected image, json or all")
    if file is None:
        result = instance().infer(request)
    else:
        with _uploaded(file) as path:
            result = instance().infer({**request, "upload": str(path)})
    return send_response(studies(), result, output, background_tasks)


@routes.post("/batch/infer/{model}")
def batch_infer(
    model: str,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
    user: User = admin,
) -> Any:
    """Propose labels for many images, one after the other, in a process of its own."""
    instance().segmenter(model)
    studies().check_writable()
    return run_batch(model, images, params, run_sync)


@routes.get("/train/")
def train_status(all: bool = False, check_if_running: bool = False, user: User = user) -> Any:
    """What MONAI Label says of its trainings, and how far each has come."""
    found = status(all, check_if_running)
    for task in found if isinstance(found, list) else [found]:
        task["progress"] = _progress(list(task.get("details", ())), task["status"])
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
    raise RefusedError("name a model: POST /train/MODEL")


@routes.post("/train/{model}")
def train(model: str, params: dict[str, Any] | None = None, user: User = admin) -> Any:
    """Train on the final labels; `train_status` says how far it is."""
    instance().segmenter(model)
    checked(params or {})
    trainable(studies())
    studies().check_writable()
    if any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks("train")):
        raise ConflictError("a training goes on; wait for its end, or stop it with DELETE /train/")
    return run_model(model, params)


@routes.delete("/train/")
def stop(user: User = admin) -> Any:
    """End the training that goes on; its run is marked as KILLED."""
    task = stop_training(instance().runs)
    if task is None:
        raise MissingError("no training goes on")
    return task


@routes.post("/activelearning/{strategy}")
def next_image(strategy: str, params: dict[str, Any] | None = None, user: User = user) -> Any:
    """The image to annotate next."""
    known = instance()._strategies
    if strategy not in known:
        raise MissingError(f"strategy {strategy!r}: expected one of {', '.join(known)}")
    return sample(strategy, params, user.username)


@routes.post("/scoring/{method}")
def scoring(
    method: str,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
    user: User = annotator,
) -> Any:
    """Score all images without a final label, in a process of its own."""
    known = instance()._scoring_methods
    if method not in known:
        raise MissingError(f"scoring {method!r}: expected one of {', '.join(known)}")
    return run_method(method, params, run_sync)


@routes.put("/datastore/label")
def save_label(
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = FINAL,
    user: User = annotator,
) -> dict[str, str]:
    """Keep the label of an image."""
    info = {**_parameters(params), "user": user.username}
    with _uploaded(label) as path:
        return {"image": image, "label": studies().save_label(image, str(path), tag, info)}


@routes.put("/datastore/image")
@routes.put("/datastore/")
def add_image(
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
    user: User = annotator,
) -> dict[str, str]:
    """Take an image into the studies folder."""
    info = {**_parameters(params), "user": user.username}
    with _uploaded(file) as path:
        return {"image": studies().add_image(image or "", str(path), info)}


@routes.put("/model/{model}")
@routes.delete("/model/{model}")
def change_model(model: str, user: User = admin) -> None:
    """Refused: a network is what a training made it."""
    raise ForbiddenError("networks are changed by training alone")


@routes.get("/logs/gpu")
@routes.post("/infer/wsi/{model}")
@routes.post("/infer/wsi_v2/{model}")
@routes.post("/infer/wsi_infer/{model}")
def not_served(model: str = "", user: User = user) -> None:
    """Refused: slides go through the same overlapping tiles as every image."""
    raise MissingError("not served here; POST /infer/MODEL takes images of any size")


# what the page asks for


@routes.get("/annotate/data")
def data(user: User = user) -> dict[str, Any]:
    """Images, models and strategies."""
    store, app = studies(), instance()
    flat = {name for name, s in app._infers.items() if s.dimension == 2}
    return {
        "name": store.name(),
        "images": [
            {"id": i, "labelled": store.label_of(i, FINAL) is not None} for i in store.images()
        ],
        "unreadable": store.unreadable(),
        "read_only": store.read_only,
        "models": [name for name in app._infers if name in flat],
        "strategies": list(app._strategies),
    }


@routes.get("/annotate/image")
def picture(id: str, user: User = user) -> Response:
    """The grey values of an image as PNG of 8 bits, 0.5 % of them clipped at either end."""
    path = _flat(id)
    grey = read_image(path, 2, None)[0].astype(np.float32)
    scaled = NormalizeImage("percentile")(grey[None])[0]
    low, high = np.percentile(scaled[:: max(1, grey.shape[0] // 1000)], (0.5, 99.5))
    bits = np.clip((scaled - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    if columns_first(path):
        bits = np.ascontiguousarray(bits.T)
    out = io.BytesIO()
    Image.fromarray(bits).save(out, "PNG", compress_level=1)
    return Response(out.getvalue(), media_type="image/png")


@routes.get("/annotate/label")
def label(id: str, tag: str = FINAL, user: User = user) -> Response:
    """Cell numbers of a label, as `_raw` has them; 404 without one."""
    path, found = _flat(id), studies().label_of(id, tag)
    if found is None:
        raise MissingError(f"image {id!r}: no label with the tag {tag!r}")
    return _raw(read_label(found, 2, path)[0], path)


@routes.post("/annotate/proposal")
def proposal(id: str, model: str, user: User = user) -> Response:
    """Cell numbers that a model proposes, as `_raw` has them."""
    path = _flat(id)
    return _raw(instance().segmenter(model).segment(path), path)


@routes.put("/annotate/label")
async def submit(
    request: Request, id: str, width: int, height: int, user: User = annotator
) -> dict[str, Any]:
    """Keep cell numbers, sent as `_raw` has them, as the final label of an image."""
    return await run_in_threadpool(_submit, await request.body(), id, width, height, user.username)


def _submit(body: bytes, id: str, width: int, height: int, who: str) -> dict[str, Any]:
    path = _flat(id)
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
    return {"image": id, "cells": len(np.unique(cells[cells > 0]))}


def _raw(cells: Any, path: Path) -> Response:
    """Rows of uint32, little-endian, with the size of the image in two headers."""
    rows = cells.T if columns_first(path) else cells
    height, width = rows.shape
    return Response(
        np.ascontiguousarray(rows, "<u4").tobytes(),
        media_type="application/octet-stream",
        headers={"X-Width": str(width), "X-Height": str(height)},
    )


def _flat(image_id: str) -> Path:
    """The file of an image that the page can show.

    Raises:
        RefusedError: for volumes and stacks.
    """
    path = studies().path_of(image_id)
    if spatial_dims_of(path) != 2 or open_view(path, 2).count != 1:
        raise RefusedError(
            f"{path.name}: more than one plane; the page shows single images: save the planes as "
            "files of their own, or use a viewer for volumes"
        )
    return path


def columns_first(path: Path) -> bool:
    """Whether a reader gives columns first, as for NIfTI."""
    return _x_first(path, path.stat().st_mtime_ns)


@lru_cache(256)
def _x_first(path: Path, stamp: int) -> bool:
    return open_image(path).axes.startswith("X")


@routes.get("/annotate")
@routes.get("/annotate/")
@routes.get("/annotate/{name}")
def page(name: str = "") -> Response:
    """The page, its script and its style."""
    if name not in _PAGE:
        raise MissingError(f"{name[:100]}: no part of the page")
    part = files("overtile.pipelines.label") / "page" / (name or "annotate.html")
    return Response(part.read_bytes(), media_type=f"{_PAGE[name]}; charset=utf-8")


def _answer(request: Request, error: Exception) -> Response:
    return refused(error)


def _answer_monai(request: Request, error: Exception) -> Response:
    return refused(RefusedError(getattr(error, "msg", None) or str(error)))


for kind in (OvertileError, GeometryError):
    app.add_exception_handler(kind, _answer)
app.add_exception_handler(MONAILabelException, _answer_monai)
app.router.routes[:0] = routes.routes
app.add_middleware(
    Guard,
    hosts=tuple(filter(None, os.environ.get(HOSTS, "").split(","))),
    limit=int(os.environ.get(LIMIT, 512 * 2**20)),
)
