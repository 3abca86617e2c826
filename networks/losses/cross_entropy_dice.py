"""Cross-entropy plus soft Dice, for classes that fill little of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from overtile.networks.errors import ArgumentError
from overtile.networks.losses.ignored import IGNORED
from overtile.networks.losses.weighted_cross_entropy import PixelWeightedCrossEntropyLoss


class CrossEntropyDiceLoss(nn.Module):
    """`PixelWeightedCrossEntropyLoss` plus ``dice`` times a mean of 1 - Dice over the classes.

    Cross-entropy is a mean over pixels, and most are background: a class of a hundredth of them
    moves it by little. Dice counts a class against itself. For a class c with probabilities p and
    labels t, 0 or 1, it is D = (2 sum w p t + s) / (sum w p + sum w t + s), s = 1e-5, with sums
    over all pixels of the batch, so that a tile without the class does not count as missed. Without
    weights that is MONAI's ``DiceLoss(softmax=True, to_onehot_y=True, batch=True)``; the plus is
    nnU-Net's (Isensee et al. 2021).

    Pixels labelled -1 are not annotated: they add nothing to either sum, nor to any gradient.

    Args:
        dice: weight of the second term; 0 leaves cross-entropy.
        background: whether class 0 counts among the classes of Dice.

    Raises:
        ValueError: for a ``dice`` that is no number >= 0, and as `PixelWeightedCrossEntropyLoss`.

    Example:
        >>> import torch
        >>> labels = torch.tensor([0, 0, 0, 1]).reshape(1, 1, 2, 2)
        >>> logits = torch.zeros(1, 2, 2, 2)  # p = 1/2: D = 1 / (2 + 1)
        >>> round(CrossEntropyDiceLoss()(logits, labels).item(), 4)  # log 2 + 2/3
        1.3598
    """

    def __init__(self, dice: float = 1.0, background: bool = False) -> None:
        super().__init__()
        if not 0 <= dice < math.inf:
            raise ArgumentError(f"dice={dice}", "a weight >= 0")
        self.dice, self.background = dice, background
        self.cross_entropy = PixelWeightedCrossEntropyLoss()

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Scalar loss; arguments as of `PixelWeightedCrossEntropyLoss`."""
        loss: Tensor = self.cross_entropy(logits, labels, weights)
        return loss + self.dice * self._missed(logits, labels, weights) if self.dice else loss

    def _missed(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """1 - Dice, mean over the classes."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        hidden = labels == IGNORED
        likely = logits.masked_fill(hidden, 0).softmax(1)
        counts = (~hidden).to(likely.dtype)
        if weights is not None:
            counts = weights.to(likely.dtype).masked_fill(hidden, 0)
        classes = labels[:, 0].long().clamp_min(0)
        true = one_hot(classes, logits.shape[1]).movedim(-1, 1).to(likely.dtype)
        axes = [0, *range(2, logits.ndim)]
        both = (counts * likely * true).sum(axes)
        each = (counts * likely).sum(axes) + (counts * true).sum(axes)
        found = (2 * both + _SMOOTH) / (each + _SMOOTH)
        return 1 - (found if self.background else found[1:]).mean()


_SMOOTH = 1e-5
