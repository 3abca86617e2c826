"""A new layout of data sets is one file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from overtile.pipelines.data import layouts
from overtile.pipelines.data.find import find_data
from overtile.pipelines.data.layouts import all_layouts, find_pairs
from overtile.pipelines.data.synthesis.datasets import generate
from overtile.pipelines.data.write import check_format, write_data, written_layouts
from overtile.pipelines.errors import DataError, UnknownLayoutError
from overtile.pipelines.images.read import read_image, read_label

TOY = '''
"""``grey-000.EXT`` with ``cells-000.EXT``."""

from overtile.pipelines.data.layout import Layout, Pair
from overtile.pipelines.images.formats import write_image


class Prefixes(Layout):
    name = "prefixes"
    expected = "grey-NAME.tif with cells-NAME.tif"
    formats = ("tif", "png")

    def recognises(self, folder):
        return any(folder.glob("grey-*"))

    def pairs(self, folder):
        images = sorted(folder.glob("grey-*"))
        return [Pair(p, p.with_name(p.name.replace("grey", "cells"))) for p in images]

    def write(self, folder, splits, format, membranes, spacing):
        for split, pairs in splits.items():
            (folder / split).mkdir()
            for number, (image, cells) in enumerate(pairs):
                write_image(folder / split / f"grey-{number}", image, format, spacing)
                write_image(folder / split / f"cells-{number}", cells, format, spacing)


LAYOUT = Prefixes()
'''


@pytest.fixture
def one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One file that is put into a folder of layouts."""
    home = tmp_path / "layouts"
    home.mkdir()
    (home / "prefixes.py").write_text(TOY)
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(home)])
    yield
    sys.modules.pop(f"{layouts.__name__}.prefixes", None)


@pytest.mark.usefixtures("one_more")
@pytest.mark.parametrize("format", [None, "png"])
def test_a_layout_is_one_file(tmp_path: Path, format: str | None) -> None:
    made = {s: list(p) for s, p in generate("cells", {"train": 2, "val": 1}, (48, 61)).items()}
    folder = write_data(tmp_path / "data", made, "prefixes", format)
    suffix = format or "tif"
    assert (folder / "val" / f"grey-0.{suffix}").is_file()
    for how in ("auto", "prefixes"):
        data = find_data(folder, how)
        assert (data.layout, len(data.train), len(data.val)) == ("prefixes", 2, 1)
    pairs = [*made["train"], *made["val"]]
    for item, (image, cells) in zip(data.items, pairs, strict=True):
        assert np.array_equal(read_image(item["image"])[0], image)
        assert np.array_equal(read_label(item["label"])[0], cells)
    assert written_layouts()["prefixes"] == ("tif", "png")
    with pytest.raises(DataError, match="tif, png for layout prefixes"):
        check_format("prefixes", "dicom")
    (tmp_path / "none").mkdir()
    with pytest.raises(UnknownLayoutError, match="grey-NAME"):
        find_pairs(tmp_path / "none")


def test_without_its_file_the_layout_is_gone(tmp_path: Path) -> None:
    assert "prefixes" not in all_layouts()
    with pytest.raises(DataError, match="'prefixes'; expected auto, "):
        find_pairs(tmp_path, "prefixes")
