"""One deformed training sample of a volume: python -m benchmarks.elastic_volume.

A volume and its labels of 96 x 96 x 96 voxels, 64 balls: elastic deformation by a grid of 3 x 3 x 3
vectors of 10 voxels, rotation and scale, mirrored context. Ours is measured with the weight map of
the deformed labels besides, which no peer has, and without it. Every library does its own version
of the deformation; what differs is said on docs/benchmarks.md. All run in one thread, in turn;
times are CPU seconds, ratios medians over the rounds. A library that is not installed is told and
left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from monai.transforms import Rand3DElasticd
from numpy.typing import NDArray

from benchmarks.figure import Figure
from benchmarks.timing import Task, compare, ratio
from overtile.transforms import BorderWeightMapd, RandDeformedTiled

SIZE, SIGMA, SCALE, CELLS, RADIUS = 96, 10.0, 0.1, 4, 9
TARGET = 3.0


def balls() -> NDArray[np.int32]:
    """A ball in the middle of each of 4 x 4 x 4 cubes, numbered from 1."""
    step = SIZE // CELLS
    grid = np.indices((SIZE,) * 3)
    numbers = np.ravel_multi_index(tuple(grid // step), (CELLS,) * 3) + 1
    inside = ((grid % step - (step - 1) / 2) ** 2).sum(0) <= RADIUS**2
    return np.where(inside, numbers, 0).astype(np.int32)


IMAGE = np.random.default_rng(0).random((SIZE,) * 3, np.float32)
TENSORS: Any = {"image": torch.from_numpy(IMAGE[None]), "label": torch.from_numpy(balls()[None])}


def deformed() -> Task:
    cut = RandDeformedTiled(["image", "label"], SIZE, sigma=SIGMA, mode=["bilinear", "nearest"])
    return lambda: cut(TENSORS)


def weighed() -> Task:
    cut: Any = deformed()
    weigh = BorderWeightMapd("label")
    return lambda: weigh(cut())


def monai() -> Task:
    transform = Rand3DElasticd(
        ["image", "label"],
        sigma_range=(5, 7),
        magnitude_range=(50, 150),
        prob=1,
        rotate_range=(np.pi, 0, 0),
        scale_range=(SCALE, SCALE, SCALE),
        mode=["bilinear", "nearest"],
        padding_mode="reflection",
    )
    return lambda: transform(TENSORS)


def torchio() -> Task:
    import torchio

    images: Any = torchio
    elastic = torchio.RandomElasticDeformation((7, 7, 7), (SIGMA, SIGMA, SIGMA))
    affine = torchio.RandomAffine(SCALE, (180, 0, 0), default_pad_value="mean")
    subject = torchio.Subject(
        image=images.ScalarImage(tensor=TENSORS["image"]),
        label=images.LabelMap(tensor=TENSORS["label"]),
    )
    return lambda: affine(elastic(subject))


def batchgenerators() -> Task:
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    transform = SpatialTransform(
        (SIZE, SIZE, SIZE),
        0,
        False,
        p_elastic_deform=1,
        elastic_deform_scale=(0.2, 0.2),
        elastic_deform_magnitude=(SIGMA, SIGMA),
        p_rotation=1,
        p_scaling=1,
        scaling=(1 - SCALE, 1 + SCALE),
        mode_seg="nearest",
        border_mode_seg="reflection",
        padding_mode_image="reflection",
    )
    labels = TENSORS["label"].to(torch.int16)
    return lambda: transform(image=TENSORS["image"], segmentation=labels)


PEERS: dict[str, Callable[[], Task]] = {
    "MONAI's Rand3DElasticd": monai,
    "TorchIO's RandomElasticDeformation and RandomAffine": torchio,
    "batchgeneratorsv2's SpatialTransform": batchgenerators,
}


def figures() -> Iterator[Figure]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tasks: dict[str, Task] = {"with the weight map": weighed(), "without": deformed()}
    for name, make in PEERS.items():
        try:
            tasks[name] = make()
        except ImportError as error:
            reason = f"left out: {error}".splitlines()[0]
            yield Figure(f"volume against {name}", float("nan"), None, "higher", reason)
    times = compare(tasks)
    torch.set_num_threads(threads)
    middle = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    whole, alone = list(tasks)[:2]
    for name in list(tasks)[2:]:
        faster, least = (ratio(times[name], times[own]) for own in (alone, whole))
        text = (
            f"{least:.1f} times faster with the weight map ({middle[whole]:.0f} ms against "
            f"{middle[name]:.0f} ms), {faster:.1f} times without ({middle[alone]:.0f} ms)"
        )
        yield Figure(f"volume against {name}", least, TARGET, "higher", text)


if __name__ == "__main__":
    for figure in figures():
        print(figure, flush=True)
