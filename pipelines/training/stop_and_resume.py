"""Begin a run or go on with one from ``last.pt``, one a folder; Ctrl-C says what is saved."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from tqdm import tqdm

from overtile.pipelines.bundle.checkpoints import (
    Checkpoints,
    check_settings,
    load_weights,
    read_checkpoint,
)
from overtile.pipelines.bundle.configuration import current_parser
from overtile.pipelines.bundle.messages import as_override
from overtile.pipelines.bundle.schema import KEYS, Resumed
from overtile.pipelines.data.find import DataSet
from overtile.pipelines.errors import ConfigurationError, Setting, printable
from overtile.pipelines.files import alone
from overtile.pipelines.reporting.tables import HISTORY, read_history

log = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder of the first.

    Raises:
        ConfigurationError: in the second.
    """
    elsewhere = Setting("output_dir", "DIR", "to write elsewhere")
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()  # a lock that cannot be made looks like one that is taken
    except OSError as error:
        raise ConfigurationError(
            "output_dir", (folder, f"({error.strerror})"), "a folder that can be made", elsewhere
        ) from error
    taken = ConfigurationError(
        f"output_dir {folder}",
        "another run is writing there",
        hint=elsewhere,
    )
    with alone(lock, taken):
        yield


def go_on(
    trainer: SupervisedTrainer,
    checkpoints: Checkpoints,
    folder: Path,
    data: DataSet,
    initial_weights: str | Path | None,
) -> None:
    """Put a run back to the end of its last completed epoch.

    Raises:
        ConfigurationError: as `Checkpoints.resume`; also where settings or images differ that the
            run cannot go on without, or all of ``max_epochs`` and more are done.
        DataError: if ``history.csv`` is damaged.
    """
    checkpoints.conditions = _conditions(data, initial_weights)
    if initial_weights is None:  # it may be left out: the run has weights of its own
        del checkpoints.conditions["initial_weights"]
    checkpoints.resume(trainer)
    done, wanted = trainer.state.epoch, trainer.state.max_epochs
    if done > wanted:
        raise ConfigurationError(
            "max_epochs", f"{wanted}, but the run has done {done}", f"at least {done}"
        )
    if (folder / HISTORY).is_file():
        read_history(folder / HISTORY)
    log.info("%d of %d epochs are done", done, wanted)


def begin(
    trainer: SupervisedTrainer,
    checkpoints: Checkpoints,
    folder: Path,
    data: DataSet,
    initial_weights: str | Path | None,
) -> None:
    """Give a new run its first weights and a folder without an earlier one.

    Raises:
        ConfigurationError: if the weights are of another network, or of images read otherwise.
    """
    if initial_weights is not None:
        load_weights(trainer.network, initial_weights)
        check_settings(checkpoints.settings, initial_weights)
    checkpoints.conditions = _conditions(data, initial_weights)
    _move_aside(folder)


def _conditions(data: DataSet, initial_weights: str | Path | None) -> dict[str, Any]:
    """What has to be the same whenever the run goes on, by name."""
    parser = current_parser()
    started = None if initial_weights is None else str(initial_weights)
    found: dict[str, Any] = {"initial_weights": started}
    for name, key in KEYS.items():
        if key.resumed is Resumed.REFUSED and parser is not None and name in parser:
            value = parser[name] if key.part else parser.get_parsed_content(name)
            found[name] = json.loads(json.dumps(value, default=str))
    for name, items in (("validation images", data.val), ("test images", data.test)):
        digest = data.digest_of(path for item in items for path in item.values())
        found[name] = f"{len(items)} ({digest[:16]})"
    return found


@contextmanager
def stoppable(
    trainer: SupervisedTrainer, evaluator: SupervisedEvaluator, checkpoints: Checkpoints
) -> Iterator[None]:
    """Ctrl-C, and SIGTERM alike, say what is saved and how to go on; exit code 130."""

    asked = threading.Event()

    def terminate(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        os.write(2, b"\nStopping after this step (Ctrl-C again: at once)\n")

    def check(engine: Engine) -> None:
        # Here, not in the signal's handler: an exception that is raised wherever Python happens to
        # be, in a fork or a finaliser, is dropped or printed as a traceback.
        if asked.is_set():
            raise KeyboardInterrupt

    for engine in (trainer, evaluator):
        engine.add_event_handler(Events.ITERATION_COMPLETED, check)

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other takes signals
        # also where a shell's background job was told to ignore Ctrl-C
        before = {n: signal.signal(n, terminate) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        message = "\nStopped in the first epoch: nothing is finished yet, start again."
        done = checkpoints.last_path.is_file()
        state = read_checkpoint(checkpoints.last_path) if done else {"epoch": 0}
        if state["epoch"]:
            message = (
                f"\nStopped. Everything up to the end of epoch {state['epoch']} is saved in "
                f"{printable(checkpoints.last_path)}; the same command with "
                f"{as_override(Setting('resume', True))} goes on from there."
            )
        tqdm.write(message)
        raise SystemExit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _move_aside(folder: Path) -> None:
    """Give a folder that holds an earlier run another name, the next that is free."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    number = 1
    while folder.with_name(f"{folder.name}.{number}").exists():
        number += 1
    aside = folder.with_name(f"{folder.name}.{number}")
    try:
        folder.rename(aside)
    except OSError as error:  # a disk of its own cannot be renamed
        raise ConfigurationError(
            "output_dir",
            (folder, f"holds an earlier run, which cannot be moved aside ({error.strerror})"),
            hint=Setting("output_dir", "DIR", "to write elsewhere, as into a folder in it"),
        ) from error
    log.info("%s holds an earlier run: moved to %s", printable(folder), printable(aside))
