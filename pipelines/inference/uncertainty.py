"""How unsure a network is of an image: which one to annotate next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from overtile.networks.inferers.averaging import allowed_turns
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.inference.trained import Trained

METHODS = ("dropout", "rotations")
_DROPOUT = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Uncertainty:
    """How much several answers to one image contradict each other.

    Attributes:
        map: for each pixel, ``[*S]`` float32 in [0, ln 2], of K classes in [0, ln K].
        value: its mean over the image.
    """

    map: NDArray[np.float32]

    @property
    def value(self) -> float:
        """Mean of the map."""
        return float(self.map.mean(dtype=np.float64))


def uncertainty(
    trained: Trained,
    image: NDArray[np.float32],
    method: str = "dropout",
    passes: int = 6,
    seed: int = 0,
) -> Uncertainty:
    """Let a network answer several times, and measure in which pixels the answers differ.

    ``"dropout"`` leaves dropout on, as in training (Gal and Ghahramani 2016, Dropout as a Bayesian
    Approximation). ``"rotations"`` turns and mirrors the image, as far as its network allows. The
    measure is the mutual information between answer and pass: the entropy of the mean of P(cell),
    or of P over the classes, less the mean of the entropies (Houlsby et al. 2011, Bayesian Active
    Learning by Disagreement). It is 0 where all passes agree, however unsure each of them is.

    Args:
        trained: network and inferer.
        image: grey values ``[C, *S]`` on the scale that the network was trained with.
        method: one of `METHODS`.
        passes: 2 or more, with ``"rotations"`` at most 8.
        seed: of the dropout.

    Raises:
        ConfigurationError: for another method or number, or a network without dropout.
    """
    if method not in METHODS:
        raise ConfigurationError("uncertainty", repr(method), " or ".join(METHODS))
    most = 8 if method == "rotations" else 100
    if not 2 <= passes <= most:
        raise ConfigurationError("passes", str(passes), f"2 to {most} for {method}")
    inputs = torch.from_numpy(np.ascontiguousarray(image))[None].to(trained.device)
    answers = _turned if method == "rotations" else _dropped
    return disagreement(answers(trained, inputs, passes, seed))


def disagreement(answers: Iterator[NDArray[Any]]) -> Uncertainty:
    """Mutual information between the answer and the pass that gave it.

    Args:
        answers: P(cell) ``[1, *S]``, or P of each class ``[K, *S]``, of each pass, at least one.
    """
    first = next(answers)
    total, entropies, count = first.astype(np.float32), _entropy(first), 1
    for p in answers:
        total, entropies, count = total + p, entropies + _entropy(p), count + 1
    between = _entropy(total / count) - entropies / count
    return Uncertainty(np.maximum(between, 0).astype(np.float32))


def _entropy(p: NDArray[Any]) -> NDArray[np.float32]:
    p = np.clip(p, 1e-7, 1 - 1e-7).astype(np.float32)
    found: NDArray[np.float32] = -(p * np.log(p)).sum(0)
    if len(p) == 1:  # and of what is no cell
        found -= ((1 - p) * np.log1p(-p))[0]
    return found


def _turned(trained: Trained, image: Tensor, passes: int, seed: int) -> Iterator[NDArray[Any]]:
    turns = allowed_turns(trained.network, image.ndim - 2, trained.inferer.geometry)
    for version in turns.versions[:passes]:
        answer = turns.back(_answer(trained, turns.turn(image, version)), version)
        yield _likely(trained, answer)


def _dropped(trained: Trained, image: Tensor, passes: int, seed: int) -> Iterator[NDArray[Any]]:
    with torch.random.fork_rng(), _dropping(trained.network):
        torch.manual_seed(seed)
        for _ in range(passes):
            yield _likely(trained, _answer(trained, image))


@contextmanager
def _dropping(network: nn.Module) -> Iterator[None]:
    layers = [m for m in network.modules() if isinstance(m, _DROPOUT) and m.p > 0]
    if not layers:
        raise ConfigurationError(
            "uncertainty dropout", f"{type(network).__name__} has no dropout", hint="take rotations"
        )
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


@torch.no_grad()
def _answer(trained: Trained, image: Tensor) -> Tensor:
    with trained.inferer.precision():
        answer: Tensor = trained.inferer.tiles(image, trained.network)
    return answer.float()


def _likely(trained: Trained, answer: Tensor) -> NDArray[Any]:
    found: Tensor = trained.activation({"pred": answer[0]})["pred"]
    likely: NDArray[Any] = (found if len(found) > 2 else found[-1:]).cpu().numpy()
    return likely
