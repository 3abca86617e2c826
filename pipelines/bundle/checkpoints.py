"""Checkpoints: written whole or not at all, loaded as tensors only, checked before use."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from overtile.pipelines.bundle.json_file import REPLACE, read_object
from overtile.pipelines.bundle.values import shown
from overtile.pipelines.errors import Advice, ConfigurationError, Setting, ran_out
from overtile.pipelines.files import save_tensors, settle, together

_SETTINGS = "settings.json"
_CHECKPOINT = "one that a training wrote: tensors by name"
_ANEW = Setting("resume", False, "to start anew")
_BEFORE = "steps_before"  # in an engine's state
_STATE = {  # what a run needs to go on, besides its parts
    **dict.fromkeys(("epoch", "iteration", "steps", "best_epoch"), int),
    **dict.fromkeys(("model", "kinds", "conditions", "extra"), dict),
    "best": float | None,
}


class Checkpoints:
    """Save the last and the best state of a run, all at once or not at all.

    ``last.pt`` holds all that a run needs to go on (weights, optimiser, schedule, epoch, best
    value so far, ``conditions`` and ``extra``), ``model.pt`` the bare ``state_dict`` of the best
    network, as MONAI's tools expect it, and ``settings.json`` how its images were read. Both
    ``.pt`` load with ``weights_only=True``. A crash at any moment leaves what was saved before, and
    never one of the three beside those of another epoch.

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
        self.kinds = {  # of parts whose state means nothing to others
            name: type(part).__name__
            + (f" from {part.get_last_lr()}" if isinstance(part, ReduceLROnPlateau) else "")
            for name, part in self.parts.items()
            if isinstance(part, (Optimizer, ReduceLROnPlateau))
        }
        self.conditions: dict[str, Any] = {}  # by name; a run with others cannot go on
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
        engine.add_event_handler(Events.STARTED, self._write)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def resume(self, engine: Engine) -> None:
        """Put every part, and ``engine``, back to the end of the last completed epoch.

        Epochs are what counts: if they have another number of steps from now on, the engine and
        the schedule stand where they would if they always had; `steps_of` the engine are those
        that were really made.

        Raises:
            ConfigurationError: if there is nothing to resume, it is damaged or of another network,
                it read its images otherwise, or one of the ``conditions`` differs.
        """
        settle(self.directory)
        if not self.last_path.is_file():
            raise ConfigurationError("resume", f"{self.last_path} does not exist", hint=_ANEW)
        state = read_checkpoint(self.last_path, _ANEW)
        self._check(state)
        epoch, length = state["epoch"], engine.state.epoch_length
        engine.state.epoch = epoch
        engine.state.iteration = state["iteration"] if length is None else epoch * length
        setattr(engine.state, _BEFORE, state["steps"] - engine.state.iteration)
        for name, part in self.parts.items():
            if isinstance(part, Optimizer):
                _load_optimizer(part, state[name])
            elif isinstance(part, ReduceLROnPlateau):  # it goes by scores, not by a position
                part.load_state_dict(state[name])
                for group, rate in zip(
                    part.optimizer.param_groups, part.get_last_lr(), strict=True
                ):
                    group["lr"] = rate
            elif isinstance(part, LRScheduler):
                done = state[name].get("last_epoch", state["iteration"])
                by_epochs = done == epoch != state["iteration"]
                _replay(part, done if by_epochs else engine.state.iteration)
            else:
                part.load_state_dict(state[name])
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.conditions = state["conditions"] | self.conditions
        self.extra = state["extra"]

    def _check(self, state: Mapping[str, Any]) -> None:
        """Refuse a state that this run cannot go on from."""
        for name, kind in {**dict.fromkeys(self.parts, object), **_STATE}.items():
            if name not in state or not isinstance(state[name], kind):
                raise ConfigurationError(
                    self.last_path,
                    f"no {name} in it",
                    "what a training saved to go on from",
                    _ANEW,
                )
        before = state["kinds"] | state["conditions"]
        for name, value in (self.kinds | self.conditions).items():
            if name in before and before[name] != value:
                raise _other(name, value, before[name])
        check_weights(state["model"], self.parts["model"], self.last_path)
        check_settings(self.settings, self.best_path)

    def load_best(self) -> None:
        """Give the network the best weights so far."""
        load_weights(self.parts["model"], self.best_path)

    def save(self, engine: Engine) -> None:
        """Save the state at the end of an epoch, and the network if it is the best so far."""
        self._write(engine, self._is_best(engine))

    def _is_best(self, engine: Engine) -> bool:
        if self.evaluator is None:
            score = float(engine.state.epoch)
        elif self.evaluator.state.epoch == engine.state.epoch:  # it validated this epoch
            state = self.evaluator.state
            score = self.sign * float(state.metrics[state.key_metric_name])
        else:
            return False
        if self.best is not None and not score > self.best:  # no NaN is
            return False
        self.best, self.best_epoch = None if math.isnan(score) else score, engine.state.epoch
        return True

    def _write(self, engine: Engine, best: bool = False) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state.update(
            epoch=engine.state.epoch,
            iteration=engine.state.iteration,
            steps=steps_of(engine),
            best=self.best,
            best_epoch=self.best_epoch,
            kinds=self.kinds,
            conditions=self.conditions,
            extra=self.extra,
        )
        with together(self.directory) as folder:
            save_tensors(state, folder / self.last_path.name)
            if best:
                save_tensors(state["model"], folder / self.best_path.name)
                told = json.dumps(self.settings, indent=2)
                (folder / _SETTINGS).write_text(f"{told}\n")


def steps_of(engine: Any) -> int:
    """Steps of the whole run; the engine of a resumed one counts as `Checkpoints.resume` says."""
    return int(engine.state.iteration + getattr(engine.state, _BEFORE, 0))


def read_checkpoint(path: str | Path, hint: Advice = REPLACE) -> dict[str, Any]:
    """The content of a checkpoint: tensors, numbers and texts by name, never code.

    Args:
        path: of the file.
        hint: what to do if it is damaged.

    Raises:
        ConfigurationError: if the file is missing, damaged, or no such checkpoint.
        OvertileError: if it may not be read, or there is not enough memory.
    """
    settle(Path(path).parent)
    if not Path(path).is_file():
        raise ConfigurationError(
            path, "no such file", hint=("train first", Setting("checkpoint", "FILE"))
        )
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        if (lacking := ran_out(error)) is not None:
            raise lacking from error
        raise ConfigurationError(
            Path(path), "no checkpoint of tensors", _CHECKPOINT, hint
        ) from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        found = f"a {type(state).__name__} without names"
        raise ConfigurationError(Path(path), found, _CHECKPOINT, hint)
    return state


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load ``{"model": state_dict}``, or a bare state dict.

    Raises:
        ConfigurationError: if the file is missing, no checkpoint, or of another architecture.
    """
    state = read_checkpoint(path)
    weights = state["model"] if isinstance(state.get("model"), dict) else state
    check_weights(weights, network, path)
    network.load_state_dict(weights)


def check_settings(settings: Mapping[str, Any], path: str | Path) -> None:
    """Refuse to read or normalise images otherwise than they were in training.

    Args:
        settings: of this run by name; None, here or in training, is not known and fits any.
        path: of the checkpoint; ``settings.json`` beside it says how they were in training.

    Raises:
        ConfigurationError: naming the first setting that differs.
        DataError: if ``settings.json`` is damaged.
    """
    file = Path(path).with_name(_SETTINGS)
    settle(file.parent)
    trained = read_object(file, REPLACE) if file.is_file() else {}
    for name, value in settings.items():
        value = list(value) if isinstance(value, tuple) else value  # as JSON has it
        if trained.get(name) not in (None, value) and value is not None:
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
        has, expected = _shape(weights.get(name)), _shape(wanted.get(name))
        if has != expected:
            raise ConfigurationError(
                path,
                f"{name} is {has}, the network has {expected}",
                hint="set network_def as it was in training",
            )
        if wanted[name].is_floating_point() != weights[name].is_floating_point():
            kinds = (f"{part[name].dtype}".removeprefix("torch.") for part in (weights, wanted))
            raise ConfigurationError(Path(path), f"{name} is {next(kinds)}", next(kinds), REPLACE)
        if bad := int((~torch.isfinite(weights[name])).sum()):
            found = f"{bad} of the {weights[name].numel()} weights of {name} are NaN or infinite"
            raise ConfigurationError(Path(path), found, "finite numbers", REPLACE)


def _shape(value: Any) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else "missing"


def _other(name: str, value: Any, before: Any) -> ConfigurationError:
    """Of a condition that differs, naming the first entry of it that does."""
    name, value, before = _first_difference(name, value, before)
    hint: tuple[Advice, ...] = (_ANEW,)
    if isinstance(before, (bool, int, float, str)):
        hint = (Setting(name, before, "to go on"), *hint)
    return ConfigurationError(
        name, f"{shown(value)}, but the run so far had {shown(before)}", "the same", hint
    )


def _first_difference(name: str, value: Any, before: Any) -> tuple[str, Any, Any]:
    lists = isinstance(value, list) and isinstance(before, list) and len(value) == len(before)
    if lists and any(isinstance(entry, dict) for entry in value):
        value, before = dict(enumerate(value)), dict(enumerate(before))
    if isinstance(value, dict) and isinstance(before, dict):
        for key in [*value, *before]:
            if key not in value or key not in before or value[key] != before[key]:
                return _first_difference(f"{name}#{key}", value.get(key), before.get(key))
    return name, value, before


def _load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """What it has gathered; its rates, its decay and the like are those of now."""
    options = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)


def _replay(schedule: LRScheduler, steps: int) -> None:
    """Put a new schedule where it is after so many steps, whatever it was before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`lr_scheduler.step\\(\\)`")  # no optimiser's
        for _ in range(steps):
            schedule.step()
