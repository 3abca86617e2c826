from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import write_images

from overtile.pipelines.errors import DataError, Setting
from overtile.pipelines.reporting import look as looking
from overtile.pipelines.reporting.look import Look, as_text


def test_remarks_of_a_kind_are_counted_and_worded_for_their_reader() -> None:
    remarks = [DataError(f"{n}: x.tif", f"a cell of {n} pixels", "5 or more") for n in range(6)]
    hint = Setting("labels", "mask", "to take what is not 0 as cell")
    remarks.append(DataError("all labels", "one number for many cells", hint=hint))
    seen = Look("here", "", suspicious=remarks)
    text = as_text(seen, lambda setting: f"--{setting.name} {setting.value}")
    assert [f"{n}: x.tif" in text for n in range(6)] == [True] * 4 + [False] * 2
    assert "and 2 like that (suspicious has all)" in text
    assert "all labels: one number for many cells; give --labels mask to take" in text
    assert "give labels='mask'" not in text
    told = seen.as_dict()["suspicious"]
    assert (len(told), told[0]) == (7, "0: x.tif: a cell of 0 pixels; expected 5 or more")
    assert "give labels=mask" in told[-1]


def test_titles_name_the_split_and_the_area_is_called_so(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images")
    titles: list[tuple[str, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looking, "write_title", lambda axes, *lines, size: titles.append(lines))
        found = looking.look(data, picture=tmp_path / "sheet.png")
        names = [("0", "train"), ("1", "train"), ("2", "train"), ("3", "train")]
        names += [("0", "val"), ("0", "test")]
        assert titles == [(f"{name}.tif", f"{split}, 2 cells") for name, split in names]
        titles.clear()
        looking.look(data / "val", picture=tmp_path / "sheet.png")
    assert titles == [("0.tif", "2 cells")]
    assert "cell area       183 pixels, median" in as_text(found)  # of 10 x 15 and 12 x 18
