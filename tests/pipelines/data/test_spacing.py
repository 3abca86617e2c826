"""Which spacing a network gets from its images, and which images cannot be brought to it."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from overtile.pipelines.data.find import find_data, labelled_images
from overtile.pipelines.data.spacing import spread
from overtile.pipelines.data.unlabelled import images_in
from overtile.pipelines.errors import DataError
from overtile.pipelines.reporting.look import as_text, look

SIZES = [(1.0, 1.0, 2.0), (1.0, 0.5, 2.5), (0.8, 1.5, 4.0), (1.2, 1.0, 3.0)]


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Four volumes of these sizes, of which the last validates, in ``d``."""
    for kind in ("images", "labels"):
        (tmp_path / "d" / kind).mkdir(parents=True)
    for number, sizes in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 99, (8, 9, 4)).astype(np.int16)
        cells = np.zeros((8, 9, 4), np.int16)
        cells[2:5, 2:5, 1:3] = 1
        for kind, array in (("images", pixels), ("labels", cells)):
            volume = nibabel.Nifti1Image(array, np.diag([*sizes, 1]))
            nibabel.save(volume, tmp_path / "d" / kind / f"{number}.nii")
    return tmp_path / "d"


def test_the_median_of_the_training_images_along_each_axis(volumes: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    data = find_data(volumes, spatial_dims=3, spacing="median", cache_dir=cache)
    assert [Path(item["image"]).stem for item in data.val] == ["3"]
    expected = [float(np.median([s[axis] for s in SIZES[:3]])) for axis in range(3)]
    assert data.spacing == pytest.approx(expected)
    assert expected == [1.0, 1.0, 2.5]
    again = find_data(volumes, spatial_dims=3, spacing="median", cache_dir=cache)
    assert again.spacing == data.spacing
    assert find_data(volumes, spatial_dims=3, cache_dir=cache).spacing is None
    given = find_data(volumes, spatial_dims=3, spacing=(1, 1, 1), cache_dir=cache)
    assert given.spacing == [1.0, 1.0, 1.0]
    plane = find_data(volumes, spacing="median", cache_dir=cache)
    assert plane.spacing == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    "spacing", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, float("nan")), "mean", (1, 1, float("inf"))]
)
def test_a_spacing_that_is_none_is_one_line(volumes: Path, tmp_path: Path, spacing: object) -> None:
    with pytest.raises(DataError, match=r"^spacing: .*expected 3 numbers above 0") as caught:
        find_data(volumes, spatial_dims=3, spacing=spacing, cache_dir=tmp_path)  # type: ignore
    assert "\n" not in str(caught.value)


def test_an_image_without_a_size_is_named_before_anything_starts(
    volumes: Path, tmp_path: Path
) -> None:
    for path in volumes.glob("*/3.nii"):
        pixels = np.asanyarray(nibabel.load(path).dataobj).T
        tifffile.imwrite(path.with_suffix(".tif"), pixels, photometric="minisblack")
        path.unlink()
    wrong = r"3\.tif: it does not say the size of its pixels.*spacing=None"
    for spacing in ("median", (1, 1, 1)):
        with pytest.raises(DataError, match=wrong):
            find_data(volumes, spatial_dims=3, spacing=spacing, cache_dir=tmp_path)
    with pytest.raises(DataError, match=wrong):
        labelled_images(volumes, spatial_dims=3, spacing=(1, 1, 1), cache_dir=tmp_path)
    with pytest.raises(DataError, match=wrong):
        images_in(volumes / "images", 3, spacing=(1, 1, 1))
    data = find_data(
        volumes, spatial_dims=3, spacing="median", cache_dir=tmp_path, skip_unreadable=True
    )
    assert len(data.skipped) == 1
    assert "3.tif" in data.skipped[0]
    assert len(images_in(volumes / "images", 3, True, None, None, spacing=(1, 1, 1))) == 3
    assert len(images_in(volumes / "images", 3)) == 4


def test_an_image_that_is_far_too_fine_is_named(volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0\.nii.*at most 100 times finer or coarser.*millimetres"):
        find_data(volumes, spatial_dims=3, spacing=(0.001,) * 3, cache_dir=tmp_path)


def test_memory_is_that_of_the_resampled_image(volumes: Path) -> None:
    limit = 64 * 8 * 9 * 4
    path = volumes / "images" / "0.nii"
    assert len(images_in(path, 3, False, limit, None)) == 1
    with pytest.raises(DataError, match="16x18x16 pixels need about"):
        images_in(path, 3, False, limit, None, spacing=(0.5, 0.5, 0.5))


def test_a_look_tells_the_spread(volumes: Path) -> None:
    text = as_text(look(volumes, spatial_dims=3))
    assert "1 x 1 x 2.75 mm, from 0.8 x 0.5 x 2 to 1.2 x 1.5 x 4" in text
    assert spread([(0.0005, 0.0005)]) == "0.5 x 0.5 µm"
    assert spread([]) == ""
