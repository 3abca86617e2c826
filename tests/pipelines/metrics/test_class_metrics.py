"""Scores of classes over data sets: means, what they are over, handlers, several processes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import DataLoader, MetaTensor

from overtile.networks.losses.ignored import IGNORED
from overtile.pipelines.errors import ConfigurationError, DataError
from overtile.pipelines.metrics.class_metrics import ClassMetric, OneClass, class_handlers
from overtile.pipelines.metrics.classes import CLASS_SCORES, class_hd95, class_scores
from overtile.pipelines.metrics.score_names import (
    DEFINITIONS,
    definition_of,
    name_of,
    of_class,
)

Array = np.ndarray[Any, Any]
SIZES = [(9, 11), (12, 12), (6, 7), (9, 11), (12, 7)]


def images() -> list[tuple[Array, Array]]:
    """Labels of three classes and predictions: class 2 is in two labels, and found in one."""
    rng = np.random.default_rng(5)
    pairs = []
    for number, size in enumerate(SIZES):
        label, prediction = np.zeros((2, *size), np.int32)
        label[1:5, 1 : 3 + number // 2] = 1
        prediction[1:5, 1 : 3 + int(rng.integers(1, 3))] = 1
        if number in (1, 4):
            label[4:6, 4:7] = 2
        if number in (0, 4):
            prediction[5:, 4:6] = 2
        label[0, :2] = IGNORED
        pairs.append((label, prediction))
    return pairs


def batch(map_: Array) -> torch.Tensor:
    return torch.tensor(map_)[None, None]


def called(metric: ClassMetric, pairs: list[tuple[Array, Array]]) -> ClassMetric:
    for label, prediction in pairs:
        metric(batch(prediction), batch(label))
    return metric


@pytest.mark.parametrize("score", CLASS_SCORES)
def test_means_skip_what_is_not_there_and_say_over_how_many_they_are(score: str) -> None:
    metric = called(ClassMetric(score, 4, spacing=(0.5, 2), tolerance=1), images())
    table = np.array(
        [class_scores(*pair, 4, score, spacing=(0.5, 2), tolerance=1) for pair in images()]
    )
    means = []
    for each in metric.per_class():
        column = [value for value in table[:, each.number] if math.isfinite(value)]
        assert each.images == len(column)
        assert each.one_sided == int(np.isinf(table[:, each.number]).sum())
        assert each.value == pytest.approx(
            sum(column) / len(column) if column else math.nan, nan_ok=True
        )
        if column:
            means.append(each.value)
    assert [each.number for each in metric.per_class()] == [1, 2, 3]
    assert metric.per_class()[2].images == 0  # a class of no image
    assert metric.aggregate().shape == ()
    assert float(metric.aggregate()) == pytest.approx(sum(means) / len(means))
    rows = [[v for v in row[1:] if math.isfinite(v)] for row in table]
    assert metric.per_image() == pytest.approx([sum(row) / len(row) for row in rows])


def test_how_many_lack_a_class() -> None:
    dice, hd95 = (called(ClassMetric(s, 3), images()).per_class()[1] for s in ("dice", "hd95"))
    assert (dice.images, dice.one_sided) == (3, 0)  # in images 0, 1 and 4
    assert (hd95.images, hd95.one_sided) == (1, 2)
    assert dice.value < 0.34  # 0 in two of the three


def test_no_class_anywhere_is_no_score() -> None:
    metric = called(ClassMetric("dice", 3), [(np.zeros((4, 4), np.int32),) * 2] * 2)
    assert math.isnan(float(metric.aggregate()))
    assert all(map(math.isnan, metric.per_image()))
    assert [each.images for each in metric.per_class()] == [0, 0]
    background = called(ClassMetric("dice", 3, True), [(np.zeros((4, 4), np.int32),) * 2])
    assert float(background.aggregate()) == 1
    assert background.classes == (0, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_class_maps_logits_and_probabilities_as_batches_and_lists(dtype: torch.dtype) -> None:
    pairs = [images()[0], images()[3]]  # of one size
    expected = called(ClassMetric("dice", 3), pairs).per_image()
    labels = torch.tensor(np.stack([label for label, _ in pairs]))[:, None]
    maps = torch.tensor(np.stack([prediction for _, prediction in pairs]))
    logits = (torch.nn.functional.one_hot(maps.long(), 3).movedim(-1, 1) * 3 - 2).to(dtype)
    assert expected[0] != expected[1]
    for predictions in (maps[:, None], maps[:, None].to(dtype), logits, logits.softmax(1)):
        metric = ClassMetric("dice", 3)
        assert metric(predictions, labels).shape == (2, 2)
        assert metric.per_image() == expected
        metric.reset()
        metric(list(predictions), [label.to(dtype) for label in labels])
        assert metric.per_image() == expected


def test_spacing_of_each_label_or_of_a_call() -> None:
    label, prediction = np.zeros((2, 8, 9, 10), np.int32)
    label[2:5, 2:5, 2:5], prediction[2:5, 2:5, 2:7] = 1, 1
    wanted = {size: float(class_hd95(label, prediction, 2, (1, 2, size))[1]) for size in (3, 5)}
    assert wanted == {3: 6, 5: 10}
    items = [
        {
            "label": MetaTensor(torch.tensor(label)[None], affine=np.diag([-1.0, 2, size, 1])),
            "pred": torch.tensor(prediction)[None],
        }
        for size in wanted
    ]
    metric = ClassMetric("hd95", 2, spacing="affine")
    metric([i["pred"] for i in items], [i["label"] for i in items])
    for collated in DataLoader(items, batch_size=2):
        metric(collated["pred"], collated["label"])
    assert metric.per_image() == list(wanted.values()) * 2
    metric.reset()
    metric(batch(prediction), batch(label), spacing=(1, 2, 3))
    assert metric.per_image() == [6]
    with pytest.raises(DataError, match="label: no affine; expected a MetaTensor"):
        metric(batch(prediction), batch(label))


def run_with(handlers: dict[str, Any], pairs: list[tuple[Array, Array]]) -> Engine:
    def step(engine: Engine, pair: tuple[Array, Array]) -> list[dict[str, torch.Tensor]]:
        return [{"pred": torch.tensor(pair[1])[None], "label": torch.tensor(pair[0])[None]}]

    engine = Engine(step)
    for name, handler in handlers.items():
        handler.attach(engine, name)
    engine.run(pairs)
    return engine


def test_handlers_give_each_class_a_score_of_its_own() -> None:
    handlers = class_handlers(3, spacing=(1, 2), tolerance=2)
    assert list(handlers) == [
        name for score in CLASS_SCORES for name in (score, f"{score}_class1", f"{score}_class2")
    ]
    engine = run_with(handlers, images()[:1])
    engine = run_with(handlers, images())  # nothing of the run before is left
    for score in CLASS_SCORES:
        metric = called(ClassMetric(score, 3, spacing=(1, 2), tolerance=2), images())
        assert engine.state.metrics[score] == pytest.approx(float(metric.aggregate()))
        for each, column in zip(metric.per_class(), (0, 1), strict=True):
            name = of_class(score, each.number)
            assert engine.state.metrics[name] == pytest.approx(each.value)
            rows = metric.get_buffer()[:, column].tolist()
            own = [value if math.isfinite(value) else math.nan for value in rows]
            assert handlers[name].metric_fn.per_image() == pytest.approx(own, nan_ok=True)
            assert engine.state.metric_details[name].shape == (5, 1)
    chosen = class_handlers(3, ["dice"], include_background=True)
    assert list(chosen) == ["dice", "dice_class0", "dice_class1", "dice_class2"]
    other = class_handlers(3, ["dice"], keys=("label", "label"))
    assert run_with(other, images()).state.metrics["dice_class1"] == 1


def test_a_configuration_has_them() -> None:
    target = {"_target_": "overtile.pipelines.class_handlers", "num_classes": 3}
    handlers = ConfigParser({"it": target | {"scores": ["dice", "hd95"]}}).get_parsed_content("it")
    assert list(handlers)[::3] == ["dice", "hd95"]
    metric = called(ClassMetric("dice", 3), images())
    assert run_with(handlers, images()).state.metrics["dice"] == float(metric.aggregate())


def test_every_score_is_told_in_words() -> None:
    for score in CLASS_SCORES:
        assert DEFINITIONS[score].lower_is_better == (score in ("fpr", "fnr", "hd95"))
        own = definition_of(of_class(score, 2), ["background", "anterior", "posterior"])
        assert own is not None
        assert own.name == f"{DEFINITIONS[score].name} of posterior"
        assert own.lower_is_better == DEFINITIONS[score].lower_is_better
        assert "of posterior, mean over the images" in own.sentence
        assert "mean over the classes" in DEFINITIONS[score].sentence
        assert "mean over the classes" not in own.sentence
    assert name_of("hd95_class12") == "HD95 of class 12"
    assert name_of("dice_class1", ["background"]) == "Dice of class 1"
    assert name_of("other_class1") == "other_class1"
    assert definition_of("other_class1") is None
    signed = {score for score in CLASS_SCORES if DEFINITIONS[score].signed}
    assert signed == {"volume_error"}, "too many is no better than too few"
    assert name_of("seg") == "SEG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "recall"}, "score: 'recall'; expected one of dice"),
        ({"num_classes": 1}, "num_classes: 1; expected 2 or more"),
        ({"spacing": "mm"}, "spacing: 'mm'; expected numbers, or 'affine'"),
        ({"spacing": (1, 0)}, "spacing"),
        ({"spacing": -1.0}, "spacing"),
        ({"tolerance": -1}, "tolerance"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClassMetric(**({"score": "dice", "num_classes": 3} | arguments))


def test_a_class_that_is_not_scored() -> None:
    with pytest.raises(ConfigurationError, match="number: 0; expected one of the scored classes 1"):
        OneClass(ClassMetric("dice", 2), 0)


LABEL = torch.zeros((1, 1, 4, 4))


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (torch.zeros((1, 2, 4, 4)), LABEL, "prediction: 2 channels; expected 1 channel, or 3"),
        (LABEL, torch.zeros((1, 3, 4, 4)), "label: 3 channels; expected 1 channel$"),
        (torch.full((1, 3, 4, 4), math.nan), LABEL, "prediction: NaN"),
        (LABEL + 0.5, LABEL, "prediction: 1 channel with fractions"),
        (LABEL, LABEL + 0.5, "label: 1 channel with fractions"),
        (LABEL + math.inf, LABEL, "prediction: "),
        (LABEL, LABEL + 3, r"label: 3 at \(0, 0\)"),
        (torch.zeros((2, 1, 4, 4)), LABEL, "2 predictions, 1 labels"),
        (LABEL, None, "1 predictions, no labels"),
    ],
)
def test_images_that_are_refused(prediction: Any, label: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ClassMetric("dice", 3)(prediction, label)


def test_a_process_without_images_is_told_so() -> None:
    metric = ClassMetric("dice", 3)
    for empty in (metric, OneClass(metric, 1)):
        with pytest.raises(DataError, match="no image to score"):
            empty.aggregate()


WORKER = """
import os, sys
import numpy as np, torch
import torch.distributed as dist
from overtile.pipelines.metrics import ClassMetric, OneClass

rank, meeting, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
data = np.load(file)
for score in ("dice", "hd95"):
    metric = ClassMetric(score, 3)
    for n in ([0, 1, 2, 3], [4])[rank]:  # uneven shares
        metric(torch.tensor(data[f"p{n}"])[None, None], torch.tensor(data[f"label{n}"])[None, None])
    one = OneClass(metric, 2)
    told = [[each.value, each.images, each.one_sided] for each in metric.per_class()]
    print(float(one.aggregate()), float(metric.aggregate()), *sum(told, []), flush=True)
dist.destroy_process_group()
os._exit(0)  # gloo leaves a thread behind now and then, on which an orderly end of Python aborts
"""


def test_two_processes_with_uneven_shares_agree_with_one(tmp_path: Path) -> None:
    pairs = images()
    arrays = {f"label{n}": label for n, (label, _) in enumerate(pairs)}
    np.savez(tmp_path / "images.npz", **arrays, **{f"p{n}": p for n, (_, p) in enumerate(pairs)})
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
    for score, line in zip(("dice", "hd95"), outputs[0][0].splitlines(), strict=True):
        whole = called(ClassMetric(score, 3), pairs)
        each = whole.per_class()
        told = [value for e in each for value in (e.value, e.images, e.one_sided)]
        found = [float(value) for value in line.split()]
        assert found == pytest.approx([each[1].value, float(whole.aggregate()), *told], abs=1e-12)
        shares = [called(ClassMetric(score, 3), part) for part in (pairs[:4], pairs[4:])]
        means = [float(share.aggregate()) for share in shares]
        assert abs(sum(means) / 2 - found[1]) > 0.01, "a mean of means would be another number"
