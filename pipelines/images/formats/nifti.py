"""NIfTI: volumes with a place in space."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines import files
from overtile.pipelines.errors import UnreadableError
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.stored import (
    ORIGIN,
    SKIP,
    Format,
    Index,
    Spacing,
    Stored,
    check_claim,
    decoded_once,
    no_level,
    spans_of,
    squeezed,
)

_ASIDE = 2**20  # bytes that are unpacked at a time
_PACKED = ".gz"
_DENSEST = 1100  # how many times smaller that makes pixels at the most
_CUT = 16  # of how many parts a file may be the first
_PAIR, _HEADER = ".img", ".hdr"  # pixels and header in files of their own
_MICROMETRES = {"meter": 1e6, "mm": 1e3, "micron": 1.0}  # of its units; unknown ones are mm


class Nifti(Format):
    """NIfTI, compressed or not."""

    name = "NIfTI"
    suffixes = (".nii.gz", ".nii", _PAIR)
    in_space = True
    written = ("nii.gz",)

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """The header of a pair, whose pixels have the name that is looked for."""
        return path.suffix.lower() == _HEADER and _pixels_of(path).is_file()

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it; without a place in space where the header has none."""
        import nibabel

        volume = nibabel.load(path)
        if not isinstance(volume, nibabel.Nifti1Pair):  # of which all of NIfTI are kinds
            found = "an Analyze image, which does not say how it lies"
            raise UnreadableError(path, found, "NIfTI", ("convert it", SKIP))
        shape, rest = _shape(volume)
        scaled = (volume.dataobj.slope, volume.dataobj.inter) != (1.0, 0.0)
        own = volume.get_data_dtype()
        if not np.prod(shape, dtype=object):
            raise ValueError("it holds no pixels")
        packed = path.name.lower().endswith(_PACKED)
        pixels = int(np.prod(shape, dtype=object)) * own.itemsize
        check_claim(_pixels_of(path), pixels, _DENSEST if packed else _CUT)
        units = volume.header.get_xyzt_units()
        unit = _MICROMETRES.get(units[0], 1e3)
        zooms = volume.header.get_zooms()
        axes = "XYZTUVW"[: len(shape)]
        affine, spacing = volume.affine, {}
        remarks: tuple[str, ...] = ()
        steps = () if volume.header["sform_code"] else _own_steps(volume)
        if not all(np.isfinite(step) and step > 0 for step in steps):
            told = " x ".join(f"{step:g}" for step in steps)
            affine, remarks = None, (f"no pixel size: its header says {told}",)
        elif not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
            known = zip("XYZ", zooms, strict=False)
            spacing = {a: float(z) * unit for a, z in known if np.isfinite(z) and z > 0}
            affine, remarks = None, ("it has no place in space: its affine has no inverse",)
        return Stored(
            axes,
            shape,
            np.dtype(np.float64) if scaled else own,
            lambda index: decoded_once(path, _load)[index + rest],
            affine,
            spacing,
            tags={"units": units, "zooms": zooms, "micrometres": unit},
            remarks=remarks,
        )

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """As the base class has it, from an uncompressed file: `unpacked` makes one."""
        import nibabel

        told = self.open(path)
        if level:
            raise no_level(path, level, [told.shape])
        volume = nibabel.load(path, mmap=False)
        _, rest = _shape(volume)

        def pixels(index: Index) -> NDArray[Any]:
            # nibabel reads slices of slices; a number would change which axes are left
            spans = [slice(a, b) for a, b in spans_of(index, told.shape)]
            return squeezed(np.asanyarray(volume.dataobj[(*spans, *rest)]), index)

        return replace(told, pixels=pixels)

    def unpacked(self, path: Path, folder: Path) -> Path:
        """A compressed file unpacked, since a part of it cannot be read, as far as its header says.

        One that ends too early is unpacked as far as it goes; reading says later what is missing.
        """
        if not path.name.lower().endswith(_PACKED):
            return path
        target = folder / path.name[: -len(_PACKED)]
        if target.is_file():
            return target
        with (
            files.whole(target) as unfinished,
            gzip.open(path) as packed,
            unfinished.open("wb") as plain,
        ):
            try:
                left = _length(packed)
                while data := packed.read1(min(_ASIDE, left)):  # all before it breaks off
                    plain.write(data)
                    left -= len(data)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                pass
        return target

    def write(
        self,
        path: Path,
        array: NDArray[Any],
        like: Stored | None = None,
        spacing: Spacing | None = None,
    ) -> None:
        """As the base class has it; a new one counts x first, and lies as a DICOM series does."""
        import nibabel

        if like is None:
            slices, rows, columns = spacing or (1.0, 1.0, 1.0)
            affine = np.diag([-columns, -rows, slices, 1.0])  # RAS, where DICOM is LPS
            affine[:3, 3] = -ORIGIN[0], -ORIGIN[1], ORIGIN[2]
            volume = nibabel.Nifti1Image(array.T, affine)
            volume.header.set_xyzt_units("mm")
        else:
            array = array.reshape(like.shape)
            array = array if like.axes.startswith("X") else array.T  # X is the first one here
            volume = nibabel.Nifti1Image(array, like.affine)
            volume.header.set_xyzt_units(*like.tags.get("units", ("mm", "unknown")))
            if "zooms" in like.tags:
                volume.header.set_zooms(like.tags["zooms"][: len(like.shape)])
        volume.to_filename(path)

    def result_suffix(self, like: Stored, ndim: int) -> str:
        """Always compressed."""
        return ".nii.gz"

    def label_suffix(self, name: str) -> str:
        """Its own."""
        return ".nii.gz" if name.lower().endswith(_PACKED) else ".nii"


FORMAT = Nifti()


def _length(file: gzip.GzipFile) -> int:
    """Bytes that a header speaks of; 0 for one that is none: whoever opens it says so."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    start = file.read(Nifti2Header.sizeof_hdr)  # the longer one
    file.seek(0)
    for kind in (Nifti1Header, Nifti2Header):
        with suppress(Exception):
            header = kind.from_fileobj(BytesIO(start), check=False)
            if header["sizeof_hdr"] == kind.sizeof_hdr:
                pixels = np.prod(header.get_data_shape(), dtype=object)
                return int(header.get_data_offset() + pixels * header.get_data_dtype().itemsize)
    return 0


def _own_steps(volume: Any) -> tuple[float, ...]:
    """The sizes of voxels as the file has them: nibabel makes 1 of 0 and of -1."""
    part = volume.file_map.get("header") or volume.file_map["image"]
    with part.get_prepare_fileobj("rb") as file:
        header = type(volume.header).from_fileobj(file, check=False)
    return tuple(float(step) for step in header["pixdim"][1:4])[: volume.ndim]


def _pixels_of(path: Path) -> Path:
    """The file of the pixels: itself, but for the header of a pair."""
    return path.with_suffix(_PAIR) if path.suffix.lower() == _HEADER else path


def _shape(volume: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape without axes of one at the end, and the index of these."""
    shape = tuple(int(n) for n in volume.shape)
    rest = 0
    while len(shape) > 3 and shape[-1] == 1:
        shape, rest = shape[:-1], rest + 1
    return shape, (0,) * rest


def _load(path: Path) -> NDArray[Any]:
    import nibabel

    return np.asanyarray(nibabel.load(path).dataobj)
