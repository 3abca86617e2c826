"""``train-volume.tif`` and ``train-labels.tif``, as the ISBI challenge of 2012 has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from overtile.pipelines.data.layout import Layout, Pair, Splits
from overtile.pipelines.errors import DataError, size_text
from overtile.pipelines.images.formats import write_image
from overtile.pipelines.images.stored import Spacing

_ENDINGS = (".tif", ".tiff")


class Stack(Layout):
    """All images as pages of one file, and their labels as pages of another."""

    name = "stack"
    expected = "train-volume.tif and train-labels.tif"
    rank = 10
    whole = True
    flat = True

    @property
    def formats(self) -> Sequence[str]:
        """TIFF, which has pages."""
        return ("tif",)

    def recognises(self, folder: Path) -> bool:
        """By the file of images."""
        return any((folder / f"train-volume{ending}").is_file() for ending in _ENDINGS)

    def pairs(self, folder: Path) -> list[Pair]:
        """One file and its labels."""
        found = []
        for name in ("volume", "labels"):
            files = [folder / f"train-{name}{ending}" for ending in _ENDINGS]
            found.append(next((f for f in files if f.is_file()), files[0]))
            if not found[-1].is_file():
                raise DataError(found[-1], "no such file", "train-volume and train-labels")
        volume, labels = found
        return [Pair(volume, labels)]

    def write(
        self, folder: Path, splits: Splits, format: str, membranes: bool, spacing: Spacing
    ) -> None:
        """The split ``test`` has no labels; membranes are 0, and all cells 255."""
        train = [pair for split, pairs in splits.items() if split != "test" for pair in pairs]
        pages = {
            "train-volume": [image for image, _ in train],
            "train-labels": [labels for _, labels in train],
            "test-volume": [image for image, _ in splits.get("test", [])],
        }
        if membranes:
            pages["train-labels"] = [np.where(a == 0, 0, 255).astype(np.uint8) for _, a in train]
        for name, planes in pages.items():
            kinds = sorted({f"{size_text(plane.shape)} {plane.dtype}" for plane in planes})
            if len(kinds) > 1:
                raise DataError(f"{name}.tif", " and ".join(kinds), "images that are alike")
            if planes:
                write_image(folder / name, np.stack(planes), format)


LAYOUT = Stack()
