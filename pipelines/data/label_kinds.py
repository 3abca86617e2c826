"""Whether labels are what they are said to be: instances, a mask, membranes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from overtile.pipelines.data.facts import FactBook, Item, LabelFacts
from overtile.pipelines.errors import DataError, Setting

AS_MASK = Setting("labels", "mask", "to take what is not 0 as cell")


def labels_are_classes(found: Mapping[str, LabelFacts]) -> str | None:
    """The first label that numbers classes instead of cells, if all of them seem to.

    So it seems where numbers stand for twice as many separate regions. Cells that touch make
    fewer regions than there are numbers, and cells in pieces are rare.
    """
    pieces, names = (sum(getattr(f, k) for f in found.values()) for k in ("components", "names"))
    if pieces < 2 * names:
        return None
    return next((name for name, f in found.items() if f.components > f.names), None)


_CLASSES = 16  # more numbers than that are no classes


def _check_masks(found: Mapping[str, LabelFacts]) -> None:
    """Refuse images of grey values: many numbers, most of which lie in several places.

    Instances or a few classes may be read as a mask: their numbers lie in one place, or are few.
    A map of probabilities or a mask from a lossy file has almost no 0, and would be all cell.
    """
    for name, f in found.items():
        if f.names > _CLASSES and 2 * f.split > f.names:
            raise DataError(
                Path(name),
                f"{f.names + (f.background > 0)} values, most of them scattered, as in an image "
                "or a map of probabilities",
                "a mask, 0 = background and another = cell",
                "cut it at a threshold",
            )


def _check_maps(found: Mapping[str, LabelFacts]) -> None:
    """Refuse labels of more than two values: classes, instances, or a map with soft edges."""
    for name, f in found.items():
        if f.names > 1:
            without = "" if f.background else ", none of them 0"
            raise DataError(
                Path(name),
                f"{f.names + (f.background > 0)} values{without}",
                "a membrane map of two, 0 = membrane and another = cell",
                (
                    "cut it at a threshold",
                    AS_MASK,
                    Setting("labels", "instances", "if every cell has a number"),
                ),
            )


def check_labels(splits: Mapping[str, Sequence[Item]], labels: str, facts: FactBook) -> None:
    """Refuse labels that number classes, where every cell should have a number of its own.

    Refuse grey values, too, where cells are what is not 0.
    """
    for items in splits.values():
        found = {item["label"]: facts.label(**item) for item in items}
        if labels == "membranes":
            _check_maps(found)
        if labels != "instances":
            _check_masks(found)
            continue
        first = labels_are_classes(found)
        if first is None:
            continue
        raise DataError(
            Path(first),
            f"{found[first].names} value(s) for {found[first].components} separate cells, and the "
            "labels beside it likewise",
            "instances, one number a cell",
            (AS_MASK, "number the cells"),
        )
