"""The networks of a model: the one that came with its bundle, the one in use, what is noted of it.

In ``models/`` of the model's folder lie ``model.pt`` with ``settings.json``, which are in use,
``trained.json`` about the training that they come from, and ``shipped.pt`` with ``shipped.json``,
as the bundle had them. They change together, and under a lock.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from overtile.pipelines.bundle.json_file import REPLACE, read_object
from overtile.pipelines.errors import ConfigurationError, OvertileError, Setting
from overtile.pipelines.files import settle, together, whole
from overtile.pipelines.images.stored import stamp
from overtile.pipelines.label.refusals import MissingError
from overtile.pipelines.metrics.score_names import name_of

VALIDATED = 5  # images from which on every fifth validates, instead of training
_WEIGHTS, _SETTINGS, _NOTE = "model.pt", "settings.json", "trained.json"
SHIPPED, _SHIPPED_SETTINGS = "shipped.pt", "shipped.json"


def copied(bundle: Path, home: Path, tested: bool = False) -> Path:
    """The model of a bundle in ``home``: a copy, unless there is one already.

    Args:
        bundle: its folder, or that of a run.
        home: folder of the models.
        tested: the bundle is known to be one.

    Raises:
        ConfigurationError: for a folder that is no bundle with a trained network, or one that
            this version cannot use; for a model that was made from another network.
        DataError: if one of its files of JSON is damaged.
    """
    for folder in (bundle, bundle / "models"):  # of a run, which may have been killed
        settle(folder)
    weights = bundle / "models" / _WEIGHTS
    for part in ("configs/inference.json", "configs/train.json", "configs/metadata.json"):
        if not (bundle / part).is_file():
            raise ConfigurationError(
                ("bundle", bundle), f"no {part} in it", hint="give a bundle or the folder of a run"
            )
        read_object(bundle / part, REPLACE)
    if not weights.is_file():
        raise ConfigurationError(
            ("bundle", bundle), f"no models/{_WEIGHTS} in it", hint="train it first"
        )
    target = home / bundle.resolve().name
    anew = f"remove {target} to copy the bundle anew (its trainings stay)"
    shipped = target / "models" / SHIPPED
    if shipped.is_file() and not filecmp.cmp(shipped, weights, shallow=False):
        raise ConfigurationError(
            target,
            ("made from another network than", weights, "is now"),
            hint=(anew, Setting("work", "DIR", "to keep it")),
        )
    if target.exists():
        with held(target):
            _check(target, anew)
        return target
    if not tested:
        _check(bundle)
    with whole(target) as unfinished:
        models = unfinished / "models"
        models.mkdir(parents=True)
        shutil.copytree(bundle / "configs", unfinished / "configs")
        for name in (_WEIGHTS, SHIPPED):
            shutil.copyfile(weights, models / name)
        settings = bundle / "models" / _SETTINGS
        for name in (_SETTINGS, _SHIPPED_SETTINGS) if settings.is_file() else ():
            shutil.copyfile(settings, models / name)
    return target


def _check(bundle: Path, *more: str) -> None:
    """Use a bundle once, before a server does."""
    from overtile.pipelines.inference.trained import load_trained  # loads PyTorch

    try:
        load_trained(bundle, {})
    except OvertileError as error:
        where, found, expected, _ = error.args
        raise ConfigurationError(where, found, expected, (*error.hint, *more)) from error


@contextmanager
def held(model: Path) -> Iterator[Path]:
    """The folder of a model's networks, whole; no other process changes it meanwhile."""
    folder = model / "models"
    with FileLock(model / ".networks.lock"):
        settle(folder)
        yield folder


def publish(model: Path, run: Path, images: int, summary: Mapping[str, Any]) -> None:
    """Let a model use the network of a run, and note what that was trained on.

    Args:
        model: folder.
        run: folder.
        images: how many had a label.
        summary: of the run.
    """
    weights, settings = run / "models" / _WEIGHTS, run / "models" / _SETTINGS
    note = {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "run": run.name,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "images": images,
        "validated": summary["images"],
        "scores": summary["scores"],
    }
    with held(model) as folder, together(folder) as new:
        shutil.copyfile(weights, new / _WEIGHTS)
        shutil.copyfile(settings, new / _SETTINGS)
        (new / _NOTE).write_text(json.dumps(note, indent=2))


def back(model: Path) -> None:
    """Let a model use the network that came with its bundle, with the settings of that one.

    Raises:
        MissingError: if it is not there any more.
    """
    with held(model) as folder, together(folder) as new:
        if not (folder / SHIPPED).is_file():
            raise MissingError(folder / SHIPPED, "no such file", "the network as it came")
        shutil.copyfile(folder / SHIPPED, new / _WEIGHTS)
        if (folder / _SHIPPED_SETTINGS).is_file():
            shutil.copyfile(folder / _SHIPPED_SETTINGS, new / _SETTINGS)
        else:  # the bundle came without
            (new / _SETTINGS).write_text("{}")


def network(model: Path) -> dict[str, str] | None:
    """Of a trained network that is in use: what it is, and what its training reached.

    Returns:
        ``told`` and ``reached``, for people; None for the network that came with the bundle.
    """
    with held(model) as folder:
        weights = _digest(folder / _WEIGHTS)
        if weights == _digest(folder / SHIPPED):
            return None
        try:
            note = json.loads((folder / _NOTE).read_bytes())
        except (OSError, ValueError):
            note = {}
    if not isinstance(note, dict) or note.get("weights") != weights:  # put there by hand
        return {"told": "trained", "reached": "trained"}
    count, validated, scores = note["images"], note["validated"], note["scores"]
    images = f"{count} image{'s' * (count != 1)}"
    reached = f"trained on {images}; from {VALIDATED} on, some of them validate it"
    name, value = next(iter(scores.items()), ("", None))  # the one that chose the best epoch
    if value is not None:
        part = " of them" * (validated < count)  # of stacks it counts the planes
        reached = f"trained on {images}, {name_of(name)} {value:.2g} on {validated}{part}"
    return {"told": f"trained {note['date']} on {images}", "reached": reached}


def _digest(file: Path) -> str | None:
    """SHA-256 of a file; None without one."""
    return _sha256(file, stamp(file)) if file.is_file() else None


@lru_cache(64)
def _sha256(file: Path, stamp: str) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
