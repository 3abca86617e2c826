"""One check of all that a configuration says, before anything of it is built."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from overtile.pipelines.bundle.configuration import current_parser, current_run_id
from overtile.pipelines.bundle.overrides import (
    given,
    in_monais_command,
    is_none,
    typed,
    without_quotes,
)
from overtile.pipelines.bundle.parts import RUN, check_kind, check_targets, runs
from overtile.pipelines.bundle.schema import KEYS, Key
from overtile.pipelines.bundle.values import (
    LITERALS,
    PART,
    SECTION,
    allowed,
    is_expression,
    meant,
    refuses,
    shown,
    takes_text,
)
from overtile.pipelines.errors import ConfigurationError, Setting, users_mistake

_OF_EVERY_BUNDLE = {"bundle_root", "device"}  # MONAI and its servers give them, used or not
_RUNS = [name for name, key in KEYS.items() if key.type is PART and name != "initialize"]
_SECTIONS = {name.partition("#")[0] for name, key in KEYS.items() if key.part and "#" in name}
_SECTIONS &= {name for name, key in KEYS.items() if key.type is SECTION}


def check_configuration(parser: ConfigParser | None = None) -> None:
    """Refuse what the configuration cannot mean, before anything of it is built.

    That is a value that is not what `overtile.pipelines.bundle.schema` allows, a key that nothing
    uses, which is probably misspelt, and a name that this version of Overtile has not got. MONAI
    itself takes any ``--key value`` for a new entry, and ``false`` for a text, that is, for true.

    What was typed behind MONAI's command is taken as it was typed: a folder called ``2024_11_17``
    is no number, and ``None`` is none.

    Args:
        parser: of the configuration; default: the one that evaluates this call.

    Raises:
        ConfigurationError: naming the key, its value, what is allowed, and what was probably meant.
    """
    parser = current_parser() if parser is None else parser
    if parser is None:
        return
    by_user: set[str] = set()
    if in_monais_command():
        _take_as_typed(parser, sys.argv[1:])
        by_user = given(sys.argv[1:])
    if not parser.ref_resolver.items:
        _parse(parser)
    config = {name: value for name, value in parser.get().items() if name != parser.meta_key}
    present = _present(config)
    values = {name: value for name, value in present.items() if not is_expression(value)}
    for name, value in present.items():
        if name in values or KEYS[name].part:
            check_value(KEYS[name], value)
    _check_switches(present)
    check_targets(config)
    _check_labels(config)
    _check_run(parser, config)
    for name, value in present.items():
        check_kind(parser, KEYS[name], value)
    _check_names(parser, config, by_user)
    for name in present:
        if name not in values and not KEYS[name].part and not _is_of_data(parser, name):
            values[name] = _evaluated(parser, KEYS[name])
            check_value(KEYS[name], values[name])
    _check_together(values)


def check_value(key: Key, value: Any) -> None:
    """Refuse a value that a key does not allow.

    Raises:
        ConfigurationError: naming the key, the value, what is allowed, and what was probably meant.
    """
    if not refuses(key.type, value):
        return
    found, hint = shown(value), tuple(Setting(key.name, guess) for guess in meant(key.type, value))
    if takes_text(key.type) and not isinstance(value, str):
        if value is True:
            found = "no value"
        elif value is not None and not hint:
            raise ConfigurationError(key.name, found, allowed(key.type), "put it in quotes")
    elif value is True and in_monais_command() and typed(sys.argv[1:]).get(key.name, "") is None:
        found, hint = "no value", ()
    unit = f", in {key.unit}" if key.unit else ""
    raise ConfigurationError(key.name, found, allowed(key.type) + unit, hint)


def _take_as_typed(parser: ConfigParser, words: list[str]) -> None:
    """Put what was typed in the place of what Fire and MONAI made of it."""
    for name, text in typed(words).items():
        key = KEYS.get(name.replace("::", "#"))
        value: str | None
        if is_none(text):
            value = None
        elif text is not None and key is not None and takes_text(key.type):
            value = without_quotes(text)
            if not is_expression(value):
                check_value(key, value)  # MONAI takes a # out of it
        else:
            continue
        if parser.get(name, ...) != value:
            try:
                parser[name] = value
            except (KeyError, IndexError, TypeError, ValueError):
                raise ConfigurationError(
                    name,
                    "no such place in the configuration",
                    "a key of it, or a place in one, as KEY::PART",
                ) from None


def _parse(parser: ConfigParser) -> None:
    """Let MONAI put in what macros (``%name``) and relative names (``@#name``) stand for."""
    try:
        parser.parse()
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise ConfigurationError(
            "configuration",
            f"a % or @ leads nowhere ({error})",
            "the name of a key, or of a place in one, as %KEY::PART",
        ) from error


def _present(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration says of the keys of the schema."""
    found = {}
    network = config.get("network_def")
    target = network.get("_target_") if isinstance(network, Mapping) else None
    ours = str(target).startswith("overtile.networks.")
    for name in KEYS:
        if name.startswith("network_def#") and not ours:
            continue  # another network's arguments mean what they mean there
        value: Any = config
        for step in name.split("#"):
            value = value.get(step, ...) if isinstance(value, Mapping) else ...
        if value is not ...:
            found[name] = value
    return found


def _evaluated(parser: ConfigParser, key: Key) -> Any:
    """The value of a setting that is an expression."""
    try:
        value = parser.get_parsed_content(key.name)
    except Exception as error:
        if mistake := users_mistake(error):
            raise mistake.within(key.name) from error
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise ConfigurationError(
            key.name,
            f"{shown(parser[key.name])} cannot be evaluated ({type(cause).__name__}: {cause})",
            allowed(key.type),
        ) from error
    return value.item() if isinstance(value, np.generic) else value


def _is_of_data(parser: ConfigParser, name: str) -> bool:
    """Whether a value follows from the images, which are looked at later."""
    todo, seen = [name.replace("#", "::")], set[str]()
    while todo:
        place = todo.pop()
        if place not in seen and place in parser:
            seen.add(place)
            todo += ReferenceResolver.find_refs_in_config(parser[place], place)
    return "data" in seen


def _check_together(values: Mapping[str, Any]) -> None:
    """Values that limit each other."""
    extent, threshold = values.get("extent"), values.get("threshold")
    if extent is not None and threshold is not None and extent > threshold:
        limit = f"a number from 0 to threshold, which is {threshold}"
        raise ConfigurationError("extent", shown(extent), limit)
    fold, folds = values.get("fold"), values.get("folds")
    if fold is not None and folds is not None and fold >= folds:
        raise ConfigurationError("fold", shown(fold), f"0 to {folds - 1}, one of {folds} folds")
    count, names = values.get("num_classes"), values.get("class_names")
    if count is not None and names is not None and len(names) != count:
        expected = f"{count} names, as num_classes is"
        raise ConfigurationError("class_names", shown(names), expected)
    for name, value in values.items():
        part, _, setting = name.partition("#")
        setting = "num_classes" if setting == "out_channels" else setting
        wanted = values.get(setting, value)  # what is said twice is said alike
        if part in ("network_def", "settings") and value != wanted:
            hint = Setting(setting, value), "leave it out"
            raise ConfigurationError(name, shown(value), f"{wanted}, as {setting} is", hint)
    if values.get("resume"):
        _check_begun(Path(values.get("output_dir", "")) / "configs" / "train.json")


_OF_CELLS = ("ForegroundFromInstances", "InstancesFromProbabilities", "SeparateTouching")
_OF_CLASSES = ("ClassesFromProbabilities", "ClassWeightMap")


def _check_labels(config: Mapping[str, Any]) -> None:
    """A bundle is made for cells or for classes, and takes no labels of the other kind."""
    labels = config.get("labels")
    if not isinstance(labels, str) or is_expression(labels):
        return
    others = _OF_CELLS if labels == "classes" else _OF_CLASSES
    for target in _targets(config):
        name = target.rpartition(".")[2]
        if target.startswith("overtile.") and name.startswith(others):
            kind, expected, bundles = (
                ("cells", "instances, mask or membranes", "organs")
                if labels == "classes"
                else ("classes", "classes", "touching_cells or em_membranes")
            )
            raise ConfigurationError(
                "labels",
                f"{labels!r}, but {name} is for {kind}",
                expected,
                f"take the bundle {bundles}",
            )


def _targets(config: Any) -> Iterator[str]:
    """Every ``_target_`` in a configuration."""
    if isinstance(config, dict):
        if isinstance(target := config.get("_target_"), str):
            yield target
        config = config.values()
    if not isinstance(config, str) and isinstance(config, Iterable):
        for part in config:
            yield from _targets(part)


def _check_begun(file: Path) -> None:
    """The configuration of a run to go on with: an earlier version may have begun it."""
    if not file.is_file():
        return
    try:
        check_targets(ConfigParser.load_config_file(file))
    except ConfigurationError as error:
        raise error.within(str(file)) from None
    except ValueError as error:
        raise ConfigurationError(file, f"no JSON ({error})", hint="train again") from error


def _check_switches(present: Mapping[str, Any]) -> None:
    """MONAI's switch that leaves a part out: what is in the schema is needed by the rest."""
    for name, value in present.items():
        if isinstance(value, dict) and value.get("_disabled_", False) is not False:
            place, found = f"{name}#_disabled_", shown(value["_disabled_"])
            raise ConfigurationError(place, found, "False", "the rest needs this part")


def _check_run(parser: ConfigParser, config: Mapping[str, Any]) -> None:
    """What MONAI is to run has to do something; it calls a part that does nothing a success."""
    run = current_run_id()
    if run is None or run not in config:
        return
    part = config[run]
    if refuses(PART, part) if run not in KEYS else not runs(parser, part):
        if run in _RUNS:
            raise ConfigurationError(run, shown(part), RUN)
        others = [name for name in _RUNS if name in config and name != "run"]
        expected = " or ".join(others) or allowed(PART)
        raise ConfigurationError("run", f"{run} is nothing that runs", expected)
    if isinstance(part, dict) and part.get("_mode_") == "callable":
        raise ConfigurationError(f"{run}#_mode_", "'callable', which does not run it", "default")


def _check_names(parser: ConfigParser, config: Mapping[str, Any], by_user: set[str]) -> None:
    """Entries that the user added or changed, and that nothing uses."""
    names = list(config)
    added = names[names.index("run") + 1 :] if "run" in config else names  # a bundle ends with run
    used = _used(parser, config)
    for name, value in config.items():
        if name not in added and name not in by_user:
            continue
        if name not in KEYS and isinstance(value, str) and value.lower() in LITERALS:
            meant = LITERALS[value.lower()]
            raise ConfigurationError(name, f"{value!r}, a text", str(meant), Setting(name, meant))
        if not isinstance(value, dict) and name not in used | _OF_EVERY_BUNDLE:
            raise _unknown(name, value, names)
    for section in _SECTIONS:
        parts = config.get(section)
        if isinstance(parts, dict) and "_target_" not in parts:
            for name, value in parts.items():
                known = f"{section}#{name}" in KEYS or f"{section}::{name}" in used
                if not known and not isinstance(value, dict):
                    raise _unknown(name, value, list(parts), f"{section}#")


def _used(parser: ConfigParser, config: Mapping[str, Any]) -> set[str]:
    """Ids of all that is looked at when the configuration runs, and the keys they stand under."""
    runs = [str(current_run_id()), "imports", "initialize", "finalize", *_RUNS]
    todo = [name for name in runs if name in config]
    if not {*_RUNS} & {*todo}:  # for servers, which take single parts
        todo = [name for name, v in config.items() if isinstance(v, (dict, list, str))]
    used: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in used and name in parser:
            used.add(name)
            todo += ReferenceResolver.find_refs_in_config(parser[name], name)
    return used | {name.partition("::")[0] for name in used}


def _unknown(name: str, value: Any, known: list[str], part: str = "") -> ConfigurationError:
    others = {} if name in KEYS else {n.lower(): n for n in known if n != name}
    near = [others[n] for n in difflib.get_close_matches(name.lower(), others, n=1)]
    return ConfigurationError(
        f"{part}{name}",
        f"{shown(value)}: nothing uses a key of this name",
        hint=Setting(part + near[0], value) if near else "leave it out",
    )
