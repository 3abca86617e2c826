"""Find images and labels in the layouts that the field uses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from overtile.pipelines.errors import DataError
from overtile.pipelines.reading import (
    TIFF,
    image_shape,
    is_image,
    read_image,
    split_page,
    stem,
)
from overtile.transforms import balanced_class_weights

Item = dict[str, str]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataSet:
    """Labelled images, split into what trains, what chooses the best network, what is unseen.

    Attributes:
        name: of the data set, for people.
        layout: how it lies on disk: ``"pairs"`` or ``"stack"``.
        root: its folder.
        train: items ``{"image": path, "label": path}``; ``stack.tif:3`` is page 3 of a stack.
        val: likewise.
        test: likewise; may be empty.
    """

    name: str
    layout: str
    root: Path
    train: list[Item]
    val: list[Item]
    test: list[Item] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 over the paths and bytes of every file, in order of the paths."""
        state = hashlib.sha256()
        items = [*self.train, *self.val, *self.test]
        for file in sorted({split_page(item[key])[0] for item in items for key in item}):
            state.update(str(file.relative_to(self.root)).encode())
            state.update(file.read_bytes())
        return state.hexdigest()

    def class_weights(self) -> tuple[float, float]:
        """Weights for (background, cell) that balance both over the training labels."""
        return balanced_class_weights(read_image(item["label"])[0] for item in self.train)


def find_data(
    dataset_dir: str | Path | None,
    layout: str = "auto",
    val_fraction: float = 0.2,
    labels: str = "instances",
) -> DataSet:
    """The labelled images of a folder.

    Args:
        dataset_dir: holds either ``images/`` and ``labels/`` with files of equal names
            (``"pairs"``), perhaps under ``train/``, ``val/`` and ``test/``, or
            ``train-volume.tif`` and ``train-labels.tif`` (``"stack"``, as in ISBI 2012).
        layout: ``"auto"`` looks which of them it is.
        val_fraction: share of the training images, the last ones, that validates where the
            folder brings no ``val/``. Of a stack these are the last slices, because
            neighbouring slices resemble each other.
        labels: ``"instances"``, one number a cell, or ``"mask"``, cells are what is not 0.

    Raises:
        DataError: if nothing is found, an image has no label or the reverse, sizes differ, or
            the training labels are not what ``labels`` says.
    """
    if dataset_dir is None:
        raise DataError("dataset_dir is not set; give --dataset_dir DIR")
    root = Path(dataset_dir)
    if not root.is_dir():
        raise DataError(
            f"dataset_dir {root}: no such folder; give one that holds images and labels"
        )
    if layout not in ("auto", *_LAYOUTS):
        raise DataError(f"layout {layout!r}: expected auto, {', '.join(_LAYOUTS)}")
    found = _recognise(root) if layout == "auto" else layout
    splits = _LAYOUTS[found](root)
    for items in splits.values():
        _check_sizes(items)
    train, val = splits["train"], splits.get("val", [])
    _check_training_labels(train, labels)
    if not val:
        if not 0 < val_fraction < 1:
            raise DataError(f"val_fraction {val_fraction}: expected more than 0 and less than 1")
        count = min(max(1, round(val_fraction * len(train))), len(train) - 1)
        if len(train) < 2:
            raise DataError(
                f"{root}: {len(train)} labelled image; expected at least 2, one to validate"
            )
        train, val = train[:-count], train[-count:]
    return DataSet(root.resolve().name, found, root, train, val, splits.get("test", []))


def images_in(source: str | Path) -> list[Item]:
    """The images of a folder, or the one image named, as items without labels.

    Each page of a TIFF stack is an image.

    Raises:
        DataError: if there are none, or two have the same name up to the suffix.
    """
    path = Path(source)
    file, page = split_page(path)
    if file.is_file():
        return [{"image": p} for p in (_pages(file) if page is None else [str(path)])]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    files = _images_by_stem(path)
    if not files:
        raise DataError(f"{path}: no images; expected files ending in .tif, .png or .nii.gz")
    return [{"image": page} for file in files.values() for page in _pages(file)]


def _recognise(root: Path) -> str:
    if any((root / f"train-volume{suffix}").is_file() for suffix in TIFF):
        return "stack"
    if any((root / sub / "images").is_dir() for sub in ("", "train")):
        return "pairs"
    raise DataError(
        f"{root}: no layout recognised; expected images/ and labels/ (also under train/, val/, "
        "test/), or train-volume.tif and train-labels.tif"
    )


def _pairs(root: Path) -> dict[str, list[Item]]:
    splits = [split for split in SPLITS if (root / split / "images").is_dir()]
    if (root / "images").is_dir():
        if splits:
            raise DataError(f"{root}: both images/ and {splits[0]}/images/; expected one of them")
        return {"train": _folder_of_pairs(root)}
    if "train" not in splits:
        raise DataError(f"{root}: no images/ or train/images/; expected one of them")
    return {split: _folder_of_pairs(root / split) for split in splits}


def _folder_of_pairs(folder: Path) -> list[Item]:
    files: dict[str, dict[str, Path]] = {}
    for kind in ("images", "labels"):
        if not (folder / kind).is_dir():
            raise DataError(f"{folder}: no folder {kind}/; expected images/ and labels/")
        files[kind] = _images_by_stem(folder / kind)
    images, labels = files["images"], files["labels"]
    if not images:
        raise DataError(f"{folder / 'images'}: no images; expected .tif, .png or .nii.gz files")
    for one, other, wanted in ((images, labels, "labels"), (labels, images, "images")):
        alone = [path for name, path in one.items() if name not in other]
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise DataError(
                f"{alone[0]}: nothing of that name in {folder / wanted}{more}; "
                "expected one label for every image"
            )
    _check_sizes([{"image": str(images[n]), "label": str(labels[n])} for n in images])
    return [
        {"image": image, "label": label}
        for name in images
        for image, label in zip(_pages(images[name]), _pages(labels[name]), strict=True)
    ]


def _images_by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path):
            other = found.setdefault(stem(path), path)
            if other != path:
                raise DataError(f"{path}: {other.name} has the same name; rename one of them")
    return found


def _pages(file: Path) -> list[str]:
    """The pages of a TIFF stack, or the file itself."""
    if not file.name.lower().endswith(TIFF):
        return [str(file)]
    shape = image_shape(file)
    stacked = len(shape) == 3 and shape[-1] not in (3, 4)
    return [f"{file}:{page}" for page in range(shape[0])] if stacked else [str(file)]


def _stack(root: Path) -> dict[str, list[Item]]:
    volume, labels = (
        next(
            (p for p in (root / f"train-{n}{s}" for s in TIFF) if p.is_file()),
            root / f"train-{n}.tif",
        )
        for n in ("volume", "labels")
    )
    (pages, *size), label_shape = image_shape(volume), image_shape(labels)
    if (pages, *size) != label_shape:
        raise DataError(
            f"{labels}: size {_text(label_shape)}, but {volume.name} is {_text((pages, *size))}; "
            "expected one label page for every image page, of the same size"
        )
    return {"train": [{"image": f"{volume}:{i}", "label": f"{labels}:{i}"} for i in range(pages)]}


_LAYOUTS = {"pairs": _pairs, "stack": _stack}


def _check_training_labels(items: Sequence[Item], kind: str) -> None:
    """Refuse labels without a cell, and masks where instances are expected."""
    if kind not in ("instances", "mask"):
        raise DataError(f"labels {kind!r}: expected instances or mask")
    masks, empty = [], True
    for item in items:
        array = read_image(item["label"])[0]
        names = np.unique(array[array != 0])
        empty = empty and not len(names)
        if len(names) > 1:
            return
        if len(names) and ndimage.label(array)[1] > 1:
            masks.append(item["label"])
    if empty:
        raise DataError(f"{items[0]['label']}: no cell in it, nor in any other training label")
    if masks and kind == "instances":
        raise DataError(
            f"{masks[0]}: one value for several cells, here and in every training label; "
            "expected instances, one number a cell: number the connected components, or take "
            "the bundle em_membranes, which does"
        )


def _check_sizes(items: Sequence[Item]) -> None:
    for item in items:
        image, label = image_shape(item["image"]), image_shape(item["label"])
        if image != label:
            raise DataError(
                f"{item['label']}: size {_text(label)}, but its image {item['image']} is "
                f"{_text(image)}; expected the same size"
            )


def _text(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
