"""How images and their labels lie in a folder, and what every layout does with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.images.stored import Spacing

Splits = Mapping[str, Iterator[tuple[NDArray[Any], NDArray[np.uint16]]]]
"""Images and their instances, by split."""


@dataclass(frozen=True)
class Pair:
    """An image file and its label file.

    Attributes:
        image: file, or folder that is one image.
        label: likewise.
        plane: of the image, where the label belongs to one plane alone.
    """

    image: Path
    label: Path
    plane: int | None = None


class Layout:
    """How one layout is recognised, read and written.

    Every module of `overtile.pipelines.data.layouts` has one, under the name ``LAYOUT``: a new
    layout is a new module there. What it cannot do is left as it is here.

    Attributes:
        name: as the setting ``layout`` has it.
        expected: what lies in such a folder, for people.
        rank: those of a lower one are asked first whether they recognise a folder.
        whole: whether it has a place for every split, so that a folder ``train/`` in it is
            something else.
        flat: whether images of three axes cannot be written.
    """

    name: ClassVar[str]
    expected: ClassVar[str]
    rank: ClassVar[int] = 0
    whole: ClassVar[bool] = False
    flat: ClassVar[bool] = False

    @property
    def formats(self) -> Sequence[str]:
        """Names under which its images can be written, the usual one first; none: never."""
        return ()

    def recognises(self, folder: Path) -> bool:
        """Whether the images of a folder lie so."""
        raise NotImplementedError

    def has_labels(self, folder: Path) -> bool:
        """Whether a folder that is recognised is more than images to try a network on."""
        return True

    def pairs(self, folder: Path) -> list[Pair]:
        """Its labelled images.

        Raises:
            DataError: if there are none, or an image has no label or the reverse.
        """
        raise NotImplementedError

    def write(
        self, folder: Path, splits: Splits, format: str, membranes: bool, spacing: Spacing
    ) -> None:
        """Write labelled images.

        Args:
            folder: empty; that it is whole or not at all is the caller's.
            splits: taken one by one.
            format: one of its ``formats``.
            membranes: whether labels are cells between membranes.
            spacing: of slices, rows and columns.

        Raises:
            DataError: if they cannot be written so.
        """
        raise NotImplementedError
