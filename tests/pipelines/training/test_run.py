"""A whole training in this process, small: what is scored, drawn and left in the folder."""

from __future__ import annotations

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
from monai.handlers import IgniteMetricHandler, ValidationHandler, from_engine
from monai.inferers import SimpleInferer
from monai.transforms import Activationsd, Compose
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from overtile.networks import PixelWeightedCrossEntropyLoss
from overtile.pipelines.bundle.checkpoints import Checkpoints
from overtile.pipelines.data.cache import CachedDataset
from overtile.pipelines.data.samples import TileDataset
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.pipelines.metrics.monai_metrics import SegMetric
from overtile.pipelines.reporting import figures
from overtile.pipelines.training.batches import LossOfPair, prepare_weighted_batch
from overtile.pipelines.training.run import run_training
from overtile.pipelines.training.tracking import RunTracker
from overtile.transforms import InstancesFromProbabilitiesd

SHAPE = (7, 12, 20)  # sections, rows, columns


class Tracker:
    """Keeps no run anywhere but in its folder."""

    uri = "nowhere"

    def __init__(self, folder: Path) -> None:
        self.output_dir = folder
        self.data = SimpleNamespace(val=[], test=[], digest_of=lambda paths: "none")
        self.logged: list[str] = []

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
    assert run.network.asked == 1 + 3, "one validation and three unseen images, each once"
    (figure,) = drawn
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    for place, volume in enumerate(run.volumes[2:]):
        middle = volume[SHAPE[0] // 2]
        image, label = (panels[4 * place + n].images[0].get_array() for n in (0, 1))
        assert image.shape == middle.shape
        assert same_picture(image, middle)
        assert np.array_equal(label, figures.coloured(middle))


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
