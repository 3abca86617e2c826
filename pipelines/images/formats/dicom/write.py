"""Write a DICOM series: a file a slice."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.images.formats.dicom.folder import SUFFIX
from overtile.pipelines.images.stored import ORIGIN, Spacing


def write_series(path: Path, array: NDArray[Any], spacing: Spacing) -> None:
    """A folder of MR slices, the kind that has position and spacing without more ado.

    Args:
        path: of the folder, which is made.
        array: ``[Z, Y, X]``.
        spacing: millimetres between slices, rows and columns.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

    path.mkdir()
    slices, rows, columns = (f"{step:.10g}" for step in spacing)
    content = hashlib.sha256(array.tobytes()).hexdigest()
    name = "/".join((path.parent.parent.name, path.name, content))
    uid = f"2.25.{int(hashlib.sha256(os.fsencode(name)).hexdigest()[:28], 16)}"
    for index, plane in enumerate(np.ascontiguousarray(array)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = UID(f"{uid}.4.{index + 1}")
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(str(path), Dataset(), preamble=bytes(128), file_meta=meta)
        file.is_little_endian, file.is_implicit_VR = True, False
        file.SOPClassUID, file.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        file.StudyInstanceUID, file.SeriesInstanceUID = f"{uid}.1", f"{uid}.2"
        file.FrameOfReferenceUID = f"{uid}.3"
        file.Modality, file.ImageType = "MR", ["ORIGINAL", "PRIMARY"]
        file.PatientName = file.PatientID = file.StudyDate = file.StudyTime = ""
        file.SliceThickness = file.SpacingBetweenSlices = slices
        file.InstanceNumber = index + 1
        height = ORIGIN[2] + index * spacing[0]
        file.ImagePositionPatient = [f"{at:.10g}" for at in (*ORIGIN[:2], height)]
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.PixelSpacing = [rows, columns]
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.Rows, file.Columns = plane.shape
        bits = plane.dtype.itemsize * 8
        file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
        file.PixelRepresentation = int(plane.dtype.kind == "i")
        file.PixelData = plane.astype(plane.dtype.newbyteorder("<")).tobytes()
        file.save_as(path / f"{index:03d}{SUFFIX}", write_like_original=False)
