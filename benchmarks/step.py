"""A training step in mixed precision: python -m benchmarks.step.

Forward, loss, backward and update of the bundles' network on one tile of em_membranes. The peer is
the same step in float32 with PyTorch's default memory layout.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from monai.inferers import SimpleInferer

from benchmarks.figure import Figure
from overtile.networks import (
    MixedPrecisionInferer,
    PixelWeightedCrossEntropyLoss,
    ValidUNet,
)

FEATURES, TILE, REPEATS = (32, 64, 128, 256), 348, 7


def seconds(precision: str, memory_format: torch.memory_format) -> float:
    torch.manual_seed(0)
    network = ValidUNet(features=FEATURES, dropout=0.1).to(memory_format=memory_format)  # type: ignore[call-overload]
    inferer = MixedPrecisionInferer(SimpleInferer(), precision)
    loss = PixelWeightedCrossEntropyLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image, size = torch.randn(1, 1, TILE, TILE), network.geometry.output_size((TILE, TILE))
    labels, weights = torch.randint(2, (1, 1, *size)), torch.rand(1, 1, *size)
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(inferer(image, network), labels, weights).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def figures() -> Iterator[Figure]:
    plain = seconds("float32", torch.contiguous_format)
    for precision in ("float32", "auto"):
        ours = seconds(precision, torch.channels_last)
        yield Figure(
            f"training step, precision {precision}, channels innermost",
            plain / ours,
            None,
            "higher",
            f"{plain / ours:.2f} times faster than float32 with channels outermost ({ours:.2f} s "
            f"against {plain:.2f} s)",
        )


if __name__ == "__main__":
    for figure in figures():
        print(figure)
