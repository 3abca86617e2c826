"""Initial weights (section 3 of the U-Net paper)."""

from __future__ import annotations

from torch import nn


def initialise(module: nn.Module) -> None:
    """Normal weights of standard deviation sqrt(2 / N), N the values that a neuron receives."""
    if not isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return
    taps = module.weight[0, 0].numel()
    if isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
        taps = 1  # stride = kernel size: each output neuron meets one tap of each input channel
    nn.init.normal_(module.weight, std=(2.0 / (module.in_channels * taps)) ** 0.5)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
