"""Routes that show the server's log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from monailabel.endpoints.logs import get_logs
from monailabel.endpoints.user.auth import User

from overtile.pipelines.label.endpoints.dependencies import admin, instance, user
from overtile.pipelines.label.refusals import MissingError

routes = APIRouter()


@routes.get("/logs/")
def log(lines: Annotated[int, Query(ge=0, lt=2**31)] = 300, user: User = admin) -> Any:
    """The last lines of the log, 0 for all, as text: MONAI Label's page of it fetches scripts."""
    return get_logs(str(instance().home / "logs" / "app.log"), lines, False, True, 0)


@routes.get("/logs/gpu")
def no_gpu_log(user: User = user) -> None:
    """Refused: it needs NVIDIA's own command."""
    raise MissingError(found="not served here", hint="run nvidia-smi")
