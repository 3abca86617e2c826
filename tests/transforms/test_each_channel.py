"""Channels are normalised and varied each alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
)

from overtile.transforms import NormalizeImage, RandEachChanneld

RANDOM = (
    RandAdjustContrastd("image", gamma=(0.7, 1.5), prob=0.5),
    RandGaussianSmoothd("image", prob=0.5),
    RandGaussianNoised("image", std=0.2, prob=0.5),
)


@pytest.mark.parametrize("method", ["zscore", "percentile", "none"])
@pytest.mark.parametrize("dims", [2, 3])
def test_each_channel_is_normalised_by_its_own_values(method: str, dims: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, *(7, 9, 5)[:dims]))
    image *= np.array([1, 50, 0]).reshape(3, *[1] * dims)  # the last is constant
    image += np.array([0, 900, 7]).reshape(3, *[1] * dims)
    found = np.asarray(NormalizeImage(method)(image))
    for channel, values in zip(found, image, strict=True):
        if method == "zscore":
            low, width = values.mean(), values.std() if np.ptp(values) else 1
        elif method == "percentile":
            low, high = np.percentile(values, (1, 99.8))
            width = high - low or 1
        else:
            low, width = 0, 1
        np.testing.assert_allclose(channel, (values - low) / width, rtol=1e-5, atol=1e-5)


def drawn(transform: Any, image: torch.Tensor, seed: int) -> torch.Tensor:
    steps = Compose([transform])
    steps.set_random_state(seed)
    result: torch.Tensor = steps({"image": MetaTensor(image)})["image"].as_tensor()
    return result


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_one_channel_is_what_the_transform_alone_gives(transform: Any) -> None:
    image = torch.rand(1, 12, 13, generator=torch.Generator().manual_seed(0))
    changed = 0
    for seed in range(12):
        alone = drawn(transform, image, seed)
        assert torch.equal(drawn(RandEachChanneld("image", transform), image, seed), alone)
        changed += not torch.equal(alone, image)
    assert 0 < changed < 12


def test_channels_are_drawn_one_by_one() -> None:
    image = torch.rand(1, 12, 13, generator=torch.Generator().manual_seed(0)).repeat(3, 1, 1)
    image[1] *= 100
    found = [drawn(RandEachChanneld("image", RANDOM[0]), image, seed) for seed in range(12)]
    kinds = {tuple(torch.equal(a, b) for a, b in zip(f, image, strict=True)) for f in found}
    assert len(kinds) > 2, "one channel may change and another stay"
    for result in found:  # the range of each is its own, and stays
        for channel, before in zip(result, image, strict=True):
            assert channel.min() == pytest.approx(float(before.min()), abs=1e-4)
            assert channel.max() == pytest.approx(float(before.max()), rel=1e-4)
