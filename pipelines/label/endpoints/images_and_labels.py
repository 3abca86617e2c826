"""Routes that take images, labels and what is noted of them, with our checks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, UploadFile
from monailabel.endpoints.user.auth import User
from numpy.typing import NDArray
from pydantic import Field

from overtile.pipelines.images.read import open_view
from overtile.pipelines.label.datastore import FINAL
from overtile.pipelines.label.endpoints.dependencies import (
    annotator,
    columns_first,
    datastore,
    flat_image,
    name_of,
    parameters,
    uploaded,
    user,
)
from overtile.pipelines.label.polygons import filled, read_asap
from overtile.pipelines.label.refusals import MissingError, RefusedError

routes = APIRouter()


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
    if name_of(label).endswith(".xml"):
        kept = datastore().save_cells(image, _drawn(label, flat_image(image)), tag, info)
    else:
        with uploaded(label) as path:
            kept = datastore().save_label(image, str(path), tag, info)
    return {"image": image, "label": kept}


def _drawn(polygons: UploadFile, image: Path) -> NDArray[Any]:
    """Polygons as cell numbers of an image."""
    swapped, name = columns_first(image), name_of(polygons)[:100]
    rows, columns = open_view(image, 2).shape[:: -1 if swapped else 1]
    cells = filled(read_asap(polygons.file, name), (rows, columns))
    if not cells.any():
        raise RefusedError(
            name,
            f"no polygon holds a pixel of the image, which is {columns} wide and {rows} high",
            "x and y in its pixels",
        )
    return cells.T if swapped else cells


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
        return {"image": datastore().add_image(image or "", str(path), info)}


@routes.head("/datastore/image")
def check_image(image: str, check_sum: str = "", user: User = user) -> None:
    """Whether there is an image, of this digest: ``SHA256:...``, ``SHA512:...`` or ``MD5:...``."""
    path = datastore().path_of(image)
    kind, _, digest = check_sum.rpartition(":")
    if not check_sum:
        return
    if (kind or "SHA256") not in ("SHA256", "SHA512", "MD5") or not path.is_file():
        raise RefusedError(f"check_sum {check_sum[:100]!r}", expected="SHA256:DIGEST, of a file")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind or "SHA256").hexdigest()
        if found != digest.lower():
            raise MissingError(
                f"image {image!r}", "of another digest", f"{kind or 'SHA256'}:{found}"
            )


@routes.put("/datastore/image/info")
def note_image(image: str, info: Annotated[str, Form()] = "{}", user: User = annotator) -> None:
    """Note something of an image."""
    datastore().update_image_info(image, {**parameters(info, "info"), "user": user.username})


@routes.put("/datastore/label/info")
def note_label(
    label: str, tag: str, info: Annotated[str, Form()] = "{}", user: User = annotator
) -> None:
    """Note something of a label."""
    datastore().update_label_info(label, tag, {**parameters(info, "info"), "user": user.username})


@routes.put("/datastore/updatelabelinfo")
def note_label_as_before(
    label: str, tag: str, params: Annotated[str, Form()] = "{}", user: User = annotator
) -> None:
    """Note something of a label, as older clients ask."""
    note_label(label, tag, params, user)


Pixels = Annotated[int, Field(gt=-(2**31), lt=2**31)]
