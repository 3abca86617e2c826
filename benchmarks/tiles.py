"""Overlap-tile inference against MONAI's sliding window: python -m benchmarks.tiles.

Ours is a valid U-Net of 16 to 256 features under `OverlapTileInferer`; the peer is MONAI's
`BasicUNet` of the same widths under `SlidingWindowInferer` with Gaussian blending. Both run under
inference mode and with pages of 2 MiB; the peer gets bfloat16, channels_last, the window and the
batch of windows with which it is the fastest. Weights are random, but for seams: ours are the
shipped ones, the peer is trained briefly. Memory is resident memory above that before the image,
each in a process of its own.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from benchmarks.figure import Figure
from overtile.networks import (
    MixedPrecisionInferer,
    OverlapTileInferer,
    ValidUNet,
    peak_bytes,
    plan_tiles,
)
from overtile.networks.inferers.cost import exact_memory, pass_cost
from overtile.networks.inferers.precision import has_bfloat16
from overtile.networks.inferers.tile_size import choose_tile
from overtile.pipelines.bundle.checkpoints import load_weights
from overtile.pipelines.data.synthesis.datasets import generate

FEATURES, SIZE, PART, LIMIT = (16, 32, 64, 128, 256), 4096, 1024, 256 * 1024**2
WINDOWS, OVERLAPS, REPEATS, STEPS = (256, 384, 512), (0.25, 0.5), 3, 60
TURNS = 9  # for single tiles, which take a tenth of a second
SEARCH = (444, 572, 700, 828, 1084, 1340, 1596)
MODEL = Path(__file__).parents[1] / "bundles/touching_cells/models/model.pt"
HALF = has_bfloat16("cpu")


def ours() -> ValidUNet:
    torch.manual_seed(0)
    return ValidUNet(features=FEATURES).eval()


def precision(half: bool) -> ExitStack:
    stack = ExitStack()
    stack.enter_context(torch.inference_mode())
    stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=half))
    return stack


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, run in a process that has computed nothing before."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=lambda: there.send(work(*arguments)))
    child.start()
    there.close()
    found = here.recv()
    child.join()
    return found


def resident(key: str = "VmRSS") -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


class Peak:
    """Bytes that this process holds at most since then, above what it held."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak until now
        self.before = resident()

    def __call__(self) -> int:
        return resident("VmHWM") - self.before


def windows(size: int, window: int, overlap: float) -> int:
    """How many windows MONAI's sliding window cuts a square image into."""
    return (math.ceil((size - window) / int(window * (1 - overlap))) + 1) ** 2


@dataclass(frozen=True)
class Peer:
    """The peer, and how it is run."""

    norm: str
    half: bool = HALF
    layout: torch.memory_format = torch.contiguous_format
    window: int = 256
    batch: int = 1

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        norm, widths = (self.norm, {"affine": True}), (*FEATURES, FEATURES[0])
        network: Any = BasicUNet(2, 1, 2, features=widths, norm=norm).eval()
        return cast(nn.Module, network.to(memory_format=self.layout))

    def run(self, network: nn.Module, image: Tensor, overlap: float) -> Tensor:
        size = (self.window, self.window)
        inferer = SlidingWindowInferer(size, self.batch, overlap, mode="gaussian")
        with precision(self.half):
            return cast(Tensor, inferer(image, network))

    def a_pixel(self) -> float:
        """Seconds that the network takes for a pixel of a window."""
        found = pass_seconds(self.network(), self.half, self.window, self.batch)
        return found / (self.batch * self.window**2)

    def __str__(self) -> str:
        half = "bfloat16" if self.half else "float32"
        layout = str(self.layout).removeprefix("torch.")
        return f"{half}, {layout}, window {self.window}, batch {self.batch}"


def best_peer(norm: str) -> Peer:
    """The fastest way to run the peer: precision and layout first, then window and batch."""
    layouts = (torch.contiguous_format, torch.channels_last)
    halves = (False, True) if HALF else (False,)
    first = min(
        (Peer(norm, half, layout) for half in halves for layout in layouts), key=Peer.a_pixel
    )
    sizes = [(window, batch) for window in WINDOWS for batch in (1, 4)]
    return min((replace(first, window=w, batch=b) for w, b in sizes), key=Peer.a_pixel)


def pass_seconds(network: nn.Module, half: bool, size: int, batch: int = 1) -> float:
    image = torch.randn(batch, 1, size, size)
    with precision(half):
        network(image)
        return min(seconds(lambda: network(image)) for _ in range(REPEATS))


def tile(network: nn.Module, image: Tensor, roi: int | None = None, half: bool = HALF) -> Tensor:
    inferer = OverlapTileInferer(roi_size=roi, memory_limit=LIMIT)
    with torch.inference_mode():
        precise = MixedPrecisionInferer(inferer, "bfloat16" if half else "float32")
        return cast(Tensor, precise(image, network))


def memory_of_ours() -> int:
    network, peak = ours(), Peak()
    tile(network, torch.randn(1, 1, SIZE, SIZE))
    return peak()


def memory_of_peer(peer: Peer) -> int:
    network, peak = peer.network(), Peak()
    peer.run(network, torch.randn(1, 1, SIZE, SIZE), OVERLAPS[0])
    return peak()


def rates(peer: Peer) -> dict[float, list[tuple[float, float]]]:
    """Pairs of seconds for the image, the peer's scaled by its windows, and ours; interleaved."""
    network, theirs, image = ours(), peer.network(), torch.randn(1, 1, SIZE, SIZE)
    part = image[..., :PART, :PART].contiguous()
    found: dict[float, list[tuple[float, float]]] = {overlap: [] for overlap in OVERLAPS}
    for _ in range(REPEATS):
        own = seconds(lambda: tile(network, image))
        for overlap in OVERLAPS:
            share = windows(PART, peer.window, overlap) / windows(SIZE, peer.window, overlap)
            took = seconds(lambda o=overlap: peer.run(theirs, part, o))  # type: ignore[misc]
            found[overlap].append((took / share, own))
    return found


def against_the_peer() -> Iterator[Figure]:
    for norm, target in (("instance", 3.0), ("batch", None)):
        peer = in_process(best_peer, norm)
        for overlap, pairs in in_process(rates, peer).items():
            ratio = statistics.median(theirs / own for theirs, own in pairs)
            theirs, own = (SIZE**2 / 1e6 / statistics.median(v) for v in zip(*pairs, strict=True))
            yield Figure(
                f"pixels a second, {SIZE} x {SIZE}, {norm} norm, overlap {overlap}",
                ratio,
                target,
                "higher",
                f"{ratio:.1f} times as many ({own:.2f} against {theirs:.2f} million; {peer})",
            )
        if norm == "instance":
            own, theirs = in_process(memory_of_ours), in_process(memory_of_peer, peer)
            yield Figure(
                f"peak memory, {SIZE} x {SIZE}, overlap {OVERLAPS[0]}",
                own / theirs,
                1.0,
                "lower",
                f"{own / theirs:.2f} times as much ({own / 1e6:.0f} against {theirs / 1e6:.0f} MB)",
            )


def seams_of_ours() -> tuple[float, float]:
    """Largest difference of a probability to one pass, in float32 and in bfloat16."""
    network = ValidUNet(features=(32, 64, 128, 256)).eval()
    load_weights(network, MODEL)
    image, errors = cells(768, 1)[0][0], []
    for half in (False, True):
        found, whole = (tile(network, image, roi, half).softmax(1) for roi in (252, 0))
        errors.append(float((found - whole).abs().max()))
    return errors[0], errors[1]


def seams_of_peer(norm: str) -> float:
    """The same of the peer in float32, overlap 0.25, after a short training."""
    network = Peer(norm).network().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for image, label in cells(192, STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    network.eval()
    image = cells(768, 1)[0][0]
    with precision(False):
        whole = network(image).softmax(1)
    found = Peer(norm, half=False).run(network, image, OVERLAPS[0]).softmax(1)
    return float((found - whole).abs().max())


def cells(size: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Generated images of cells, 0 to 1, and where the cells are."""
    pairs = generate("cells", {"train": count}, (size, size), seed=0)["train"]
    found = []
    for image, label in pairs:
        grey = torch.from_numpy(np.asarray(image, np.float32))[None, None]
        low, high = torch.quantile(grey[..., ::4, ::4], torch.tensor([0.01, 0.998]))
        found.append(
            ((grey - low) / (high - low), torch.from_numpy(np.asarray(label) > 0).long()[None])
        )
    return found


def seams() -> Iterator[Figure]:
    exact, half = in_process(seams_of_ours)
    for norm in ("instance", "batch"):
        theirs = in_process(seams_of_peer, norm)
        yield Figure(
            f"largest seam error of a probability, {norm} norm",
            exact,
            1e-4,
            "lower",
            f"{exact:.0e} (bfloat16: {half:.0e}) against {theirs:.2g} of the peer after {STEPS} "
            "steps",
        )


def times_of_tiles(sizes: Sequence[int], image_size: int) -> dict[int, list[float]]:
    """Seconds for an image in tiles of each size: those of one tile, times the number of tiles."""
    network, image = ours(), torch.randn(1, 1, max(sizes), max(sizes))
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for repeat in range(TURNS + 1):
        for size in sizes:
            plan = plan_tiles((image_size,) * 2, network.geometry, (size,) * 2)
            part = image[..., : plan.size[0], : plan.size[1]].contiguous()
            with precision(HALF), exact_memory(peak_bytes(network, part.shape)):
                took = seconds(lambda: network(part))  # noqa: B023
            if repeat:  # the first one compiles kernels
                times[size].append(took * len(plan))
    return times


def plans() -> tuple[int, list[int]]:
    """The tile that ``roi_size=None`` takes, and the others that the memory limit allows.

    Tiles are made as small as their number allows, so that several sizes ask for the same tiles.
    """
    network = ours()
    geometry = network.geometry
    with precision(HALF):
        found = choose_tile(
            lambda size: pass_cost(network, (1, 1, *size)), (SIZE,) * 2, geometry, LIMIT
        )
        allowed = [n for n in SEARCH if peak_bytes(network, (1, 1, n, n)) <= LIMIT]
    auto, *others = (
        plan_tiles((SIZE,) * 2, geometry, (size,) * 2).size[0] for size in (found[0], *allowed)
    )
    return auto, sorted({*others} - {auto})


def choice() -> Iterator[Figure]:
    auto, others = in_process(plans)
    times = in_process(times_of_tiles, [auto, *others], SIZE)
    best = min(others, key=lambda size: statistics.median(times[size]))
    times = in_process(times_of_tiles, [auto, best], SIZE)  # the luckiest is not the best
    ratio = statistics.median(a / b for a, b in zip(times[auto], times[best], strict=True))
    yield Figure(
        f"chosen tile, {SIZE} x {SIZE} within {LIMIT // 1024**2} MiB, against the best of a search",
        ratio,
        1.1,
        "lower",
        f"{ratio:.2f} times the time (tile {auto} against {best} of {min(others)} to "
        f"{max(others)})",
    )


def times_of_whole() -> list[tuple[float, float]]:
    """Pairs of seconds for a quarter of the image: in tiles, and in one pass."""
    network, image = ours(), torch.randn(1, 1, SIZE // 2, SIZE // 2)
    tile(network, image[..., :512, :512])
    return [
        (seconds(lambda: tile(network, image)), seconds(lambda: tile(network, image, 0)))
        for _ in range(REPEATS)
    ]


def ideal() -> Iterator[Figure]:
    pairs = in_process(times_of_whole)
    ratio = statistics.median(own / whole for own, whole in pairs)
    own, whole = (statistics.median(v) for v in zip(*pairs, strict=True))
    yield Figure(
        f"tiles against one pass over the whole image, {SIZE // 2} x {SIZE // 2}",
        ratio,
        1.15,
        "lower",
        f"{ratio:.2f} times the time ({own:.1f} against {whole:.1f} s)",
    )


def peak_of_pass(size: int, half: bool) -> tuple[int, int]:
    """Bytes that a pass was predicted to take and took, the second of two."""
    network = ours()
    with precision(half):
        predicted = peak_bytes(network, (1, 1, size, size))
        network(torch.randn(1, 1, 188, 188))  # loads oneDNN and compiles its kernels, once
        peak = Peak()
        image = torch.randn(1, 1, size, size)
        with exact_memory(predicted):
            for _ in range(2):
                network(image)
        return predicted, peak()


def prediction() -> Iterator[Figure]:
    found = {
        (size, half): in_process(peak_of_pass, size, half)
        for size in (828, 1084, 1596)
        for half in (False, True)[: 1 + HALF]
    }
    worst = max(abs(predicted / took - 1) for predicted, took in found.values())
    parts = ", ".join(
        f"{size} {'bfloat16' if half else 'float32'}: {predicted / 1e6:.0f} of {took / 1e6:.0f} MB"
        for (size, half), (predicted, took) in found.items()
    )
    text = f"off by up to {100 * worst:.0f} % ({parts})"
    yield Figure("predicted peak memory of a tile", worst, 0.2, "lower", text)


def figures() -> Iterator[Figure]:
    yield from against_the_peer()
    yield from seams()
    yield from ideal()
    yield from choice()
    yield from prediction()


if __name__ == "__main__":
    for figure in figures():
        print(figure, flush=True)
