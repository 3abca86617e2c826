"""DICOM: a folder of slices with a place in space, or one file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import DataError, UnreadableError
from overtile.pipelines.images.block_cache import BlockCache
from overtile.pipelines.images.stored import (
    ORIGIN,
    SKIP,
    Format,
    Index,
    Spacing,
    Stored,
    decoded_once,
    no_level,
    spans_of,
    squeezed,
    unreadable,
)

_SUFFIX = ".dcm"


class Dicom(Format):
    """DICOM series."""

    name = "DICOM"
    suffixes = (_SUFFIX,)
    in_space = True
    written = ("dicom",)
    dtypes = "u1 u2 i2"
    dims = (3,)

    def recognises(self, path: Path, labels: bool = False) -> bool:
        """A folder in which files are DICOM, with or without their suffix."""
        if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):  # lost+found, for one
            return False
        return any(
            file.is_file() and (file.name.lower().endswith(_SUFFIX) or _is_slice(file))
            for file in sorted(path.iterdir())[:3]
        )

    def open(self, path: Path, labels: bool = False) -> Stored:
        """As the base class has it."""
        import itk

        reader = _reader(path)
        header = itk.GDCMImageIO.New()
        header.SetFileName(reader.GetFileNames()[0])
        header.ReadImageInformation()
        if header.GetNumberOfComponents() > 1:
            raise DataError(
                path, "a DICOM series in colour", "one grey channel", "convert it to TIFF"
            )
        reader.UpdateOutputInformation()
        image = reader.GetOutput()
        shape = tuple(int(n) for n in itk.size(image))
        spacing, origin = np.array(itk.spacing(image)), np.array(itk.origin(image))
        affine = np.eye(4)
        affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * spacing
        affine[:3, 3] = origin
        affine[:2] *= -1  # it counts towards left and posterior, NIfTI towards right and anterior
        dtype = np.dtype(np.float32)
        return Stored("XYZ", shape, dtype, lambda i: decoded_once(path, _load)[i], affine)

    def open_windows(self, path: Path, level: int, cache: BlockCache) -> Stored:
        """As the base class has it, one slice of a series at a time."""
        if not path.is_dir():
            return super().open_windows(path, level, cache)
        told = self.open(path)
        if level:
            raise no_level(path, level, [told.shape])
        names = list(_reader(path).GetFileNames())
        if len(names) != told.shape[2]:
            raise DataError(
                path,
                f"{told.shape[2]} sections in {len(names)} files",
                "one section a file, or the file itself as the source",
            )

        def load(number: int) -> NDArray[Any]:
            import itk

            reader = _reader(path, [names[number]])
            try:
                reader.Update()
            except Exception as error:
                raise unreadable(names[number], error) from error
            array: NDArray[Any] = itk.array_from_image(reader.GetOutput())
            plane: NDArray[Any] = array[0].transpose()
            return plane

        def pixels(index: Index) -> NDArray[Any]:
            (left, right), (top, bottom), (first, last) = spans_of(index, told.shape)
            slices = [cache.get(z, partial(load, z)) for z in range(first, last)]
            array = np.stack([one[left:right, top:bottom] for one in slices], axis=-1)
            return squeezed(array, index)

        return Stored(told.axes, told.shape, told.dtype, pixels, told.affine)

    def write(
        self,
        path: Path,
        array: NDArray[Any],
        like: Stored | None = None,
        spacing: Spacing | None = None,
    ) -> None:
        """A folder of MR slices; of other kinds, GDCM drops position and spacing."""
        import itk

        slices, rows, columns = spacing or (1.0, 1.0, 1.0)
        path.mkdir()
        content = hashlib.sha256(array.tobytes()).hexdigest()
        name = "/".join((path.parent.parent.name, path.name, content))
        uid = f"2.25.{int(hashlib.sha256(os.fsencode(name)).hexdigest()[:28], 16)}"
        tags = {
            "0008|0008": "ORIGINAL\\PRIMARY",
            "0008|0060": "MR",
            "0018|0050": str(slices),  # thickness of a slice
            "0018|0088": str(slices),  # distance between slices
            "0020|000d": f"{uid}.1",  # study, series, frame of reference
            "0020|000e": f"{uid}.2",
            "0020|0052": f"{uid}.3",
        }
        for index, plane in enumerate(np.ascontiguousarray(array)):
            image = itk.image_from_array(plane[None])
            image.SetSpacing((columns, rows, slices))
            image.SetOrigin((*ORIGIN[:2], ORIGIN[2] + index * slices))
            for tag, value in tags.items():
                image[tag] = value
            image["0008|0018"] = f"{uid}.4.{index + 1}"
            image["0020|0013"] = str(index + 1)
            file = itk.GDCMImageIO.New()
            file.KeepOriginalUIDOn()
            itk.imwrite(image, str(path / f"{index:03d}{_SUFFIX}"), imageio=file)

    def label_suffix(self, name: str) -> str:
        """NIfTI's, which has the same place in space."""
        return ".nii.gz"


FORMAT = Dicom()


def _is_slice(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as start:
        return start.read(132)[128:] == b"DICM"


def _load(path: Path) -> NDArray[Any]:
    import itk

    reader = _reader(path)
    reader.Update()
    array: NDArray[Any] = itk.array_from_image(reader.GetOutput())
    return array.transpose()  # from z, y, x


def _reader(path: Path, names: Sequence[str] = ()) -> Any:
    """ITK's reader of a series, not run yet.

    Args:
        path: folder of one series, or a file.
        names: the files of it to read, in order; default: all.

    Raises:
        DataError: if the folder holds several series, or a slice is broken.
    """
    import itk

    if not names and not path.is_dir():
        names = [str(path)]
    if not names:
        finder = itk.GDCMSeriesFileNames.New()
        finder.SetUseSeriesDetails(True)
        finder.SetDirectory(str(path))
        series = list(finder.GetSeriesUIDs())
        if len(series) != 1:
            found = f"{len(series)} DICOM series"
            raise DataError(path, found, "one a folder", "put each into its own")
        names = list(finder.GetFileNames(series[0]))
        known = {Path(name).name for name in names}
        for file in sorted(path.iterdir()):  # GDCM leaves broken slices out without a word
            if file.name not in known and file.name != "DICOMDIR" and _is_slice(file):
                raise UnreadableError(
                    file,
                    "a DICOM file that is no slice of the series",
                    "an intact file",
                    ("replace it", "move it elsewhere", SKIP),
                )
    reader = itk.ImageSeriesReader[itk.Image[itk.F, 3]].New()
    reader.SetImageIO(itk.GDCMImageIO.New())
    reader.SetFileNames(names)
    return reader
