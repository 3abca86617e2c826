from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from matplotlib.figure import Figure
from toy_run import write_images

from overtile.pipelines.errors import DataError, Setting
from overtile.pipelines.reporting import look as looking
from overtile.pipelines.reporting.colours import class_colours
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


def test_the_sheet_shows_the_sections_that_hold_the_classes(tmp_path: Path) -> None:
    volume = np.zeros((12, 10, 8), np.uint8)  # columns first, right, front and head upwards
    volume[2:5, 1:4, 5:7], volume[6:9, 1:4, 5:7] = 1, 2
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        array = volume if kind == "labels" else np.arange(volume.size).reshape(volume.shape) / 9
        image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([1.0, 2, 4, 1]))
        nibabel.save(image, tmp_path / "set" / kind / "a.nii.gz")
    drawn: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looking, "save", lambda figure, path, dpi: drawn.append(figure))
        options: dict[str, Any] = {"labels": "classes", "spatial_dims": 3}
        names = ["background", "$a$", "b"]
        found = looking.look(
            tmp_path / "set", picture=tmp_path / "a.png", class_names=names, **options
        )
    panels = drawn[0].axes
    titles = [axes.get_title().splitlines()[-1] for axes in panels]
    assert titles == ["Z = 5", "Y = 3", "X = 6, 2 classes"], "Z = 4 and Y = 5 hold none"
    for axes, proportion in zip(panels, (2, 4, 2), strict=True):
        assert axes.get_aspect() == proportion
    orange = np.array(class_colours(1)[0])
    picture = np.asarray(panels[1].images[0].get_array())
    rows, columns = np.nonzero((picture == orange).all(-1))
    assert (rows.min(), rows.max()) == (8 - 7, 8 - 6), "the head is up"
    assert (columns.min(), columns.max()) == (2, 4)
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["$a$", "b"]
    table = looking.as_text(found)
    assert "class $a$       18 voxels in 1 piece" in table
