"""What was predicted, image by image: compared with the label, stored small, coloured."""

from __future__ import annotations

import heapq
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from overtile.pipelines.errors import DataError

SIDE = 1024  # pixels of a stored image along its longer side, at most
ERRORS = ("agreed", "missed", "extra", "merged", "split")  # the values of the layer ``errors``
COUNTS = ("labelled", "found", "missed", "extra", "merged", "split")
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
_LAYERS = ("image", "label", "probability", "instances", "errors")

# Told apart with any colour vision: Okabe and Ito, "Color Universal Design", 2008.
PALETTE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
ERROR_COLOURS = {
    "missed": (213, 94, 0),
    "extra": (86, 180, 233),
    "merged": (204, 121, 167),
    "split": (240, 228, 66),
}


@dataclass(frozen=True)
class Layers:
    """One image and what was found in it; a layer that does not exist is None.

    Attributes:
        name: of the image's file.
        size: of the image in pixels before it was scaled down, (height, width).
        image: grey values, ``[h, w]`` uint8.
        label: cells, ``[h, w]``, 0 = background.
        probability: P(cell), ``[h, w]`` uint8, 255 = 1.
        instances: cells found, ``[h, w]``, 0 = background.
        errors: ``[h, w]`` uint8, indices into `ERRORS`.
        counts: cells by `COUNTS`, counted before it was scaled down.
        sections: of a volume whose middle one this is; 1 of an image.
    """

    name: str
    size: tuple[int, int]
    image: NDArray[Any]
    label: NDArray[Any] | None = None
    probability: NDArray[Any] | None = None
    instances: NDArray[Any] | None = None
    errors: NDArray[Any] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    sections: int = 1


def layers_of(
    name: str,
    image: NDArray[Any],
    label: NDArray[Any] | None = None,
    probability: NDArray[Any] | None = None,
    instances: NDArray[Any] | None = None,
    side: int = SIDE,
) -> Layers:
    """Make what is stored of one image.

    Args:
        name: of the image's file.
        image: grey values ``[H, W]``, or of a volume ``[D, H, W]``, whose middle section is taken.
        label: cells, of the same shape; 0 = background.
        probability: P(cell), of the same shape; left out if it is not in [0, 1].
        instances: cells found, of the same shape; 0 = background.
        side: longer sides are scaled down to it: averages of grey values and probabilities, the
            nearest pixel of everything else.
    """
    sections = image.shape[0] if image.ndim == 3 else 1
    if image.ndim == 3:
        image = image[sections // 2]
        label, probability, instances = (
            None if a is None else a[sections // 2] for a in (label, probability, instances)
        )
    errors: NDArray[Any] | None = None
    counts: dict[str, int] = {}
    if label is not None and instances is not None:
        errors, counts = compare(label, instances)
    low, high = np.percentile(image, [0.5, 99.8])
    grey = _bytes((image - low) / max(high - low, 1e-9))
    if probability is not None and not (probability.min() >= 0 and probability.max() <= 1):
        probability = None
    height, width = image.shape
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return Layers(
        name=name,
        size=(height, width),
        image=_averaged(grey, size),
        label=None if label is None else _nearest(_compact(label), size),
        probability=None if probability is None else _averaged(_bytes(probability), size),
        instances=None if instances is None else _nearest(_compact(instances), size),
        errors=None if errors is None else _nearest(errors, size),
        counts=counts,
        sections=sections,
    )


def store(layers: Layers, path: Path) -> None:
    """Write ``layers`` as a compressed ``.npz``."""
    found = {name: getattr(layers, name) for name in _LAYERS}
    np.savez_compressed(
        path,
        name=np.array(layers.name),
        size=np.array(layers.size),
        sections=np.array(layers.sections),
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
            height, width = (int(n) for n in file["size"])
            counts = dict(zip(COUNTS, file["counts"].tolist(), strict=False))
            layers = Layers(
                name=str(file["name"]),
                size=(height, width),
                counts=counts,
                sections=int(file["sections"]),
                **arrays,
            )
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) != 1 or layers.image.ndim != 2 or len(counts) not in (0, len(COUNTS)):
            raise ValueError(f"layers of {shapes}")
    except _BROKEN as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(
            f"{path}: no layers of a prediction ({reason}); expected what a scoring wrote: "
            "score again"
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
    one cell reaches into another count as merged.
    """
    names, r = _numbered(label)
    others, s = _numbered(instances)
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


def numbered_colours(
    cells: NDArray[Any], like: tuple[NDArray[Any], NDArray[np.uint8]] | None = None
) -> NDArray[np.uint8]:
    """The number of each cell's colour, ``[h, w]``, 0 = background: neighbours never share one.

    Neighbours are cells with no third one between them, however far apart. The graph is coloured
    greedily, cells with few neighbours last (Matula and Beck 1983): six colours are enough where
    it is planar, and `PALETTE` has seven.

    Args:
        cells: ``[h, w]``, 0 = background.
        like: other cells of the same image and their colours, taken over where cells overlap most
            and no neighbour objects, so that a cell keeps its colour from label to prediction.
    """
    names, compact = _numbered(cells)
    if names[0] != 0:
        names, compact = np.concatenate([[0], names]), compact + 1
    if len(names) == 1:
        return np.zeros(cells.shape, np.uint8)
    near = ndimage.distance_transform_edt(compact == 0, return_distances=False, return_indices=True)
    neighbours = _neighbours(compact[tuple(near)], len(names))
    wanted = np.zeros(len(names), int)
    if like is not None:
        wanted = _colours_below(compact, *like, count=len(names))
    chosen = np.zeros(len(names), int)
    used = np.zeros(len(PALETTE) + 1, int)
    for cell in reversed(_smallest_last(neighbours)):
        taken = {int(chosen[other]) for other in neighbours[cell]}
        free = [c for c in range(1, len(PALETTE) + 1) if c not in taken]
        colour = int(wanted[cell])
        if not colour or colour in taken:
            more = range(len(PALETTE) + 1, 2**8)  # cells in pieces have neighbours without end
            colour = (
                min(free, key=lambda c: used[c])
                if free
                else next((c for c in more if c not in taken), 1)
            )
        chosen[cell] = colour
        if colour < len(used):
            used[colour] += 1
    return chosen.astype(np.uint8)[compact]


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colours 1 to ``count``: `PALETTE`, and beyond it ever darker ones of the same."""
    colours = []
    for number in range(count):
        shade = 0.8 ** (number // len(PALETTE))
        r, g, b = (round(c * shade) for c in PALETTE[number % len(PALETTE)])
        colours.append((r, g, b))
    return colours


def outline(cells: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of cells, ``[h, w]``, that have another cell or background beside them."""
    padded = np.pad(cells, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    differs = np.zeros(cells.shape, bool)
    for beside in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        differs |= beside != centre
    return differs & (cells > 0)


def _neighbours(nearest: NDArray[Any], count: int) -> list[set[int]]:
    """Of each number, those beside it, diagonals included."""
    sides = (
        (nearest[:, 1:], nearest[:, :-1]),
        (nearest[1:], nearest[:-1]),
        (nearest[1:, 1:], nearest[:-1, :-1]),
        (nearest[1:, :-1], nearest[:-1, 1:]),
    )
    found: list[set[int]] = [set() for _ in range(count)]
    for one, other in sides:
        differ = one != other
        for pair in np.unique(one[differ].astype(np.int64) * count + other[differ]).tolist():
            a, b = divmod(pair, count)
            found[a].add(b)
            found[b].add(a)
    return found


def _smallest_last(neighbours: list[set[int]]) -> list[int]:
    """Cells (from 1) in an order in which each has the fewest neighbours among those behind it."""
    degree = [len(n) for n in neighbours]
    queue = [(degree[cell], cell) for cell in range(1, len(neighbours))]
    heapq.heapify(queue)
    order: list[int] = []
    gone = [False] * len(neighbours)
    while queue:
        left, cell = heapq.heappop(queue)
        if gone[cell] or left != degree[cell]:
            continue
        gone[cell] = True
        order.append(cell)
        for other in neighbours[cell]:
            if not gone[other]:
                degree[other] -= 1
                heapq.heappush(queue, (degree[other], other))
    return order


def _colours_below(
    compact: NDArray[Any], below: NDArray[Any], colours: NDArray[np.uint8], count: int
) -> NDArray[np.int64]:
    """For each of ``count`` cells the colour of the other cell it shares most pixels with, or 0."""
    wanted = np.zeros(count, np.int64)
    both = (compact > 0) & (below > 0)
    if not both.any():
        return wanted
    names, place = _numbered(below[both])
    found = np.zeros(len(names), np.int64)
    found[place] = colours[both]
    pairs, sizes = np.unique(compact[both] * len(names) + place, return_counts=True)
    for pair in pairs[np.argsort(sizes, kind="stable")].tolist():  # the largest overlap is last
        cell, other = divmod(pair, len(names))
        wanted[cell] = found[other]
    return wanted


def _numbered(cells: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """As ``np.unique`` with the inverse, in the shape of ``cells``; faster for small numbers."""
    top = int(cells.max(initial=0))
    if top >= 2**24 or int(cells.min(initial=0)) < 0:
        names, compact = np.unique(cells, return_inverse=True)
        return names, compact.reshape(cells.shape)
    present = np.bincount(cells.ravel(), minlength=top + 1) > 0
    table = np.cumsum(present) - 1
    return np.flatnonzero(present), table[cells]


def _compact(cells: NDArray[Any]) -> NDArray[Any]:
    """In the smallest unsigned type that holds the numbers as they are."""
    top = int(cells.max(initial=0))
    return cells.astype(np.uint16 if top < 2**16 else np.uint32 if top < 2**32 else np.uint64)


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return scaled


def _averaged(grey: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if grey.shape == size:
        return grey
    picture = Image.fromarray(grey).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.uint8)


def _nearest(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The pixel under the centre of each scaled one."""
    places: Iterable[NDArray[Any]] = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(array.shape, size, strict=True)
    )
    taken: NDArray[Any] = array[np.ix_(*places)]
    return taken
