"""Training on the final labels of a studies folder, as MONAI Label's training task."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

from overtile.pipelines.data.facts import FactBook, default_cache, stamp
from overtile.pipelines.data.find import items_of
from overtile.pipelines.data.layouts import Pair
from overtile.pipelines.errors import DataError, TrainingError
from overtile.pipelines.images.read import Channel
from overtile.pipelines.label.datastore import ImageFolderDatastore
from overtile.pipelines.label.errors import ConflictError, MissingError, RefusedError
from overtile.pipelines.label.middleware import sentence
from overtile.pipelines.metrics.score_names import name_of
from overtile.pipelines.training.tracking import end_abandoned

SHIPPED = "shipped.pt"
_SHIPPED_SETTINGS = "shipped.json"  # empty where the bundle came without
_NOTE = "trained.json"  # of the training that made the network in use
_NUMBERS: dict[str, tuple[type, float, float]] = {
    "max_epochs": (int, 1, 10_000),
    "samples_per_epoch": (int, 1, 100_000),
    "learning_rate": (float, 1e-8, 1.0),
    "seed": (int, 0, 2**31),
}
_STARTS = ("shipped", "current", "nothing")
_DEFAULTS: dict[str, Any] = {
    "max_epochs": 5,
    "samples_per_epoch": 100,
    "learning_rate": 0.0003,
    "seed": 0,
    "start": "shipped",
}
_VALIDATED = 5  # images from which on every fifth validates, instead of training
_HINT = "_mode_=debug"  # of MONAI, after the error itself
_PATIENCE = 20  # seconds in which a training has to end after it was told to


class Trainer(TrainTask):
    """Train the network of a bundle further, and let the bundle use it from then on.

    The training is the bundle's own ``training``, a process of its own, tracked in MLflow under
    ``runs/`` of the app's folder.

    Args:
        bundle: folder; ``models/shipped.pt`` is the network as it came, ``models/model.pt`` the one
            in use.
        runs: folder of the runs.
        channel: of several the one to take; None for the bundle's own choice.
    """

    def __init__(self, bundle: Path, runs: Path, channel: Channel = None) -> None:
        super().__init__(f"Train {bundle.name} on the final labels")
        self.bundle, self.runs, self.channel = bundle, runs, channel

    def config(self) -> dict[str, Any]:
        """What a request may say, with the defaults."""
        return {**_DEFAULTS, "start": list(_STARTS), "pretrained": True}

    def stats(self) -> dict[str, Any]:
        """Summary of the last training that was finished."""
        from overtile.pipelines.reporting.summary import read_summary

        finished = sorted(self.runs.glob(f"{self.bundle.name}-*/summary.json"))
        return dict(read_summary(finished[-1].parent)) if finished else {}

    def __call__(self, request: dict[str, Any], datastore: ImageFolderDatastore) -> dict[str, Any]:
        """Train, publish the best network, and return the run's summary.

        Raises:
            RefusedError: for a request that cannot be met.
            TrainingError: if the training fails; the run is then marked as such.
        """
        options = checked(request)
        pairs, left_out = self.trainable(datastore)
        for reason in left_out.values():
            print(f"left out: {reason}", flush=True)
        run = self.runs / f"{self.bundle.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        data = linked(pairs, run.with_name(f"{run.name}-data"))
        command = self.command(options, data, run, len(pairs))
        code, last = _run(command)
        if code:
            end_abandoned(run, "KILLED" if code == 130 else "FAILED")
            raise TrainingError(f"the training ended with code {code}: {last}")
        from overtile.pipelines.reporting.summary import read_summary

        summary = dict(read_summary(run))
        self.publish(run, len(pairs), summary)
        return summary

    def trainable(
        self, datastore: ImageFolderDatastore
    ) -> tuple[list[dict[str, str]], dict[str, str]]:
        """The images with final labels that can be trained on, and why others cannot, by id.

        Raises:
            ConflictError: if there are none, or none of the labels has a cell.
        """
        labelled = datastore.labelled()
        if not labelled:
            raise ConflictError("no image has a final label; submit at least one, then train")
        config = json.loads((self.bundle / "configs" / "train.json").read_text())
        channel = config.get("channel") if self.channel is None else self.channel
        dims = config.get("spatial_dims", 2)
        facts = FactBook(default_cache(), datastore.folder, dims, channel)
        pairs, left_out, cells = [], {}, 0
        for image_id, (image, label) in labelled.items():
            try:
                items = items_of(Pair(image, label), facts)
            except DataError as error:
                left_out[image_id] = sentence(error).replace(f"{datastore.folder}/", "")
                continue
            cells += sum(facts.label(**item).cells for item in items)
            pairs.append({"image": str(image), "label": str(label)})
        facts.save()
        if not pairs:
            raise ConflictError(
                f"no labelled image can be trained on: {next(iter(left_out.values()))}"
            )
        if not cells:
            raise ConflictError(
                f"no cell in the final labels of {len(pairs)} images; submit one that has cells, "
                "then train"
            )
        return pairs, left_out

    def command(self, options: Mapping[str, Any], data: Path, run: Path, images: int) -> list[str]:
        """The bundle's own command for a training."""
        start = {
            "shipped": self.bundle / "models" / SHIPPED,
            "current": self.bundle / "models" / "model.pt",
            "nothing": None,
        }[options["start"]]
        settings = {
            **{key: options[key] for key in _NUMBERS},
            "dataset_dir": data,
            "layout": "pairs",
            "labels": "instances",
            "output_dir": run,
            "val_fraction": 0.2 if images >= _VALIDATED else 0,
            **({"initial_weights": start} if start is not None else {}),
            **({"channel": self.channel} if self.channel is not None else {}),
        }
        config = self.bundle / "configs" / "train.json"
        words = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training"]
        words += ["--bundle_root", str(self.bundle), "--config_file", str(config)]
        return [*words, *(w for k, v in settings.items() for w in (f"--{k}", str(v)))]

    def publish(self, run: Path, images: int, summary: Mapping[str, Any]) -> None:
        """Let the bundle use the network of a run, and note what it was trained on.

        Args:
            run: folder.
            images: how many had a label.
            summary: of the run.
        """
        models = self.bundle / "models"
        kept, settings = models / _SHIPPED_SETTINGS, models / "settings.json"
        if not kept.exists() and self.network() is None:  # else they may be those of a training
            _put(kept, settings.read_bytes() if settings.is_file() else b"")
        weights = (run / "models" / "model.pt").read_bytes()
        note = {
            "weights": hashlib.sha256(weights).hexdigest(),
            "run": run.name,
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "images": images,
            "validated": summary["images"],
            "scores": summary["scores"],
        }
        _put(models / _NOTE, json.dumps(note, indent=2).encode())
        _put(settings, (run / "models" / "settings.json").read_bytes())
        _put(models / "model.pt", weights)

    def back(self) -> None:
        """Let the bundle use the network that it came with, with the settings of that one.

        Raises:
            MissingError: if it is not there any more.
        """
        models = self.bundle / "models"
        kept, settings = models / _SHIPPED_SETTINGS, models / "settings.json"
        if not (models / SHIPPED).is_file():
            raise MissingError(f"{models / SHIPPED}: no such file; expected the network as it came")
        if kept.is_file():  # before the network: whoever is stopped in between can do it again
            if content := kept.read_bytes():
                _put(settings, content)
            else:
                settings.unlink(missing_ok=True)
        _put(models / "model.pt", (models / SHIPPED).read_bytes())

    def network(self) -> dict[str, str] | None:
        """Of a trained network that is in use: what it is, and what its training reached.

        The note of a training holds for the one file of weights that it names, so a training that
        was killed at any moment leaves nothing wrong here.

        Returns:
            ``told`` and ``reached``, for people; None for the network that came with the bundle.
        """
        models = self.bundle / "models"
        weights = _digest(models / "model.pt")
        if weights == _digest(models / SHIPPED):
            return None
        try:
            note = json.loads((models / _NOTE).read_bytes())
        except (OSError, ValueError):
            note = {}
        if not isinstance(note, dict) or note.get("weights") != weights:
            return {"told": "trained", "reached": "trained"}
        count, validated, scores = note["images"], note["validated"], note["scores"]
        images = f"{count} image{'s' * (count != 1)}"
        reached = f"trained on {images}; from {_VALIDATED} on, some of them validate it"
        if scores:
            name, value = next(iter(scores.items()))  # the one that chose the best epoch
            part = " of them" * (validated < count)  # of stacks it counts the planes
            reached = f"trained on {images}, {name_of(name)} {value:.2g} on {validated}{part}"
        return {"told": f"trained {note['date']} on {images}", "reached": reached}


def _put(target: Path, content: bytes) -> None:
    """Write a file whole, or leave what was there."""
    partial = target.with_name(f"{target.name}.partial")
    partial.write_bytes(content)
    partial.replace(target)


def _digest(file: Path) -> str | None:
    """SHA-256 of a file; None without one."""
    return _sha256(file, stamp(file)) if file.is_file() else None


@lru_cache(64)
def _sha256(file: Path, stamp: str) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def checked(request: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request to train, with the defaults for those that it leaves out.

    Raises:
        RefusedError: for a value that is out of range.
    """
    options = dict(_DEFAULTS)
    for key, (kind, least, most) in _NUMBERS.items():
        value = request.get(key, options[key])
        number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if not number or not least <= value <= most:
            raise RefusedError(f"{key} {value!r}: expected a number from {least} to {most}")
        options[key] = value
    start = request.get("start", options["start"])
    start = options["start"] if isinstance(start, list) else start  # as the viewers send it back
    if start not in _STARTS:
        raise RefusedError(f"start {start!r}: expected one of {', '.join(_STARTS)}")
    options["start"] = "nothing" if request.get("pretrained") is False else start
    return options


def linked(pairs: Iterable[Mapping[str, str]], folder: Path) -> Path:
    """A data set of images and labels, in the layout ``pairs``, that stays as it is now.

    Files are linked, so that one that is removed or replaced meanwhile is still there to be read.
    """
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, pair in enumerate(pairs):
        for kind, path in pair.items():
            name = Path(path).name
            suffix = re.search(r"(\.ome)?(\.nii)?\.[^.]+$", name)
            assert suffix is not None  # images are told by their suffixes
            link = folder / f"{kind}s" / f"{number:04d}{suffix[0]}"
            try:
                link.hardlink_to(Path(path).resolve())
            except OSError:  # a folder, or a disk of its own
                link.symlink_to(path)
    return folder


def _run(command: list[str]) -> tuple[int, str]:
    """Run a command to its end, with its lines on our own output; its code and last line."""
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        _passed_on(process),
    ):
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            if line.strip():
                print(line.strip(), flush=True)
                last = last if _HINT in line else line.strip()
    return process.returncode, last


@contextmanager
def _passed_on(process: subprocess.Popen[str]) -> Iterator[None]:
    """SIGTERM ends the training at its next step, and so this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_training(runs: Path) -> dict[str, Any] | None:
    """End the training that goes on, politely first, and mark its run as KILLED.

    Args:
        runs: folder of the app's runs.

    Returns:
        The task as MONAI Label lists it; None if no training goes on.
    """
    from monailabel.utils.async_tasks import utils as tasks

    running = list(tasks.processes("train").items())
    if not running:
        return None
    number, process = running[0]
    task: dict[str, Any] = next(t for t in tasks.tasks("train") if t["id"] == number)
    task["status"] = "STOPPED"
    process.terminate()
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if process.poll() is None:
        tasks.stop_background_task("train")
    for run in runs.glob("*-*"):
        if run.is_dir() and not (run / "summary.json").is_file():
            end_abandoned(run, "KILLED")
    return task


def close_abandoned(runs: Path) -> None:
    """Mark runs as FAILED that were going on when a server before this one died."""
    for run in runs.glob("*-*"):
        if (run / "configs").is_dir() and not (run / "summary.json").is_file():
            end_abandoned(run, "FAILED")
