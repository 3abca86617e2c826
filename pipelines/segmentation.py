"""Segment images with a trained network: the bundles' ``inference``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
from monai.config import KeysCollection
from monai.engines import SupervisedEvaluator
from monai.transforms import MapTransform
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from overtile.pipelines.checkpoints import load_weights
from overtile.pipelines.config import check_inferer
from overtile.pipelines.figures import outlined
from overtile.pipelines.reading import NIFTI, split_page, stem


def run_inference(evaluator: SupervisedEvaluator, checkpoint: str | Path) -> None:
    """Segment every image of the evaluator's loader; its postprocessing writes the results.

    Raises:
        ConfigurationError: if network, inferer and checkpoint do not go together.
    """
    check_inferer(evaluator.inferer, evaluator.network)
    load_weights(evaluator.network, checkpoint)
    evaluator.run()


class WriteInstancesd(MapTransform):
    """Write instance labels, and a picture of their outlines, into a folder.

    ``NAME_instances.tif`` (uint16, uint32 above 65,535 cells; of a NIfTI volume
    ``NAME_instances.nii.gz`` with its affine) and, in 2D, ``NAME_outlines.png``. Files appear
    whole or not at all.

    Args:
        keys: of instances ``[1, *S]`` whose metadata name the source file.
        output_dir: created if need be.
        image_key: of the grey values under the outlines.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: str | Path, image_key: str = "image"
    ) -> None:
        super().__init__(keys)
        self.output_dir, self.image_key = Path(output_dir), image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write every key; the data pass unchanged."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.key_iterator(dict(data)):
            instances = data[key].as_tensor()[0].cpu().numpy()
            source = data[key].meta["filename_or_obj"]
            dtype = np.uint16 if instances.max(initial=0) < 2**16 else np.uint32
            path = self._write(source, instances.astype(dtype), data[key].affine.numpy())
            if instances.ndim == 2 and self.image_key in data:
                grey = data[self.image_key].as_tensor()[0].cpu().numpy()
                picture = Image.fromarray(outlined(grey, instances))
                _whole(self.output_dir / f"{stem(source)}_outlines.png", picture.save)
            tqdm.write(f"{path}: {len(np.unique(instances)) - (0 in instances)} cells")
        return dict(data)

    def _write(self, source: str, labels: NDArray[Any], affine: NDArray[Any]) -> Path:
        base = self.output_dir / f"{stem(source)}_instances"
        if split_page(source)[0].name.lower().endswith(NIFTI):
            volume = nibabel.Nifti1Image(labels, affine)
            return _whole(base.with_name(base.name + ".nii.gz"), volume.to_filename)
        return _whole(
            base.with_name(base.name + ".tif"),
            lambda path: tifffile.imwrite(path, labels, compression="zlib"),
        )


def _whole(path: Path, write: Any) -> Path:
    partial = path.with_name("partial." + path.name)
    write(partial)
    partial.replace(path)
    return path
