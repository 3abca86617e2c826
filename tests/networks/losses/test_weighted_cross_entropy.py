import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from numpy.typing import NDArray

from overtile.networks import PixelWeightedCrossEntropyLoss
from overtile.pipelines import LossOfPair, prepare_weighted_batch
from overtile.pipelines.errors import ConfigurationError

LOSS = PixelWeightedCrossEntropyLoss()


def formula(
    logits: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> float:
    """-1/|X| sum of w(x) log p_l(x)(x), pixel by pixel in float64."""
    total = 0.0
    for b, *where in np.ndindex(labels.shape[0], *labels.shape[2:]):
        a = logits[(b, slice(None), *where)]
        p = np.exp(a - a.max()) / np.exp(a - a.max()).sum()
        total -= weights[(b, 0, *where)] * np.log(p[labels[(b, 0, *where)]])
    return total / labels.size


def drawn(seed: int, batch: int, classes: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(classes, (batch, 1, *size), generator=generator)
    weights = torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64) * 11
    return logits, labels, weights


@given(
    seed=st.integers(0, 999),
    batch=st.integers(1, 3),
    classes=st.integers(2, 4),
    size=st.lists(st.integers(1, 5), min_size=2, max_size=3).map(tuple),
)
@settings(max_examples=40, deadline=None)
def test_loss_is_the_formula(seed: int, batch: int, classes: int, size: tuple[int, ...]) -> None:
    logits, labels, weights = drawn(seed, batch, classes, size)
    expected = formula(logits.numpy(), labels.numpy(), weights.numpy())
    assert LOSS(logits, labels, weights).item() == pytest.approx(expected, rel=1e-6)
    single = LOSS(logits.float(), labels, weights.float()).item()
    # half a unit in the last place of a logit, times a weight of up to 11
    assert single == pytest.approx(expected, rel=1e-6, abs=2e-5)


def test_no_weights_weigh_every_pixel_one() -> None:
    logits, labels, weights = drawn(0, 2, 3, (4, 5))
    assert torch.equal(LOSS(logits, labels), LOSS(logits, labels, torch.ones_like(weights)))
    expected = formula(logits.numpy(), labels.numpy(), np.ones(labels.shape))
    assert LOSS(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_huge_logits_stay_finite() -> None:
    right = torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1).requires_grad_()
    labels = torch.zeros(1, 1, 1, 1, dtype=torch.long)
    weights = torch.full((1, 1, 1, 1), 3.0)
    assert LOSS(right, labels, weights).item() == 0
    wrong = LOSS(right, 1 - labels, weights)
    assert wrong.item() == pytest.approx(3 * 2e4)  # w (a_0 - a_1)
    wrong.backward()
    assert right.grad.flatten().tolist() == pytest.approx([3, -3])  # w (p - 1[label])


def test_gradient_is_that_of_finite_differences() -> None:
    logits, labels, weights = drawn(1, 2, 3, (3, 4))
    assert torch.autograd.gradcheck(lambda a: LOSS(a, labels, weights), logits.requires_grad_())


def test_gradient_of_a_pixel_ignores_the_weights_of_others() -> None:
    logits, labels, weights = drawn(2, 1, 2, (4, 4))
    gradients = []
    for factor in (1.0, 100.0):
        changed = weights.clone()
        changed[..., 1:, :] *= factor
        a = logits.clone().requires_grad_()
        LOSS(a, labels, changed).backward()
        gradients.append(a.grad[..., 0, :])
    assert torch.allclose(*gradients)


def test_labels_and_weights_of_other_types() -> None:
    logits, labels, weights = drawn(3, 1, 2, (4, 4))
    expected = LOSS(logits, labels, weights)
    assert torch.equal(LOSS(logits, labels.to(torch.uint8), weights), expected)
    assert torch.equal(LOSS(logits, labels.float(), weights), expected)


def test_half_of_the_adapter_is_named() -> None:
    logits, labels, weights = drawn(5, 2, 3, (4, 4))
    assert torch.equal(LossOfPair(LOSS)(logits, (labels, weights)), LOSS(logits, labels, weights))
    with pytest.raises(ValueError, match="is for LossOfPair"):
        LOSS(logits, (labels, weights))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="prepare_batch=prepare_weighted_batch"):
        LossOfPair(LOSS)(logits, labels)  # type: ignore[arg-type]
    dice = LossOfPair(DiceCELoss(to_onehot_y=True, softmax=True))
    assert dice(logits, (labels, None)).isfinite()
    with pytest.raises(ConfigurationError, match=r"for which DiceCELoss has no place.*loss#loss="):
        dice(logits, (labels, weights))


@pytest.mark.parametrize("name", ["labels", "weights"])
@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 1, 4, 5), (1, 1, 4, 4), (2, 3, 4, 4)])
def test_shapes_that_do_not_match_are_named(name: str, shape: tuple[int, ...]) -> None:
    logits, labels, weights = drawn(4, 2, 3, (4, 4))
    given_ = {"labels": labels, "weights": weights, name: torch.ones(shape, dtype=torch.long)}
    with pytest.raises(ValueError, match=rf"{name} of shape.*expected \(2, 1, 4, 4\)"):
        LOSS(logits, **given_)


@pytest.mark.parametrize("wrong", [255, 2, -2, -100])  # 255: masks; -100: skipped by PyTorch
@pytest.mark.parametrize("gaps", [False, True])
def test_a_class_that_does_not_exist_is_refused(wrong: int, gaps: bool) -> None:
    logits, labels, weights = drawn(5, 1, 2, (4, 4))
    labels[0, 0, 0] = -1 if gaps else 0
    labels[0, 0, 2, 2] = wrong
    expected = rf"labels from .*{wrong}.* for 2 classes: expected 0 to 1, or -1 where nothing"
    for kind in (torch.int64, torch.int16, torch.float32):
        with pytest.raises(ValueError, match=expected):
            LOSS(logits, labels.to(kind), weights)


# --- gaps -----------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 999),
    classes=st.integers(2, 4),
    size=st.lists(st.integers(1, 5), min_size=2, max_size=3).map(tuple),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    kind=st.sampled_from([torch.int8, torch.int32, torch.int64, torch.float32]),
    junk=st.sampled_from([0.0, -1e30, math.inf, -math.inf, math.nan]),
    weighted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_is_not_annotated_costs_nothing(
    seed: int,
    classes: int,
    size: tuple[int, ...],
    share: float,
    kind: torch.dtype,
    junk: float,
    weighted: bool,
) -> None:
    logits, labels, weights = drawn(seed, 2, classes, size)
    weights = weights if weighted else torch.ones_like(weights)
    hidden = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) < share
    expected = formula(logits.numpy(), labels.numpy(), (weights * ~hidden).numpy())
    clean = logits.clone().requires_grad_()
    LOSS(clean, labels, weights * ~hidden).backward()  # weighs them 0: the same, all pixels in N
    there = logits.masked_fill(hidden, junk).requires_grad_()
    junked = weights.masked_fill(hidden, junk) if weighted else None
    found = LOSS(there, labels.masked_fill(hidden, -1).to(kind), junked)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    found.backward()
    torch.testing.assert_close(there.grad, clean.grad)
    assert (there.grad[hidden.expand_as(there)] == 0).all()


def test_a_batch_without_annotation_costs_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = LOSS(logits, torch.full((1, 1, 4, 4), -1), torch.ones(1, 1, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_gradient_of_a_pixel_ignores_how_many_others_are_annotated() -> None:
    logits, labels, weights = drawn(6, 1, 3, (4, 4))
    gradients = []
    for hidden in (0, 3):
        a = logits.clone().requires_grad_()
        known = labels.clone()
        known[..., 1 : 1 + hidden, :] = -1
        LOSS(a, known, weights).backward()
        gradients.append(a.grad[..., 0, :])
    assert torch.equal(*gradients)


def test_compiled_loss_keeps_gaps() -> None:
    logits, labels, weights = drawn(7, 2, 3, (4, 5))
    compiled = torch.compile(PixelWeightedCrossEntropyLoss(), backend="eager", fullgraph=True)
    for hidden in (False, True):
        labels[0, 0, 0] = -1 if hidden else 0
        assert compiled(logits, labels, weights).item() == pytest.approx(
            LOSS(logits, labels, weights).item()
        )


def trained(batch: dict[str, torch.Tensor], **parts: Any) -> torch.Tensor:
    """The weights of a network after one step of MONAI's trainer."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = SupervisedTrainer(
        torch.device("cpu"), 1, [batch], network, optimizer, epoch_length=1, **parts
    )
    trainer.run()
    return network.weight.detach().clone()


def batch_of(weight: float | None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.rand(2, 1, 6, 6, generator=generator),
        "label": torch.randint(2, (2, 1, 6, 6), generator=generator),
    }
    if weight is not None:
        batch["weight"] = torch.full((2, 1, 6, 6), weight)
    return batch


def test_weights_that_are_not_handed_on_are_told_once() -> None:
    loss = PixelWeightedCrossEntropyLoss()
    with pytest.warns(UserWarning, match="no weights, but the batch has some under 'weight'"):
        trained(batch_of(1000.0), loss_function=loss)
    trained(batch_of(1000.0), loss_function=loss)  # a second warning would be an error
    trained(batch_of(None), loss_function=PixelWeightedCrossEntropyLoss())
    for batch in [batch_of(3.0)]:  # a loop of one's own
        with pytest.warns(UserWarning, match="no weights"):
            PixelWeightedCrossEntropyLoss()(torch.zeros(2, 2, 6, 6), batch["label"])
        given = PixelWeightedCrossEntropyLoss()
        given(torch.zeros(2, 2, 6, 6), batch["label"], batch["weight"])


def test_the_adapter_hands_weights_to_the_loss_of_monais_trainer() -> None:
    adapter = {
        "loss_function": LossOfPair(PixelWeightedCrossEntropyLoss()),
        "prepare_batch": prepare_weighted_batch,
        "decollate": False,
    }
    plain = trained(batch_of(None), loss_function=PixelWeightedCrossEntropyLoss())
    assert torch.equal(trained(batch_of(1.0), **adapter), plain)
    assert torch.equal(trained(batch_of(None), **adapter), plain)
    torch.manual_seed(0)
    start = torch.nn.Conv2d(1, 2, 1).weight.detach()
    moved = trained(batch_of(1000.0), **adapter) - start
    torch.testing.assert_close(moved, 1000 * (plain - start), rtol=1e-3, atol=1e-4)


def test_the_adapter_takes_a_loss_of_monai() -> None:
    from monai.losses import DiceLoss

    loss = DiceLoss(to_onehot_y=True, softmax=True)
    adapted = {"loss_function": LossOfPair(loss), "prepare_batch": prepare_weighted_batch}
    found = trained(batch_of(None), decollate=False, **adapted)
    assert torch.equal(found, trained(batch_of(None), loss_function=loss))
