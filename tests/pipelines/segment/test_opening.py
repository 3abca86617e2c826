"""One request of ``overtile segment``: what it opens, and which way its calls run."""

from __future__ import annotations

import ast
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from toy import toy_bundle

from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.segment import windows
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.run import segment

ROOM = Path(windows.__file__).parent  # as Python names it, through a link perhaps
SIDE, CHUNK = 40, 32
CELLS = touching_cells(5, (SIDE, SIDE))[0]
_read: Counter[str] = Counter()
_watched: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], str):
        for start in _watched:
            if arguments[0].startswith(start):
                _read[arguments[0]] += 1


sys.addaudithook(_watch)


@contextmanager
def watched(source: Path) -> Iterator[Counter[str]]:
    """How often each file of an image is opened by whoever gives its path to Python."""
    _read.clear()
    _watched.append(str(source))
    yield _read
    _watched.clear()


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("toys")
    volume = np.stack([CELLS[:24, :24]] * 24)
    return {2: toy_bundle(folder / "2", CELLS), 3: toy_bundle(folder / "3", volume)}


def tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "image.tif", CELLS, tile=(32, 32), compression="zlib")
    return folder / "image.tif"


def colours_that_are_grey(folder: Path) -> Path:
    stack = np.stack([CELLS] * 3, -1)
    tifffile.imwrite(folder / "image.tif", stack, tile=(32, 32), photometric="rgb")
    return folder / "image.tif"


def zarr_array(folder: Path) -> Path:
    zarr.create_array(folder / "image.zarr", data=CELLS, chunks=(32, 32))
    return folder / "image.zarr"


def nifti(folder: Path) -> Path:
    nibabel.save(
        nibabel.Nifti1Image(np.stack([CELLS[:24, :24].T] * 24, -1), np.eye(4)), folder / "v.nii"
    )
    return folder / "v.nii"


def packed_nifti(folder: Path) -> Path:
    volume = nibabel.load(nifti(folder))
    nibabel.save(volume, folder / "v.nii.gz")
    (folder / "v.nii").unlink()
    return folder / "v.nii.gz"


@pytest.mark.parametrize("output", ["labels", "probabilities"])
@pytest.mark.parametrize(
    "write",
    [tiff, colours_that_are_grey, zarr_array, nifti, packed_nifti],
    ids=lambda w: w.__name__,
)
def test_the_source_is_opened_once_in_a_process(
    tmp_path: Path,
    toys: dict[int, Path],
    write: Callable[[Path], Path],
    output: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write(tmp_path)
    dims = 3 if "nii" in source.name else 2
    request = Request(
        source, tmp_path / "out.zarr", toys[dims], output, chunk=CHUNK // (dims - 1), show=False
    )
    opened: list[Path] = []
    really = windows.open_source

    def counted(path: Path, *rest: Any) -> Any:
        opened.append(path)
        return really(path, *rest)

    monkeypatch.setattr(windows, "open_source", counted)
    monkeypatch.setattr(
        "overtile.pipelines.segment.plan.sampled", str
    )  # whether it changes is looked at beside
    with watched(source) as once:
        if not source.name.endswith(".gz"):
            really(source).close()
        least = dict(once)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for resumed in (False, True):
        opened.clear()
        with watched(source) as read, monkeypatch.context() as patched:
            if not resumed:  # everything but the last step
                patched.setattr("overtile.pipelines.segment.stages.Stages.target", stop)
                with pytest.raises(KeyboardInterrupt):
                    segment(request)
            else:
                assert segment(request).resumed
        assert len(opened) == 1
        if source.suffix == ".tif":  # one opening keeps the file open
            assert read == least
        if source.suffix == ".zarr":  # chunks are files of their own
            assert read[str(source / "zarr.json")] == least[str(source / "zarr.json")]
        if source.suffix == ".gz":
            assert sum(read.values()) == (0 if resumed else 1)
            assert opened == [tmp_path / "partial.out.zarr" / "v.nii"]


def imports() -> dict[str, set[str]]:
    """Of each module of the room, those below it: what it imports, and what these import."""
    direct = {}
    for file in ROOM.glob("*.py"):
        named = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom)]
        parts = [str(n.module).split(".") for n in named]
        direct[file.stem] = {p[3] for p in parts if p[:3] == ["overtile", "pipelines", "segment"]}

    def below(module: str) -> set[str]:
        return direct[module].union(*map(below, direct[module]))

    return {module: below(module) for module in direct}


def test_calls_run_from_higher_modules_to_lower_ones(tmp_path: Path, toys: dict[int, Path]) -> None:
    """One function calls another of a module that imports its own: at most 3 such pairs.

    Iterating over what was handed in is no call.
    """
    below, back = imports(), set()
    assert "job" in below["run"]

    def seen(frame: FrameType, event: str, _: Any) -> None:
        place = Path(frame.f_code.co_filename)
        if event != "call" or place.parent != ROOM or frame.f_code.co_flags & CO_GENERATOR:
            return
        caller = frame.f_back
        while caller is not None and Path(caller.f_code.co_filename).parent != ROOM:
            caller = caller.f_back
        if caller is not None and Path(caller.f_code.co_filename).stem in below[place.stem]:
            back.add((caller.f_code.co_qualname, frame.f_code.co_qualname))

    for target in ("out.ome.zarr", "out.tif"):
        request = Request(
            colours_that_are_grey(tmp_path), tmp_path / target, toys[2], chunk=16, show=False
        )
        sys.setprofile(seen)
        threading.setprofile(seen)
        try:
            segment(request)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert len(back) <= 3, back
    assert ("scale_of", "Stages._each") in back  # so that something is seen at all
