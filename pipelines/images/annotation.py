"""Which pixels of a label file are annotated, and which nobody has looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from overtile.pipelines.errors import DataError, Setting, size_text
from overtile.pipelines.images.plane_name import Plane

_HIGHEST = np.iinfo(np.int32).max
UNLABELLED = ("background", "ignore", "band")


@dataclass(frozen=True)
class Annotation:
    """What the numbers of label files say of the pixels that are no cell.

    Attributes:
        ignore: the number of pixels that are not annotated; None if there is no such.
        unlabelled: what 0 means: ``"background"``; ``"ignore"``, not annotated; or ``"band"``,
            background within ``band`` of a cell, and not annotated beyond. So labels are read of
            which only some cells are drawn, as in the Cell Tracking Challenge.
        band: pixels, of the distance to the nearest pixel of a cell.

    Raises:
        DataError: for another ``unlabelled``.
    """

    ignore: int | None = None
    unlabelled: str = "background"
    band: float = 10.0

    def __post_init__(self) -> None:
        if self.unlabelled not in UNLABELLED:
            raise DataError("unlabelled", repr(self.unlabelled), f"one of {', '.join(UNLABELLED)}")

    def of(self, path: str | Path | Plane, array: NDArray[Any]) -> NDArray[Any]:
        """What a file of labels holds: integers from 0 up, and `IGNORED`.

        Floats that are whole numbers, as NIfTI files often have them, become int32.

        Args:
            path: of the file, for errors.
            array: ``[*S]``, or several ``[planes, *S]``, as stored.

        Raises:
            DataError: for other floats, for numbers below 0 or above 2^31 - 1, and for a band
                wider than the image.
        """
        floats = array.dtype.kind == "f"
        if floats and not (np.isfinite(array) & (array == np.rint(array))).all():
            found = f"labels of {array.dtype}"
            raise DataError(Path(str(path)), found, "integers, 0 = background", "convert it")
        gaps = None if self.ignore is None else array == self.ignore
        labels = array if gaps is None else np.where(gaps, array.dtype.type(0), array)
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= _HIGHEST:
            raise self._beyond(path, labels)
        if (unknown := self._unknown(path, labels)) is not None:
            gaps = unknown if gaps is None else gaps | unknown
        if gaps is None or not gaps.any():
            return array.astype(np.int32) if floats else array
        from overtile.networks.losses.ignored import IGNORED  # loads PyTorch

        labels = labels.astype(np.int32)
        labels[gaps] = IGNORED
        return labels

    def _unknown(self, path: str | Path | Plane, labels: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Where 0 says nothing; None if nowhere."""
        if self.unlabelled == "background":
            return None
        if self.unlabelled == "ignore":
            empty: NDArray[np.bool_] = labels == 0
            return empty
        if self.band > max(labels.shape):
            found = f"band {self.band:g}, wider than the image of {size_text(labels.shape)} pixels"
            hint = "make it narrower", Setting("unlabelled", "background", "where all is annotated")
            raise DataError(Path(str(path)), found, f"at most {max(labels.shape)}", hint)
        if not labels.any():
            return np.ones(labels.shape, np.bool_)
        far: NDArray[np.bool_] = ndimage.distance_transform_edt(labels == 0) > self.band
        return far

    def _beyond(self, path: str | Path | Plane, labels: NDArray[Any]) -> DataError:
        lowest = int(labels.min())
        hint: tuple[Setting, ...] = ()
        if lowest < 0 and self.ignore is None:
            hint = (Setting("ignore", lowest, "if that is where nothing is annotated"),)
        found = f"labels from {lowest} to {int(labels.max())}"
        expected = f"0 (background) to {_HIGHEST}"
        return DataError(Path(str(path)), found, expected, hint)
