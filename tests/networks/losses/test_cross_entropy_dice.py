"""Cross-entropy plus Dice against MONAI's losses, and against pixels left out or told twice."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn.functional import cross_entropy

from overtile.networks import CrossEntropyDiceLoss

SHAPES = [(6, 5), (4, 5, 3)]


def drawn(size: tuple[int, ...], classes: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(size))
    logits = torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (batch, 1, *size), generator=generator)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_the_sum_of_pytorchs_and_monais(
    size: tuple[int, ...], background: bool, classes: int
) -> None:
    logits, labels = drawn(size, classes)
    dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True, include_background=background)(
        logits, labels
    )
    expected = cross_entropy(logits, labels[:, 0]) + 0.7 * dice
    found = CrossEntropyDiceLoss(0.7, background)(logits, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    ones = torch.ones(labels.shape)
    torch.testing.assert_close(CrossEntropyDiceLoss(0.7, background)(logits, labels, ones), found)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_right_and_nothing_where_nothing_is_annotated(weighted: bool) -> None:
    logits, labels = drawn((3, 4), batch=1)
    labels[..., 1, :2] = -1
    weights = torch.rand(labels.shape, dtype=torch.float64) if weighted else None
    logits.requires_grad_()
    loss = CrossEntropyDiceLoss()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, weights), logits)
    loss(logits, labels, weights).backward()
    assert logits.grad is not None
    assert not logits.grad[..., 1, :2].any()
    assert logits.grad[..., 1, 2:].all()


@pytest.mark.parametrize("size", SHAPES)
def test_what_is_not_annotated_is_as_if_it_were_not_there(size: tuple[int, ...]) -> None:
    logits, labels = drawn(size)
    labels[:, :, :2] = -1
    logits[:, 0, :2] = math.nan
    logits[:, 1, :2] = math.inf
    found = CrossEntropyDiceLoss()(logits, labels, torch.full(labels.shape, 1.0))
    seen, known = logits[:, :, 2:], labels[:, :, 2:]
    dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True, include_background=False)
    share = known.numel() / labels.numel()
    expected = share * cross_entropy(seen, known[:, 0]) + dice(seen, known)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_pixel_of_weight_two_counts_as_two_in_dice() -> None:
    logits, labels = drawn((6, 5))
    weights = torch.ones(labels.shape)
    weights[:, :, 4:] = 2
    twice = [torch.cat([one, one[:, :, 4:]], 2) for one in (logits, labels)]
    loss, entropy = CrossEntropyDiceLoss(), CrossEntropyDiceLoss(0)
    found = loss(logits, labels, weights) - entropy(logits, labels, weights)
    expected = DiceLoss(softmax=True, to_onehot_y=True, batch=True, include_background=False)
    torch.testing.assert_close(found, expected(*twice), rtol=0, atol=1e-6)


def test_a_perfect_answer_costs_nothing_also_of_classes_that_are_not_there() -> None:
    labels = torch.tensor([0, 0, 2, 2]).reshape(1, 1, 2, 2)
    logits = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1) * 60.0
    assert CrossEntropyDiceLoss()(logits, labels).item() < 1e-6


def test_half_precision_is_summed_in_single() -> None:
    logits, labels = drawn((40, 40, 40), batch=1)
    exact = CrossEntropyDiceLoss()(logits, labels)
    found = CrossEntropyDiceLoss()(logits.bfloat16(), labels)
    assert abs(found - exact) < 2e-3


@pytest.mark.parametrize("dice", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(dice: float) -> None:
    with pytest.raises(ValueError, match="expected a weight >= 0"):
        CrossEntropyDiceLoss(dice)
