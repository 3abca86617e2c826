"""OME-Zarr: pyramids of chunked arrays (ngff.openmicroscopy.org), and bare Zarr arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, UnreadableError, size_text
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.stored import (
    SKIP,
    Format,
    Index,
    Spacing,
    Stored,
    no_level,
    too_large,
)

_NODES = ("zarr.json", ".zarray", ".zgroup")  # files of one or the other version
_UNITS = {
    **{"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3},
    **{"centimeter": 1e4, "meter": 1e6, "inch": 25400.0},
}
"""Micrometres of the units that OME-NGFF recommends."""
_KINDS = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
ClassNames = Sequence[tuple[str, tuple[int, int, int]]]
"""Names of classes and their colours, red, green and blue from 0 to 255."""
_DOWN = 2  # from one level to the next, in the plane
_CHUNK = 256  # sides of the chunks of an image that fits into memory


class OmeZarr(Format):
    """OME-Zarr of versions 0.1 to 0.5; 0.5 is written."""

    name = "OME-Zarr"
    suffixes = (".ome.zarr", ".zarr")
    folders = True
    written = ("ome.zarr",)
    targets = (".ome.zarr", ".zarr")

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """A folder of any name with Zarr's own files."""
        return any((path / node).is_file() for node in _NODES)

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it; a bare array has the axes that are usual for their number."""
        return _open(path, 0)

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """As the base class has it, a chunk at a time."""
        stored = _open(path, level)
        if stored.block > cache.limit:
            chunks = f"in chunks of {stored.block / 2**20:.0f} MiB, which have to be unpacked whole"
            raise too_large(path, chunks, cache.limit, "save it with smaller chunks")

        def pixels(index: Index) -> NDArray[Any]:
            array = stored.pixels(index)
            path.stat()  # chunks that are not there are 0 to Zarr
            return array

        return replace(stored, pixels=pixels)

    def write(
        self,
        path: Path,
        array: NDArray[Any],
        like: Stored | None = None,
        spacing: Spacing | None = None,
    ) -> None:
        """Full resolution, and half of it in the plane."""
        import zarr

        axes = "ZYX"[-array.ndim :]
        group = zarr.open_group(path, mode="w", zarr_format=3)
        for level, pixels in enumerate((array, halved(array))):
            group.create_array(
                str(level),
                data=pixels,
                chunks=tuple(min(n, _CHUNK) for n in pixels.shape),
                dimension_names=list(axes.lower()),
            )
        sizes = dict(zip(axes, (spacing or (1.0, 1.0, 1.0))[-array.ndim :], strict=True))
        describe(path, path.name.removesuffix(".ome.zarr"), axes, sizes, levels=2, mean=True)


FORMAT = OmeZarr()


def describe(
    folder: Path,
    name: str,
    axes: str,
    spacing: Mapping[str, float],
    levels: int,
    mean: bool,
    classes: ClassNames = (),
) -> None:
    """Write the metadata of OME-NGFF 0.5 for a pyramid whose levels are ``0``, ``1`` ...

    Args:
        folder: of the group, which is made if need be.
        name: of the image.
        axes: of the arrays, a letter each.
        spacing: micrometres a pixel by axis letter.
        levels: each half of the one before in the plane.
        mean: whether a level's pixel is the mean of four, and so lies between them; else it is
            the first of them.
        classes: from 0 on: of an image with an axis C each has its probabilities there; else the
            pixels are their numbers.
    """
    import zarr

    told = []
    for letter in axes:
        axis = {"name": letter.lower()}
        if letter in _KINDS:
            axis["type"] = _KINDS[letter]
        if letter in spacing:
            axis["unit"] = "micrometer"
        told.append(axis)
    steps = [spacing.get(letter, 1.0) for letter in axes]
    datasets = []
    for level in range(levels):
        factors = [*(1.0 for _ in axes[:-2]), *(float(_DOWN**level),) * 2]
        scale = [f * s for f, s in zip(factors, steps, strict=True)]
        changes: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if mean and level:
            shift = [(f - 1) / 2 * s for f, s in zip(factors, steps, strict=True)]
            changes.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": changes})
    group = zarr.open_group(folder, mode="a", zarr_format=3)
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": told, "datasets": datasets}],
        **(_classes_told(classes, "C" in axes) if classes else {}),
    }


def _classes_told(classes: ClassNames, channels: bool) -> dict[str, Any]:
    """What viewers are told of classes: those of channels, or of numbers."""
    numbered = list(enumerate(classes))
    if channels:
        window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
        shown = [
            {"label": name, "color": bytes(rgb).hex().upper(), "window": window, "active": n > 0}
            for n, (name, rgb) in numbered
        ]
        return {"omero": {"channels": shown, "rdefs": {"model": "color"}}}
    colours = [{"label-value": n, "rgba": [*rgb, 255 if n else 0]} for n, (_, rgb) in numbered]
    names = [{"label-value": n, "name": name} for n, (name, _) in numbered]
    return {"image-label": {"version": "0.5", "colors": colours, "properties": names}}


def level_shapes(shape: tuple[int, ...], chunks: Sequence[int]) -> list[tuple[int, ...]]:
    """Of all levels of a pyramid: halved in the plane until one chunk holds it."""
    shapes = [shape]
    while any(n > c for n, c in zip(shapes[-1][-2:], chunks[-2:], strict=True)):
        *rest, rows, columns = shapes[-1]
        shapes.append((*rest, -(-rows // _DOWN), -(-columns // _DOWN)))
    return shapes


def beneath(box: Sequence[slice]) -> tuple[slice, ...]:
    """The part of a level that becomes a box of the next one."""
    *rest, rows, columns = box
    wide = [slice(s.start * _DOWN, s.stop * _DOWN) for s in (rows, columns)]
    return (*rest, *wide)


def halved(array: NDArray[Any], mean: bool = True) -> NDArray[Any]:
    """The next level of a pyramid: half as many rows and columns.

    Args:
        array: ``[..., Y, X]``; an odd last row or column is doubled.
        mean: of four pixels, to the nearest whole number where the dtype has no others; else the
            first of them, as labels need it.
    """
    if not mean:
        first: NDArray[Any] = array[..., ::_DOWN, ::_DOWN]
        return first
    odd = [(0, 0)] * (array.ndim - 2) + [(0, n % _DOWN) for n in array.shape[-2:]]
    padded = np.pad(array, odd, "edge")
    *rest, rows, columns = padded.shape
    means = padded.reshape(*rest, rows // _DOWN, _DOWN, columns // _DOWN, _DOWN).mean(axis=(-3, -1))
    small: NDArray[Any] = np.round(means) if array.dtype.kind in "iu" else means
    return small.astype(array.dtype)


def _open(path: Path, level: int) -> Stored:
    """A level of an image, or a bare array.

    Raises:
        DataError: if the group does not say that it is one image.
        ConfigurationError: if there is no such level.
    """
    import zarr

    opened: Any = zarr.open(path, mode="r")
    if isinstance(opened, zarr.Array):
        if level:
            raise no_level(path, level, [opened.shape])
        return _stored(path, _axes_of(path, opened), opened, {}, ())
    attributes: dict[str, Any] = dict(opened.attrs)
    told = attributes.get("ome", attributes)
    if not told.get("multiscales"):
        return _open(_only_image(path, told), level)
    found = _level_of(path, opened, told["multiscales"][0], level)
    return replace(found, channel_names=_channel_names(told.get("omero")))


def _channel_names(told: Any) -> tuple[str, ...]:
    """What the metadata for viewers call the channels; none where they call them nothing."""
    channels = told.get("channels") if isinstance(told, Mapping) else None
    listed = channels if isinstance(channels, list) else []
    names = tuple(
        str(channel.get("label") or "") if isinstance(channel, Mapping) else ""
        for channel in listed
    )
    return names if any(names) else ()


def _only_image(path: Path, told: Mapping[str, Any]) -> Path:
    """The image in a group of images, as bioformats2raw and plates have them.

    Raises:
        DataError: if there are several, naming the first.
    """
    if "plate" in told:
        wells = [path / str(well["path"]) for well in told["plate"]["wells"]]
        found = [image for well in wells if ".." not in well.parts for image in _numbered(well)]
    else:
        found = _numbered(path)
    if len(found) == 1:
        return found[0]
    if found:
        several = f"{len(found)} images, from {found[0].relative_to(path)} on"
        raise DataError(path, several, "one", f"name one, such as {found[0]}")
    raise DataError(
        path,
        "a Zarr group without multiscales metadata",
        "an OME-Zarr image, or the path of one array in it",
    )


def _numbered(path: Path) -> list[Path]:
    found = [p for p in path.iterdir() if p.name.isdecimal() and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name))


def _level_of(path: Path, group: Any, described: Mapping[str, Any], level: int) -> Stored:
    """A level of the pyramid in an opened group; pixel size from its metadata.

    Raises:
        DataError: if the level or its axes are not there as they are named.
        ConfigurationError: if there is no such level.
    """
    datasets = described["datasets"]
    if not 0 <= level < len(datasets):
        raise no_level(path, level, [group[d["path"]].shape for d in datasets])
    try:
        array: Any = group[datasets[level]["path"]]
    except KeyError:
        raise DataError(
            path,
            f"level {level} is named in its metadata, but {datasets[level]['path']} is missing",
            "all levels",
            ("copy the image anew", "give another level"),
        ) from None
    told = described.get("axes", "tczyx"[-array.ndim :])  # before version 0.3 they have no names
    axes = [a if isinstance(a, dict) else {"name": a} for a in told]
    letters = "".join(axis["name"][0].upper() for axis in axes)
    if len(letters) != array.ndim or len(set(letters)) < len(letters):
        names = ", ".join(axis["name"] for axis in axes)
        found = f"its metadata name the axes {names} of an array of {size_text(array.shape)}"
        raise UnreadableError(path, found, "one axis of its own for each", SKIP)
    steps = np.ones(array.ndim)
    scaled = False
    for changes in (datasets[level], described):  # of the level, then of all of them
        for change in changes.get("coordinateTransformations", ()):
            if change["type"] == "scale":
                steps, scaled = steps * np.array(change["scale"], float), True
    spacing = {
        letter: float(step) * _UNITS[axis["unit"]]
        for letter, axis, step in zip(letters, axes, steps, strict=True)
        if scaled and letter in "XYZ" and axis.get("unit") in _UNITS
    }
    remarks: tuple[str, ...] = ()
    if any(not (np.isfinite(step) and step > 0) for step in spacing.values()):
        remarks = (f"no pixel size: its metadata say {', '.join(map(str, steps))}",)
        spacing = {}
    return _stored(path, letters, array, spacing, remarks)


def _stored(
    path: Path, axes: str, array: Any, spacing: dict[str, float], remarks: tuple[str, ...]
) -> Stored:
    return Stored(
        axes,
        tuple(int(n) for n in array.shape),
        np.dtype(array.dtype),
        lambda index: np.asarray(array[index]),
        spacing=spacing,
        block=int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize,
        remarks=remarks,
    )


def _axes_of(path: Path, array: Any) -> str:
    """The axes of a bare array: its dimension names, or the usual ones for their number."""
    names = getattr(array.metadata, "dimension_names", None)
    if names and all(names):
        axes = "".join(name[0].upper() for name in names)
        if len(set(axes)) < len(axes):
            raise DataError(
                path,
                f"dimension_names {', '.join(names)}",
                "names that begin with different letters, such as t, c, z, y, x",
                "rename them in its metadata",
            )
        return axes
    usual = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}
    if array.ndim not in usual:
        raise DataError(
            path,
            f"an array of {array.ndim} axes without names",
            "2 to 5, or dimension_names in its metadata",
        )
    return usual[array.ndim]
