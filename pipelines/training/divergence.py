"""End a training that nothing can come of: a loss that is no number, a network that collapsed."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from overtile.pipelines.errors import TrainingError


class StopOnNonFiniteLoss:
    """End training at the first loss that is no number, before the weights take it in."""

    def attach(self, engine: Engine) -> None:
        """Watch the loss of ``engine``."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check)

    def _check(self, engine: Any) -> None:
        loss = float(engine.state.output["loss"].detach())
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingError(
                found=f"the loss became {loss} in epoch {engine.state.epoch}, iteration "
                f"{engine.state.iteration}",
                hint="lower learning_rate, and check the images for NaN or infinite pixels (the "
                "last checkpoint is from before)",
            )


class StopOnCollapse:
    """End a training whose network has come to predict the same everywhere.

    A step too large kills every ReLU, or leaves nothing but the bias of the last layer; the loss
    then stays where the best constant has it, a plausible number, and nothing comes back.

    Args:
        patience: steps in a row, of tiles that show both classes, that the predicted
            probabilities may be constant.
        spread: standard deviation over a tile below which they count as constant.
    """

    def __init__(self, patience: int = 100, spread: float = 0.005) -> None:
        self.patience, self.spread = patience, spread
        self.steps = 0

    def attach(self, engine: Engine) -> None:
        """Watch the predictions of ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._check)

    def _check(self, engine: Any) -> None:
        output = engine.state.output
        labels = output["label"][0]
        if labels.min() == labels.max():
            return
        probabilities = output["pred"].detach().softmax(1)
        constant = bool(
            probabilities.std(dim=(0, *range(2, probabilities.ndim))).max() < self.spread
        )
        self.steps = self.steps + 1 if constant else 0
        if self.steps >= self.patience:
            shares = ", ".join(f"{p:.2f}" for p in probabilities.transpose(0, 1).flatten(1).mean(1))
            raise TrainingError(
                found=f"the network collapsed: for {self.steps} steps, up to iteration "
                f"{engine.state.iteration}, it has predicted the same for every pixel "
                f"(probabilities {shares})",
                hint="start again with a lower learning_rate or clip_norm",
            )
