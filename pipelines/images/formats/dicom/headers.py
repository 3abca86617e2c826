"""What the header of a DICOM file says, read once: of every frame where it lies and what it is.

Names of attributes are those of the standard (PS3.6). What an enhanced file says of a frame is
looked for in the frame's functional groups, in those that all frames share, then at the top
(PS3.3 C.7.6.16).
"""

from __future__ import annotations

import struct
import warnings
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import UnreadableError
from overtile.pipelines.images.stored import SKIP, unreadable

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_PIXELS = {0x7FE00010: "", 0x7FE00008: "f4", 0x7FE00009: "f8"}  # integers, or floats
_COMPRESSED = 0xFFFFFFFF  # as the length of pixels
_DEFLATED = "1.2.840.10008.1.2.1.99"
_COMPONENTS = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary"}
_MARKS = (
    ("echo time", ("EffectiveEchoTime", "EchoTime"), " ms"),
    ("inversion time", ("InversionTimes", "InversionTime"), " ms"),
    ("flip angle", ("FlipAngle",), "°"),
    ("b-value", ("DiffusionBValue",), " s/mm²"),
    ("gradient", ("DiffusionGradientOrientation",), ""),
    ("tube voltage", ("KVP",), " kV"),
    ("segment", ("ReferencedSegmentNumber",), ""),
)
"""What tells frames at one place apart, besides time: name, attributes, unit."""
_PRIVATE_B = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C),
    ("Philips Imaging DD 001", 0x2001, 0x03),
    ("GEMS_PARM_01", 0x0043, 0x39),
)
"""b-values outside of the standard: creator of the private block, group, element in it."""
_THICK = ("SpacingBetweenSlices", "SliceThickness")
_TIMES = (
    ("TemporalPositionIndex",),
    ("TemporalPositionIdentifier",),
    ("TemporalPositionTimeOffset",),
    ("NominalCardiacTriggerDelayTime",),
    ("TriggerTime",),
    ("FrameAcquisitionDateTime",),
    ("AcquisitionDateTime",),
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("AcquisitionNumber",),
    ("InstanceNumber",),
)
"""What may say which of several frames at one place came first, the surest first."""


@dataclass(frozen=True)
class Stack:
    """How the pixels of a file are stored.

    Attributes:
        file: that holds them.
        stamp: changes with the file.
        syntax: unique identifier of the transfer syntax.
        start: byte at which they begin; None in a file that is deflated as a whole.
        size: in bytes; None where frames are compressed.
        kind: ``f4`` and ``f8`` of floats; empty for integers.
        order: of their bytes, as NumPy writes it.
        count: of the frames.
        shape: rows and columns of a frame.
        allocated: bits a pixel.
        stored: bits of them that hold its value.
        high: the highest of these, from 0.
        signed: whether the value is.
        inverted: whether low values are bright.
        offsets: bytes at which compressed frames start, where the header says so.
    """

    file: Path
    stamp: tuple[int, ...]
    syntax: str
    start: int | None
    size: int | None
    kind: str
    order: str
    count: int
    shape: tuple[int, int]
    allocated: int
    stored: int
    high: int
    signed: bool
    inverted: bool
    offsets: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a DICOM file.

    Attributes:
        stack: the pixels of its file.
        number: in the file, from 0.
        series: unique identifier of its series.
        title: description of the series, for people.
        fault: why it is no slice of grey values; empty for none.
        position: centre of the first pixel, in millimetres (left, posterior, superior).
        orientation: directions along a row and along a column ``[2, 3]``.
        spacing: millimetres between rows, and between columns.
        thickness: millimetres from slice to slice, or of one, where told.
        scale: slope and intercept from stored to real values.
        table: of real values instead, and the stored value of its first entry.
        marks: what else tells it from others at its place, by names for people.
        times: by which frames at one place are ordered, as `_TIMES`; empty where not told.
        instance: number in its series.
        timed: whether the frames of the file follow each other in time.
    """

    stack: Stack
    number: int
    series: str
    title: str
    fault: str
    position: NDArray[np.float64] | None
    orientation: NDArray[np.float64] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    scale: tuple[float, float]
    table: tuple[int, NDArray[Any]] | None
    marks: Mapping[str, str]
    times: tuple[tuple[float | str, ...], ...]
    instance: float
    timed: bool


def is_dicom(file: Path) -> bool:
    """Whether a file says of itself that it is DICOM, and is no directory of others."""
    if file.name == "DICOMDIR":
        return False
    try:
        with file.open("rb") as start:
            return start.read(132)[128:] == b"DICM"
    except OSError:
        return False


def stamp_of(file: Path) -> tuple[int, ...]:
    """Size and times of change of a file."""
    seen = file.stat()
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def frames_of(file: Path) -> list[Frame] | str:
    """The frames of a file from its header; of one without pixels, such as a report, what it is.

    Raises:
        UnreadableError: if the header is broken, or the file ends before its pixels do.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pydicom")  # of what it reads all the same
            return _frames_of(file)
    except UnreadableError:
        raise
    except Exception as error:  # whatever pydicom makes of a broken header
        raise unreadable(file, error) from error


def _frames_of(file: Path) -> list[Frame] | str:
    import pydicom

    stamp = stamp_of(file)
    with file.open("rb") as source:
        head = pydicom.dcmread(source, stop_before_pixels=True, force=True)
        place = _pixels_at(source)
    syntax = str(head.file_meta.get("TransferSyntaxUID", ""))
    if syntax == _DEFLATED and "PixelData" in (whole := pydicom.dcmread(file)):
        place = None, len(whole.PixelData), "", "<"
    top = _elements(head)
    tags = Tags(top)
    rows, columns = tags.integer("Rows"), tags.integer("Columns")
    if place is None or not rows or not columns:
        return _without_pixels(file, head, bool(rows))
    allocated = tags.integer("BitsAllocated", 16)
    stored = tags.integer("BitsStored", allocated)
    stack = Stack(
        file,
        stamp,
        syntax,
        *place,
        count=max(tags.integer("NumberOfFrames", 1), 1),
        shape=(rows, columns),
        allocated=allocated,
        stored=stored,
        high=tags.integer("HighBit", stored - 1),
        signed=tags.integer("PixelRepresentation") == 1,
        inverted=tags.text("PhotometricInterpretation") == "MONOCHROME1",
        offsets=tuple(np.frombuffer(tags.raw("ExtendedOffsetTable"), "<u8").tolist()),
    )
    fault = _fault(tags)
    _check_length(stack, fault)
    shared = [_groups(one) for one in tags.items("SharedFunctionalGroupsSequence")[:1]]
    own = [_groups(one) for one in tags.items("PerFrameFunctionalGroupsSequence")]
    offsets = tags.numbers("GridFrameOffsetVector")
    frames = []
    for number in range(stack.count):
        maps = [*own[number : number + 1], *shared, top]
        placed = len(own) == stack.count or len(offsets) == stack.count or stack.count == 1
        frames.append(_frame(Tags(ChainMap(*maps)), stack, number, fault, placed, offsets))
    return frames


def _pixels_at(source: Any) -> tuple[int | None, int | None, str, str] | None:
    """Where pixels begin after the header that was just read: start, bytes, kind, byte order."""
    begin, start = source.tell(), source.read(12)
    if len(start) < 12:
        return None
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", start[:4])
        if (tag := group << 16 | element) in _PIXELS:
            ahead = 12 if start[4:6].isalpha() else 8  # with its type, or without
            (size,) = struct.unpack(f"{order}I", start[ahead - 4 : ahead])
            return begin + ahead, None if size == _COMPRESSED else size, _PIXELS[tag], order
    return None


def _without_pixels(file: Path, head: Any, rows: bool) -> str:
    from pydicom.uid import UID

    top = Tags(_elements(head))
    identifier = top.text("SOPClassUID") or str(head.file_meta.get("MediaStorageSOPClassUID", ""))
    if not identifier and not rows:
        raise UnreadableError(file, "no DICOM header in it", "an intact DICOM file", SKIP)
    name = UID(identifier).name
    if rows or "Image Storage" in name:
        found = f"cannot be read (it ends before its pixels: {name})"
        raise UnreadableError(file, found, "an intact DICOM file", SKIP)
    return name


def _check_length(stack: Stack, fault: str) -> None:
    """Refuse what is cut short, before room is made for what its header claims."""
    there = stack.stamp[0] - (stack.start or 0)
    wanted = -(-stack.count * stack.shape[0] * stack.shape[1] * stack.allocated // 8)
    if stack.start is None and stack.size is not None:
        there = stack.size
    if stack.size is None or fault:  # a frame has a length of eight bytes before it
        wanted = 8 * stack.count
    if there < wanted:
        found = f"cannot be read ({there} of {wanted} bytes of pixels)"
        raise UnreadableError(stack.file, found, "an intact DICOM file", SKIP)


def _fault(tags: Tags) -> str:
    """Why an image is no slice of grey values; empty for one that is."""
    if tags.integer("SamplesPerPixel", 1) > 1 or "PALETTE" in tags.text(
        "PhotometricInterpretation"
    ):
        return "a DICOM image in colour"
    if "MOSAIC" in tags.text("ImageType").split("\\"):
        return "a DICOM mosaic, slices side by side in one picture"
    if tags.integer("TotalPixelMatrixColumns") > tags.integer("Columns"):
        return "DICOM tiles of a larger picture"
    return ""


def _frame(
    tags: Tags, stack: Stack, number: int, fault: str, placed: bool, offsets: list[float]
) -> Frame:
    position = tags.vector("ImagePositionPatient", 3) if placed else None
    orientation = tags.vector("ImageOrientationPatient", 6) if placed else None
    if orientation is not None:
        orientation = orientation.reshape(2, 3)
        if position is not None and offsets:
            ahead = offsets[number] - offsets[0]
            position = position + ahead * np.cross(*orientation)
    spacing = tags.numbers("PixelSpacing")
    slope, intercept = tags.numbers("RescaleSlope"), tags.numbers("RescaleIntercept")
    instance = tags.numbers("InstanceNumber")
    return Frame(
        stack,
        number,
        tags.text("SeriesInstanceUID"),
        tags.text("SeriesDescription"),
        fault,
        position,
        orientation,
        (spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None,
        next((abs(n) for name in _THICK for n in tags.numbers(name) if n), None),
        (slope[0] if slope else 1.0, intercept[0] if intercept else 0.0),
        _table(tags, stack),
        _marks(tags),
        tuple(tuple(v for name in names for v in tags.values(name)) for names in _TIMES),
        instance[0] if instance else 0.0,
        bool(tags.numbers("FrameTime") or tags.numbers("FrameTimeVector")),
    )


def _marks(tags: Tags) -> dict[str, str]:
    found = {"type": _component(tags)}
    for name, attributes, unit in _MARKS:
        numbers = next((n for a in attributes if (n := tags.numbers(a))), [])
        if name == "b-value" and not numbers:
            numbers = tags.private(_PRIVATE_B)[:1]
        found[name] = " ".join(f"{n:.4g}" for n in numbers) + unit if numbers else ""
    found["image type"] = tags.text("ImageType")
    return {name: mark for name, mark in found.items() if mark}


def _component(tags: Tags) -> str:
    """Magnitude, phase, real or imaginary part of an MR image."""
    told = tags.text("ComplexImageComponent").lower()
    if told in _COMPONENTS.values():
        return told
    if tags.text("Modality") != "MR":
        return ""
    parts = (value.split("_")[0] for value in tags.text("ImageType").split("\\")[2:])
    return next((_COMPONENTS[part] for part in parts if part in _COMPONENTS), "")


def _table(tags: Tags, stack: Stack) -> tuple[int, NDArray[Any]] | None:
    """The modality LUT (PS3.3 C.11.1): stored value of the first entry, and all entries."""
    for item in tags.items("ModalityLUTSequence")[:1]:
        inside = Tags(_elements(item))
        told, data = inside.raw("LUTDescriptor"), inside.raw("LUTData")
        count, first, bits = np.frombuffer(told, f"{stack.order}u2")[:3].tolist()
        first -= 2**16 if stack.signed and first >= 2**15 else 0
        entry = "u1" if bits <= 8 and len(data) <= (count or 2**16) + 1 else f"{stack.order}u2"
        return first, np.frombuffer(data, entry)[: count or 2**16]
    return None


def _elements(dataset: Any) -> dict[int, Any]:
    return {int(tag): dataset.get_item(tag) for tag in dataset.keys()}  # noqa: SIM118 (converts)


def _groups(item: Any) -> dict[int, Any]:
    """What the functional groups of a frame say, all in one."""
    found: dict[int, Any] = {}
    for tag, element in _elements(item).items():
        if _kind(element) == "SQ":
            for inner in list(item[tag].value)[:1]:
                found |= _groups(inner) | _elements(inner)
    return found


def _kind(element: Any) -> str:
    """The type of a value (PS3.5 6.2), which files of implicit types leave to the dictionary."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    if element.VR in (None, "UN") and dictionary_has_tag(element.tag):
        return dictionary_VR(element.tag)
    return str(element.VR)


class Tags:
    """Values of a data set by the names of their attributes, from the bytes of the file.

    pydicom converts and checks a value when it is asked for, and warns of much that files of the
    field are read with all the same.
    """

    def __init__(self, elements: Mapping[int, Any]) -> None:
        self._elements = elements

    def _element(self, name: str | int) -> Any:
        from pydicom.datadict import tag_for_keyword

        return self._elements.get(name if isinstance(name, int) else tag_for_keyword(name) or 0)

    def items(self, name: str) -> list[Any]:
        """The items of a sequence."""
        from pydicom.dataelem import DataElement_from_raw

        element = self._element(name)
        if element is None:
            return []
        return list((DataElement_from_raw(element) if element.is_raw else element).value or [])

    def raw(self, name: str | int) -> bytes:
        """The bytes of a value; empty for none."""
        element = self._element(name)
        return element.value if element is not None and isinstance(element.value, bytes) else b""

    def text(self, name: str | int) -> str:
        """A text; several have backslashes between them."""
        told = self.raw(name)
        try:
            found = told.decode()
        except UnicodeDecodeError:
            found = told.decode("latin-1")
        return "".join(c for c in found if c.isprintable()).strip()

    def numbers(self, name: str | int) -> list[float]:
        """The numbers of a value; none where it is no number."""
        element, told = self._element(name), self.raw(name)
        if (letter := _BINARY.get(_kind(element)) if told else None) is not None:
            order = "<" if element.is_little_endian else ">"
            return [float(n) for n in np.frombuffer(told, order + letter)]
        try:
            return [float(part) for part in told.decode("latin-1").strip("\0 ").split("\\")]
        except ValueError:
            return []

    def values(self, name: str) -> list[float | str]:
        """Its numbers; of a date or a time its text."""
        text = self.text(name)
        timed = bool(text) and _kind(self._element(name)) in ("DA", "TM", "DT")
        return [text] if timed else [*self.numbers(name)]

    def integer(self, name: str, otherwise: int = 0) -> int:
        """A whole number."""
        return next((int(n) for n in self.numbers(name)), otherwise)

    def vector(self, name: str, size: int) -> NDArray[np.float64] | None:
        """Finite numbers of this size; None for anything else."""
        found = np.array(self.numbers(name))
        return found if found.size == size and np.isfinite(found).all() else None

    def private(self, places: tuple[tuple[str, int, int], ...]) -> list[float]:
        """The number that the first of these has: creator, group, element."""
        for creator, group, element in places:
            for block in range(0x10, 0x100):
                if (group << 16 | block) not in self._elements:
                    break
                if self.text(group << 16 | block) == creator:
                    return self.numbers(group << 16 | block << 8 | element)
        return []
