from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, RandShiftIntensityd

from overtile.pipelines.bundle.checkpoints import Checkpoints, save_atomically
from overtile.pipelines.data.samples import EpochSampler, TileDataset
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.training.handlers import ClipGradients
from overtile.transforms import RandDeformedTiled


def tiles(samples: int = 6, seed: int = 0) -> TileDataset:
    rng = np.random.default_rng(0)
    data = [{"image": torch.from_numpy(rng.random((1, 40, 50), np.float32))} for _ in range(4)]
    steps = [
        RandDeformedTiled("image", size=20),
        RandShiftIntensityd("image", offsets=1.0, prob=1.0),
    ]
    return TileDataset(data, Compose(steps), samples, seed)


def epochs(workers: int, seed: int = 0) -> torch.Tensor:
    dataset = tiles(seed=seed)
    sampler = EpochSampler(dataset)
    loader = DataLoader(dataset, sampler=sampler, num_workers=workers, batch_size=1)
    seen = []
    engine = Engine(lambda _, batch: seen.append(torch.as_tensor(batch["image"]).clone()))
    sampler.attach(engine)
    engine.run(loader, max_epochs=2)
    return torch.stack(seen)


def test_samples_depend_on_seed_and_number_alone() -> None:
    alone = epochs(workers=0)
    assert torch.equal(alone, epochs(workers=2)), "not on the workers"
    assert not torch.equal(alone, epochs(workers=0, seed=1))
    assert len({sample.numpy().tobytes() for sample in alone}) == 12, "nor is any repeated"
    dataset = tiles()
    _ = dataset[3]
    assert torch.equal(torch.as_tensor(dataset[7]["image"]), alone[7][0]), "nor on what came before"


def test_every_image_is_used_equally_often() -> None:
    dataset = tiles()
    used = [dataset._image_of(n) for n in range(12)]
    assert all(sorted(used[i : i + 4]) == [0, 1, 2, 3] for i in (0, 4, 8))
    assert used[:4] != used[4:8] or used[4:8] != used[8:], "in random order"


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    engine: Any = SimpleNamespace(state=SimpleNamespace())
    ClipGradients(network, max_norm=1.0)._clip(engine)
    assert torch.allclose(network.weight.grad, torch.tensor([[0.6, 0.8]]), atol=1e-4)
    assert engine.state.gradient_norm == 5.0


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Any) -> None:
    path = tmp_path / "last.pt"
    save_atomically({"epoch": 1}, path)

    class Bad:
        def __reduce__(self) -> Any:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_atomically({"epoch": Bad()}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


@pytest.mark.parametrize(("lower", "best"), [(False, 2), (True, 3)])
def test_the_best_network_is_the_one_with_the_best_metric(
    tmp_path: Any, lower: bool, best: int
) -> None:
    network = torch.nn.Linear(1, 1)
    scores = {1: 0.5, 2: 0.9, 3: 0.1}
    evaluator: Any = SimpleNamespace(
        state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="m")
    )
    checkpoints = Checkpoints(tmp_path, {"model": network}, evaluator, lower_is_better=lower)
    engine = Engine(lambda *_: None)

    def validate(engine: Engine) -> None:
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"m": scores[engine.state.epoch]}
        torch.nn.init.constant_(network.weight, engine.state.epoch)

    engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    checkpoints.attach(engine)
    engine.run([0], max_epochs=3)
    checkpoints.load_best()
    assert network.weight.item() == best == checkpoints.best_epoch


def test_a_longer_schedule_is_kept_on_resuming(tmp_path: Path) -> None:
    def parts(epochs: int) -> dict[str, Any]:
        network = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        schedule = WarmupCosineSchedule(optimizer, warmup_steps=0, t_total=epochs)
        return {"model": network, "optimizer": optimizer, "lr_scheduler": schedule}

    def rates(given: dict[str, Any], engine: Engine, epochs: int) -> list[float]:
        seen = []

        def step(engine: Engine) -> None:
            given["optimizer"].step()
            given["lr_scheduler"].step()
            seen.append(given["optimizer"].param_groups[0]["lr"])

        engine.add_event_handler(Events.EPOCH_COMPLETED, step)
        Checkpoints(tmp_path, given).attach(engine)
        engine.run([0], max_epochs=epochs)
        return seen

    whole = rates(parts(6), Engine(lambda *_: None), 6)
    rates(parts(2), Engine(lambda *_: None), 2)
    longer, engine = parts(6), Engine(lambda *_: None)
    engine.state.max_epochs, engine.state.epoch_length = 6, 1
    Checkpoints(tmp_path, longer).resume(engine)
    assert rates(longer, engine, 6) == pytest.approx(whole[2:])


def test_a_run_is_not_resumed_on_images_normalised_otherwise(tmp_path: Path) -> None:
    def of(normalize: str) -> Checkpoints:
        parts = {"model": torch.nn.Linear(1, 1)}
        return Checkpoints(tmp_path, parts, settings={"normalize": normalize})

    engine = Engine(lambda *_: None)
    of("zscore").attach(engine)
    engine.run([0], max_epochs=1)
    with pytest.raises(ConfigurationError, match="trained with normalize=zscore, but normalize is"):
        of("percentile").resume(Engine(lambda *_: None))
    of("zscore").resume(Engine(lambda *_: None))


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {"model": torch.nn.Linear(1, 1)})
    with pytest.raises(ConfigurationError, match="does not exist"):
        checkpoints.resume(Engine(lambda *_: None))
    engine = Engine(lambda *_: None)
    checkpoints.attach(engine)
    engine.run([0], max_epochs=1)
    other = Checkpoints(tmp_path, {"model": torch.nn.Linear(2, 1)})
    with pytest.raises(ConfigurationError, match=r"weight is \(1, 1\), the network has \(1, 2\)"):
        other.resume(Engine(lambda *_: None))
