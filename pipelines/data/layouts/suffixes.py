"""``a.tif`` beside ``a_masks.tif``, as Cellpose has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from overtile.pipelines.data.layout import Layout, Pair, Splits
from overtile.pipelines.data.names import (
    check_partners,
    image_of,
    images_by_stem,
    images_of,
    unlike,
)
from overtile.pipelines.errors import DataError
from overtile.pipelines.images.formats import stem, write_image
from overtile.pipelines.images.stored import Spacing


class Suffixes(Layout):
    """Images and labels in one folder; endings of their names tell them apart."""

    name = "suffixes"
    expected = "NAME.tif beside NAME_masks.tif"
    rank = 60

    @property
    def formats(self) -> Sequence[str]:
        """Those in which labels are usual."""
        return ("tif", "png", "nii.gz")

    def recognises(self, folder: Path) -> bool:
        """By a label whose image is there."""
        names = {stem(path) for path in images_of(folder)}
        return bool({image_of(name) for name in names} & {_plain(name) for name in names})

    def pairs(self, folder: Path) -> list[Pair]:
        """Every image needs a label, and every label an image."""
        named = [(image_of(name), name, path) for name, path in images_by_stem(folder).items()]
        labels = unlike((image, path) for image, _, path in named if image is not None)
        images = unlike((_plain(name), path) for image, name, path in named if image is None)
        if not labels or not images:
            raise DataError(folder, "no files NAME.tif with NAME_masks.tif", "such pairs")
        check_partners(images, labels, folder)
        check_partners(labels, images, folder)
        return [Pair(images[name], labels[name]) for name in images]

    def write(
        self, folder: Path, splits: Splits, format: str, membranes: bool, spacing: Spacing
    ) -> None:
        """Labels end with ``_masks``."""
        for split, pairs in splits.items():
            (folder / split).mkdir(parents=True)
            for index, (image, labels) in enumerate(pairs):
                write_image(folder / split / f"{index:03d}", image, format, spacing)
                write_image(folder / split / f"{index:03d}_masks", labels, format, spacing)


LAYOUT = Suffixes()


def _plain(name: str) -> str:
    """An image's name without the ending that some give it."""
    return re.sub("_(img|image)$", "", name)
