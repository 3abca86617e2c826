from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from exhausted import files_below
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from ignite.engine import Engine, Events
from killed import killed_everywhere
from monai.data import DataLoader, MetaTensor
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, Flipd, RandShiftIntensityd
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from overtile.pipelines.bundle.checkpoints import Checkpoints, check_settings
from overtile.pipelines.data.cache import CachedDataset
from overtile.pipelines.data.cache_folder import default_cache
from overtile.pipelines.data.samples import EpochSampler, TileDataset
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.pipelines.metrics.monai_metrics import VRandMetric
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


# --- the cache --------------------------------------------------------------------------------

SIMPLE = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    st.sampled_from(["\udcff.tif", np.float32(0.5), np.int64(3), np.str_("x"), 2**100]),
    arrays_of.arrays(
        st.sampled_from([np.float64, np.int16, np.uint16, np.bool_, ">i2"]),
        arrays_of.array_shapes(min_dims=0, max_dims=2, max_side=3),
        elements=st.integers(0, 1),
    ),
    st.integers(1, 3).map(lambda n: torch.arange(n, dtype=torch.float64)),
)
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)


class Described:
    """A reader that states the metadata it is given, and an entry of the item beside them."""

    def __init__(self, meta: dict[str, Any], beside: Any) -> None:
        self.meta, self.beside = meta, beside

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        pixels = torch.arange(6.0).reshape(1, 2, 3)
        meta = {"filename_or_obj": item["image"], **self.meta}
        return {"image": MetaTensor(pixels, meta=meta), "beside": self.beside}


def assert_same(one: Any, other: Any) -> None:
    """Equal in value and kind, to the depth of all that they hold."""
    if isinstance(one, torch.Tensor):
        assert type(one) is type(other)
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
        if isinstance(one, MetaTensor):
            assert_same(one.meta, other.meta)
            assert one.applied_operations == other.applied_operations
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert type(one) is type(other)
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    elif isinstance(one, (np.ndarray, np.generic)) and not isinstance(one, str):
        assert type(one) is type(other)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    else:
        assert isinstance(one, str) or type(one) is type(other)
        assert one == other


@pytest.mark.parametrize("memory_limit", [0, 2**30])
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    meta=st.dictionaries(st.sampled_from(["axes", "spacing", "affine_of", "note"]), VALUES),
    beside=VALUES,
)
def test_an_item_from_the_cache_is_the_item(
    tmp_path: Path, memory_limit: int, meta: dict[str, Any], beside: Any
) -> None:
    (tmp_path / "a.tif").touch()
    data = [{"image": str(tmp_path / "a.tif")}]
    step = Described(meta, beside)
    expected = step(data[0])
    for _ in ("written", "read"):
        cached = CachedDataset(data, Compose([step]), memory_limit, tmp_path / "cache")
        assert_same(expected, cached[0])


def test_what_a_file_of_tensors_cannot_hold_stays_in_memory(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    step = Described({}, frozenset({1}))
    cached = CachedDataset(
        [{"image": str(tmp_path / "a.tif")}], Compose([step]), cache_dir=tmp_path / "cache"
    )
    assert cached[0]["beside"] == frozenset({1})
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


@pytest.fixture
def volume(tmp_path: Path) -> dict[str, str]:
    """An image ``[X, Y, Z]`` and its label, in which X and Z do not look alike."""
    rng = np.random.default_rng(0)
    label = np.zeros((12, 10, 5), np.uint8)
    label[1:5, 1:9], label[7:11, 1:5] = 1, 2
    for name, array in (("image", rng.random(label.shape, np.float32)), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    return {name: str(tmp_path / f"{name}.nii") for name in ("image", "label")}


def read(*more: Any) -> Compose:
    keys, dtypes = ("image", "label"), ("float32", "int32")
    return Compose([ReadImaged(keys, dtypes, spatial_dims=3), *more])


def test_a_volume_from_the_cache_is_scored_along_the_same_axis(
    tmp_path: Path, volume: dict[str, str]
) -> None:
    def score(item: dict[str, Any]) -> float:
        metric = VRandMetric()
        metric([item["image"]], [item["label"]])
        return float(metric.aggregate())

    expected = score(read()(volume))
    for _ in ("written", "read"):
        cached = CachedDataset([volume], read(), cache_dir=tmp_path / "cache")
        assert score(cached[0]) == expected


def test_monai_inverts_what_was_done_to_an_item_from_the_cache(
    tmp_path: Path, volume: dict[str, str]
) -> None:
    original = read()(volume)
    for _ in ("written", "read"):  # by other transforms, as in another process
        steps = read(Flipd(["image", "label"], spatial_axis=0))
        item = CachedDataset([volume], steps, cache_dir=tmp_path / "cache")[0]
        assert not torch.equal(item["image"], original["image"])
        restored = steps.inverse(item)
        for key in ("image", "label"):
            assert torch.equal(torch.as_tensor(restored[key]), torch.as_tensor(original[key]))


def test_a_cache_killed_while_writing_holds_whole_items(
    tmp_path: Path, volume: dict[str, str]
) -> None:
    cache, expected = tmp_path / "cache", read()(volume)

    def items() -> CachedDataset:
        return CachedDataset([volume], read(), cache_dir=cache)

    for _ in killed_everywhere(items):
        for file in cache.rglob("*.pt"):
            assert file.name.startswith(".partial") or torch.load(file, weights_only=True)
    assert_same(expected, items()[0])
    assert len([file for file in cache.rglob("*") if file.is_file()]) == 1, "nothing else is left"


@pytest.fixture
def two(tmp_path: Path) -> list[dict[str, str]]:
    for name, value in (("a", 1), ("b", 2)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((5, 6), value, np.uint8))
    return [{"image": str(tmp_path / f"{name}.tif")} for name in "ab"]


def values(items: list[dict[str, str]], cache: Path) -> list[float]:
    cached = CachedDataset(items, Compose([ReadImaged(["image"], ("float32",))]), 0, cache)
    return [float(item["image"].mean()) for item in cached]  # type: ignore[attr-defined]


def exchanged(files: list[Path]) -> None:
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)


def repainted(files: list[Path]) -> None:
    for file in files:
        stored = torch.load(file, weights_only=True)
        pixels = next(value for value in flat(stored) if isinstance(value, torch.Tensor))
        pixels += 7
        torch.save(stored, file)


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from flat(part)
    else:
        yield value


@pytest.mark.parametrize("change", [exchanged, repainted])
def test_what_the_cache_holds_is_what_was_written_there(
    tmp_path: Path, two: list[dict[str, str]], change: Any
) -> None:
    assert values(two, tmp_path / "cache") == [1, 2]
    written = sorted((tmp_path / "cache").rglob("*.pt"))
    assert len(written) == 2
    change(written)
    assert values(two, tmp_path / "cache") == [1, 2]


@pytest.mark.parametrize("loose", [".", "images"])
def test_a_cache_that_others_may_write_is_none(
    tmp_path: Path, two: list[dict[str, str]], loose: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    (cache / "images").mkdir(parents=True)
    (cache / loose).chmod(0o777)
    assert values(two, cache) == [1, 2]
    assert not list(cache.rglob("*.pt"))
    assert values(two, cache) == [1, 2]
    assert caplog.text.count("others may write in it") == 1
    (cache / loose).chmod(0o700)
    assert values(two, cache) == [1, 2]
    assert {file.stat().st_mode & 0o022 for file in cache.rglob("*") if file.is_dir()} == {0}


def test_a_full_disk_of_the_cache_is_said_once_and_costs_memory_alone(
    tmp_path: Path, two: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    with files_below(1000):
        assert values(two, tmp_path / "cache") == [1, 2]
    assert caplog.text.count("nothing more is kept there (File too large), but in memory") == 1
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert values(two, tmp_path / "cache") == [1, 2]


def test_without_a_home_the_cache_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless(*_: Any) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("OVERTILE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_cache().parent == tmp_path


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    engine: Any = SimpleNamespace(state=SimpleNamespace())
    ClipGradients(network, max_norm=1.0)._clip(engine)
    assert torch.allclose(network.weight.grad, torch.tensor([[0.6, 0.8]]), atol=1e-4)
    assert engine.state.gradient_norm == 5.0


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


@pytest.mark.parametrize("by_steps", [True, False])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: StepLR(o, 3, 0.5),
        lambda o: OneCycleLR(o, 1.0, total_steps=99),
        lambda o: SequentialLR(o, [ConstantLR(o, 0.1, 2), CosineAnnealingLR(o, 20)], [2]),
    ],
)
def test_a_schedule_stands_where_epochs_of_the_new_length_had_brought_it(
    tmp_path: Path, schedule: Any, by_steps: bool
) -> None:
    def trained(length: int, epochs: int, resume: bool = False) -> list[float]:
        network = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        parts = {"model": network, "optimizer": optimizer, "lr_scheduler": schedule(optimizer)}
        rates = []

        def step(engine: Engine) -> None:
            optimizer.step()
            rates.append(optimizer.param_groups[0]["lr"])
            if by_steps or engine.state.iteration % length == 0:
                parts["lr_scheduler"].step()

        engine = Engine(lambda *_: None)
        engine.state.max_epochs, engine.state.epoch_length = epochs, length
        engine.add_event_handler(Events.ITERATION_COMPLETED, step)
        checkpoints = Checkpoints(tmp_path, parts)
        if resume:
            checkpoints.resume(engine)
        checkpoints.attach(engine)
        engine.run([0] * length, max_epochs=epochs)
        return rates

    whole = trained(3, 5)
    for before in (2, 7):
        trained(before, 2)
        assert trained(3, 5, resume=True) == whole[2 * 3 :]


def test_a_schedule_by_scores_goes_on_where_it_was(tmp_path: Path) -> None:
    def parts(rate: float) -> dict[str, Any]:
        network = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=rate)
        schedule = ReduceLROnPlateau(optimizer, patience=0)
        return {"model": network, "optimizer": optimizer, "lr_scheduler": schedule}

    engine = Engine(lambda *_: None)
    first = parts(0.5)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: first["lr_scheduler"].step(engine.state.epoch)
    )
    Checkpoints(tmp_path, first).attach(engine)
    engine.run([0], max_epochs=3)
    again = parts(0.5)
    Checkpoints(tmp_path, again).resume(Engine(lambda *_: None))
    assert again["optimizer"].param_groups[0]["lr"] == pytest.approx(0.005)
    with pytest.raises(ConfigurationError, match=r"lr_scheduler: .*from \[0\.1\]"):
        Checkpoints(tmp_path, parts(0.1)).resume(Engine(lambda *_: None))


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


def test_names_of_channels_that_are_not_known_fit_any(tmp_path: Path) -> None:
    best = tmp_path / "model.pt"
    for trained, used in ((["A", "B"], ("A", "B")), (["A", "B"], None), (None, ["A", "B"])):
        best.with_name("settings.json").write_text(json.dumps({"channel_names": trained}))
        check_settings({"channel_names": used}, best)
    best.with_name("settings.json").write_text(json.dumps({"channel_names": ["A", "B"]}))
    with pytest.raises(ConfigurationError, match=r"trained with channel_names=\['A', 'B'\], but"):
        check_settings({"channel_names": ["B", "A"]}, best)


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
