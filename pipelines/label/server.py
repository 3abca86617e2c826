"""MONAI Label's server with our checks before it, and the page for annotating.

Uvicorn serves ``app``. MONAI Label's own routes answer where none of ours does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import requests
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from monailabel.app import app
from monailabel.interfaces.exception import MONAILabelException

from overtile.networks import GeometryError
from overtile.pipelines.errors import OvertileError
from overtile.pipelines.label import annotate, viewers
from overtile.pipelines.label.guard import Guard, refused
from overtile.pipelines.label.refusals import RefusedError

HOSTS, LIMIT = "OVERTILE_LABEL_HOSTS", "OVERTILE_LABEL_LIMIT"
"""Environment: names that the server is reached under, by commas; bytes of a request at most."""


def _answer(request: Request, error: Exception) -> Response:
    return refused(error)


def _answer_monai(request: Request, error: Exception) -> Response:
    return refused(RefusedError(getattr(error, "msg", None) or str(error)))


def _answer_json(request: Request, error: Exception) -> Response:
    return refused(RefusedError(f"no JSON ({error}); expected an object"))


def _answer_invalid(request: Request, error: Exception) -> Response:
    faults: Iterable[Mapping[str, Any]] = getattr(error, "errors", list)()
    told = (f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}" for fault in faults)
    return JSONResponse({"detail": "; ".join(told)}, 422)


def _answer_login(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "the server that checks who asks does not answer"}, 503)


for kind in (OvertileError, GeometryError):
    app.add_exception_handler(kind, _answer)
app.add_exception_handler(MONAILabelException, _answer_monai)
app.add_exception_handler(json.JSONDecodeError, _answer_json)
app.add_exception_handler(RequestValidationError, _answer_invalid)
app.add_exception_handler(requests.RequestException, _answer_login)
app.router.routes[:0] = [*viewers.routes.routes, *annotate.routes.routes]
app.add_middleware(
    Guard,
    hosts=tuple(filter(None, os.environ.get(HOSTS, "").split(","))),
    limit=int(os.environ.get(LIMIT, 512 * 2**20)),
)
