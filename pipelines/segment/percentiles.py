"""What `overtile.transforms.NormalizeImage` needs to know of an image, a part at a time.

The percentiles are exact: an order statistic is found by counting. Integers of up to 16 bits are
counted by value. All others are taken as float32, as they are read for the network, and their bit
patterns, turned so that they sort as the numbers do, are counted by the upper half first and then,
within the halves that matter, by the lower one (a radix selection).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from overtile.transforms.normalize import moment_scale, percentile_scale, ranks

_BINS = 2**16


class Moments(NamedTuple):
    """How many values, their mean, the sum of squared differences from it, and their range."""

    number: int
    mean: float
    squares: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, array: NDArray[Any]) -> Moments:
        """Those of an array that is not empty."""
        values = array.astype(np.float32).astype(np.float64)
        mean = float(values.mean())
        squares = float(((values - mean) ** 2).sum())
        return cls(values.size, mean, squares, float(values.min()), float(values.max()))

    def with_(self, other: Moments) -> Moments:
        """Those of both parts together (Chan, Golub, LeVeque: Updating formulae, 1979)."""
        number = self.number + other.number
        apart = other.mean - self.mean
        mean = self.mean + apart * other.number / number
        squares = self.squares + other.squares + apart**2 * self.number * other.number / number
        lowest, highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        return Moments(number, mean, squares, lowest, highest)


def counts_of_upper(array: NDArray[Any]) -> NDArray[np.int64]:
    """How often each value of 16 bits occurs; of wider ones, how often each upper half."""
    keys = _keys(array)
    if keys.dtype == np.uint32:
        keys = (keys >> 16).astype(np.uint16)
    return np.bincount(keys.ravel(), minlength=_BINS)


def counts_of_lower(array: NDArray[Any], upper: Sequence[int]) -> NDArray[np.int64]:
    """``[len(upper), 65536]``: the lower halves of the values with these upper halves."""
    keys = _keys(array).ravel()
    halves = (keys >> 16).astype(np.uint16)
    return np.stack(
        [np.bincount(keys[halves == u] & 0xFFFF, minlength=_BINS).astype(np.int64) for u in upper]
    )


def _keys(array: NDArray[Any]) -> NDArray[Any]:
    """Unsigned integers that sort as the values do: of 16 bits where these are enough."""
    if array.dtype.kind in "iub" and array.dtype.itemsize <= 2:
        lowest = _lowest(array.dtype)
        return (array.astype(np.int32) - lowest).astype(np.uint16)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _lowest(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).min) if dtype.kind == "i" else 0


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether one pass of counting tells everything."""
    return dtype.kind in "iub" and dtype.itemsize <= 2


def _value(key: int) -> float:
    bits = key ^ (1 << 31) if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


Each = Callable[[Callable[..., Any]], Iterable[Any]]


def scale_of(method: str, dtype: np.dtype[Any], each: Each) -> tuple[float, float]:
    """What becomes 0, and the width that becomes 1, as `NormalizeImage` has it.

    Args:
        method: of `NormalizeImage`.
        dtype: of the pixels.
        each: applies a function of an array to all parts of the image, and hands out the answers
            in a fixed order, without the parts that cannot be read.
    """
    if method == "none":
        return 0.0, 1.0
    if method == "zscore":
        total = Moments(0, 0.0, 0.0, math.inf, -math.inf)
        for part in each(Moments.of):
            total = total.with_(part)
        if not total.number:
            return 0.0, 0.0
        deviation = math.sqrt(total.squares / total.number)
        return moment_scale(total.mean, deviation, total.lowest, total.highest)
    counts = np.zeros(_BINS, np.int64)
    for part in each(counts_of_upper):
        counts += part
    count = int(counts.sum())
    if not count:
        return 0.0, 0.0
    return percentile_scale(_ordered(counts, ranks(count), dtype, each), count)


def _ordered(
    counts: NDArray[np.int64], ranks: Sequence[int], dtype: np.dtype[Any], each: Each
) -> dict[int, float]:
    """The values at these ranks, from the counts of all."""
    ends = np.cumsum(counts)
    bins = [int(np.searchsorted(ends, rank, side="right")) for rank in ranks]
    if is_narrow(dtype):
        lowest = _lowest(dtype)
        values = {rank: float(found + lowest) for rank, found in zip(ranks, bins, strict=True)}
    else:
        upper = sorted(set(bins))
        lower = np.zeros((len(upper), _BINS), np.int64)
        for part in each(partial(counts_of_lower, upper=upper)):
            lower += part
        values = {}
        for rank, found in zip(ranks, bins, strict=True):
            before = int(ends[found] - counts[found])
            row = np.cumsum(lower[upper.index(found)])
            low = int(np.searchsorted(row, rank - before, side="right"))
            values[rank] = _value(found << 16 | low)
    return values
