"""Proposals: a bundle's network on one image, as MONAI Label's inference task."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from numpy.typing import NDArray

from overtile.pipelines.bundle.json_file import REPLACE, read_object
from overtile.pipelines.data.annotations import spatial_dims_of, write_label
from overtile.pipelines.data.unlabelled import check_memory
from overtile.pipelines.errors import size_text
from overtile.pipelines.images.channels import OF_THE_NETWORK, Channels, check_channels, check_fit
from overtile.pipelines.images.read import (
    check_pixels,
    check_spacing_known,
    open_spacing,
    open_taken,
    open_view,
    read_image,
)
from overtile.pipelines.inference.trained import Trained, load_trained
from overtile.pipelines.inference.uncertainty import uncertainty
from overtile.pipelines.label.classes import classes_of, colours
from overtile.pipelines.label.models import held
from overtile.pipelines.label.polygons import as_annotations
from overtile.pipelines.label.refusals import RefusedError


class Segmenter(InferTask):
    """Cells of an image, numbered, or the class of each pixel, by the network of a bundle.

    The network is loaded when it is first needed, and again once its file has changed.

    Args:
        bundle: folder, with ``configs/inference.json`` and ``models/model.pt``.
        channels: which of an image are read; None for the bundle's own choice.
    """

    def __init__(self, bundle: Path, channels: Channels = None) -> None:
        metadata = read_object(bundle / "configs" / "metadata.json", REPLACE)
        tensors = metadata["network_data_format"]
        pred = tensors["outputs"]["pred"]
        self.classes = classes_of(bundle)
        cells = {v.lower(): int(k) for k, v in pred.get("channel_def", {}).items()}
        numbers = {name: n for n, name in enumerate(self.classes)} or cells
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={name: n for name, n in numbers.items() if n},  # 0 is what is no cell
            dimension=len(tensors["inputs"]["image"]["spatial_shape"]),
            description=metadata["description"],
            config={"device": ["cuda", "cpu"]},
        )
        self.bundle, self.channels, self.version = (
            bundle,
            check_channels(channels),
            metadata["version"],
        )
        self._lock = threading.RLock()
        self._loaded: tuple[tuple[int, int], Trained] | None = None

    @property
    def kind(self) -> str:
        """What its labels hold: ``"classes"`` or ``"instances"``."""
        return "classes" if self.classes else "instances"

    @property
    def weights(self) -> Path:
        """File of the network."""
        return self.bundle / "models" / "model.pt"

    def is_valid(self) -> bool:
        """Whether there is a network."""
        return self.weights.is_file()

    def get_path(self, validate: bool = True) -> str | None:
        """File of the network."""
        return str(self.weights) if self.is_valid() or not validate else None

    def info(self) -> dict[str, Any]:
        """For clients, with the colours of classes by their names."""
        found = {**super().info(), "version": self.version}
        return {**found, "label_colors": colours(self.classes)} if self.classes else found

    @property
    def trained(self) -> Trained:
        """Network, inferer and what goes with them.

        Raises:
            ConfigurationError: if the bundle cannot be used.
        """
        with self._lock, held(self.bundle):
            seen = self.weights.stat()
            stamp = seen.st_mtime_ns, seen.st_size
            if self._loaded is None or self._loaded[0] != stamp:
                self._loaded = stamp, load_trained(self.bundle, {})
            return self._loaded[1]

    def read(self, path: Path) -> list[NDArray[np.float32]]:
        """The planes (or the volume) of an image, ``[C, *S]`` each, on the network's scale.

        Raises:
            DataError: if it cannot be read, has other channels than the network takes, or is too
                large.
            RefusedError: if it is a volume in space and the network takes planes, or the reverse.
        """
        trained = self.trained
        dims = spatial_dims_of(path)
        if dims != trained.spatial_dims:
            shape = size_text(open_view(path, dims).shape)
            raise RefusedError(
                path.name,
                f"{'a volume' if dims == 3 else 'an image'} of {shape} pixels",
                f"{trained.spatial_dims} dimensions, which model {self.bundle.name} takes",
                (f"choose a model of {dims}", "save the sections as images"),
            )
        channels = trained.channels if self.channels is None else self.channels
        seen, found = open_taken(path, dims, channels)
        check_memory(path, seen.shape)
        check_fit(path, found, trained.in_channels, trained.channel_names, OF_THE_NETWORK)
        pixels, _ = read_image(path, dims, channels)
        check_pixels(path, pixels)
        planes = pixels.reshape(-1, found.count, *seen.shape)
        return [np.asarray(trained.normalize(p.astype(np.float32))) for p in planes]

    def _spacing_of(self, path: Path) -> tuple[float, ...]:
        """Millimetres a pixel along each axis, where the network has to know it; else nothing."""
        wanted, dims = self.trained.spacing, self.trained.spatial_dims
        if wanted is None:
            return ()
        spacing = open_spacing(path, dims)
        check_spacing_known(path, spacing, wanted)
        return spacing

    def segment(self, path: Path) -> NDArray[np.int32]:
        """Numbered cells or classes ``[*S]``, of a stack ``[planes, *S]``, each plane from 1 on.

        Raises:
            DataError: as `read`.
        """
        with self._lock:
            spacing = self._spacing_of(path)
            found = [self.trained.labels(plane, spacing) for plane in self.read(path)]
        return found[0] if len(found) == 1 else np.stack(found)

    def unsureness(self, path: Path, method: str) -> float:
        """Mean over the planes of `overtile.pipelines.inference.uncertainty.uncertainty`.

        Raises:
            DataError: as `read`.
        """
        with self._lock:  # dropout is on meanwhile, and no proposal may be made with it
            trained, spacing = self.trained, self._spacing_of(path)
            planes = [trained.at_its_spacing(plane, spacing) for plane in self.read(path)]
            found = [uncertainty(trained, plane, method).value for plane in planes]
        return sum(found) / len(found)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment the image that ``request["image"]`` names.

        Returns:
            A temporary file, of the image's own kind, and what is told about it.
        """
        path = Path(request["image"])
        cells, told = self.propose(path, bool(request.get("polygons")))
        with tempfile.NamedTemporaryFile(prefix="overtile-") as name:
            base = Path(name.name)
        return str(write_label(base, cells, path)), told

    def propose(self, path: Path, polygons: bool = False) -> tuple[NDArray[Any], dict[str, Any]]:
        """Segment an image.

        Returns:
            The labels, as `segment`, and what is told about them: how many cells, or the pixels of
            each class; with ``polygons`` their outlines.
        """
        start = time.perf_counter()
        cells = self.segment(path)
        told = {
            "model": self.bundle.name,
            "label_names": self.labels,
            **self._counts(cells),
            "latencies": {"total": round(time.perf_counter() - start, 3)},
        }
        if polygons and cells.ndim == 2:
            told["annotations"] = as_annotations(cells, classes=self.classes)
        return cells, told

    def _counts(self, found: NDArray[Any]) -> dict[str, Any]:
        if not self.classes:
            return {"cells": len(np.unique(found[found > 0]))}
        counts = np.bincount(found.ravel(), minlength=len(self.classes))
        told = zip(self.classes, counts.tolist(), strict=True)
        return {"pixels": dict(told), "label_colors": colours(self.classes)}
