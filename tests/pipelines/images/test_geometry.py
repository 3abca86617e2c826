"""What is written lies where its source lies: pixel sizes, axes and affines, of any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from overtile.pipelines.data.annotations import write_label
from overtile.pipelines.images.formats import open_image, open_source
from overtile.pipelines.images.read import open_view, read_image, read_label
from overtile.pipelines.images.write_like import write_like

Array = NDArray[Any]
MICRO = "\\u00B5m"  # as ImageJ writes it
UNITS = {"nm": 1e-3, "µm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
NAMES = {
    "nm": "nanometer",
    "µm": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("geometry")


def sizes(data: st.DataObject, axes: str) -> dict[str, float]:
    return {axis: data.draw(st.floats(0.01, 99)) for axis in axes}


def affines(data: st.DataObject) -> Array:
    """Any rotation, mirrored or not, with steps of its own along each axis, somewhere."""
    seed = data.draw(st.integers(0, 99))
    turn: Array = Rotation.random(random_state=seed).as_matrix()
    if data.draw(st.booleans()):  # along the axes, as most files lie
        turn = np.eye(3)[np.random.default_rng(seed).permutation(3)]
    signs = [data.draw(st.sampled_from([-1, 1])) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = turn * signs * [data.draw(st.floats(0.1, 5)) for _ in range(3)]
    affine[:3, 3] = [data.draw(st.floats(-99, 99)) for _ in range(3)]
    return affine


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_nifti_result_lies_where_its_image_lies(home: Path, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(2, 5)) for _ in range(3))
    affine = affines(data)
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), affine)
    unit = data.draw(st.sampled_from(["mm", "micron", "meter"]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, home / "i.nii.gz")
    stored = open_image(home / "i.nii.gz")
    cells = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    for written in (
        write_like(home / "r", cells, stored),
        write_label(home / "l", cells, home / "i.nii.gz"),
    ):
        back = nibabel.load(written)
        assert np.allclose(back.affine, affine, atol=1e-3)
        assert back.header.get_xyzt_units()[0] == unit
        assert np.array_equal(np.asanyarray(back.dataobj), cells)
    step = np.linalg.norm(affine[:3, :3], axis=0)
    micrometres = {"mm": 1e3, "micron": 1.0, "meter": 1e6}[unit]
    expected = dict(zip("XYZ", step * micrometres, strict=True))
    assert stored.spacing_um("XYZ") == pytest.approx(expected, rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_label_stored_otherwise_comes_as_its_image_lies(home: Path, data: st.DataObject) -> None:
    """The same voxels with axes permuted and mirrored, and the affine that goes with it."""
    shape = tuple(data.draw(st.integers(2, 5)) for _ in range(3))
    affine = affines(data)
    cells = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nibabel.save(nibabel.Nifti1Image(cells, affine), home / "i.nii")
    order = data.draw(st.permutations(range(3)))
    flips = [data.draw(st.booleans()) for _ in range(3)]
    # index of the label to index of the image, by hand
    there = np.zeros((4, 4))
    there[3, 3] = 1
    for new, old in enumerate(order):
        there[old, new] = -1 if flips[new] else 1
        there[old, 3] = shape[old] - 1 if flips[new] else 0
    stored = np.zeros([shape[o] for o in order], np.int16)
    for place in np.ndindex(stored.shape):
        there_is = (there @ [*place, 1])[:3].astype(int)
        stored[place] = cells[tuple(there_is)]
    nibabel.save(nibabel.Nifti1Image(stored, affine @ there), home / "l.nii")
    assert np.array_equal(read_label(home / "l.nii", 3, home / "i.nii")[0], cells)
    assert open_view(home / "l.nii", 3, home / "i.nii").shape == shape


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_pixel_sizes_of_ome_tiff_come_back(home: Path, data: st.DataObject) -> None:
    axes = data.draw(st.sampled_from(["YX", "ZYX", "TYX", "TZYX"]))
    shape = tuple(data.draw(st.integers(2, 4)) for _ in axes)
    told: dict[str, Any] = {"axes": axes}
    expected = {}
    for axis, size in sizes(data, axes.removeprefix("T")).items():
        unit = data.draw(st.sampled_from(sorted(UNITS)))
        told |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
        expected[axis] = size * UNITS[unit]
    path = home / "a.ome.tif"
    tifffile.imwrite(path, np.zeros(shape, np.uint8), metadata=told, photometric="minisblack")
    stored = open_image(path)
    assert (stored.axes, stored.shape) == (axes, shape)
    assert stored.spacing == pytest.approx(expected)
    source = open_source(path)
    source.close()
    assert source.spacing == stored.spacing
    cells = np.random.default_rng(0).integers(0, 9, shape, np.uint16)
    back = open_image(write_like(home / "r", cells, stored))
    assert (back.axes, back.shape) == (axes, shape)
    assert back.spacing == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_pixel_sizes_of_imagej(home: Path, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(["nm", "um", "micron", MICRO, "mm", "cm", "inch", "pixel"]))
    per_unit = [data.draw(st.integers(1, 5000)) for _ in range(2)]
    step = data.draw(st.floats(0.01, 99))
    tifffile.imwrite(
        home / "i.tif",
        np.zeros((3, 4, 5), np.uint8),
        imagej=True,
        resolution=tuple(per_unit),
        metadata={"axes": "ZYX", "unit": unit, "spacing": step},
    )
    micrometres = {**UNITS, "um": 1, "micron": 1, MICRO: 1, "inch": 25400}.get(unit)
    found = open_image(home / "i.tif").spacing
    if micrometres is None:
        assert found == {}
        return
    x, y = (micrometres / n for n in per_unit)
    assert found == pytest.approx({"X": x, "Y": y, "Z": step * micrometres})


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_pixel_sizes_of_ome_zarr(home: Path, data: st.DataObject) -> None:
    """Scales of the level and of all levels multiply; an axis may have any unit."""
    axes = data.draw(st.sampled_from(["yx", "zyx", "tczyx"]))
    shape = tuple(data.draw(st.integers(1, 4)) for _ in axes)
    units = {a: data.draw(st.sampled_from(sorted(UNITS))) for a in axes if a in "zyx"}
    own, common = ([data.draw(st.floats(0.01, 99)) for _ in axes] for _ in range(2))
    group = zarr.open_group(home / "a.ome.zarr", mode="w")
    group.create_array("0", data=np.zeros(shape, np.uint8))
    both = data.draw(st.booleans())
    image = {
        "axes": [{"name": a, **({"unit": NAMES[units[a]]} if a in units else {})} for a in axes],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": own}]}],
        "coordinateTransformations": [{"type": "scale", "scale": common}] if both else [],
    }
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    stored = open_image(home / "a.ome.zarr")
    expected = {
        a.upper(): own[i] * (common[i] if both else 1) * UNITS[units[a]]
        for i, a in enumerate(axes)
        if a in units
    }
    assert stored.axes == axes.upper()
    assert stored.spacing == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["", "micrometer"])
@pytest.mark.parametrize("order", ["yxz", "xyz", "xzy", "ytx"])
def test_pages_of_a_result_are_rows_and_columns(tmp_path: Path, order: str, unit: str) -> None:
    """However the axes of an image follow each other, as napari and Python store them."""
    sizes = {"x": 5, "y": 4, "z": 3, "t": 2}
    shape = [sizes[a] for a in order]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", data=np.zeros(shape, np.uint8))
    told = [{"name": a, **({"unit": unit} if unit and a != "t" else {})} for a in order]
    scale = [{"type": "scale", "scale": [float(sizes[a]) for a in order]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": told, "datasets": datasets}]}
    cells = np.random.default_rng(0).integers(0, 9, shape, np.uint16)
    written = write_like(tmp_path / "r", cells, open_image(tmp_path / "a.zarr"))
    assert written.name == ("r.ome.tif" if unit else "r.tif")
    depth = order.strip("xy") if order.strip("xy") in ("z", "t") else order[1]
    places = [order.index(a) for a in (depth, "y", "x")]
    with tifffile.TiffFile(written) as tif:
        assert len(tif.pages) == sizes[depth]
        for number, page in enumerate(tif.pages):
            assert np.array_equal(page.asarray(), cells.transpose(places)[number])
        assert tif.series[0].axes[-2:] == "YX"
    if unit:
        expected = {a.upper(): float(sizes[a]) for a in order if a != "t"}
        assert open_image(written).spacing == pytest.approx(expected)


def test_a_turned_image_keeps_its_sizes_and_its_result_lies_upon_it(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 99, (6, 9), np.uint8)
    tifffile.imwrite(
        tmp_path / "t.tif",
        image,
        photometric="minisblack",
        metadata=None,
        resolution=(5000, 2500),
        resolutionunit="CENTIMETER",
        extratags=[(274, 3, 1, 6, True)],
    )
    found, _ = read_image(tmp_path / "t.tif")
    assert np.array_equal(found, np.rot90(image, -1))
    stored = open_image(tmp_path / "t.tif")
    source = open_source(tmp_path / "t.tif")
    source.close()
    assert source.spacing_um("YX") == pytest.approx({"Y": 2.0, "X": 4.0})
    written = write_like(tmp_path / "r", np.ones(found.shape, np.uint16), stored)
    with tifffile.TiffFile(written) as tif:
        page = tif.pages[0]
        assert page.shape == found.shape
        assert 274 not in page.tags or page.tags[274].value == 1
        assert page.tags["XResolution"].value == (2500, 1)
        assert page.tags["YResolution"].value == (5000, 1)
