"""MONAI Label's server with our checks before it, and the page for annotating.

Uvicorn serves ``app``. MONAI Label's own routes answer where none of ours does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import get_current_user
from monailabel.interfaces.exception import MONAILabelException

from overtile.networks import GeometryError
from overtile.pipelines.errors import FULL, OvertileError, users_mistake
from overtile.pipelines.label.endpoints import (
    images_and_labels,
    login,
    logs,
    next_image,
    page,
    proposals,
    trainings,
)
from overtile.pipelines.label.middleware import SecurityMiddleware, failed, refused
from overtile.pipelines.label.refusals import ForbiddenError, RefusedError

HOSTS, LIMIT = "OVERTILE_LABEL_HOSTS", "OVERTILE_LABEL_LIMIT"
"""Environment: names that the server is reached under, by commas; bytes of a request at most."""

with contextlib.redirect_stdout(io.StringIO()):  # it says that pages of all origins may ask
    from monailabel.app import app


def _answer(request: Request, error: Exception) -> Response:
    mistake = users_mistake(error)
    assert mistake is not None
    return refused(mistake)


def _answer_monai(request: Request, error: Exception) -> Response:
    found = getattr(error, "msg", None) or str(error)
    return refused(RefusedError(found=found, hint="GET /info/ lists what there is to ask for"))


def _answer_json(request: Request, error: Exception) -> Response:
    return refused(RefusedError(found=f"no JSON ({error})", expected="an object"))


def _answer_nested(request: Request, error: Exception) -> Response:
    return refused(RefusedError(found="JSON nested too deep", expected="an object"))


def _answer_invalid(request: Request, error: Exception) -> Response:
    faults: Iterable[Mapping[str, Any]] = getattr(error, "errors", list)()
    told = (f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}" for fault in faults)
    return JSONResponse({"detail": "; ".join(told)}, 422)


def _answer_system(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    full = error.errno in FULL
    told = ForbiddenError(
        Path(os.fsdecode(error.filename)) if error.filename else "a file of the server",
        error.strerror or str(error),
        "a file or folder that the server can use",
        "make room on its disk" if full else (),
    )
    answer = refused(told)
    missing = isinstance(error, FileNotFoundError)
    answer.status_code = 507 if full else 404 if missing else 403
    return answer


def _answer_defect(request: Request, error: Exception) -> Response:
    return failed()


for kind in (OvertileError, GeometryError):
    app.add_exception_handler(kind, _answer)
app.add_exception_handler(MONAILabelException, _answer_monai)
app.add_exception_handler(json.JSONDecodeError, _answer_json)
app.add_exception_handler(OSError, _answer_system)
app.add_exception_handler(RecursionError, _answer_nested)
app.add_exception_handler(RequestValidationError, _answer_invalid)
app.add_exception_handler(Exception, _answer_defect)
theirs = list(app.router.routes)
app.router.routes.clear()
for ours in (images_and_labels, proposals, trainings, next_image, logs, page, login):
    app.include_router(ours.routes)
app.router.routes.extend(theirs)
if settings.MONAI_LABEL_AUTH_ENABLE:
    app.dependency_overrides[get_current_user] = login.asking
app.add_middleware(
    SecurityMiddleware,
    hosts=tuple(filter(None, os.environ.get(HOSTS, "").split(","))),
    limit=int(os.environ.get(LIMIT, 512 * 2**20)),
)
