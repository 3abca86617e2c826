"""Labelled images, checked and split; images to segment."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from overtile.pipelines.errors import DataError, UnreadableError, size_text
from overtile.pipelines.facts import FactBook, LabelFacts, default_cache
from overtile.pipelines.images.formats import is_image
from overtile.pipelines.images.read import (
    Channel,
    as_path,
    check_labels_kind,
    open_view,
    read_image,
)
from overtile.pipelines.images.view import plane_names, split_plane, stem
from overtile.pipelines.layouts import Pair, find_pairs, image_of, images_by_stem

log = logging.getLogger(__name__)

Item = dict[str, str]


@dataclass(frozen=True)
class DataSet:
    """Labelled images, split into what trains, what chooses the best network, what is unseen.

    Attributes:
        name: of the data set, for people.
        layout: how it lies on disk.
        root: its folder.
        train: items ``{"image": path, "label": path}``; ``stack.tif:3`` is plane 3 of a stack.
        val: likewise.
        test: likewise; may be empty.
        skipped: files that could not be read, where that was allowed.
        facts: of the images and labels.
    """

    name: str
    layout: str
    root: Path
    train: list[Item]
    val: list[Item]
    test: list[Item]
    skipped: list[str] = field(default_factory=list)
    facts: FactBook = field(repr=False, compare=False, kw_only=True)

    @property
    def items(self) -> list[Item]:
        """All of them."""
        return [*self.train, *self.val, *self.test]

    def digest(self) -> str:
        """SHA-256 over the paths and bytes of every file, in order of the paths."""
        state = hashlib.sha256()
        for file in sorted({split_plane(item[key])[0] for item in self.items for key in item}):
            state.update(str(file.relative_to(self.root)).encode())
            state.update(self.facts.sha256(file).encode())
        self.facts.save()
        return state.hexdigest()

    def class_weights(self) -> tuple[float, float]:
        """Weights for (background, cell) that balance both over the training labels."""
        from overtile.transforms import class_weights_of_counts  # loads PyTorch

        found = [self.facts.label(**item) for item in self.train]
        background, cells = sum(f.background for f in found), sum(f.cells for f in found)
        return class_weights_of_counts(background, cells)


def find_data(
    dataset_dir: str | Path | None,
    layout: str = "auto",
    val_fraction: float = 0.2,
    labels: str = "instances",
    spatial_dims: int = 2,
    channel: Channel = None,
    skip_unreadable: bool = False,
    cache_dir: str | Path | None = None,
    fold: int | None = None,
    folds: int = 5,
    train_subset: int | None = None,
) -> DataSet:
    """The labelled images of a folder, every one of them read and checked.

    What was found out is remembered in ``cache_dir`` until a file changes.

    Args:
        dataset_dir: in one of the layouts of `overtile.pipelines.layouts.LAYOUTS`.
        layout: ``"auto"`` looks which of them it is.
        val_fraction: share of the training images, the last ones, that validates where the
            folder brings no ``val/``. Of a stack these are the last slices, because
            neighbouring slices resemble each other. 0 validates on none.
        labels: ``"instances"``, one number a cell; ``"mask"``, cells are what is not 0; or
            ``"membranes"``, the same, refusing labels of more than two values.
        spatial_dims: 2 takes volumes plane by plane, 3 whole.
        channel: of the images, as of `read_image`.
        skip_unreadable: leave out broken files, and list them, instead of raising.
        cache_dir: default: `default_cache`.
        fold: of a cross-validation, from 0: that one of ``folds`` contiguous blocks of the
            training images is the unseen test set, whatever else the folder brings.
        folds: how many.
        train_subset: train with so few of the training images, spread evenly over them.

    Raises:
        DataError: if nothing is found, an image has no label or the reverse, sizes differ, a
            file cannot be read, the training labels are not what ``labels`` says, or there are
            too few images for what is asked.
    """
    check_labels_kind(labels)
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction {val_fraction}: expected at least 0 and less than 1")
    root, found, splits, skipped, facts = _labelled(
        dataset_dir, layout, spatial_dims, channel, skip_unreadable, cache_dir
    )
    splits = _folded(root, splits, fold, folds)
    train = splits["train"]
    _check_labels(splits, labels, facts)
    if not any(facts.label(**item).cells for item in train):
        raise DataError(f"{train[0]['label']}: no cell in it, nor in any other training label")
    if not splits.get("val") and len(train) < 2 and val_fraction:
        raise DataError(
            f"{root}: {len(train)} labelled image; expected at least 2, one to validate"
        )
    train, val = _validated(splits, val_fraction)
    if train_subset is not None:
        train = _thinned(train, train_subset)
    name, test = root.resolve().name, splits.get("test", [])
    return DataSet(name, found, root, train, val, test, skipped, facts=facts)


def _validated(splits: dict[str, list[Item]], fraction: float) -> tuple[list[Item], list[Item]]:
    """Training and validation images: the folder's own, or the last of the training images."""
    train, val = splits["train"], splits.get("val", [])
    if val or len(train) < 2 or not fraction:
        return train, val
    count = min(max(1, round(fraction * len(train))), len(train) - 1)
    return train[:-count], train[-count:]


def _folded(
    root: Path, splits: dict[str, list[Item]], fold: int | None, folds: int
) -> dict[str, list[Item]]:
    """Block number ``fold`` of the training images for testing, the others for training."""
    if fold is None:
        return splits
    items = splits["train"]
    if not 2 <= folds <= len(items):
        raise DataError(
            f"folds {folds}: {root} has {len(items)} training images; expected 2 to {len(items)}"
        )
    if fold not in range(folds):
        raise DataError(f"fold {fold}: expected 0 to {folds - 1}, one of {folds} folds")
    first, last = (len(items) * k // folds for k in (fold, fold + 1))
    return {"train": items[:first] + items[last:], "test": items[first:last]}


def _thinned(items: list[Item], count: int) -> list[Item]:
    if not 1 <= count <= len(items):
        raise DataError(f"train_subset {count}: expected 1 to {len(items)}, all that there are")
    return [items[len(items) * k // count] for k in range(count)]


def labelled_images(
    dataset_dir: str | Path | None,
    layout: str = "auto",
    split: str | None = None,
    val_fraction: float = 0.2,
    labels: str = "instances",
    spatial_dims: int = 2,
    channel: Channel = None,
    skip_unreadable: bool = False,
    cache_dir: str | Path | None = None,
    fold: int | None = None,
    folds: int = 5,
) -> list[Item]:
    """Items ``{"image": path, "label": path}`` to score; arguments as of `find_data`.

    Args:
        dataset_dir: None is no image, so that a configuration can be looked at.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``; None is the test images where the
            folder has such, else all. Without a ``val/`` the first two are what `find_data`
            makes of the training images with the same ``val_fraction``.

    Raises:
        DataError: as `find_data`, and for a split that is not there.
    """
    if dataset_dir is None:
        return []
    root, _, splits, _, facts = _labelled(
        dataset_dir, layout, spatial_dims, channel, skip_unreadable, cache_dir
    )
    splits = _folded(root, splits, fold, folds)
    _check_labels(splits, check_labels_kind(labels), facts)
    if split is None:
        split = "test" if splits.get("test") else "all"
    if split == "all":
        return [item for items in splits.values() for item in items]
    splits["train"], splits["val"] = _validated(splits, val_fraction)
    if not splits.get(split):
        raise DataError(f"{root}: no split {split!r}; expected all, {', '.join(splits)}")
    return splits[split]


def _labelled(
    dataset_dir: str | Path | None,
    layout: str,
    spatial_dims: int,
    channel: Channel,
    skip_unreadable: bool,
    cache_dir: str | Path | None,
) -> tuple[Path, str, dict[str, list[Item]], list[str], FactBook]:
    if dataset_dir is None:
        raise DataError("dataset_dir is not set; give --dataset_dir DIR")
    root = as_path(dataset_dir)
    if not root.is_dir():
        raise DataError(
            f"dataset_dir {root}: no such folder; give one that holds images and labels"
        )
    facts = FactBook(Path(cache_dir or default_cache()), root, spatial_dims, channel)
    found, pairs = find_pairs(root, layout)
    skipped: list[str] = []
    splits: dict[str, list[Item]] = {}
    count = sum(map(len, pairs.values()))
    with tqdm(total=count, desc="looking at the images", delay=2, leave=False) as bar:
        for split, members in pairs.items():
            splits[split] = []
            for pair in members:
                try:
                    splits[split] += items_of(pair, facts)
                except UnreadableError as error:
                    if not skip_unreadable:
                        raise
                    skipped.append(str(error))
                bar.update()
    facts.save()
    for what in skipped:
        log.warning("left out: %s", what)
    if not splits["train"]:
        raise DataError(f"{root}: none of its {len(skipped)} images can be read; replace them")
    return root, found, splits, skipped, facts


def items_of(pair: Pair, facts: FactBook) -> list[Item]:
    """One item a plane of a labelled image, every one read and checked.

    Raises:
        DataError: if image and label differ in size, or one cannot be used.
    """
    planes, size = facts.planes(pair.image)
    labelled, label_size = facts.planes(pair.label, like=pair.image)
    images = plane_names(pair.image, planes)
    if pair.plane is not None:
        if pair.plane >= planes:
            raise DataError(
                f"{pair.label}: no plane {pair.plane} in {pair.image} ({planes} planes)"
            )
        images = images[pair.plane : pair.plane + 1]
    if label_size != size:
        raise DataError(
            f"{pair.label}: size {size_text(label_size)}, but its image {pair.image} is "
            f"{size_text(size)}; expected the same size"
        )
    if labelled != len(images):
        raise DataError(
            f"{pair.label}: {labelled} planes, but its image {pair.image} has {len(images)}; "
            "expected one label plane for every image plane"
        )
    names = zip(images, plane_names(pair.label, labelled), strict=True)
    items = [{"image": image, "label": label} for image, label in names]
    for item in items:
        facts.image(item["image"])
        facts.label(**item)
    return items


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
                f"{name}: {f.names + (f.background > 0)} values, most of them scattered, as in an "
                "image or a map of probabilities; expected a mask, 0 = background and another = "
                "cell: cut it at a threshold"
            )


def _check_maps(found: Mapping[str, LabelFacts]) -> None:
    """Refuse labels of more than two values: classes, instances, or a map with soft edges."""
    for name, f in found.items():
        if f.names > 1:
            without = "" if f.background else ", none of them 0"
            raise DataError(
                f"{name}: {f.names + (f.background > 0)} values{without}; expected a membrane map "
                "of two, 0 = membrane and another = cell: cut it at a threshold, or give "
                "--labels mask to take what is not 0 as cell, --labels instances if every cell "
                "has a number"
            )


def _check_labels(splits: Mapping[str, Sequence[Item]], labels: str, facts: FactBook) -> None:
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
            f"{first}: {found[first].names} value(s) for {found[first].components} separate "
            "cells, and the labels beside it likewise; expected instances, one number a "
            "cell: give --labels mask to take what is not 0 as cell, or number the cells"
        )


_OTHERS = {
    *(".czi", ".nd2", ".lif", ".lsm", ".oib", ".oif", ".ims", ".svs", ".ndpi", ".mrxs", ".vsi"),
    *(".jp2", ".npy", ".npz", ".gif", ".webp", ".mrc", ".h5", ".hdf5", ".mha", ".mhd", ".nrrd"),
}


def images_in(
    source: str | Path | None,
    spatial_dims: int = 2,
    skip_unreadable: bool = False,
    image_memory_limit: int | None = None,
) -> list[Item]:
    """The images of a folder, or the one image named, as items without labels.

    Each plane of a stack is an item.

    Args:
        source: image or folder; None is no image, so that a configuration can be looked at.
        spatial_dims: 2 takes volumes plane by plane, 3 whole.
        skip_unreadable: leave out broken files, and list them, instead of raising.
        image_memory_limit: bytes that segmenting one image may take; None is the memory of the
            machine. An image takes about `BYTES_PER_PIXEL`.

    Raises:
        DataError: if there are none, two have the same name up to the suffix, one cannot be
            read, or one is too large.
    """
    if source is None:
        return []
    path = as_path(source)
    file, plane = split_plane(path)
    if not file.exists():
        raise DataError(f"{path}: no such file or folder")
    if plane is not None:
        return [{"image": str(path)}]
    if file.is_file() or is_image(file):
        files = [file]
    else:
        named = images_by_stem(path)
        # beside the images of a data set may lie their labels
        labels = {n for n in named if {image_of(n), f"{image_of(n)}_img"} & named.keys()}
        files = [file for name, file in named.items() if name not in labels]
        if labels:
            log.warning("left out: %d labels of images beside them", len(labels))
        others = [f for f in sorted(path.iterdir()) if f.suffix.lower() in _OTHERS]
        if others:
            log.warning(
                "left out: %d files in formats that are not read, as %s", len(others), others[0]
            )
        cases = [f for f in sorted(path.glob("*/images/*")) if is_image(f)]
        files += [f for f in cases if f.parents[1].name == stem(f)]  # Kaggle's
    if not files:
        below = next((p for p in ("images", "test", "train") if (path / p).is_dir()), None)
        hint = f" (it has {below}/: give a folder in it)" if below else ""
        raise DataError(
            f"{path}: no images{hint}; expected TIFF, PNG, JPEG, NIfTI, DICOM or OME-Zarr"
        )
    items = []
    for file in files:
        try:
            seen = open_view(file, spatial_dims)
            check_memory(file, seen.shape, image_memory_limit)
            names = plane_names(file, seen.count)
            if skip_unreadable:
                for name in names:
                    read_image(name, spatial_dims, channel=0)
        except UnreadableError as error:
            if not skip_unreadable:
                raise
            log.warning("left out: %s", error)
            continue
        items += [{"image": name} for name in names]
    if not items:
        raise DataError(f"{path}: none of its {len(files)} images can be read; replace them")
    return items


BYTES_PER_PIXEL = 64  # image, logits, probabilities, labels and what making them takes


def check_memory(path: Path, shape: Sequence[int], limit: int | None = None) -> None:
    """Refuse an image that would not fit.

    Raises:
        DataError: saying what it needs, what there is, and what to do.
    """
    if limit is None:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = BYTES_PER_PIXEL * math.prod(shape)
    if needed > limit:
        raise DataError(
            f"{path}: {size_text(shape)} pixels need about {needed / 2**30:.1f} GiB of memory; "
            f"expected at most {limit / 2**30:.1f} GiB: cut the image into parts, or allow more "
            "with --image_memory_limit BYTES"
        )
