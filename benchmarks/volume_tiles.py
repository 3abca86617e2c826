"""Tiles of a volume against MONAI's sliding window: python -m benchmarks.volume_tiles.

A volume of 256^3 voxels, U-Nets of 16 to 64 features. Ours is `ValidUNet` under
`OverlapTileInferer`; the peer is `PaddedUNet` of the same widths under `SlidingWindowInferer` with
Gaussian blending, at the window with which it is the fastest. Ours is the padded network in exact
tiles as well. Both networks have the same weights, from a short training of the padded one on
hippocampi (for seams; none where the data are missing), and the same precision: bfloat16 where the
processor has it. All run in one thread; times are CPU seconds. Memory is resident memory above that
before the image, each in a process of its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor

from benchmarks.figure import Figure
from benchmarks.tiles import HALF, Peak, in_process, precision
from benchmarks.timing import ratio, seconds
from benchmarks.volumes import CLASSES, Recipe, train, volumes
from overtile.networks import MixedPrecisionInferer, OverlapTileInferer, PaddedUNet, ValidUNet
from overtile.networks.blocks.context import read_box

SIZE, FEATURES, REPEATS = 256, (16, 32, 64), 3
WINDOWS, OVERLAPS = (64, 96, 128, 160), (0.25, 0.5)
SEAM_SIZE, SEAM_WINDOW, TRAINING = 128, 64, 40.0

Run = Callable[[Tensor], Tensor]


def run_of(network: ValidUNet, inferer: Inferer, half: bool = HALF) -> Run:
    def run(volume: Tensor) -> Tensor:
        with torch.inference_mode():
            both = MixedPrecisionInferer(inferer, "bfloat16" if half else "float32")
            return cast(Tensor, both(volume, network))

    return run


def ours(kind: type[ValidUNet] = ValidUNet) -> Run:
    return run_of(random_network(kind), OverlapTileInferer())


def peer(window: int, overlap: float) -> Run:
    return run_of(random_network(PaddedUNet), slide(window, overlap))


def slide(window: int, overlap: float) -> Inferer:
    return SlidingWindowInferer((window,) * 3, 1, overlap, mode="gaussian")


def random_network(kind: type[ValidUNet]) -> ValidUNet:
    torch.manual_seed(0)
    return kind(3, 1, CLASSES, FEATURES, dropout=0.0).eval()


def windows(size: int, window: int, overlap: float) -> int:
    """How many windows MONAI's sliding window cuts a cube into."""
    return (math.ceil((size - window) / int(window * (1 - overlap))) + 1) ** 3


def best_window(overlap: float) -> int:
    """The window with which the peer is the fastest."""
    torch.set_num_threads(1)
    network = random_network(PaddedUNet)

    def cost(window: int) -> float:
        volume = torch.randn(1, 1, *(window,) * 3)
        with precision(HALF):
            network(volume)
            least = min(seconds(partial(network, volume)) for _ in range(2))
        return least * windows(SIZE, window, overlap)

    return min(WINDOWS, key=cost)


def times(window: dict[float, int]) -> dict[str, list[float]]:
    """CPU seconds of every way, in turn."""
    torch.set_num_threads(1)
    volume = torch.randn(1, 1, SIZE, SIZE, SIZE)
    ways = {"valid": ours(), "padded": ours(PaddedUNet)}
    ways |= {str(overlap): peer(size, overlap) for overlap, size in window.items()}
    ways["valid"](volume[..., :64, :64, :64])
    ways["0.5"](volume[..., :64, :64, :64])
    rounds = [{k: seconds(partial(way, volume)) for k, way in ways.items()} for _ in range(REPEATS)]
    return {name: [one[name] for one in rounds] for name in ways}


def memory(way: Callable[..., Run], *arguments: object) -> int:
    torch.set_num_threads(1)
    run, peak = way(*arguments), Peak()
    run(torch.randn(1, 1, SIZE, SIZE, SIZE))
    return peak()


def seams() -> dict[str, float] | None:
    """Largest difference of a probability to one pass over a volume.

    Of both networks in exact tiles of several sizes, and of the peer by overlap, all of the same
    weights. None where there are no hippocampi.
    """
    torch.set_num_threads(1)
    try:
        pairs, _ = volumes()
    except SystemExit:
        return None
    recipe = Recipe(features=FEATURES, norm=False, rate=1e-3)
    trained, _ = train(recipe, pairs, 0, TRAINING)
    image = pairs[0][0][None]
    starts = [-((SEAM_SIZE - n) // 2) for n in image.shape[2:]]
    volume = read_box(image, [(start, start + SEAM_SIZE) for start in starts])

    def exact(kind: type[ValidUNet], half: bool) -> float:
        network = kind(3, 1, CLASSES, FEATURES, dropout=0.0).eval()
        network.load_state_dict(trained.state_dict())
        tiles, whole = (
            run_of(network, OverlapTileInferer(roi), half)(volume).float().softmax(1)
            for roi in (SEAM_WINDOW + 2 * 24, 0)
        )
        return float((tiles - whole).abs().max())

    with precision(False):
        whole = trained(volume).softmax(1)
    found = {
        str(overlap): float(
            (run_of(trained, slide(SEAM_WINDOW, overlap), False)(volume).softmax(1) - whole)
            .abs()
            .max()
        )
        for overlap in OVERLAPS
    }
    return found | {
        "valid": exact(ValidUNet, False),
        "valid half": exact(ValidUNet, True),
        "padded": exact(PaddedUNet, False),
    }


def figures() -> Iterator[Figure]:
    window = {overlap: in_process(best_window, overlap) for overlap in OVERLAPS}
    found = in_process(times, window)
    own = statistics.median(found["valid"])
    name = f"voxels a second, {SIZE}^3"
    for overlap, size in window.items():
        theirs = statistics.median(found[str(overlap)])
        faster = ratio(found[str(overlap)], found["valid"])
        text = (
            f"{faster:.2f} times as many ({SIZE**3 / own / 1e6:.2f} against "
            f"{SIZE**3 / theirs / 1e6:.2f} million; windows of {size})"
        )
        yield Figure(
            f"{name}, overlap {overlap}", faster, 1.0 if overlap == 0.5 else None, "higher", text
        )
    slower = ratio(found["padded"], found["valid"])
    text = f"{slower:.2f} times the time of the valid one"
    yield Figure(f"the padded network in exact tiles, {SIZE}^3", slower, None, "lower", text)
    taken = in_process(memory, ours)
    for overlap, size in window.items():
        peak = in_process(memory, peer, size, overlap)
        text = f"{taken / peak:.2f} times as much ({taken / 1e6:.0f} against {peak / 1e6:.0f} MB)"
        yield Figure(f"peak memory, {SIZE}^3, overlap {overlap}", taken / peak, None, "lower", text)
    errors = in_process(seams)
    if errors is None:
        yield Figure("largest seam error", math.nan, None, "lower", "left out: no hippocampi")
        return
    text = (
        f"{errors['valid']:.0e} (bfloat16: {errors['valid half']:.0e}; the padded one in exact "
        f"tiles: {errors['padded']:.0e}) against {errors['0.25']:.2g} and {errors['0.5']:.2g} of "
        "the peer at overlap 0.25 and 0.5"
    )
    yield Figure("largest seam error of a probability", errors["valid"], 1e-4, "lower", text)


if __name__ == "__main__":
    for figure in figures():
        print(figure, flush=True)
