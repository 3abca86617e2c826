"""Which classes labels have, and what these are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from overtile.pipelines.bundle.json_file import read_object
from overtile.pipelines.data.facts import LabelFacts
from overtile.pipelines.errors import DataError, Setting
from overtile.pipelines.images.annotation import Annotation

DESCRIPTION = "dataset.json"  # of the Medical Segmentation Decathlon and of nnU-Net
_SAME = "name every class once, from 0 on without a gap"


def class_names(
    root: Path,
    given: Sequence[str] | None,
    labels: Sequence[tuple[Path, LabelFacts]],
    ignore: int | None = None,
) -> tuple[str, ...]:
    """Names of the classes 0 .. K-1.

    They are those given; else those of the folder's ``dataset.json``; else numbers, as many as the
    labels have.

    Args:
        root: folder of the data set.
        given: by the user.
        labels: what is known of the labels to train with.
        ignore: the number of pixels that are not annotated.

    Raises:
        DataError: if there are fewer than two, two have one name, the file describes something
            else, ``ignore`` is one of them, or numbers are left out that nobody has named.
    """
    file = root / DESCRIPTION
    if given is not None or file.is_file():
        told = ("class_names", list(given)) if given is not None else (file, _described(file))
        names = _checked(*told)
        if ignore is not None and 0 <= ignore < len(names):
            found = f"{ignore}, which is the class {names[ignore]}"
            raise DataError("ignore", found, f"a number that is no class, 0 to {len(names) - 1}")
        return names
    numbers = {n for _, facts in labels for n, count in enumerate(facts.counts) if count}
    if not numbers:
        where, facts = labels[0]
        raise DataError(
            where,
            f"{facts.names} numbers, or none at all",
            "classes, 0 to at most 255",
            Setting("labels", "instances", "if every cell has a number"),
        )
    missing = sorted({*range(max(numbers) + 1)} - numbers)
    if missing:
        hint: tuple[Any, ...] = ("subtract 1, if 1 is the background (as ilastik exports it)",)
        hint = hint if missing == [0] else ()
        shown = ", ".join(map(str, missing[:4])) + (" ..." if len(missing) > 4 else "")
        raise DataError(
            labels[0][0],
            f"classes up to {max(numbers)} here and in the other training labels, but no {shown}",
            "classes numbered from 0 (background) without a gap",
            (*hint, Setting("class_names", "LIST", f"with {max(numbers) + 1} names")),
        )
    return ("background", *(f"{n}" for n in range(1, max(numbers) + 1)))


def _checked(where: str | Path, names: list[Any]) -> tuple[str, ...]:
    if len(names) < 2 or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(where, f"classes {names}", "at least two names", _SAME)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(where, f"two classes called {twice!r}", "names that differ", _SAME)
    return tuple(names)


def _described(file: Path) -> list[str]:
    """Names in the order of their numbers: ``{"1": "liver"}`` or ``{"liver": 1}``."""
    labels = read_object(file, "mend it").get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(file, "no labels in it", '{"labels": {"background": 0, "liver": 1}}')
    numbers: dict[int, str] = {}
    for key, value in labels.items():
        name, number = (value, key) if str(key).isdecimal() else (key, value)
        if isinstance(number, list):
            raise DataError(
                file,
                f"{name!r} is a region of several classes",
                "classes, each with one number",
                "give each class a number of its own",
            )
        if not str(number).isdecimal() or int(number) in numbers:
            raise DataError(file, f"class {name!r} is {number!r}", "a number of its own", _SAME)
        numbers[int(number)] = str(name)
    if (last := max(numbers)) and numbers[last].lower() == "ignore":  # nnU-Net's
        del numbers[last]
    if sorted(numbers) != list(range(len(numbers))):
        raise DataError(file, f"classes {sorted(numbers)}", f"0 to {len(numbers) - 1}", _SAME)
    return [numbers[n] for n in range(len(numbers))]


def annotation_of(root: Path, labels: str, annotation: Annotation) -> Annotation:
    """Which pixels are annotated: a ``dataset.json`` may call a number of classes ``ignore``, too.

    Args:
        root: folder of the data set.
        labels: the kind of labels.
        annotation: as the user has it.
    """
    file = root / DESCRIPTION
    if annotation.ignore is not None or labels != "classes" or not file.is_file():
        return annotation
    described = read_object(file, "mend it").get("labels")
    number = described.get("ignore") if isinstance(described, dict) else None
    known = isinstance(number, int) and not isinstance(number, bool)
    return replace(annotation, ignore=number) if known else annotation


def ignored_value(dataset_dir: str | Path | None, labels: str, ignore: int | None) -> int | None:
    """The number of pixels that are not annotated; for a configuration, beside `find_data`.

    Args:
        dataset_dir: as of `find_data`.
        labels: likewise.
        ignore: likewise.

    Raises:
        DataError: as `annotation_of`.
    """
    root = None if dataset_dir is None else Path(dataset_dir)
    return ignore if root is None else annotation_of(root, labels, Annotation(ignore)).ignore
