"""The size of a pixel, in millimetres along the axes of the array, whatever the file."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from overtile.networks.spacing import spacing_of
from overtile.pipelines.errors import DataError
from overtile.pipelines.images.formats import open_image, write_image
from overtile.pipelines.images.formats.ome_zarr import describe
from overtile.pipelines.images.read import open_spacing, read_image, spacing_of_meta
from overtile.pipelines.images.read_transform import ReadImaged

PLANE = np.arange(30, dtype=np.uint16).reshape(5, 6)
VOLUME = np.arange(60, dtype=np.uint16).reshape(2, 5, 6)


def found(path: Path, dims: int) -> list[float]:
    """By the header, by the pixels' metadata and in memory: all the same."""
    header = open_spacing(path, dims)
    plane: Any = path
    if dims == 2 and read_image(path, 2)[0].ndim == 3:
        plane = f"{path}:0"
    assert spacing_of_meta(read_image(plane, dims)[1], dims) == pytest.approx(header)
    if header:
        image = ReadImaged("image", spatial_dims=dims, spacing=header)({"image": str(plane)})
        assert spacing_of(image["image"], dims) == pytest.approx(header)
    return list(header)


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from(["mm", "micron", "meter", "unknown"]))
def test_nifti_in_any_orientation(tmp_path: Path, seed: int, unit: str) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(0.2, 5, 3)
    turn = Rotation.random(random_state=seed).as_matrix()
    turn = turn if seed % 2 else np.eye(3)[rng.permutation(3)]
    affine = np.eye(4)
    affine[:3, :3] = turn * rng.choice([-1, 1], 3) * sizes
    image = nibabel.Nifti1Image(VOLUME.astype(np.int16), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    millimetres = sizes * {"micron": 1e-3, "meter": 1e3}.get(unit, 1)
    assert found(tmp_path / "a.nii.gz", 3) == pytest.approx(millimetres, rel=1e-4)
    assert found(tmp_path / "a.nii.gz", 2) == pytest.approx(millimetres[:2], rel=1e-4)


def test_dicom_by_rows_and_columns(tmp_path: Path) -> None:
    path = write_image(tmp_path / "d", VOLUME, "dicom", (3.0, 0.5, 0.75))
    assert found(path, 3) == pytest.approx([0.75, 0.5, 3.0])  # X, Y, Z


def test_ome_tiff_in_its_units(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, metadata={"axes": "YX", **sizes})
    assert found(tmp_path / "a.ome.tif", 2) == pytest.approx([0.0005, 0.00025])
    deep = {"axes": "ZYX", **sizes}
    tifffile.imwrite(tmp_path / "b.ome.tif", VOLUME, metadata=deep, photometric="minisblack")
    assert found(tmp_path / "b.ome.tif", 2) == pytest.approx([0.0005, 0.00025])
    assert found(tmp_path / "b.ome.tif", 3) == []  # nothing along Z
    deep |= {"PhysicalSizeZ": 2.0}
    tifffile.imwrite(tmp_path / "b.ome.tif", VOLUME, metadata=deep, photometric="minisblack")
    assert found(tmp_path / "b.ome.tif", 3) == pytest.approx([0.002, 0.0005, 0.00025])


def test_imagej_and_its_tags(tmp_path: Path) -> None:
    told = {"axes": "ZYX", "unit": "\\u00B5m", "spacing": 1.5}
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, imagej=True, resolution=(4.0, 2.0), metadata=told)
    assert found(tmp_path / "a.tif", 3) == pytest.approx([0.0015, 0.0005, 0.00025])


def test_resolution_tags_of_a_microscope_but_not_of_a_printer(tmp_path: Path) -> None:
    fine = {"resolution": (40000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", PLANE, **fine)
    assert found(tmp_path / "a.tif", 2) == pytest.approx([0.0005, 0.00025])
    tifffile.imwrite(tmp_path / "b.tif", PLANE, resolution=(300, 300), resolutionunit="INCH")
    assert found(tmp_path / "b.tif", 2) == []
    tifffile.imwrite(tmp_path / "c.tif", PLANE)
    assert found(tmp_path / "c.tif", 2) == []


def test_resolution_tags_are_of_the_full_resolution(tmp_path: Path) -> None:
    fine = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "tile": (16, 16)}
    with tifffile.TiffWriter(tmp_path / "p.tif") as tif:
        tif.write(np.zeros((64, 64), np.uint8), subifds=1, **fine)
        tif.write(np.zeros((32, 32), np.uint8), subfiletype=1, tile=(16, 16))
    from overtile.pipelines.images.formats import open_source

    for level, micrometres in enumerate((0.25, 0.5)):
        source = open_source(tmp_path / "p.tif", level)
        assert source.spacing_um("YX") == pytest.approx({"Y": micrometres, "X": micrometres})
        source.close()


def test_ome_zarr(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=VOLUME, chunks=(1, 5, 6))
    describe(path, "a", "ZYX", {"Z": 2.0, "Y": 0.5, "X": 0.25}, 1, True)
    assert found(path, 3) == pytest.approx([0.002, 0.0005, 0.00025])
    assert found(path, 2) == pytest.approx([0.0005, 0.00025])
    describe(path, "a", "ZYX", {"Y": 0.5, "X": 0.25}, 1, True)
    assert found(path, 3) == []


@pytest.mark.parametrize("step", [0.0, -2.0, float("nan")])
def test_sizes_that_are_none_are_a_remark_and_no_size(
    tmp_path: Path, step: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "nibabel.global")
    image = nibabel.Nifti1Image(VOLUME.astype(np.int16), np.diag([1, 2, 3, 1.0]))
    image.set_sform(None, 0)
    image.set_qform(np.diag([1, 2, 3, 1.0]), 1)
    nibabel.save(image, tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", data, 76 + 4 * 2, step)  # pixdim[2]
    (tmp_path / "a.nii").write_bytes(data)
    assert found(tmp_path / "a.nii", 3) == []
    assert open_image(tmp_path / "a.nii").remarks == (
        f"no pixel size: its header says 1 x {step:g} x 3",
    )
    told = {"axes": "YX", "PhysicalSizeX": step, "PhysicalSizeY": 1.0}
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, metadata=told)
    assert found(tmp_path / "a.ome.tif", 2) == []
    assert "no pixel size" in open_image(tmp_path / "a.ome.tif").remarks[0]


def test_an_image_without_a_size_is_one_line_where_one_is_needed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANE)
    item = {"image": str(tmp_path / "a.tif")}
    assert ReadImaged("image")(item)["image"].shape == (1, 5, 6)
    with pytest.raises(DataError) as caught:
        ReadImaged("image", spacing=(0.001, 0.001))(item)
    assert str(caught.value.where) == str(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)
    assert "does not say the size of its pixels" in str(caught.value)
    told = {"axes": "YX", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}
    tifffile.imwrite(tmp_path / "b.ome.tif", PLANE, metadata=told)
    with pytest.raises(DataError, match=r"b\.ome\.tif.*at most 100 times finer or coarser"):
        ReadImaged("image", spacing=(1.0, 1.0))({"image": str(tmp_path / "b.ome.tif")})


def test_a_label_beside_an_image_of_other_axes_keeps_sizes_with_axes(tmp_path: Path) -> None:
    """NIfTI counts X first, TIFF Z: turned into the same order, sizes go along."""
    affine = np.diag([0.25, 0.5, 2.0, 1])
    labels = nibabel.Nifti1Image(np.ones((6, 5, 2), np.int16), affine)
    nibabel.save(labels, tmp_path / "l.nii")
    tifffile.imwrite(tmp_path / "i.tif", VOLUME, photometric="minisblack", metadata={"axes": "ZYX"})
    array, meta = read_image(tmp_path / "l.nii", 3, like=tmp_path / "i.tif")
    assert array.shape == VOLUME.shape
    assert spacing_of_meta(meta, 3) == pytest.approx([2.0, 0.5, 0.25])
