"""What remembering decoded images saves at the start of a training: python -m benchmarks.startup.

200 generated images in Kaggle's layout (one mask file a nucleus). The peer is the naive way: decode
and normalise every file at every start.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from monai.transforms import Compose

from benchmarks.figure import Figure
from overtile.pipelines.data.cache import CachedDataset
from overtile.pipelines.data.find import find_data
from overtile.pipelines.data.synthesis.datasets import generate
from overtile.pipelines.data.write import write_data
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.transforms import NormalizeImaged

IMAGES, REPEATS = 200, 3


def read_all(folder: Path, cache: Path) -> float:
    """Seconds until every image is checked, split and ready for the first tile."""
    start = time.perf_counter()
    data = find_data(folder, cache_dir=cache)
    data.class_weights()
    data.digest()
    steps = [
        ReadImaged(["image", "label"], ("float32", "int32")),
        NormalizeImaged("image"),
    ]
    for items in (data.train, data.val):
        CachedDataset(items, Compose(steps), cache_dir=cache)
    return time.perf_counter() - start


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pairs = generate("cells", {"train": IMAGES}, (256, 256), seed=0)
        folder = write_data(root / "data", pairs, "kaggle")
        naive = [read_all(folder, root / f"cache-{n}") for n in range(REPEATS)]
        later = [read_all(folder, root / "cache-0") for _ in range(REPEATS)]
    first, again = statistics.median(naive), statistics.median(later)
    yield Figure(
        f"start of training on {IMAGES} images",
        first / again,
        None,
        "higher",
        f"{first / again:.1f} times faster from the cache than by decoding ({again:.1f} s against "
        f"{first:.1f} s)",
    )


if __name__ == "__main__":
    for figure in figures():
        print(figure)
