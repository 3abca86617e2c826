"""Pictures: PNG, JPEG, BMP and what else Pillow decodes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError
from overtile.pipelines.images.stored import (
    Format,
    Index,
    Spacing,
    Stored,
    check_claim,
    lossy_label,
    upright,
)

_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")  # of Pillow's modes
_KINDS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")  # of Pillow's
_DEEP = {2: 3, 4: 1, 6: 3}  # channels besides opacity, by PNG's number of what samples are
_DENSEST = 1100  # how many times smaller PNG makes pixels at the most
_ORIENTATION = 274  # of EXIF's tags
_LOSSY = ("JPEG", "MPO")
_DTYPES = {"1": bool, "I": np.int32, "F": np.float32}


class Picture(Format):
    """Pictures of one plane, grey or in colour."""

    name = "pictures (PNG, JPEG)"
    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".jp2", ".pgm", ".ppm")
    last = True
    written = ("png",)
    dtypes = "u1 u2"
    dims = (2,)

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """A file of another name, with such a picture inside."""
        from PIL import UnidentifiedImageError

        if not path.is_file():
            return False
        try:
            with _opened(path):
                return True
        except UnidentifiedImageError:
            return False

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it; as labels, an indexed picture gives its indices.

        Raises:
            DataError: for labels with losses, and for animations.
        """
        with _opened(path) as picture:
            mode, (width, height), kind = picture.mode, picture.size, picture.format
            frames = getattr(picture, "n_frames", 1)
            exif = kind != "PNG" or "exif" in picture.info  # or it is decoded to look for one
            orientation = picture.getexif().get(_ORIENTATION, 1) if exif else 1
        if labels and (kind in _LOSSY or _lossy_webp(path)):
            raise lossy_label(path, "WebP" if kind == "WEBP" else "JPEG")
        if frames > 1 and kind != "MPO":  # which has previews behind the picture
            found = f"{frames} pictures in one file"
            raise DataError(path, found, "one", "save it as a stack of TIFF")
        bits, colours = _png_header(path)
        deep = bits == 16 and colours in _DEEP  # Pillow would drop eight of them
        indexed = mode == "P" and labels
        target = None if mode in _GREY or indexed else "L" if mode == "LA" else "RGB"
        dtype = np.dtype(np.uint16 if mode.startswith("I;16") else _DTYPES.get(mode, np.uint8))
        channels = 3 if target == "RGB" else 1
        if deep:
            dtype, channels = np.dtype(np.uint16), _DEEP[colours]
        if kind == "PNG":
            check_claim(path, width * height * channels * bits // 8, _DENSEST)

        def pixels(index: Index) -> NDArray[Any]:
            if deep:
                array = _decoded(path)[..., :channels]
                return (array if channels > 1 else array[..., 0])[index]
            with _opened(path) as picture:
                return np.asarray(picture if target is None else picture.convert(target))[index]

        size = (height, width)
        axes, shape = ("YXS", (*size, channels)) if channels > 1 else ("YX", size)
        return upright(Stored(axes, shape, dtype, pixels), orientation)

    def write(
        self,
        path: Path,
        array: NDArray[Any],
        like: Stored | None = None,
        spacing: Spacing | None = None,
    ) -> None:
        """As the base class has it; a PNG knows no size of a pixel."""
        _pillow().fromarray(array).save(path)

    def label_suffix(self, name: str) -> str:
        """PNG, which is lossless."""
        return ".png"

    def holds(self, array: NDArray[Any]) -> bool:
        """Two axes and up to 16 bits."""
        return array.ndim == 2 and array.dtype.itemsize <= 2


FORMAT = Picture()


@cache
def _pillow() -> Any:
    """Pillow without its limit of pixels: what fits into memory is ours to decide.

    The limit is one for all threads, so it is lifted once.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return Image


def _opened(path: Path) -> Any:
    return _pillow().open(path, formats=_KINDS)


def _png_header(path: Path) -> tuple[int, int]:
    """Bits of a sample, and PNG's number of what they are; zeros for other files."""
    with path.open("rb") as file:
        start = file.read(26)
    return (start[24], start[25]) if start.startswith(b"\x89PNG") and len(start) == 26 else (0, 0)


def _lossy_webp(path: Path) -> bool:
    """Whether it is WebP with a picture in VP8; that without losses is in VP8L."""
    with path.open("rb") as file:
        if (start := file.read(12))[:4] + start[8:] != b"RIFFWEBP":
            return False
        while len(chunk := file.read(8)) == 8:
            if chunk[:4] in (b"VP8 ", b"VP8L"):
                return chunk[:4] == b"VP8 "
            size = int.from_bytes(chunk[4:], "little")
            file.seek(size + size % 2, 1)
    return False


def _decoded(path: Path) -> NDArray[Any]:
    import imagecodecs

    colours: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
    return colours
