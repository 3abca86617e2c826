"""Runs in a real store of MLflow, in a file: what was deleted, and what is damaged."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from exhausted import limited
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.training.tracking import RunTracker

DATA: Any = SimpleNamespace(
    name="cells", layout="pairs", root="cells", train=[], val=[], test=[], digest=lambda: "0" * 64
)


def tracker(folder: Path, experiment: str) -> RunTracker:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    return RunTracker(experiment, folder / "run", DATA, optimizer)


def recorded(folder: Path, experiment: str, run: str | None = None) -> str:
    with tracker(folder, experiment).recording(run) as number:
        return number


def said_of(folder: Path, experiment: str, run: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        recorded(folder, experiment, run)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_deleted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = recorded(tmp_path, "kept")
    assert recorded(tmp_path, "kept", run) == run, "a run goes on"

    client.delete_run(run)
    other = recorded(tmp_path, "kept", run)
    assert other != run
    assert "was deleted" in caplog.text
    moved = recorded(tmp_path, "gone", other)
    assert client.get_run(moved).info.experiment_id != client.get_run(other).info.experiment_id

    number = client.get_run(moved).info.experiment_id
    client.delete_experiment(number)
    for resumed in (None, moved):
        assert said_of(tmp_path, "gone", resumed) == (
            f"MLflow store {uri}: experiment gone was deleted; restore it: "
            f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {number}, "
            "or give tracker#experiment=NAME for another one"
        )
    assert recorded(tmp_path, "kept", other) == other, "another one is as it was"
    client.restore_experiment(number)
    assert recorded(tmp_path, "gone", moved) == moved

    assert "give tracker#experiment=NAME" in said_of(tmp_path, "x" * 1000)

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("no", PERMISSION_DENIED)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", refuse)
        assert "MLFLOW_TRACKING_USERNAME" in said_of(tmp_path, "kept")


def test_a_run_that_fails_for_want_of_descriptors_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    taken: list[int] = []

    def train() -> None:
        with tracker(tmp_path, "full").recording():
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))

    there = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
    try:
        with (
            limited(resource.RLIMIT_NOFILE, there + 64),
            pytest.raises(OSError, match="Too many open files"),
        ):
            train()
    finally:
        for descriptor in taken:
            os.close(descriptor)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("full").experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("content", [b"no store at all, but a text", b"SQLite format 3\0" * 99])
def test_a_damaged_store_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(content)
    for run in (None, "1"):
        said = said_of(tmp_path, "cells", run)
        assert str(tmp_path / "mlflow.db") in said
        assert "move that file away, or give tracking_uri=URI" in said
