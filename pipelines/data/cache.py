"""Images that are decoded and normalised once, and training samples that repeat to the bit."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, RandomizableTrait
from monai.utils import TraceKeys
from torch import Tensor
from tqdm import tqdm

from overtile import __version__
from overtile.pipelines.data.facts import default_cache
from overtile.pipelines.files import whole
from overtile.pipelines.images.handed_on import handed_on
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.stored import stamp

_VERSION = 3  # of the files in the cache


class CachedDataset(Dataset):
    """Images that are read and normalised once, and kept: in memory up to a limit, else on disk.

    What precedes the first random transform is done once for each image and written into
    ``cache_dir``; the next run reads it from there, unless the image's files have changed since,
    or the transforms have. Of what lies there, the first ``memory_limit`` bytes are kept in
    memory, and the rest is mapped from disk.

    An item is the same from wherever it comes, metadata and trace of invertible transforms
    included; what a file of tensors cannot hold stays in memory.

    Args:
        data: items for ``transform``, with names of files.
        transform: a MONAI ``Compose``; deterministic steps first.
        memory_limit: bytes of images to keep in memory.
        cache_dir: default: `default_cache`. Where it cannot be written all images are kept in
            memory. It may be deleted at any time.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        memory_limit: int = 4 * 2**30,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.cache_dir = Path(cache_dir or default_cache()) / "images"
        steps = transform.transforms
        random = (isinstance(step, RandomizableTrait) for step in steps)
        self._first_random = next((i for i, r in enumerate(random) if r), len(steps))
        self._transform_key = _key_of(steps[: self._first_random])
        self._items: list[dict[str, Any]] = []
        held = 0
        for item in tqdm(data, desc="reading the images", delay=2, leave=False):
            found = self._prepared(item)
            size = sum(v.nbytes for v in found.values() if isinstance(v, Tensor))
            if held + size <= memory_limit:
                held += size
                found = {k: v.clone() if isinstance(v, Tensor) else v for k, v in found.items()}
            self._items.append(found)

    def _transform(self, index: int) -> Any:
        return self.transform(dict(self._items[index]), start=self._first_random)

    def _prepared(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """An item after the fixed transforms, mapped from the cache where possible."""
        path = self._cache_file(item)
        if path is not None and path.is_file():
            try:
                found = _load(path)
                handed_on.without(item.values())
                return found
            except Exception:  # a broken cache is an empty one
                path.unlink(missing_ok=True)
        done: dict[str, Any] = self.transform(dict(item), end=self._first_random)
        if path is None:
            return done
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as unfinished:
                torch.save(_packed(done), unfinished)
            return _load(path)
        except (OSError, TypeError, ValueError):  # no place for it, or no way to keep it
            return done

    def _cache_file(self, item: Mapping[str, Any]) -> Path | None:
        """Where the item lies; None for one that cannot be told apart by files and transforms."""
        if not self._transform_key or not all(isinstance(v, str) for v in item.values()):
            return None
        parts = [self._transform_key]
        for key, name in sorted(item.items()):
            file = Plane.of(name).file.resolve()
            if not file.exists():
                return None
            parts += [key, str(Path(name).resolve()), stamp(file)]
        key = hashlib.sha256(os.fsencode("\n".join(parts))).hexdigest()
        return self.cache_dir / key[:2] / f"{key[2:]}.pt"


def _load(path: Path) -> dict[str, Any]:
    item: dict[str, Any] = _unpacked(torch.load(path, weights_only=True, mmap=True))
    return item


def _key_of(steps: Sequence[Any]) -> str:
    """Changes with the transforms and their arguments; empty if that cannot be told."""
    try:
        return hashlib.sha256(pickle.dumps([__version__, _VERSION, steps])).hexdigest()
    except Exception:  # a lambda, for one
        return ""


def _packed(value: Any) -> Any:
    """A value as ``torch.load(weights_only=True)`` accepts it.

    Raises:
        TypeError: for one that cannot be kept that way and come back as it was; ValueError: for
            such an array.
    """
    if isinstance(value, MetaTensor):
        applied = [_of_any_instance(step) for step in value.applied_operations]
        return ("image", value.as_tensor(), _packed(dict(value.meta)), _packed(applied))
    if value is None or type(value) in (bool, int, float, Tensor):
        return value
    if isinstance(value, str):  # also MONAI's keys, which are enumerations
        return str(value.value if isinstance(value, Enum) else value)
    if isinstance(value, (np.ndarray, np.generic)):
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return (kind, torch.from_numpy(np.array(value, order="C")))
    if type(value) is dict:
        return ("dict", [(_packed(k), _packed(v)) for k, v in value.items()])
    if type(value) in (list, tuple):
        return (type(value).__name__, [_packed(v) for v in value])
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _unpacked(value: Any) -> Any:
    """What `_packed` was given."""
    if not isinstance(value, tuple):
        return value
    match value:
        case ("image", pixels, meta, applied):
            return MetaTensor(pixels, meta=_unpacked(meta), applied_operations=_unpacked(applied))
        case ("array", tensor):
            return tensor.numpy()
        case ("number", tensor):
            return tensor.numpy()[()]
        case ("dict", pairs):
            return {_unpacked(k): _unpacked(v) for k, v in pairs}
        case ("list", values):
            return [_unpacked(v) for v in values]
        case ("tuple", values):
            return tuple(_unpacked(v) for v in values)
    raise TypeError(f"{value[0]!r} is of another version")


def _of_any_instance(step: Any) -> Any:
    """A transform's trace, which MONAI's inverse may undo in another process than it was made in.

    There the transform has another ``id``, by which MONAI compares otherwise.
    """
    return {**step, TraceKeys.ID: TraceKeys.NONE} if TraceKeys.ID in step else step
