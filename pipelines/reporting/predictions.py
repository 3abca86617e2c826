"""What was predicted, image by image: compared with the label, stored small, coloured."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.errors import DataError, ran_out
from overtile.pipelines.metrics.gaps import annotated_instances
from overtile.pipelines.reporting.colours import numbered
from overtile.pipelines.reporting.grid import Grid, fullest_section, plain_grid

SIDE = 1024  # pixels of a stored image along its longest side, at most
VOXELS = 2**21  # of a stored volume, at most
ERRORS = ("agreed", "missed", "extra", "merged", "split")  # the values of the layer ``errors``
COUNTS = ("labelled", "found", "missed", "extra", "merged", "split")
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
_LAYERS = ("image", "label", "probability", "instances", "classes", "errors", "gaps")


@dataclass(frozen=True)
class Layers:
    """One image ``[h, w]`` or volume ``[d, h, w]`` and what was found in it, each layer ``[*S]``.

    A layer that does not exist is None.

    Attributes:
        name: of the image's file.
        size: of the image in pixels before it was scaled down.
        image: grey values, uint8.
        label: cells, or where there are ``classes`` the number of each pixel's; 0 = background.
        probability: P(cell), uint8, 255 = 1.
        instances: cells found, 0 = background.
        classes: those found, uint8, 0 = background; None where cells are told apart.
        errors: uint8, indices into `ERRORS`; of cells alone.
        gaps: uint8, 1 where nothing is annotated; None where all is.
        counts: cells by `COUNTS`, counted before it was scaled down.
        class_names: from class 0 on; empty where they have none.
        grid: how the pixels lie, scaled down as they are.
    """

    name: str
    size: tuple[int, ...]
    image: NDArray[Any]
    label: NDArray[Any] | None = None
    probability: NDArray[Any] | None = None
    instances: NDArray[Any] | None = None
    classes: NDArray[Any] | None = None
    errors: NDArray[Any] | None = None
    gaps: NDArray[Any] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    grid: Grid = field(default_factory=lambda: plain_grid(2))

    def telling(self, axis: int) -> int:
        """Which section across an axis is shown first.

        Of classes the one with most of the label, or without a label of what was found, since the
        middle may hold none of them; else the middle one.
        """
        if self.classes is not None:
            for layer in (self.label, self.classes):
                if layer is not None and layer.any():
                    return fullest_section(layer, axis)
        return int(self.image.shape[axis]) // 2

    def section(self) -> Layers:
        """Of a volume its most `telling` section across the first axis, as drawn; else itself."""
        if self.image.ndim == 2:
            return self
        place, grid = self.telling(0), self.grid
        taken: dict[str, Any] = {
            name: grid.section(layer, 0, place)
            for name in _LAYERS
            if (layer := getattr(self, name)) is not None
        }
        plane = Grid(grid.spacing[1:], (False, False))
        return replace(self, grid=plane, **taken)


def layers_of(
    name: str,
    image: NDArray[Any],
    label: NDArray[Any] | None = None,
    probability: NDArray[Any] | None = None,
    instances: NDArray[Any] | None = None,
    classes: NDArray[Any] | None = None,
    class_names: Sequence[str] | None = None,
    grid: Grid | None = None,
    side: int = SIDE,
    voxels: int = VOXELS,
) -> Layers:
    """Make what is stored of one image, or volume.

    Args:
        name: of the image's file.
        image: grey values ``[H, W]``, or of a volume ``[D, H, W]``.
        label: cells, or classes, of the same shape; 0 = background, below 0 = not annotated.
        probability: P(cell), of the same shape; left out if it is not in [0, 1].
        instances: cells found, of the same shape; 0 = background.
        classes: those found, 0 to 255, of the same shape, where classes are told apart.
        class_names: from class 0 on; None = they have none.
        grid: how the pixels lie; None = evenly.
        side: longer sides are scaled down to it: averages of grey values and probabilities, the
            nearest pixel of everything else.
        voxels: volumes of more have their longest sides scaled down, to at most as many.
    """
    grid = grid or plain_grid(image.ndim)
    errors: NDArray[Any] | None = None
    gaps = None if label is None or label.min(initial=0) >= 0 else (label < 0).astype(np.uint8)
    counts: dict[str, int] = {}
    if label is not None and instances is not None and classes is None:
        errors, counts = compare(label, instances)
    if label is not None:
        label = np.maximum(label, 0)
    low, high = np.percentile(image, [0.5, 99.8])
    grey = _bytes((image - low) / max(high - low, 1e-9))
    if probability is not None and not (probability.min() >= 0 and probability.max() <= 1):
        probability = None
    size = _scaled(image.shape, side, voxels)
    steps = (s * old / new for s, old, new in zip(grid.spacing, image.shape, size, strict=True))
    return Layers(
        name=name,
        size=image.shape,
        image=_averaged(grey, size),
        label=None if label is None else _nearest(_compact(label), size),
        probability=None if probability is None else _averaged(_bytes(probability), size),
        instances=None if instances is None else _nearest(_compact(instances), size),
        classes=None if classes is None else _nearest(classes.astype(np.uint8), size),
        errors=None if errors is None else _nearest(errors, size),
        gaps=None if gaps is None else _nearest(gaps, size),
        counts=counts,
        class_names=tuple(class_names or ()),
        grid=replace(grid, spacing=tuple(steps)),
    )


def _scaled(shape: tuple[int, ...], side: int, voxels: int) -> tuple[int, ...]:
    """The size that is stored: an image keeps its proportions, a volume its shorter sides."""
    if len(shape) == 2:
        scale = min(1.0, side / max(shape))
        return tuple(max(1, round(n * scale)) for n in shape)
    longest = next(m for m in range(side, 0, -1) if math.prod(min(n, m) for n in shape) <= voxels)
    return tuple(min(n, longest) for n in shape)


def store(layers: Layers, path: Path) -> None:
    """Write ``layers`` as a compressed ``.npz``."""
    found = {name: getattr(layers, name) for name in _LAYERS}
    np.savez_compressed(
        path,
        name=np.array(layers.name),
        size=np.array(layers.size),
        spacing=np.array(layers.grid.spacing, float),
        upwards=np.array(layers.grid.upwards, bool),
        class_names=np.array(layers.class_names, str),
        counts=np.array([layers.counts[name] for name in COUNTS] if layers.counts else [], int),
        **{name: array for name, array in found.items() if array is not None},
    )


def load(path: Path) -> Layers:
    """What `store` wrote.

    Raises:
        DataError: if the file is missing or broken.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _LAYERS if name in file}
            spacing, upwards = (tuple(file[name].tolist()) for name in ("spacing", "upwards"))
            counts = dict(zip(COUNTS, file["counts"].tolist(), strict=False))
            layers = Layers(
                name=str(file["name"]),
                size=tuple(file["size"].tolist()),
                counts=counts,
                class_names=tuple(file["class_names"].tolist()),
                grid=Grid(spacing, upwards),
                **arrays,
            )
        shapes = {array.shape for array in arrays.values()}
        dims = layers.image.ndim
        told = {len(part) for part in (layers.size, spacing, upwards)}
        if len(shapes) != 1 or told != {dims} or dims not in (2, 3):
            raise ValueError(f"layers of {shapes}")
        if len(counts) not in (0, len(COUNTS)):
            raise ValueError(f"{len(counts)} counts")
    except _BROKEN as error:
        if (lacking := ran_out(error)) is not None:
            raise lacking from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(
            path,
            f"no layers of a prediction ({reason})",
            "what a scoring wrote",
            "score again",
        ) from error
    return layers


def compare(
    label: NDArray[Any], instances: NDArray[Any]
) -> tuple[NDArray[np.uint8], dict[str, int]]:
    """Where a prediction errs, ``[*S]`` in indices of `ERRORS`, and how many cells by `COUNTS`.

    A found cell *holds* a cell of the label if it covers more than half of it, and is a *part* of
    the one in which more than half of itself lies. Found cells that hold two or more are merged,
    cells of the label with two or more parts split. A cell that none holds and that is not split
    is missed; a found cell that holds none and is no part is extra. Pixels where a cell found for
    one cell reaches into another count as merged. What is not annotated (below 0 in the label) is
    left out, as of `annotated_instances`.
    """
    instances, label = annotated_instances(instances, label)
    names, r = numbered(label)
    others, s = numbered(instances)
    pairs, place, shared = np.unique(r * len(others) + s, return_inverse=True, return_counts=True)
    i, j = np.divmod(pairs, len(others))
    r_size = np.bincount(i, shared, len(names))
    s_size = np.bincount(j, shared, len(others))
    cells = (names[i] > 0) & (others[j] > 0)
    holds = cells & (2 * shared > r_size[i])
    part = cells & (2 * shared > s_size[j])
    merged = np.bincount(j[holds], minlength=len(others)) > 1
    split = np.bincount(i[part], minlength=len(names)) > 1
    held = np.bincount(i[holds], minlength=len(names)) > 0
    matched = np.bincount(j[holds | part], minlength=len(others)) > 0
    kind = np.zeros(len(pairs), np.uint8)
    kind[(names[i] > 0) & (others[j] == 0)] = ERRORS.index("missed")
    kind[(names[i] == 0) & (others[j] > 0)] = ERRORS.index("extra")
    kind[cells & split[i]] = ERRORS.index("split")
    kind[cells & (merged[j] | ~(holds | part))] = ERRORS.index("merged")
    counts = {
        "labelled": int((names > 0).sum()),
        "found": int((others > 0).sum()),
        "missed": int(((names > 0) & ~held & ~split).sum()),
        "extra": int(((others > 0) & ~matched).sum()),
        "merged": int(merged.sum()),
        "split": int(split.sum()),
    }
    errors: NDArray[np.uint8] = kind[place].reshape(label.shape)
    return errors, counts


def _compact(cells: NDArray[Any]) -> NDArray[Any]:
    """In the smallest unsigned type that holds the numbers as they are."""
    top = int(cells.max(initial=0))
    return cells.astype(np.uint16 if top < 2**16 else np.uint32 if top < 2**32 else np.uint64)


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return scaled


def _averaged(grey: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    for axis in reversed(range(grey.ndim)):
        if grey.shape[axis] != size[axis]:
            ahead = np.moveaxis(grey, axis, 0)
            flat = np.ascontiguousarray(ahead).reshape(len(ahead), -1)
            picture = Image.fromarray(flat).resize(
                (flat.shape[1], size[axis]), Image.Resampling.BOX
            )
            shorter = np.asarray(picture, np.uint8).reshape(size[axis], *ahead.shape[1:])
            grey = np.moveaxis(shorter, 0, axis)
    return np.ascontiguousarray(grey)


def _nearest(array: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """The pixel under the centre of each scaled one."""
    places: Iterable[NDArray[Any]] = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(array.shape, size, strict=True)
    )
    taken: NDArray[Any] = array[np.ix_(*places)]
    return taken
