"""What the routes share: the app, its images, who may ask, and files that come with a request."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Depends, UploadFile
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance
from numpy.typing import NDArray

from overtile.pipelines.data.annotations import spatial_dims_of
from overtile.pipelines.data.unlabelled import check_memory
from overtile.pipelines.errors import OvertileError
from overtile.pipelines.images.formats import image_suffix, names_of_formats, open_image
from overtile.pipelines.images.read import open_view
from overtile.pipelines.label.app import OvertileLabel
from overtile.pipelines.label.datastore import ImageFolderDatastore
from overtile.pipelines.label.refusals import ForbiddenError, RefusedError, relative

user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))


def lacking(user: User, role: str, action: str) -> str:
    """Why a user may not do something that takes a role; empty for whoever has it."""
    if settings.MONAI_LABEL_AUTH_ENABLE and role not in user.roles:
        return f"role {role!r} is required to {action}"
    return ""


def check_role(user: User, role: str, action: str) -> None:
    """Refuse a part of a request that needs another role than the rest of it.

    Raises:
        ForbiddenError: if the user has not got it.
    """
    if why := lacking(user, role, action):
        raise ForbiddenError(found=why, hint="log in as somebody who has it")


def instance() -> OvertileLabel:
    """The app."""
    found: OvertileLabel = app_instance()
    return found


def datastore() -> ImageFolderDatastore:
    """Its images and labels."""
    found: ImageFolderDatastore = instance().datastore()
    return found


def parameters(text: str, name: str = "params") -> dict[str, Any]:
    """The JSON object in a field of a form.

    Raises:
        RefusedError: if it is none.
    """
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise RefusedError(name, f"no JSON ({error.msg} at {error.pos})", "an object") from None
    except ValueError:
        raise RefusedError(name, "a number of thousands of digits", "shorter ones") from None
    if not isinstance(found, dict):
        raise RefusedError(name, type(found).__name__, "a JSON object")
    return found


@contextmanager
def uploaded(file: UploadFile) -> Iterator[Path]:
    """An upload as a temporary file of a name that we choose, for readers go by it."""
    name = name_of(file)
    suffix = image_suffix(name, single=True)
    if not suffix:
        raise RefusedError(
            name[:100] or "a file without a name", expected=names_of_formats(single=True)
        )
    with tempfile.TemporaryDirectory(prefix="overtile-") as folder:
        path = Path(folder) / f"{name[: -len(suffix)][:100] or 'upload'}{suffix}"
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target, 2**20)
        try:
            yield path
        except OvertileError as error:
            raise relative(error, Path(folder)) from error


def name_of(file: UploadFile) -> str:
    """What a client calls an upload, without folders."""
    return Path((file.filename or "").replace("\0", "")).name.lower()


def flat_image(image_id: str) -> Path:
    """The file of an image of one plane, as clients of polygons show it.

    Raises:
        RefusedError: for volumes and stacks.
    """
    path = datastore().path_of(image_id)
    if spatial_dims_of(path) != 2 or open_view(path, 2).count != 1:
        raise RefusedError(
            path.name,
            "more than one plane",
            "a single image",
            ("save the planes as files of their own", "use a viewer for volumes"),
        )
    check_memory(path, open_view(path, 2).shape)
    return path


def sections(path: Path) -> tuple[int, int, int]:
    """How many sections the page shows of an image, and their rows and columns.

    Raises:
        DataError: if it cannot be read, or is too large.
        RefusedError: for a series of volumes.
    """
    dims = spatial_dims_of(path)
    seen = open_view(path, dims)
    if dims == 3 and seen.count > 1:
        raise RefusedError(
            path.name, f"{seen.count} volumes", "one", "save each as a file of its own"
        )
    check_memory(path, (seen.count, *seen.shape))
    shape = seen.shape if dims == 3 else (seen.count, *seen.shape)
    number, rows, columns = in_rows(np.broadcast_to(np.uint8(0), shape), path).shape
    return number, rows, columns


def in_rows(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """``[sections, rows, columns]`` of what a reader gives of an image.

    Volumes of NIfTI and DICOM count x first, and z last.
    """
    if array.ndim == 2:
        array = array[None]
    if not columns_first(path):
        return array
    return array.transpose() if spatial_dims_of(path) == 3 else array.swapaxes(-1, -2)


def as_read(numbers: NDArray[Any], path: Path) -> NDArray[Any]:
    """The inverse of `in_rows`, for the label of an image."""
    volume = spatial_dims_of(path) == 3  # of more than one section
    if columns_first(path):
        numbers = numbers.transpose() if volume else numbers.swapaxes(-1, -2)
    return numbers if volume or len(numbers) > 1 else numbers[0]


def columns_first(path: Path) -> bool:
    """Whether a reader gives columns first, as for NIfTI."""
    return _x_first(path, path.stat().st_mtime_ns)


@lru_cache(256)
def _x_first(path: Path, stamp: int) -> bool:
    return open_image(path).axes.startswith("X")
