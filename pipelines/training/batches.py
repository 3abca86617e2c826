"""Batches and losses as MONAI's trainer takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def prepare_weighted_batch(
    batch: dict[str, Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """MONAI ``prepare_batch``: image ``[B, C, *in]``, and (label, weight) ``[B, 1, *out]`` each.

    Metadata stays behind: a training step needs none.
    """
    image, label, weight = (
        torch.as_tensor(batch[key]).to(device, non_blocking=non_blocking)
        for key in ("image", "label", "weight")
    )
    return plain(image), (plain(label), plain(weight))


class LossOfPair:
    """Call a loss of (logits, labels, weights) as MONAI's trainer does: (logits, target).

    Args:
        loss: e.g. `overtile.networks.PixelWeightedCrossEntropyLoss`.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        self.loss = loss

    def __call__(self, logits: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """Scalar loss of ``target = (labels, weights)``."""
        value: Tensor = self.loss(logits, *target)
        return value


def plain(tensor: Any) -> Tensor:
    """Without MONAI's metadata."""
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain
