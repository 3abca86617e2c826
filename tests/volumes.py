"""Small volumes of two organs that touch, as NIfTI with an affine of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

NAMES = ["background", "front", "back"]
AFFINE = np.array([[-1.5, 0, 0, 10], [0, 1, 0, -4], [0, 0, 2, 7], [0, 0, 0, 1]], float)
SIZE = (18, 24, 14)


def organs(seed: int, size: tuple[int, ...] = SIZE) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Grey values and classes: an ellipsoid in the middle, its halves along the second axis."""
    rng = np.random.default_rng(seed)
    places = np.indices(size).reshape(3, -1).T
    middle = np.array(size) / 2 + rng.uniform(-1, 1, 3)
    radius = np.array(size) * rng.uniform(0.28, 0.38, 3)
    inside = (((places - middle) / radius) ** 2).sum(1) < 1
    label = np.where(inside, 1 + (places[:, 1] > middle[1]), 0).reshape(size).astype(np.uint8)
    grey = np.array([20, 120, 200], np.float32)[label] + rng.normal(0, 10, size)
    return grey.astype(np.float32), label


def write_organs(folder: Path, splits: dict[str, int], names: list[str] | None = NAMES) -> Path:
    """So many volumes a split, and a ``dataset.json`` with the names of the classes."""
    for place, (split, count) in enumerate(splits.items()):
        for number in range(count):
            for kind, array in zip(("images", "labels"), organs(10 * place + number), strict=True):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                file = folder / split / kind / f"{number}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(array, AFFINE), file)
    if names is not None:
        described = {"labels": {str(n): name for n, name in enumerate(names)}}
        (folder / "dataset.json").write_text(json.dumps(described))
    return folder
