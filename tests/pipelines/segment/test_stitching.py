from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label

from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.segment.stitching import Numbering, Stitching
from overtile.transforms import InstancesFromProbabilities


def smooth(seed: int, shape: tuple[int, ...], blur: float, levels: int) -> NDArray[np.float32]:
    """Noise with cores, gaps and holes of all sizes; few levels make many ties."""
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), blur)
    noise = (noise - noise.min()) / np.ptp(noise)
    return (np.round(noise * levels) / levels).astype(np.float32)


def stitched(
    settings: InstancesFromProbabilities,
    probability: NDArray[np.float32],
    chunk: tuple[int, ...],
    seed: int,
) -> NDArray[np.int64]:
    stitching = Stitching(settings, probability.shape, chunk)
    cores = np.full(probability.shape, -1, np.int32)
    labels = np.full(probability.shape, -1, np.int64)
    order = list(stitching.chunks())
    Random(seed).shuffle(order)
    for index in order:
        stitching.label_cores(probability, cores, index)
    numbering = stitching.join(stitching.pieces(cores, index) for index in stitching.chunks())
    for index in reversed(order):
        stitching.finish(probability, cores, numbering, labels, index)
    assert numbering.count == len(np.unique(labels[labels > 0]))  # numbers without gaps
    return labels


def same_but_for_numbers(a: NDArray[np.int64], b: NDArray[np.int64]) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(pairs.T) == len(np.unique(a)) == len(np.unique(b)) and bool(
        np.array_equal(a == 0, b == 0)
    )


CASES = [
    ((40, 45), [(40, 45), (8, 8), (7, 13), (1, 45), (16, 3)]),
    ((61, 1), [(5, 1), (61, 1)]),
    ((12, 14, 17), [(4, 5, 6), (12, 3, 17)]),
]


@given(
    case=st.sampled_from([(shape, chunk) for shape, chunks in CASES for chunk in chunks]),
    seed=st.integers(0, 9999),
    blur=st.sampled_from([0.7, 1.3, 3.0]),
    levels=st.sampled_from([6, 1000]),
    threshold=st.floats(0.4, 0.8),
    min_size=st.sampled_from([0, 3, 30]),
    grow=st.sampled_from([0, 1, 2.5, 6]),
    extent=st.floats(0.1, 1.0),
    line=st.integers(0, 3),
    max_hole=st.sampled_from([0, 2, 20]),
)
@settings(max_examples=300, deadline=None)
def test_chunks_give_the_instances_of_the_whole_image(
    case: tuple[tuple[int, ...], tuple[int, ...]],
    seed: int,
    blur: float,
    levels: int,
    threshold: float,
    min_size: int,
    grow: float,
    extent: float,
    line: int,
    max_hole: int,
) -> None:
    shape, chunk = case
    probability = smooth(seed, shape, blur, levels)
    instances = InstancesFromProbabilities(
        threshold, min_size, grow, extent * threshold, max_hole, line=line
    )
    whole = np.asarray(instances(probability[None])[0], np.int64)
    assert same_but_for_numbers(whole, stitched(instances, probability, chunk, seed))


def test_a_cell_as_long_as_the_image_is_one() -> None:
    spiral = np.zeros((33, 33), np.float32)
    spiral[::2] = 1
    spiral[1::4, -1] = 1
    spiral[3::4, 0] = 1
    assert label(spiral)[1] == 1
    labels = stitched(InstancesFromProbabilities(0.5, min_size=500), spiral, (4, 5), 0)
    assert np.array_equal(labels, spiral > 0)


def test_nothing_but_background() -> None:
    labels = stitched(InstancesFromProbabilities(0.5), np.zeros((9, 9), np.float32), (4, 4), 0)
    assert not labels.any()


def test_numbering_is_kept_whole(tmp_path: Path) -> None:
    numbering = Numbering(np.array([0, 2, 3]), np.array([1, 0, 70_000]))
    numbering.save(tmp_path / "numbers.npz")
    found = Numbering.load(tmp_path / "numbers.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.npz"]
    assert found.numbers.tolist() == [1, 0, 70_000]
    assert (found.count, found.dtype) == (70_000, np.uint32)


def test_a_flood_is_refused() -> None:
    instances = InstancesFromProbabilities(0.6, grow=2, extent=0.3, growth="watershed")
    with pytest.raises(ConfigurationError, match="watershed"):
        Stitching(instances, (9, 9), (4, 4))
