"""What the configuration of a bundle resolves to, and checks across its parts."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex, TypeVar

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.inferers import SlidingWindowInferer

from overtile.networks import (
    MixedPrecisionInferer,
    OverlapTileInferer,
    RotationAveragingInferer,
    SpacingInferer,
    TileGeometry,
    geometry_of,
)
from overtile.pipelines.errors import ConfigurationError, Setting, size_text

T = TypeVar("T")
_VOLUME = 160  # voxels a side of a training tile; patches of 128 are large ones in the field


def current_parser() -> ConfigParser | None:
    """The parser that is evaluating the calling expression.

    MONAI hands a configuration's expressions everything but the configuration itself, so it
    is looked up on the call stack. None outside of a bundle.
    """
    return _calling(ConfigParser)


def current_run_id() -> str | None:
    """What MONAI's command is to run; None outside of it."""
    workflow = _calling(ConfigWorkflow)
    return None if workflow is None else str(workflow.run_id)


def _calling(kind: type[T]) -> T | None:
    frame = inspect.currentframe()
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, kind):
            return candidate
        frame = frame.f_back
    return None


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


def check_tile(
    tile: int | Sequence[int], geometry: TileGeometry, spatial_dims: int = 2
) -> tuple[int, ...]:
    """The tile size, if the network takes it and a training can be meant; for a configuration.

    Args:
        tile: one side for all axes, or one an axis.
        geometry: of the network.
        spatial_dims: 2 or 3.

    Returns:
        One side an axis.

    Raises:
        GeometryError: naming the nearest valid sizes.
        ConfigurationError: for another number of sides, and for volumes of more voxels than a large
            image has pixels: a tile for images, as bundles have it, taken for volumes.
    """
    sides = (tile,) * spatial_dims if isinstance(tile, SupportsIndex) else tuple(tile)
    if len(sides) != spatial_dims:
        expected = f"one number, or {spatial_dims}, one an axis"
        raise ConfigurationError("tile", f"{len(sides)} numbers", expected)
    sides = tuple(map(int, sides))
    geometry.check(sides, "tile")
    largest, smallest = (geometry.nearest((side,) * spatial_dims)[0] for side in (_VOLUME, 0))
    if spatial_dims == 3 and math.prod(sides) > math.prod(largest):
        begin, most = (
            sizes[0] if len(set(sizes)) == 1 else list(sizes) for sizes in (smallest, largest)
        )
        raise ConfigurationError(
            f"tile {tile}",
            f"{size_text(sides)} are {math.prod(sides) / 1e6:.0f} million voxels, hours for each "
            "epoch",
            f"at most {most} in 3D",
            Setting("tile", begin, "to begin with"),
        )
    return sides


def check_inferer(inferer: Any, network: Any) -> None:
    """Refuse a valid-convolution network under MONAI's stock sliding window.

    That pair runs without an error and returns an image of a wrong size: the sliding window
    takes the smaller output for a zoomed one and stretches its importance map accordingly.

    Raises:
        ConfigurationError: naming both and what to use instead.
    """
    around = (SpacingInferer, MixedPrecisionInferer, RotationAveragingInferer)
    while isinstance(inferer, around):
        inferer = inferer.inferer
    has_geometry = isinstance(getattr(network, "geometry", None), TileGeometry)
    if has_geometry and isinstance(inferer, SlidingWindowInferer):
        raise ConfigurationError(
            "inferer",
            f"{type(inferer).__name__} with {type(network).__name__}: a sliding window misreads "
            "the smaller output of a valid network",
            hint="set its _target_ to overtile.networks.OverlapTileInferer",
        )
    if isinstance(inferer, OverlapTileInferer) and inferer.geometry is None:
        geometry_of(network)
