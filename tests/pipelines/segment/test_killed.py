"""A segmentation that is killed, or disturbed, between any two of its steps, and started again."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tifffile
import torch
from killed import disturbed_everywhere, killed_everywhere
from toy import files, toy_bundle

from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.errors import DataError
from overtile.pipelines.files import remove
from overtile.pipelines.segment import run as run_module
from overtile.pipelines.segment.request import MARK, Request
from overtile.pipelines.segment.resume import deliver
from overtile.pipelines.segment.run import segment

TARGETS = ["cells.ome.zarr", "cells.tif"]


@pytest.fixture
def request_of(tmp_path: Path) -> Any:
    image = touching_cells(5, (40, 30))[0]
    tifffile.imwrite(tmp_path / "image.tif", image, tile=(32, 32))
    toy = toy_bundle(tmp_path / "toy", image)

    def made(target: str, **options: Any) -> Request:
        return Request(
            tmp_path / "image.tif", tmp_path / target, toy, chunk=32, show=False, **options
        )

    return made


def alone(request: Request) -> None:
    """In a fork, whose copy of the threads that compute does not run."""
    torch.set_num_threads(1)
    segment(request)


@pytest.mark.parametrize("target", TARGETS)
def test_killed_at_any_step_it_goes_on_to_the_same_result(request_of: Any, target: str) -> None:
    """At every seventh step or so of more than a hundred; each time from the beginning."""
    request: Request = request_of(target)
    segment(request)
    expected = files(request.target)
    remove(request.target)
    kills = 0
    for _ in killed_everywhere(lambda: alone(request), some(random.Random(target))):
        kills += 1
        done = request.target.exists() and not request.work.exists()  # rubbish may be left
        if request.target.exists():
            assert files(request.target) == expected
        segment(replace(request, overwrite=done))
        assert files(request.target) == expected
        assert {p.name for p in request.target.parent.iterdir()} == {"image.tif", "toy", target}
        remove(request.target)
    assert kills > 8


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_that_vanishes_is_not_made_again(
    request_of: Any, target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever becomes of it: one line, no result that lacks a part, the next run begins anew."""
    request: Request = replace(request_of(target), target=tmp_path / "out" / target)
    out, away = tmp_path / "out", tmp_path / "away"
    out.mkdir()
    segment(request)
    expected = files(request.target)
    remove(request.target)

    def vanish() -> None:
        if not request.work.is_dir():  # nothing is made yet, or any more
            os._exit(0)
        (out if refused % 3 == 1 else request.work).rename(away)
        if refused % 3 == 0:  # in one step, since another thread may be writing into it
            shutil.rmtree(away)

    refused = 0
    steps = some(random.Random(target))
    for _, code in disturbed_everywhere(lambda: alone(request), vanish, steps):
        told = capfd.readouterr().err
        assert "Traceback" not in told
        if code:
            refused += 1
            assert told.startswith(("DataError: ", "ConfigurationError: ")), told
            assert "None" not in told
            out.mkdir(exist_ok=True)
            assert {path.name for path in out.iterdir()} <= {request.work.name}, told
            assert not (request.work / "job.json").exists()
            segment(request)
            assert files(request.target) == expected
        elif request.target.exists():
            assert files(request.target) == expected
            break
        for left in (out, away):
            remove(left)
        out.mkdir()
    assert refused > 5


@pytest.mark.parametrize("target", TARGETS)
def test_an_old_result_is_not_taken_for_one_that_vanished(
    request_of: Any, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: Request = request_of(target, output="probabilities")
    segment(first)
    old = files(first.target)
    request: Request = request_of(target, overwrite=True)

    def vanish(*given: Any) -> Any:
        request.work.rename(tmp_path / "away")
        return deliver(*given)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "deliver", vanish)
        with pytest.raises(DataError, match="is gone, which was made for it"):
            segment(request)
    assert files(request.target) == old
    segment(request)
    assert files(request.target) != old


def some(rng: random.Random) -> Iterator[int]:
    """Numbers that grow by 1 to 13."""
    number = 0
    while True:
        number += rng.randint(1, 13)
        yield number


@pytest.mark.parametrize("target", TARGETS)
def test_killed_at_any_step_of_its_delivery_it_puts_the_new_for_the_old(
    request_of: Any, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the old or the new one at any moment, never mixed, and never away."""
    first = request_of(target, output="probabilities")
    segment(first)
    old = files(first.target)
    request: Request = request_of(target, overwrite=True)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "deliver", stop)
        with pytest.raises(KeyboardInterrupt):
            segment(request)
    for array in ("probabilities", "cores"):  # there is less to remove
        shutil.rmtree(request.work / array)
    kept = [(path, path.with_name(f"kept.{path.name}")) for path in (request.work, request.target)]
    for path, copy in kept:
        copied(path, copy)
    seen, new = [], None
    for _ in killed_everywhere(lambda: alone(request)):
        found = files(request.target) if request.target.exists() else None
        if request.work.exists():  # else it is done, and was about to remove rubbish
            segment(request)
        assert new is None or files(request.target) == new
        new = files(request.target)
        if found is not None:
            found.pop(MARK, None)
        assert found in (old, new)
        seen.append("old" if found == old else "new")
        for left in request.work.parent.glob(f"{request.work.name}.*"):  # rubbish, and a lock
            remove(left)
        for path, copy in kept:
            copied(copy, path)
    assert seen == sorted(seen, key=("old", "new").index)
    assert {"old", "new"} <= set(seen)


@pytest.mark.parametrize("faults", [[], ["chunk 1/2: broken"]])
def test_the_list_of_what_was_filled_is_that_of_its_target(
    request_of: Any, faults: list[str]
) -> None:
    request: Request = request_of("cells.tif")
    told = {"unreadable": faults, "shape": [1], "axes": "X", "cells": 0}

    def found() -> tuple[str, str]:
        listing = request.listing.read_text() if request.listing.exists() else ""
        return request.target.read_text(), listing

    def prepare() -> None:
        request.target.write_text("old")
        request.listing.write_text("old")
        remove(request.work)
        request.work.mkdir()
        request.ready.write_text("new")

    prepare()
    done = ("new", "".join(f"{fault}\n" for fault in faults))
    kills = 0
    for kills in killed_everywhere(lambda: deliver(request, told, False)):
        result, listing = found()
        assert (result, listing) in (("old", "old"), done) or "is being replaced" in listing, kills
        prepare()
    assert kills > 4
    assert found() == done


def copied(path: Path, target: Path) -> None:
    remove(target)
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy2(path, target)
