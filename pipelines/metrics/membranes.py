"""Membranes in electron microscopy, as the ISBI 2012 challenge and the U-Net paper score them.

Labels say where cells are, predictions how probable cell is. Both are cut into a map of cells at
several thresholds; objects are 4-connected, their background 8-connected, and every slice of a
stack is an image of its own. `docs/reference/metrics.md` has all definitions.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from overtile.pipelines.errors import DataError
from overtile.pipelines.metrics import membrane_kernels

Counts = NDArray[Any]
PerThreshold = tuple[float, ...]

# accumulated in float64, as the field's tools do: the fourth is 0.30000000000000004
THRESHOLDS_OF_V = tuple(float(t) for t in np.cumsum([0.0] + [0.1] * 10))
THRESHOLDS = THRESHOLDS_OF_V[:10]
METRICS = ("pixel_error", "rand_error", "warping_error", "v_rand", "v_info")
_SLACK = 1e-6  # a softmax may round to a little more than 1


class WarpingCounts(NamedTuple):
    """Pixels in which label and prediction differ after warping, by what they mean."""

    object_deletion: int
    object_addition: int
    hole_deletion: int
    hole_addition: int
    split: int
    merge: int


@dataclass(frozen=True)
class _Score:
    """What all have; ``float(score)`` is the headline.

    Attributes:
        value: the headline, at the best threshold.
        per_threshold: the same at each of `THRESHOLDS` (`THRESHOLDS_OF_V` for V_rand and V_info).
    """

    value: float
    per_threshold: PerThreshold

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class PixelError(_Score):
    """1 - F1 of cell pixels, the lowest over the thresholds.

    Attributes:
        counts: at each threshold (cell in both, cell in the prediction, cell in the label).
    """

    counts: tuple[tuple[int, int, int], ...] = field(repr=False)


@dataclass(frozen=True)
class RandError(_Score):
    """1 - F of the pairs of cell pixels that lie in one object, the lowest over the thresholds.

    Attributes:
        counts: at each threshold pairs (in one object in both, in the prediction, in the label).
    """

    counts: tuple[tuple[int, int, int], ...] = field(repr=False)


@dataclass(frozen=True)
class WarpingError(_Score):
    """Split and merge pixels over all pixels, the lowest over the thresholds.

    Attributes:
        counts: at each threshold what is left of the differences, by kind.
        all_mismatches: at each threshold all that is left, over all pixels.
        pixels: of the stack.
    """

    counts: tuple[WarpingCounts, ...] = field(repr=False)
    all_mismatches: PerThreshold = field(repr=False)
    pixels: int = field(repr=False)


@dataclass(frozen=True)
class VRand(_Score):
    """F of the thinned prediction, averaged over slices, the highest over the thresholds.

    Attributes:
        per_slice: F of each slice at each threshold.
    """

    per_slice: tuple[PerThreshold, ...] = field(repr=False)


@dataclass(frozen=True)
class VInfo(_Score):
    """F of the information that label and thinned prediction share; as `VRand` otherwise.

    Attributes:
        per_slice: F of each slice at each threshold.
    """

    per_slice: tuple[PerThreshold, ...] = field(repr=False)


@dataclass(frozen=True)
class EmReport:
    """The five metrics of one stack."""

    pixel_error: PixelError
    rand_error: RandError
    warping_error: WarpingError
    v_rand: VRand
    v_info: VInfo


def em_report(labels: ArrayLike, probabilities: ArrayLike) -> EmReport:
    """All five metrics at once, in less time than one after the other.

    Args:
        labels: ``[H, W]`` or ``[N, H, W]``, 0 = membrane, another value = cell.
        probabilities: of cell, in [0, 1], of the same shape.

    Raises:
        DataError: if shapes differ or values are not what they are expected to be.
    """
    counts = em_counts(as_map(labels), probabilities, METRICS)
    return EmReport(
        pixel_error_of(counts["pixel_error"].sum(0)),
        rand_error_of(counts["rand_error"].sum(0)),
        warping_error_of(counts["warping_error"].sum(0)),
        v_rand_of(counts["v_rand"]),
        v_info_of(counts["v_info"]),
    )


def pixel_error(labels: ArrayLike, probabilities: ArrayLike) -> PixelError:
    """1 - the maximum over thresholds 0.0 .. 0.9 of F1, with *cell* as the positive class.

    Pixels are counted over the whole stack. F1 of a label and a prediction without cells is 1.

    Args:
        labels: ``[H, W]`` or ``[N, H, W]``, 0 = membrane, another value = cell.
        probabilities: of cell, in [0, 1], of the same shape.

    Raises:
        DataError: if shapes differ or values are not what they are expected to be.
    """
    return pixel_error_of(
        em_counts(as_map(labels), probabilities, ["pixel_error"])["pixel_error"].sum(0)
    )


def rand_error(labels: ArrayLike, probabilities: ArrayLike) -> RandError:
    """Rand error of the U-Net paper: 1 - the maximum over thresholds 0.0 .. 0.9 of F.

    F is of pairs of pixels that are cell in the label: those that one object of the label holds,
    and those that one object of the prediction holds. Pairs are counted over the whole stack. F
    without any pair is 1.

    Args:
        labels: ``[H, W]`` or ``[N, H, W]``, 0 = membrane, another value = cell.
        probabilities: of cell, in [0, 1], of the same shape.

    Raises:
        DataError: if shapes differ or values are not what they are expected to be.
    """
    return rand_error_of(
        em_counts(as_map(labels), probabilities, ["rand_error"])["rand_error"].sum(0)
    )


def warping_error(labels: ArrayLike, probabilities: ArrayLike) -> WarpingError:
    """Warping error of the U-Net paper: the minimum over thresholds 0.0 .. 0.9.

    The label is warped into the prediction without changing its topology (Jain et al., 2010);
    of the differences that are left, those that split or merge cells count. A nearly empty
    prediction has none, so this number says nothing alone.

    Args:
        labels: ``[H, W]`` or ``[N, H, W]``, 0 = membrane, another value = cell.
        probabilities: of cell, in [0, 1], of the same shape.

    Raises:
        DataError: if shapes differ or values are not what they are expected to be.
    """
    counts = em_counts(as_map(labels), probabilities, ["warping_error"])["warping_error"]
    return warping_error_of(counts.sum(0))


def v_rand(labels: ArrayLike, probabilities: ArrayLike) -> VRand:
    """V_rand, by which the challenge ranks since 2015 (Arganda-Carreras et al., 2015).

    The prediction's objects grow until lines of one pixel are between them. F compares them with
    the label's; its mean over slices is taken at thresholds 0.0 .. 1.0, and then the maximum. F of
    a slice without cells in its label is 0.

    Args:
        labels: ``[H, W]`` or ``[N, H, W]``, 0 = membrane, another value = cell.
        probabilities: of cell, in [0, 1], of the same shape.

    Raises:
        DataError: if shapes differ or values are not what they are expected to be.
    """
    return v_rand_of(em_counts(as_map(labels), probabilities, ["v_rand"])["v_rand"])


def v_info(labels: ArrayLike, probabilities: ArrayLike) -> VInfo:
    """V_info, the challenge's second score (Arganda-Carreras et al., 2015).

    As `v_rand`, with F = 2 I / (H(label) + H(prediction)). Where both are one object there is no
    information to share, and F is 0.

    Args:
        labels: ``[H, W]`` or ``[N, H, W]``, 0 = membrane, another value = cell.
        probabilities: of cell, in [0, 1], of the same shape.

    Raises:
        DataError: if shapes differ or values are not what they are expected to be.
    """
    return v_info_of(em_counts(as_map(labels), probabilities, ["v_info"])["v_info"])


def em_counts(
    labels: ArrayLike, probabilities: ArrayLike, metrics: Collection[str]
) -> dict[str, Counts]:
    """What ``metrics`` are computed from, slice by slice; slices in parallel.

    Args:
        labels: ``[H, W]`` or ``[N, H, W]``, > 0 = cell: a mask or instance labels.
        probabilities: as of `em_report`.
        metrics: some of `METRICS`.

    Returns:
        For each ``[N, thresholds, k]``: of pixel error and Rand error (both, predicted,
        labelled), of warping error the counts of `WarpingCounts` and the slice's pixels; of V_rand
        and V_info the numerator and the denominator of F.

    Raises:
        DataError: as `em_report`.
    """
    cells, p = _checked(labels, probabilities)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(len(cells), cores or 1)
    with ThreadPoolExecutor(workers) as pool:  # the kernels run without Python's lock
        slices = list(pool.map(lambda cell, q: _slice_counts(cell, q, metrics), cells, p))
    return {name: np.stack([counts[name] for counts in slices]) for name in metrics}


def pixel_error_of(counts: Counts) -> PixelError:
    """From counts of a stack, ``[thresholds, 3]``, see `em_counts`."""
    return PixelError(*_lowest(_one_minus_f(counts)), _rows(counts))


def rand_error_of(counts: Counts) -> RandError:
    """From counts of a stack, ``[thresholds, 3]``, see `em_counts`."""
    return RandError(*_lowest(_one_minus_f(counts)), _rows(counts))


def warping_error_of(counts: Counts) -> WarpingError:
    """From counts of a stack, ``[thresholds, 7]``, see `em_counts`."""
    pixels = int(counts[0, 6])
    kinds = tuple(WarpingCounts(*map(int, row[:6])) for row in counts)
    every = tuple(sum(row) / pixels for row in kinds)
    return WarpingError(
        *_lowest([(row.split + row.merge) / pixels for row in kinds]), kinds, every, pixels
    )


def v_rand_of(counts: Counts) -> VRand:
    """From counts of the slices, ``[N, thresholds, 2]``, see `em_counts`."""
    return VRand(*_mean_and_best(f := slice_f(counts)), _floats(f))


def v_info_of(counts: Counts) -> VInfo:
    """From counts of the slices, ``[N, thresholds, 2]``, see `em_counts`."""
    return VInfo(*_mean_and_best(f := slice_f(counts)), _floats(f))


def slice_f(counts: Counts) -> NDArray[np.float64]:
    """F of each slice at each threshold from ``[N, thresholds, 2]``; 0 where it is 0/0."""
    above, below = counts[..., 0], counts[..., 1]
    return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)


def _one_minus_f(counts: Counts) -> list[float]:
    both, predicted, labelled = counts.T
    total = predicted + labelled
    f = np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)
    return [float(1 - value) for value in f]


def _lowest(errors: list[float]) -> tuple[float, PerThreshold]:
    return min(errors), tuple(errors)


def _mean_and_best(f: NDArray[np.float64]) -> tuple[float, PerThreshold]:
    means = f.mean(0)
    return float(means.max()), tuple(map(float, means))


def _floats(f: NDArray[np.float64]) -> tuple[PerThreshold, ...]:
    return tuple(tuple(map(float, row)) for row in f)


def _rows(counts: Counts) -> tuple[tuple[int, int, int], ...]:
    return tuple((int(a), int(b), int(c)) for a, b, c in counts)


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Cells and probabilities, ``[N, H, W]``."""
    label, p = np.asarray(labels), np.asarray(probabilities)
    if label.shape != p.shape:
        raise DataError(
            found=f"probabilities of size {p.shape} for labels of size {label.shape}",
            expected="the same size and number of slices",
        )
    if label.ndim not in (2, 3) or not label.size:
        raise DataError(found=f"labels of size {label.shape}", expected="[H, W] or [N, H, W]")
    if p.dtype.kind not in "fbiu":
        raise DataError(found=f"probabilities of {p.dtype}", expected="numbers in [0, 1]")
    if np.isnan(p).any():
        raise DataError(
            found=f"{np.isnan(p).sum()} probabilities are NaN", expected="numbers in [0, 1]"
        )
    if p.min() < -_SLACK or p.max() > 1 + _SLACK:
        raise DataError(
            found=f"probabilities from {p.min():g} to {p.max():g}",
            expected="P(cell) in [0, 1]",
            hint="divide an image of 8 bits by 255",
        )
    cells = cells_of(label)
    return cells.reshape(-1, *label.shape[-2:]), p.reshape(-1, *p.shape[-2:])


def as_map(labels: ArrayLike) -> NDArray[Any]:
    """``labels``, if they are a map of cells and membranes: two values, one of them 0.

    Raises:
        DataError: for instances, classes and grey values.
    """
    try:
        label = np.asarray(labels)
    except ValueError as error:
        raise DataError("labels", str(error), "[H, W] or slices of one size") from None
    if label.dtype.kind in "iu" and label.size and (low := label.min()) >= 0:
        high = label.max()
        if high > low and (low > 0 or ((label != low) & (label != high)).any()):
            raise DataError(
                found=f"labels of {len(np.unique(label))} values from {low} to {high}",
                expected="a membrane map of two, 0 = membrane and another = cell",
                hint=("cut it at a threshold", "give labels > 0 for instances"),
            )
    return label


def cells_of(label: NDArray[Any]) -> NDArray[np.bool_]:
    """Where labels say cell: > 0.

    Integers may be a mask or instance labels; `as_map` is stricter. Floats may only be a mask,
    of two values (0 and another): more are a map of probabilities in the wrong place.

    Raises:
        DataError: for other numbers.
    """
    if label.dtype.kind not in "fbiu":
        raise DataError(found=f"labels of {label.dtype}", expected="integers, > 0 = cell")
    if label.dtype.kind == "f":
        values = np.unique(label)
        if np.isnan(values).any() or values[0] < 0 or (values > 0).sum() > 1:
            raise DataError(
                found=f"labels of {label.dtype} with {len(values)} values from {values[0]:g} to "
                f"{values[-1]:g}",
                expected="integers, or floats of two values: 0 = membrane and another = cell",
            )
    elif label.dtype.kind == "i" and label.min() < 0:
        raise DataError(found=f"labels from {label.min()}", expected="integers from 0, > 0 = cell")
    return label > 0


def _slice_counts(
    cell: NDArray[np.bool_], p: NDArray[Any], metrics: Collection[str]
) -> dict[str, Counts]:
    """`em_counts` of one slice ``[H, W]``."""
    stride = cell.shape[0] + 2
    label = membrane_kernels.framed(cell).ravel()
    probability = membrane_kernels.framed(p.astype(np.float64)).ravel()  # compared in float64
    # the tool whose warping error it is knows float32 alone
    single = membrane_kernels.framed(p.astype(np.float32).astype(np.float64)).ravel()
    queue, found = np.empty(label.size, np.int64), np.empty(label.size, np.int32)
    basins = np.empty(label.size, np.int32)
    objects = membrane_kernels.components(label, stride, found, queue)
    pixels, starts = membrane_kernels.by_object(found, objects)
    labelled = pixels.size
    count = {name: len(THRESHOLDS_OF_V if name[0] == "v" else THRESHOLDS) for name in metrics}
    shape = {"warping_error": (7, np.int64), "v_rand": (2, np.int64), "v_info": (2, np.float64)}
    result: dict[str, Counts] = {}
    for name in metrics:
        width, kind = shape.get(name, (3, np.int64))
        result[name] = np.zeros((count[name], width), kind)
    tables, thinning = {"rand_error", "v_rand", "v_info"} & set(metrics), {"v_rand", "v_info"}
    before = None  # pixels above the threshold before: as many are the same ones
    for n in range(max(count.values())):
        found_cells = probability > THRESHOLDS_OF_V[n]
        found_cells_count = int(np.count_nonzero(found_cells))
        same = before == found_cells_count
        before = found_cells_count
        for name in metrics:
            if same and n < count[name] and name != "warping_error":
                result[name][n] = result[name][n - 1]
        if "warping_error" in metrics and n < len(THRESHOLDS):
            kinds = _warping(label, single, THRESHOLDS[n], stride, queue, found)
            result["warping_error"][n] = (*kinds, cell.size)
        if same:
            continue
        if "pixel_error" in metrics and n < len(THRESHOLDS):
            both = int(np.count_nonzero(found_cells & label))
            result["pixel_error"][n] = both, found_cells_count, labelled
        if not tables:
            continue
        segments = membrane_kernels.components(found_cells, stride, found, queue)
        if "rand_error" in metrics and n < len(THRESHOLDS):
            sums, _ = membrane_kernels.contingency(pixels, starts, found, segments)
            total, outside, squares, rows, columns = sums
            inside = total - outside
            twice = squares - inside, columns - inside, rows - total
            result["rand_error"][n] = [pairs // 2 for pairs in twice]
        if thinning & tables:
            segments = membrane_kernels.thin(found, segments, stride, basins, queue)
            sums, (joint, of_label, of_found) = membrane_kernels.contingency(
                pixels, starts, basins, segments
            )
            _, dams, squares, rows, columns = sums
            if "v_rand" in metrics:
                result["v_rand"][n] = 2 * (squares + dams), rows + columns + dams
            if "v_info" in metrics:
                shared = max(of_label + of_found - joint, 0.0)  # rounding
                result["v_info"][n] = 2 * shared, of_label + of_found
    return result


def _warping(
    cell: NDArray[np.bool_],
    p: NDArray[np.float64],
    threshold: float,
    stride: int,
    queue: NDArray[np.int64],
    objects: NDArray[np.int32],
) -> Counts:
    """Counts of `WarpingCounts` at a threshold."""
    warped = cell.copy()
    mismatches = np.flatnonzero(cell != (p > threshold))
    distance = np.abs(p[mismatches] - threshold).astype(np.float32)  # rounded once, here
    mismatches = mismatches[np.argsort(-distance, kind="stable")]
    left = membrane_kernels.warp(warped, mismatches, stride, membrane_kernels._SIMPLE)
    membrane_kernels.components(warped, stride, objects, queue)
    kinds: Counts = membrane_kernels.classify(warped, mismatches[:left], objects, stride, queue)
    return kinds
