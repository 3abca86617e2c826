"""What is handed on comes back as it was, once, and takes one file however much it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from overtile.pipelines.images.handed_on import HandedOn, Reading


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_arrays_beyond_the_memory_share_one_file_and_come_back(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(b"x")
    arrays = [np.arange(n, n + 12).reshape(3, 4).astype(("u2", "f4")[n % 2]) for n in range(40)]
    kept, before = HandedOn(limit=5 * 24), open_files()
    for n, array in enumerate(arrays):
        kept.keep(Reading(str(file), 2, n, None), array, {"number": n})
    assert open_files() == before + 1
    for n in reversed(range(40)):
        found = kept.take(Reading(str(file), 2, n, None))
        assert found is not None
        assert np.array_equal(found[0], arrays[n])
        assert (found[0].dtype, found[1]) == (arrays[n].dtype, {"number": n})
        assert kept.take(Reading(str(file), 2, n, None)) is None  # once
    assert open_files() == before


def test_what_was_kept_of_a_file_that_changed_is_not_handed_on(tmp_path: Path) -> None:
    file, kept = tmp_path / "a.tif", HandedOn()
    file.write_bytes(b"x")
    reading = Reading(str(file), 2, None, None)
    kept.keep(reading, np.zeros((2, 2)), {})
    file.write_bytes(b"xy")
    assert kept.take(reading) is None
