"""Checkpoints: written whole or not at all, loaded as tensors only, checked before use."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from overtile.pipelines.errors import ConfigurationError, Setting
from overtile.pipelines.files import settle, together, whole

_SETTINGS = "settings.json"
_CHECKPOINT = "one that a training wrote: tensors by name"


class Checkpoints:
    """Save the last and the best state of a run, each at once or not at all.

    ``last.pt`` holds all that a run needs to go on (weights, optimiser, schedule, epoch, best
    value so far, and ``extra``), ``model.pt`` the bare ``state_dict`` of the best network, as
    MONAI's tools expect it, and ``settings.json`` how its images were read. Both ``.pt`` load with
    ``weights_only=True``. A crash at any moment leaves what was saved before, and never the network
    of one epoch with the settings of another.

    Args:
        directory: where to write them.
        parts: objects with ``state_dict``; ``"model"`` has to be among them.
        evaluator: whose key metric decides what is best (larger is better, unless
            ``lower_is_better``). An epoch in which it is NaN, no score, is never the best. Without
            an evaluator, or where no epoch has a score, the last network is saved as the best.
        lower_is_better: for errors.
        settings: how images are read and normalised; kept with the best network.
    """

    def __init__(
        self,
        directory: str | Path,
        parts: Mapping[str, Any],
        evaluator: Any = None,
        lower_is_better: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory, self.parts, self.evaluator = Path(directory), dict(parts), evaluator
        self.sign = -1.0 if lower_is_better else 1.0
        self.settings = dict(settings or {})
        self.best: float | None = None
        self.best_epoch = 0
        self.extra: dict[str, str] = {}

    @property
    def last_path(self) -> Path:
        """The state to resume from."""
        return self.directory / "last.pt"

    @property
    def best_path(self) -> Path:
        """The best network."""
        return self.directory / "model.pt"

    def attach(self, engine: Engine) -> None:
        """Save at the start and after every epoch of ``engine``, behind the validation."""
        engine.add_event_handler(Events.STARTED, self._save_last)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def resume(self, engine: Engine) -> None:
        """Put every part, and ``engine``, back to the end of the last completed epoch.

        Raises:
            ConfigurationError: if there is nothing to resume, it is no state of a run, of another
                network, or read its images otherwise.
        """
        if not self.last_path.is_file():
            raise ConfigurationError(
                "resume",
                f"{self.last_path} does not exist",
                hint=Setting("resume", False, "to start anew"),
            )
        state = self._state()
        check_weights(state["model"], self.parts["model"], self.last_path)
        check_settings(self.settings, self.best_path)
        for name, part in self.parts.items():
            if isinstance(part, LRScheduler):
                _move_schedule(part, state[name])
            else:
                part.load_state_dict(state[name])
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.extra = state["extra"]
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]

    def _state(self) -> dict[str, Any]:
        """What `_save_last` wrote.

        Raises:
            ConfigurationError: for anything else.
        """
        state = read_checkpoint(self.last_path)
        numbers, wanted = ("epoch", "iteration", "best_epoch"), (*self.parts, "best", "extra")
        missing = [name for name in (*wanted, *numbers) if name not in state]
        wrong = [name for name in numbers if not isinstance(state.get(name), int)]
        if not isinstance(state.get("extra"), dict):
            wrong.append("extra")
        if not isinstance(state.get("best"), (int, float, type(None))):
            wrong.append("best")
        for named, found in ((missing, "no {}"), (wrong, "{} is none")):
            if named:
                raise ConfigurationError(
                    self.last_path,
                    f"{found.format(', '.join(named))} in it",
                    "the state of a run, with weights, optimiser and epoch",
                    (
                        Setting("resume", False, "to start anew"),
                        Setting("initial_weights", self.last_path, "to start from its weights"),
                    ),
                )
        return state

    def load_best(self) -> None:
        """Give the network the best weights so far."""
        load_weights(self.parts["model"], self.best_path)

    def save(self, engine: Engine) -> None:
        """Save the state at the end of an epoch, and the network if it is the best so far."""
        if self.evaluator is None:
            self._save_best(engine)
        elif self.evaluator.state.epoch == engine.state.epoch:  # it validated this epoch
            state = self.evaluator.state
            score = self.sign * float(state.metrics[state.key_metric_name])
            if self.best is None or score > self.best:  # no NaN is
                self.best = None if math.isnan(score) else score
                self._save_best(engine)
        self._save_last(engine)

    def _save_best(self, engine: Engine) -> None:
        self.best_epoch = engine.state.epoch
        with together(self.directory) as folder:
            torch.save(self.parts["model"].state_dict(), folder / self.best_path.name)
            told = json.dumps(self.settings, indent=2)
            (folder / _SETTINGS).write_text(f"{told}\n")

    def _save_last(self, engine: Engine) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state.update(
            epoch=engine.state.epoch,
            iteration=engine.state.iteration,
            best=self.best,
            best_epoch=self.best_epoch,
            extra=self.extra,
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        with whole(self.last_path) as path:
            torch.save(state, path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint: tensors, numbers and texts, never code.

    Raises:
        ConfigurationError: if the file is missing, or no such checkpoint.
    """
    settle(Path(path).parent)
    if not Path(path).is_file():
        raise ConfigurationError(
            path, "no such file", hint=("train first", Setting("checkpoint", "FILE"))
        )
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ConfigurationError(path, "no checkpoint of tensors", _CHECKPOINT) from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ConfigurationError(path, f"a {type(state).__name__} without names", _CHECKPOINT)
    return state


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load ``{"model": state_dict}``, or a bare state dict.

    Raises:
        ConfigurationError: if the file is missing, no checkpoint, or of another architecture.
    """
    state = read_checkpoint(path)
    weights = state.get("model", state)
    check_weights(weights, network, path)
    network.load_state_dict(weights)


def check_settings(settings: Mapping[str, Any], path: str | Path) -> None:
    """Refuse to read or normalise images otherwise than they were in training.

    Args:
        settings: of this run by name.
        path: of the checkpoint; ``settings.json`` beside it says how they were in training.

    Raises:
        ConfigurationError: naming the first setting that differs.
    """
    file = Path(path).with_name(_SETTINGS)
    settle(file.parent)
    trained = json.loads(file.read_text()) if file.is_file() else {}
    for name, value in settings.items():
        if name in trained and trained[name] != value:
            raise ConfigurationError(
                path,
                f"trained with {name}={trained[name]}, but {name} is {value}",
                hint=(Setting(name, trained[name]), "take the configuration beside the network"),
            )


def check_weights(weights: Mapping[str, Any], network: nn.Module, path: str | Path) -> None:
    """Whether these are weights of this network, and numbers.

    Raises:
        ConfigurationError: naming the first parameter that differs, or that is NaN or infinite.
    """
    if not isinstance(weights, Mapping):
        found = f"a {type(weights).__name__} where weights should be"
        raise ConfigurationError(path, found, _CHECKPOINT)
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            found = f"{name} is a {type(value).__name__} where weights should be"
            raise ConfigurationError(path, found, _CHECKPOINT)
    wanted = network.state_dict()
    for name in [*wanted, *weights]:
        has = tuple(weights[name].shape) if name in weights else "missing"
        expected = tuple(wanted[name].shape) if name in wanted else "missing"
        if has != expected:
            raise ConfigurationError(
                path,
                f"{name} is {has}, the network has {expected}",
                hint="set network_def as it was in training",
            )
        bad = int((~torch.isfinite(weights[name])).sum())
        if bad:
            raise ConfigurationError(
                path,
                f"{bad} of the {weights[name].numel()} weights of {name} are NaN or infinite",
                "finite numbers",
                "take another checkpoint, or train again",
            )


def _move_schedule(schedule: LRScheduler, state: Mapping[str, Any]) -> None:
    """Put a schedule where it was, but keep its length: ``max_epochs`` may have been raised."""
    position = ("last_epoch", "_step_count", "_last_lr")
    own = {k: v for k, v in schedule.state_dict().items() if k not in position}
    schedule.load_state_dict({**state, **own})
    for group, rate in zip(schedule.optimizer.param_groups, schedule.get_lr(), strict=True):
        group["lr"] = rate
