"""Instances from the probabilities of a network that learned to separate them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from overtile.networks.errors import ArgumentError, ClassesError
from overtile.transforms.metadata import as_array, current, like
from overtile.transforms.two_nearest import two_nearest_cells
from overtile.transforms.watershed import watershed

_SLACK = 1e-3  # what half precision rounds by


def _check_probabilities(p: NDArray[Any]) -> None:
    low, high = (p.min(), p.max()) if p.size else (0.0, 0.0)
    if not -_SLACK <= low <= high <= 1 + _SLACK:  # NaN fails as well
        raise ArgumentError(
            f"probabilities from {low:g} to {high:g}",
            "P(cell) in [0, 1]",
            "apply softmax or sigmoid first",
        )


class InstancesFromProbabilities(Transform):
    """Connected components of P(cell) > threshold, grown back to where P(cell) > extent.

    A network that learned to separate cells under the border weights is cautious between them:
    a high threshold keeps cells apart but makes them too small. So cells are found at the high
    threshold, and then take back the pixels around them that are still likely to be cell. They
    never merge by growing: a pixel goes to the nearest cell, or, by ``growth="watershed"``, to
    the cell whose flood reaches it first when the pixels are flooded in order of falling
    probability, so that cells meet where P(cell) is lowest between them.

    Args:
        threshold: above which a pixel belongs to a cell's core, between 0 and 1.
        min_size: cores of fewer pixels are dropped.
        grow: how far cells grow back, in pixels; 0 leaves the cores.
        extent: above which a pixel may be grown into, between 0 and ``threshold``; None is
            ``threshold``.
        max_hole: holes of up to so many pixels that lie inside one cell are filled; 0 fills none.
        growth: ``"nearest"`` or ``"watershed"``.
        line: width of the line that `SeparateTouching` drew between touching cells in the training
            labels, in pixels: gaps as narrow as that are given back to the nearer of their two
            cells, whatever P(cell) is there; 0 gives none back.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        min_size: int = 0,
        grow: float = 0,
        extent: float | None = None,
        max_hole: int = 0,
        growth: str = "nearest",
        line: int = 0,
    ) -> None:
        extent = threshold if extent is None else extent
        numbers = {"threshold": threshold, "extent": extent, "min_size": min_size, "grow": grow}
        for name, value in {**numbers, "max_hole": max_hole, "line": line}.items():
            if not isinstance(value, Real):
                raise ArgumentError(f"{name}={value!r}", "a number")
        if not 0 <= extent <= threshold <= 1:
            raise ArgumentError(
                f"threshold={threshold}, extent={extent}", "0 <= extent <= threshold <= 1"
            )
        if min(min_size, grow, max_hole, line) < 0:
            raise ArgumentError(
                f"min_size={min_size}, grow={grow}, max_hole={max_hole}, line={line}",
                ">= 0, in pixels",
            )
        if growth not in ("nearest", "watershed"):
            raise ArgumentError(f"growth={growth!r}", "'nearest' or 'watershed'")
        self.threshold, self.extent, self.growth = threshold, extent, growth
        self.min_size, self.grow, self.max_hole, self.line = min_size, grow, max_hole, line

    def __call__(self, probabilities: NDArray[Any] | Tensor) -> NDArray[np.int32] | Tensor:
        """Probabilities ``[K, *S]`` in [0, 1] -> instances ``[1, *S]`` int32, 0 = background.

        The last channel is P(cell): the only one, or class 1 of a softmax over two.

        Raises:
            ValueError: for values that are no probabilities, or of more classes than two.
        """
        probabilities = current(probabilities)
        plain = as_array(probabilities)
        if len(plain) > 2:
            raise ClassesError(
                f"probabilities of {len(plain)} classes", "P(cell) alone, or background and cell"
            )
        _check_probabilities(plain[-1])
        labels, count = ndimage.label(plain[-1] > self.threshold)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        kept = sizes >= self.min_size
        kept[0] = False
        renumbered = np.where(kept, np.cumsum(kept), 0)
        labels = self.filled(self.grown(renumbered[labels], plain[-1]))
        instances = labels.astype(np.int32)[None]
        found: NDArray[np.int32] | Tensor
        found = like(instances, probabilities)
        return found

    def grown(self, cores: NDArray[Any], probability: NDArray[Any]) -> NDArray[Any]:
        """Numbered cores ``[*S]`` grown back, and lines between them closed, as far as set.

        Args:
            cores: integers, 0 = background.
            probability: of cell, ``[*S]`` in [0, 1].
        """
        labels = cores
        if self.grow:
            distance, _, nearest = two_nearest_cells(labels, cutoff=self.grow + 1)
            open_to = (labels == 0) & (probability > self.extent) & (distance <= self.grow)
            if self.growth == "nearest":
                labels = np.where(open_to, nearest, labels)
            else:
                labels = watershed(labels, probability, open_to)
        if self.line:
            near, far, nearest = two_nearest_cells(labels, cutoff=self.line + 2)
            # a gap of n pixels is n + 1 wide from cell to cell, along a diagonal up to n + 1.9
            labels = np.where((labels == 0) & (near + far < self.line + 2), nearest, labels)
        return labels

    def filled(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Instances ``[*S]`` with small holes filled, if any are to be."""
        return _fill_holes(labels, self.max_hole) if self.max_hole else labels


def _fill_holes(labels: NDArray[Any], max_hole: int) -> NDArray[Any]:
    """Give background that a single cell encloses to that cell.

    Holes are connected with diagonals, because cells are connected without.
    """
    everywhere = np.ones((3,) * labels.ndim, bool)
    holes, count = ndimage.label(labels == 0, everywhere)
    numbers = np.arange(1, count + 1)
    sizes = np.bincount(holes.ravel(), minlength=count + 1)[1:]
    # the image's edge encloses nothing: beyond it another cell is assumed
    beyond = int(labels.max(initial=0)) + 1
    around = np.pad(labels, 1, constant_values=beyond)
    inner = (slice(1, -1),) * labels.ndim
    highest = ndimage.maximum_filter(around, footprint=everywhere)[inner]
    around[around == 0] = beyond
    lowest = ndimage.minimum_filter(around, footprint=everywhere)[inner]
    if not count:
        return labels
    low = ndimage.minimum(lowest, holes, numbers).astype(labels.dtype)
    high = ndimage.maximum(highest, holes, numbers).astype(labels.dtype)
    owner = np.where((low == high) & (low < beyond) & (sizes <= max_hole), low, 0)
    return np.where(labels == 0, np.concatenate([[0], owner])[holes], labels)


class InstancesFromProbabilitiesd(MapTransform):
    """`InstancesFromProbabilities` for dictionaries; results go to ``output_key`` or back."""

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = 0.5,
        min_size: int = 0,
        grow: float = 0,
        extent: float | None = None,
        max_hole: int = 0,
        growth: str = "nearest",
        line: int = 0,
        output_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.instances = InstancesFromProbabilities(
            threshold, min_size, grow, extent, max_hole, growth, line
        )
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the instances of every key."""
        result = dict(data)
        for key in self.key_iterator(data):
            result[self.output_key or key] = self.instances(data[key])
        return result


InstancesFromProbabilitiesD = InstancesFromProbabilitiesDict = InstancesFromProbabilitiesd
