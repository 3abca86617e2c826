"""The routes that viewers know from MONAI Label, with our checks: they replace its own."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.activelearning import sample
from monailabel.endpoints.batch_infer import run as run_batch
from monailabel.endpoints.infer import ResultType, send_response
from monailabel.endpoints.logs import get_logs
from monailabel.endpoints.scoring import run_method
from monailabel.endpoints.train import run_model, status
from monailabel.endpoints.user.auth import User
from monailabel.endpoints.wsi_infer import ResultType as SlideResult
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.utils.async_tasks.utils import tasks
from monailabel.utils.others.pathology import (
    create_asap_annotations_xml,
    create_dsa_annotations_json,
)
from pydantic import BaseModel, Field, ValidationError

from overtile.pipelines.images.read import open_view
from overtile.pipelines.label.app import batch_options
from overtile.pipelines.label.polygons import as_annotations, filled, read_asap
from overtile.pipelines.label.refusals import (
    ConflictError,
    ForbiddenError,
    MissingError,
    RefusedError,
)
from overtile.pipelines.label.results import write_label
from overtile.pipelines.label.shared import (
    admin,
    annotator,
    check_role,
    columns_first,
    flat_image,
    instance,
    parameters,
    studies,
    uploaded,
    user,
)
from overtile.pipelines.label.studies import FINAL, Studies
from overtile.pipelines.label.train import checked, stop_training

routes = APIRouter()
_STARTING = threading.Lock()  # of two requests to train, the latter sees the training
_PROGRESS = re.compile(r"epoch (\d+)/(\d+)(?::\s+(\d+)%)?")


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
    given = parameters(params)
    wanted = {k: v for k, v in given.items() if k in ("save_label", "label_tag")}
    if wanted.get("save_label"):
        check_role(user, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR, "save labels")
    polygons = given.get("output") == "json"  # as CVAT's function asks
    request = {"model": model, "image": image, "polygons": polygons, **wanted}
    if output is ResultType.dicom_seg:
        raise RefusedError("output dicom_seg: expected image, json or all")
    if file is None:
        result = instance().infer(request)
    else:
        with uploaded(file) as path:
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
    most, tag = batch_options(params or {})
    return run_batch(model, images, {"max_batch_size": most, "label_tag": tag}, run_sync)


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
    """Train on the final labels; `train_status` says how far it is.

    ``left_out`` in the answer says which of them cannot be trained on, and why.
    """
    instance().segmenter(model)
    options = checked(params or {})  # and nothing else: MONAI Label puts them on a command line
    studies().check_writable()
    _, left_out = instance()._trainers[model].trainable(studies())
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
                "a training goes on; wait for its end, or stop it with DELETE /train/"
            )
        yield


@routes.delete("/train/")
def stop(user: User = admin) -> Any:
    """End the training that goes on; its run is marked as KILLED."""
    task = stop_training(instance().runs)
    if task is None:
        raise MissingError("no training goes on")
    return task


@routes.post("/activelearning/{strategy}")
def next_image(strategy: str, params: dict[str, Any] | None = None, user: User = user) -> Any:
    """The image to annotate next; none of those in ``skip``, a list of ids."""
    known = instance()._strategies
    if strategy not in known:
        raise MissingError(f"strategy {strategy!r}: expected one of {', '.join(known)}")
    params = {
        k: v for k, v in (params or {}).items() if k in ("model", "seed", "skip", "client_id")
    }
    if "skip" not in params:
        return sample(strategy, params, user.username)
    skip = params["skip"]
    if not isinstance(skip, list) or not all(isinstance(i, str) for i in skip):
        raise RefusedError("skip: expected a list of ids of images")
    return known[strategy](params, _Without(studies(), skip)) or {}


class _Without(Studies):
    """Studies in which some images wait for no label."""

    def __init__(self, whole: Studies, skip: list[str]) -> None:
        self.__dict__.update(vars(whole))
        self._skip = frozenset(skip)

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Ids of the others that have none."""
        return [i for i in super().get_unlabeled_images(label_tag, labels) if i not in self._skip]


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
    return run_method(method, {}, run_sync)


@routes.put("/datastore/label")
def save_label(
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = FINAL,
    user: User = annotator,
) -> dict[str, str]:
    """Keep the label of an image: an image of cell numbers, or polygons of ASAP (XML)."""
    info = {**parameters(params), "user": user.username}
    with uploaded(label, ".xml") as path:
        file = _drawn(path, flat_image(image)) if path.suffix == ".xml" else path
        return {"image": image, "label": studies().save_label(image, str(file), tag, info)}


def _drawn(polygons: Path, image: Path) -> Path:
    """Polygons as an image of cell numbers beside them."""
    swapped = columns_first(image)
    rows, columns = open_view(image, 2).shape[:: -1 if swapped else 1]
    cells = filled(read_asap(polygons), (rows, columns))
    if not cells.any():
        raise RefusedError(
            f"{polygons.name}: no polygon holds a pixel of the image, which is {columns} wide and "
            f"{rows} high; expected x and y in its pixels"
        )
    return write_label(polygons.with_name("drawn"), cells.T if swapped else cells, image)


@routes.put("/datastore/image")
@routes.put("/datastore/")
def add_image(
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
    user: User = annotator,
) -> dict[str, str]:
    """Take an image into the studies folder."""
    info = {**parameters(params), "user": user.username}
    with uploaded(file) as path:
        return {"image": studies().add_image(image or "", str(path), info)}


@routes.head("/datastore/image")
def check_image(image: str, check_sum: str = "", user: User = user) -> None:
    """Whether there is an image, of this digest: ``SHA256:...``, ``SHA512:...`` or ``MD5:...``."""
    path = studies().path_of(image)
    kind, _, digest = check_sum.rpartition(":")
    if not check_sum:
        return
    if (kind or "SHA256") not in ("SHA256", "SHA512", "MD5") or not path.is_file():
        raise RefusedError(f"check_sum {check_sum[:100]!r}: expected SHA256:DIGEST, of a file")
    with path.open("rb") as file:
        if hashlib.file_digest(file, kind or "SHA256").hexdigest() != digest.lower():
            raise MissingError(f"image {image!r}: of another digest")


@routes.put("/datastore/image/info")
def note_image(image: str, info: Annotated[str, Form()] = "{}", user: User = annotator) -> None:
    """Note something of an image."""
    studies().update_image_info(image, {**parameters(info, "info"), "user": user.username})


@routes.put("/datastore/label/info")
def note_label(
    label: str, tag: str, info: Annotated[str, Form()] = "{}", user: User = annotator
) -> None:
    """Note something of a label."""
    studies().update_label_info(label, tag, {**parameters(info, "info"), "user": user.username})


@routes.put("/datastore/updatelabelinfo")
def note_label_as_before(
    label: str, tag: str, params: Annotated[str, Form()] = "{}", user: User = annotator
) -> None:
    """Note something of a label, as older clients ask."""
    note_label(label, tag, params, user)


@routes.put("/model/{model}")
@routes.delete("/model/{model}")
def change_model(model: str, user: User = admin) -> None:
    """Refused: a network is what a training made it."""
    raise ForbiddenError("networks are changed by training alone")


@routes.get("/logs/")
def log(lines: Annotated[int, Query(ge=0, lt=2**31)] = 300, user: User = admin) -> Any:
    """The last lines of the log, 0 for all, as text: MONAI Label's page of it fetches scripts."""
    return get_logs(str(instance().home / "logs" / "app.log"), lines, False, True, 0)


@routes.get("/logs/gpu")
def no_gpu_log(user: User = user) -> None:
    """Refused: it needs NVIDIA's own command."""
    raise MissingError("not served here; run nvidia-smi")


Pixels = Annotated[int, Field(gt=-(2**31), lt=2**31)]


class Region(BaseModel):
    """What viewers of slides ask for; tiles are the server's own business."""

    location: tuple[Pixels, Pixels] = (0, 0)
    size: tuple[Pixels, Pixels] = (0, 0)


@routes.post("/infer/wsi/{model}")
def infer_polygons(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    wsi: Region | None = None,
    output: SlideResult = SlideResult.dsa,
    user: User = user,
) -> Any:
    """Cells of an image of the studies folder as polygons."""
    path = flat_image(image)
    return _polygons(background_tasks, model, path, wsi or Region(), output)


@routes.post("/infer/wsi_v2/{model}")
def infer_polygons_of_upload(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    file: Annotated[UploadFile | None, File()] = None,
    wsi: Annotated[str, Form()] = "{}",
    output: SlideResult = SlideResult.dsa,
    user: User = user,
) -> Any:
    """Cells as polygons, of an image that comes with the request too."""
    try:
        region = Region(**parameters(wsi, "wsi"))
    except ValidationError:
        raise RefusedError("wsi: expected location and size, two numbers each") from None
    if file is None:
        return _polygons(background_tasks, model, flat_image(image), region, output)
    with uploaded(file) as path:
        return _polygons(background_tasks, model, path, region, output)


def _polygons(
    background_tasks: BackgroundTasks, model: str, path: Path, region: Region, output: SlideResult
) -> Any:
    task = instance().segmenter(model)
    rows = task.segment(path)
    rows = rows.T if columns_first(path) else rows
    told = {
        "name": "Overtile",
        "description": task.description,
        "model": model,
        **region.model_dump(),
        "annotations": as_annotations(rows, region.location, region.size),
    }
    if output is SlideResult.json:
        return told
    asap = output is SlideResult.asap
    write = create_asap_annotations_xml if asap else create_dsa_annotations_json
    file, _ = write(told, "WARNING")
    background_tasks.add_task(Path(file).unlink)
    return FileResponse(file, media_type="text/xml" if asap else "application/json")
