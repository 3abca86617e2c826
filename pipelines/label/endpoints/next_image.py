"""Routes that say which image to annotate next."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from monailabel.endpoints.activelearning import sample
from monailabel.endpoints.scoring import run_method
from monailabel.endpoints.user.auth import User

from overtile.pipelines.label.datastore import ImageFolderDatastore
from overtile.pipelines.label.endpoints.dependencies import annotator, datastore, instance, user
from overtile.pipelines.label.refusals import MissingError, RefusedError

routes = APIRouter()


@routes.post("/activelearning/{strategy}")
def next_image(strategy: str, params: dict[str, Any] | None = None, user: User = user) -> Any:
    """The image to annotate next; none of those in ``skip``, a list of ids."""
    known = instance()._strategies
    if strategy not in known:
        raise MissingError(f"strategy {strategy!r}", expected=f"one of {', '.join(known)}")
    params = {
        k: v for k, v in (params or {}).items() if k in ("model", "seed", "skip", "client_id")
    }
    if "skip" not in params:
        return sample(strategy, params, user.username)
    skip = params["skip"]
    if not isinstance(skip, list) or not all(isinstance(i, str) for i in skip):
        raise RefusedError("skip", expected="a list of ids of images")
    return known[strategy](params, _Without(datastore(), skip)) or {}


class _Without(ImageFolderDatastore):
    """The images, of which some wait for no label."""

    def __init__(self, whole: ImageFolderDatastore, skip: list[str]) -> None:
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
        raise MissingError(f"scoring {method!r}", expected=f"one of {', '.join(known)}")
    return run_method(method, {}, run_sync)
