"""A trained network that cannot be used as asked says so as every other part does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy import toy_bundle

from overtile.pipelines.errors import ConfigurationError, DataError, OvertileError, Setting
from overtile.pipelines.inference.trained import load_trained

READER = "preprocessing#transforms#0#labels"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    image = np.random.default_rng(4).normal(size=(60, 71)).astype(np.float32)
    return toy_bundle(tmp_path / "bundle", image)


def test_a_mistake_comes_as_it_was_raised(bundle: Path) -> None:
    with pytest.raises(DataError) as raised:
        load_trained(bundle, {READER: "cells"})
    assert "'cells'" in str(raised.value)
    with pytest.raises(ConfigurationError) as refused:
        load_trained(bundle, {"nowhere#x": 3})
    assert (refused.value.where, refused.value.found[:13]) == ("nowhere#x", "no such place")


def test_each_front_end_words_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OvertileError, match="give bundle=DIR with a bundle") as missing:
        load_trained(tmp_path, {})
    (advice,) = missing.value.hint
    assert isinstance(advice, Setting)
    assert "--" not in str(missing.value)
