"""Image files as MONAI reads them: a transform from names to tensors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from overtile.pipelines.errors import DataError, Setting
from overtile.pipelines.images.annotation import Annotation
from overtile.pipelines.images.channels import Channels, check_channels, takes_several
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.read import (
    check_labels_kind,
    check_pixels,
    check_spacing_known,
    number_cells,
    read_image,
    read_label,
    spacing_of_meta,
)


class ReadImaged(MapTransform):
    """Read the files that the keys name into `MetaTensor` s ``[C, *S]``, labels ``[1, *S]``.

    Args:
        keys: of file names; an item that already holds an array is left alone.
        dtype: one for all keys, or one a key: float32 for images, int32 for labels.
        spatial_dims: 2 reads planes, 3 volumes.
        channels: as of `read_image`; of images.
        labels: what label files hold: ``"instances"``, one number a cell; ``"mask"``, cells are
            what is not 0, and connected components (without diagonals) are numbered;
            ``"membranes"``, the same of maps that must not have more than two values; or
            ``"classes"``, one number a class.
        ignore: as of `Annotation`: pixels that are not annotated become -1.
        unlabelled: as of `Annotation`.
        band: as of `Annotation`.
        image_key: of the image that the labels belong to.
        allow_missing_keys: leave out keys that an item does not have.
        spacing: that images will be resampled to, in millimetres a pixel along each axis; None
            takes images that do not say the size of their pixels.

    Raises:
        DataError: if a file cannot be read, an image holds NaN or infinite pixels, or a label
            file anything but integers from 0 up, or a file holds several planes and none is named,
            or an image does not say the ``spacing`` that is needed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dtype: str | tuple[str, ...] = "float32",
        spatial_dims: int = 2,
        channels: Channels = None,
        labels: str = "instances",
        ignore: int | None = None,
        unlabelled: str = "background",
        band: float = 10.0,
        image_key: str = "image",
        allow_missing_keys: bool = False,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.dtype = tuple(np.dtype(d) for d in ensure_tuple_rep(dtype, len(self.keys)))
        self.spatial_dims, self.channels = spatial_dims, check_channels(channels)
        self.labels, self.image_key = check_labels_kind(labels), image_key
        self.annotation = Annotation(ignore, unlabelled, band)
        self.spacing = None if spacing is None else tuple(spacing)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read every key."""
        result = dict(data)
        for key, dtype in self.key_iterator(data, self.dtype):
            if not isinstance(data[key], (str, Path)):
                continue
            several = False
            if dtype.kind in "iu":
                image = data.get(self.image_key)
                array, meta = read_label(data[key], self.spatial_dims, image, self.annotation)
                if array.max(initial=0) > np.iinfo(dtype).max:
                    found = f"labels up to {array.max()}"
                    raise DataError(data[key], found, f"at most {np.iinfo(dtype).max}, of {dtype}")
                numbered = self.labels in ("instances", "classes")
                array = array if numbered else number_cells(array)
            else:
                array, meta = read_image(data[key], self.spatial_dims, self.channels)
                check_pixels(data[key], array)
                if self.spacing is not None:
                    own = spacing_of_meta(meta, self.spatial_dims)
                    check_spacing_known(data[key], own, self.spacing)
                several = takes_several(self.channels)
            if array.ndim != self.spatial_dims + several:
                raise DataError(
                    data[key],
                    f"{len(array)} planes",
                    "one",
                    (
                        f"name it as {Plane(Path(data[key]), 0)}",
                        Setting("spatial_dims", 3, "to take the whole"),
                    ),
                )
            pixels = np.ascontiguousarray(array, dtype=dtype)
            result[key] = MetaTensor(pixels if several else pixels[None], meta=meta)
        return result
