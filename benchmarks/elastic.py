"""One deformed training sample against other libraries: python -m benchmarks.elastic.

An image and its labels of 512 x 512 pixels: elastic deformation by a grid of 3 x 3 vectors of 10
pixels, rotation and scale, mirrored context. Every library does its own version of that; what
differs is said on docs/benchmarks.md. All run in one thread, in turn; times are CPU seconds, ratios
medians over the rounds. A library that is not installed is told and left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.transforms import Rand2DElasticd

from benchmarks.figure import Figure
from benchmarks.timing import Task, compare, ratio
from overtile.transforms import RandDeformedTiled

SIZE, SIGMA, SCALE = 512, 10.0, 0.1
IMAGE = np.random.default_rng(0).random((SIZE, SIZE), np.float32)
LABELS = np.kron(np.arange(256, dtype=np.int32).reshape(16, 16), np.ones((32, 32), np.int32))
TENSORS: dict[Hashable, torch.Tensor] = {
    "image": torch.from_numpy(IMAGE[None]),
    "label": torch.from_numpy(LABELS[None]),
}


def ours() -> Task:
    transform = RandDeformedTiled(["image", "label"], SIZE, mode=["bilinear", "nearest"])
    return lambda: transform(TENSORS)


def elasticdeform() -> Task:
    import elasticdeform

    return lambda: elasticdeform.deform_random_grid(
        [IMAGE, LABELS], SIGMA, 3, order=[3, 0], mode="mirror", rotate=30, zoom=1 + SCALE
    )


def monai() -> Task:
    transform = Rand2DElasticd(
        ["image", "label"],
        spacing=(SIZE // 2, SIZE // 2),
        magnitude_range=(SIGMA, SIGMA),
        prob=1,
        rotate_range=np.pi,
        scale_range=SCALE,
        mode=["bilinear", "nearest"],
        padding_mode="reflection",
    )
    return lambda: transform(TENSORS)


def torchio() -> Task:
    import torchio

    elastic = torchio.RandomElasticDeformation((7, 7, 7), (SIGMA, SIGMA, 0))
    affine = torchio.RandomAffine(SCALE, (180, 0, 0), default_pad_value="mean")
    subject = torchio.Subject(
        image=torchio.ScalarImage(tensor=TENSORS["image"][..., None]),
        label=torchio.LabelMap(tensor=TENSORS["label"][..., None]),
    )
    return lambda: affine(elastic(subject))


def batchgenerators() -> Task:
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    transform = SpatialTransform(
        (SIZE, SIZE),
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


def albumentations(name: str, **options: Any) -> Task:
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    mirrored: Any = {"border_mode": cv2.BORDER_REFLECT_101} if name == "ElasticTransform" else {}
    elastic = getattr(albumentations, name)(p=1, **mirrored, **options)
    labels = LABELS.astype(np.int16)  # OpenCV knows no 32-bit labels
    return lambda: elastic(image=IMAGE, mask=labels)


PEERS: dict[str, tuple[float, Callable[[], Task]]] = {
    "elasticdeform": (4, elasticdeform),
    "MONAI's Rand2DElasticd": (4, monai),
    "TorchIO's RandomElasticDeformation and RandomAffine": (1, torchio),
    "batchgeneratorsv2's SpatialTransform": (1, batchgenerators),
    "albumentations' ElasticTransform": (
        1,
        partial(albumentations, "ElasticTransform", alpha=300, sigma=20),
    ),
    "albumentations' ElasticTransform, approximate": (
        1,
        partial(albumentations, "ElasticTransform", alpha=300, sigma=20, approximate=True),
    ),
    "albumentations' GridElasticDeform": (
        1,
        partial(albumentations, "GridElasticDeform", num_grid_xy=(3, 3), magnitude=int(SIGMA)),
    ),
}


def figures() -> Iterator[Figure]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tasks: dict[str, Task] = {"ours": ours()}
    for name, (_, make) in PEERS.items():
        try:
            tasks[name] = make()
        except ImportError as error:
            reason = f"left out: {error}".splitlines()[0]
            yield Figure(f"sample against {name}", float("nan"), None, "higher", reason)
    times = compare(tasks)
    torch.set_num_threads(threads)
    middle = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    for name in list(tasks)[1:]:
        faster = ratio(times[name], times["ours"])
        text = f"{faster:.1f} times faster ({middle['ours']:.1f} ms against {middle[name]:.1f} ms)"
        yield Figure(f"sample against {name}", faster, PEERS[name][0], "higher", text)


if __name__ == "__main__":
    for figure in figures():
        print(figure, flush=True)
