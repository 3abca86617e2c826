"""Batches and losses as MONAI's trainer takes them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from overtile.pipelines.errors import ConfigurationError, Setting


def prepare_weighted_batch(
    batch: dict[str, Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
    """MONAI ``prepare_batch``: image ``[B, C, *in]``, and (label, weight) ``[B, 1, *out]`` each.

    MONAI's own hands no weights on. The weights are None for a batch without ``"weight"``. Metadata
    stays behind: a training step needs none. The loss belongs into a `LossOfPair`.
    """

    def moved(key: str) -> Tensor:
        return plain(torch.as_tensor(batch[key]).to(device, non_blocking=non_blocking))

    return moved("image"), (moved("label"), moved("weight") if "weight" in batch else None)


class LossOfPair:
    """Call a loss of (logits, labels, weights) as MONAI's trainer does: (logits, target).

    The target is what `prepare_weighted_batch` makes. Without weights the loss is called with
    (logits, labels), as MONAI's own losses are.

    Args:
        loss: e.g. `overtile.networks.PixelWeightedCrossEntropyLoss`.

    Raises:
        ConfigurationError: when called with another target, or with weights that the loss has no
            place for.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        self.loss = loss

    def __call__(self, logits: Tensor, target: tuple[Tensor, Tensor | None]) -> Tensor:
        """Scalar loss of ``target = (labels, weights)``."""
        if not isinstance(target, (tuple, list)):
            raise ConfigurationError(
                "LossOfPair",
                f"labels that are a {type(target).__name__}",
                "(labels, weights)",
                "give the trainer prepare_batch=prepare_weighted_batch",
            )
        given = [part for part in target if part is not None]
        if not self._takes(logits, *given):
            raise ConfigurationError(
                "LossOfPair",
                f"weights in the batch, for which {type(self.loss).__name__} has no place",
                "a loss of (logits, labels, weights)",
                (
                    Setting("loss#loss", "overtile.networks.PixelWeightedCrossEntropyLoss"),
                    "leave the weights out of the batch",
                ),
            )
        value: Tensor = self.loss(logits, *given)
        return value

    def _takes(self, *given: Tensor) -> bool:
        """Whether the loss can be called so; True where it does not say."""
        call = self.loss.forward if isinstance(self.loss, torch.nn.Module) else self.loss
        try:
            told = inspect.signature(call)
        except (TypeError, ValueError):  # of what is built in
            return True
        try:
            told.bind(*given)
        except TypeError:
            return False
        return True


def plain(tensor: Any) -> Tensor:
    """Without MONAI's metadata."""
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain
