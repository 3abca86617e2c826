"""Data sets of generated images, of any size and in any layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.data.synthesis.membranes import membranes
from overtile.pipelines.data.write import write_data
from overtile.pipelines.errors import ConfigurationError, Setting
from overtile.pipelines.files import whole
from overtile.pipelines.images.formats import write_image

Image = NDArray[np.uint16] | NDArray[np.uint8]
Instances = NDArray[np.uint16]
_LAYOUT = "pairs"


def given_or_made(
    dataset_dir: str | Path | None, folder: str | Path, seed: int = 0, layout: str = "auto"
) -> Path:
    """The user's data where there are some, else a generated set in ``folder``, made once.

    Raises:
        ConfigurationError: if there are none, and ``layout`` is not what would be made.
    """
    if dataset_dir is not None:
        return Path(dataset_dir)
    if layout not in ("auto", _LAYOUT):
        hint = Setting("dataset_dir", "DIR", "with data of your own")
        expected = f"auto or {_LAYOUT} for generated data"
        raise ConfigurationError("layout", repr(layout), expected, hint)
    folder = Path(folder)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # two runs may start at once
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with whole(folder) as unfinished:
                write_touching_cells(unfinished, seed=seed)
    return folder


def write_touching_cells(
    folder: str | Path,
    counts: dict[str, int] | None = None,
    size: tuple[int, int] = (256, 256),
    large: tuple[int, int] = (1536, 2048),
    seed: int = 0,
) -> Path:
    """Write a data set in the layout ``pairs``, and one large image without a label.

    Args:
        folder: gets ``train/``, ``val/`` and ``test/`` with ``images/`` and ``labels/``, and
            ``large/`` with one image.
        counts: images in each of them.
        size: of those images.
        large: size of the large image.
        seed: of the whole set; every image has its own seed, derived from it.

    Returns:
        The folder.
    """
    counts = counts or {"train": 24, "val": 4, "test": 16}
    folder = write_data(folder, generate("cells", counts, size, seed), _LAYOUT)
    with whole(folder / "large") as unfinished:
        unfinished.mkdir()
        write_image(unfinished / "large", touching_cells(seed + 1, large)[0], "tif")
    return folder


def generate(
    kind: str,
    counts: Mapping[str, int],
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    consecutive: bool = False,
) -> dict[str, Iterator[tuple[Image, Instances]]]:
    """The images and labels of every split, made when they are asked for.

    Args:
        kind: ``"cells"`` (`touching_cells`) or ``"membranes"``.
        counts: images in each split.
        size: height and width of each.
        seed: of the whole set; every image has its own seed, derived from it.
        consecutive: membranes as consecutive sections of one tissue, over all splits.
    """
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(sum(counts.values()))]

    def make(numbers: range) -> Iterator[tuple[Image, Instances]]:
        for number in numbers:
            if kind == "cells":
                yield touching_cells(seeds[number], size)
            elif consecutive:
                yield membranes(seed, size, section=number)
            else:
                yield membranes(seeds[number], size)

    ends = np.cumsum(list(counts.values())).tolist()
    return {
        split: make(range(end - count, end))
        for (split, count), end in zip(counts.items(), ends, strict=True)
    }
