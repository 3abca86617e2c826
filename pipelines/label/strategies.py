"""Where to annotate next: the images of which the network is least sure."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from overtile.pipelines.errors import DataError
from overtile.pipelines.images.stored import stamp
from overtile.pipelines.label.datastore import ImageFolderDatastore
from overtile.pipelines.label.infer import Segmenter
from overtile.pipelines.label.refusals import MissingError, RefusedError

CANDIDATES = 8  # images that a request looks at, at most: somebody waits for its answer


class Uncertainty(ScoringMethod):
    """Score images by how much several answers of a network contradict each other.

    Scores are noted with the images, and hold until the network or the image changes.

    Args:
        segmenter: of the network.
        method: of `overtile.pipelines.inference.uncertainty.uncertainty`.
    """

    def __init__(self, segmenter: Segmenter, method: str) -> None:
        super().__init__(f"Disagreement of {segmenter.bundle.name} with itself: {method}")
        self.segmenter, self.method = segmenter, method
        self.key = f"uncertainty_{method}_{segmenter.bundle.name}"

    def __call__(self, request: dict[str, Any], datastore: ImageFolderDatastore) -> dict[str, Any]:
        """Score all images without a final label that have no score of this network yet."""
        known = self.known(datastore)
        waiting = [i for i in datastore.get_unlabeled_images() if i not in known]
        scored = {image: self.score(datastore, image) for image in waiting}
        return {image: value for image, value in scored.items() if value is not None}

    def known(self, datastore: ImageFolderDatastore) -> dict[str, float]:
        """The scores that are of the present network and image, by image."""
        images, noted = datastore.images(), datastore.noted()
        entries = {i: e for i in images if isinstance(e := noted.get(i, {}).get(self.key), dict)}
        return {
            i: e["value"]
            for i, e in entries.items()
            if isinstance(e.get("value"), float) and e == {**e, **self._seen(images[i])}
        }

    def score(self, datastore: ImageFolderDatastore, image: str) -> float | None:
        """Score an image and note it; None for one that this network does not take."""
        try:
            path = datastore.path_of(image)
            seen = self._seen(path)
            value = self.segmenter.unsureness(path, self.method)
        except (DataError, RefusedError):
            return None
        if not datastore.read_only:
            datastore.update_image_info(image, {self.key: {"value": value, **seen}})
        return value

    def _seen(self, image: Path) -> dict[str, str]:
        """What a score is of."""
        network = f"{self.segmenter.trained.facts['weights']} {self.segmenter.channels}"
        return {"network": network, "image": stamp(image)}


class MostUncertain(Strategy):
    """The image without a final label of which the network is least sure.

    Where many have no score yet, some of them, chosen by chance, are scored at once; all are
    scored by the scoring method of the same name.

    Args:
        methods: by model, of one kind.
        first: the model that is asked when the request names none.
    """

    def __init__(self, methods: dict[str, Uncertainty], first: str) -> None:
        super().__init__(f"Least sure of its cells ({methods[first].method})")
        self.methods, self.first = methods, first

    def __call__(
        self, request: dict[str, Any], datastore: ImageFolderDatastore
    ) -> dict[str, Any] | None:
        """The image, with its score; None when all have labels."""
        name = request.get("model") or self.first
        if not isinstance(name, str) or name not in self.methods:
            raise MissingError(f"model {name!r}", expected=f"one of {', '.join(self.methods)}")
        method = self.methods[name]
        left = datastore.get_unlabeled_images()
        scores: dict[str, float | None] = dict(method.known(datastore))
        unknown = [i for i in left if i not in scores]
        chance = random.Random(f"{request.get('seed', 0)}-{len(left)}")
        for image in chance.sample(unknown, min(len(unknown), CANDIDATES)):
            scores[image] = method.score(datastore, image)
        known = {i: v for i in left if (v := scores.get(i)) is not None}
        if not known:
            return None
        best = max(known, key=lambda i: (known[i], i))
        return {"id": best, "weight": known[best]}


class Plain(Strategy):
    """An image without a final label, chosen without looking at it.

    Args:
        description: for people.
        choose: one of several images, given the request.
    """

    def __init__(
        self, description: str, choose: Callable[[list[str], dict[str, Any]], str]
    ) -> None:
        super().__init__(description)
        self.choose = choose

    def __call__(
        self, request: dict[str, Any], datastore: ImageFolderDatastore
    ) -> dict[str, Any] | None:
        """The image; None when all have labels."""
        left = datastore.get_unlabeled_images()
        return {"id": self.choose(left, request), "weight": 0} if left else None


def by_chance(images: list[str], request: dict[str, Any]) -> str:
    """Any of them; the same again for the same ``seed``."""
    seed = request.get("seed")
    return random.Random(None if seed is None else f"{seed}-{len(images)}").choice(images)


def in_order(images: list[str], request: dict[str, Any]) -> str:
    """The first by name."""
    return images[0]
