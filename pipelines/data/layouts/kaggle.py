"""``ID/images/ID.png`` with one mask a cell in ``ID/masks/``, as the Data Science Bowl of 2018."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.data.layout import Layout, Pair, Splits
from overtile.pipelines.data.names import SPLITS, folders_in, images_of
from overtile.pipelines.errors import DataError
from overtile.pipelines.images.formats import write_image
from overtile.pipelines.images.stored import Spacing


class Kaggle(Layout):
    """A folder an image, in which masks are files of their own."""

    name = "kaggle"
    expected = "ID/images/ and ID/masks/"
    rank = 50
    flat = True

    @property
    def formats(self) -> Sequence[str]:
        """PNG, which the competition has."""
        return ("png",)

    def recognises(self, folder: Path) -> bool:
        """By one image with masks."""
        return any((case / "masks").is_dir() for case in _cases(folder))

    def pairs(self, folder: Path) -> list[Pair]:
        """The folder of masks is the label."""
        pairs = []
        for case in _cases(folder):
            images = images_of(case / "images")
            masks = case / "masks"
            if len(images) != 1:
                raise DataError(case / "images", f"{len(images)} images", "one")
            if not images_of(masks):
                raise DataError(images[0], ("no masks in", masks), "one file a cell")
            pairs.append(Pair(images[0], masks))
        if not pairs:
            raise DataError(folder, "no ID/images/ with ID/masks/", "Kaggle's folders")
        return pairs

    def write(
        self, folder: Path, splits: Splits, format: str, membranes: bool, spacing: Spacing
    ) -> None:
        """RGBA of 8 bits; the split ``test`` has no masks."""
        for split, pairs in splits.items():
            (folder / split).mkdir(parents=True)
            for index, (image, labels) in enumerate(pairs):
                name = _hex(split, index)
                grey = _eight_bits(image)
                case = folder / split / name
                (case / "images").mkdir(parents=True)
                picture = np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)
                write_image(case / "images" / name, picture, format)
                if split == "test":
                    continue
                (case / "masks").mkdir()
                for cell in np.unique(labels[labels > 0]):
                    mask = np.where(labels == cell, 255, 0).astype(np.uint8)
                    write_image(case / "masks" / _hex(name, cell), mask, format)


LAYOUT = Kaggle()


def _cases(folder: Path) -> list[Path]:
    """Folders of one image each, which are no splits."""
    splits = {name for names in SPLITS.values() for name in names}
    return [f for f in folders_in(folder) if (f / "images").is_dir() and f.name not in splits]


def _hex(*parts: object) -> str:
    return hashlib.sha256(os.fsencode("/".join(map(str, parts)))).hexdigest()


def _eight_bits(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    scaled = (image.astype(np.float64) - low) * (255 / max(high - low, np.finfo(float).tiny))
    return np.round(scaled).astype(np.uint8)
