"""Metrics over data sets: what MONAI metrics keep, gather and make of it."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine
from monai.data import DataLoader
from monai.handlers import IgniteMetricHandler, from_engine

from overtile.pipelines import metrics
from overtile.pipelines.errors import DataError
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.pipelines.metrics.instances import seg_measure
from overtile.pipelines.metrics.membranes import em_report, pixel_error
from overtile.pipelines.metrics.monai_metrics import (
    PixelErrorMetric,
    RandErrorMetric,
    SegMetric,
    VInfoMetric,
    VRandMetric,
    WarpingErrorMetric,
)
from overtile.pipelines.metrics.sections import sections_first

Array = np.ndarray[Any, Any]
OF_STACKS = {
    "pixel_error": PixelErrorMetric,
    "rand_error": RandErrorMetric,
    "warping_error": WarpingErrorMetric,
    "v_rand": VRandMetric,
    "v_info": VInfoMetric,
}
INSTANCES = {
    "seg": SegMetric,
    "det": metrics.DetMetric,
    "ap": metrics.AveragePrecisionMetric,
    "pq": metrics.PanopticQuality,
}


def stack(slices: int, size: tuple[int, int] = (9, 11), seed: int = 0) -> tuple[Array, Array]:
    """Instance labels of blocks and a blurred, noisy map of them."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, (slices, 4, 4)).repeat(3, 1).repeat(3, 2)
    labels = blocks[:, : size[0], : size[1]].astype(np.int32)
    return labels, np.clip((labels > 0) * 0.6 + rng.random(labels.shape) * 0.4, 0, 1)


def as_output(p: Array) -> torch.Tensor:
    """Probabilities of membrane and cell, as a network gives them."""
    return torch.tensor(np.stack([1 - p, p]))


@pytest.mark.parametrize("name", OF_STACKS)
def test_slices_one_by_one_score_as_their_stack_does(name: str) -> None:
    labels, p = stack(5)
    expected = getattr(em_report(labels > 0, p), name)
    metric = OF_STACKS[name]()
    for label, q in zip(labels, p, strict=True):
        metric(as_output(q)[None], torch.tensor(label[None, None]))
    assert float(metric.aggregate()) == pytest.approx(expected.value, abs=1e-12)
    each = [
        getattr(em_report(label > 0, q), name).value for label, q in zip(labels, p, strict=True)
    ]
    assert metric.per_image() == pytest.approx(each, abs=1e-12)
    whole = OF_STACKS[name]()
    whole([as_output(p)], [torch.tensor(labels[None])])  # a volume is a stack
    assert float(whole.aggregate()) == pytest.approx(expected.value, abs=1e-12)
    metric.reset()
    metric(as_output(p[0])[None], torch.tensor(labels[0][None, None]))
    assert float(metric.aggregate()) == pytest.approx(each[0], abs=1e-12)


@pytest.mark.parametrize("name", OF_STACKS)
@pytest.mark.parametrize("found", [0.0, 1.0, 0.7])
def test_a_slice_without_a_cell_has_no_score_and_counts_in_its_stack(
    name: str, found: float
) -> None:
    labels, p = stack(5)
    labels[1], p[1] = 0, found
    expected = getattr(em_report(labels > 0, p), name)
    metric = OF_STACKS[name]()
    for label, q in zip(labels, p, strict=True):
        metric(as_output(q)[None], torch.tensor(label[None, None]))
    assert float(metric.aggregate()) == pytest.approx(expected.value, abs=1e-12)
    assert [math.isnan(one) for one in metric.per_image()] == [n == 1 for n in range(len(labels))]
    metric.reset()
    metric(as_output(p[1])[None], torch.zeros(1, 1, *labels.shape[1:]))
    assert math.isnan(float(metric.aggregate()))


@pytest.mark.parametrize("name", [*OF_STACKS, *INSTANCES])
def test_a_handler_takes_images_of_different_sizes(name: str) -> None:
    images = [stack(1, size, seed) for seed, size in enumerate([(9, 11), (6, 12), (12, 5)])]
    metric = {**OF_STACKS, **INSTANCES}[name]()
    keys = ["pred" if name in OF_STACKS else "instances", "label"]

    def segment(engine: Engine, image: tuple[Array, Array]) -> list[dict[str, torch.Tensor]]:
        label, p = image
        found = torch.tensor(np.where(p > 0.5, label, 0))
        return [{"label": torch.tensor(label), "pred": as_output(p[0]), "instances": found}]

    engine = Engine(segment)
    handler = IgniteMetricHandler(metric, output_transform=from_engine(keys))
    engine.state.metric_details = {}
    handler.attach(engine, name)
    score = engine.run(images).metrics[name]
    assert 0 <= score <= 1
    rows = metric.get_buffer()
    assert len(rows) == len(metric.per_image()) == 3
    assert rows.numel() < 300, "counts, no images"
    if name in ("det", "seg"):
        assert score == 1, "objects are where the labels have them"


def test_pixel_error_and_seg_pool_what_they_count() -> None:
    labels, p = stack(2)
    labels[1] = 0
    labels[1, 0, 0], p[1] = 5, 0
    sizes = torch.tensor(labels[:, None])
    seg = SegMetric()
    seg(torch.tensor(np.where(p > 0.5, labels, 0))[:, None], sizes)
    objects = len(np.unique(labels[0])) - 1
    assert float(seg.aggregate()) == pytest.approx(objects / (objects + 1))  # not 1/2
    assert seg.per_image() == [1, 0]
    both = pixel_error(labels > 0, p).value
    assert both == pytest.approx(1 / (2 * (labels > 0).sum() - 1))  # one pixel missed of all
    assert both < pixel_error(labels[1] > 0, p[1]).value == 1


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", OF_STACKS)
def test_sections_of_a_nifti_volume_are_those_along_z(
    name: str, batched: bool, tmp_path: Path
) -> None:
    labels, p = stack(5)
    tifffile.imwrite(tmp_path / "label.tif", labels, photometric="minisblack")
    nibabel.save(nibabel.Nifti1Image(labels.T, np.eye(4)), tmp_path / "label.nii")
    read = ReadImaged("label", "int32", spatial_dims=3)
    found = []
    for file, pred in (("label.tif", p), ("label.nii", p.T)):
        metric = OF_STACKS[name]()
        label = read({"label": tmp_path / file})["label"]
        if batched:  # as a loader gives them
            metric(as_output(pred)[None], next(iter(DataLoader([label], batch_size=1))))
        else:
            metric([as_output(pred)], [label])
        found.append(float(metric.aggregate()))
    assert found[0] == found[1] == pytest.approx(getattr(em_report(labels > 0, p), name).value)


@given(order=st.permutations("ZYX"), pages=st.sampled_from("ZQ"))
def test_sections_come_first_whatever_the_order_in_the_file(order: list[str], pages: str) -> None:
    volume = np.arange(24).reshape(2, 3, 4)  # [Z, Y, X]
    stored = volume.transpose(["ZYX".index(axis) for axis in order])
    axes = "".join(order).replace("Z", pages)
    assert np.array_equal(sections_first(stored, axes), volume)
    for unknown in (None, "", "XY", "ABC", ["ZYX"]):
        assert sections_first(stored, unknown) is stored
    plane = [axis for axis in order if axis != "Z"]
    image = volume[0].transpose(["YX".index(axis) for axis in plane])
    assert np.array_equal(sections_first(image, "".join(plane)), volume[0])


def test_a_process_without_images_is_told_so() -> None:
    with pytest.raises(DataError, match="no image to score"):
        SegMetric().aggregate()


WORKER = """
import os, sys
import numpy as np, torch
import torch.distributed as dist
from overtile.pipelines import metrics

rank, meeting, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
data = np.load(file)
for name, metric in (
    ("seg", metrics.SegMetric()),
    ("pixel_error", metrics.PixelErrorMetric()),
    ("v_rand", metrics.VRandMetric()),
    ("pq", metrics.PanopticQuality()),
):
    for n in ([0, 1, 2, 3], [4])[rank]:  # uneven shares
        label, p = data[f"label{n}"], data[f"p{n}"]
        cells = (p > 0.75)[None] * label
        found = np.stack([1 - p, p]) if name in ("pixel_error", "v_rand") else cells
        metric(torch.tensor(found[None]), torch.tensor(label[None, None]))
    print(name, float(metric.aggregate()), len(metric.per_image()), flush=True)
dist.destroy_process_group()
os._exit(0)  # gloo leaves a thread behind now and then, on which an orderly end of Python aborts
"""


def test_two_processes_with_uneven_shares_agree_with_one(tmp_path: Path) -> None:
    sizes = [(9, 11), (12, 12), (6, 6), (9, 11), (12, 7)]
    images = [stack(1, size, seed) for seed, size in enumerate(sizes)]
    arrays = {f"label{n}": label[0] for n, (label, _) in enumerate(images)}
    arrays |= {f"p{n}": p[0] for n, (_, p) in enumerate(images)}
    np.savez(tmp_path / "images.npz", **arrays)
    command = [sys.executable, "-W", "ignore", "-c", WORKER]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting"), str(tmp_path / "images.npz")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [worker.communicate(timeout=200) for worker in workers]
    assert [w.returncode for w in workers] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0], "both know the whole"
    lines = [line.split() for line in outputs[0][0].splitlines()]
    found = {name: (float(value), int(n)) for name, value, n in lines}
    labels, maps = [label[0] for label, _ in images], [p[0] for _, p in images]
    cells = [np.where(p > 0.75, label, 0) for label, p in zip(labels, maps, strict=True)]
    expected = {"seg": seg_measure(labels, cells).value}
    alone: dict[str, Any] = {"pixel_error": PixelErrorMetric(), "v_rand": VRandMetric()}
    for label, p in zip(labels, maps, strict=True):
        for metric in alone.values():
            metric(as_output(p)[None], torch.tensor(label[None, None]))
    expected |= {name: float(metric.aggregate()) for name, metric in alone.items()}
    assert all(n == 5 for _, n in found.values())
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-12), name
