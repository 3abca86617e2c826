"""``a.tif`` with ``labels/final/a.tif``, as the page of ``overtile label`` keeps them."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from overtile.pipelines.data.annotations import FINAL_LABELS, noted_owner, notes_of, suffix_of
from overtile.pipelines.data.layout import Layout, Pair
from overtile.pipelines.data.names import check_partners, images_of, unlike
from overtile.pipelines.errors import DataError, printable
from overtile.pipelines.images.formats import stem

log = logging.getLogger(__name__)


class Annotated(Layout):
    """Images in the folder itself; a label belongs to the image for which the page shows it."""

    name = "annotated"
    expected = "NAME.tif with labels/final/NAME.tif"
    rank = 30  # before `pairs` and `suffixes`: the page lists every image, whatever its name

    def recognises(self, folder: Path) -> bool:
        """By labels and images; the page leaves labels/ itself to folders of tags."""
        return bool(
            images_of(folder / FINAL_LABELS)
            and images_of(folder)
            and not images_of(folder / "labels")
        )

    def pairs(self, folder: Path) -> list[Pair]:
        """Images without a label are left out."""
        files, home = images_of(folder), folder / FINAL_LABELS
        names = Counter(map(stem, files))
        images = unlike((stem(f) if names[stem(f)] == 1 else f.name, f) for f in files)
        by_file = {image.name: name for name, image in images.items()}
        notes = notes_of(folder)
        labels = unlike((_labelled_by(f, images, by_file, notes), f) for f in images_of(home))
        if not labels:
            raise DataError(home, "no labels", "those that were submitted in the page")
        check_partners(labels, images, folder)
        if len(labels) < len(images):
            bare = len(images) - len(labels)
            where = printable(home)
            log.warning(
                "left out: %d of %d images, without a label in %s", bare, len(images), where
            )
        return [Pair(images[name], labels[name]) for name in images if name in labels]


LAYOUT = Annotated()


def _labelled_by(
    label: Path, images: dict[str, Path], by_file: dict[str, str], notes: dict[str, Any]
) -> str:
    """The id of a label's image: its stem, or its whole name where two have the same stem.

    Such an image may have been labelled before the other came, and then the suffix tells; or while
    there was another, which is gone.
    """
    if owner := noted_owner(label, notes):
        if owner not in by_file:
            raise DataError(
                label,
                f"of {owner}, which is not there any more",
                hint=("put it back", "remove the label"),
            )
        return by_file[owner]
    name = stem(label)
    if whole := by_file.get(label.name) or by_file.get(name):
        return whole
    alike = [] if name in images else [k for k, image in images.items() if stem(image) == name]
    if not alike:
        return name
    own = [key for key in alike if label.name == f"{name}{suffix_of(images[key])}"]
    return own[0] if len(own) == 1 else name
