"""What a computer runs out of, for real: one line, nothing half written, what was done is kept."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from conftest import Bundle
from exhausted import enlarge, small_disk

from overtile.pipelines.data.synthesis.datasets import write_touching_cells
from overtile.pipelines.errors import ran_out
from overtile.transforms.compiled import compiled


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_touching_cells(
        tmp_path_factory.mktemp("cells"), {"train": 2, "val": 1}, size=(96, 112), large=(96, 112)
    )


def line_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that was refused."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [one for one in done.stderr.splitlines() if "overtile: error" in one]
    return line


def test_a_full_disk_of_a_run_is_named_and_the_run_goes_on(
    bundle: Bundle, cells: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    small = (
        *("--dataset_dir", cells, "--output_dir", disk / "run", "--tracking_uri", "sqlite:///t.db"),
        *("--network_def#features", "[16,32]", "--tile", 60, "--warmup_steps", 1),
        *("--samples_per_epoch", 2, "--max_epochs", 2),
    )
    with small_disk(disk, 120_000):
        line = line_of(bundle.run("touching_cells", "training", *small))
        assert str(disk) in line
        assert "No space left on device" in line
        assert "make room" in line
        assert not list(disk.rglob(".partial*"))
        enlarge(disk, 2**25)
        resume = ("--resume", (disk / "run" / "models" / "last.pt").is_file())
        done = bundle.run("touching_cells", "training", *small, *resume)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["inference", "evaluation"])
def test_a_full_disk_of_results_is_named(
    bundle: Bundle, cells: Path, tmp_path: Path, command: str
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 24_000):
        images = cells / "train" / "images" if command == "inference" else cells
        own = ("--dataset_dir", images, "--output_dir", disk / "results", "--versions", 1)
        line = line_of(bundle.run("touching_cells", command, *own))
        assert str(disk / "results") in line
        assert "No space left on device" in line
        assert not list(disk.rglob(".partial*"))


def test_too_little_memory_names_what_needs_less(
    bundle: Bundle, cells: Path, tmp_path: Path
) -> None:
    line = line_of(
        bundle.run(
            *("touching_cells", "training", "--dataset_dir", cells, "--output_dir", "run"),
            *("--network_def#features", "[64,128]", "--tile", 700, "--batch_size", 8),
            *("--samples_per_epoch", 8, "--max_epochs", 1, "--num_workers", 0),
            limit_memory=4 * 2**30,
        )
    )
    assert "not enough memory" in line
    assert "--batch_size 1, or --tile" in line


def told(error: BaseException | None) -> str:
    assert error is not None
    found = ran_out(error)
    return "" if found is None else str(found)


def test_what_ran_out_is_known_by_what_systems_and_libraries_raise() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert "x.tif: cannot be written" in told(OSError(number, os.strerror(number), "x.tif"))
    assert "ulimit -n" in told(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    assert "ulimit -n" in told(RuntimeError("received 0 items of ancdata"))
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**50, dtype=torch.uint8)
    assert "not enough memory" in told(failed.value)
    assert "not enough memory" in told(MemoryError())
    assert "no further thread" in told(RuntimeError("can't start new thread"))
    assert told(RuntimeError("shapes differ")) == ""
    assert told(OSError(errno.ENOENT, "No such file", "x.tif")) == ""


def test_what_cannot_be_cached_is_compiled_all_the_same() -> None:
    """As in a read-only installation without a home, where Numba finds no folder."""
    found: dict[str, Any] = {}
    exec("def twice(number): return 2 * number", found)  # which lies in no file
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(found["twice"])
    assert compiled()(found["twice"])(4) == 8
