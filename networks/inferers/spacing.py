"""A network at the spacing that it was trained with, for images of any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_map

from overtile.networks.errors import ArgumentError
from overtile.networks.spacing import checked_spacing, resampled_size, spacing_of

ACTIVATIONS = ("softmax", "sigmoid", "none")
_LINEAR = {2: "bilinear", 3: "trilinear"}


class SpacingInferer(Inferer):
    """Bring an image to the network's spacing, run it there, and bring probabilities back.

    Along each axis an image of n pixels of spacing s becomes one of round(n s / t) pixels, at
    least 1, of the spacing t. Both cover the same extent: the outer edges of the outermost pixels
    coincide, and between the centres of pixels values are linear (``align_corners=False`` of
    PyTorch, ``grid_mode=True, mode="nearest"`` of `scipy.ndimage.zoom`). Beyond the outermost
    centres the outermost value goes on. What another inferer answers for the new image, its tiles
    as exact as ever, becomes probabilities, which go back to the pixels of the image in the same
    way. So whatever decides, decides on the pixels of the image.

    Where the spacings agree (to a thousandth), and where the number of pixels stays the same,
    nothing is interpolated: the answer is that of the other inferer, to the bit.

    Args:
        inferer: what runs the network on the image at the network's spacing, e.g. a
            `RotationAveragingInferer`.
        spacing: of the network: size of a pixel along each axis, in the order of the array's axes
            and in the unit of the image's affine (millimetres); None runs every image as it is.
        activation: ``"softmax"`` interpolates probabilities over the channels and returns their
            logarithms: a softmax of these gives the probabilities back, so what follows needs not
            know. ``"sigmoid"`` does the same for each channel alone, and returns log-odds.
            ``"none"`` interpolates the network's answers as they are.

    Raises:
        ValueError: for an argument out of range; when called, for an image whose spacing is not
            known (no `MetaTensor`), of several in a batch, or too far from that of the network, and
            for outputs of another resolution than the image's.
    """

    def __init__(
        self,
        inferer: Inferer,
        spacing: Sequence[float] | None = None,
        activation: str = "softmax",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ArgumentError(f"activation={activation!r}", f"one of {', '.join(ACTIVATIONS)}")
        self.inferer, self.activation = inferer, activation
        self.spacing = None if spacing is None else checked_spacing(spacing)

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Output ``[B, K, *S]`` for ``inputs`` of ``[B, C, *S]``; a `MetaTensor` stays one.

        Several outputs, in lists, tuples or dictionaries, are brought back each.
        """
        size = tuple(inputs.shape[2:])
        there = size
        if self.spacing is not None:
            there = resampled_size(size, spacing_of(inputs, len(size)), self.spacing)
        if there == size:
            return self.inferer(inputs, network, *args, **kwargs)
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        answer = self.inferer(resampled(image, there), network, *args, **kwargs)

        def back(one: Tensor) -> Tensor:
            if tuple(one.shape[2:]) != there:
                raise ArgumentError(
                    f"an output of {tuple(one.shape[2:])} of an image of {there}",
                    "outputs as large as the image",
                    "leave out those of lower resolution (deep supervision)",
                )
            found = self._back(one, size)
            taken: Tensor = convert_to_dst_type(found, inputs, found.dtype, device=found.device)[0]
            return taken

        return tree_map(back, answer)

    def _back(self, answer: Tensor, size: Sequence[int]) -> Tensor:
        answer = answer.as_tensor() if isinstance(answer, MetaTensor) else answer
        least = torch.finfo(torch.float32).tiny
        if self.activation == "softmax":
            return resampled(answer.float().softmax(1), size).clamp_min(least).log()
        if self.activation == "sigmoid":
            # both sides, since 1 - p is 0 in float32 where p is nearly 1
            sides = (resampled(torch.sigmoid(side.float()), size) for side in (answer, -answer))
            inside, outside = (side.clamp_min(least).log() for side in sides)
            return inside - outside
        return resampled(answer, size)


def resampled(image: Tensor, size: Sequence[int]) -> Tensor:
    """An image ``[B, C, *S]`` on a grid of another size over the same extent, linearly.

    Args:
        image: floats stay what they are, others become float32.
        size: of the result.
    """
    if tuple(image.shape[2:]) == tuple(size):
        return image
    values = image if image.is_floating_point() else image.float()
    return interpolate(values, size=tuple(size), mode=_LINEAR[len(size)], align_corners=False)
