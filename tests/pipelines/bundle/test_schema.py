"""Every key of every configuration with wrong values, made from the schema itself."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc import locate
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser

from overtile.pipelines.bundle.check import check_configuration
from overtile.pipelines.bundle.messages import as_override
from overtile.pipelines.bundle.overrides import typed, without_quotes
from overtile.pipelines.bundle.parts import runs
from overtile.pipelines.bundle.reference import page_with_tables
from overtile.pipelines.bundle.schema import CONFIGURATIONS, KEYS, Key, decides
from overtile.pipelines.bundle.values import CHANNELS, SECTION, STEPS, allowed, limits_of
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.images.annotation import UNLABELLED
from overtile.pipelines.images.read import LABEL_KINDS
from overtile.pipelines.label.models import copied

ROOT = Path(__file__).resolve().parents[3]
BUNDLES = ("touching_cells", "em_membranes", "organs")
FILES = [(bundle, config) for bundle in BUNDLES for config in CONFIGURATIONS]

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")


@cache
def parser_of(bundle: str, config: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs" / f"{config}.json"))
    return parser


def keys_in(bundle: str, config: str) -> list[str]:
    return [name for name in KEYS if name in parser_of(bundle, config)]


CASES = [(*file, name) for file in FILES for name in keys_in(*file)]


def parts_of(kind: Any) -> list[Any]:
    return list(get_args(kind)) if get_origin(kind) in (Union, UnionType) else [kind]


def base_of(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def takes(kind: Any, base: Any) -> bool:
    return any(base_of(part) == base for part in parts_of(kind))


def wrong_values(key: Key) -> Iterator[Any]:
    """Of a wrong type, out of range, no number, empty, a list, and as MONAI hands over text."""
    kinds = parts_of(key.type)
    named = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    channels = CHANNELS in kinds  # numbers and names
    texts = channels or any(base_of(kind) in (str, str | Path) for kind in kinds)
    numbers = [kind for kind in kinds if base_of(kind) in (int, float)]
    yield from ("", " ", "null", "None", "true", "false", {}, math.nan, math.inf, -math.inf)
    yield from ((), [[]], {"a": 1}, b"bytes")
    if not takes(key.type, bool):
        yield from (True, False)
    if not takes(key.type, NoneType):
        yield None
    if not texts:
        yield from ("one", "1", "1e3", "[1]", "1,2", "cpu:x", *(name + "x" for name in named))
    if named:
        yield from (name.upper() for name in named)
        yield [named[0]]
    if channels:
        yield from (-1, 2**16, 2.5, [], [0, 0], ["a", "b", "a"], [[0]], ["a", ""], [True])
    elif not numbers:
        yield from (0, 1, 2.5, 20241117)
    for kind in numbers:
        limits, whole = limits_of(kind), base_of(kind) is int
        step = 1 if whole else 1e-6
        if "from" in limits:
            yield limits["from"] - step
        if "above" in limits:
            yield from (limits["above"], limits["above"] - step)
        if "to" in limits:
            yield limits["to"] + step
        if "to below" in limits:
            yield limits["to below"]
        yield from (2**70, 10**40, 1e308, torch.tensor(0.5), torch.tensor(2))
        low = limits.get("from", limits.get("above", 0))
        yield from ([low + 1], [[low + 1]], ["a", "b"])
        if whole:
            yield from (low + 0.5, float(low + 1))
    if key.type is STEPS:
        yield from ([], "$[]")
    if key.gives:
        kind = locate(key.gives)
        yield from (
            "$3",
            "$None",
            "$len([1])",
            "$int",
            "$2 ** 3",
            "@spatial_dims",
            "$@spatial_dims",
            "$'a'",
        )
        yield from (value for value in ("$[1]", "$dict()") if not isinstance(eval(value[1:]), kind))
        if not issubclass(dict, kind) and not issubclass(list, kind):
            yield {"_target_": "builtins.dict"}
    if not any(base_of(kind) is Any for kind in kinds):  # such may be lists
        yield from ([], [1, 2], [1.5, "a"])


@pytest.mark.parametrize(("bundle", "config", "name"), CASES)
def test_every_wrong_value_of_every_key_costs_one_line(bundle: str, config: str, name: str) -> None:
    parser, key = parser_of(bundle, config), KEYS[name]
    right = parser[name]
    seen = 0
    for value in wrong_values(key):
        if key.type is SECTION and value == {"a": 1}:
            continue  # of one part
        if name == "network_def#strides" and value == [2]:
            continue  # of one pooling
        parser[name] = value
        try:
            check_configuration(parser)
            pytest.fail(f"{name} = {value!r} is taken")
        except ConfigurationError as error:
            said = str(error)
        finally:
            parser[name] = right
        assert "\n" not in said
        assert said.startswith(f"{name}: "), said
        assert allowed(key.type) in said, said
        shown = "no value" if "no value" in said else repr(value)
        assert shown in said, said
        seen += 1
    assert seen > 10


def test_every_number_has_a_lower_and_an_upper_limit() -> None:
    kinds = [(name, kind) for name, key in KEYS.items() for kind in parts_of(key.type)]
    numbers = [(name, limits_of(k)) for name, k in kinds if base_of(k) in (int, float)]
    assert len(numbers) > 30
    for name, limits in numbers:
        assert limits.keys() & {"from", "above"}, name
        assert limits.keys() & {"to", "to below"}, name


@pytest.mark.parametrize("device", ["meta", "vulkan", "xla", "cpu:5", "cuda:99", "cuda:x", "gpu"])
def test_a_device_is_one_of_this_machine(device: str) -> None:
    said = said_of("touching_cells", "inference", device=device)
    assert said.startswith(f"device: {device!r}; expected a device of this machine")
    assert said_of("touching_cells", "inference", device="cpu:0") == ""


@pytest.mark.parametrize(("bundle", "config"), FILES)
def test_what_the_bundles_say_is_right(bundle: str, config: str) -> None:
    parser = parser_of(bundle, config)
    check_configuration(parser)
    names = [name for name in parser.get() if name != parser.meta_key]
    assert [name for name in names if name not in KEYS] == []
    assert {name for name in names if config not in KEYS[name].told} == set()


def test_every_key_of_the_schema_is_in_a_configuration_that_it_names() -> None:
    for name, key in KEYS.items():
        for config in key.told:
            files = [ROOT / "bundles" / bundle / "configs" for bundle in BUNDLES]
            others = [
                json.loads(file.read_text())
                for folder in files
                for file in folder.glob("experiments/*.json")
            ]
            known = [parser_of(bundle, config) for bundle in BUNDLES]
            assert any(name in parser for parser in known) or (
                config == "train" and any(name in other for other in others)
            ), f"{name} is in no {config}.json"


def said_of(bundle: str, config: str, **added: Any) -> str:
    """What the check says of a configuration with further or other entries."""
    entries = copy.deepcopy(parser_of(bundle, config).get())
    parser = ConfigParser({**entries, **{k: v for k, v in added.items() if "#" not in k}})
    parser.update({k: v for k, v in added.items() if "#" in k})
    try:
        check_configuration(parser)
    except ConfigurationError as error:
        return error.worded(as_override)
    return ""


@pytest.mark.parametrize(("bundle", "config"), FILES)
def test_a_misspelt_key_is_refused_and_no_other(bundle: str, config: str) -> None:
    unused = "nothing uses a key of this name"
    said = said_of(bundle, config, padding_mod="constant")
    assert said == f"padding_mod: 'constant': {unused}; give --padding_mode constant"
    assert said_of(bundle, config, featurs=[4]).startswith(f"featurs: [4]: {unused}")
    assert said_of(bundle, config, colour="black") == f"colour: 'black': {unused}; leave it out"
    assert "skip: 'false', a text; expected False" in said_of(bundle, config, skip="false")
    assert said_of(bundle, config, device="cpu") == ""
    assert said_of(bundle, config, own=3, settings={"own": "@own"}) == ""
    if config == "train":
        assert f"train#traner: 3: {unused}" in said_of(bundle, config, **{"train#traner": 3})
    else:
        assert f"tile: 60: {unused}" in said_of(bundle, config, tile=60)


@pytest.mark.parametrize(("bundle", "config"), FILES)
def test_values_that_limit_each_other(bundle: str, config: str) -> None:
    if bundle != "organs":
        said = said_of(bundle, config, threshold=0.2, extent=0.25)
        assert said == "extent: 0.25; expected a number from 0 to threshold, which is 0.2"
        assert said_of(bundle, config, threshold=0.2, extent=0.2) == ""
    if config != "inference":
        said = said_of(bundle, config, fold=3, folds=3)
        assert said == "fold: 3; expected 0 to 2, one of 3 folds"
        assert said_of(bundle, config, fold=2, folds=3) == ""


@pytest.mark.parametrize("config", ["inference", "evaluation"])
def test_a_network_tells_as_many_classes_apart_as_have_names(config: str) -> None:
    said = said_of("organs", config, num_classes=4)
    assert said == (
        "class_names: ['background', 'anterior', 'posterior']; expected 4 names, as num_classes is"
    )
    said = said_of("organs", config, **{"network_def#out_channels": 4})
    assert said.startswith("network_def#out_channels: 4; expected 3, as num_classes is: give ")
    names = ["background", "liver", "spleen", "kidney"]
    assert said_of("organs", config, num_classes=4, class_names=names) == ""


@pytest.mark.parametrize(("bundle", "config"), [f for f in FILES if f[1] != "inference"])
@pytest.mark.parametrize("labels", LABEL_KINDS)
def test_a_bundle_takes_cells_or_classes(bundle: str, config: str, labels: str) -> None:
    said = said_of(bundle, config, labels=labels)
    if (labels == "classes") == (bundle == "organs"):
        assert said == ""
    elif labels == "classes":
        assert said.startswith("labels: 'classes', but ")
        assert said.endswith(
            "is for cells; expected instances, mask or membranes: take the bundle organs"
        )
    else:
        assert said.endswith(
            "is for classes; expected classes: take the bundle touching_cells or em_membranes"
        )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tile", [32, 40, 32], ""),
        ("tile", [32], "tile: [32]; expected a whole number from 1 to 8192 or one for each axis"),
        ("balance_classes", True, ""),
        ("balance_classes", 0.3, ""),
        ("balance_classes", 1.5, "expected True or False or a number from 0 to 1"),
        ("balance_classes", "half", "expected True or False or a number from 0 to 1"),
        ("class_names", ["a", "b", "a"], "expected a list of at least two names that differ"),
        ("class_names", ["a"], "expected a list of at least two names that differ"),
        ("class_names", "a,b", "expected a list of at least two names that differ"),
        ("border_classes", [1, "posterior"], ""),
        ("border_classes", [], "border_classes: []; expected a list of classes"),
        ("border_classes", [1, 1], "expected a list of classes without repeats"),
        ("border_classes", 1, "border_classes: 1; expected a list of classes"),
        ("foreground", 1.1, "foreground: 1.1; expected a number from 0 to 1 or None"),
        ("network_def#kernel_size", [[1, 3, 3], 3, 3], ""),
        (
            "network_def#kernel_size",
            5,
            "network_def#kernel_size: 5; expected a whole number from 1",
        ),
        ("network_def#kernel_size", [[3, 3, 3, 3]], "or a list with one a level"),
        ("network_def#strides", [[1, 2, 2], 2], ""),
        ("network_def#strides", True, "network_def#strides: True; expected a whole number"),
        ("network_def#strides", [3, 2], "or a list with one a level"),
    ],
)
def test_settings_of_volumes_and_classes(name: str, value: Any, said: str) -> None:
    found = said_of("organs", "train", **{name: value})
    assert said in found if said else found == ""


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("resume", "false", "give --resume False"),
        ("max_epochs", 5.0, "give --max_epochs 5"),
        ("cache_memory", 4e9, "give --cache_memory 4000000000"),
        ("w0", "2.5", "give --w0 2.5"),
        ("normalize", "zcore", "give --normalize zscore"),
        ("normalize", "Percentile", "give --normalize percentile"),
        ("fold", "null", "give --fold None"),
        ("dataset_dir", "none", "give --dataset_dir None"),
        ("dataset_dir", 20241117, "put it in quotes"),
        ("dataset_dir", True, "no value"),
        ("learning_rate", "fast", "above 0"),
        ("precision", "fp16", "give --precision bfloat16"),
        ("weight_where", "back", "give --weight_where background"),
        ("skip_unreadable", "yes", "give --skip_unreadable True"),
        ("skip_unreadable", "no", "give --skip_unreadable False"),
        ("MAX_EPOCHS", 3, "give --max_epochs 3"),
        ("layout", None, "expected auto, or the name of a layout, as pairs"),
        ("output_dir", None, "expected a path with no # or :: in it"),
        ("settings#normalize", "zscor", "give --settings#normalize zscore"),
        ("settings#normalize", "zscore", "give --normalize zscore, or leave it out"),
        ("network_def#spatial_dims", 3, "expected 2, as spatial_dims is: give --spatial_dims 3"),
        ("settings#spatial_dims", 3, "expected 2, as spatial_dims is: give --spatial_dims 3"),
    ],
)
def test_what_was_probably_meant_is_named(name: str, value: Any, meant: str) -> None:
    assert said_of("touching_cells", "train", **{name: value}).endswith(meant) or (
        meant in said_of("touching_cells", "train", **{name: value})
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("$2 + 1", ""),
        ("$np.int64(3)", ""),
        ("@folds", ""),
        ("$1 / 2", "seed: 0.5; expected a whole number from 0"),
        ("$1 / 0", "seed: '$1 / 0' cannot be evaluated (ZeroDivisionError: division by zero)"),
        ("@nothing", "seed: '@nothing' cannot be evaluated"),
    ],
)
def test_an_expression_is_checked_by_what_it_comes_to(value: str, said: str) -> None:
    found = said_of("touching_cells", "train", seed=value)
    assert found.startswith(said) if said else not found


def test_a_network_of_others_has_arguments_of_its_own() -> None:
    network = {"_target_": "monai.networks.nets.BasicUNet", "features": 3, "dropout": "much"}
    assert said_of("touching_cells", "inference", network_def=network) == ""
    network["_target_"] = "overtile.networks.ValidUNet"
    assert "network_def#features: 3" in said_of("touching_cells", "inference", network_def=network)


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("overtile.networks.ValidUnet", "did you mean overtile.networks.ValidUNet?"),
        ("overtile.pipelines.loading.ReadImaged", "an earlier version wrote this configuration"),
    ],
)
def test_a_name_that_this_version_has_not_is_refused(target: str, hint: str) -> None:
    said = said_of("touching_cells", "inference", **{"network_def#_target_": target})
    assert said.startswith(f"network_def#_target_: {target} is not in this version of Overtile")
    assert hint in said
    said = said_of("touching_cells", "inference", imports=["$from overtile.pipelines import gone"])
    assert said.startswith("imports#0: overtile.pipelines.gone is not in this version")


def test_the_reference_page_is_built_from_the_schema() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    bundles = [ROOT / "bundles" / bundle for bundle in BUNDLES]
    assert page == page_with_tables(page, bundles), "make reference"
    assert sorted(BUNDLES) == sorted(p.parent.name for p in ROOT.glob("bundles/*/configs"))
    for name, key in KEYS.items():
        for config, (meaning, _) in key.told.items():
            described = f"| `{name}` | {meaning} |" in page
            assert described or not meaning, f"{name} of {config}"


def test_every_key_is_described() -> None:
    own = {"imports", "initialize", "handlers", "run"}  # MONAI's; the page has a sentence on them
    for name, key in KEYS.items():
        for config, (meaning, change) in key.told.items():
            described = bool(meaning and change)
            assert described != (name in own or "#" in name), f"{name} of {config}"


def test_labels_are_what_reading_knows() -> None:
    assert get_args(KEYS["labels"].type) == LABEL_KINDS
    assert get_args(KEYS["unlabelled"].type) == UNLABELLED


def test_what_decides_over_a_segmentation_is_what_changes_it() -> None:
    config = parser_of("touching_cells", "inference").get()
    deciding = {name for name in config if decides(name) and name != "_meta_"}
    assert deciding == {
        *("spatial_dims", "channels", "in_channels", "channel_names", "normalize", "spacing"),
        *("threshold", "extent", "grow", "min_size", "max_hole", "growth", "line", "versions"),
        *("roi_size", "padding_mode", "precision"),
        *("compile", "network_def", "network", "settings", "preprocessing", "inferer"),
        "postprocessing",
    }
    assert decides("a key of somebody's own")


NOTHING_RUNS = (
    *(
        "$len([1])",
        "@network",
        "%network",
        "@loss",
        "@evaluator",
        "@seed",
        "$import torch",
        "$print()",
    ),
    *("$(lambda: 1)()", "$lambda: run_training()", "$@network.to('cpu')", "$find_data('.')"),
    *({"_target_": "builtins.dict"}, [{"_target_": "builtins.dict"}], {"_target_": "Compose"}),
    *({"_target_": "monai.utils.set_determinism"}, {"_target_": "$len"}, [], ["@seed"], "@part"),
)
SOMETHING_RUNS = (
    *("$@train#trainer.run()", "$run_training(@train#trainer)", "$mine(@network)", ["@training"]),
    *({"_target_": "$@train#trainer.run"}, {"_target_": "mine.train"}, ["$print()", "$mine()"]),
    {"_target_": "overtile.pipelines.run_inference"},
)


def test_what_is_run_has_to_lead_to_a_run() -> None:
    parser = parser_of("touching_cells", "train")
    parser.parse()
    for part in NOTHING_RUNS:
        assert not runs(parser, part), part
    for part in SOMETHING_RUNS:
        assert runs(parser, part), part


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("network_def#featurs", [4], "[4]: overtile.networks.ValidUNet has no argument of this na"),
        ("network_def#dropuot", 0.2, "did you mean network_def#dropout?"),
        ("train#augmentation#0#margn", 2, "did you mean train#augmentation#0#margin?"),
        ("tracker#zzz", 2, "has no argument of this name; leave it out"),
        ("optimizer#_target_", "torch.optim.Adamm", "is not there; expected the Python path of"),
        ("optimizer#_target_", "torch.optim.Adamm", "did you mean torch.optim.Adam"),
        ("loss#loss#_target_", "DiceLos", "did you mean DiceLoss?"),
        (
            "train#sampler",
            {"_target_": "overtile.pipelines.EpochSampler"},
            "nothing; expected what overtile.",
        ),
    ],
)
def test_arguments_of_a_part_are_bound_before_it_is_built(
    place: str, value: Any, said: str
) -> None:
    found = said_of("touching_cells", "train", **{place: value})
    assert found.startswith(place), found
    assert said in found


# --- what was typed ----------------------------------------------------------------------------


def test_what_was_typed_is_read_as_fire_reads_it() -> None:
    words = ["run", "training", "--a", "1", "--b=x=y", "-c", "--d-e", "-3", "--config_file", "f"]
    assert typed([*words, "--a", "2", "--f"]) == {
        **{"a": "2", "b": "x=y", "c": None, "d_e": "-3", "f": None},
    }
    assert without_quotes("'2024'") == "2024"
    assert without_quotes("2024_11") == "2024_11"
    assert without_quotes("[a]") == "[a]"


MEND = (
    # configuration, options, what the one line says
    ("training", ("--max_epochs", "one"), "max_epochs: 'one'; expected a whole number from 1"),
    (
        "training",
        ("--tile", "[60]"),
        "tile: [60]; expected a whole number from 1 to 8192 or one for each axis, in pixels",
    ),
    ("training", ("--w0", "nan"), "w0: 'nan'; expected a number from 0"),
    ("training", ("--labels", ""), "labels: ''; expected instances, mask, membranes or classes"),
    ("training", ("--training", "null"), "training: 'null'; expected an object with _target_"),
    ("training", ("--training", "None"), "training: None; expected an object with _target_"),
    ("training", ("--training", "$None"), "training: '$None'; expected an object with _target_"),
    ("training", ("--training", "$@data"), "training: '$@data'; expected an object with _target_"),
    ("training", ("--training", "@seed"), "training: '@seed'; expected a call of run_training"),
    ("training", ("--training", "$len([1])"), "training: '$len([1])'; expected a call of run_trai"),
    ("training", ("--network", "$3"), "network: '$3'; expected an object with _target_"),
    ("training", ("--training#_disabled_", "True"), "training#_disabled_: True; expected False"),
    ("training", ("--training#_mode_", "callable"), "training#_mode_: 'callable', which does not"),
    ("training", ("--train#trainer#_disabled_", "true"), "train#trainer#_disabled_: 'true'; exp"),
    ("training", ("--network_def#_disabled_", "True"), "network_def#_disabled_: True; expected"),
    ("training", ("--initialize", "null"), "initialize: 'null'; expected an object with _target_"),
    ("training", ("--initialize", "$None"), "initialize: '$None'; expected an object with _targ"),
    ("training", ("--initialize", "[]"), "initialize: []; expected an object with _target_"),
    ("training", ("--initialize", "None"), "initialize: None; expected an object with _target_"),
    ("training", ("--initialize#0", "null"), "initialize: ['null', "),
    ("training", ("--initialize#1", "$lost()"), "$lost(): name 'lost' is not defined"),
    ("training", ("--initialize", "null", "--training", "$None"), "initialize: 'null'; expected"),
    ("training", ("--seed", "$import"), "configuration: $import: invalid syntax"),
    ("training", ("--network", "$@network_def.to("), "network: '$@network_def.to(': '(' was"),
    ("training", ("--imports", "null"), "imports: 'null'; expected a list of objects"),
    ("training", ("--layout", "pears"), "layout: 'pears'; expected auto or pairs for generated"),
    ("training", ("--network_def#features", "None"), "network_def#features: None; expected a list"),
    ("training", ("--scale", "1.5,0.5"), "scale: (1.5, 0.5); expected two numbers from 0.01"),
    ("training", ("--output_dir", "a#b"), "output_dir: 'a#b'; expected a path"),
    (
        "training",
        ("--layout", "pears", "--dataset_dir", "."),
        "layout: 'pears'; expected auto, ",
    ),
    ("training", ("--dataset_dir",), "dataset_dir: no value; expected a path"),
    ("training", ("--batch_size",), "batch_size: no value; expected a whole number from 1 to"),
    ("training", ("--initialize", "$print(1)", "--seed", "one"), "initialize: '$print(1)'; exp"),
    ("evaluation", ("--layout", "Pairs", "--dataset_dir", "."), "give --layout pairs"),
    ("inference", ("--save_probabilities", "false"), "give --save_probabilities False"),
    ("inference", ("--fold", "1"), "fold: 1: nothing uses a key of this name"),
    ("inference", ("--dataset_dir", "2024_11_17"), "2024_11_17: no such file or folder"),
    ("inference", ("--dataset_dir", "1e3"), "1e3: no such file or folder"),
    ("inference", ("--dataset_dir", "a,b"), "a,b: no such file or folder"),
    ("inference", ("--dataset_dir='2024'",), "2024: no such file or folder"),
    ("evaluation", ("--versions", "9"), "versions: 9; expected a whole number from 1 to 8"),
    ("evaluation", ("--folds", "None"), "folds: None; expected a whole number from 2"),
    ("evaluation", ("--split", "tset"), "give --split test"),
)


@pytest.mark.parametrize(("run", "options", "said"), MEND)
def test_monais_command_ends_with_one_line_and_makes_nothing(
    bundle: Any, run: str, options: tuple[str, ...], said: str
) -> None:
    done = bundle.run("touching_cells", run, "--output_dir", "out", *options)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "overtile: error:" in text]
    assert said in line
    assert list(bundle.folder.iterdir()) == []


@pytest.mark.parametrize("where", ["second file", "only file"])
def test_a_wrong_key_in_a_file_costs_one_line(bundle: Any, tmp_path: Path, where: str) -> None:
    config = ROOT / "bundles" / "touching_cells" / "configs" / "inference.json"
    wrong = {"grow": "much"} if where == "second file" else json.loads(config.read_text())
    own = tmp_path / "own.json"
    own.write_text(json.dumps({**wrong, "grow": "much"}))
    files = f"['{config}','{own}']" if where == "second file" else own
    done = bundle.run("touching_cells", "inference", "--config_file", files, "--output_dir", "out")
    assert done.returncode == 2, done.stderr
    assert (
        "overtile: error: grow: 'much'; expected a number from 0 to 10000, in pixels" in done.stderr
    )
    assert list(tmp_path.iterdir()) == [own]


SGD = "$torch.optim.SGD(@network.parameters())"


@pytest.mark.parametrize(
    ("own", "options", "said"),
    [
        ({"optimizer": SGD}, ("--weight_decay", "0.1"), "weight_decay: 0.1"),
        ({"optimizer": SGD, "weight_decay": 0.1}, (), "weight_decay: 0.1"),
        ({"training": "$tell(@optimizer)"}, ("--warmup_steps", "3"), "warmup_steps: 3"),
    ],
)
def test_a_setting_that_a_second_file_leaves_without_use_is_refused(
    bundle: Any, tmp_path: Path, own: dict[str, Any], options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "own.json").write_text(json.dumps(own))
    first = ROOT / "bundles" / "touching_cells" / "configs" / "train.json"
    files = ("--config_file", f"['{first}','{tmp_path}/own.json']")
    done = bundle.run("touching_cells", "training", *files, *options)
    assert done.returncode == 2, done.stderr
    assert f"overtile: error: {said}: nothing uses a key of this name" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["own.json"]


def test_none_is_none_and_a_folder_is_what_was_typed(bundle: Any, tmp_path: Path) -> None:
    config = json.loads(
        (ROOT / "bundles" / "touching_cells" / "configs" / "inference.json").read_text()
    )
    told = {**config, "channels": 2, "inference": "$tell((@dataset_dir, @channels))"}
    told["imports"] = [*config["imports"], "$from pprint import pprint as tell"]
    (tmp_path / "own.json").write_text(json.dumps(told))
    done = bundle.run(
        *("touching_cells", "inference", "--config_file", tmp_path / "own.json"),
        *("--dataset_dir", "2024_11_17", "--channels", "None"),
    )
    assert done.returncode == 0, done.stderr
    assert "('2024_11_17', None)" in done.stdout


OLD = {
    "imports": [
        "$import torch",
        "$from overtile.pipelines.config import check_keys",
        "$from overtile.pipelines.errors import one_line_errors",
    ],
    "dataset": {"_target_": "overtile.pipelines.data.find_data"},
    "initialize": ["$one_line_errors()", "$check_keys()"],
    "inference": {"_target_": "overtile.pipelines.segmentation.run_inference", "data": "@dataset"},
    "run": "%inference",
}


def test_a_bundle_of_an_earlier_layout_is_refused_in_one_line(bundle: Any, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    (folder / "configs").mkdir(parents=True)
    file = folder / "configs" / "inference.json"
    half = {**OLD, "imports": ["$from overtile.pipelines import one_line_errors"]}
    half["initialize"] = ["$one_line_errors()"]
    for config in (OLD, half):
        file.write_text(json.dumps(config))
        done = bundle.run(
            *("touching_cells", "inference", "--bundle_root", folder, "--config_file", file)
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [text for text in done.stderr.splitlines() if "overtile: error:" in text]
        assert "overtile.pipelines" in line
        assert "train again" in line or "Cannot locate" in line
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), np.uint8))
    file.write_text(json.dumps(OLD))
    done = bundle.overtile("segment", tmp_path / "a.tif", tmp_path / "b.tif", "--bundle", folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "overtile.pipelines.config.check_keys is not in this version of Overtile" in line


def test_a_run_of_an_earlier_layout_is_refused_in_one_line(bundle: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "configs").mkdir(parents=True)
    (run / "models").mkdir()
    for name in ("train", "inference", "evaluation", "metadata"):
        config = {**OLD, "evaluation": OLD["inference"], "training": OLD["inference"]}
        (run / "configs" / f"{name}.json").write_text(json.dumps(config))
    for name in ("model.pt", "last.pt"):
        torch.save({}, run / "models" / name)
    before = sorted(tmp_path.rglob("*"))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), np.uint8))
    done = [bundle.run("touching_cells", "training", "--output_dir", run, "--resume", "True")]
    for name in ("training", "inference", "evaluation"):
        config = run / "configs" / f"{name.replace('training', 'train')}.json"
        own = ("--bundle_root", run, "--config_file", config, "--dataset_dir", tmp_path)
        done.append(bundle.run("touching_cells", name, *own))
    done.append(bundle.overtile("segment", tmp_path / "a.tif", tmp_path / "b.tif", "--bundle", run))
    for one in done:
        assert one.returncode == 2, one.stderr
        assert "Traceback" not in one.stderr
        (line,) = [text for text in one.stderr.splitlines() if "overtile: error:" in text]
        assert "this version of Overtile" in line
        assert "train again with this one" in line
    with pytest.raises(ConfigurationError, match="not in this version of Overtile"):
        copied(run, tmp_path / "models of a server")
    (tmp_path / "a.tif").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_asking_for_a_module_that_is_not_there_is_no_error_of_ours() -> None:
    assert importlib.util.find_spec("overtile.pipelines.nothing") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("overtile.pipelines.nothing")
