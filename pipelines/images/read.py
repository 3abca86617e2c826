"""Read microscope images: one array and its metadata, whatever the file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from overtile.pipelines.errors import DataError, Setting, size_text
from overtile.pipelines.images.annotation import Annotation
from overtile.pipelines.images.channels import Channels, Taken, check_channels, one_grey, taken
from overtile.pipelines.images.formats import open_image
from overtile.pipelines.images.handed_on import Reading, handed_on
from overtile.pipelines.images.orientation import oriented_like
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.stored import Stored
from overtile.pipelines.images.view import View, view

LABEL_KINDS = ("instances", "mask", "membranes", "classes")
_ALL = Annotation()


def read_image(
    path: str | Path | Plane,
    spatial_dims: int = 2,
    channels: Channels = None,
    like: str | Path | Plane | None = None,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Pixels ``[*S]`` in the file's own dtype, or ``[C, *S]`` of several channels, and metadata.

    Args:
        path: ``stack.tif:3`` is plane 3 of a stack; without a number all planes
            ``[planes, *S]`` or ``[planes, C, *S]``. TIFF and pictures give ``[Y, X]`` or
            ``[Z, Y, X]``, NIfTI and DICOM ``[X, Y]`` or ``[X, Y, Z]``. ``a_{0000,0001}.tif`` are
            channels in files of their own.
        spatial_dims: 2 or 3.
        channels: number (from 0) or name of the channel to take, or ``"luminance"`` of three
            colours (0.299 R + 0.587 G + 0.114 B); None for grey images, and equal channels are one
            grey channel. A list takes several in its order, ``"all"`` as many as there are.
        like: the image that this is the label of: turned as that one lies in space, and read as
            labels are (an indexed picture gives its indices, a folder holds one mask a cell).

    Raises:
        DataError: if the file is missing, unreadable, or has not these channels.
    """
    chosen = check_channels(channels)
    asked = Reading(str(path), spatial_dims, chosen, None if like is None else str(like))
    if (known := handed_on.take(asked)) is not None:
        return known
    named, where = Plane.of(path), Path(str(path))
    file, plane = named.file, named.number
    stored = _open(named, None if like is None else Plane.of(like))
    seen = view(stored, where, spatial_dims)
    if plane is not None and plane >= seen.count:
        raise DataError(file, f"{seen.count} planes", f"more than {plane}")
    index: list[Any] = [slice(None)] * len(stored.shape)
    for i, n in enumerate(stored.shape):
        if i not in (*seen.spatial, seen.channel, *seen.stacked) and n == 1:
            index[i] = 0
    if plane is not None and seen.stacked:
        place = np.unravel_index(plane, [stored.shape[i] for i in seen.stacked])
        for i, p in zip(seen.stacked, place, strict=True):
            index[i] = int(p)
    wanted = taken(where, stored, seen, chosen)
    if seen.channel is not None:
        index[seen.channel] = wanted.span
    lengths = (n for n, i in zip(stored.shape, index, strict=True) if isinstance(i, slice))
    _check_memory(where, tuple(lengths), stored.dtype)
    array = stored.pixels(tuple(index))
    kept = [i for i, selected in enumerate(index) if isinstance(selected, slice)]
    if seen.channel in kept:
        array = np.moveaxis(array, kept.index(seen.channel), -1)
        if wanted.several:
            array = wanted.of_span(array)
        else:
            array = one_grey(where, array, chosen, label=like is not None)
        kept.remove(seen.channel)
    elif wanted.several:
        array = array[..., None]
    stacks = [kept.index(i) for i in seen.stacked if i in kept]
    array = np.moveaxis(array, stacks, range(len(stacks)))
    if stacks:
        array = array.reshape(-1, *seen.shape, *array.shape[len(kept) :])
    if wanted.several:
        array = np.moveaxis(array, -1, 1 if stacks else 0)
    if array.dtype.kind not in "iufb":
        raise no_numbers(where, array.dtype)
    meta: dict[str, Any] = {
        "filename_or_obj": str(path),
        "axes": "".join(stored.axes[i] for i in sorted(seen.spatial)),
    }
    if (affine := _affine(stored, seen)) is not None:
        meta["affine"] = affine
    if spacing := _spacing(stored, seen):
        meta["spacing"] = spacing
    if wanted.names:
        meta["channel_names"] = list(wanted.names)
    return array, meta


def open_spacing(path: str | Path | Plane, spatial_dims: int = 2) -> tuple[float, ...]:
    """`spacing_of_meta` of an image, from its header.

    Raises:
        DataError: as `open_view`.
    """
    stored = _open(Plane.of(path), None)
    return sizes_mm(stored, view(stored, Path(str(path)), spatial_dims))


def machine_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_memory(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse what would not fit into the memory of the machine.

    Raises:
        DataError: saying how large it is.
    """
    needed, limit, gib = math.prod(shape) * dtype.itemsize, machine_memory(), 2**30
    if needed > limit:
        raise DataError(
            path,
            f"{size_text(shape)} pixels of {dtype}, {needed / gib:.1f} GiB",
            f"at most the {limit / gib:.1f} GiB of memory",
            "cut the image into parts",
        )


def _affine(stored: Stored, seen: View) -> NDArray[np.float64] | None:
    """Index of the axes that are seen to millimetres; None where the file says no size of them.

    Without a place in space the first pixel lies at 0.
    """
    if stored.affine is not None:
        affine = stored.affine.copy()
        affine[:3] *= stored.tags.get("micrometres", 1e3) / 1e3
        return affine
    if not (sizes := sizes_mm(stored, seen)):
        return None
    return np.diag([*sizes, *[1.0] * (4 - len(sizes))])


def sizes_mm(stored: Stored, seen: View) -> tuple[float, ...]:
    """Millimetres a pixel along each axis that is seen; empty where the file lacks one of them."""
    letters = [stored.axes[i] for i in seen.spatial]
    known = stored.spacing_um("".join(letters))
    return tuple(known[a] / 1e3 for a in letters) if known.keys() >= {*letters} else ()


def _spacing(stored: Stored, seen: View) -> str:
    """Pixel size with its unit, for people."""
    known = stored.spacing_um("XYZ")
    steps = [known[a] for i in seen.spatial if (a := stored.axes[i]) in known]
    if stored.affine is not None:
        return f"{' x '.join(f'{s / 1e3:.3g}' for s in steps)} mm"
    return " x ".join(f"{s:.3g}" for s in steps) + " µm" if steps else ""


def spacing_of_meta(meta: Mapping[str, Any], spatial_dims: int) -> tuple[float, ...]:
    """Millimetres a pixel along each axis, by what `read_image` says; empty where that is open."""
    if "affine" not in meta:
        return ()
    sizes = np.linalg.norm(meta["affine"][:3, :spatial_dims], axis=0)
    return tuple(float(size) for size in sizes)


def check_spacing_known(
    path: str | Path | Plane, spacing: Sequence[float], wanted: Sequence[float] | str
) -> None:
    """Refuse an image that is to be resampled, and does not say how large its pixels are.

    Args:
        path: of the image.
        spacing: of it, as of `spacing_of_meta`.
        wanted: what it is to be resampled to.

    Raises:
        DataError: also for one that is far too fine or too coarse.
    """
    if not spacing:
        raise DataError(
            Path(str(path)),
            "it does not say the size of its pixels along each axis",
            "one, since spacing is set",
            (
                "save it with its pixel size, as OME-TIFF or NIfTI",
                Setting("spacing", None, "to train without"),
            ),
        )
    if isinstance(wanted, str):
        return
    from overtile.networks.errors import ArgumentError  # loads PyTorch: not before it is needed
    from overtile.networks.spacing import steps_between

    try:
        steps_between(spacing, wanted)
    except ArgumentError as error:
        raise DataError(Path(str(path)), error.found, error.expected, error.hint) from error


def no_numbers(path: Path, dtype: np.dtype[Any]) -> DataError:
    """The error for complex pixels, and others that are no grey values."""
    return DataError(path, f"pixels of {dtype}", "real numbers")


def check_labels_kind(labels: str) -> str:
    """``labels``, if it is one of the known kinds."""
    if labels not in LABEL_KINDS:
        raise DataError("labels", repr(labels), f"one of {', '.join(LABEL_KINDS)}")
    return labels


def number_cells(mask: NDArray[Any]) -> NDArray[np.int32]:
    """Connected components (without diagonals) of what is above 0, from 1; what is below stays."""
    numbered: NDArray[np.int32] = ndimage.label(mask > 0)[0].astype(np.int32)
    gaps = mask < 0
    numbered[gaps] = mask[gaps]
    return numbered


def read_label(
    path: str | Path | Plane,
    spatial_dims: int = 2,
    image: str | Path | Plane | None = None,
    annotation: Annotation = _ALL,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """`read_image` for labels: integers from 0 up, turned as ``image`` lies in space.

    Floats that are whole numbers, as NIfTI files often have them, become int32.

    Args:
        path: as of `read_image`.
        spatial_dims: as of `read_image`.
        image: that the label belongs to.
        annotation: which pixels are annotated; others become `IGNORED`.

    Raises:
        DataError: also for other floats, and for numbers below 0 or above 2^31 - 1.
    """
    array, meta = read_image(path, spatial_dims, like=path if image is None else image)
    return annotation.of(path, array), meta


def check_pixels(path: str | Path | Plane, array: NDArray[Any]) -> None:
    """Refuse NaN and infinite pixels.

    Raises:
        DataError: saying how many.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        found = f"{count} pixels are NaN or infinite"
        raise DataError(Path(str(path)), found, "finite numbers", "replace them")


def open_view(
    path: str | Path | Plane, spatial_dims: int = 2, like: str | Path | Plane | None = None
) -> View:
    """How many planes a file has, and of which size, from its header; as `read_image` sees it.

    Raises:
        DataError: as `read_image`.
    """
    stored = _open(Plane.of(path), None if like is None else Plane.of(like))
    return view(stored, Path(str(path)), spatial_dims)


def open_taken(
    path: str | Path | Plane, spatial_dims: int = 2, channels: Channels = None
) -> tuple[View, Taken]:
    """`open_view`, and which channels of the file `read_image` takes; from its header.

    Raises:
        DataError: as `read_image`, but for what only pixels say.
    """
    stored, where = _open(Plane.of(path), None), Path(str(path))
    seen = view(stored, where, spatial_dims)
    return seen, taken(where, stored, seen, check_channels(channels))


def _open(plane: Plane, like: Plane | None) -> Stored:
    stored = open_image(plane.file, labels=like is not None)
    if like is not None and like != plane:
        model = open_image(like.file)
        stored = oriented_like(stored, model, plane.file, like.file)
    return stored
