"""Pictures: PNG, JPEG, BMP and what else Pillow decodes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError
from overtile.pipelines.images.stored import Format, Index, Spacing, Stored

_JPEG = (".jpg", ".jpeg")
_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")  # of Pillow's modes
_DTYPES = {"1": bool, "I": np.int32, "F": np.float32}


class Picture(Format):
    """Pictures of one plane, grey or in colour."""

    name = "pictures (PNG, JPEG)"
    suffixes = (".png", *_JPEG, ".bmp")
    last = True
    written = ("png",)
    dtypes = "u1 u2"
    dims = (2,)

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """Any other file: Pillow goes by what is inside."""
        return path.is_file()

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it; as labels, an indexed picture gives its indices.

        Raises:
            DataError: for labels in JPEG.
        """
        if labels and path.name.lower().endswith(_JPEG):
            raise DataError(
                path, "a label in JPEG, which changes numbers", "PNG or TIFF", "save it anew"
            )
        with _pillow().open(path) as picture:
            mode, (width, height) = picture.mode, picture.size
        if mode in ("RGB", "RGBA") and _bits_of_png(path) == 16:  # Pillow would drop eight of them
            return _deep_png(path, (height, width))
        indexed = mode == "P" and labels
        target = None if mode in _GREY or indexed else "L" if mode == "LA" else "RGB"

        def pixels(index: Index) -> NDArray[Any]:
            with _pillow().open(path) as picture:
                return np.asarray(picture if target is None else picture.convert(target))[index]

        colour = target == "RGB"
        return Stored(
            "YXS" if colour else "YX",
            (height, width, 3) if colour else (height, width),
            np.dtype(np.uint16 if mode.startswith("I;16") else _DTYPES.get(mode, np.uint8)),
            pixels,
        )

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


def _bits_of_png(path: Path) -> int:
    with path.open("rb") as file:
        start = file.read(25)
    return start[24] if start.startswith(b"\x89PNG") else 0


def _deep_png(path: Path, size: tuple[int, int]) -> Stored:
    import imagecodecs

    def pixels(index: Index) -> NDArray[Any]:
        colours: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())[..., :3]
        return colours[index]

    return Stored("YXS", (*size, 3), np.dtype(np.uint16), pixels)
