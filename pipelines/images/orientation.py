"""How labels and their image lie in space: the same place has the same index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError
from overtile.pipelines.images.stored import Index, Stored


def _reversed(stored: Stored) -> Stored:
    """The same image with its axes the other way round, whose place in space nobody compares."""

    def pixels(index: Index) -> NDArray[Any]:
        return stored.pixels(index[::-1]).transpose()

    return replace(
        stored,
        axes=stored.axes[::-1],
        shape=stored.shape[::-1],
        pixels=pixels,
        affine=None,
        spacing=stored.spacing_um("XYZ"),
    )


def oriented_like(labels: Stored, image: Stored, name: Path, other: Path) -> Stored:
    """Labels with their axes in the order of the image's.

    Where both say how they lie in space, they are turned so that they coincide there. Otherwise
    X, Y and Z are put into the same order.

    Args:
        labels: to turn.
        image: the model.
        name: of the labels, for the error.
        other: of the image.

    Raises:
        DataError: if the voxels do not coincide.
    """
    if labels.affine is None or image.affine is None:
        same = (labels.axes.find("X") < labels.axes.find("Y")) == (
            image.axes.find("X") < image.axes.find("Y")
        )
        return labels if same else _reversed(labels)
    size = len(labels.shape)
    if size not in (2, 3):
        return labels
    solid = (*labels.shape, 1)[:3]  # a plane is a volume of one section
    mine, wanted = (nibabel.orientations.io_orientation(s.affine) for s in (labels, image))
    turn = nibabel.orientations.ornt_transform(mine, wanted)
    affine = labels.affine @ nibabel.orientations.inv_ornt_aff(turn, solid)
    order = np.argsort(turn[:, 0])
    shape = tuple(solid[int(i)] for i in order)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1])).reshape(4, -1)
    apart = np.abs((affine - image.affine) @ corners).max()
    if (
        shape == (*image.shape, 1)[:3]
        and apart > 0.1 * np.linalg.norm(image.affine[:3, :3], axis=0).min()
    ):
        raise DataError(
            name,
            (f"its voxels lie up to {apart:.3g} mm from those of", other),
            "labels on the grid of their image",
            ("resample them", "mend the affine"),
        )
    if size == 2 and order[2] != 2:
        raise DataError(name, ("a plane across that of", other), "the same plane")

    def pixels(index: Index) -> NDArray[Any]:
        whole = labels.pixels((slice(None),) * size).reshape(solid)
        turned: NDArray[Any] = nibabel.orientations.apply_orientation(whole, turn)
        return turned.reshape(shape[:size])[index]

    return replace(labels, shape=shape[:size], affine=affine, pixels=pixels)
