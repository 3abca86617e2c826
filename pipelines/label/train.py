"""Training on the final labels of a studies folder, as MONAI Label's training task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

from overtile.pipelines.bundle.json_file import REPLACE, read_object
from overtile.pipelines.bundle.schema import KEYS
from overtile.pipelines.bundle.values import allowed, refuses, shown
from overtile.pipelines.data.cache_folder import default_cache
from overtile.pipelines.data.facts import FactBook
from overtile.pipelines.data.find import items_of
from overtile.pipelines.data.layout import Pair
from overtile.pipelines.errors import (
    HAND_OVER,
    DataError,
    OvertileError,
    TrainingError,
    hand_over,
    handed_over,
    printable,
)
from overtile.pipelines.files import settle
from overtile.pipelines.images.channels import OF_THE_NETWORK, Channels, check_channels
from overtile.pipelines.images.formats import stem
from overtile.pipelines.label.datastore import ImageFolderDatastore
from overtile.pipelines.label.models import SHIPPED, VALIDATED, held, publish
from overtile.pipelines.label.refusals import ConflictError, RefusedError, as_option, sentence
from overtile.pipelines.training.tracking import end_abandoned

# What a client may ask of a machine that others wait for; all else says the schema of the settings.
_MOST = {"max_epochs": 10_000, "samples_per_epoch": 100_000, "learning_rate": 1, "seed": 2**31}
_STARTS = ("shipped", "current", "nothing")
_DEFAULTS: dict[str, Any] = {
    "max_epochs": 5,
    "samples_per_epoch": 100,
    "learning_rate": 0.0003,
    "seed": 0,
    "start": "shipped",
}
_HINT = "_mode_=debug"  # of MONAI, after the error itself
_PATIENCE = 20  # seconds in which a training has to end after it was told to


class Trainer(TrainTask):
    """Train the network of a bundle further, and let the bundle use it from then on.

    The training is the bundle's own ``training``, a process of its own, tracked in MLflow under
    ``runs/`` of the app's folder.

    Args:
        bundle: folder, as `overtile.pipelines.label.models.copied` made it.
        runs: folder of the runs.
        channels: which of an image are read; None for the bundle's own choice.
    """

    def __init__(self, bundle: Path, runs: Path, channels: Channels = None) -> None:
        super().__init__(f"Train {bundle.name} on the final labels")
        self.bundle, self.runs, self.channels = bundle, runs, check_channels(channels)

    def config(self) -> dict[str, Any]:
        """What a request may say, with the defaults."""
        return {**_DEFAULTS, "start": list(_STARTS), "pretrained": True}

    def stats(self) -> dict[str, Any]:
        """Summary of the last training that was finished."""
        from overtile.pipelines.reporting.summary import read_summary

        for run in self.runs.glob(f"{self.bundle.name}-*"):
            settle(run)
        finished = sorted(self.runs.glob(f"{self.bundle.name}-*/summary.json"))
        return dict(read_summary(finished[-1].parent)) if finished else {}

    def __call__(self, request: dict[str, Any], datastore: ImageFolderDatastore) -> dict[str, Any]:
        """Train, publish the best network, and return the run's summary.

        Raises:
            RefusedError: for a request that cannot be met.
            TrainingError: if the training fails; the run is then marked as such.

        The server, which is another process, finds the error by `why_it_failed`.
        """
        mistake = _mistake(self.runs)
        mistake.parent.mkdir(parents=True, exist_ok=True)
        mistake.unlink(missing_ok=True)
        try:
            return self._trained(request, datastore, mistake)
        except OvertileError as error:
            hand_over(error, mistake)
            raise

    def _trained(
        self, request: dict[str, Any], datastore: ImageFolderDatastore, mistake: Path
    ) -> dict[str, Any]:
        options = checked(request)
        pairs, left_out = self.trainable(datastore)
        for reason in left_out.values():
            print(f"left out: {printable(reason)}", flush=True)
        run = self.runs / f"{self.bundle.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        data = linked(pairs, run.with_name(f"{run.name}-data"))
        command = self.command(options, data, run, len(pairs))
        code, last = _run(command, mistake)
        if code:
            end_abandoned(run, "KILLED" if code == 130 else "FAILED")
            if told := handed_over(mistake):
                raise TrainingError(*told.advising(told.hint_in(as_option)).args)
            found = f"the training ended with code {code} ({last})"
            raise TrainingError(found=found, hint="the server's log tells more")
        from overtile.pipelines.reporting.summary import read_summary

        summary = dict(read_summary(run))
        publish(self.bundle, run, len(pairs), summary)
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
            raise ConflictError(
                found="no image has a final label", hint="submit at least one, then train"
            )
        config = read_object(self.bundle / "configs" / "train.json", REPLACE)
        channels = config.get("channels") if self.channels is None else self.channels
        network = read_object(self.bundle / "configs" / "inference.json", REPLACE)
        wanted = network.get("in_channels", 1), network.get("channel_names"), OF_THE_NETWORK
        dims = config.get("spatial_dims", 2)
        facts = FactBook(default_cache(), datastore.folder, dims, channels)
        pairs, left_out, cells = [], dict[str, DataError](), 0
        for image_id, (image, label) in labelled.items():
            try:
                items = items_of(Pair(image, label), facts)
                for item in items:
                    facts.check_channels(item["image"], *wanted)
            except DataError as error:
                left_out[image_id] = error
                continue
            cells += sum(facts.label(**item).cells for item in items)
            pairs.append({"image": str(image), "label": str(label)})
        facts.save()
        if not pairs:
            first = next(iter(left_out.values()))
            raise ConflictError(*first.args).within("no labelled image can be trained on")
        if not cells:
            raise ConflictError(
                found=f"no cell in the final labels of {len(pairs)} images",
                hint="submit one that has cells, then train",
            )
        return pairs, {i: sentence(error, datastore.folder) for i, error in left_out.items()}

    def command(self, options: Mapping[str, Any], data: Path, run: Path, images: int) -> list[str]:
        """The bundle's own command for a training."""
        with held(self.bundle) as models:
            start = {
                "shipped": models / SHIPPED,
                "current": models / "model.pt",
                "nothing": None,
            }[options["start"]]
        settings = {
            **{key: options[key] for key in _MOST},
            "dataset_dir": data,
            "layout": "pairs",
            "labels": "instances",
            "output_dir": run,
            "val_fraction": 0.2 if images >= VALIDATED else 0,
            **({"initial_weights": start} if start is not None else {}),
            **({"channels": repr(self.channels)} if self.channels is not None else {}),
        }
        config = self.bundle / "configs" / "train.json"
        words = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training"]
        words += ["--bundle_root", str(self.bundle), "--config_file", str(config)]
        return [*words, *(w for k, v in settings.items() for w in (f"--{k}", str(v)))]


def checked(request: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request to train, with the defaults for those that it leaves out.

    Raises:
        RefusedError: for a value that is out of range.
    """
    options = dict(_DEFAULTS)
    for key, most in _MOST.items():
        kind, value = KEYS[key].type, request.get(key, options[key])
        if refuses(kind, value) or value > most:
            expected = f"{allowed(kind)}, at most {most}"
            raise RefusedError(f"{key} {shown(value)}", expected=expected)
        options[key] = value
    start = request.get("start", options["start"])
    start = options["start"] if isinstance(start, list) else start  # as the viewers send it back
    if start not in _STARTS:
        raise RefusedError(f"start {start!r}", expected=f"one of {', '.join(_STARTS)}")
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
            suffix = Path(path).name.removeprefix(stem(path))
            link = folder / f"{kind}s" / f"{number:04d}{suffix}"
            try:
                link.hardlink_to(Path(path).resolve())
            except OSError:  # a folder, or a disk of its own
                link.symlink_to(path)
    return folder


def _mistake(runs: Path) -> Path:
    """Where the mistake is left that ended the last training."""
    return runs / "mistake.json"


def why_it_failed(runs: Path, folder: Path) -> str:
    """What ended the last training, with paths told from the folder of images on."""
    mistake = handed_over(_mistake(runs))
    return "the server's log tells why" if mistake is None else sentence(mistake, folder)


def _run(command: list[str], mistake: Path) -> tuple[int, str]:
    """Run a command to its end, with its lines on our own output; its code and last line."""
    environment = {**os.environ, HAND_OVER: str(mistake.absolute())}
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
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
        settle(run)
        if run.is_dir() and not (run / "summary.json").is_file():
            end_abandoned(run, "KILLED")
    return task


def close_abandoned(runs: Path) -> None:
    """Mark runs as FAILED that were going on when a server before this one died."""
    for run in runs.glob("*-*"):
        settle(run)
        if (run / "configs").is_dir() and not (run / "summary.json").is_file():
            end_abandoned(run, "FAILED")
