"""DICOM: pixels and places are those of known arrays and of GDCM; what is no grid is refused."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import itk
import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

from overtile.pipelines.data.annotations import write_label
from overtile.pipelines.data.unlabelled import images_in
from overtile.pipelines.errors import DataError, UnreadableError
from overtile.pipelines.images.formats import dicom, is_image, open_image, open_source
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.read import open_view, read_image, read_label

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
LITTLE, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
MR, ENHANCED = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
AXIAL = (1.0, 0, 0, 0, 1, 0)
SAGITTAL = (0.0, 1, 0, 0, 0, -1)


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    yield
    dicom.folder._known.clear()


def cases() -> Path:
    if not CASES.is_dir():
        pytest.skip("no ../shared/cases")
    return CASES


def head(pixels: NDArray[Any], syntax: str = LITTLE, **tags: Any) -> FileDataset:
    """A file of one slice, or of several frames, that has what must be there, and these."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = tags.get("SOPClassUID", MR)
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = syntax
    file = FileDataset("", Dataset(), preamble=bytes(128), file_meta=meta)
    file.is_little_endian, file.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    file.SOPClassUID, file.SOPInstanceUID = MR, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = "1.2", "1.2.3", "MR"
    file.Rows, file.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == BIG else "<"
    file.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    file["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in tags.items():
        if value is not None:
            setattr(file, name, value)
    return file


def place(
    at: Sequence[float], along: Sequence[float] = AXIAL, spacing: Any = (2, 1)
) -> dict[str, Any]:
    return {
        "ImagePositionPatient": [f"{x:.8g}" for x in at],
        "ImageOrientationPatient": [f"{x:.9f}" for x in along],
        "PixelSpacing": [f"{x:.8g}" for x in spacing],
    }


def save(file: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, write_like_original=False)
    return path


def series(
    folder: Path,
    volume: NDArray[Any],
    heights: Sequence[float] | None = None,
    each: Callable[[int], dict[str, Any]] = lambda z: {},
    start: int = 0,
    **tags: Any,
) -> Path:
    """A folder of slices ``[Z, Y, X]``, named in any order."""
    names = np.random.default_rng(start).permutation(len(volume)) + start
    for z, plane in enumerate(volume):
        height = 3.0 * z if heights is None else heights[z]
        own = {"InstanceNumber": start + z + 1, **place((-5, 7, height)), **tags, **each(z)}
        save(head(plane, **own), folder / f"{names[z]:03d}.dcm")
    return folder


def numbers(*shape: int, dtype: Any = np.uint16, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def whole(path: Path) -> NDArray[Any]:
    stored = open_image(path)
    array = stored.pixels((slice(None),) * len(stored.shape))
    assert (array.shape, array.dtype) == (stored.shape, stored.dtype)
    source = open_source(path)
    assert (source.axes, source.shape, source.dtype) == (stored.axes, stored.shape, stored.dtype)
    assert np.array_equal(source.pixels((slice(None),) * len(source.shape)), array)
    return array


def as_gdcm(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels ``[Z, Y, X]`` and affine of one file as another reader has them."""
    image = itk.imread(str(path))
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    return itk.array_from_image(image), affine


@settings(deadline=None, max_examples=25)
@given(
    turn=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    steps=st.tuples(*[st.floats(0.01, 9)] * 3),
    count=st.integers(1, 5),
)
def test_a_voxel_lies_where_its_header_says(
    tmp_path_factory: pytest.TempPathFactory,
    turn: tuple[float, ...],
    origin: tuple[float, ...],
    steps: tuple[float, ...],
    count: int,
) -> None:
    from scipy.spatial.transform import Rotation

    folder = tmp_path_factory.mktemp("turned")
    row, column, across = Rotation.from_quat(turn).as_matrix().T
    volume = numbers(count, 4, 5)
    for z in range(count):
        at = np.array(origin) + z * steps[0] * across
        tags = place(at, (*row, *column), steps[1:])
        save(head(volume[z], SliceThickness=f"{steps[0]:.8g}", **tags), folder / f"{9 - z}.dcm")
    stored = open_image(folder)
    assert stored.axes == "XYZ"
    assert np.array_equal(whole(folder), volume.T)
    for x, y, z in ((0, 0, 0), (4, 0, 0), (1, 3, count - 1)):
        at = np.array(origin) + x * steps[2] * row + y * steps[1] * column + z * steps[0] * across
        assert stored.affine is not None
        found = stored.affine @ (x, y, z, 1)
        assert np.allclose(found[:3], at * (-1, -1, 1), atol=1e-3)


def encoded(plane: NDArray[Any], syntax: str, encode: Callable[..., bytes], **how: Any) -> Any:
    file = head(plane, f"1.2.840.10008.1.2.{syntax}", **place((1, 2, 3)))
    file.PixelData = encapsulate([encode(plane, **how)])
    file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
    return file


def packed(plane: NDArray[Any]) -> bytes:
    """RLE of DICOM (PS3.5 annex G): every byte of a pixel on its own, the highest first."""
    data = plane.astype(plane.dtype.newbyteorder(">")).reshape(-1)[:, None].view(np.uint8)
    parts = []
    for one in data.T:
        runs = b"".join(bytes([len(c) - 1]) + c.tobytes() for c in np.array_split(one, 5))
        parts.append(runs + bytes(len(runs) % 2))
    starts = np.cumsum([64, *map(len, parts[:-1])])
    return struct.pack("<16I", len(parts), *starts, *[0] * (15 - len(parts))) + b"".join(parts)


FILES: dict[str, Callable[[], FileDataset]] = {
    "u1": lambda: head(numbers(9, 8, dtype=np.uint8), **place((1, 2, 3))),
    "i2": lambda: head(numbers(9, 8, dtype=np.int16) - 99, **place((1, 2, 3))),
    "u2 big": lambda: head(numbers(9, 8), BIG, **place((1, 2, 3))),
    "i2 implicit": lambda: head(numbers(9, 8, dtype=np.int16) - 99, IMPLICIT, **place((1, 2, 3))),
    "frames": lambda: head(
        numbers(3, 9, 8),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2",
        FrameIncrementPointer=0x3004000C,
        GridFrameOffsetVector=[0, 4, 8],
        **place((1, 2, 3)),
    ),
    "scaled": lambda: head(
        numbers(9, 8), RescaleSlope="0.25", RescaleIntercept="-1024", **place((1, 2, 3))
    ),
    "overlay": lambda: head(numbers(9, 8) | 0xF000, BitsStored=12, HighBit=11, **place((1, 2, 3))),
    "12 bits with a sign": lambda: head(
        numbers(9, 8, dtype=np.int16) - 99 & 0xFFF, BitsStored=12, HighBit=11, **place((1, 2, 3))
    ),
    "inverted": lambda: head(
        numbers(9, 8),
        BitsStored=12,
        HighBit=11,
        PhotometricInterpretation="MONOCHROME1",
        **place((1, 2, 3)),
    ),
    "rle": lambda: encoded(numbers(9, 8) * 200, "5", packed),
    "jpeg": lambda: encoded(numbers(9, 8, dtype=np.uint8), "4.50", imagecodecs.jpeg8_encode),
    "lossless jpeg": lambda: encoded(
        numbers(9, 8) * 200, "4.70", imagecodecs.ljpeg_encode, bitspersample=16
    ),
    "jpeg-ls": lambda: encoded(numbers(9, 8) * 200, "4.80", imagecodecs.jpegls_encode),
    "jpeg 2000": lambda: encoded(
        numbers(9, 8) * 200, "4.90", imagecodecs.jpeg2k_encode, codecformat="j2k", reversible=True
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_values_are_those_of_gdcm(tmp_path: Path, name: str) -> None:
    path = save(FILES[name](), tmp_path / "a.dcm")
    pixels, affine = as_gdcm(path)
    assert np.array_equal(whole(path), pixels.T)
    stored = open_image(path)
    assert stored.affine is not None
    sections = slice(None) if len(pixels) > 1 else [0, 1, 3]  # of one, it does not say how thick
    assert np.allclose(stored.affine[:, sections], affine[:, sections])
    if name == "inverted":
        assert "inverted" in stored.remarks[0]


REAL = (
    *("693_J2KI", "CT_small", "J2K_pixelrep_mismatch", "JPEG2000", "MR_small", "MR_small_RLE"),
    *("MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_padded"),
    *("MR_small_jpeg_ls_lossless", "badVR", "image_dfl", "rtdose", "rtdose_rle"),
)


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_as_gdcm_reads_them(name: str) -> None:
    """Files that come with pydicom."""
    path = Path(pydicom.data.get_testdata_file(f"{name}.dcm"))
    array, pixels = whole(path), as_gdcm(path)[0]
    array = array.T if open_image(path).affine is not None else array
    assert np.array_equal(array.reshape(pixels.shape), pixels)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
@pytest.mark.parametrize("syntax", [LITTLE, IMPLICIT, BIG, DEFLATED])
def test_32_bits_in_any_order(tmp_path: Path, dtype: type, syntax: str) -> None:
    """GDCM swaps none of 32 bits."""
    array = numbers(3, 9, 8).astype(dtype) * 70000 * (-1 if dtype == np.int32 else 1)
    path = save(head(array, syntax, **place((0, 0, 0))), tmp_path / "a.dcm")
    assert np.array_equal(whole(path), array)


@pytest.mark.parametrize("signed", [False, True])
def test_a_modality_lut_gives_the_values(tmp_path: Path, signed: bool) -> None:
    stored = numbers(9, 8, dtype=np.int16 if signed else np.uint16) - (100 if signed else 0)
    first, entries = (-60 if signed else 20), np.arange(50, dtype=np.uint16)[::-1] * 7 + 1000
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [50, first, 16], entries.tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "SS" if signed else "US", "OW"
    tags = {"ModalityLUTSequence": [item], **place((0, 0, 0))}
    path = save(head(stored, **tags), tmp_path / "a.dcm")
    found = whole(path)[..., 0].T
    for y in range(9):
        for x in range(8):
            number = min(max(int(stored[y, x]) - first, 0), 49)
            assert found[y, x] == entries[number]


def test_one_bit_a_pixel(tmp_path: Path) -> None:
    array = numbers(3, 5, 7) % 2
    file = head(array, **place((0, 0, 0)))
    file.BitsAllocated = file.BitsStored = 1
    file.HighBit = 0
    bits = array.reshape(-1)
    file.PixelData = bytes(
        sum(int(b) << i for i, b in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)
    )
    assert np.array_equal(whole(save(file, tmp_path / "a.dcm")), array)


def enhanced(pixels: NDArray[Any], frames: Sequence[dict[str, Any]], **tags: Any) -> FileDataset:
    """An enhanced file: what each frame has in groups of its own."""
    groups = []
    for own in frames:
        item = Dataset()
        for group, values in own.items():
            inner = Dataset()
            for name, value in values.items():
                setattr(inner, name, value)
            setattr(item, group, [inner])
        groups.append(item)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, orientation.ImageOrientationPatient = [2, 1], list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    more = {
        "SOPClassUID": ENHANCED,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": groups,
    }
    return head(pixels, **more, **tags)


def at(height: float, time: int = 1, **scale: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "PlanePositionSequence": {"ImagePositionPatient": [0, 0, height]},
        "FrameContentSequence": {"TemporalPositionIndex": time},
    }
    return found | ({"PixelValueTransformationSequence": scale} if scale else {})


@pytest.mark.parametrize("files", [1, 4])
def test_enhanced_frames_are_put_in_order(tmp_path: Path, files: int) -> None:
    """Eight places at four times in any order, each frame with a slope of its own."""
    array = numbers(4, 8, 6, 5)
    order = np.random.default_rng(1).permutation(32).reshape(files, -1).tolist()
    for number, own in enumerate(order):
        frames = [
            at(2.5 * (n % 8), n // 8, RescaleSlope=str(n + 1), RescaleIntercept="3") for n in own
        ]
        pixels = array.reshape(32, 6, 5)[own]
        save(enhanced(pixels, frames), tmp_path / "many" / f"{number}.dcm")
    path = tmp_path / "many"
    expected = array * (np.arange(32).reshape(4, 8, 1, 1) + 1) + 3
    assert open_image(path).axes == "XYZT"
    assert np.array_equal(whole(path), expected.T)
    assert open_view(path).count == 32
    for number in (0, 9, 31):
        plane = read_image(Plane(path, number))[0]
        assert np.array_equal(plane, expected.reshape(32, 6, 5)[number].T), "time before depth"
    affine = open_image(path).affine
    assert affine is not None
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), (1, 2, 2.5))
    one = open_source(path).pixels((slice(1, 3), 4, slice(2, 5), 3))
    assert np.array_equal(one, expected.T[1:3, 4, 2:5, 3])


def test_compressed_frames_are_decoded_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = numbers(4, 9, 8)
    for table in (True, False):
        file = head(array, "1.2.840.10008.1.2.4.80", FrameTime="40")
        frames = [imagecodecs.jpegls_encode(plane) for plane in array]
        file.PixelData = encapsulate(frames, fragments_per_frame=2 if table else 1, has_bot=table)
        file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
        path = save(file, tmp_path / f"{table}.dcm")
        assert np.array_equal(whole(path), array)
    stored = open_image(path)
    assert (stored.axes, stored.affine, stored.spacing) == ("TYX", None, {})
    done, decode = [], imagecodecs.jpegls_decode
    monkeypatch.setattr(imagecodecs, "jpegls_decode", lambda d: done.append(d) or decode(d))
    assert np.array_equal(stored.pixels((2, slice(3), slice(None))), array[2, :3])
    assert done == [frames[2] + bytes(len(frames[2]) % 2)]


@pytest.mark.parametrize(
    "when",
    [
        lambda t, z: {"TemporalPositionIdentifier": t + 1},
        lambda t, z: {"TriggerTime": str(9 * t)},
        lambda t, z: {"AcquisitionTime": f"10{t:02d}{z:02d}.5", "AcquisitionDate": "20200101"},
        lambda t, z: {"ContentTime": f"10{t:02d}{z:02d}.5", "ContentDate": "20200101"},
        lambda t, z: {"AcquisitionNumber": 12 + t},
        lambda t, z: {},
    ],
)
def test_times_are_an_axis(tmp_path: Path, when: Callable[[int, int], dict[str, Any]]) -> None:
    array = numbers(3, 4, 6, 5)
    folder = tmp_path / "s"
    for t in range(3):
        series(folder, array[t], each=lambda z, t=t: when(t, z), start=10 * t)
    assert open_image(folder).axes == "XYZT"
    assert np.array_equal(whole(folder), array.T)
    label = numbers(3, 4, 6, 5, seed=1).reshape(12, 6, 5).transpose(0, 2, 1)
    written = write_label(
        tmp_path / "l", np.moveaxis(label.reshape(3, 4, 5, 6), 0, -1).transpose(1, 2, 0, 3), folder
    )
    assert np.array_equal(read_label(written, 2, folder)[0], label)


def test_no_pixel_size_is_none(tmp_path: Path) -> None:
    """In any unit, and of what has no place neither: the number of a slice is its order."""
    array = numbers(3, 6, 5)
    folder = series(tmp_path / "a", array, PixelSpacing=None)
    stored = open_image(folder)
    assert (stored.axes, stored.affine, stored.spacing) == ("ZYX", None, {"Z": 3000})
    assert np.array_equal(whole(folder), array)
    assert read_image(Plane(folder, 1))[1].get("spacing") is None
    assert np.array_equal(read_image(folder, 3)[0], array)
    other = series(tmp_path / "b", array, ImagePositionPatient=None)
    stored = open_image(other)
    assert (stored.axes, stored.affine, stored.spacing) == ("QYX", None, {"Y": 2000, "X": 1000})
    assert np.array_equal(whole(other), array)
    alone = save(head(array[0]), tmp_path / "c.dcm")
    assert (open_image(alone).axes, open_image(alone).spacing) == ("YX", {})
    assert np.array_equal(whole(alone), array[0])
    for image, label in ((folder, array), (other, array), (alone, array[0])):
        written = write_label(tmp_path / "l", label, image)
        assert np.array_equal(read_label(written, 2, image)[0], label)


def mixed(folder: Path, *kinds: dict[str, Any]) -> Path:
    """Series of four slices each at the same places."""
    for number, kind in enumerate(kinds):
        series(folder, numbers(4, 6, 5, seed=number), start=10 * number, **kind)
    return folder


def b_value(number: int) -> dict[str, Any]:
    return {"DiffusionBValue": float(number)}


SEVERAL = {
    "echo time 4.6 ms": [{"EchoTime": "4.6"}, {"EchoTime": "9.2"}],
    "b-value 1000 s/mm²": [b_value(0), b_value(1000)],
    "magnitude": [{"ImageType": ["ORIGINAL", "PRIMARY", k]} for k in "MP"],
    "phase": [{"ImageType": ["ORIGINAL", "PRIMARY", f"{k}_FFE", k]} for k in "MP"],
    "flip angle 15": [{"FlipAngle": "5"}, {"FlipAngle": "15"}],
    "sagittal": [{}, place((0, 0, 0), SAGITTAL)],
    "'T2'": [{"SeriesInstanceUID": f"1.{n}", "SeriesDescription": f"T{n}"} for n in (1, 2)],
    "pixels of 3 x 3 mm": [{}, {"PixelSpacing": [3, 3]}],
}


@pytest.mark.parametrize("what", SEVERAL)
def test_several_series_are_listed_and_each_can_be_named(tmp_path: Path, what: str) -> None:
    if what == "sagittal":
        folder = mixed(tmp_path / "s", {})
        for number in range(3):
            tags = {**place((4.0 * number, 0, 0), SAGITTAL), "InstanceNumber": number + 50}
            save(head(numbers(6, 5, seed=number), **tags), folder / f"other{number}.dcm")
    else:
        folder = mixed(tmp_path / "s", *SEVERAL[what])
    asked: list[Callable[[], Any]] = [
        lambda: open_image(folder),
        lambda: open_source(folder),
        lambda: open_view(folder),
        lambda: images_in(folder),
    ]
    lines = set()
    for ask in asked:
        with pytest.raises(DataError, match="2 DICOM series: s/series0 ") as caught:
            ask()
        lines.add(str(caught.value))
    (line,) = lines
    assert what in line
    assert line.endswith("expected one: name one of them, or put each into a folder of its own")
    assert np.array_equal(whole(folder / "series0"), numbers(4, 6, 5, seed=0).T)
    if what != "sagittal":
        assert np.array_equal(whole(folder / "series1"), numbers(4, 6, 5, seed=1).T)
    (first, *_) = images_in(folder / "series0")
    assert np.array_equal(read_image(first["image"])[0], numbers(4, 6, 5)[0].T)
    with pytest.raises(DataError, match="no series 2: s/series0"):
        open_image(folder / "series2")


def test_localizers_are_several_series(tmp_path: Path) -> None:
    for number, along in enumerate((AXIAL, SAGITTAL, (1.0, 0, 0, 0, 0, -1))):
        save(head(numbers(6, 5), **place((0, 0, 0), along)), tmp_path / "s" / f"{number}.dcm")
    with pytest.raises(DataError, match=r"3 DICOM series: s/series0 \(1 slice, axial\), .*coronal"):
        open_image(tmp_path / "s")


BROKEN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a gap": (
        r"a gap of 6 mm after 00\d\.dcm, where others are 3 mm apart: 1 of 6 slices missing",
        lambda f: series(f, numbers(5, 6, 5), (0, 3, 9, 12, 15)),
    ),
    "uneven": (
        "slices 3 to 7.5 mm apart; expected slices at one distance",
        lambda f: series(f, numbers(4, 6, 5), (0, 3, 6, 13.5)),
    ),
    "tilt": (
        "slices tilted by 15 degrees against their direction",
        lambda f: series(
            f,
            numbers(4, 6, 5),
            each=lambda z: place((0, 3 * z * np.tan(np.radians(15)), 3 * z)),
        ),
    ),
    "shifted": (
        "slices shifted against each other by up to 9 mm",
        lambda f: series(
            f, numbers(5, 6, 5), each=lambda z: place((9 * (z == 2), 0, 3 * z), spacing=(1, 1))
        ),
    ),
    "incomplete times": (
        "1 to 2 slices at each of 4 places; expected equally many",
        lambda f: (series(f, numbers(4, 6, 5)), series(f, numbers(1, 6, 5), start=9)),
    ),
    "twice": (
        "the same place as .*, and nothing says which comes first",
        lambda f: [series(f, numbers(2, 6, 5), InstanceNumber=1, start=n) for n in (0, 5)],
    ),
    "mosaic": (
        "a DICOM mosaic, slices side by side in one picture",
        lambda f: series(f, numbers(2, 6, 5), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]),
    ),
    "colour": (
        "a DICOM image in colour",
        lambda f: series(f, numbers(2, 6, 5), PhotometricInterpretation="PALETTE COLOR"),
    ),
    "slide": (
        "tiles of a larger picture",
        lambda f: series(f, numbers(2, 6, 5), TotalPixelMatrixColumns=50),
    ),
    "beside others": (
        "2 DICOM files of a series beside other images, as a.tif",
        lambda f: (series(f, numbers(2, 6, 5)), tifffile.imwrite(f / "a.tif", numbers(6, 5))),
    ),
    "nothing but a report": (
        r"DICOM without pixels \(Basic Text SR Storage\); expected a DICOM image",
        lambda f: report(f / "r.dcm"),
    ),
    "no order": (
        "2 slices without a place in space, and without a number each",
        lambda f: series(f, numbers(2, 6, 5), ImagePositionPatient=None, InstanceNumber=None),
    ),
}


def report(path: Path) -> Path:
    file = head(numbers(2, 2), SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    for name in ("PixelData", "Rows", "Columns"):
        delattr(file, name)
    return save(file, path)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    found, make = BROKEN[name]
    make(tmp_path / "s")
    assert is_image(tmp_path / "s")
    lines = set()
    asked: list[Callable[[Path], Any]] = [open_image, open_source, open_view]
    for ask in asked:
        with pytest.raises(DataError, match=found) as caught:
            ask(tmp_path / "s")
        lines.add((caught.value.where, caught.value.found))
    assert len(lines) == 1
    assert str(tmp_path / "s") in str(caught.value)


def test_the_page_tells_these_lines(root: Path) -> None:
    page = (root / "docs" / "reference" / "files.md").read_text()
    for found, _ in BROKEN.values():
        assert re.search(found, page), found


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [3, 140, 400, -5])
def test_a_file_cut_short_is_named(tmp_path: Path, size: int) -> None:
    folder = series(tmp_path / "s", numbers(3, 6, 5))
    cut(folder / "001.dcm", size)
    for path in (folder, folder / "001.dcm"):
        for ask in (open_image, open_source):
            with pytest.raises(
                UnreadableError, match=r"001\.dcm: (cannot be read|no DICOM)"
            ) as caught:
                ask(path)
            assert "site-packages" not in str(caught.value)
    alone = tmp_path / "alone"
    alone.mkdir()
    (folder / "001.dcm").rename(alone / "001.dcm")
    with pytest.raises(UnreadableError, match=r"001\.dcm: (cannot be read|no DICOM)"):
        images_in(alone)


def test_a_broken_code_is_named_by_windows_too(tmp_path: Path) -> None:
    file = FILES["jpeg 2000"]()
    data = bytearray(file.PixelData)
    data[40:] = bytes(len(data) - 40)
    file.PixelData = bytes(data)
    path = save(file, tmp_path / "a.dcm")
    for ask in (open_image, open_source):
        stored = ask(path)
        with pytest.raises(UnreadableError, match=r"a\.dcm: cannot be read \("):
            stored.pixels((slice(None),) * 3)
    cut(save(FILES["jpeg-ls"](), path), -20)
    with pytest.raises(
        UnreadableError, match=r"a\.dcm: cannot be read \(it ends \d+ bytes too early"
    ):
        whole(path)
    file = head(numbers(6, 5), "1.2.840.10008.1.2.4.102", **place((0, 0, 0)))
    file.PixelData = encapsulate([b"mpeg"])
    file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
    save(file, path)
    with pytest.raises(DataError, match="pixels compressed as MPEG-4"):
        open_image(path).pixels((slice(None),) * 3)


def test_a_header_that_claims_too_much_is_refused_at_once(tmp_path: Path) -> None:
    for file in (FILES["jpeg-ls"](), FILES["u1"]()):
        file.NumberOfFrames = 10**9
        path = save(file, tmp_path / "a.dcm")
        with pytest.raises(UnreadableError, match=r"\d+ of \d{10,} bytes of pixels"):
            open_image(path)


@pytest.mark.parametrize("name", ["jpeg", "lossless jpeg", "jpeg-ls", "jpeg 2000", "rle"])
def test_codes_of_another_size_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = FILES[name]()
    file.Rows, file.Columns = 90, 80
    path = save(file, tmp_path / "a.dcm")
    for decoder in ("jpeg", "jpegls", "jpeg2k"):
        monkeypatch.delattr(imagecodecs, f"{decoder}_decode")
    said = "decodes to 72" if name == "rle" else "its code says 9x8, its header 90x80"
    with pytest.raises(UnreadableError, match=said):
        whole(path)


def test_files_are_called_as_the_user_calls_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        folder = series(tmp_path / name / "s", numbers(3, 6, 5))
        cut(folder / "001.dcm", 300)
        monkeypatch.chdir(tmp_path / name)
        with pytest.raises(UnreadableError) as caught:
            open_image(Path("s"))
        assert caught.value.where == "s/001.dcm"
        (folder / "001.dcm").unlink()
    assert open_image(Path("s")).shape == (5, 6, 2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableError, match="s: no such file"):
        open_image(Path("s"))


def test_a_series_is_no_folder_of_images_to_annotate(tmp_path: Path) -> None:
    pytest.importorskip("monailabel")
    from overtile.pipelines.label.launch import prepare

    folder = series(tmp_path / "s", numbers(3, 6, 5))
    with pytest.raises(DataError, match="s: one image; expected a folder of images"):
        prepare(folder, tmp_path / "work")


def test_files_without_pixels_are_left_out(tmp_path: Path) -> None:
    array = numbers(3, 6, 5)
    folder = series(tmp_path / "s", array)
    report(folder / "r.dcm")
    (folder / "README.txt").write_text("mine")
    assert np.array_equal(whole(folder), array.T)
    (remark,) = open_image(folder).remarks
    assert remark == "left out: r.dcm, which has no pixels (Basic Text SR Storage)"
    with pytest.raises(UnreadableError, match=r"r\.dcm: DICOM without pixels \(Basic Text SR"):
        open_image(folder / "r.dcm")


def test_a_folder_of_single_images_is_read_file_by_file(tmp_path: Path) -> None:
    """Whether its files have a suffix, and whatever lies beside them."""
    folder, array = tmp_path / "s", numbers(3, 6, 5)
    for number, name in enumerate(("b.dcm", "IM1", "1.2.840.7")):
        tags = {"SeriesInstanceUID": f"1.2.{number}", **place((0, 0, 0))}
        save(head(array[number], **tags), folder / name)
    (folder / "notes.txt").write_text("mine")
    assert not is_image(folder)
    found = [item["image"] for item in images_in(folder)]
    assert [Path(path).name for path in found] == ["1.2.840.7", "IM1", "b.dcm"]
    for path, number in zip(found, (2, 1, 0), strict=True):
        assert np.array_equal(read_image(path)[0], array[number].T)
    Image.fromarray(numbers(6, 5, dtype=np.uint8)).save(folder / "a.png")
    assert len(images_in(folder)) == 4


def test_the_result_of_a_lone_file_has_its_name(tmp_path: Path) -> None:
    path = save(head(numbers(6, 5), **place((0, 0, 0))), tmp_path / "case" / "a.dcm")
    assert images_in(path.parent) == [{"image": str(path)}]
    assert is_image(path.parent), "beside other folders it is an image"
    assert images_in(tmp_path) == [{"image": str(path.parent)}]
    tifffile.imwrite(tmp_path / "case" / "b.tif", numbers(6, 5))
    assert [Path(i["image"]).name for i in images_in(path.parent)] == ["a.dcm", "b.tif"]


def test_every_header_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = numbers(20, 6, 5)
    folder = series(tmp_path / "s", array)
    headers, pixels = [], []
    inner, values = dicom.headers._frames_of, dicom.pixels._values
    monkeypatch.setattr(dicom.headers, "_frames_of", lambda f: headers.append(f) or inner(f))
    monkeypatch.setattr(dicom.pixels, "_values", lambda s, n: pixels.append(s) or values(s, n))
    items = images_in(folder)
    for item, plane in zip(items, array, strict=True):
        assert np.array_equal(read_image(item["image"])[0], plane.T)
    source = open_source(folder)
    for _ in range(2):
        source.pixels((slice(2), slice(3), slice(None)))
    assert len(headers) == 20
    assert len(pixels) == 40, "of a plane its own; windows keep what they decoded"


def test_a_folder_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    array = numbers(4, 6, 5)
    folder = series(tmp_path / "s", array[:3])
    for past in (False, True):  # changed just now, or long ago
        if past:
            os.utime(folder, (1, 1))
        assert whole(folder).shape == (5, 6, 3)
        save(head(array[3], **place((-5, 7, 9)), InstanceNumber=4), folder / "new.dcm")
        assert np.array_equal(whole(folder), array.T)
        (folder / "new.dcm").unlink()
        assert whole(folder).shape == (5, 6, 3)
    os.utime(folder, (1, 1))
    stored = open_image(folder)
    series(folder, array[:3] + 1)  # over the same files
    with pytest.raises(UnreadableError, match="changed since its header was read; try again"):
        stored.pixels((slice(None),) * 3)
    assert np.array_equal(whole(folder), array[:3].T + 1)


def test_cases_of_the_field() -> None:
    made, found = cases() / "made", cases() / "found"
    times = open_image(found / "dicom-4d-series" / "001")
    assert (times.axes, times.shape) == ("XYZT", (64, 64, 4, 2))
    assert times.affine is not None
    assert np.allclose(np.linalg.norm(times.affine[:3, :3], axis=0), (3, 3, 3.6), atol=1e-3)
    folder = found / "dicom-enhanced-several-files" / "XA10"
    several = open_image(folder)
    assert (several.axes, several.shape, open_view(folder).count) == ("XYZT", (64, 64, 6, 4), 24)
    assert several.affine is not None
    assert np.allclose(np.linalg.norm(several.affine[:3, 2]), 2.4)
    array = whole(folder)
    for time in range(4):
        pixels = as_gdcm(folder / f"6_{time + 1}.dcm")[0]
        assert np.array_equal(array[..., time], pixels.T)
    with pytest.raises(DataError, match=r"a gap of 4 mm after 002\.dcm"):
        open_image(made / "dicom_gap" / "s")
    images = made / "single_dicoms" / "images"
    assert [Path(item["image"]).name for item in images_in(images)] == [
        "x0.dcm",
        "x1.dcm",
        "x2.dcm",
    ]
