"""What every network of this package has, and what is asked of any other."""

from __future__ import annotations

from typing import Any

from overtile.networks.geometry import GeometryError, TileGeometry


def geometry_of(network: Any) -> TileGeometry:
    """The geometry that a network owns, also behind the wrappers of DataParallel and compile.

    Raises:
        GeometryError: if it has none; the message says how to give one.
    """
    for candidate in (
        network,
        getattr(network, "module", None),
        getattr(network, "_orig_mod", None),
    ):
        geometry = getattr(candidate, "geometry", None)
        if isinstance(geometry, TileGeometry):
            return geometry
    name = type(network).__name__
    raise GeometryError(
        f"{name} has no geometry, so exact tiles cannot be planned: use a network of "
        "overtile.networks, or pass OverlapTileInferer(geometry=TileGeometry.padded(radius=R, "
        "multiple=M)), R the radius of its receptive field, M = 2^(number of poolings)"
    )
