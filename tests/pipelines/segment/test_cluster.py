"""``overtile segment --scheduler``: a real scheduler, and workers that come and go."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from conftest import Bundle
from toy import classes_bundle, files, toy_bundle

from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.segment.cluster import on_cluster
from overtile.pipelines.segment.job import Job

LOOPBACK = ["--host", "127.0.0.1", "--no-dashboard"]


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


class Cluster:
    """A scheduler on loopback and its workers, each a process of its own."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.log = bundle, bundle.folder / "scheduler.log"
        self.processes: list[int] = []
        arguments = [*LOOPBACK, "--port", "0"]
        self.processes.append(
            bundle.background("distributed.cli.dask_scheduler", arguments, self.log)
        )
        wait_for(self.found)
        self.address = str(self.found())

    def found(self) -> str | None:
        text = self.log.read_text() if self.log.exists() else ""
        match = re.search(r"Scheduler at: +(tcp://\S+)", text)
        return match[1] if match else None

    def worker(self) -> int:
        arguments = [self.address, *LOOPBACK, "--nthreads", "1", "--no-nanny"]
        log = self.bundle.folder / f"worker{len(self.processes)}.log"
        self.processes.append(self.bundle.background("distributed.cli.dask_worker", arguments, log))
        return self.processes[-1]

    def close(self) -> None:
        for process in reversed(self.processes):
            os.kill(process, signal.SIGKILL)  # one that is dead already waits to be reaped


@pytest.fixture
def cluster(bundle: Bundle) -> Iterator[Cluster]:
    made = Cluster(bundle)
    yield made
    made.close()


def test_a_worker_killed_half_way_changes_nothing(
    bundle: Bundle, cluster: Cluster, tmp_path: Path
) -> None:
    image = touching_cells(8, (300, 350))[0]
    tifffile.imwrite(tmp_path / "image.tif", image, tile=(64, 64), compression="zlib")
    toy = toy_bundle(tmp_path / "toy", image)
    words = ["segment", "image.tif", "labels.ome.zarr", "--bundle", str(toy), "--chunk", "32"]
    done = bundle.overtile(*words, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (tmp_path / "labels.ome.zarr").rename(tmp_path / "alone")

    victim, survivor = cluster.worker(), cluster.worker()
    log, work = tmp_path / "log", tmp_path / "partial.labels.ome.zarr"
    words += ["--scheduler", cluster.address]
    segmenting = bundle.background("overtile.pipelines", words, log)
    chunks = 10 * 11
    wait_for(lambda: len(list(work.glob("probabilities/c/*/*"))) > chunks // 4)
    os.kill(victim, signal.SIGKILL)
    assert len(list(work.glob("probabilities/c/*/*"))) < chunks  # not too late
    wait_for(lambda: (tmp_path / "labels.ome.zarr").exists() or not alive(segmenting))
    wait_for(lambda: not alive(segmenting))
    assert alive(survivor)
    assert "cells" in log.read_text()
    assert files(tmp_path / "labels.ome.zarr") == files(tmp_path / "alone")
    assert not list(tmp_path.glob("partial.*"))

    # what is wrong with the image is said as it is alone
    with (tmp_path / "image.tif").open("r+b") as file:
        file.truncate((tmp_path / "image.tif").stat().st_size // 2)
    done = bundle.overtile(*words[:2], "broken.zarr", *words[3:])
    assert done.returncode == 2
    assert re.search(
        r"overtile: error: chunk \d+/\d+ \(y .*: image.tif: .*--skip-unreadable", done.stderr
    )
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_probabilities_of_classes_come_from_a_cluster_as_from_this_machine(
    bundle: Bundle, cluster: Cluster, tmp_path: Path
) -> None:
    image = touching_cells(8, (60, 70))[0]
    tifffile.imwrite(tmp_path / "image.tif", image, tile=(64, 64))
    toy = classes_bundle(tmp_path / "toy", image)
    options = ["--bundle", str(toy), "--chunk", "32", "--output", "probabilities"]
    for target, more in (("alone.zarr", []), ("spread.zarr", ["--scheduler", cluster.address])):
        if more:
            cluster.worker()
            with on_cluster(cluster.address, patience=60):
                pass
        words = ["segment", "image.tif", target, *options, *more]
        done = bundle.overtile(*words, env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
    alone, spread = tmp_path / "alone.zarr", tmp_path / "spread.zarr"
    assert files(spread).keys() == files(alone).keys()
    assert len(list(spread.glob("0/c/*/*/*"))) == 4 * 2 * 3
    found, expected = (zarr.open(target)["0"][:] for target in (spread, alone))
    assert np.abs(found - expected).max() < 1e-6
    assert np.ptp(expected) > 0.5


def test_a_worker_lost_at_the_start_is_done_without(cluster: Cluster, tmp_path: Path) -> None:
    victim, _ = cluster.worker(), cluster.worker()
    folder = str(tmp_path)
    job = Job("x", folder, 0, None, folder, "{}", True, folder, False, (16, 16), (16, 16), 0, "")
    with on_cluster(cluster.address, patience=60) as runner:
        wait_for(lambda: len(runner.client.nthreads()) == 2)
        os.kill(victim, signal.SIGKILL)  # the scheduler has not seen it yet
        runner.check(job)


def alive(process: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_cluster_without_workers_and_none_at_all_are_named(cluster: Cluster) -> None:
    with (
        pytest.raises(ConfigurationError, match="no workers; start some with `dask worker tcp"),
        on_cluster(cluster.address, patience=1),
    ):
        pass
    with (
        pytest.raises(ConfigurationError, match=r"tcp://127\.0\.0\.1:1: no answer"),
        on_cluster("tcp://127.0.0.1:1", patience=1),
    ):
        pass
