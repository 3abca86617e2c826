"""Averaging over rotated and mirrored versions of the image (section 4 of the U-Net paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from tqdm import tqdm

from overtile.networks.errors import ArgumentError, GeometryError
from overtile.networks.geometry import TileGeometry
from overtile.networks.network import geometry_of, unwrapped

_PER_AXIS = ("kernel_size", "stride", "dilation", "scale_factor")  # of PyTorch's layers


class RotationAveragingInferer(Inferer):
    """Average a network's answers over rotated and mirrored versions of the image.

    The paper averages over "7 rotated versions"; it does not say which. Here the versions are
    those that need no interpolation: the four rotations by 90 degrees, then the same of the
    mirrored image, the dihedral group of the last two axes. ``versions`` takes the first of
    them; 1 is the image as it is, and the answer as the network gives it. In 3D each section
    ``[Y, X]`` of ``[Z, Y, X]`` is turned in its plane, as `overtile.transforms.RandDeformedTiled`
    does. Of ``[X, Y, Z]``, as NIfTI and DICOM are read, it is the plane of Y and Z: move the axes
    first where sections are not as fine as pixels.

    A network that treats two axes differently, by kernels, strides or geometry, was never meant to
    see one in the place of the other. So the plane that is turned is the last of those whose axes
    are alike, and where none are, half turns and mirrors of the last plane are all: 4 versions. See
    `allowed_turns`.

    Args:
        inferer: what runs the network on one version, e.g. an `OverlapTileInferer`.
        versions: how many, 1 to 8; at most as many as the network allows.
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
        turns, quiet = self.turns(network, image.ndim - 2), not self.progress
        bar = tqdm(turns.versions, unit="version", disable=quiet or None, leave=False)
        answers = (
            turns.back(_aligned(self.inferer(turned, network, *args, **kwargs), turned), version)
            for version in bar
            for turned in [turns.turn(image, version)]
        )
        mean = self.average_of(answers)
        return tree_map(
            lambda one: convert_to_dst_type(one, inputs, dtype=one.dtype, device=one.device)[0],
            mean,
        )

    def turns(self, network: Any, axes: int) -> Turns:
        """The versions that are averaged over, for images of so many spatial axes."""
        found: Any = self.inferer
        while found is not None and getattr(found, "geometry", None) is None:
            found = getattr(found, "inferer", None)
        allowed = allowed_turns(network, axes, None if found is None else found.geometry)
        return allowed._replace(versions=allowed.versions[: self.versions])

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
        if any(n % m for n, m in zip(image.shape[2:], output.shape[2:], strict=True)):
            raise GeometryError(
                f"an output of {tuple(output.shape[2:])} of an image of {tuple(image.shape[2:])}",
                "sizes that its pixels divide",
                "pad the image, or leave out the outputs of lower resolution (deep supervision)",
            )
    return answer


class Turns(NamedTuple):
    """Versions of an image that need no interpolation.

    Attributes:
        plane: the two axes, from the end, that are turned into each other.
        versions: numbers of the versions, as of `turn`.
    """

    plane: tuple[int, int]
    versions: tuple[int, ...]

    def turn(self, image: Tensor, version: int) -> Tensor:
        """A version of ``[B, C, *S]``."""
        return turn(image, version, self.plane)

    def back(self, answer: Any, version: int) -> Any:
        """The inverse, of all outputs of a network."""
        return turn_back(answer, version, self.plane)


_ALL, _HALVES = tuple(range(8)), (0, 2, 4, 6)


def allowed_turns(network: Any, axes: int, geometry: TileGeometry | None = None) -> Turns:
    """All versions of an image that a network may be shown.

    Two axes are alike if the network has the same geometry along both, and none of its layers
    another kernel, stride, dilation or scale along one than along the other.

    Args:
        network: that answers; one that is no module is known by its geometry alone.
        axes: spatial ones, of the image.
        geometry: of a network without its own.

    Returns:
        The eight of the last plane whose axes are alike; without any, the four of the last plane
        that leave each axis in its place.

    Example:
        >>> from overtile.networks import ValidUNet
        >>> thin = ValidUNet(3, features=(2, 2), kernel_size=[(3, 3, 1), 3])
        >>> allowed_turns(thin, 3)
        Turns(plane=(-3, -2), versions=(0, 1, 2, 3, 4, 5, 6, 7))
        >>> allowed_turns(ValidUNet(2, features=(2, 2), strides=[(2, 1)]), 2)
        Turns(plane=(-2, -1), versions=(0, 2, 4, 6))
    """
    known = list(_geometries(network, geometry))
    per_axis = list(_per_axis(network, axes))
    for first, second in sorted(combinations(range(-axes, 0), 2), key=sum, reverse=True):
        places = first + axes, second + axes
        if all(one.axis(places[0]) == one.axis(places[1]) for one in known) and all(
            numbers[first] == numbers[second] for numbers in per_axis
        ):
            return Turns((first, second), _ALL)
    return Turns((-2, -1), _HALVES)


def _geometries(network: Any, given: TileGeometry | None) -> Iterator[TileGeometry]:
    if given is not None:
        yield given
    try:
        yield geometry_of(network)
    except GeometryError:  # a network of others, which tells nothing
        return


def _per_axis(network: Any, axes: int) -> Iterator[tuple[Any, ...]]:
    """What the layers of a network have a number an axis of."""
    for candidate in unwrapped(network):
        if isinstance(candidate, nn.Module):
            for module in candidate.modules():
                for name in _PER_AXIS:
                    value = getattr(module, name, None)
                    if isinstance(value, (tuple, list)) and len(value) == axes:
                        yield tuple(value)
            return


def turn(image: Tensor, version: int, plane: tuple[int, int] = (-2, -1)) -> Tensor:
    """Version 0 to 7 of ``[B, C, *S]``: mirrored from 4 on, then turned by 90 degrees each."""
    if version >= 4:
        image = image.flip(plane[1])
    return torch.rot90(image, version % 4, plane)


def turn_back(answer: Any, version: int, plane: tuple[int, int] = (-2, -1)) -> Any:
    """The inverse of `turn`, of all outputs of a network."""

    def one(image: Tensor) -> Tensor:
        image = torch.rot90(image, -(version % 4), plane)
        return image.flip(plane[1]) if version >= 4 else image

    return tree_map(one, answer)
