"""The page on files: every row of its tables is a file that is made, read and compared."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image
from toy import ROOT

from overtile.pipelines.errors import DataError
from overtile.pipelines.images.formats import open_image, open_source
from overtile.pipelines.images.formats.ome_zarr import describe
from overtile.pipelines.images.read import check_pixels, read_image, read_label
from overtile.pipelines.segment.windows import open_planes

Array = NDArray[Any]
PAGE = ROOT / "docs" / "reference" / "files.md"
GREY = np.random.default_rng(0).integers(1, 200, (24, 31), np.uint8)
DEEP = GREY.astype(np.uint16) * 257
STACK = np.stack([GREY, GREY + 1, GREY + 2])
COLOURS = np.stack([GREY, GREY[::-1], 255 - GREY], -1)


class Read(NamedTuple):
    """A row of what is read: files, what they hold, and further things that have to be true."""

    what: str
    read_as: str
    make: Callable[[Path], list[tuple[Path, Array]]]
    channels: int | None = None
    label: bool = False
    spacing: dict[str, float] | None = None
    remark: str = ""


class Refused(NamedTuple):
    """A row of what is refused."""

    what: str
    make: Callable[[Path], Path]
    label: bool = False


def tiff(path: Path, array: Array, **options: Any) -> Path:
    tifffile.imwrite(path, array, **{"metadata": None, "photometric": "minisblack", **options})
    return path


def alike(folder: Path) -> list[tuple[Path, Array]]:
    with tifffile.TiffWriter(folder / "own.tif") as file:
        for page in STACK:
            file.write(page)
    one = tiff(folder / "one.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    several = [(f, STACK) for f in (folder / "own.tif", one, tiff(folder / "a.tif", STACK))]
    return [*several, (Path(f"{one}:2"), STACK[2])]


def stored_in_many_ways(folder: Path) -> list[tuple[Path, Array]]:
    ways: list[dict[str, Any]] = [
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 5, "compression": "lzw", "byteorder": ">"},
        {"bigtiff": True, "compression": "zstd"},
    ]
    return [(tiff(folder / f"{i}.tif", DEEP, **way), DEEP) for i, way in enumerate(ways)]


def planar(folder: Path) -> list[tuple[Path, Array]]:
    apart = np.moveaxis(COLOURS, -1, 0)
    return [
        (
            tiff(folder / "p.tif", apart, photometric="rgb", planarconfig="separate"),
            COLOURS[..., 1],
        ),
        (tiff(folder / "i.tif", COLOURS, photometric="rgb"), COLOURS[..., 1]),
    ]


def palette(folder: Path) -> list[tuple[Path, Array]]:
    lut = np.random.default_rng(1).integers(0, 65535, (3, 256), np.uint16)
    return [(tiff(folder / "p.tif", STACK, photometric="palette", colormap=lut), STACK)]


def white(folder: Path) -> list[tuple[Path, Array]]:
    signed = DEEP.astype(np.int16) - 99
    pairs = [(GREY, 255 - GREY), (signed, -1 - signed)]
    return [
        (tiff(folder / f"{a.dtype}.tif", a, photometric="miniswhite"), shown) for a, shown in pairs
    ]


def white_label(folder: Path) -> list[tuple[Path, Array]]:
    return [(tiff(folder / "l.tif", GREY, photometric="miniswhite"), GREY)]


def one_bit(folder: Path) -> list[tuple[Path, Array]]:
    bits = GREY > 99
    Image.fromarray(bits).save(folder / "b.png")
    zarr.create_array(folder / "b.zarr", data=bits)
    files = [tiff(folder / "b.tif", bits), folder / "b.png", folder / "b.zarr"]
    return [(file, bits.astype(np.uint8)) for file in files]


def turned(folder: Path) -> list[tuple[Path, Array]]:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(GREY)).save(folder / "t.png", exif=exif)
    turned = tiff(folder / "t.tif", np.rot90(GREY), extratags=[(274, 3, 1, 6, True)])
    return [(turned, GREY), (folder / "t.png", GREY)]


def other_names(folder: Path) -> list[tuple[Path, Array]]:
    names = ["a.stk", "a.lsm", "a.svs", "a.scn", "a.ndpi", "a.unheard_of", "a"]
    return [(tiff(folder / name, STACK), STACK) for name in names]


def unlike(folder: Path) -> Path:
    with tifffile.TiffWriter(folder / "two.tif") as file:
        file.write(GREY, metadata=None)
        file.write(DEEP[:9], metadata=None)
    return folder / "two.tif"


def series(folder: Path) -> list[tuple[Path, Array]]:
    path = unlike(folder)
    return [(path / "series0", GREY), (path / "series1", DEEP[:9])]


def previews(folder: Path) -> list[tuple[Path, Array]]:
    with tifffile.TiffWriter(folder / "olympus.tif") as file:
        file.write(COLOURS, photometric="rgb", compression="jpeg", metadata=None)
        file.write(DEEP[:20], metadata=None)
    with tifffile.TiffWriter(folder / "reduced.tif") as file:
        file.write(DEEP, metadata=None)
        file.write(DEEP[::4, ::4], subfiletype=1, metadata=None)
    return [(folder / "olympus.tif", DEEP[:20]), (folder / "reduced.tif", DEEP)]


def sized(folder: Path) -> list[tuple[Path, Array]]:
    ome = {"axes": "YX", "PhysicalSizeX": 0.002, "PhysicalSizeXUnit": "mm"}
    ome |= {"PhysicalSizeY": 500.0, "PhysicalSizeYUnit": "nm"}
    imagej = {"axes": "YX", "unit": "mm"}
    zarr_folder = folder / "a.ome.zarr"
    zarr.open_group(zarr_folder, mode="w").create_array("0", data=GREY)
    describe(zarr_folder, "a", "YX", {"Y": 0.0005, "X": 0.002}, 1, False)
    told = dict(zarr.open_group(zarr_folder, mode="r").attrs)
    for axis in told["ome"]["multiscales"][0]["axes"]:  # type: ignore[index, call-overload]
        axis["unit"] = "millimeter"
    zarr.open_group(zarr_folder, mode="a").attrs.update(told)
    return [
        (tiff(folder / "a.ome.tif", GREY, metadata=ome), GREY),
        (tiff(folder / "i.tif", GREY, imagej=True, metadata=imagej, resolution=(500, 2000)), GREY),
        (zarr_folder, GREY),
    ]


def without_size(folder: Path) -> list[tuple[Path, Array]]:
    imagej = {"axes": "YX", "unit": "um"}
    nothing = tiff(folder / "i.tif", GREY, imagej=True, metadata=imagej, resolution=(1, 1))
    with tifffile.TiffFile(nothing, mode="r+") as tif:
        for name in ("XResolution", "YResolution"):
            tif.pages[0].tags[name].overwrite((0, 1))
    return [
        (tiff(folder / "b.tif", GREY, description="<OME><broken OME>"), GREY),
        (tiff(folder / "cut.ome.tif", GREY, description="<OME><Image><Pixels Phys"), GREY),
        (nothing, GREY),
    ]


def deep_pictures(folder: Path) -> list[tuple[Path, Array]]:
    rgb = np.stack([DEEP, DEEP[::-1], 9 - DEEP], -1)
    (folder / "rgb.png").write_bytes(imagecodecs.png_encode(rgb))
    return [(folder / "rgb.png", rgb[..., 1])]


def opacity(folder: Path) -> list[tuple[Path, Array]]:
    seen = np.full_like(GREY, 7)
    Image.fromarray(np.stack([GREY, seen], -1)).save(folder / "la.png")
    Image.fromarray(np.stack([GREY] * 3 + [seen], -1)).save(folder / "rgba.png")
    (folder / "la16.png").write_bytes(imagecodecs.png_encode(np.stack([DEEP, DEEP + 1], -1)))
    return [(folder / "la.png", GREY), (folder / "rgba.png", GREY), (folder / "la16.png", DEEP)]


def opacity_of_tiff(folder: Path) -> list[tuple[Path, Array]]:
    seen = np.full_like(GREY, 7)
    found = []
    for samples, photometric, kind in ((2, "minisblack", 1), (4, "rgb", 2)):
        pixels = np.stack([GREY] * (samples - 1) + [seen], -1)
        for layout in ("contig", "separate"):
            path = folder / f"{samples}{layout}.tif"
            apart = pixels if layout == "contig" else np.moveaxis(pixels, -1, 0)
            options = {"photometric": photometric, "planarconfig": layout, "extrasamples": [kind]}
            tifffile.imwrite(path, apart, **options)
            found.append((path, GREY))
    return found


def indexed(folder: Path) -> list[tuple[Path, Array]]:
    picture = Image.fromarray(GREY, "P")
    picture.putpalette(np.random.default_rng(1).integers(0, 255, 768, np.uint8).tobytes())
    picture.save(folder / "l.png")
    return [(folder / "l.png", GREY)]


def indexed_image(folder: Path) -> list[tuple[Path, Array]]:
    [(path, _)] = indexed(folder)
    colours = np.random.default_rng(1).integers(0, 255, 768, np.uint8).reshape(256, 3)
    return [(path, colours[GREY][..., 1])]


def whole_floats(folder: Path) -> list[tuple[Path, Array]]:
    zarr.create_array(folder / "f.zarr", data=GREY.astype(np.float64))
    files = [tiff(folder / "f.tif", GREY.astype(np.float32)), folder / "f.zarr"]
    return [(file, GREY.astype(np.int32)) for file in files]


VOLUME = np.moveaxis(STACK, 0, -1).swapaxes(0, 1).copy()


def niftis(folder: Path) -> list[tuple[Path, Array]]:
    volume = nibabel.Nifti1Image(VOLUME, np.diag([0.5, 0.25, 2, 1]))
    files = [folder / name for name in ("v.nii", "v.nii.gz", "p.img")]
    for file in files:
        nibabel.save(volume, file)
    return [(file, np.moveaxis(VOLUME, -1, 0)) for file in (*files, folder / "p.hdr")]


def no_place(folder: Path) -> list[tuple[Path, Array]]:
    volume = nibabel.Nifti1Image(VOLUME, None)
    volume.header.set_sform(np.diag([0, 0, 0, 1]), 1)
    volume.header.set_zooms((0.5, 0.25, 2))
    nibabel.save(volume, folder / "z.nii.gz")
    assert not nibabel.load(folder / "z.nii.gz").affine[:3, :3].any()
    return [(folder / "z.nii.gz", np.moveaxis(VOLUME, -1, 0))]


def zarrs(folder: Path) -> list[tuple[Path, Array]]:
    for version in (2, 3):
        zarr.create_array(folder / f"{version}", data=STACK, zarr_format=version)
    group = zarr.open_group(folder / "raw.zarr", mode="w")
    group.attrs["ome"] = {"bioformats2raw.layout": 3}
    zarr.open_group(folder / "raw.zarr" / "0", mode="w").create_array("0", data=STACK)
    describe(folder / "raw.zarr" / "0", "a", "ZYX", {}, 1, False)
    return [(folder / name, STACK) for name in ("2", "3", "raw.zarr", "raw.zarr/0")]


def plate(folder: Path) -> list[tuple[Path, Array]]:
    group = zarr.open_group(folder / "p.zarr", mode="w")
    group.attrs["ome"] = {"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}}
    for well, image in (("A/1", GREY), ("B/2", GREY + 1)):
        place = folder / "p.zarr" / well / "0"
        zarr.open_group(place, mode="w").create_array("0", data=image)
        describe(place, "a", "YX", {}, 1, False)
    return [(folder / "p.zarr/A/1/0", GREY), (folder / "p.zarr/B/2/0", GREY + 1)]


def raw_bits(folder: Path) -> list[tuple[Path, Array]]:
    swapped = np.frombuffer(imagecodecs.bitorder_encode(DEEP.tobytes()), DEEP.dtype)
    path = tiff(folder / "f.tif", swapped.reshape(DEEP.shape), extratags=[(265, 3, 1, 2, True)])
    before, after = (tag + b"\1\3\0\1\0\0\0\2\0" for tag in (b"\x09", b"\x0a"))
    path.write_bytes(path.read_bytes().replace(before, after, 1))  # FillOrder
    return [(path, DEEP)]


READ = {
    "TIFF": [
        Read(
            "pages of one size, also as images of their own",
            "planes; `a.tif:2` is the third",
            alike,
        ),
        Read(
            "tiles or strips, any byte order, BigTIFF, any compression",
            "the same",
            stored_in_many_ways,
        ),
        Read("bits of a byte the other way round (FillOrder 2)", "the same", raw_bits),
        Read("samples side by side or apart (planar)", "channels", planar, channels=1),
        Read(
            "opacity of grey values or colours, where its header says so",
            "left out; `channels` can name it",
            opacity_of_tiff,
        ),
        Read("a palette", "its indices: they are the intensities", palette),
        Read(
            "a palette of a label",
            "its indices: they are the numbers of cells",
            palette,
            label=True,
        ),
        Read(
            "floats as a label, in other formats too",
            "the numbers of cells, if all are whole",
            whole_floats,
            label=True,
        ),
        Read("WhiteIsZero", "inverted, so that bright is high; signed numbers too", white),
        Read("WhiteIsZero of a label", "the numbers of cells as they are", white_label, label=True),
        Read("one bit a pixel, in other formats too", "0 and 1 of 8 bits", one_bit),
        Read(
            "an orientation, in EXIF too",
            "upright; a remark says so",
            turned,
            remark="turned upright, as its orientation 6 says",
        ),
        Read(
            "`.stk`, `.lsm`, `.svs`, `.scn`, `.ndpi`, or TIFF inside, whatever the name",
            "TIFF",
            other_names,
        ),
        Read(
            "several images that are not alike",
            "one of them, named `a.tif/series1`, from 0",
            series,
        ),
        Read("a JPEG before data (Olympus), reduced images", "left out", previews),
        Read(
            "a pixel size of OME, ImageJ or OME-Zarr, in nm, µm, mm, cm, m or inches",
            "µm",
            sized,
            spacing={"Y": 0.5, "X": 2.0},
        ),
        Read(
            "metadata that are broken, a resolution of 0",
            "the pixels, without a size; a remark says so",
            without_size,
            spacing={},
            remark="no pixel size",
        ),
    ],
    "Pictures": [
        Read("PNG of 16 bits, in colour too", "16 bits", deep_pictures, channels=1),
        Read("opacity", "left out", opacity),
        Read("an indexed picture", "its colours", indexed_image, channels=1),
        Read("an indexed picture as a label", "its indices", indexed, label=True),
    ],
    "NIfTI": [
        Read(
            "`.nii`, `.nii.gz`, or `.img` with `.hdr`", "`[X, Y, Z]` in its place in space", niftis
        ),
        Read(
            "an affine that has no inverse",
            "the pixels with their size, without a place; a remark says so",
            no_place,
            spacing={"X": 500.0, "Y": 250.0, "Z": 2000.0},
            remark="it has no place in space: its affine has no inverse",
        ),
    ],
    "OME-Zarr": [
        Read(
            "a folder of any name, a bare array, bioformats2raw's with one image",
            "the image",
            zarrs,
        ),
        Read(
            "a plate, or bioformats2raw's with several images",
            "each by its path, as `p.zarr/A/1/0`",
            plate,
        ),
    ],
}


def cut_tiff(folder: Path) -> Path:
    path = tiff(folder / "cut.tif", DEEP)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def cut_png(folder: Path) -> Path:
    Image.fromarray(GREY).save(folder / "cut.png")
    data = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(data[:300])
    return folder / "cut.png"


def claims(folder: Path) -> Path:
    volume = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    nibabel.save(volume, folder / "claims.nii.gz")
    raw = bytearray(imagecodecs.gzip_decode((folder / "claims.nii.gz").read_bytes()))
    raw[40:56] = struct.pack("<8h", 4, 1, 1, 32767, 32767, 1, 1, 1)
    (folder / "claims.nii.gz").write_bytes(imagecodecs.gzip_encode(bytes(raw)))
    return folder / "claims.nii.gz"


def many_planes(folder: Path) -> Path:
    zarr.create_array(folder / "points.zarr", shape=(2**21, 1, 1), chunks=(2**21, 1, 1), dtype="u1")
    return folder / "points.zarr"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.tif")
    return folder / "pipe.tif"


def terminal(folder: Path) -> Path:
    (folder / "terminal.tif").symlink_to("/dev/null")
    return folder / "terminal.tif"


def circle(folder: Path) -> Path:
    (folder / "circle.tif").symlink_to(folder / "other.tif")
    (folder / "other.tif").symlink_to(folder / "circle.tif")
    return folder / "circle.tif"


def unknown(folder: Path) -> Path:
    (folder / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(99))
    return folder / "a.czi"


def analyze(folder: Path) -> Path:
    nibabel.save(nibabel.AnalyzeImage(VOLUME, np.eye(4)), folder / "old.img")
    return folder / "old.img"


def complex_pixels(folder: Path) -> Path:
    return tiff(folder / "c.tif", GREY.astype(np.complex64))


def animation(folder: Path) -> Path:
    pictures = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    pictures[0].save(folder / "film.gif", save_all=True, append_images=pictures[1:])
    return folder / "film.gif"


def jpeg(folder: Path) -> Path:
    Image.fromarray(GREY).save(folder / "label.jpg")
    return folder / "label.jpg"


def jpeg_inside(folder: Path) -> Path:
    colours = np.stack([GREY] * 3, -1)
    return tiff(folder / "label.tif", colours, photometric="rgb", compression="jpeg")


def webp(folder: Path) -> Path:
    exif = Image.Exif()
    exif[274] = 1  # which comes in a chunk of its own
    for name, options in (("fine", {"lossless": True}), ("label", {"exif": exif})):
        Image.fromarray(np.stack([GREY] * 3, -1)).save(folder / f"{name}.webp", **options)
    assert np.array_equal(read_label(folder / "fine.webp")[0], GREY)
    return folder / "label.webp"


def axes(folder: Path) -> Path:
    zarr.open_group(folder / "axes.zarr", mode="w").create_array("0", data=STACK)
    describe(folder / "axes.zarr", "a", "YX", {}, 1, False)
    return folder / "axes.zarr"


def halves(folder: Path) -> Path:
    return tiff(folder / "half.tif", GREY / np.float32(2))


def companions(folder: Path) -> Path:
    tiff(folder / "part.ome.tif", STACK, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(folder / "part.ome.tif", mode="r+") as tif:
        xml = tif.ome_metadata
        assert xml is not None
        uuid = '<TiffData IFD="0" PlaneCount="1"><UUID FileName="rest.ome.tif">urn:uuid:1</UUID>'
        xml = xml.replace('<TiffData IFD="0" PlaneCount="3"/>', f"{uuid}</TiffData>")
        assert "rest.ome.tif" in xml
        tif.pages[0].tags["ImageDescription"].overwrite(xml)
    return folder / "part.ome.tif"


def several_fields(folder: Path) -> Path:
    plate(folder)
    return folder / "p.zarr"


def not_finite(folder: Path) -> Path:
    image = GREY.astype(np.float32)
    image[3, 4] = np.nan
    return tiff(folder / "nan.tif", image)


REFUSED = [
    Refused("a file that is cut short", cut_tiff),
    Refused("a picture that is cut short", cut_png),
    Refused("a header that claims more than its file can hold", claims),
    Refused("planes without number", many_planes),
    Refused("images in one file that are not alike", unlike),
    Refused("a plate", several_fields),
    Refused("an animation", animation),
    Refused("an OME-TIFF of several files", companions),
    Refused("OME-Zarr that names other axes than it has", axes),
    Refused("complex numbers", complex_pixels),
    Refused("NaN or infinite pixels", not_finite),
    Refused("a label in JPEG", jpeg, label=True),
    Refused("a label in JPEG within TIFF, or under another name", jpeg_inside, label=True),
    Refused("a label in WebP with losses", webp, label=True),
    Refused("a label of numbers that are not whole", halves, label=True),
    Refused("another format", unknown),
    Refused("Analyze, NIfTI's forerunner", analyze),
    Refused("a pipe", pipe),
    Refused("a link to a device or terminal", terminal),
    Refused("a link in a circle", circle),
]


def read_whole(path: Path, label: bool) -> None:
    array, _ = (read_label if label else read_image)(path)
    check_pixels(path, array)


def read_windows(path: Path) -> None:
    """As `overtile segment` does."""
    planes = open_planes(path, str(path), 0, 2**28, 2, None)
    try:
        for number in range(planes.count):
            planes.read(number, tuple(slice(0, n) for n in planes.shape))
    finally:
        planes.stored.close()


def line(row: Refused, folder: Path) -> str:
    """With which it is refused; whoever reads windows has the same."""
    path = row.make(folder)
    with pytest.raises(DataError) as caught:
        read_whole(path, row.label)
    error = caught.value
    if not row.label:
        with pytest.raises(DataError) as windows:
            read_windows(path)
        assert (windows.value.found, windows.value.expected) == (error.found, error.expected)
    told = error.worded(lambda _: None).replace(f"{folder}/", "")
    assert "\n" not in told
    return told


def tables(folder: Path) -> str:
    """The sections of the page."""
    parts = []
    for section, rows in READ.items():
        parts += [f"## {section}\n", "| what | read as |", "|---|---|"]
        parts += [f"| {row.what} | {row.read_as} |" for row in rows] + [""]
    parts += ["## What is refused\n", "| what | refused with |", "|---|---|"]
    for number, row in enumerate(REFUSED):
        (folder / str(number)).mkdir()
        parts.append(f"| {row.what} | `{line(row, folder / str(number))}` |")
    return "\n".join([*parts, ""])


@pytest.mark.parametrize("row", [r for rows in READ.values() for r in rows], ids=lambda r: r.what)
def test_what_is_read(tmp_path: Path, row: Read) -> None:
    for path, expected in row.make(tmp_path):
        read = read_label if row.label else read_image
        array, _ = read(path) if row.label else read_image(path, channels=row.channels)
        assert array.dtype == expected.dtype, path
        assert np.array_equal(array, expected), path
        if not path.exists() and ":" in path.name:  # a plane
            continue
        stored = open_image(path, labels=row.label)
        if row.spacing is not None:
            assert stored.spacing == pytest.approx(row.spacing), path
        assert row.remark in " ".join(stored.remarks)
        assert bool(row.remark) == bool(stored.remarks)
        if not row.label:
            source = open_source(path)
            everything = source.pixels((slice(None),) * len(source.shape))
            source.close()
            whole = stored.pixels((slice(None),) * len(stored.shape))
            assert (source.axes, source.dtype) == (stored.axes, stored.dtype)
            assert np.array_equal(everything, whole)


def test_the_page_says_what_is_read_and_refused(tmp_path: Path) -> None:
    assert tables(tmp_path) in PAGE.read_text()
