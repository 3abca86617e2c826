"""``images/a.tif`` with ``labels/a.tif``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from overtile.pipelines.data.layout import Layout, Pair, Splits
from overtile.pipelines.data.names import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    cases,
    check_partners,
    folder_of,
    image_of,
    images_by_stem,
    unlike,
)
from overtile.pipelines.errors import DataError
from overtile.pipelines.images.formats import (
    names_of_formats,
    names_to_write,
    write_image,
    writer_of,
)
from overtile.pipelines.images.stored import Spacing


class Pairs(Layout):
    """Images and labels of the same names in two folders."""

    name = "pairs"
    expected = "images/ and labels/"
    rank = 40

    @property
    def formats(self) -> Sequence[str]:
        """All that there are."""
        return names_to_write()

    def recognises(self, folder: Path) -> bool:
        """By the folder of images."""
        return folder_of(folder, IMAGE_FOLDERS) is not None

    def has_labels(self, folder: Path) -> bool:
        """Whether there is a folder of labels, too."""
        return folder_of(folder, LABEL_FOLDERS) is not None

    def pairs(self, folder: Path) -> list[Pair]:
        """Of other tools' names, too: ``a_mask``, and nnU-Net's ``a_0000``, a file a channel."""
        images_in, labels_in = (folder_of(folder, n) for n in (IMAGE_FOLDERS, LABEL_FOLDERS))
        others = [n for n in LABEL_FOLDERS if (folder / n).is_dir() and folder / n != labels_in]
        if labels_in is not None and others:
            raise DataError(
                folder,
                f"both {labels_in.name}/ and {others[0]}/",
                "one folder of labels",
                "move the other away",
            )
        if images_in is None or labels_in is None:
            missing = (IMAGE_FOLDERS if images_in is None else LABEL_FOLDERS)[0]
            raise DataError(folder, f"no folder {missing}/", "images/ and labels/")
        images, labels = images_by_stem(images_in), images_by_stem(labels_in)
        if not images:
            raise DataError(images_in, "no images", names_of_formats())
        if not set(images) & set(labels):  # other tools' habits
            labels = unlike((image_of(name) or name, path) for name, path in labels.items())
        if not set(images) & set(labels):
            images = cases(images)
        check_partners(images, labels, labels_in)
        check_partners(labels, images, images_in)
        return [Pair(images[name], labels[name]) for name in images]

    def write(
        self, folder: Path, splits: Splits, format: str, membranes: bool, spacing: Spacing
    ) -> None:
        """Labels are in the format that keeps the numbers and the place of their image."""
        own = writer_of(format)
        for split, pairs in splits.items():
            for kind in ("images", "labels"):
                (folder / split / kind).mkdir(parents=True)
            for index, (image, labels) in enumerate(pairs):
                if 2 not in own.dims and image.ndim == 2:  # a series of one slice is a volume
                    image, labels = image[None], labels[None]
                name = f"{index:03d}"
                path = write_image(folder / split / "images" / name, image, format, spacing)
                suffix = own.label_suffix(path.name).removeprefix(".")
                write_image(folder / split / "labels" / name, labels, suffix, spacing)


LAYOUT = Pairs()
