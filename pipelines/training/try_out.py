"""A small step of training and of validation before a run begins: what does not fit says so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from overtile.networks import ClassesError
from overtile.pipelines.errors import ConfigurationError, Setting, users_mistake

_SIDE = 64  # pixels of the image that is validated
_MISFITS = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError),
    *(RuntimeError, NotImplementedError),
)


def try_out(
    trainer: SupervisedTrainer,
    evaluator: SupervisedEvaluator,
    metrics: Mapping[str, Metric],
    test_loader: DataLoader[Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[int, int]:
    """Pass one sample through all that a run is made of; nothing is learned and nothing kept.

    Args:
        trainer: whose batch, network and loss have to go together.
        evaluator: whose network, inferer and postprocessing have to.
        metrics: the evaluator's, by name.
        test_loader: of unseen images; the evaluator's own come first. Where there are none, the
            training sample passes the postprocessing, and no metric.
        class_names: of the labels; None where these are cells.

    Returns:
        Channels of the network's input and of its (first) output.

    Raises:
        ConfigurationError: naming what does not fit.
    """
    training = trainer.network.training
    trainer.network.eval()  # draws nothing, counts nothing
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what one small image lacks
            batch = _first_batch(trainer.data_loader)
            with _told("train", "batches, a network and a loss that go together"):
                channels = _check_loss(trainer, batch)
            if class_names is not None and channels[1] != len(class_names):
                expected = f"{len(class_names)}, one a class: {', '.join(class_names)}"
                raise _other("out_channels", str(channels[1]), expected, str(len(class_names)))
            loaders: list[Any] = [evaluator.data_loader, test_loader]
            loader = next((one for one in loaders if one is not None and len(one)), None)
            if loader is None:  # nor will anything be scored
                scored, metrics = batch, {}
            else:
                scored = _first_batch(loader)
            with _told("validate", "a network, postprocessing and metrics that go together"):
                _validate(evaluator, metrics, _small(scored))
    finally:
        trainer.network.train(training)
    return channels


@contextmanager
def _told(part: str, expected: str) -> Iterator[None]:
    """Within, what does not fit is said in one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _MISFITS as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # MONAI names the transform, its cause the reason
            cause = cause.__cause__
        if users_mistake(error) is not None:
            raise
        if isinstance(cause, ClassesError):
            raise _other("out_channels", cause.found, cause.expected, "2") from error
        reason = " ".join(str(cause).split())[:300]
        raise ConfigurationError(
            f"configuration: {part}", f"{type(cause).__name__}: {reason}", expected
        ) from error


def _first_batch(loader: Any) -> Mapping[str, Any]:
    """One item as a batch, without the loader's workers."""
    batch: Mapping[str, Any] = loader.collate_fn([loader.dataset[0]])
    return batch


def _check_loss(trainer: SupervisedTrainer, batch: Mapping[str, Any]) -> tuple[int, int]:
    prepared = trainer.prepare_batch(
        batch, trainer.state.device, trainer.non_blocking, **trainer.to_kwargs
    )
    inputs, targets, arguments, named = prepared if len(prepared) == 4 else (*prepared, (), {})
    channels, taken = inputs.shape[1], getattr(trainer.network, "in_channels", None)
    if taken not in (None, channels):
        expected = "as many channels as the images have"
        raise _other("in_channels", str(taken), expected, str(channels))
    answer = trainer.inferer(inputs, trainer.network, *arguments, **named)
    loss = trainer.loss_function(answer, targets).mean()
    if not isinstance(loss, Tensor):
        raise TypeError(f"the loss gives {type(loss).__name__}, not a tensor")
    outputs = [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)]
    return int(inputs.shape[1]), int(outputs[0].shape[1])


def _other(argument: str, found: str, expected: str, wanted: str) -> ConfigurationError:
    setting = f"network_def#{argument}"
    return ConfigurationError(setting, found, expected, Setting(setting, wanted))


def _small(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch whose images are cut to one small size around their centres."""
    images = {k: v for k, v in batch.items() if isinstance(v, Tensor) and v.ndim in (4, 5)}
    sides = zip(*(image.shape[2:] for image in images.values()), strict=True)
    size = [min(_SIDE, *side) for side in sides]
    return {**batch, **{k: _centre(image, size) for k, image in images.items()}}


def _centre(image: Tensor, size: list[int]) -> Tensor:
    for axis, n in enumerate(size, start=2):
        image = image.narrow(axis, (image.shape[axis] - n) // 2, n)
    return image


def _validate(
    evaluator: SupervisedEvaluator, metrics: Mapping[str, Metric], batch: Mapping[str, Any]
) -> None:
    """One iteration by hand: the handlers of a whole validation would write and count."""
    state = evaluator.state
    kept = vars(state).copy()
    try:
        state.batch = batch
        evaluator._iteration(evaluator, dict(batch))
        for metric in metrics.values():
            metric.reset()
        for metric in metrics.values():  # some are of what another counts
            metric.iteration_completed(evaluator)
        values = {name: metric.compute() for name, metric in metrics.items()}
        for metric in metrics.values():
            metric.reset()
        for name, value in values.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"metric {name} gives {value.numel()} numbers, not one")
    finally:
        vars(state).clear()
        vars(state).update(kept)
