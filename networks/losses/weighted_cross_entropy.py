"""The paper's energy function: pixel-wise cross-entropy under the weight map (equation 1)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from overtile.networks.errors import ArgumentError, ClassesError
from overtile.networks.losses.ignored import IGNORED


class PixelWeightedCrossEntropyLoss(nn.Module):
    """Softmax cross-entropy of every pixel, weighted by w(x), averaged over the pixels.

    E = -1/N * sum over pixels x of w(x) * log p_l(x)(x), with N the pixels of the batch.
    Equation 1 of the paper is the same sum without the minus sign (a misprint: an energy
    to be minimised needs it) and without 1/N. Dividing by the *number of pixels*, not by
    the sum of the weights, keeps the gradient of a pixel independent of the weights of the
    other pixels, so a tile full of narrow gaps counts for more than an empty one, and the
    learning rate does not depend on the tile size.

    Pixels labelled -1 are not annotated: they add 0 to the sum, and nothing to any gradient,
    whatever logits and weights are there. They count in N, so that neither does the gradient of a
    pixel depend on how many others are annotated.

    MONAI's trainer calls a loss with logits and labels alone: hand it
    ``LossOfPair(PixelWeightedCrossEntropyLoss())`` and ``prepare_batch=prepare_weighted_batch``,
    both of `overtile.pipelines`. A loss that is called without weights while a caller holds a
    batch with some warns, once.

    Raises:
        ValueError: if the shapes do not match, labels are a pair, as `prepare_weighted_batch` makes
            for ``LossOfPair``, or, on the CPU, for labels that are no classes.

    Example:
        >>> import torch
        >>> loss = PixelWeightedCrossEntropyLoss()
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.long)
        >>> round(loss(logits, labels, torch.ones(1, 1, 4, 4)).item(), 4)  # log 2
        0.6931
    """

    def __init__(self) -> None:
        super().__init__()
        self._looked = False

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Scalar loss.

        Args:
            logits: ``[B, K, *S]``, any real numbers, K >= 2.
            labels: ``[B, 1, *S]``, class of each pixel, integers in 0 .. K-1, or -1.
            weights: ``[B, 1, *S]``, w(x) >= 0; None weighs every pixel 1.
        """
        if not isinstance(labels, Tensor):
            raise ArgumentError(
                f"labels that are a {type(labels).__name__}",
                "a tensor",
                "what prepare_weighted_batch makes is for LossOfPair(PixelWeighted...())",
            )
        if logits.shape[1] < 2:
            raise ClassesError(f"logits of {logits.shape[1]} class", "2 or more")
        expected = (logits.shape[0], 1, *logits.shape[2:])
        for name, value in (("labels", labels), ("weights", weights)):
            if value is not None and tuple(value.shape) != expected:
                raise ArgumentError(
                    f"{name} of shape {tuple(value.shape)} for logits of shape "
                    f"{tuple(logits.shape)}",
                    str(expected),
                    "crop to the network's output",
                )
        if weights is None and not self._looked and not torch.compiler.is_compiling():
            self._looked = True
            _warn_of_weights(labels)
        classes = labels[:, 0].long()
        if _may_be_hidden(labels):
            hidden = labels == IGNORED  # 0 times what is no number is no number
            logits = logits.masked_fill(hidden, 0)
            weights = None if weights is None else weights.masked_fill(hidden, 0)
        try:
            per_pixel = cross_entropy(logits, classes, ignore_index=IGNORED, reduction="none")
        except IndexError as error:  # of the CPU alone: asking for it would take time
            raise ArgumentError(
                f"labels from {classes.min()} to {classes.max()} for {logits.shape[1]} classes",
                f"0 to {logits.shape[1] - 1}, or {IGNORED} where nothing is annotated",
            ) from error
        if weights is not None:
            per_pixel = per_pixel * weights[:, 0].to(per_pixel.dtype)
        return per_pixel.mean()


def _may_be_hidden(labels: Tensor) -> bool:
    """Whether some pixels may be `IGNORED`; asking any other device would be to wait for it."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or not labels.numel():
        return True
    return labels.dtype.is_signed and bool(labels.amin() < 0)


def _warn_of_weights(labels: Tensor) -> None:
    """Warn if a caller has a batch with weights that the loss was not given.

    The loss itself sees logits and labels. So the batch is looked up on the call stack, where
    MONAI's trainer and every loop over a loader have it.
    """
    frame = inspect.currentframe()
    while frame is not None:
        for batch in list(frame.f_locals.values()):
            for key in batch if isinstance(batch, Mapping) and "label" in batch else ():
                value = batch[key]
                named = isinstance(key, str) and key.endswith("weight")
                if named and getattr(value, "shape", None) == labels.shape:
                    warnings.warn(
                        "PixelWeightedCrossEntropyLoss was given no weights, but the batch has "
                        f"some under {key!r}, which change nothing: give MONAI's trainer "
                        "prepare_batch=prepare_weighted_batch and loss_function=LossOfPair("
                        "PixelWeightedCrossEntropyLoss()) of overtile.pipelines",
                        stacklevel=3,
                    )
                    return
        frame = frame.f_back
