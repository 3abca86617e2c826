"""Images that are decoded and normalised once, and training samples that repeat to the bit."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from overtile.pipelines.data.cache_folder import default_cache, private
from overtile.pipelines.files import save_tensors, whole
from overtile.pipelines.images.handed_on import handed_on
from overtile.pipelines.images.plane_name import Plane
from overtile.pipelines.images.stored import files_of, stamp

log = logging.getLogger(__name__)
_VERSION = 3  # of the files in the cache


class CachedDataset(Dataset):
    """Images that are read and normalised once, and kept: in memory up to a limit, else on disk.

    What precedes the first random transform is done once for each image and written into
    ``cache_dir``; the next run reads it from there, unless the image's files have changed since,
    or the transforms have. Of what lies there, the first ``memory_limit`` bytes are kept in
    memory, and the rest is mapped from disk.

    A file of the cache that is not what was written under its name is not taken.

    An item is the same from wherever it comes, metadata and trace of invertible transforms
    included; what a file of tensors cannot hold stays in memory.

    Args:
        data: items for ``transform``, with names of files.
        transform: a MONAI ``Compose``; deterministic steps first.
        memory_limit: bytes of images to keep in memory.
        cache_dir: default: `default_cache`. Where it cannot be written, or others may write in
            it, all images are kept in memory. It may be deleted at any time.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        memory_limit: int = 4 * 2**30,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(data, transform)
        own = private(Path(cache_dir or default_cache()))
        self._folder = None if own is None else private(own / "images")
        steps = transform.transforms
        random = (isinstance(step, RandomizableTrait) for step in steps)
        self._first_random = next((i for i, r in enumerate(random) if r), len(steps))
        self._transform_key = _key_of(steps[: self._first_random])
        self._items: list[dict[str, Any]] = []
        held = 0
        for item in tqdm(data, desc="reading the images", delay=2, leave=False, disable=None):
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
                with suppress(OSError):
                    path.unlink()
        done: dict[str, Any] = self.transform(dict(item), end=self._first_random)
        if path is None:
            return done
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with whole(path) as unfinished:
                packed = _packed(done)
                save_tensors({"item": packed, "sum": _sum_of(packed, path.name)}, unfinished)
            return _load(path)
        except OSError as error:
            log.warning(
                "%s: nothing more is kept there (%s), but in memory; make room, or give "
                "another one (cache_dir, OVERTILE_CACHE)",
                self._folder,
                error.strerror,
            )
            self._folder = None
        except (TypeError, ValueError):  # no way to keep it
            pass
        return done

    def _cache_file(self, item: Mapping[str, Any]) -> Path | None:
        """Where the item lies; None for one that cannot be told apart by files and transforms."""
        named = all(isinstance(value, str) for value in item.values())
        if self._folder is None or not self._transform_key or not named:
            return None
        parts = [self._transform_key]
        for key, name in sorted(item.items()):
            file = Plane.of(name).file.resolve()
            if not all(part.exists() for part in files_of(file)):
                return None
            parts += [key, str(Path(name).resolve()), stamp(file)]
        key = hashlib.sha256(os.fsencode("\n".join(parts))).hexdigest()
        return self._folder / key[:2] / f"{key[2:]}.pt"


def _load(path: Path) -> dict[str, Any]:
    """What was kept under this name.

    Raises:
        ValueError: for anything else.
    """
    stored = torch.load(path, weights_only=True, mmap=True)
    if stored["sum"] != _sum_of(stored["item"], path.name):
        raise ValueError("not what was written under this name")
    item: dict[str, Any] = _unpacked(stored["item"])
    return item


def _sum_of(packed: Any, name: str) -> int:
    """Changes with all that is in a packed item, and with its name."""
    total = zlib.crc32(name.encode())
    left = [packed]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            total = zlib.crc32(f"{value.dtype} {tuple(value.shape)}".encode(), total)
            plain = value.detach().contiguous().reshape(-1).view(torch.uint8)
            total = zlib.crc32(plain.numpy().data, total)
        elif isinstance(value, (list, tuple)):
            total = zlib.crc32(f"{type(value).__name__} {len(value)}".encode(), total)
            left += value
        else:
            total = zlib.crc32(repr(value).encode("utf-8", "backslashreplace"), total)
    return total


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
