"""Disagreement of a network with itself, against its definition."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import entropy
from toy import toy_bundle

from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.inference.trained import Trained, load_trained
from overtile.pipelines.inference.uncertainty import disagreement, uncertainty

ANSWERS = hnp.arrays(np.float32, (4, 1, 3, 5), elements=st.floats(0, 1, width=32))


@given(ANSWERS)
def test_it_is_the_mutual_information(answers: np.ndarray) -> None:
    def binary(p: np.ndarray) -> np.ndarray:
        p = np.clip(p.astype(float), 1e-7, 1 - 1e-7)
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    found = disagreement(iter(answers))
    expected = binary(answers.astype(float).mean(0)) - binary(answers).mean(0)
    np.testing.assert_allclose(found.map, np.maximum(expected[0], 0), atol=1e-5)
    assert 0 <= found.value <= math.log(2) + 1e-5


@given(hnp.arrays(np.float64, (3, 4, 2, 5), elements=st.floats(0.01, 1)))
def test_of_classes_it_is_that_of_their_distributions(drawn: np.ndarray) -> None:
    answers = drawn / drawn.sum(1, keepdims=True)
    found = disagreement(iter(answers)).map
    together = entropy(answers.mean(0), axis=0)
    apart = np.mean([entropy(one, axis=0) for one in answers], axis=0)
    np.testing.assert_allclose(found, np.maximum(together - apart, 0), atol=1e-5)
    two = disagreement(iter(np.stack([1 - drawn[:, 0], drawn[:, 0]], 1))).map
    np.testing.assert_allclose(two, disagreement(iter(drawn[:, :1])).map, atol=1e-5)


def test_being_unsure_is_no_disagreement() -> None:
    halves = np.full((3, 1, 4, 4), 0.5, np.float32)
    assert disagreement(iter(halves)).value == 0
    sure = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4))]).astype(np.float32)
    assert disagreement(iter(sure)).value == pytest.approx(math.log(2), rel=1e-3)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(60, 71)).astype(np.float32)


def trained(folder: Path, image: np.ndarray, dropout: float) -> Trained:
    bundle = toy_bundle(folder, image)
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"]["dropout"] = dropout
    file.write_text(json.dumps(config))
    return load_trained(bundle, {})


def test_dropout_repeats_and_leaves_nothing_behind(tmp_path: Path, image: np.ndarray) -> None:
    network = trained(tmp_path / "bundle", image, 0.3)
    state = torch.random.get_rng_state()
    plain = network.instances(image[None])
    first, again = (uncertainty(network, image[None], "dropout", 4, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.map, again.map)
    assert first.map.shape == image.shape
    assert first.value > 0
    assert uncertainty(network, image[None], "dropout", 4, seed=8).value != first.value
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(network.instances(image[None]), plain)


def test_an_equivariant_network_agrees_with_itself(tmp_path: Path, image: np.ndarray) -> None:
    network = trained(tmp_path / "bundle", image, 0)
    before = uncertainty(network, image[None], "rotations", 8).value
    with torch.no_grad():
        for name, weight in network.network.named_parameters():
            if weight.ndim == 4 and weight.shape[-1] == 3:
                weight.copy_(weight.mean((2, 3), keepdim=True).expand_as(weight))
            if weight.ndim == 4 and "up" in name:
                weight.copy_(weight.mean((2, 3), keepdim=True).expand_as(weight))
    assert before > 1e-4
    assert uncertainty(network, image[None, :56, :56], "rotations", 8).value < 1e-6


def test_what_cannot_be_measured(tmp_path: Path, image: np.ndarray) -> None:
    network = trained(tmp_path / "bundle", image, 0)
    with pytest.raises(ConfigurationError, match="has no dropout"):
        uncertainty(network, image[None], "dropout")
    with pytest.raises(ConfigurationError, match="2 to 8"):
        uncertainty(network, image[None], "rotations", 9)
    with pytest.raises(ConfigurationError, match="dropout or rotations"):
        uncertainty(network, image[None], "entropy")
