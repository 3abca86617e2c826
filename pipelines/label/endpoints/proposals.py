"""Routes that ask a network: one image, several, a region as polygons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, File, Form, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse, Response
from monailabel.config import settings
from monailabel.endpoints.batch_infer import run as run_batch
from monailabel.endpoints.infer import ResultType
from monailabel.endpoints.user.auth import User
from monailabel.endpoints.wsi_infer import ResultType as SlideResult
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.utils.others.generic import get_mime_type
from monailabel.utils.others.pathology import (
    create_asap_annotations_xml,
    create_dsa_annotations_json,
)
from pydantic import BaseModel, ValidationError
from requests_toolbelt import MultipartEncoder

from overtile.pipelines.label.app import batch_options
from overtile.pipelines.label.endpoints.dependencies import (
    admin,
    check_role,
    columns_first,
    datastore,
    flat_image,
    instance,
    parameters,
    uploaded,
    user,
)
from overtile.pipelines.label.endpoints.images_and_labels import Pixels
from overtile.pipelines.label.polygons import as_annotations
from overtile.pipelines.label.refusals import RefusedError

routes = APIRouter()


@routes.post("/infer/{model}")
def infer(
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
        raise RefusedError("output dicom_seg", expected="image, json or all")
    if file is None:
        result = instance().infer(request)
    else:
        with uploaded(file) as path:
            result = instance().infer({**request, "upload": str(path)})
    return _answer(result, output)


def _answer(result: dict[str, Any], output: ResultType | None) -> Any:
    """As MONAI Label answers; its own function removes the file, though it be one that is kept."""
    file, told = Path(result["file"]), result["params"]
    content = file.read_bytes()
    if result["label"] == result["file"]:  # made for this answer
        file.unlink()
    if output is ResultType.json:
        return told
    kind = get_mime_type(str(file))
    if output is ResultType.image:
        plain = quote(file.name) == file.name
        named = f'="{file.name}"' if plain else f"*=utf-8''{quote(file.name)}"
        named = f"attachment; filename{named}"
        return Response(content, media_type=kind, headers={"Content-Disposition": named})
    parts = MultipartEncoder(
        {
            "params": (None, json.dumps(told), "application/json"),
            "image": (file.name, content, kind),
        }
    )
    return Response(parts.to_string(), media_type=parts.content_type)


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
    datastore().check_writable()
    most, tag = batch_options(params or {})
    return run_batch(model, images, {"max_batch_size": most, "label_tag": tag}, run_sync)


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
    """Cells, or regions of classes, of an image of the studies folder as polygons."""
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
        raise RefusedError("wsi", expected="location and size, two numbers each") from None
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
        "annotations": as_annotations(rows, region.location, region.size, task.classes),
    }
    if output is SlideResult.json:
        return told
    asap = output is SlideResult.asap
    write = create_asap_annotations_xml if asap else create_dsa_annotations_json
    file, _ = write(told, "WARNING")
    background_tasks.add_task(Path(file).unlink)
    return FileResponse(file, media_type="text/xml" if asap else "application/json")
