"""Files that others sent, as every command takes them: found, looked at, read, refused."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.data.find import find_data
from overtile.pipelines.data.layouts import find_pairs
from overtile.pipelines.data.unlabelled import images_in
from overtile.pipelines.errors import DataError, OvertileError, UnreadableError
from overtile.pipelines.images.formats import open_image
from overtile.pipelines.images.read import check_pixels, read_image, read_label
from overtile.pipelines.reporting.look import look
from overtile.pipelines.segment.windows import open_planes

Array = NDArray[Any]


def windows(path: Path, channel: int | None = None) -> Array:
    """All planes, as `overtile segment` reads them."""
    planes = open_planes(path, str(path), 0, 2**28, 2, channel)
    try:
        everything = tuple(slice(0, n) for n in planes.shape)
        found = [planes.read(number, everything)[0] for number in range(planes.count)]
    finally:
        planes.stored.close()
    return np.stack(found) if len(found) > 1 else found[0]


def zarr_of(path: Path) -> Array:
    array: Array = np.asarray(zarr.open_array(path / "0" / "0", mode="r"))
    return array.squeeze()


def pillow(path: Path) -> Array:
    return np.asarray(Image.open(path))


def nifti(path: Path) -> Array:
    return np.moveaxis(np.asanyarray(nibabel.load(path).dataobj), -1, 0)


def inverted_bits(path: Path) -> Array:
    return (~tifffile.imread(path)).astype(np.uint8)


def first_sample(path: Path) -> Array:
    array: Array = tifffile.imread(path)
    array = array[..., 0, :, :]
    return array


FOUND: dict[str, tuple[Callable[[Path], Array], int | None]] = {
    "found/bilevel-tiff-look-traceback/fax4.tiff": (lambda p: tifffile.imread(p).view("u1"), None),
    "found/bilevel-tiff-look-traceback/gray.b1.tif": (
        lambda p: tifffile.imread(p).view("u1"),
        None,
    ),
    "found/bilevel-tiff-look-traceback/miniswhite-1c-1b.tiff": (inverted_bits, None),
    "found/palette-1bit/palette-1c-1b.tiff": (lambda p: tifffile.imread(p).view("u1"), None),
    "found/palette-pseudocolour-tiff/cells-2z.ome.tif": (tifffile.imread, None),
    "found/palette-pseudocolour-tiff/leica_stack_Series014_z000_ch00.tif": (pillow, None),
    "found/palette-pseudocolour-tiff/optical_Zeiss_AxioVision_BW.tif": (pillow, None),
    "found/planar-tiff-segment/cells.ome.tif": (first_sample, 0),
    "found/planar-tiff-segment/gray.separate.u1.tif": (first_sample, 0),
    "found/planar-tiff-segment/minisblack-2c-8b-alpha.tiff": (first_sample, 0),
    "found/segment-stk-first-plane-only/movie.stk": (tifffile.imread, None),
    "found/tiff-fillorder2-segment/16bit.r.tif": (tifffile.imread, None),
    "found/zarr-bioformats2raw/coins.ome.zarr": (zarr_of, None),
    "found/nifti-img-hdr-pair/pair_anatomical.img": (nifti, None),
    "made/imagej_one_ifd/stack.tif": (tifffile.imread, None),
    "made/ome_broken_xml/b.ome.tif": (tifffile.imread, None),
    "made/white_is_zero_signed/s.tif": (lambda p: ~tifffile.imread(p), None),
    "made/nifti_zero_affine/images/n0.nii.gz": (lambda p: nifti(p)[0], None),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_file_is_read_alike_by_all(cases: Path, name: str, tmp_path: Path) -> None:
    independent, channel = FOUND[name]
    expected = independent(cases / name)
    found, _ = read_image(cases / name, channels=channel)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert np.array_equal(windows(cases / name, channel), expected)
    # in a folder, too; links, so that nothing is copied
    for file in (cases / name).parent.glob(f"{Path(name).stem.split('.')[0]}.*"):
        (tmp_path / file.name).symlink_to(file)
    assert len(images_in(tmp_path)) == (len(expected) if expected.ndim == 3 else 1)
    shown = look(tmp_path, channels=channel)
    assert not shown.suspicious
    assert set(shown.dtypes) == {str(expected.dtype)}


def test_two_channels_with_display_colours_are_two_channels(cases: Path) -> None:
    path = cases / "found/palette-pseudocolour-tiff/cells-2c.ome.tif"
    expected = tifffile.imread(path)
    for channel in (0, 1):
        assert np.array_equal(read_image(path, channels=channel)[0], expected[channel])
        assert np.array_equal(windows(path, channel), expected[channel])


def test_a_grey_picture_of_16_bits_with_opacity(cases: Path) -> None:
    path = cases / "made/png_la16_image/a.png"
    import imagecodecs

    expected = imagecodecs.png_decode(path.read_bytes())[..., 0]
    assert np.array_equal(read_image(path)[0], expected)
    assert np.array_equal(windows(path), expected)
    for read in (lambda: read_image(path, channels=2), lambda: read_image(path, channels=1)):
        assert np.array_equal(read()[0], expected), "of one channel any number is that one"


def test_pictures_lie_under_their_labels(
    cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = find_data(cases / "made/exif_orientation", cache_dir=tmp_path)
    assert "m1.jpg (and 2 more): turned upright, as its orientation 6 says" in caplog.text
    for item in data.items:
        cells = read_label(item["label"], 2, item["image"])[0] > 0
        image = read_image(item["image"])[0]
        assert image[cells].mean() > 200
        assert image[~cells].mean() < 60


@pytest.mark.parametrize(
    "case", ["made/four_digits", "made/cellpose_flows", "made/nifti_zero_affine"]
)
def test_three_images_and_their_labels(cases: Path, case: str) -> None:
    _, found = find_pairs(cases / case)
    assert len(found["train"]) == 3
    data = find_data(cases / case)
    assert len(data.items) == 3
    for item in data.items:
        name = Path(item["image"]).name.split(".")[0]
        assert Path(item["label"]).name.startswith(name)
    if case.endswith("flows"):
        assert len(images_in(cases / case)) == 3


BROKEN = [
    *("bmp_truncated", "segment_png_broken", "segment_png_truncated", "segment_rgb16_png"),
    *("segment_tiff_index_171", "segment_tiff_index_204", "segment_tiff_type_error"),
    *("segment_tiff_zero_division", "tiff_memory_planes", "tiff_memory_zeros", "tiff_slow"),
    *("zarr_fewer_axes", "zarr_more_axes", "zarr_path_outside", "zarr_same_axis_twice"),
]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_at_once_and_alike(cases: Path, case: str) -> None:
    [path] = (cases / "broken" / case).iterdir()
    told = []
    started = time.process_time()
    for read in (read_image, windows):
        with pytest.raises(UnreadableError) as caught:
            read(path)
        told.append((caught.value.where, caught.value.found, caught.value.expected))
        assert str(caught.value).startswith(str(path))
        assert not re.search(r"object|modulo|index out", str(caught.value)), "Python's own words"
    assert time.process_time() - started < 1
    assert told[0] == told[1]
    with pytest.raises(DataError):
        look(path.parent)


@pytest.mark.parametrize("name", ["trunc_Cell_Colony.jpg", "trunc_L16.png", "trunc_coins.png"])
def test_a_picture_that_is_cut_short_is_not_blamed_on_the_disk(cases: Path, name: str) -> None:
    path = cases / "found/truncated-picture-segment" / name
    for read in (read_image, windows):
        with pytest.raises(UnreadableError, match=rf"{name}: cannot be read \(image file is trun"):
            read(path)


def mutants(path: Path, count: int, seed: int) -> list[bytes]:
    """The file with bytes changed, cut out or doubled."""
    rng, data = np.random.default_rng(seed), path.read_bytes()
    made = []
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(int(rng.integers(1, 5))):
            place = int(rng.integers(0, min(len(changed), 700)))
            what = rng.integers(0, 3)
            if what == 0:
                changed[place] = int(rng.integers(0, 256))
            elif what == 1:
                del changed[place : place + int(rng.integers(1, 9))]
            else:
                changed[place:place] = rng.bytes(int(rng.integers(1, 9)))
        made.append(bytes(changed))
    return made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["z.tif", "strips.tif", "bits.tif", "a.png", "deep.png", "v.nii"])
def test_a_mutant_is_read_alike_or_refused(tmp_path: Path, name: str, seed: int) -> None:
    """Neither a traceback nor two answers."""
    image = np.random.default_rng(seed).integers(0, 999, (40, 48), np.uint16)
    path = tmp_path / name
    if name == "z.tif":
        tifffile.imwrite(path, image, tile=(16, 16), compression="zlib", predictor=True)
    elif name == "strips.tif":
        tifffile.imwrite(path, image, rowsperstrip=7)
    elif name == "bits.tif":
        tifffile.imwrite(path, image > 500, photometric="miniswhite")
    elif name == "v.nii":
        nibabel.save(nibabel.Nifti1Image(image.T[..., None].astype(np.int16), np.eye(4)), path)
    elif name == "deep.png":
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(np.stack([image] * 3, -1)))
    else:
        Image.fromarray(image).save(path)
    refused: list[str] = []
    for data in mutants(path, 25, seed):
        path.write_bytes(data)
        answers: list[Array | None] = []
        for read in (read_image, windows):
            try:
                array = read(path)
                array = array[0] if isinstance(array, tuple) else array
                check_pixels(path, array)
                answers.append(array)
            except OvertileError as error:
                refused.append(str(error))
                answers.append(None)
        one, other = answers
        assert (one is None) == (other is None)
        assert one is None or other is None or np.array_equal(one, other)
    assert refused
    assert not any("\n" in told for told in refused)


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for number in range(3):
            array = np.full((8, 9), number, np.uint16)
            tifffile.imwrite(tmp_path / name / f"{number}.tif", array)
    odd = tmp_path / "images" / "1.tif"
    for make, found in (
        (lambda: os.mkfifo(odd), "a pipe"),
        (lambda: odd.symlink_to("/dev/tty"), "a device|no such file"),
        (lambda: odd.symlink_to(odd), "a link that leads in a circle"),
    ):
        odd.unlink()
        make()
        for ask in (
            lambda: find_data(tmp_path),
            lambda: images_in(tmp_path / "images"),
            lambda: images_in(odd),
            lambda: windows(odd),
        ):
            with pytest.raises(UnreadableError, match=rf"1\.tif: .*({found})"):
                ask()
        assert len(find_data(tmp_path, skip_unreadable=True).items) == 2
        assert len(images_in(tmp_path / "images", skip_unreadable=True)) == 2


def test_formats_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for number in range(2):
            array = np.full((8, 9), number, np.uint16)
            tifffile.imwrite(tmp_path / name / f"{number}.tif", array)
    (tmp_path / "images" / "a.czi").write_bytes(b"ZISRAWFILE")
    shutil.copy(tmp_path / "images" / "0.tif", tmp_path / "images" / "b.dat")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    for ask in (lambda: find_data(tmp_path), lambda: images_in(tmp_path / "images")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            ask()
        assert "1 file in formats that are not read, as" in caplog.text
        assert "a.czi" in caplog.text
        assert "1 file with an image inside and a name that says otherwise, as" in caplog.text
        assert "b.dat" in caplog.text
        assert "notes.txt" not in caplog.text
    with pytest.raises(DataError, match=r"a\.czi: no image file; expected"):
        open_image(tmp_path / "images" / "a.czi")


def test_a_series_is_named_in_every_command(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((8, 9), np.uint8), metadata=None)
        file.write(np.ones((5, 6), np.uint16), metadata=None)
    path = tmp_path / "two.tif" / "series1"
    assert images_in(path) == [{"image": str(path)}]
    assert np.array_equal(read_image(path)[0], np.ones((5, 6), np.uint16))
    assert np.array_equal(windows(path), np.ones((5, 6), np.uint16))
    told = r"two\.tif: no series 2: two\.tif/series0 \(8x9 uint8\), two\.tif/series1 \(5x6 uint16\)"
    for ask in (lambda p: images_in(p), read_image, windows):
        with pytest.raises(DataError, match=told):
            ask(tmp_path / "two.tif" / "series2")
        with pytest.raises(DataError, match="2 images that are not alike"):
            ask(tmp_path / "two.tif")


def test_the_header_of_a_pair_belongs_to_it(tmp_path: Path, cases: Path) -> None:
    """A change of it is noticed, and it is no image of its own."""
    for suffix in (".img", ".hdr"):
        source = cases / "found/nifti-img-hdr-pair" / f"pair_anatomical{suffix}"
        shutil.copyfile(source, tmp_path / f"a{suffix}")
    from overtile.pipelines.images.stored import stamp

    before = stamp(tmp_path / "a.img")
    assert len(images_in(tmp_path, spatial_dims=3)) == 1
    os.utime(tmp_path / "a.hdr", (1, 1))
    assert stamp(tmp_path / "a.img") != before


def test_what_does_not_fit_into_memory_is_refused_from_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((100, 100), np.uint16))
    monkeypatch.setattr("overtile.pipelines.images.read.machine_memory", lambda: 19_999)
    with pytest.raises(DataError, match=r"100x100 pixels of uint16, 0\.0 GiB; expected at most"):
        read_image(tmp_path / "a.tif")
    monkeypatch.setattr("overtile.pipelines.images.read.machine_memory", lambda: 20_000)
    assert read_image(tmp_path / "a.tif")[0].shape == (100, 100)
