"""Images that are decoded and normalised once, and training samples that repeat to the bit."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, RandomizableTrait
from torch import Tensor
from tqdm import tqdm

from overtile import __version__
from overtile.pipelines.data.facts import default_cache, stamp
from overtile.pipelines.images.view import split_plane

_VERSION = 1  # of the files in the cache


class CachedDataset(Dataset):
    """Images that are read and normalised once, and kept: in memory up to a limit, else on disk.

    What precedes the first random transform is done once for each image and written into
    ``cache_dir``; the next run reads it from there, unless the image's files have changed since,
    or the transforms have. Of what lies there, the first ``memory_limit`` bytes are kept in
    memory, and the rest is mapped from disk.

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
                return _restored(torch.load(path, weights_only=True, mmap=True))
            except Exception:  # a broken cache is an empty one
                path.unlink(missing_ok=True)
        done: dict[str, Any] = self.transform(dict(item), end=self._first_random)
        if path is None:
            return done
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(_plain(done), partial)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            return done
        return _restored(torch.load(path, weights_only=True, mmap=True))

    def _cache_file(self, item: Mapping[str, Any]) -> Path | None:
        """Where the item lies; None for one that cannot be told apart by files and transforms."""
        if not self._transform_key or not all(isinstance(v, str) for v in item.values()):
            return None
        parts = [self._transform_key]
        for key, name in sorted(item.items()):
            file = split_plane(name)[0].resolve()
            if not file.exists():
                return None
            parts += [key, str(Path(name).resolve()), stamp(file)]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return self.cache_dir / key[:2] / f"{key[2:]}.pt"


def _key_of(steps: Sequence[Any]) -> str:
    """Changes with the transforms and their arguments; empty if that cannot be told."""
    try:
        return hashlib.sha256(pickle.dumps([__version__, _VERSION, steps])).hexdigest()
    except Exception:  # a lambda, for one
        return ""


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors and texts alone, as ``torch.load(weights_only=True)`` accepts them."""
    plain: dict[str, Any] = {}
    for key, value in item.items():
        if isinstance(value, MetaTensor):
            name = value.meta["filename_or_obj"]
            plain[key] = {"pixels": value.as_tensor(), "affine": value.affine, "name": str(name)}
        else:
            plain[key] = value
    return plain


def _restored(plain: Mapping[str, Any]) -> dict[str, Any]:
    item = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            meta = {"filename_or_obj": value["name"]}
            item[key] = MetaTensor(value["pixels"], affine=value["affine"], meta=meta)
        else:
            item[key] = value
    return item
