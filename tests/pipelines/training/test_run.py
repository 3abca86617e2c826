"""A whole training in this process, small: what is scored, drawn and left in the folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from killed import killed_everywhere
from matplotlib.figure import Figure
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler, MeanDice, ValidationHandler, from_engine
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.transforms import Activationsd, AsDiscreted, Compose
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from overtile.networks import PixelWeightedCrossEntropyLoss
from overtile.pipelines.bundle.checkpoints import Checkpoints
from overtile.pipelines.data.cache import CachedDataset
from overtile.pipelines.data.samples import TileDataset
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.pipelines.metrics.monai_metrics import SegMetric
from overtile.pipelines.reporting import figures
from overtile.pipelines.reporting.report import write_report
from overtile.pipelines.reporting.tables import read_run
from overtile.pipelines.training import run as training
from overtile.pipelines.training.batches import LossOfPair, prepare_weighted_batch
from overtile.pipelines.training.run import run_training
from overtile.pipelines.training.tracking import RunTracker
from overtile.pipelines.training.try_out import try_out
from overtile.transforms import InstancesFromProbabilitiesd

SHAPE = (7, 12, 20)  # sections, rows, columns


class Tracker:
    """Keeps no run anywhere but in its folder."""

    uri = "nowhere"

    def __init__(self, folder: Path) -> None:
        self.output_dir = folder
        self.data = SimpleNamespace(val=[], test=[], digest_of=lambda paths: "none")
        self.logged: list[str] = []

    def reach(self) -> str:
        return "nowhere"

    @contextmanager
    def recording(self, run: str | None) -> Iterator[str]:
        yield "run"

    def log_metrics(self, values: Any, step: int) -> None: ...

    def log_figure(self, figure: Any, name: str) -> None: ...

    def log_file(self, path: Path, folder: str) -> None:
        assert path.is_file(), path
        self.logged.append(path.name)


class Counting(nn.Conv3d):
    """Counts the images that it was asked about outside of training."""

    asked = 0

    def forward(self, image: Tensor) -> Tensor:
        self.asked += 0 if self.training else len(image)
        return super().forward(image)


def weighted(item: dict[str, Any]) -> dict[str, Any]:
    label = (item["label"] > 0).long()
    return {**item, "label": label, "weight": torch.ones(label.shape)}


class Run:
    """Trains one epoch on volumes of a format; three are unseen."""

    def __init__(self, folder: Path, suffix: str, network: nn.Module | None = None) -> None:
        rng = np.random.default_rng(0)
        self.volumes = [rng.integers(1, 4, SHAPE).astype(np.uint8) for _ in range(5)]
        items = []
        for number, volume in enumerate(self.volumes):
            path = folder / f"{number}{suffix}"
            if suffix == ".tif":
                tifffile.imwrite(path, volume, photometric="minisblack")
            else:
                nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([1.0, 1.0, 9.0, 1.0])), path)
            items.append({"image": str(path), "label": str(path)})
        torch.manual_seed(0)
        self.network = network or Counting(1, 2, 1)
        device, cache = torch.device("cpu"), folder / "cache"
        read = ReadImaged(["image", "label"], ("float32", "int32"), spatial_dims=3)
        val, self.test = (
            DataLoader(CachedDataset(part, Compose([read]), cache_dir=cache), batch_size=1)
            for part in (items[1:2], items[2:])
        )
        tiles = TileDataset(items[:1], Compose([read, weighted]), cache_dir=cache)
        self.metric = IgniteMetricHandler(
            metric_fn=SegMetric(), output_transform=from_engine(["instances", "label"])
        )
        self.post = Compose(
            [
                Activationsd("pred", softmax=True),
                InstancesFromProbabilitiesd("pred", output_key="instances"),
            ]
        )
        self.evaluator = SupervisedEvaluator(
            device,
            val,
            self.network,
            inferer=SimpleInferer(),
            postprocessing=self.post,
            key_val_metric={"seg": self.metric},
        )
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)
        self.trainer = SupervisedTrainer(
            device,
            1,
            DataLoader(tiles, batch_size=1),
            self.network,
            optimizer,
            LossOfPair(PixelWeightedCrossEntropyLoss()),
            prepare_batch=prepare_weighted_batch,
            train_handlers=[ValidationHandler(1, self.evaluator)],
            decollate=False,
        )
        self.folder = folder / "run"
        self.checkpoints = Checkpoints(
            self.folder / "models", {"model": self.network}, self.evaluator
        )
        self.checkpoints.attach(self.trainer)
        self.tracker = Tracker(self.folder)

    def train(self, **more: Any) -> dict[str, Any]:
        parts: Any = (self.trainer, self.evaluator, self.checkpoints, self.tracker)
        return run_training(*parts, test_loader=self.test, metrics={"seg": self.metric}, **more)


@pytest.mark.parametrize("suffix", [".tif", ".nii.gz"])
def test_pictures_show_the_middle_section_of_what_was_scored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    drawn: list[Any] = []
    draw = figures.predictions

    def note(rows: Any) -> Any:
        drawn.append(draw(rows))
        return drawn[-1]

    monkeypatch.setattr(figures, "predictions", note)
    run = Run(tmp_path, suffix)
    run.train()
    assert run.network.asked == 2 + 1 + 3, "tried out; one validation and three unseen, each once"
    (figure,) = drawn
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    for place, volume in enumerate(run.volumes[2:]):
        middle = volume[SHAPE[0] // 2]
        if suffix == ".nii.gz":  # which lies in space: the front is up
            middle = middle[::-1]
        image, label = (panels[4 * place + n].images[0].get_array() for n in (0, 1))
        assert image.shape == middle.shape
        assert same_picture(image, middle)
        assert np.array_equal(label, figures.coloured(middle))


# --- what does not go together ------------------------------------------------------------------


def broken(run: Run, kind: str) -> tuple[str, str]:
    """Make a run of parts that do not go together; what the one line names."""
    if kind == "loss":
        run.trainer.loss_function = nn.NLLLoss()
        return "configuration: train: ", "expected batches, a network and a loss"
    if kind == "batch":
        run.trainer.prepare_batch = lambda batch, *_, **__: (batch["picture"], batch["label"])
        return "configuration: train: KeyError: 'picture'", ""
    if kind == "metric":
        run.metric._output_transform = from_engine(["cells", "label"])
        return "configuration: validate: KeyError: 'cells'", "metrics that go together"
    if kind == "many":
        metric = IgniteMetricHandler(
            metric_fn=DiceMetric(reduction="none"), output_transform=from_engine(["pred", "label"])
        )
        run.metric.iteration_completed, run.metric.compute = (
            metric.iteration_completed,
            lambda: torch.zeros(3),
        )
        return "configuration: validate: ValueError: metric seg gives 3 numbers", ""
    run.network.weight = nn.Parameter(torch.zeros(3, 1, 1, 1, 1))
    run.network.bias = nn.Parameter(torch.zeros(3))
    return "probabilities of 3 classes", "background and cell"


@pytest.mark.parametrize("kind", ["loss", "batch", "metric", "many", "classes"])
def test_what_does_not_go_together_costs_one_line_before_anything_is_written(
    tmp_path: Path, kind: str
) -> None:
    run = Run(tmp_path, ".tif")
    parts = broken(run, kind)
    with pytest.raises(ConfigurationError) as error:
        run.train()
    told = str(error.value)
    assert all(part in told for part in parts), told
    assert "\n" not in told
    assert not run.folder.exists()
    assert run.trainer.state.epoch == 0


def test_trying_out_leaves_everything_as_it_was(tmp_path: Path) -> None:
    run = Run(tmp_path, ".tif", nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Dropout()))
    run.network.train()
    torch.manual_seed(3)
    before = (
        {k: v.clone() for k, v in run.network.state_dict().items()},
        {k: v for k, v in vars(run.evaluator.state).items() if k != "metrics"},
        torch.get_rng_state(),
    )
    assert try_out(run.trainer, run.evaluator, {"seg": run.metric}, run.test) == (1, 2)
    assert run.network.training
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, before[0][name])
    after = {k: v for k, v in vars(run.evaluator.state).items() if k != "metrics"}
    assert after == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert not run.folder.exists()


class OwnTask(Run):
    """Without weights, instances and names of files: classes by a loss and a metric of MONAI."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ".tif")
        with torch.no_grad():  # it finds the 3s of 1, 2 and 3; the task is 2 and 3
            self.network.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1))
            self.network.bias.copy_(torch.tensor([2.5, -2.5]))
        two = AsDiscreted("label", to_onehot=2)
        self.metric = MeanDice(output_transform=from_engine(["pred", "label"]))
        cells = AsDiscreted("label", threshold=1)
        classes = AsDiscreted("pred", argmax=True, to_onehot=2)
        self.evaluator = SupervisedEvaluator(
            torch.device("cpu"),
            self.evaluator.data_loader,
            self.network,
            inferer=SimpleInferer(),
            postprocessing=Compose([classes, cells, two]),
            key_val_metric={"seg": self.metric},
        )
        read = ReadImaged(["image", "label"], ("float32", "int32"), spatial_dims=3)
        item = dict.fromkeys(("image", "label"), str(folder / "0.tif"))
        tiles = TileDataset([item], Compose([read, AsDiscreted("label", threshold=2)]))
        self.trainer = SupervisedTrainer(
            torch.device("cpu"),
            1,
            DataLoader(tiles, batch_size=1),
            self.network,
            torch.optim.SGD(self.network.parameters(), lr=0.01),
            DiceCELoss(to_onehot_y=True, softmax=True),
            train_handlers=[ValidationHandler(1, self.evaluator)],
            decollate=False,
        )
        self.checkpoints = Checkpoints(
            self.folder / "models", {"model": self.network}, self.evaluator
        )
        self.checkpoints.attach(self.trainer)


def test_a_task_that_is_not_ours_is_trained_scored_and_drawn(tmp_path: Path) -> None:
    run = OwnTask(tmp_path)
    summary = run.train()
    assert 0 < summary["scores"]["seg"] < 1
    for name in ("summary.json", "evaluation.csv", "report.html", "models/model.pt"):
        assert (run.folder / name).is_file()
    rows = (run.folder / "evaluation.csv").read_text().splitlines()
    assert rows[0].split(",") == ["image", "seg"]
    values = [float(row.rsplit(",", 1)[1]) for row in rows[1:]]
    np.testing.assert_allclose(np.mean(values), summary["scores"]["seg"], rtol=1e-6)


@pytest.mark.parametrize("name", ["draw_predictions", "draw_cases", "write_report"])
def test_a_picture_that_fails_loses_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("instances")

    monkeypatch.setattr(training, name, fail)
    run = Run(tmp_path, ".tif")
    summary = run.train()
    assert "is left out: KeyError: 'instances'" in caplog.text or "are left out" in caplog.text
    assert (run.folder / "models" / "model.pt").is_file()
    assert json.loads((run.folder / "summary.json").read_text()) == summary


def test_a_figure_that_is_killed_is_the_old_or_the_new(tmp_path: Path) -> None:
    tracker = RunTracker("none", tmp_path, data=None, optimizer=None)  # type: ignore[arg-type]
    figure = Figure(figsize=(1, 1))

    def write(title: str) -> None:
        figure.suptitle(title)
        tracker.log_figure(figure, "a.png")

    def found() -> bytes:
        return np.asarray(Image.open(tmp_path / "figures" / "a.png")).tobytes()

    write("old")
    old = found()
    seen = [found() for _ in killed_everywhere(lambda: write("new"))]
    write("new")
    assert old != found()
    assert {old} <= set(seen) <= {old, found()}


def same_picture(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Up to brightness and contrast."""
    return bool(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1] > 0.99)


def test_a_training_whose_validation_is_empty_keeps_its_last_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, ".tif")
    for loader in (run.evaluator.data_loader, run.test):
        for item in loader.dataset._items:
            item["label"].zero_()
    run.trainer.state.max_epochs = 3
    told: dict[str, float] = {}
    run.tracker.log_metrics = lambda values, step: told.update(values)  # type: ignore[method-assign]
    summary = run.train()
    assert summary["best_epoch"] == 3
    for name, value in torch.load(run.checkpoints.best_path, weights_only=True).items():
        assert torch.equal(value, run.network.state_dict()[name])
    said = [m for m in caplog.messages if "no epoch has a score" in m]
    assert said == ["no epoch has a score (SEG): the network of the last one, 3, is kept"]
    assert "no score: SEG, since there was nothing to compare with" in caplog.messages
    assert (summary["scores"], told) == ({"seg": None}, {})
    for name in ("summary.json", "evaluation.json"):
        text = (run.folder / name).read_text()
        assert json.loads(text, parse_constant=pytest.fail)["scores"] == {"seg": None}
    scored = read_run(run.folder).scored
    assert scored is not None
    assert math.isnan(scored.scores["seg"])
    write_report(run.folder)
