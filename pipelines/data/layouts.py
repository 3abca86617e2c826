"""Which files belong together, in each layout that the field uses."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overtile.pipelines.data.annotations import FINAL_LABELS, noted_owner, notes_of, suffix_of
from overtile.pipelines.errors import DataError, UnknownLayoutError
from overtile.pipelines.images.formats import is_image, stem

TIFF = (".tif", ".tiff")

log = logging.getLogger(__name__)

SPLITS = {
    "train": ("train", "training", "stage1_train"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "stage1_test"),
}
IMAGES = ("images", "image", "imgs", "img", "imagesTr")
LABELS = ("labels", "label", "masks", "mask", "annotations", "gt", "labelsTr")
SUFFIXES = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg", "_gt", "_instances")


@dataclass(frozen=True)
class Pair:
    """An image file and its label file.

    Attributes:
        image: file, or folder that is one image.
        label: likewise.
        plane: of the image, where the label belongs to one plane alone.
    """

    image: Path
    label: Path
    plane: int | None = None


def find_pairs(root: Path, layout: str = "auto") -> tuple[str, dict[str, list[Pair]]]:
    """The layout of a folder, and its labelled images by split.

    Args:
        root: the folder; ``train/``, ``val/`` and ``test/`` in it are splits.
        layout: one of `LAYOUTS`, or ``"auto"`` to look which.

    Raises:
        DataError: if nothing is found, or an image has no label or the reverse. Of what was
            annotated in the page of ``overtile label``, images without one are left out.
    """
    if layout not in ("auto", *LAYOUTS):
        raise DataError(f"layout {layout!r}: expected auto, {', '.join(LAYOUTS)}")
    folders = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLITS.items()
    }
    own = _recognise(root)
    if folders["train"] is None or own in ("stack", "ctc"):
        name = _wanted(root, layout, own)
        return name, {"train": LAYOUTS[name](root)}
    if own is not None:
        raise DataError(
            f"{root}: both {folders['train'].name}/ and images of its own (layout {own}); "
            "expected one of them"
        )
    name = _wanted(folders["train"], layout, _recognise(folders["train"]))
    found = {}
    for split, folder in folders.items():
        if folder is not None and not (split == "test" and not _holds_labels(folder)):
            found[split] = LAYOUTS[name](folder)
    return name, found


def _wanted(folder: Path, layout: str, own: str | None) -> str:
    if layout != "auto":
        return layout
    if own is None:
        bare = any(is_image(f) for f in folder.iterdir()) if folder.is_dir() else False
        found = " (images, but no labels)" if bare else ""
        raise UnknownLayoutError(
            f"{folder}: no layout recognised{found}; expected images/ and labels/, NAME.tif beside "
            "NAME_masks.tif, train-volume.tif and train-labels.tif, 01/ and 01_GT/SEG/, "
            "ID/images/ and ID/masks/, or NAME.tif with labels/final/NAME.tif (all but the third "
            "also under train/, val/, test/)"
        )
    return own


def _recognise(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    if any((folder / f"train-volume{suffix}").is_file() for suffix in TIFF):
        return "stack"
    if _sequences(folder):
        return "ctc"
    # before `pairs` and `suffixes`: the page lists every image of the folder itself, whatever its
    # name, and leaves labels/ to folders of tags
    if (
        _images_of(folder / FINAL_LABELS)
        and _images_of(folder)
        and not _images_of(folder / "labels")
    ):
        return "annotated"
    if _sub(folder, IMAGES) is not None:
        return "pairs"
    if any((f / "masks").is_dir() for f in _cases(folder)):
        return "kaggle"
    files = {stem(p) for p in folder.iterdir() if is_image(p)}
    labelled = {image_of(name) for name in files} - {None}
    images = {re.sub("_(img|image)$", "", name) for name in files}
    return "suffixes" if labelled & images else None


def _holds_labels(folder: Path) -> bool:
    """Whether a folder is more than images to try a network on."""
    own = _recognise(folder)
    return own is not None and (own != "pairs" or _sub(folder, LABELS) is not None)


def _pairs(folder: Path) -> list[Pair]:
    images_in, labels_in = _sub(folder, IMAGES), _sub(folder, LABELS)
    others = [n for n in LABELS if (folder / n).is_dir() and folder / n != labels_in]
    if labels_in is not None and others:
        raise DataError(
            f"{folder}: both {labels_in.name}/ and {others[0]}/; expected one folder of labels: "
            "move the other away"
        )
    for found, names in ((images_in, IMAGES), (labels_in, LABELS)):
        if found is None:
            raise DataError(f"{folder}: no folder {names[0]}/; expected images/ and labels/")
    assert images_in is not None
    assert labels_in is not None
    images, labels = images_by_stem(images_in), images_by_stem(labels_in)
    if not images:
        raise DataError(f"{images_in}: no images; expected TIFF, PNG, NIfTI, DICOM or OME-Zarr")
    if not set(images) & set(labels):  # other tools' habits
        images = _without_channel(images)
        labels = _unlike((image_of(name) or name, path) for name, path in labels.items())
    _check_partners(images, labels, labels_in)
    _check_partners(labels, images, images_in)
    return [Pair(images[name], labels[name]) for name in images]


def _without_channel(images: dict[str, Path]) -> dict[str, Path]:
    """nnU-Net's ``case_0000`` by ``case``."""
    found = [re.fullmatch(r"(.+)_(\d{4})", name) for name in images]
    if not all(found):
        return images
    channels = {match[2] for match in found if match}
    if len(channels) > 1:
        raise DataError(
            f"{next(iter(images.values())).parent}: channels {', '.join(sorted(channels))} in "
            "files of their own; expected one channel: keep the files of one"
        )
    return {m[1]: path for m, path in zip(found, images.values(), strict=True) if m}


def _check_partners(ones: dict[str, Path], others: dict[str, Path], folder: Path) -> None:
    alone = [path for name, path in ones.items() if name not in others]
    if alone:
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise DataError(
            f"{alone[0]}: nothing of that name in {folder}{more}; "
            "expected one label for every image: add it, or remove the file"
        )


def _suffixes(folder: Path) -> list[Pair]:
    files = images_by_stem(folder)
    named = [(image_of(name), name, path) for name, path in files.items()]
    labels = _unlike((image, path) for image, _, path in named if image is not None)
    images = _unlike(
        (re.sub("_(img|image)$", "", name), path) for image, name, path in named if image is None
    )
    if not labels or not images:
        raise DataError(f"{folder}: no files NAME.tif with NAME_masks.tif; expected such pairs")
    _check_partners(images, labels, folder)
    _check_partners(labels, images, folder)
    return [Pair(images[name], labels[name]) for name in images]


def _unlike(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by name, each name once."""
    found: dict[str, Path] = {}
    for name, path in files:
        if name in found:
            raise DataError(
                f"{path}: belongs to {name!r} as {found[name].name} does; expected one file: "
                "remove one of them"
            )
        found[name] = path
    return found


def image_of(name: str) -> str | None:
    """``a`` for ``a_masks``; None for an image."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return None


def _stack(folder: Path) -> list[Pair]:
    found = []
    for name in ("volume", "labels"):
        files = [folder / f"train-{name}{suffix}" for suffix in TIFF]
        found.append(next((f for f in files if f.is_file()), files[0]))
        if not found[-1].is_file():
            raise DataError(f"{found[-1]}: no such file; expected train-volume and train-labels")
    volume, labels = found
    return [Pair(volume, labels)]


def _ctc(folder: Path) -> list[Pair]:
    sequences = _sequences(folder)
    if not sequences:
        raise DataError(f"{folder}: no 01/ with 01_GT/SEG/; expected the Cell Tracking Challenge's")
    pairs = []
    annotated = {sequence: _annotated(sequence) for sequence in sequences}
    for sequence, labels in annotated.items():
        if not labels:
            bare = f"{sequence}_GT/SEG: no man_seg*.tif, nor in {sequence.name}_ST/SEG"
            if not any(annotated.values()):
                raise DataError(f"{bare}; expected at least one annotated frame")
            log.warning("left out: %s", bare)
        numbered = [(re.search(r"(\d+)$", stem(f)), f) for f in sorted(sequence.iterdir())]
        frames = _unlike((str(int(m[1])), f) for m, f in numbered if m and is_image(f))
        for label in labels:
            match = re.fullmatch(r"man_seg_?(\d+)(?:_(\d+))?", stem(label))
            if match is None:
                raise DataError(f"{label}: expected man_segT.tif or man_seg_T_Z.tif; rename it")
            frame = str(int(match[1]))
            if frame not in frames:
                raise DataError(f"{label}: no frame t{match[1]}.tif in {sequence}; add it")
            pairs.append(Pair(frames[frame], label, int(match[2]) if match[2] else None))
    return pairs


def _sequences(folder: Path) -> list[Path]:
    return [
        f
        for f in _folders(folder)
        if re.fullmatch(r"\d{2,3}", f.name)
        and any(f.with_name(f"{f.name}_{kind}").is_dir() for kind in ("GT", "ST"))
    ]


def _annotated(sequence: Path) -> list[Path]:
    """Segmented frames: the gold truth, or the silver one where there is no gold."""
    for kind in ("GT", "ST"):
        folder = sequence.with_name(f"{sequence.name}_{kind}") / "SEG"
        files = sorted(f for f in folder.iterdir() if is_image(f)) if folder.is_dir() else []
        if files:
            return files
    return []


def _kaggle(folder: Path) -> list[Pair]:
    pairs = []
    for case in _cases(folder):
        images = [f for f in sorted((case / "images").iterdir()) if is_image(f)]
        masks = case / "masks"
        if len(images) != 1:
            raise DataError(f"{case / 'images'}: {len(images)} images; expected one")
        if not masks.is_dir() or not any(is_image(f) for f in masks.iterdir()):
            raise DataError(f"{images[0]}: no masks in {masks}; expected one file a cell")
        pairs.append(Pair(images[0], masks))
    if not pairs:
        raise DataError(f"{folder}: no ID/images/ with ID/masks/; expected Kaggle's folders")
    return pairs


def _cases(folder: Path) -> list[Path]:
    """Kaggle's folders of one image each, which are no splits."""
    splits = {name for names in SPLITS.values() for name in names}
    return [f for f in _folders(folder) if (f / "images").is_dir() and f.name not in splits]


def _folders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _sub(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _annotated_in_page(folder: Path) -> list[Pair]:
    """What ``overtile label`` keeps; a label belongs to the image for which its page shows it."""
    files, home = _images_of(folder), folder / FINAL_LABELS
    names = Counter(map(stem, files))
    images = _unlike((stem(f) if names[stem(f)] == 1 else f.name, f) for f in files)
    by_file = {image.name: name for name, image in images.items()}
    notes = notes_of(folder)
    labels = _unlike((_labelled_by(f, images, by_file, notes), f) for f in _images_of(home))
    if not labels:
        raise DataError(f"{home}: no labels; expected those that were submitted in the page")
    _check_partners(labels, images, folder)
    if len(labels) < len(images):
        bare = len(images) - len(labels)
        log.warning("left out: %d of %d images, without a label in %s", bare, len(images), home)
    return [Pair(images[name], labels[name]) for name in images if name in labels]


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
                f"{label}: of {owner}, which is not there any more; put it back, or remove the "
                "label"
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


def _images_of(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if is_image(f)) if folder.is_dir() else []


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without suffix.

    Raises:
        DataError: if two have the same.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path):
            other = found.setdefault(stem(path), path)
            if other != path:
                raise DataError(f"{path}: {other.name} has the same name; rename one of them")
    return found


LAYOUTS: dict[str, Callable[[Path], list[Pair]]] = {
    "pairs": _pairs,
    "suffixes": _suffixes,
    "stack": _stack,
    "ctc": _ctc,
    "kaggle": _kaggle,
    "annotated": _annotated_in_page,
}
