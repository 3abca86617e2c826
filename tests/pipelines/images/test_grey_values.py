"""The same picture gives the same pixels, however it is stored, as a whole and in windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.images.formats import open_image, open_source, unpacked
from overtile.pipelines.images.read import open_view, read_image, read_label

Array = NDArray[Any]
SIDES = {
    **{1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"},
    **{5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"},
}
"""Where the first row and the first column are to be shown (TIFF 6.0, tag 274)."""


def shown(stored: Array, orientation: int) -> Array:
    """Pixel by pixel: where each is to be seen."""
    rows, columns = stored.shape[:2]
    row_side, column_side = SIDES[orientation].split()
    size = (rows, columns) if orientation < 5 else (columns, rows)
    result = np.zeros((*size, *stored.shape[2:]), stored.dtype)
    for r in range(rows):
        for c in range(columns):
            place = {}
            for side, number, count in ((row_side, r, rows), (column_side, c, columns)):
                axis = "y" if side in ("top", "bottom") else "x"
                place[axis] = number if side in ("top", "left") else count - 1 - number
            result[place["y"], place["x"]] = stored[r, c]
    return result


def check(path: Path, expected: Array, data: st.DataObject, channel: int | None = None) -> None:
    """A file gives these planes or this plane to who reads it whole, and to who reads windows."""
    found, _ = read_image(path, channels=channel)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    index: list[Any] = []
    header = open_image(path)
    for axis, n in zip(header.axes, header.shape, strict=True):
        start = data.draw(st.integers(0, n - 1))
        stop = data.draw(st.integers(start + 1, n))
        index.append((channel or 0) if axis == "S" else slice(start, stop))
    source = open_source(path)
    window = source.pixels(tuple(index))
    source.close()
    assert window.dtype == expected.dtype
    parts = tuple(i for i in index if isinstance(i, slice))
    assert np.array_equal(window, expected[parts])


def picture(data: st.DataObject, dtype: str, samples: int = 1) -> Array:
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    shape = (rows, columns) if samples == 1 else (rows, columns, samples)
    if dtype == "b1":
        return rng.integers(0, 2, shape).astype(bool)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(0, 1e3, shape).astype(kind)
    return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grey")


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_tiff_of_any_kind(home: Path, data: st.DataObject) -> None:
    """Its type, byte order, photometric, planes, tiles or strips, compression and orientation."""
    dtype = data.draw(st.sampled_from("b1 u1 i1 u2 i2 u4 i4 f2 f4 f8".split()))
    samples = 1 if dtype == "b1" else data.draw(st.integers(1, 4))
    image = picture(data, dtype, samples)
    orientation = data.draw(st.integers(1, 8))
    white = samples == 1 and data.draw(st.booleans())
    options: dict[str, Any] = {
        "photometric": "miniswhite" if white else "minisblack",
        "byteorder": data.draw(st.sampled_from("<>")),
        "bigtiff": data.draw(st.booleans()),
        "metadata": None,
        "extratags": [(274, 3, 1, orientation, True)],
    }
    if data.draw(st.booleans()):
        options["tile"] = (16, 32)
    else:
        options["rowsperstrip"] = data.draw(st.integers(1, 50))
    options["compression"] = data.draw(st.sampled_from([None, "zlib", "lzw", "packbits", "zstd"]))
    if options["compression"] in ("zlib", "lzw") and dtype not in ("b1", "f2"):
        options["predictor"] = data.draw(st.booleans())
    planar = samples > 1 and data.draw(st.booleans())
    if samples > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    tifffile.imwrite(home / "a.tif", np.moveaxis(image, -1, 0) if planar else image, **options)
    expected = shown(image, orientation)
    if white:
        lowest = {"b": 1, "u": 2 ** (8 * image.dtype.itemsize) - 1, "i": -1, "f": 0}[dtype[0]]
        kind = image.dtype if dtype[0] == "f" else np.int64
        expected = (lowest - expected.astype(kind)).astype("u1" if dtype == "b1" else dtype)
    channel = data.draw(st.integers(0, samples - 1)) if samples > 1 else None
    expected = expected if channel is None else expected[..., channel]
    check(home / "a.tif", expected.astype("u1") if dtype == "b1" else expected, data, channel)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_bits_the_other_way_round(home: Path, data: st.DataObject) -> None:
    image = picture(data, data.draw(st.sampled_from(["u1", "u2", "i4", "f4"])))
    turned = imagecodecs.bitorder_encode(image.tobytes())
    strip = data.draw(st.integers(1, 50))
    tifffile.imwrite(
        home / "f.tif",
        np.frombuffer(turned, image.dtype).reshape(image.shape),
        rowsperstrip=strip,
        extratags=[(265, 3, 1, 2, True)],
        byteorder="<",
        metadata=None,
    )
    # the tag of fill order, which tifffile does not write, instead of the one before it
    before, after = (tag + b"\1\3\0\1\0\0\0\2\0" for tag in (b"\x09", b"\x0a"))
    (home / "f.tif").write_bytes((home / "f.tif").read_bytes().replace(before, after, 1))
    with tifffile.TiffFile(home / "f.tif") as tif:
        assert tif.pages[0].fillorder == 2
    check(home / "f.tif", image, data)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_pages_are_pages_however_they_follow_each_other(home: Path, data: st.DataObject) -> None:
    """ImageJ's with one header for all, shaped ones, others, and images that are alike."""
    kind = data.draw(st.sampled_from(["imagej", "shaped", "plain", "alike", "compressed", "ome"]))
    image = np.stack([np.pad(picture(data, "u2"), 1)] * 3)
    image += np.arange(3, dtype=np.uint16)[:, None, None]
    path = home / ("s.ome.tif" if kind == "ome" else "s.tif")
    if kind == "alike":
        with tifffile.TiffWriter(path) as file:
            for page in image:
                file.write(page)
    else:
        options: dict[str, Any] = {
            "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
            "shaped": {},
            "plain": {"metadata": None},
            "compressed": {"compression": "zlib", "rowsperstrip": 3},
            "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
        }[kind]
        tifffile.imwrite(path, image, photometric="minisblack", **options)
    check(path, image, data)
    for number, page in enumerate(image):
        assert np.array_equal(read_image(f"{path}:{number}")[0], page)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_picture_of_any_kind(home: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["1", "L", "LA", "RGB", "RGBA", "I;16"]))
    name = data.draw(
        st.sampled_from(["a.png", "a.bmp"] if kind in ("1", "L", "RGB") else ["a.png"])
    )
    samples = {"LA": 2, "RGB": 3, "RGBA": 4}.get(kind, 1)
    image = picture(data, {"1": "b1", "I;16": "u2"}.get(kind, "u1"), samples)
    orientation = data.draw(st.integers(1, 8)) if name == "a.png" else 1
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(home / name, **({"exif": exif} if name == "a.png" else {}))
    expected = shown(image, orientation)
    channel = 1 if kind in ("RGB", "RGBA") else None
    if samples > 1:
        expected = expected[..., channel or 0]
    check(home / name, expected.astype("u1") if kind == "1" else expected, data, channel)


@settings(deadline=None, max_examples=20)
@given(data=st.data(), samples=st.integers(1, 4))
def test_png_of_16_bits(home: Path, data: st.DataObject, samples: int) -> None:
    image = picture(data, "u2", samples)
    (home / "d.png").write_bytes(imagecodecs.png_encode(image))
    channel = 1 if samples > 2 else None
    check(home / "d.png", image if samples == 1 else image[..., channel or 0], data, channel)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_zarr_of_any_kind(home: Path, data: st.DataObject) -> None:
    image = picture(data, data.draw(st.sampled_from("b1 u1 i2 u4 f4 f8".split())))
    chunks = tuple(data.draw(st.integers(1, n)) for n in image.shape)
    version = data.draw(st.sampled_from([2, 3]))
    name = data.draw(st.sampled_from(["a.zarr", "a_folder"]))
    zarr.create_array(home / name, data=image, chunks=chunks, zarr_format=version, overwrite=True)
    check(home / name, image.astype("u1") if image.dtype == bool else image, data)


@pytest.mark.parametrize("label", [False, True])
def test_a_palette_is_for_display(tmp_path: Path, label: bool) -> None:
    """Of a TIFF, in which Fiji and microscopes keep it; a plane of a stack likewise."""
    grey = np.random.default_rng(0).integers(0, 255, (3, 8, 9), np.uint8)
    colours = np.random.default_rng(1).integers(0, 65535, (3, 256), np.uint16)
    options: dict[str, Any] = {"photometric": "palette", "colormap": colours}
    tifffile.imwrite(tmp_path / "p.tif", grey, **options)
    read: Callable[..., Any] = read_label if label else read_image
    assert np.array_equal(read(tmp_path / "p.tif")[0], grey)
    assert np.array_equal(read(f"{tmp_path / 'p.tif'}:1")[0], grey[1])
    source = open_source(tmp_path / "p.tif")
    assert np.array_equal(source.pixels((2, slice(1, 4), slice(0, 9))), grey[2, 1:4])
    source.close()


def test_labels_in_indexed_pictures_are_their_indices(tmp_path: Path) -> None:
    cells = np.random.default_rng(0).integers(0, 9, (8, 9), np.uint8)
    picture = Image.fromarray(cells, "P")
    picture.putpalette(np.random.default_rng(1).integers(0, 255, 768, np.uint8).tobytes())
    picture.save(tmp_path / "l.png")
    assert np.array_equal(read_label(tmp_path / "l.png")[0], cells)


def test_numbers_of_cells_mean_themselves_in_a_white_is_zero_tiff(tmp_path: Path) -> None:
    cells = np.random.default_rng(0).integers(0, 9, (8, 9), np.uint16)
    tifffile.imwrite(tmp_path / "l.tif", cells, photometric="miniswhite")
    assert np.array_equal(read_label(tmp_path / "l.tif")[0], cells)


@pytest.mark.parametrize(("bits", "white"), [(4, False), (12, False), (4, True), (12, True)])
def test_fewer_bits_than_a_type_has(tmp_path: Path, bits: int, white: bool) -> None:
    image = np.random.default_rng(0).integers(0, 2**bits, (8, 10), np.uint16)
    image = image.astype(np.uint8) if bits < 8 else image
    packed = imagecodecs.packints_encode(image, bits) if bits < 8 else None
    if packed is None:  # two samples of 12 bits in three bytes
        pairs = image.reshape(-1, 2).astype(int)
        values = (pairs[:, 0] << 12) | pairs[:, 1]
        packed = b"".join(int(v).to_bytes(3, "big") for v in values)
    rows = np.frombuffer(packed, np.uint8).reshape(8, -1)
    tifffile.imwrite(
        tmp_path / "b.tif", rows, photometric="miniswhite" if white else "minisblack", metadata=None
    )
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+") as tif:
        tif.pages[0].tags["ImageWidth"].overwrite(10)
        tif.pages[0].tags["BitsPerSample"].overwrite(bits)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), image)
    expected = 2**bits - 1 - image if white else image
    found = read_image(tmp_path / "b.tif")[0]
    assert np.array_equal(found, expected)
    source = open_source(tmp_path / "b.tif")
    assert np.array_equal(source.pixels((slice(2, 5), slice(3, 9))), expected[2:5, 3:9])
    source.close()


def test_a_plane_costs_a_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ImageJ's stacks with one header, and of pages: nothing of the others is read."""
    stack = np.random.default_rng(0).integers(0, 999, (50, 32, 48), np.uint16)
    tifffile.imwrite(tmp_path / "one.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffWriter(tmp_path / "many.tif") as file:
        for page in stack:
            file.write(page, contiguous=False, compression="zlib", metadata=None)
    from overtile.pipelines.images.formats import tiff

    read: list[int] = []
    really = tiff.os.pread  # type: ignore[attr-defined]

    def counted(file: int, size: int, offset: int) -> bytes:
        read.append(size)
        return bytes(really(file, size, offset))

    monkeypatch.setattr(tiff.os, "pread", counted)  # type: ignore[attr-defined]
    for name in ("one.tif", "many.tif"):
        assert open_view(tmp_path / name).count == 50
        with monkeypatch.context() as patch:  # the header is looked at once
            patch.setattr(tifffile, "TiffFile", None)
            for number in (0, 49, 7):
                read.clear()
                found, _ = read_image(f"{tmp_path / name}:{number}")
                assert np.array_equal(found, stack[number])
                assert sum(read) <= stack[0].nbytes


def test_a_page_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reads at most 2 GiB at once."""
    from overtile.pipelines.images.formats import tiff

    image = np.random.default_rng(0).integers(0, 999, (50, 32, 3), np.uint16)
    monkeypatch.setattr(tiff, "_PIECE", 1000)
    for name, options in (
        ("one", {}),
        ("strips", {"rowsperstrip": 7}),
        ("big", {"byteorder": ">"}),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, image, photometric="rgb", metadata=None, **options)
        found = open_image(path).pixels((slice(3, 45), slice(0, 32), slice(0, 3)))
        assert np.array_equal(found, image[3:45])
        found[0] = 0  # whoever asked may write into it


def test_what_is_unpacked_ends_where_its_header_says(tmp_path: Path) -> None:
    """A few bytes can become a disk full of nothing."""
    import gzip

    volume = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    nibabel.save(volume, tmp_path / "v.nii")
    plain = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(plain + bytes(2**24)))
    (tmp_path / "work").mkdir()
    found = unpacked(tmp_path / "b.nii.gz", tmp_path / "work")
    assert found.read_bytes() == plain
