"""What the configuration of a bundle resolves to, and checks across its parts."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer

from overtile.networks import (
    MixedPrecisionInferer,
    OverlapTileInferer,
    RotationAveragingInferer,
    TileGeometry,
    geometry_of,
)
from overtile.pipelines.errors import ConfigurationError


def current_parser() -> ConfigParser | None:
    """The parser that is evaluating the calling expression.

    MONAI hands a configuration's expressions everything but the configuration itself, so it
    is looked up on the call stack. None outside of a bundle.
    """
    frame = inspect.currentframe()
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, ConfigParser):
            return candidate
        frame = frame.f_back
    return None


_UNUSED = {"bundle_root", "displayable_configs", "device"}  # MONAI and its servers ask for these


_WORDS = {"true": "True", "false": "False", "null": "None"}


def check_keys(parser: ConfigParser | None = None) -> None:
    """Refuse a setting that nothing in the configuration uses, which is probably misspelt.

    MONAI takes any ``--key value`` for a new entry of the configuration, without a word, and
    ``false`` for a text, which counts as true.

    Args:
        parser: of the configuration; default: the one that evaluates this call.

    Raises:
        ConfigurationError: naming the key, and the one, or the value, that was probably meant.
    """
    parser = current_parser() if parser is None else parser
    if parser is None:
        return
    config = {k: v for k, v in parser.get().items() if k != parser.meta_key}
    names = list(config)
    added = names[names.index("run") + 1 :] if "run" in config else names  # a bundle ends with run
    used = set(re.findall(r"[@%](\w+)", json.dumps(config, default=str)))
    for key, value in config.items():
        if str(value).lower() in _WORDS and isinstance(value, str):
            raise ConfigurationError(f"--{key} {value}: a text; expected {_WORDS[value.lower()]}")
        plain = value is None or isinstance(value, (bool, int, float, str))
        if not plain or key in used | _UNUSED or key not in added:
            continue
        near = difflib.get_close_matches(key, config.keys() - {key}, n=1)
        meant = f"did you mean --{near[0]}?" if near else "leave it out"
        raise ConfigurationError(f"--{key} {value}: nothing uses a key of this name; {meant}")


def resolved_values(parser: ConfigParser) -> dict[str, str]:
    """Every leaf of the configuration: numbers and texts as they came out, else the expression.

    Keys are paths with ``/``, as in ``train/trainer/max_epochs``.
    """
    resolved = parser.ref_resolver.resolved_content
    values = {}
    for path, leaf in _leaves({k: v for k, v in parser.get().items() if k != parser.meta_key}):
        # what a leaf refers to was resolved under its own id, the leaf itself perhaps not
        ids = ["::".join(path)]
        if isinstance(leaf, str) and leaf.startswith("@"):
            ids.append(leaf[1:])
        found = [resolved[i] for i in ids if i in resolved and _plain(resolved[i])]
        values["/".join(path)] = str(found[0] if found else leaf)
    return values


def _leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(config, list) and any(isinstance(v, (dict, list, str)) for v in config):
        for index, value in enumerate(config):
            yield from _leaves(value, (*path, str(index)))
    else:
        yield path, config


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str, torch.device))


def as_json(parser: ConfigParser) -> str:
    """The merged configuration, with all overrides, as it can be run again."""
    return json.dumps(parser.get(), indent=2, default=str)


def check_tile(tile: int, geometry: TileGeometry, spatial_dims: int = 2) -> int:
    """The tile size, if the network takes it; for use in a configuration.

    Raises:
        GeometryError: naming the nearest valid sizes.
    """
    geometry.check((int(tile),) * spatial_dims, "tile")
    return int(tile)


def check_inferer(inferer: Any, network: Any) -> None:
    """Refuse a valid-convolution network under MONAI's stock sliding window.

    That pair runs without an error and returns an image of a wrong size: the sliding window
    takes the smaller output for a zoomed one and stretches its importance map accordingly.

    Raises:
        ConfigurationError: naming both and what to use instead.
    """
    while isinstance(inferer, (MixedPrecisionInferer, RotationAveragingInferer)):
        inferer = inferer.inferer
    has_geometry = isinstance(getattr(network, "geometry", None), TileGeometry)
    if has_geometry and isinstance(inferer, SlidingWindowInferer):
        raise ConfigurationError(
            f"inferer {type(inferer).__name__} with {type(network).__name__}: a sliding window "
            "misreads the smaller output of a valid network; set its _target_ to "
            "overtile.networks.OverlapTileInferer"
        )
    if isinstance(inferer, OverlapTileInferer) and inferer.geometry is None:
        geometry_of(network)
