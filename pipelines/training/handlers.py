"""Ignite handlers for training: clipping, seeds, progress."""

from __future__ import annotations

import os
from math import isnan
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from monai.utils import set_determinism
from torch import nn
from tqdm import tqdm

from overtile.pipelines.errors import HAND_OVER


class ClipGradients:
    """Scale the gradient down to a norm of at most ``max_norm``.

    With momentum 0.99 one outlier tile is repeated a hundred times over; clipping bounds it.
    """

    def __init__(self, network: nn.Module, max_norm: float = 1.0) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Clip after every backward pass of ``engine``."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Any) -> None:
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        engine.state.gradient_norm = float(norm)


class SeedEpochs:
    """Seed every generator from (seed, epoch), so that a resumed epoch repeats to the bit.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Seed at the start of each epoch of ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        seed_everything(self.seed * 1_000_003 + engine.state.epoch)


class Progress:
    """A bar over the iterations of each epoch, and a line with its results.

    Args:
        evaluator: whose metrics to print when it has validated.
    """

    def __init__(self, evaluator: Engine | None = None) -> None:
        self.evaluator = evaluator
        self.bar: Any = None
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``, the trainer; attach behind the validation."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        name = f"epoch {engine.state.epoch}/{engine.state.max_epochs}"
        length = engine.state.epoch_length
        # no bar where stderr is no terminal, unless who started this process reads it
        off = False if HAND_OVER in os.environ else None
        pause = 5.0 if off is False else 0.1  # seconds
        self.bar = tqdm(
            total=length, desc=name, unit="step", leave=False, mininterval=pause, disable=off
        )
        self.losses = []

    def _step(self, engine: Any) -> None:
        output = engine.state.output
        first = output[0] if isinstance(output, list) else output
        self.losses.append(float(first["loss"].detach()))
        self.bar.set_postfix(loss=f"{np.mean(self.losses[-20:]):.4f}", refresh=False)
        self.bar.update()

    def _finish(self, engine: Engine) -> None:
        self.bar.close()
        line = (
            f"epoch {engine.state.epoch}/{engine.state.max_epochs}  loss {np.mean(self.losses):.4f}"
        )
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            metrics = self.evaluator.state.metrics
            told = {n: "no score" if isnan(v) else f"{float(v):.4f}" for n, v in metrics.items()}
            line += "".join(f"  {name} {value}" for name, value in told.items())
        tqdm.write(line)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch; deterministic algorithms on a GPU."""
    set_determinism(seed=seed % 2**32)
