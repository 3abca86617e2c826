"""Mixed precision on any device, as an inferer around another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from overtile.networks.errors import ArgumentError

PRECISIONS = ("auto", "float32", "bfloat16")


class MixedPrecisionInferer(Inferer):
    """Run a network in bfloat16 where that pays, with weights and answers in float32.

    Convolutions multiply in bfloat16 and add in float32 (`torch.autocast`); the weights, their
    gradients and the logits stay float32. bfloat16 has the exponents of float32, so no loss
    scaling is needed. MONAI's own ``amp`` is for CUDA alone.

    Args:
        inferer: what runs the network, e.g. ``SimpleInferer()``.
        precision: ``"bfloat16"``, ``"float32"``, or ``"auto"``: bfloat16 on a GPU, and on a
            processor that multiplies it in hardware, else float32.

    Raises:
        ValueError: for another precision.
    """

    def __init__(self, inferer: Inferer, precision: str = "auto") -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ArgumentError(f"precision={precision!r}", f"one of {', '.join(PRECISIONS)}")
        self.inferer, self.precision = inferer, precision

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """What ``inferer`` returns, as float32."""
        device = inputs.device.type
        if not self.is_half(device):
            result: Tensor = self.inferer(inputs, network, *args, **kwargs)
            return result
        with torch.autocast(device, torch.bfloat16):
            result = self.inferer(inputs, network, *args, **kwargs)
        return result.float()

    def is_half(self, device: str) -> bool:
        """Whether networks run in bfloat16 on a kind of device."""
        return self.precision == "bfloat16" or (self.precision == "auto" and has_bfloat16(device))


def has_bfloat16(device: str) -> bool:
    """Whether a kind of device multiplies bfloat16 in hardware."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
