"""Averaging over rotated and mirrored versions of the image (section 4 of the U-Net paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from tqdm import tqdm

from overtile.networks.errors import ArgumentError, GeometryError


class RotationAveragingInferer(Inferer):
    """Average a network's answers over rotated and mirrored versions of the image.

    The paper averages over "7 rotated versions"; it does not say which. Here the versions are
    those that need no interpolation: the four rotations by 90 degrees, then the same of the
    mirrored image, the dihedral group of the last two axes. ``versions`` takes the first of
    them; 1 is the image as it is, and the answer as the network gives it. In 3D each section
    ``[Y, X]`` of ``[Z, Y, X]`` is turned in its plane, as `overtile.transforms.RandDeformedTiled`
    does. Of ``[X, Y, Z]``, as NIfTI and DICOM are read, it is the plane of Y and Z: move the axes
    first where sections are not as fine as pixels.

    Args:
        inferer: what runs the network on one version, e.g. an `OverlapTileInferer`.
        versions: how many, 1 to 8.
        average: ``"softmax"`` averages the probabilities over the channels and returns their
            logarithms: a softmax of these gives the mean probabilities back, so what follows
            needs not know. ``"sigmoid"`` does the same for each channel alone, and returns
            log-odds. ``"none"`` averages the network's answers as they are.
        progress: show a bar over the versions, where stderr is a terminal.

    Raises:
        ValueError: for an argument out of range; when called, for outputs of lower resolution whose
            pixels do not divide the image.
    """

    def __init__(
        self,
        inferer: Inferer,
        versions: int = 7,
        average: str = "softmax",
        progress: bool = False,
    ) -> None:
        super().__init__()
        if versions not in range(1, 9):
            raise ArgumentError(f"versions={versions}", "1 to 8")
        if average not in ("softmax", "sigmoid", "none"):
            raise ArgumentError(f"average={average!r}", "one of softmax, sigmoid, none")
        self.inferer, self.versions, self.average = inferer, versions, average
        self.progress = progress

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Output ``[B, K, *S]`` for ``inputs`` of ``[B, C, *S]``; a `MetaTensor` stays one.

        Several outputs, in lists, tuples or dictionaries, are averaged each.
        """
        if self.versions == 1:
            return self.inferer(inputs, network, *args, **kwargs)
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        quiet = not self.progress
        bar = tqdm(range(self.versions), unit="version", disable=quiet or None, leave=False)
        answers = (
            turn_back(
                _aligned(self.inferer(turn(image, version), network, *args, **kwargs), image),
                version,
            )
            for version in bar
        )
        mean = self.average_of(answers)
        return tree_map(
            lambda one: convert_to_dst_type(one, inputs, dtype=one.dtype, device=one.device)[0],
            mean,
        )

    def average_of(self, answers: Iterable[Any]) -> Any:
        """Average the answers to all versions, each turned back already."""
        totals: list[Tensor] = []
        structure: Any = None
        for answer in answers:
            outputs, structure = tree_flatten(answer)
            ones = [self._to_average(output) for output in outputs]
            add = torch.add if self.average == "none" else torch.logaddexp
            totals = [add(t, o) for t, o in zip(totals, ones, strict=True)] if totals else ones
        return tree_unflatten([self._from_average(total) for total in totals], structure)

    def _to_average(self, answer: Tensor) -> Tensor:
        # in logarithms: a probability of 1e-40 is 0 in float32, its logarithm is -92
        if self.average == "softmax":
            return answer.float().log_softmax(1)
        if self.average == "sigmoid":
            both = torch.stack([answer, -answer]).float()
            return torch.nn.functional.logsigmoid(both)
        return answer

    def _from_average(self, total: Tensor) -> Tensor:
        if self.average == "none":
            return total / self.versions
        if self.average == "sigmoid":
            return total[0] - total[1]
        return total - math.log(self.versions)


def _aligned(answer: Any, image: Tensor) -> Any:
    """A network's answer, unless turning it back would move its pixels.

    Raises:
        GeometryError: if an output of lower resolution does not end where the image does.
    """
    for output in tree_leaves(answer):
        shapes = sorted(image.shape[-2:]), sorted(output.shape[-2:])
        if any(n % m for n, m in zip(*shapes, strict=True)):
            raise GeometryError(
                f"an output of {tuple(output.shape[2:])} of an image of {tuple(image.shape[2:])}",
                "sizes that its pixels divide",
                "pad the image, or leave out the outputs of lower resolution (deep supervision)",
            )
    return answer


def turn(image: Tensor, version: int) -> Tensor:
    """Version 0 to 7 of ``[B, C, *S]``: mirrored from 4 on, then turned by 90 degrees each."""
    if version >= 4:
        image = image.flip(-1)
    return torch.rot90(image, version % 4, (-2, -1))


def turn_back(answer: Any, version: int) -> Any:
    """The inverse of `turn`, of all outputs of a network."""

    def one(image: Tensor) -> Tensor:
        image = torch.rot90(image, -(version % 4), (-2, -1))
        return image.flip(-1) if version >= 4 else image

    return tree_map(one, answer)
