"""Labelled images, checked and split; images to segment."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from overtile.pipelines.data.cache_folder import default_cache
from overtile.pipelines.data.classes import annotation_of
from overtile.pipelines.data.classes import class_names as class_names_of
from overtile.pipelines.data.facts import FactBook, Item
from overtile.pipelines.data.label_kinds import check_labels
from overtile.pipelines.data.layout import Pair
from overtile.pipelines.data.layouts import find_pairs
from overtile.pipelines.data.names import log_remarks, log_strangers
from overtile.pipelines.data.spacing import Wanted, check_spacing, resolved_spacing
from overtile.pipelines.data.split import folded, thinned, validated
from overtile.pipelines.errors import DataError, Setting, size_text
from overtile.pipelines.images.annotation import Annotation
from overtile.pipelines.images.channels import OF_THE_NETWORK, Channels, check_some_have
from overtile.pipelines.images.handed_on import handed_on
from overtile.pipelines.images.plane_name import Plane, planes_of
from overtile.pipelines.images.read import check_labels_kind

log = logging.getLogger(__name__)


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
        classes: names of the classes that a network tells apart, background first.
        in_channels: channels that a network is given.
        channel_names: of these, where they were asked for by name, or all taken and named; else
            None.
        spacing: that images are resampled to, in millimetres a pixel along each axis; None takes
            them as they are.
        facts: of the images and labels.
    """

    name: str
    layout: str
    root: Path
    train: list[Item]
    val: list[Item]
    test: list[Item]
    skipped: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ("background", "cell")
    in_channels: int = 1
    channel_names: list[str] | None = None
    spacing: list[float] | None = None
    facts: FactBook = field(repr=False, compare=False, kw_only=True)

    @property
    def items(self) -> list[Item]:
        """All of them."""
        return [*self.train, *self.val, *self.test]

    def digest(self) -> str:
        """SHA-256 over the paths and bytes of every file, in order of the paths."""
        return self.digest_of({str(Plane.of(i[key]).file) for i in self.items for key in i})

    def digest_of(self, paths: Iterable[str]) -> str:
        """Likewise of some files, or planes of files, of the set."""
        state = hashlib.sha256()
        for path in sorted(paths):
            state.update(os.fsencode(Path(path).relative_to(self.root)))
            state.update(self.facts.sha256(Plane.of(path).file).encode())
        self.facts.save()
        return state.hexdigest()

    def class_weights(self, balance: float = 1.0) -> tuple[float, ...]:
        """Weights that balance the classes over the training labels.

        Args:
            balance: as of `overtile.transforms.class_weights_of_counts`.

        Returns:
            One a class, of cells (background, cell).
        """
        from overtile.transforms import class_weights_of_counts  # loads PyTorch

        found = [self.facts.label(**item) for item in self.train]
        counts = [sum(f.background for f in found), sum(f.cells for f in found)]
        if len(self.classes) > 2:  # of fewer it is the same
            counts = [
                sum(sum(f.counts[n : n + 1]) for f in found) for n in range(len(self.classes))
            ]
        return class_weights_of_counts(counts, balance)

    def class_numbers(self, chosen: Sequence[int | str] | None) -> list[int] | None:
        """Numbers of classes that are named or numbered; None stays.

        Raises:
            DataError: for one that is no class of this set.
        """
        if chosen is None:
            return None
        known: dict[int | str, int] = {n: n for n in range(len(self.classes))}
        known |= {name: n for n, name in enumerate(self.classes) if name not in known}
        for one in chosen:
            if one not in known:
                named = ", ".join(f"{n} {name}" for n, name in enumerate(self.classes))
                raise DataError("border_classes", repr(one), f"a class: {named}")
        return [known[one] for one in chosen]


def find_data(
    dataset_dir: str | Path | None,
    layout: str = "auto",
    val_fraction: float = 0.2,
    labels: str = "instances",
    spatial_dims: int = 2,
    channels: Channels = None,
    skip_unreadable: bool = False,
    cache_dir: str | Path | None = None,
    fold: int | None = None,
    folds: int = 5,
    train_subset: int | None = None,
    ignore: int | None = None,
    unlabelled: str = "background",
    band: float = 10.0,
    class_names: Sequence[str] | None = None,
    spacing: Wanted = None,
) -> DataSet:
    """The labelled images of a folder, every one of them read and checked.

    What was found out is remembered in ``cache_dir`` until a file changes. What was decoded for
    it of training and validation images is handed on to whoever reads them next.

    Args:
        dataset_dir: in one of the layouts of `overtile.pipelines.data.layouts`.
        layout: ``"auto"`` looks which of them it is.
        val_fraction: share of the training images, the last ones, that validates where the
            folder brings no ``val/``. Of a stack these are the last slices, because
            neighbouring slices resemble each other. 0 validates on none.
        labels: ``"instances"``, one number a cell; ``"mask"``, cells are what is not 0;
            ``"membranes"``, the same, refusing labels of more than two values; or ``"classes"``,
            one number a class.
        spatial_dims: 2 takes volumes plane by plane, 3 whole.
        channels: of the images, as of `read_image`.
        skip_unreadable: leave out what cannot be used, whatever is wrong with it, and list it,
            instead of raising.
        cache_dir: default: `default_cache`.
        fold: of a cross-validation, from 0: that one of ``folds`` contiguous blocks of the
            training images is the unseen test set, whatever else the folder brings.
        folds: how many.
        train_subset: train with so few of the training images, spread evenly over them.
        ignore: as of `overtile.pipelines.images.annotation.Annotation`, which pixels of labels are
            annotated.
        unlabelled: likewise.
        band: likewise.
        class_names: of ``"classes"``, from that of 0 on; None takes those of the folder's
            ``dataset.json``, else numbers.
        spacing: that images are to be resampled to, in millimetres a pixel along each axis of the
            array, in its order; ``"median"`` is that of the training images along each axis; None
            takes images as they are.

    Raises:
        DataError: if nothing is found, an image has no label or the reverse, sizes differ, a
            file cannot be read, images differ in their channels, the training labels are not what
            ``labels`` says, there are too few images for what is asked, or an image does not say
            its spacing where one is asked for.
    """
    check_labels_kind(labels)
    annotation = Annotation(ignore, unlabelled, band)
    if not 0 <= val_fraction < 1:
        raise DataError("val_fraction", str(val_fraction), "at least 0 and less than 1")
    wanted = check_spacing(spacing, spatial_dims)
    handed_on.only(())  # what an earlier call left
    root, found, splits, skipped, facts = _labelled(
        dataset_dir,
        layout,
        spatial_dims,
        channels,
        skip_unreadable,
        cache_dir,
        labels,
        annotation,
        hand_on=True,
        spacing=wanted,
    )
    splits = folded(root, splits, fold, folds)
    train = splits["train"]
    classes = _classes(root, labels, class_names, train, facts)
    check_labels(splits, labels, facts, classes)
    if not any(facts.label(**item).cells for item in train):
        raise DataError(
            Path(train[0]["label"]),
            f"no {'class above 0' if labels == 'classes' else 'cell'} in it, nor in any other "
            "training label",
            "one in one of them at least",
        )
    no_background = unlabelled == "ignore" or ignore == 0
    if no_background and not any(facts.label(**item).background for item in train):
        hint = Setting("unlabelled", "band", "to take what is near to cells for background")
        raise DataError(
            Path(train[0]["label"]),
            "no background in it, nor in any other training label",
            "background in one of them at least",
            hint,
        )
    if not splits.get("val") and len(train) < 2 and val_fraction:
        raise DataError(root, f"{len(train)} labelled image", "at least 2, one to validate")
    train, val = validated(splits, val_fraction)
    if train_subset is not None:
        train = thinned(train, train_subset)
    handed_on.only({path for item in (*train, *val) for path in item.values()})
    name, test = root.resolve().name, splits.get("test", [])
    first = facts.image(train[0]["image"])
    sizes = [
        [(item["image"], facts.image(item["image"]).spacing_mm) for item in items]
        for items in (train, [*val, *test])
    ]
    return DataSet(
        name=name,
        layout=found,
        root=root,
        train=train,
        val=val,
        test=test,
        skipped=skipped,
        classes=classes,
        in_channels=first.channels,
        channel_names=list(first.channel_names) or None,
        spacing=resolved_spacing(wanted, *sizes),
        facts=facts,
    )


def _classes(
    root: Path, labels: str, given: Sequence[str] | None, train: list[Item], facts: FactBook
) -> tuple[str, ...]:
    """Names of the classes that a network tells apart.

    Raises:
        DataError: as of `class_names`, and for names of others than classes.
    """
    if labels == "classes":
        known = [(Path(item["label"]), facts.label(**item)) for item in train]
        return class_names_of(root, given, known, facts.annotation.ignore)
    if given is not None:
        classes = Setting("labels", "classes", "to tell several apart")
        raise DataError("class_names", f"{list(given)} of {labels}", "names of classes", classes)
    return ("background", "cell")


def labelled_images(
    dataset_dir: str | Path | None,
    layout: str = "auto",
    split: str | None = None,
    val_fraction: float = 0.2,
    labels: str = "instances",
    spatial_dims: int = 2,
    channels: Channels = None,
    skip_unreadable: bool = False,
    cache_dir: str | Path | None = None,
    fold: int | None = None,
    folds: int = 5,
    ignore: int | None = None,
    unlabelled: str = "background",
    band: float = 10.0,
    class_names: Sequence[str] | None = None,
    in_channels: int | None = None,
    channel_names: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
) -> list[Item]:
    """Items ``{"image": path, "label": path}`` to score; arguments as of `find_data`.

    Args:
        dataset_dir: None is no image, so that a configuration can be looked at.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``; None is the test images where the
            folder has such, else all. Without a ``val/`` the first two are what `find_data`
            makes of the training images with the same ``val_fraction``.
        in_channels: of the network that is scored; None for any number that all images have.
        channel_names: that it was trained with, in their order; None where that is not known.
        spacing: that it was trained with.

    Raises:
        DataError: as `find_data`, for a split that is not there, and for images with other
            channels than the network's.
    """
    if dataset_dir is None:
        return []
    annotation = Annotation(ignore, unlabelled, band)
    wanted = None if in_channels is None else (in_channels, channel_names, OF_THE_NETWORK)
    root, _, splits, _, facts = _labelled(
        dataset_dir,
        layout,
        spatial_dims,
        channels,
        skip_unreadable,
        cache_dir,
        labels,
        annotation,
        wanted,
        spacing=check_spacing(spacing, spatial_dims),
    )
    splits = folded(root, splits, fold, folds)
    check_labels_kind(labels)
    train = splits.get("train") or next(iter(splits.values()))
    check_labels(splits, labels, facts, _classes(root, labels, class_names, train, facts))
    if split is None:
        split = "test" if splits.get("test") else "all"
    if split == "all":
        return [item for items in splits.values() for item in items]
    splits["train"], splits["val"] = validated(splits, val_fraction)
    if not splits.get(split):
        raise DataError(root, f"no split {split!r}", f"all, {', '.join(splits)}")
    return splits[split]


def _labelled(
    dataset_dir: str | Path | None,
    layout: str,
    spatial_dims: int,
    channels: Channels,
    skip_unreadable: bool,
    cache_dir: str | Path | None,
    labels: str,
    annotation: Annotation,
    wanted: _Wanted | None = None,
    hand_on: bool = False,
    spacing: list[float] | str | None = None,
) -> tuple[Path, str, dict[str, list[Item]], list[str], FactBook]:
    if dataset_dir is None:
        raise DataError("dataset_dir", "it is not set", hint=Setting("dataset_dir", "DIR"))
    root = Path(dataset_dir)
    if not root.is_dir():
        hint = "give one that holds images and labels"
        raise DataError(("dataset_dir", root), "no such folder", hint=hint)
    annotation = annotation_of(root, labels, annotation)
    cache = Path(cache_dir or default_cache())
    facts = FactBook(cache, root, spatial_dims, channels, annotation, hand_on)
    found, pairs = find_pairs(root, layout)
    skipped: list[str] = []
    splits: dict[str, list[Item]] = {}
    count = sum(map(len, pairs.values()))
    with tqdm(total=count, desc="looking at the images", delay=2, leave=False, disable=None) as bar:
        for split, members in pairs.items():
            splits[split] = []
            for pair in members:
                try:
                    items = items_of(pair, facts)
                    wanted = wanted or _channels_of(items[0]["image"], facts)
                    for item in items:
                        facts.check_channels(item["image"], *wanted)
                        facts.check_spacing(item["image"], spacing)
                    splits[split] += items
                except DataError as error:
                    if not skip_unreadable:
                        raise
                    skipped.append(error.worded(lambda _: None))
                bar.update()
    facts.save()
    for folder in sorted({pair.image.parent for members in pairs.values() for pair in members}):
        log_strangers(folder)
    log_remarks(facts.remarks)
    for what in skipped:
        log.warning("left out: %s", what)
    if not splits["train"]:
        found_none = f"none of its {len(skipped)} images can be read"
        raise DataError(root, found_none, hint="replace them")
    check_some_have(root, facts.channels, facts.coloured)
    return root, found, splits, skipped, facts


_Wanted = tuple[int, Sequence[str] | None, str]
"""Which channels all images have: how many, what they are called, and whose they are."""


def _channels_of(image: str, facts: FactBook) -> _Wanted:
    seen = facts.image(image)
    return seen.channels, seen.channel_names, f"as {Path(image).name} has"


def items_of(pair: Pair, facts: FactBook) -> list[Item]:
    """One item a plane of a labelled image, every one read and checked.

    Raises:
        DataError: if image and label differ in size, or one cannot be used.
    """
    planes, size = facts.planes(pair.image)
    labelled, label_size = facts.planes(pair.label, like=pair.image)
    images = planes_of(pair.image, planes)
    if pair.plane is not None:
        if pair.plane >= planes:
            raise DataError(
                pair.label,
                (f"of plane {pair.plane} of", pair.image, f"which has {planes}"),
                f"a plane from 0 to {planes - 1}",
                "rename the label",
            )
        images = images[pair.plane : pair.plane + 1]
    if label_size != size:
        other = f"size {size_text(label_size)}, but its image", pair.image, f"is {size_text(size)}"
        raise DataError(pair.label, other, "the same size")
    if labelled != len(images):
        other = f"{labelled} planes, but its image", pair.image, f"has {len(images)}"
        raise DataError(pair.label, other, "one label plane for every image plane")
    both = zip(images, planes_of(pair.label, labelled), strict=True)
    items = [{"image": str(image), "label": str(label)} for image, label in both]
    for item in items:
        facts.image(item["image"])
        facts.label(**item)
    return items
