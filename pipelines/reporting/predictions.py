"""What was predicted, image by image: compared with the label, stored small, coloured."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overtile.pipelines.errors import DataError, ran_out
from overtile.pipelines.metrics.gaps import annotated_instances
from overtile.pipelines.reporting.colours import numbered

SIDE = 1024  # pixels of a stored image along its longer side, at most
ERRORS = ("agreed", "missed", "extra", "merged", "split")  # the values of the layer ``errors``
COUNTS = ("labelled", "found", "missed", "extra", "merged", "split")
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
_LAYERS = ("image", "label", "probability", "instances", "errors", "gaps")


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
        gaps: ``[h, w]`` uint8, 1 where nothing is annotated; None where all is.
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
    gaps: NDArray[Any] | None = None
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
        label: cells, of the same shape; 0 = background, below 0 = not annotated.
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
    gaps = None if label is None or label.min(initial=0) >= 0 else (label < 0).astype(np.uint8)
    counts: dict[str, int] = {}
    if label is not None and instances is not None:
        errors, counts = compare(label, instances)
    if label is not None:
        label = np.maximum(label, 0)
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
        gaps=None if gaps is None else _nearest(gaps, size),
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
