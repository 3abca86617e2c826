"""Write an array as the file it came from lies in space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import tifffile
from numpy.typing import NDArray

from overtile.pipelines.images.formats import Stored


def write_like(
    base: Path, array: NDArray[Any], stored: Stored | None, nifti: str = ".nii.gz"
) -> Path:
    """Write ``array`` as the file it came from lies in space, and return the path."""
    if stored is not None and stored.affine is not None:
        volume = nibabel.Nifti1Image(array.reshape(stored.shape), stored.affine)
        volume.header.set_xyzt_units(*stored.tags.get("units", ("mm", "unknown")))
        if "zooms" in stored.tags:
            volume.header.set_zooms(stored.tags["zooms"][: len(stored.shape)])
        return write_whole(base.with_name(base.name + nifti), volume.to_filename)
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib"}
    suffix, axes = ".tif", ""
    if stored is not None:
        kept = [
            a
            for a, n in zip(stored.axes, stored.shape, strict=True)
            if a not in "CS" and (n > 1 or a in "YX")
        ]
        axes = "".join(kept)
        if {"XResolution", "YResolution"} <= stored.tags.keys():
            options["resolution"] = (stored.tags["XResolution"], stored.tags["YResolution"])
            options["resolutionunit"] = stored.tags.get("ResolutionUnit", 2)
        if stored.spacing and len(axes) == array.ndim and set(axes) <= set("TZYX"):
            units = {f"PhysicalSize{a}Unit": "µm" for a in stored.spacing}
            sizes_um = {f"PhysicalSize{a}": size for a, size in stored.spacing.items()}
            options.update(ome=True, metadata={"axes": axes, **sizes_um, **units})
            suffix = ".ome.tif"
    path = base.with_name(base.name + suffix)
    return write_whole(path, lambda partial: tifffile.imwrite(partial, array, **options))


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` make a file, whole or not at all."""
    partial = path.with_name("partial." + path.name)
    write(partial)
    partial.replace(path)
    return path
