"""What DICOM frames make together: series, and a series a volume, volumes in time, or pages.

Frames lie where their headers say (PS3.3 C.7.6.2). What does not make a regular grid is refused:
no order, distance or place is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, size_text
from overtile.pipelines.images.formats.dicom.headers import Frame

_SAME = 1e-3  # of directions and, relatively, of pixel sizes: what rounding in a header makes
_OFF = 0.1  # of the distance between slices: how far one may lie from where it should
_TILT = 0.5  # degrees that rounding in a header may make
_SHOWN = 4  # series that a message lists


@dataclass(frozen=True)
class Series:
    """Frames that belong together.

    Attributes:
        frames: in no order.
        told: what tells it from other series in the same place, for people.
    """

    frames: list[Frame]
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arranged:
    """Frames in order.

    Attributes:
        axes: X, Y, then a letter for each axis of ``frames``: Z, T, or Q for pages.
        frames: an array of them.
        affine: voxel index to millimetres (right, anterior, superior); None without a place.
        spacing: micrometres a pixel by axis letter, where there is no affine.
    """

    axes: str
    frames: NDArray[Any]
    affine: NDArray[np.float64] | None
    spacing: dict[str, float] = field(default_factory=dict)


def series_in(frames: list[Frame]) -> list[Series]:
    """The series that frames make, in the order of their first frames."""
    whole = Series(frames)
    parts = _split(whole, lambda f: f.series, lambda f: repr(f.title) if f.title else "")
    ways: list[tuple[Callable[[Frame], Hashable], Callable[[Frame], str]]] = [
        (lambda f: f.fault, lambda f: f.fault),
        (_placed, lambda f: "" if _placed(f) else "without a place"),
        (lambda f: f.stack.shape, lambda f: size_text(f.stack.shape)),
        (lambda f: f.marks.get("type"), lambda f: f.marks.get("type", "")),
    ]
    for key, word in ways:
        parts = [part for one in parts for part in _split(one, key, word)]
    for numbers, word in ((_directions, _direction_text), (_sizes, _size_text)):
        parts = [part for one in parts for part in _alike(one, numbers, word)]
    return [part for one in parts for part in _apart(one)]


def _split(
    series: Series, key: Callable[[Frame], Hashable], word: Callable[[Frame], str]
) -> list[Series]:
    """A series for each value; the same one, if there is one value."""
    found: dict[Hashable, list[Frame]] = {}
    for frame in series.frames:
        found.setdefault(key(frame), []).append(frame)
    if len(found) == 1:
        return [series]
    return [Series(some, (*series.told, word(some[0]))) for some in found.values()]


def _alike(
    series: Series, numbers: Callable[[Frame], NDArray[Any]], word: Callable[[Frame], str]
) -> list[Series]:
    """A series for each set of numbers, up to rounding."""
    models: list[NDArray[Any]] = []

    def key(frame: Frame) -> int:
        own = numbers(frame)
        for index, model in enumerate(models):
            if own.shape == model.shape and (np.abs(own - model) <= _SAME).all():
                return index
        models.append(own)
        return len(models) - 1

    return _split(series, key, word)


def _directions(frame: Frame) -> NDArray[Any]:
    return np.zeros(0) if frame.orientation is None else frame.orientation


def _direction_text(frame: Frame) -> str:
    if frame.orientation is None:
        return "without a direction"
    across = np.abs(np.cross(*frame.orientation)).argmax()
    return ("sagittal", "coronal", "axial")[across]


def _sizes(frame: Frame) -> NDArray[Any]:
    return np.log(frame.spacing or ())


def _size_text(frame: Frame) -> str:
    if frame.spacing is None:
        return "without a pixel size"
    return f"pixels of {frame.spacing[0]:.4g} x {frame.spacing[1]:.4g} mm"


def _apart(series: Series) -> list[Series]:
    """Series of what lies at one place and differs in more than time."""
    names = dict.fromkeys(name for frame in series.frames for name in frame.marks)
    parts = [series]
    for name in names:
        found: list[Series] = []
        for one in parts:
            found += _by_mark(one, name) if _repeats(one.frames) else [one]
        parts = found
    return parts


def _by_mark(series: Series, name: str) -> list[Series]:
    def mark(frame: Frame) -> str:
        return frame.marks.get(name, "none")

    return _split(series, mark, lambda frame: f"{name} {mark(frame)}")


def _placed(frame: Frame) -> bool:
    return frame.position is not None and frame.orientation is not None


def _places(frames: Sequence[Frame]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of placed frames ``[N, 3]``, and the direction across them."""
    across = np.cross(*_directions(frames[0]))
    return np.array([frame.position for frame in frames]), across / np.linalg.norm(across)


def _repeats(frames: list[Frame]) -> bool:
    """Whether several of them lie at one place."""
    return _placed(frames[0]) and len(_levels(frames)) < len(frames)


def _levels(frames: list[Frame]) -> list[list[Frame]]:
    """The frames at each height, from low to high."""
    positions, across = _places(frames)
    heights = positions @ across
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order])
    close = max(1e-4, 0.02 * steps.max(initial=0))  # rounding, in millimetres
    levels = [[frames[order[0]]]]
    for index, step in zip(order[1:], steps, strict=True):
        if step > close:
            levels.append([])
        levels[-1].append(frames[index])
    return levels


def one_of(path: Path, series: list[Series], number: int | None) -> Series:
    """The only series of a file or folder, or the one that is asked for.

    Raises:
        DataError: if there are several, or none of this number, saying what there is.
    """
    if number is None and len(series) == 1:
        return series[0]
    if number is not None and number < len(series):
        return series[number]
    told = []
    for index, one in enumerate(series[:_SHOWN]):
        count = len(one.frames)
        parts = (f"{count} slice{'s' if count > 1 else ''}", *filter(None, one.told))
        told.append(f"{path.name}/series{index} ({', '.join(parts)})")
    if len(series) > _SHOWN:
        told.append(f"{len(series) - _SHOWN} more")
    found = f"{len(series)} DICOM series" if number is None else f"no series {number}"
    raise DataError(
        path,
        f"{found}: {', '.join(told)}",
        "one",
        ("name one of them", "put each into a folder of its own"),
    )


def arranged(path: Path, frames: list[Frame]) -> Arranged:
    """The frames of a series in order.

    Raises:
        DataError: if they do not make a regular grid.
    """
    if fault := frames[0].fault:
        raise DataError(path, fault, "slices of grey values", "convert it")
    if not _placed(frames[0]):
        return _pages(path, frames)
    levels = _levels(frames)
    counts = {len(level) for level in levels}
    if len(counts) > 1:
        raise DataError(
            path,
            f"{min(counts)} to {max(counts)} slices at each of {len(levels)} places",
            "equally many at each",
            "complete the series, or move what is too much elsewhere",
        )
    levels = [_in_time(path, level) for level in levels]
    step = _step(path, levels)
    grid = np.empty((len(levels), len(levels[0])), object)
    for place, level in enumerate(levels):
        grid[place] = level
    axes, grid = ("XYZT", grid) if grid.shape[1] > 1 else ("XYZ", grid[:, 0])
    first = levels[0][0]
    if first.spacing is None:
        between = {"Z": float(np.linalg.norm(step)) * 1e3} if len(levels) > 1 else {}
        return Arranged(axes, grid, None, between)
    affine = np.eye(4)
    row, column = _directions(first)
    affine[:3, 0], affine[:3, 1] = row * first.spacing[1], column * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, first.position
    affine[:2] *= -1  # DICOM counts towards left and posterior, NIfTI towards right and anterior
    return Arranged(axes, grid, affine)


def _in_time(path: Path, level: list[Frame]) -> list[Frame]:
    """The frames at one place, the first first."""
    if len(level) == 1:
        return level
    for times in zip(*(frame.times for frame in level), strict=True):
        if all(times) and len(set(times)) == len(level):
            return [level[i] for i in sorted(range(len(level)), key=lambda i: times[i])]
    one, other = level[0].stack.file, level[-1].stack.file
    raise DataError(
        one,
        f"the same place as {other.name}, and nothing says which comes first",
        "one slice a place",
        "remove one of them",
    )


def _step(path: Path, levels: list[list[Frame]]) -> NDArray[np.float64]:
    """From a slice to the next, in millimetres.

    Raises:
        DataError: if they do not follow each other in a straight line, at one distance.
    """
    firsts = [level[0] for level in levels]
    positions, across = _places(firsts)
    if len(levels) == 1:  # the next one would lie there
        return across * (firsts[0].thickness or 1.0)
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(levels) - 1)
    height = float(step @ across)
    steps = np.diff(positions @ across)
    usual = float(np.median(steps))
    off = positions - positions[0] - np.arange(len(levels))[:, None] * step
    if np.abs(off @ across).max() > _OFF * height:
        wide = int(steps.argmax())
        expected, hint = "slices at one distance", "resample them"
        found = f"slices {steps.min():.4g} to {steps.max():.4g} mm apart"
        if np.abs(steps / usual - np.round(steps / usual)).max() <= _OFF:
            missing = int(np.round(steps / usual - 1).sum())
            found = (
                f"a gap of {steps[wide]:.4g} mm after {firsts[wide].stack.file.name}, where others"
                f" are {usual:.4g} mm apart: {missing} of {len(levels) + missing} slices missing"
            )
            hint = "add what is missing, or move one part elsewhere"
        raise DataError(path, found, expected, hint)
    tilt = np.degrees(np.arctan2(np.linalg.norm(step - height * across), height))
    if tilt > _TILT:
        raise DataError(
            path,
            f"slices tilted by {tilt:.3g} degrees against their direction (gantry tilt)",
            "slices straight above each other",
            "resample them",
        )
    aside = max(
        float(np.linalg.norm(frame.position - (positions[0] + place * step)))
        for place, level in enumerate(levels)
        for frame in level
        if frame.position is not None
    )
    if aside > max(firsts[0].spacing or (height,)):
        raise DataError(
            path,
            f"slices shifted against each other by up to {aside:.3g} mm",
            "slices straight above each other",
            "resample them",
        )
    return step


def _pages(path: Path, frames: list[Frame]) -> Arranged:
    """Pictures without a place in space: in the order of their numbers, at no distance."""
    if len({(f.instance, f.number) for f in frames}) < len(frames):
        raise DataError(
            path,
            f"{len(frames)} slices without a place in space, and without a number each",
            "ImagePositionPatient, or InstanceNumber",
            "give each file by itself",
        )
    ordered = sorted(frames, key=lambda f: (f.instance, f.number))
    grid = np.empty(len(frames), object)
    grid[:] = ordered
    spacing = frames[0].spacing
    known = {"Y": spacing[0] * 1e3, "X": spacing[1] * 1e3} if spacing else {}
    if len(frames) == 1:
        return Arranged("XY", grid.reshape(()), None, known)
    timed = len({f.stack for f in frames}) == 1 and frames[0].timed
    return Arranged("XYT" if timed else "XYQ", grid, None, known)
