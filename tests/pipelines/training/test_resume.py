"""A run is stopped, and resumed with every setting of the schema changed, one at a time."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from toy_run import BUNDLE, EPOCHS, RATE, SAMPLES, WARMUP, Run, Store, write_images

from overtile.pipelines.bundle.schema import KEYS, Key, Resumed
from overtile.pipelines.bundle.values import COMPONENTS, choices, is_expression, refuses
from overtile.pipelines.data.samples import EpochSampler
from overtile.pipelines.errors import users_mistake
from overtile.pipelines.training import run as training
from overtile.pipelines.training import tracking

DONE = 2

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")


@pytest.fixture(scope="module", autouse=True)
def _nothing_but_training() -> Iterator[None]:
    """Neither MLflow nor pictures: they take longer than such a training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "MlflowClient", Store)
        for name in ("draw_training_sample", "draw_predictions", "draw_cases", "write_report"):
            patch.setattr(training, name, lambda *_, **__: None)
        yield


def stopped_run(folder: Path, *experiments: str, **settings: Any) -> Run:
    """Stopped in the epoch behind `DONE`."""
    run = Run(folder, *experiments)
    write_images(folder / "images")
    start = EpochSampler._start

    def stop(sampler: EpochSampler, engine: Any) -> None:
        if engine.state.epoch > DONE:
            raise KeyboardInterrupt
        start(sampler, engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochSampler, "_start", stop)
        with pytest.raises(SystemExit):
            run.train(**settings)
    assert [row["epoch"] for row in run.rows()] == [*range(1, DONE + 1)]
    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return stopped_run(tmp_path_factory.mktemp("adam"))


@pytest.fixture(scope="module")
def with_momentum(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return stopped_run(tmp_path_factory.mktemp("sgd"), "sgd.json")


@contextmanager
def copy_of(run: Run) -> Iterator[Run]:
    """The run, put back afterwards: paths in it stay."""
    kept = run.out.with_name("kept")
    shutil.copytree(run.out, kept)
    Store.steps = []
    try:
        yield run
    finally:
        shutil.rmtree(run.out)
        kept.rename(run.out)


def said_of(run: Run, /, **changed: Any) -> str | None:
    """The one line with which a resumed run is refused; None where it goes on."""
    before = run.files()
    try:
        run.train(resume=True, **changed)
    except Exception as error:
        mistake = users_mistake(error)
        if mistake is None:
            raise
        assert run.files() == before, "refused before anything was touched"
        assert "\n" not in str(mistake)
        return str(mistake)
    return None


def rate_at(step: int, steps: int, largest: float = RATE, warmup: int = WARMUP) -> float:
    """Warm-up and cosine as they are printed, of a run of ``steps``."""
    if step < warmup:
        return largest * step / warmup
    return largest * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def check_went_on(run: Run, earlier: list[dict[str, float]], /, **changed: Any) -> None:
    """All epochs, none twice; steps and learning rate follow from what is set now."""
    epochs = changed.get("max_epochs", EPOCHS)
    length = math.ceil(changed.get("samples_per_epoch", SAMPLES) / changed.get("batch_size", 1))
    rows = run.rows()
    assert [row["epoch"] for row in rows] == [*range(1, epochs + 1)]
    for now, row in zip(rows, earlier, strict=False):
        assert {name: now[name] for name in row} == row
    done = int(earlier[-1]["iteration"])
    for epoch, row in enumerate(rows[DONE:], DONE + 1):
        assert row["iteration"] == done + length * (epoch - DONE)
        rate = rate_at(
            epoch * length,
            epochs * length,
            changed.get("learning_rate", RATE),
            changed.get("warmup_steps", WARMUP),
        )
        assert row["learning_rate"] == pytest.approx(rate, abs=1e-9), epoch
    steps = range(done + 1, done + 1 + length * (epochs - DONE))
    assert Store.steps == [*steps], "no step twice"
    state = run.state()
    assert (state["epoch"], state["steps"]) == (epochs, steps[-1])
    assert json.loads((run.out / "summary.json").read_text())["resumed"] is True


def other_value(key: Key, value: Any, run: Run) -> Any:
    """Another value that a key allows."""
    folder = run.folder
    known = {
        "bundle_root": shutil.copytree(BUNDLE, folder / "bundle", dirs_exist_ok=True),
        "dataset_dir": shutil.copytree(folder / "images", folder / "moved", dirs_exist_ok=True),
        "output_dir": folder / "another",
        "cache_dir": folder / "another_cache",
        "tracking_uri": "http://127.0.0.1:9",
        "initial_weights": run.out / "models" / "model.pt",
        "layout": "pairs",
        "unlabelled": "band",
        "ignore": 255,
        "in_channels": 2,
        "spacing": [1.0, 1.0],
        "device": "cpu:0",
        "scale": [0.9, 1.1],
        "threshold": 0.6,
        "tile": 32,
        "network_def#features": [2, 4],
        "network_def#in_channels": 2,
        "network_def#out_channels": 3,
        "network_def#spatial_dims": 3,
        "network_def#dropout": 0.3,
        "train#trainer#max_epochs": EPOCHS + 1,
        "tracker#experiment": "another",
    }
    if key.name in known:
        found = known[key.name]
        return str(found) if isinstance(found, Path) else found
    if value is None:
        return next(v for v in (0, 1) if not refuses(key.type, v))
    for choice in choices(key.type):
        if choice != value:
            return choice
    if isinstance(value, (int, float)):
        return next(v for v in (value + 1, value / 2) if not refuses(key.type, v))
    if key.type is COMPONENTS:
        return {metric: {**part, "_desc_": "another"} for metric, part in value.items()}
    if isinstance(value, list):
        handler = {"_target_": "StatsHandler", "_disabled_": True}
        more = {"read": {"_target_": "Identityd", "keys": "image"}, "handlers": handler}
        more["augmentation"] = more["read"]
        return [*value, more.get(key.name.rpartition("#")[2], "$None")]
    if isinstance(value, dict):  # MONAI's own key for a remark
        return {**value, "_desc_": "another"} if "_target_" in value else {**value, "more": {}}
    assert is_expression(value), key.name
    return f"$({value[1:]})" if value[0] == "$" else f"${value}"


def keys_of(*experiments: str) -> list[str]:
    parser = ConfigParser()
    configs = BUNDLE / "configs"
    parser.read_config(
        [str(configs / "train.json"), *(str(configs / "experiments" / e) for e in experiments)]
    )
    return [name for name, key in KEYS.items() if "train" in key.told and name in parser]


def value_of(run: Run, name: str) -> Any:
    """As the bundle that the run left has it."""
    value: Any = json.loads((run.out / "configs" / "train.json").read_text())
    for step in name.split("#"):
        value = value[step]
    return value


ADAM = keys_of()
ONLY_SGD = [name for name in keys_of("sgd.json") if name not in ADAM]
NOT_A_CHANGE = {"resume"}
REFUSED = {  # by what is built before anything is resumed, or for what comes of them
    "fold": "validation images: ",
    "labels": "",
    "spatial_dims": "",
    "network_def#spatial_dims": "",
    "in_channels": "",
    "spacing": "",
    "network_def#in_channels": "",
    "network_def#out_channels": "",
    "output_dir": "resume: ",
}


def test_every_setting_is_tried() -> None:
    organs = ConfigParser()
    organs.read_config(str(BUNDLE.parent / "organs" / "configs" / "train.json"))
    of_classes = {n for n, key in KEYS.items() if "train" in key.told} - {*ADAM, *ONLY_SGD}
    assert all(name in organs for name in of_classes)
    assert ONLY_SGD == ["momentum"]


@pytest.mark.parametrize("name", [name for name in [*ADAM, *ONLY_SGD] if name not in NOT_A_CHANGE])
def test_a_new_value_is_taken_or_costs_one_line(
    stopped: Run, with_momentum: Run, name: str
) -> None:
    with copy_of(with_momentum if name in ONLY_SGD else stopped) as run:
        key, earlier = KEYS[name], run.rows()
        value = other_value(key, value_of(run, name), run)
        said = said_of(run, **{name: value})
        if key.resumed is Resumed.REFUSED or name in REFUSED:
            assert said is not None, "neither taken nor refused"
            assert said.startswith(REFUSED.get(name, name if key.part else f"{name}: "))
            return
        assert said is None
        check_went_on(run, earlier, **{name.rpartition("#")[2]: value})
        assert value_of(run, name) == value


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        ({}, {"batch_size": 4}),
        ({}, {"samples_per_epoch": 1}),
        ({}, {"samples_per_epoch": 6, "batch_size": 4}),
        ({}, {"samples_per_epoch": 9, "max_epochs": 10, "learning_rate": 0.1, "warmup_steps": 20}),
        ({"batch_size": 4}, {"batch_size": 1}),
        ({"samples_per_epoch": 16}, {"samples_per_epoch": 4, "max_epochs": 3}),
    ],
)
def test_epochs_are_what_counts(
    tmp_path: Path, before: dict[str, int], changed: dict[str, int]
) -> None:
    drawn: list[int] = []
    numbers = EpochSampler.__iter__

    def note(sampler: EpochSampler) -> Iterator[int]:
        for number in numbers(sampler):
            drawn.append(number)
            yield number

    Store.steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochSampler, "__iter__", note)
        run = stopped_run(tmp_path, **before)
        earlier = run.rows()
        run.train(resume=True, **{**before, **changed})
    assert [*dict.fromkeys(drawn)] == drawn == [*range(len(drawn))], (
        "no sample twice, none left out"
    )
    Store.steps = Store.steps[int(earlier[-1]["iteration"]) :]
    check_went_on(run, earlier, **{**before, **changed})


def test_what_changes_nothing_leaves_the_same_bits(stopped: Run, tmp_path: Path) -> None:
    whole = Run(tmp_path)
    write_images(tmp_path / "images")
    Store.steps = []
    whole.train()
    for changed in ({}, {"num_workers": 1, "cache_memory": 0, "config": "of the run"}):
        with copy_of(stopped) as run:
            config = run.out / "configs" / "train.json" if changed.pop("config", None) else None
            run.train(resume=True, config=config, **changed)
            same_bits(run.state(), whole.state())


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("model", "optimizer", "lr_scheduler", "sampler"):
        first, second = (torch.utils._pytree.tree_leaves(state[part]) for state in (one, other))
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, part


def test_other_images_to_score_are_refused_and_others_to_train_on_taken(stopped: Run) -> None:
    with copy_of(stopped) as run:
        other = shutil.copytree(run.folder / "images", run.folder / "other", dirs_exist_ok=True)
        image = other / "val" / "images" / "0.tif"
        tifffile.imwrite(image, tifffile.imread(image)[::-1])
        said = said_of(run, dataset_dir=str(other))
        assert said is not None
        assert said.startswith("validation images: '1 (")
        more = shutil.copytree(run.folder / "images", run.folder / "more", dirs_exist_ok=True)
        for kind in ("images", "labels"):
            shutil.copyfile(more / "train" / kind / "0.tif", more / "train" / kind / "4.tif")
        assert said_of(run, dataset_dir=str(more)) is None


def test_an_optimiser_goes_on_with_what_is_set_now(stopped: Run, with_momentum: Run) -> None:
    with copy_of(stopped) as run:
        assert said_of(run, weight_decay=0.5) is None
        assert [g["weight_decay"] for g in run.state()["optimizer"]["param_groups"]] == [0.5]
    with copy_of(with_momentum) as run:
        assert said_of(run, momentum=0.0) is None
        assert [g["momentum"] for g in run.state()["optimizer"]["param_groups"]] == [0.0]
    with copy_of(stopped) as run:
        said = said_of(run, optimizer=value_of(with_momentum, "optimizer"), momentum=0.9)
        assert said is not None
        assert said.startswith(
            "optimizer#_target_: 'torch.optim.SGD', but the run so far had 'torch.optim.AdamW'"
        )


def test_fewer_epochs_than_are_done_are_refused(stopped: Run) -> None:
    with copy_of(stopped) as run:
        said = said_of(run, max_epochs=1)
        assert said == "max_epochs: 1, but the run has done 2; expected at least 2"


@pytest.mark.parametrize("name", ["models/last.pt", "models/settings.json", "history.csv"])
def test_a_damaged_file_of_the_run_costs_one_line(stopped: Run, name: str) -> None:
    whole = (stopped.out / name).read_bytes()
    weights = io.BytesIO()
    torch.save(torch.load(stopped.out / "models" / "model.pt", weights_only=True), weights)
    damaged = [b"", whole[: len(whole) // 2], b"[]", bytes(len(whole)), weights.getvalue()]
    with copy_of(stopped) as run:
        for content in damaged:
            (run.out / name).write_bytes(content)
            said = said_of(run)
            assert said is not None
            assert said.startswith(str(run.out / name))
            assert "train again" in said or "give resume=False" in said or "remove it" in said


def test_weights_to_start_from_may_be_left_out(tmp_path: Path, stopped: Run) -> None:
    start = str(stopped.out / "models" / "model.pt")
    run = stopped_run(tmp_path, initial_weights=start)
    for given in (None, start):
        with copy_of(run):
            assert said_of(run, initial_weights=given) is None
            assert run.state()["conditions"]["initial_weights"] == start
