"""Labels as a folder of masks, one file a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, size_text
from overtile.pipelines.images.formats import is_image, open_image
from overtile.pipelines.images.stored import Format, Index, Stored


class Masks(Format):
    """A folder in which every image is the mask of a cell."""

    name = "folder of masks"
    folders = True
    last = True

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """Any other folder, where labels are wanted."""
        return labels and path.is_dir()

    def open(self, path: Path, labels: bool = False) -> Stored:
        """Cells numbered in the order of their files' names."""
        files = [p for p in sorted(path.iterdir()) if is_image(p)]
        if not files:
            raise DataError(path, "no mask in it", "one image a cell")
        first = open_image(files[0], labels=True)
        shape = tuple(n for n, a in zip(first.shape, first.axes, strict=True) if a != "S")

        def pixels(index: Index) -> NDArray[Any]:
            cells = np.zeros(shape, np.int32)
            for number, file in enumerate(files, start=1):
                stored = open_image(file, labels=True)
                mask = stored.pixels((slice(None),) * len(stored.axes))
                mask = mask.max(axis=-1) if mask.ndim == 3 else mask
                if mask.shape != shape:
                    found = f"size {size_text(mask.shape)}, but {files[0].name} is "
                    raise DataError(file, found + size_text(shape), "masks of one size")
                own = (mask > 0) & (cells == 0)
                if mask.any() and not own.any():
                    found = "a mask that lies wholly under others"
                    raise DataError(file, found, "cells side by side", "remove it")
                cells[own] = number
            return cells[index]

        return Stored("YX", shape, np.dtype(np.int32), pixels)


FORMAT = Masks()
