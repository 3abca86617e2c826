"""Disks that cannot be written, files that may not be read: one line, nothing half written."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from multiprocessing import connection
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import ROOT, Bundle
from exhausted import read_only, small_disk
from toy import files, toy_bundle
from toy_run import Run, Store, write_images

from overtile.pipelines.data import workers
from overtile.pipelines.data.cache_folder import default_cache
from overtile.pipelines.data.facts import FactBook
from overtile.pipelines.data.find import DataSet
from overtile.pipelines.data.workers import make_room_for_sockets
from overtile.pipelines.errors import ConfigurationError, users_mistake
from overtile.pipelines.files import whole
from overtile.pipelines.training import tracking
from overtile.pipelines.training.tracking import RunTracker

IMAGE = np.random.default_rng(0).integers(0, 99, (40, 40)).astype(np.uint16)


def line_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that was refused."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [one for one in done.stderr.splitlines() if "overtile: error" in one]
    return line


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.mark.parametrize("command", ["training", "inference", "evaluation"])
def test_a_bundle_that_writes_where_nothing_can_be_written(
    bundle: Bundle, images: Path, tmp_path: Path, command: str
) -> None:
    """Also into results that lie there already, which stay as they are."""
    results = tmp_path / "content" / "results"
    results.mkdir(parents=True)
    (results / "evaluation.csv").write_text("of earlier\n")
    data = images / "train" / "images" if command == "inference" else images
    with read_only(tmp_path / "disk", results.parent) as disk:
        for output in (disk / "results", disk / "new"):
            own = ("--dataset_dir", data, "--output_dir", output)
            line = line_of(bundle.run("touching_cells", command, *own))
            assert f"{output}" in line
            assert "Read-only file system" in line
            assert "--output_dir" in line or "name a place on another" in line
            assert ".partial" not in line
    assert files(results) == {"evaluation.csv": b"of earlier\n"}


def test_commands_that_write_where_nothing_can_be_written(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    toy = toy_bundle(tmp_path / "toy", IMAGE)
    tifffile.imwrite(tmp_path / "image.tif", IMAGE)
    with read_only(tmp_path / "disk", images) as disk:
        before = files(disk)
        for words in (
            ("segment", "image.tif", disk / "new.tif", "--bundle", toy),
            ("segment", "image.tif", disk / "new.ome.zarr", "--bundle", toy),
            ("data", "look", images, "--picture", disk / "new.png"),
            ("data", "synth", disk / "new"),
        ):
            line = line_of(bundle.overtile(*words))
            assert f"{disk}/new" in line
            assert "Read-only file system" in line
            assert "make room" not in line
            assert "is kept" not in line
        look = ("data", "look", disk, "--picture", "sheet.png", "--json")
        done = bundle.overtile(*look, env={"OVERTILE_CACHE": str(disk / "cache")})
        assert done.returncode == 0, done.stderr
        (warning,) = json.loads(done.stdout)["warnings"]
        assert warning.startswith(f"{disk}/cache: no cache there (Read-only file system)")
        assert done.stderr.splitlines()[-1] == f"overtile: warning: {warning}"
        assert files(disk) == before


def test_a_warning_stands_again_before_an_error(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    with read_only(tmp_path / "disk", images) as disk:
        (images / "val" / "labels" / "0.tif").write_bytes(b"II*\0")
        own = ("--dataset_dir", images, "--output_dir", "out")
        cache = {"OVERTILE_CACHE": str(disk / "cache")}
        done = bundle.run("touching_cells", "evaluation", *own, env=cache)
        line_of(done)
        warning, error = done.stderr.splitlines()[-2:]
        assert warning.startswith(f"overtile: warning: {disk}/cache: no cache there")
        assert error.startswith("overtile: error: ")


def test_what_may_not_be_read(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    locked = images / "test" / "images" / "0.tif"
    locked.chmod(0)
    own = ("--dataset_dir", images, "--output_dir", "out")
    done = bundle.run("touching_cells", "evaluation", *own, without_roots_rights=1)
    assert f"{locked}: cannot be read (Permission denied); expected the right" in line_of(done)
    inside = ("--dataset_dir", locked.parent, "--output_dir", "out")
    done = bundle.run("touching_cells", "inference", *inside, without_roots_rights=1)
    assert f"{locked}: cannot be read (Permission denied); expected the right" in line_of(done)
    look = ("data", "look", images, "--json")
    told = json.loads(bundle.overtile(*look, without_roots_rights=1).stdout)
    assert any(str(locked) in line and "Permission" in line for line in told["suspicious"])
    labels = images / "train" / "labels"
    labels.chmod(0)
    for done in (
        bundle.overtile(*look, without_roots_rights=1),
        bundle.run("touching_cells", "training", *own, without_roots_rights=1),
    ):
        assert f"error: {labels}: this user may not read" in line_of(done)
    labels.chmod(0o700)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_others_keep(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    toy = toy_bundle(tmp_path / "toy", IMAGE)
    tifffile.imwrite(tmp_path / "image.tif", IMAGE)
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o555)
    new = kept / "new.tif"
    done = bundle.overtile("segment", "image.tif", new, "--bundle", toy, without_roots_rights=1)
    assert f"{new}: cannot be written (Permission denied); let it be written" in line_of(done)
    own = ("--dataset_dir", images, "--output_dir", kept)
    done = bundle.run("touching_cells", "evaluation", *own, without_roots_rights=1)
    assert f"error: {kept}: this user may not" in line_of(done)
    assert not list(kept.iterdir())


def test_an_earlier_run_on_a_disk_of_its_own(tmp_path: Path, images: Path) -> None:
    """Which is no folder that could be renamed."""
    run = Run(tmp_path)
    with small_disk(run.out, 2**20):
        (run.out / "history.csv").write_text("of earlier\n")
        with pytest.raises(RuntimeError) as failed:
            run.train()
        mistake = users_mistake(failed.value)
        assert mistake is not None
        assert f"output_dir: {run.out} holds an earlier run, which cannot be moved" in str(mistake)
        assert run.files() == {"history.csv": b"of earlier\n"}


def tracker(store: Path, tmp_path: Path) -> RunTracker:
    weights = [torch.nn.Parameter(torch.zeros(1))]
    data = DataSet("cells", "pairs", tmp_path, [], [], [], facts=FactBook(None, tmp_path))
    rate = torch.optim.SGD(weights)
    return RunTracker("e", tmp_path / "run", data, rate, None, f"sqlite:///{store}")


def test_a_store_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "MlflowClient", Store)  # MLflow would try for ten seconds
    (tmp_path / "content").mkdir()
    with (
        read_only(tmp_path / "disk", tmp_path / "content") as disk,
        pytest.raises(ConfigurationError, match=f"{disk} cannot be written.*tracking_uri"),
    ):
        tracker(disk / "runs.db", tmp_path).reach()
    with pytest.raises(ConfigurationError, match=r"gone there is no such folder.*tracking_uri"):
        tracker(tmp_path / "gone" / "runs.db", tmp_path).reach()
    assert tracker(tmp_path / "runs.db", tmp_path).reach() == "1"


def test_a_store_on_a_full_disk_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with (
        small_disk(tmp_path / "disk", 40_000),
        pytest.raises(ConfigurationError, match=r"No space left on device.*make room"),
    ):
        tracker(tmp_path / "disk" / "runs.db", tmp_path).reach()


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of temporary files whose path fills that of a socket."""
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    return folder


def test_workers_have_sockets_below_a_deep_folder(
    deep: Path, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        connection.Listener(family="AF_UNIX")
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    monkeypatch.setattr(tracking, "MlflowClient", Store)
    # without sockets no batch comes: not for ever, in a test
    Run(tmp_path).train(num_workers=1, max_epochs=1, **{"train#dataloader#timeout": 100})
    assert (tmp_path / "run" / "summary.json").is_file()
    assert tempfile.gettempdir() == str(deep), "only sockets lie elsewhere"


def test_without_a_short_folder_the_deep_one_is_named(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_SHORT", (tmp_path / "gone",))
    with pytest.raises(ConfigurationError, match=rf"TMPDIR {deep}: too long.*num_workers=0"):
        make_room_for_sockets()


def test_a_user_without_a_home_has_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OVERTILE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "overtile"
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    assert default_cache() == Path(tempfile.gettempdir()) / f"overtile-{os.getuid()}"


_INSTALLATION = """
mount --make-rprivate / && mount --bind "$PLACE" "$PLACE" && mount -o remount,bind,ro / || exit 77
cd "$PLACE"
exec setpriv --reuid=$NUMBER --regid=$NUMBER --clear-groups --inh-caps=-all,+dac_read_search \\
    --ambient-caps=+dac_read_search env -i PATH="$PATH" TMPDIR="$PLACE" "$@"
"""


def as_a_stranger(place: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """A command of a user without name, home and right to write anywhere but in one folder."""
    number = "31337"
    os.chown(place, int(number), int(number))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _INSTALLATION, "sh", *map(str, command)],
        env={**os.environ, "PLACE": str(place), "NUMBER": number},
        capture_output=True,
        text=True,
    )
    if done.returncode == 77 or "unshare" in done.stderr or "setpriv" in done.stderr:
        pytest.skip("no other user can be played here")
    return done


@pytest.mark.slow  # nothing that was compiled is kept
@pytest.mark.skipif(os.getuid() != 0, reason="only root may play another user")
def test_an_installation_that_cannot_be_written_for_a_user_without_home(
    bundle: Bundle, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    toy_bundle(place / "toy", IMAGE)
    tifffile.imwrite(place / "image.tif", IMAGE)
    assert "Read-only" in as_a_stranger(place, "touch", ROOT / "new").stderr
    words = ("segment", "image.tif", "cells.tif", "--bundle", "toy")
    done = as_a_stranger(place, sys.executable, "-m", "overtile.pipelines", *words)
    assert done.returncode == 0, done.stderr
    bundle.folder = place
    own = bundle.overtile("segment", "image.tif", "own.tif", "--bundle", "toy")
    assert own.returncode == 0, own.stderr
    cells, same = (tifffile.imread(place / name) for name in ("cells.tif", "own.tif"))
    assert cells.any()
    assert np.array_equal(cells, same)


def test_a_copy_to_a_full_disk_names_the_copy(tmp_path: Path) -> None:
    """Not the source, which the system names first."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    with (
        small_disk(tmp_path / "disk", 20_000),
        pytest.raises(OSError, match="No space left") as failed,
        whole(tmp_path / "disk" / "copy") as unfinished,
    ):
        shutil.copyfile(source, unfinished)
    assert failed.value.filename == f"{tmp_path}/disk/copy"


@pytest.mark.parametrize("name", ["summary.json", "history.csv", "models/model.pt"])
def test_what_may_not_be_read_is_not_called_damaged(
    bundle: Bundle, tmp_path: Path, name: str
) -> None:
    """Nor is its owner told to remove it, or to train again."""
    toy_bundle(tmp_path / "run", IMAGE)
    tifffile.imwrite(tmp_path / "image.tif", IMAGE)
    file = tmp_path / "run" / name
    file.touch()
    file.chmod(0)
    words = {
        "summary.json": ("show", "run"),
        "history.csv": ("report", "run"),
        "models/model.pt": ("segment", "image.tif", "out.tif", "--bundle", "run"),
    }[name]
    line = line_of(bundle.overtile(*words, without_roots_rights=1))
    assert f"run/{name}: this user may not read" in line
    assert "train again" not in line
    assert "remove" not in line
