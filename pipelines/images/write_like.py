"""Write an array as the file it came from lies in space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from overtile.pipelines.files import whole
from overtile.pipelines.images.formats import writer_of
from overtile.pipelines.images.stored import Stored


def write_like(base: Path, array: NDArray[Any], stored: Stored | None) -> Path:
    """Write ``array`` as the file it came from lies in space, whole or not at all.

    In the format of that file where it takes what is found in its images, else in NIfTI where it
    has a place in space, else in TIFF.

    Args:
        base: path without suffix.
        array: with the axes of ``stored`` but for channels.
        stored: the file that it came from; None for a plane alone.

    Returns:
        The path.
    """
    if stored is not None:
        kept = [i for i, axis in enumerate(stored.axes) if axis not in "CS"]
        axes, shape = "".join(stored.axes[i] for i in kept), tuple(stored.shape[i] for i in kept)
        stored = replace(stored, axes=axes, shape=shape)
    format = None if stored is None else stored.format
    suffix = "" if format is None or stored is None else format.result_suffix(stored, array.ndim)
    if format is None or stored is None or not suffix:
        format = writer_of("nii.gz" if stored is not None and stored.affine is not None else "tif")
        suffix = ".tif" if stored is None else format.result_suffix(stored, array.ndim)
    path = base.with_name(base.name + suffix)
    with whole(path) as unfinished:
        format.write(unfinished, array, stored)
    return path
