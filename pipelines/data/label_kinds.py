"""Whether labels are what they are said to be: instances, a mask, membranes, classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from overtile.pipelines.data.facts import FactBook, Item, LabelFacts
from overtile.pipelines.errors import Advice, DataError, Setting

_INSTANCES = "instances, one number a cell"
_CLASSES = 16  # more numbers than that are no classes
_FEW = 3  # cells in a label; around fewer one of them may lie
_CUT = "cut it at a threshold"
_AS_MASK = Setting("labels", "mask", "to take what is not 0 as cell")
_FROM_0 = "subtract 1, if 1 is the background (as ilastik exports it)"


def label_faults(
    found: Mapping[str, LabelFacts], labels: str, classes: Sequence[str] = ()
) -> Iterator[DataError]:
    """Why labels cannot be what they are said to be; nothing if they can.

    Whoever takes labels asks this: looking at data, training, evaluation, the label server.

    Args:
        found: what is known of the labels of one split, by name.
        labels: ``"instances"``, ``"mask"``, ``"membranes"`` or ``"classes"``.
        classes: names of these; empty where they are not known yet.
    """
    if labels == "classes":
        for name, f in found.items():
            if fault := _of_classes(name, f, classes):
                yield fault
        return
    check = {"instances": _of_instances, "mask": _of_mask, "membranes": _of_map}[labels]
    faults = {name: fault for name, f in found.items() if (fault := check(name, f))}
    yield from faults.values()
    rest = {name: f for name, f in found.items() if name not in faults}
    if labels == "instances":
        yield from list(_background(rest)) or _classes(rest)
    elif any(f.cells for f in rest.values()) and not any(f.background for f in rest.values()):
        yield DataError(
            Path(next(iter(rest))),
            "no 0 in it, nor in the labels beside it",
            "0 = background" if labels == "mask" else "0 = membrane",
            _FROM_0,
        )


def check_labels(
    splits: Mapping[str, Sequence[Item]], labels: str, facts: FactBook, classes: Sequence[str] = ()
) -> None:
    """Refuse the first label that cannot be what it is said to be; arguments as of `label_faults`.

    Raises:
        DataError: as `label_faults` has it.
    """
    for items in splits.values():
        for fault in label_faults({i["label"]: facts.label(**i) for i in items}, labels, classes):
            raise fault


def _of_instances(name: str, f: LabelFacts) -> DataError | None:
    """Grey values."""
    told = _scattered(f)
    return DataError(Path(name), told, _INSTANCES, _CUT) if told else None


def _of_mask(name: str, f: LabelFacts) -> DataError | None:
    """Grey values, and labels without a background, which would be one cell.

    Instances or a few classes may be read as a mask: their numbers lie in one place, or are few. A
    mask that was saved with losses has few other numbers, too, but those lie in specks.
    """
    expected = "a mask, 0 = background and another = cell"
    if _scattered(f):
        return DataError(Path(name), _scattered(f), expected, _CUT)
    if f.names > 1 and f.pieces >= 2 * f.names and 2 * f.specks > f.pieces:
        told = f"{_values(f)}, most of their regions specks, as a format with losses leaves them"
        return DataError(Path(name), told, expected, _CUT)
    if f.names > 1 and not f.background:
        return DataError(Path(name), _values(f), expected, _FROM_0)
    return None


def _of_classes(name: str, f: LabelFacts, classes: Sequence[str]) -> DataError | None:
    """More numbers than classes can have, and numbers that are no class."""
    numbered = Setting("labels", "instances", "if every cell has a number")
    if not f.counts and f.names:
        return DataError(Path(name), _values(f), "classes, 0 to at most 255", numbered)
    if _scattered(f):
        return DataError(Path(name), _scattered(f), "classes, one number each", numbered)
    beyond = next((n for n, c in enumerate(f.counts) if c and n >= len(classes)), None)
    if not classes or beyond is None:
        return None
    place = tuple(map(int, np.unravel_index(f.firsts[beyond], f.shape)))
    told = f"{beyond} at {place}"
    named = ", ".join(f"{n} {name}" for n, name in enumerate(classes[:6]))
    expected = f"{named}{' ...' if len(classes) > 6 else ''}"
    gap = Setting("ignore", beyond, "if that is where nothing is annotated")
    return DataError(Path(name), told, expected, (gap, "name it as a class"))


def _of_map(name: str, f: LabelFacts) -> DataError | None:
    """More than two values: classes, instances, or a map with soft edges."""
    if f.names < 2:
        return None
    numbered = Setting("labels", "instances", "if every cell has a number")
    hint: tuple[Advice, ...] = (_CUT, _AS_MASK, numbered) if f.background else (_CUT, _FROM_0)
    expected = "a membrane map of two, 0 = membrane and another = cell"
    return DataError(Path(name), _values(f), expected, hint)


def _classes(found: Mapping[str, LabelFacts]) -> Iterator[DataError]:
    """The first label that numbers classes instead of cells, if all of them seem to.

    So it seems where numbers stand for twice as many separate regions, none of the labels has a
    second number, or most numbers lie in several places. Cells that touch make fewer regions than
    there are numbers, and cells in pieces are rare.
    """
    numbers = sum(map(_objects, found.values()))
    classes = sum(f.components for f in found.values()) >= 2 * numbers
    strewn = 2 * sum(f.split for f in found.values()) > numbers
    single = all(f.names < 2 for f in found.values())
    beside = ", and the labels beside it likewise" if len(found) > 1 else ""
    for name, f in found.items():
        none = "" if f.background else ", none of them 0"
        told = ""
        if f.components > _objects(f) and (classes or (single and f.pieces > 1)):
            told = f"{f.names} value(s){none} for {f.components} separate cells{beside}"
        elif strewn and f.split:
            told = f"{f.split} of {f.names} value(s){none} in several places{beside}"
        if told:
            hint = _AS_MASK if f.background else _FROM_0
            yield DataError(Path(name), told, _INSTANCES, (hint, "number the cells"))
            return


def _background(found: Mapping[str, LabelFacts]) -> Iterator[DataError]:
    """The first of labels without a 0 whose lowest number is a background with cells in it.

    So it seems where in all of them it is the largest, and touches most of the others.
    """
    several = {name: f for name, f in found.items() if f.names > 1}
    if any(f.background for f in found.values()):
        return
    if sum(f.names - 1 for f in several.values()) < _FEW * max(1, len(several)):
        return
    if all(2 * f.around > f.names - 1 for f in several.values()):
        name, f = next(iter(several.items()))
        told = f"no 0 in it, and its lowest number lies around {f.around} of {f.names - 1} others"
        yield DataError(Path(name), told, "0 = background", (_FROM_0, "number the cells"))


def _objects(f: LabelFacts) -> int:
    """How many numbers may be those of cells, as `LabelFacts.components` has it."""
    return f.names if f.background or f.names < 2 else f.names - 1


def _values(f: LabelFacts) -> str:
    count = f.names + (f.background > 0)
    return f"{count} value{'s' * (count > 1)}{'' if f.background else ', none of them 0'}"


def _scattered(f: LabelFacts) -> str:
    """What a label of grey values looks like: many numbers, most of which lie in several places.

    So does a map of probabilities, or a mask from a lossy file.
    """
    if f.names <= _CLASSES or 2 * f.split <= f.names:
        return ""
    return f"{_values(f)}, most of them scattered, as in an image or a map of probabilities"
