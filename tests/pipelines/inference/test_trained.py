"""A trained network that cannot be used as asked says so as every other part does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_bundle

from overtile.networks import GeometryError, ValidUNet
from overtile.pipelines.errors import ConfigurationError, DataError, OvertileError, Setting
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.segment import job

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
    with pytest.raises(OvertileError, match="no such folder; give bundle=DIR with a bundle"):
        load_trained(tmp_path / "nowhere", {})
    (advice,) = missing.value.hint
    assert isinstance(advice, Setting)
    assert "--" not in str(missing.value)


def test_more_classes_than_background_and_cell_are_refused(bundle: Path) -> None:
    network = ValidUNet(out_channels=3, features=(4, 8))
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    with pytest.raises(ConfigurationError, match="3 classes; expected P"):
        load_trained(bundle, {"network_def#out_channels": 3})


def test_what_depends_on_the_chunk_is_not_segmented_in_chunks(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_trained(bundle, {})
    trained.network.bottom.append(torch.nn.InstanceNorm2d(8))
    monkeypatch.setattr(job, "load_trained", lambda *_: trained)
    with pytest.raises(GeometryError, match=r"bottom\.\d+ \(InstanceNorm2d\)"):
        job.load_once(str(bundle), '{"threshold": 0.31}')
