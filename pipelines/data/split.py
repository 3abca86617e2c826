"""Which images train, validate and test."""

from __future__ import annotations

from pathlib import Path

from overtile.pipelines.data.facts import Item
from overtile.pipelines.errors import DataError, Setting


def validated(splits: dict[str, list[Item]], fraction: float) -> tuple[list[Item], list[Item]]:
    """Training and validation images: the folder's own, or the last of the training images."""
    train, val = splits["train"], splits.get("val", [])
    if val or len(train) < 2 or not fraction:
        return train, val
    count = min(max(1, round(fraction * len(train))), len(train) - 1)
    return train[:-count], train[-count:]


def folded(
    root: Path, splits: dict[str, list[Item]], fold: int | None, folds: int
) -> dict[str, list[Item]]:
    """Block number ``fold`` of the training images for testing, the others for training."""
    if fold is None:
        return splits
    items = splits["train"]
    if len(items) < 2:
        found = f"{len(items)} training image{'s' * (len(items) != 1)}"
        raise DataError(root, found, "at least 2 for a cross-validation", Setting("fold", None))
    if not 2 <= folds <= len(items):
        found = f"{root} has {len(items)} training images"
        raise DataError("folds", f"{folds}; {found}", f"2 to {len(items)}")
    if fold not in range(folds):
        raise DataError("fold", str(fold), f"0 to {folds - 1}, one of {folds} folds")
    first, last = (len(items) * k // folds for k in (fold, fold + 1))
    return {"train": items[:first] + items[last:], "test": items[first:last]}


def thinned(items: list[Item], count: int) -> list[Item]:
    """So many of the items, spread evenly over them."""
    if not 1 <= count <= len(items):
        raise DataError("train_subset", str(count), f"1 to {len(items)}, all that there are")
    return [items[len(items) * k // count] for k in range(count)]
