"""The tile that segments an image in the least time within the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from overtile.networks.errors import GeometryError
from overtile.networks.geometry import TileGeometry
from overtile.networks.inferers.cost import PassCost
from overtile.networks.inferers.tiling import plan_tiles

# Operations in whose time a byte of a large block is fetched from memory and paged in. Measured
# with 16 to 256 features in bfloat16 on Zen 4: rates at 828 to 2236 pixels fit with 50 to 80.
_OPERATIONS_A_BYTE = 64


def choose_tile(
    cost: Callable[[tuple[int, ...]], PassCost],
    image: Sequence[int],
    geometry: TileGeometry,
    memory_limit: int,
    device: str = "cpu",
) -> tuple[int, ...]:
    """The tile that segments an image in the least time within ``memory_limit`` bytes.

    Small tiles compute much context in vain. Large ones have maps that fit into no cache. So the
    time of a plan is the sum over its tiles of their operations, and on a CPU of 64 more for each
    byte in blocks of 32 MiB and above. Tried are the largest tile that the memory allows, and
    each time one by an eighth smaller.

    Args:
        cost: memory and work of a pass, for a tile's spatial size.
        image: spatial size of the image.
        geometry: of the network.
        memory_limit: in bytes, for the activations of one pass.
        device: kind of device that the network runs on.

    Raises:
        GeometryError: if even the smallest aligned tile needs more.
    """
    whole = geometry.input_size(image)
    steps = _most_steps(lambda size: cost(size).peak, whole, geometry, memory_limit)
    a_byte = _OPERATIONS_A_BYTE if device == "cpu" else 0
    plans: list[tuple[float, tuple[int, ...]]] = []
    while True:
        tiling = plan_tiles(image, geometry, _square(steps, whole, geometry))
        found = cost(tiling.size)
        plans.append((len(tiling) * (found.operations + a_byte * found.large), tiling.size))
        if steps == 0 or found.large * a_byte == 0:  # smaller tiles can only have more context
            break
        steps = steps * 7 // 8
    # of those about as good the largest: fewer passes, in which threads wait for each other
    least = min(work for work, _ in plans)
    return next(size for work, size in plans if work <= 1.05 * least)


def largest_tile(
    peak: Callable[[tuple[int, ...]], int],
    image: Sequence[int],
    geometry: TileGeometry,
    memory_limit: int,
) -> tuple[int, ...]:
    """The largest tile of use to an image; its output grows by alignments, as many on each axis.

    Args:
        peak: bytes that a pass takes, for a tile's spatial size.
        image: spatial size of the image; no axis gets larger than one pass over it needs.
        geometry: of the network.
        memory_limit: in bytes.

    Raises:
        GeometryError: if even the smallest aligned tile needs more.
    """
    whole = geometry.input_size(image)
    return _square(_most_steps(peak, whole, geometry, memory_limit), whole, geometry)


def _square(steps: int, whole: Sequence[int], geometry: TileGeometry) -> tuple[int, ...]:
    """A tile as square as ``whole`` allows; its output has (steps + 1) alignments."""
    axes = [geometry.axis(i) for i in range(len(whole))]
    sizes = geometry.input_size([m * (steps + 1) for _, m, _ in axes])
    return tuple(min(size, n) for size, n in zip(sizes, whole, strict=True))


def _most_steps(
    predict: Callable[[tuple[int, ...]], int],
    whole: Sequence[int],
    geometry: TileGeometry,
    memory_limit: int,
) -> int:
    """Steps of the largest `_square` that stays within ``memory_limit`` bytes."""

    def needs(steps: int) -> int:
        return predict(_square(steps, whole, geometry))

    if needs(0) > memory_limit:
        raise GeometryError(
            f"memory_limit of {memory_limit} bytes",
            f"at least {needs(0)}, which the smallest tile, {_square(0, whole, geometry)}, needs",
        )
    low = 0
    high = max(n // geometry.axis(i)[1] for i, n in enumerate(whole)) + 1
    while high - low > 1:  # low fits, and high is the whole image or too large
        middle = (low + high) // 2
        low, high = (middle, high) if needs(middle) <= memory_limit else (low, middle)
    return low
