"""Decode one frame of a DICOM file, without the others."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, size_text
from overtile.pipelines.images.formats.dicom.folder import forget
from overtile.pipelines.images.formats.dicom.headers import Frame, Stack, stamp_of
from overtile.pipelines.images.stored import unreadable

_JPEG = "1.2.840.10008.1.2.4."
_DECODERS = {
    "1.2.840.10008.1.2.5": "dicomrle",
    **{_JPEG + last: "jpeg" for last in ("50", "51", "57", "70")},
    **{_JPEG + last: "jpegls" for last in ("80", "81")},
    **{_JPEG + last: "jpeg2k" for last in ("90", "91", "201", "202", "203")},
    **{_JPEG + last: "jpegxl" for last in ("110", "111", "112")},
}
"""Of imagecodecs, by the transfer syntax."""
_FRAMES = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a picture in a JPEG
_ITEM = 0xFFFEE000


def real_dtype(frames: list[Frame]) -> np.dtype[Any]:
    """Of the values of these frames: as stored, or float where they are scaled."""
    kinds = {_stored_dtype(frame.stack) for frame in frames}
    kinds |= {frame.table[1].dtype.newbyteorder("=") for frame in frames if frame.table}
    scaled = any(frame.scale != (1.0, 0.0) and not frame.table for frame in frames)
    if scaled:
        kinds.add(np.dtype(np.float32))
    return np.result_type(*kinds)


def decoded(frame: Frame, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The real values of a frame ``[rows, columns]``.

    Raises:
        UnreadableError: if they are broken.
        DataError: if they are compressed in a way that is not read.
    """
    stack = frame.stack
    try:
        if stamp_of(stack.file) != stack.stamp:
            forget(stack.file.parent)
            raise ValueError("it was changed since its header was read; try again")
        values = _values(stack, frame.number)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever their formats suggest
        part = f"frame {frame.number}" if stack.count > 1 else ""
        raise unreadable(stack.file, error, part) from error
    if frame.table is not None:
        first, entries = frame.table
        values = entries[np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)]
    elif frame.scale != (1.0, 0.0):
        values = values * frame.scale[0] + frame.scale[1]
    return values.astype(dtype, copy=False)


def _stored_dtype(stack: Stack) -> np.dtype[Any]:
    if stack.kind:
        return np.dtype(stack.kind)
    size = next(n for n in (1, 2, 4, 8) if stack.allocated <= 8 * n)
    return np.dtype(f"{'i' if stack.signed else 'u'}{size}")


def _values(stack: Stack, number: int) -> NDArray[Any]:
    """The stored values of a frame, with the sign that they have."""
    dtype = _stored_dtype(stack)
    array = _plain(stack, number) if stack.size is not None else _compressed(stack, number)
    if stack.kind:
        return array
    if array.shape not in (stack.shape, (stack.shape[0] * stack.shape[1],)):
        raise ValueError(f"it decodes to {size_text(array.shape)}, not {size_text(stack.shape)}")
    array = array.reshape(stack.shape).astype(dtype, copy=False)
    bits = dtype.itemsize * 8
    if stack.stored < bits:  # overlays may lie above the value, and below it
        array = array << (bits - 1 - stack.high) >> (bits - stack.stored)
    if stack.inverted:
        array = ~array if stack.signed else (2**stack.stored - 1) - array
    return array


def _plain(stack: Stack, number: int) -> NDArray[Any]:
    """A frame that is not compressed."""
    count = stack.shape[0] * stack.shape[1]
    first, last = (n * count * stack.allocated for n in (number, number + 1))
    begin, end = first // 8, -(-last // 8)
    if stack.start is None:
        data = _inflated(stack)[begin:end]
    else:
        with stack.file.open("rb") as source:
            source.seek(stack.start + begin)
            data = source.read(end - begin)
    if stack.allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[first % 8 :][:count].reshape(stack.shape)
    dtype = _stored_dtype(stack)
    if dtype.itemsize * 8 != stack.allocated:
        found = f"{stack.allocated} bits a pixel"
        raise DataError(stack.file, found, "1, 8, 16, 32 or 64", "convert it")
    return np.frombuffer(data, f"{stack.order}{dtype.str[1:]}").reshape(stack.shape)


@lru_cache(maxsize=2)
def _inflated(stack: Stack) -> bytes:
    """The pixels of a file that is deflated as a whole."""
    import pydicom

    pixels: bytes = pydicom.dcmread(stack.file).PixelData
    return pixels


def _compressed(stack: Stack, number: int) -> NDArray[Any]:
    import imagecodecs
    from pydicom.uid import UID

    name = _DECODERS.get(stack.syntax)
    if name is None:
        found = f"pixels compressed as {UID(stack.syntax).name}"
        raise DataError(stack.file, found, "JPEG, JPEG-LS, JPEG 2000 or RLE", "convert it")
    with stack.file.open("rb") as source:
        data = b""
        for start, size in _fragments(stack)[number]:
            source.seek(start)
            data += source.read(size)
            if source.tell() < start + size:  # decoders look for the rest for seconds
                raise ValueError(f"it ends {start + size - source.tell()} bytes too early")
    if name == "dicomrle":
        dtype = _stored_dtype(stack)
        return np.frombuffer(imagecodecs.dicomrle_decode(data, dtype), dtype)
    claimed = _claimed(data)
    if claimed is not None and claimed != stack.shape:
        raise ValueError(f"its code says {size_text(claimed)}, its header {size_text(stack.shape)}")
    return np.asarray(getattr(imagecodecs, f"{name}_decode")(data))


def _claimed(data: bytes) -> tuple[int, int] | None:
    """Rows and columns that a code of the JPEG family says, for which a decoder makes room."""
    at = 2  # after the marker that begins it
    while len(data) >= at + 22 and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0x51:  # of JPEG 2000: the sides of its grid, and where the picture begins
            right, bottom, left, top = struct.unpack_from(">4I", data, at + 6)
            return bottom - top, right - left
        if marker in _FRAMES:
            rows, columns = struct.unpack_from(">2H", data, at + 5)
            return rows, columns
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


@lru_cache(maxsize=64)
def _fragments(stack: Stack) -> list[list[tuple[int, int]]]:
    """Where the parts of every compressed frame lie: start and bytes (PS3.5 A.4)."""
    found: list[tuple[int, int]] = []
    assert stack.start is not None
    with stack.file.open("rb") as source:
        source.seek(stack.start)
        while len(head := source.read(8)) == 8:
            group, element, size = struct.unpack("<HHI", head)
            if (group << 16 | element) != _ITEM:
                break
            found.append((source.tell(), size))
            source.seek(size, 1)
        if not found:
            raise ValueError("no compressed frames in it")
        (table, size), *parts = found
        source.seek(table)
        told = np.frombuffer(source.read(size), "<u4").tolist()
    if stack.count == 1:
        return [parts]
    starts = list(stack.offsets or told)
    if len(starts) != stack.count:
        if len(parts) != stack.count:
            raise ValueError(f"{len(parts)} compressed parts for {stack.count} frames")
        return [[part] for part in parts]
    begin = parts[0][0] - 8
    ends = [*starts[1:], float("inf")]
    return [
        [part for part in parts if first <= part[0] - 8 - begin < last]
        for first, last in zip(starts, ends, strict=True)
    ]
