"""What names of files and folders say: which are labels, and whose."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from overtile.pipelines.errors import DataError, printable
from overtile.pipelines.images.case_name import as_case, numbered
from overtile.pipelines.images.formats import format_of, image_suffix, is_image, stem

log = logging.getLogger(__name__)

SPLITS = {
    "train": ("train", "training", "stage1_train"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "stage1_test"),
}
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagesTr")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "annotations", "gt", "labelsTr")
LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg", "_gt", "_instances")
"""With which names of labels end, before the suffix."""
_BYPRODUCTS = ("_flows", "_cp_flows", "_cp_output", "_outlines_cp_masks")
"""With which names end that Cellpose writes beside an image, and that are neither."""
_STRANGERS = {
    *(".czi", ".nd2", ".lif", ".oib", ".oif", ".ims", ".mrxs", ".vsi", ".dv", ".zvi", ".sld"),
    *(".npy", ".npz", ".mrc", ".h5", ".hdf5", ".mha", ".mhd", ".nrrd", ".mgz", ".heic", ".avif"),
}
"""Suffixes of images in formats that are not read."""


def image_of(name: str) -> str | None:
    """``a`` for ``a_masks``; None for an image."""
    for ending in LABEL_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return None


def folders_in(folder: Path) -> list[Path]:
    """Without hidden ones."""
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def folder_of(folder: Path, names: Iterable[str]) -> Path | None:
    """The folder in ``folder`` that has the first of these names."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def images_of(folder: Path) -> list[Path]:
    """The images of a folder; none where there is no folder."""
    return sorted(f for f in folder.iterdir() if is_image(f)) if folder.is_dir() else []


def is_one_image(path: Path) -> bool:
    """Whether a file or folder is an image; a folder that holds but one is a folder of images."""
    if not path.is_dir() or image_suffix(path.name):
        return True
    return is_image(path) and len(images_of(path)) != 1


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without suffix, without by-products of Cellpose.

    Raises:
        DataError: if two have the same.
    """
    found: dict[str, Path] = {}
    for path in images_of(folder):
        other = found.setdefault(stem(path), path)
        if other != path:
            raise DataError(path, f"{other.name} has the same name", hint="rename one of them")
    return {
        name: path
        for name, path in found.items()
        if not any(name.endswith(e) and name.removesuffix(e) in found for e in _BYPRODUCTS)
    }


def cases(images: Mapping[str, Path]) -> dict[str, Path]:
    """nnU-Net's ``a_0000`` and ``a_0001`` as one image ``a``, with the name of `channel_files`.

    Args:
        images: by their names without suffix; if not all are named so, they are left as they are.

    Raises:
        DataError: if a case lacks a channel that another has.
    """
    found: dict[str, dict[str, Path]] = {}
    for name, path in images.items():
        if (parts := numbered(name)) is None:
            return dict(images)
        found.setdefault(parts[0], {})[parts[1]] = path
    every = sorted({number for files in found.values() for number in files})
    for files in found.values():
        for number in every:
            if number not in files:
                other = next(iter(files.values()))
                lacking = other.with_name(re.sub(r"_\d{4}(?!.*_\d{4})", f"_{number}", other.name))
                raise DataError(
                    lacking,
                    ("no such file, but", other.name),
                    f"a file for each channel: {', '.join(every)}",
                    "add it, or remove the files of the case",
                )
    return {name: as_case([files[n] for n in every]) for name, files in found.items()}


def unlike(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by name.

    Raises:
        DataError: if two have the same.
    """
    found: dict[str, Path] = {}
    for name, path in files:
        if name in found:
            told = f"belongs to {name!r} as {found[name].name} does"
            raise DataError(path, told, "one file", "remove one of them")
        found[name] = path
    return found


def check_partners(ones: dict[str, Path], others: dict[str, Path], folder: Path) -> None:
    """Refuse an image without a label, or a label without an image.

    Args:
        ones: by name, of which each needs a partner.
        others: the partners by name.
        folder: of these, for the message.

    Raises:
        DataError: naming the first.
    """
    alone = [path for name, path in ones.items() if name not in others]
    if alone:
        more = f"(and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise DataError(
            alone[0],
            ("nothing of that name in", folder, more),
            "one label for every image",
            ("add it", "remove the file"),
        )


def log_strangers(folder: Path) -> None:
    """Say which images of a folder are left out: by their format, or by their names."""
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith(".")]
    unread = [f for f in files if f.suffix.lower() in _STRANGERS]
    named = {stem(f) for f in files if is_image(f)}  # which may have a header beside them
    rest = [f for f in files if f not in unread and stem(f) not in named and f.stem not in named]
    for others, why in (
        (unread, "in formats that are not read"),
        ([f for f in rest if format_of(f)], "with an image inside and a name that says otherwise"),
    ):
        if others:
            many = f"{len(others)} file{'s' * (len(others) > 1)}"
            log.warning("left out: %s %s, as %s", many, why, printable(others[0]))


def log_remarks(remarks: Mapping[str, Sequence[Path]]) -> None:
    """Say what is to be known of files, a line for each thing."""
    for remark, files in remarks.items():
        others = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
        log.warning("%s%s: %s", printable(files[0]), others, remark)
