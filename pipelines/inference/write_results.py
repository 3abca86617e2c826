"""Write what was found in an image beside its name: instances, probabilities, outlines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from overtile.pipelines.errors import ConfigurationError, Setting, printable
from overtile.pipelines.files import whole
from overtile.pipelines.images.formats import open_image
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.stored import Stored
from overtile.pipelines.images.view import view
from overtile.pipelines.images.write_like import write_like
from overtile.pipelines.reporting.figures import outlined

_PICTURE = 400  # pixels that a picture of outlines has at least along its longer side, nearly


class WriteResultsd(MapTransform):
    """Write instance labels or classes, a picture of their outlines and, if wanted, probabilities.

    One file for each file that was read, with its axes, whole or not at all; here of instances, and
    with the name of their key of others:

    - from NIfTI and DICOM ``NAME_instances.nii.gz``, with the affine;
    - from OME-TIFF and OME-Zarr that state a pixel size ``NAME_instances.ome.tif`` with it;
    - from everything else ``NAME_instances.tif``, with the resolution tags of a TIFF.

    Instances are uint16, uint32 above 65,535 cells; 0 is background; classes are uint8. In two
    dimensions every plane of a stack counts its own cells from 1. ``NAME_probabilities`` holds
    P(cell) in float32.
    ``NAME_outlines.png`` shows the image, of a stack its middle plane.

    Args:
        keys: of ``"instances"`` or ``"classes"``, ``[1, *S]``, whose metadata name the source file.
        output_dir: created if need be.
        items: all images that will come, so that the planes of a file are written together;
            without them each plane is written alone.
        probabilities: key of probabilities ``[K, *S]`` to write too, the last channel of them; of
            classes each but that of the background, as ``NAME_probabilities_CLASS``.
        image_key: of the grey values under the outlines.

    Raises:
        ConfigurationError: if the images lie in ``output_dir``: results would mix with them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        items: Iterable[Mapping[str, str]] = (),
        probabilities: str | None = None,
        image_key: str = "image",
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.probabilities, self.image_key = probabilities, image_key
        self._planes = Counter(Plane.of(item[image_key]).file for item in items)
        for file in self._planes:
            if file.parent.resolve() == self.output_dir.resolve():
                raise ConfigurationError(
                    f"output_dir {self.output_dir}",
                    "the images lie there, and perhaps their labels",
                    hint=Setting("output_dir", "DIR", "to write elsewhere"),
                )
        self._found: Counter[Path] = Counter()
        self._waiting: dict[tuple[Path, str], list[NDArray[Any]]] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write every key once its file is complete; the data pass unchanged."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.key_iterator(dict(data)):
            source = data[key].meta["filename_or_obj"]
            instances = data[key].as_tensor()[0].cpu().numpy()
            classes = key == "classes"
            if not classes:
                self._found[Plane.of(source).file] += len(np.unique(instances[instances > 0]))
            self._draw(source, data, instances, classes)
            if self.probabilities is not None:
                likely = data[self.probabilities].as_tensor().float().cpu().numpy()
                if classes:
                    for number, one in enumerate(likely[1:], start=1):
                        self._collect(source, one, f"probabilities_{number}")
                else:
                    self._collect(source, likely[-1], "probabilities")
            self._collect(source, instances, str(key))
        return dict(data)

    def _draw(
        self, source: str, data: Mapping[Hashable, Any], instances: NDArray[Any], classes: bool
    ) -> None:
        plane = Plane.of(source)
        file = plane.file
        count = self._planes[file]
        if instances.ndim != 2 or self.image_key not in data:
            return
        if plane.number is not None and count > 1 and plane.number != count // 2:
            return
        grey = data[self.image_key].as_tensor()[0].cpu().numpy()
        if open_image(file).axes.startswith("X"):  # rows are the second axis there
            grey, instances = grey.T, instances.T
        zoom = max(1, _PICTURE // max(grey.shape))  # thin lines on tiny images hide them
        grey, instances = (a.repeat(zoom, 0).repeat(zoom, 1) for a in (grey, instances))
        picture = Image.fromarray(outlined(grey, instances, classes))
        name = (Plane(file) if count > 1 else plane).stem
        with whole(self.output_dir / f"{name}_outlines.png") as unfinished:
            picture.save(unfinished)

    def _collect(self, source: str, array: NDArray[Any], kind: str) -> None:
        plane = Plane.of(source)
        file = plane.file
        count = self._planes[file]
        stored = open_image(file)
        if plane.number is None or count < 2:
            part = stored if plane.number is None else None
            self._write(self.output_dir / f"{plane.stem}_{kind}", array, part, file)
            return
        planes = self._waiting.setdefault((file, kind), [])
        planes.append(array)
        if len(planes) == count:
            del self._waiting[file, kind]
            stack = _in_stored_order(np.stack(planes), stored, array.ndim)
            self._write(self.output_dir / f"{Plane(file).stem}_{kind}", stack, stored, file)

    def _write(self, base: Path, array: NDArray[Any], stored: Stored | None, file: Path) -> None:
        found = ""
        if array.dtype.kind in "iu":
            if file in self._found:
                array = array.astype(np.uint16 if array.max(initial=0) < 2**16 else np.uint32)
                found = f": {self._found.pop(file)} cells"
            else:
                array = array.astype(np.uint8)
        path = write_like(base, array, stored)
        tqdm.write(f"{printable(path)}{found}")


def _in_stored_order(planes: NDArray[Any], stored: Stored, spatial_dims: int) -> NDArray[Any]:
    """Planes ``[N, *S]`` back in the order of axes that the file has."""
    seen = view(stored, Path(), spatial_dims)
    order = [*seen.stacked, *seen.spatial]
    grid = planes.reshape([stored.shape[i] for i in order])
    return grid.transpose(np.argsort(order))
