"""Which tiles a network accepts, and which pixels of a tile it answers for.

A valid (unpadded) network computes every output pixel from real context only::

      input tile                         A tile of ``n`` input pixels gives
    +--------------------+               ``n - 2 * margin`` output pixels, the
    |  margin            |               centre of the tile. Neighbouring tiles
    |    +----------+    |               overlap by ``2 * margin``, and their
    |    |  output  |    |               outputs meet without overlapping.
    |    +----------+    |
    |                    |               Max-pooling makes the network equivariant
    +--------------------+               only to shifts by ``multiple`` pixels, so
                                         tiles start ``multiple`` apart.

Source: Ronneberger, Fischer, Brox: U-Net (MICCAI 2015), figure 2 and section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import SupportsIndex, TypeAlias, overload

from overtile.networks.errors import ArgumentError, GeometryError

PerLevel: TypeAlias = int | Sequence[int | Sequence[int]]
"""A number, or one a level, each for all axes or with one number an axis (as of DynUNet)."""


@dataclass(frozen=True)
class TileGeometry:
    """Sizes in pixels (or voxels) that a network takes, and what it returns for them.

    Every number is an ``int``, the same on all axes, or a tuple with one ``int`` an axis.

    Args:
        margin: context that the network consumes on *each* side of a tile.
        multiple: step between valid input sizes, and between the origins of tiles whose
            outputs agree exactly (2^depth for a U-Net).
        minimum: the smallest valid input size.

    Raises:
        GeometryError: if the smallest tile would have no output.

    Example:
        >>> paper = TileGeometry.unet(depth=4)
        >>> paper.margin, paper.output_size(572), paper.input_size((388, 100))
        (92, 388, (572, 284))
    """

    margin: int | tuple[int, ...]
    multiple: int | tuple[int, ...]
    minimum: int | tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("margin", "multiple", "minimum"):  # lists come from JSON
            value = getattr(self, name)
            whole = int(value) if isinstance(value, SupportsIndex) else tuple(map(int, value))
            object.__setattr__(self, name, whole)
        axes = max((len(v) for v in self._numbers if isinstance(v, tuple)), default=1)
        for axis in range(axes):
            margin, multiple, minimum = self.axis(axis)
            if margin < 0 or multiple < 1 or minimum <= 2 * margin:
                raise GeometryError(
                    f"margin {margin}, multiple {multiple}, minimum {minimum}",
                    "margin >= 0, multiple >= 1 and minimum > 2 * margin, so that tiles have an "
                    "output",
                )

    @classmethod
    def unet(
        cls,
        depth: int,
        convolutions: int = 2,
        kernel_size: PerLevel = 3,
        strides: PerLevel = 2,
    ) -> TileGeometry:
        """Geometry of a valid U-Net with ``depth`` poolings.

        Along an axis level ``l`` costs ``c_l = convolutions * (kernel_l - 1)`` pixels on the way
        down, and again on the way up; ``s_l``, the product of the strides above it, is how many
        input pixels one of its pixels stands for. Let ``D`` be the bottom, ``b`` its pixels after
        its convolutions, and ``E`` the sum of ``s_l * c_l`` over the levels above it. Walking up
        gives ``out = s_D * b - E``, down to the input ``in = s_D * (b + c_D) + E``. For the paper
        (depth 4, all c = 4): in = 16 b + 124, out = 16 b - 60, margin 92, any integer b >= 4.

        Args:
            depth: poolings.
            convolutions: of each level, each way.
            kernel_size: of these convolutions, odd: a number, or one a level from the top to the
                bottom, each for all axes or with one number an axis.
            strides: of the poolings: a number, or one a pooling, likewise.

        Raises:
            GeometryError: for a depth below 1.
            ValueError: for sequences of another length, or other numbers.

        Example:
            >>> TileGeometry.unet(2, kernel_size=[(1, 3, 3), 3, 3], strides=[(1, 2, 2), 2]).margin
            (8, 20, 20)
        """
        if depth < 1:
            raise GeometryError(f"depth {depth}", "depth >= 1, for a U-Net pools at least once")
        given = [v for v in (kernel_size, strides) if not isinstance(v, SupportsIndex)]
        each = [one for levels in given for one in levels if isinstance(one, (tuple, list))]
        axes = max(map(len, each), default=1)
        kernels = per_level("kernel_size", kernel_size, depth + 1, axes)
        pools = per_level("strides", strides, depth, axes)
        if wrong := [k for kernel in kernels for k in kernel if k < 1 or k % 2 == 0]:
            raise ArgumentError(
                f"kernel_size {wrong[0]}", "odd numbers, so that kernels are centred"
            )
        if wrong := [s for pool in pools for s in pool if s < 1]:
            raise ArgumentError(f"strides {wrong[0]}", "at least 1")
        numbers = []
        for axis in range(axes):
            *costs, bottom = (convolutions * (kernel[axis] - 1) for kernel in kernels)
            *scales, whole = accumulate((pool[axis] for pool in pools), mul, initial=1)
            above = sum(scale * cost for scale, cost in zip(scales, costs, strict=True))
            least = above // whole + 1  # smallest b with at least one output pixel
            margin = above + whole * bottom // 2
            numbers.append((margin, whole, whole * (least + bottom) + above))
        if len(set(numbers)) == 1:
            return cls(*numbers[0])
        return cls(*zip(*numbers, strict=True))

    @classmethod
    def padded(cls, radius: int | Sequence[int], multiple: int | Sequence[int] = 1) -> TileGeometry:
        """Geometry of a padded network, whose output is as large as its input.

        An output pixel is unaffected by the padding if it lies at least the receptive-field
        ``radius`` away from the tile's edge; those pixels are what a tile answers for.
        Count the farthest pixel that any output pixel sees; under pooling that depends on the
        pixel's place in its window. ``multiple`` is 2^(number of poolings). The margin is rounded
        up to a multiple of it, so that tiles stay aligned with the whole image.
        """
        axes = max((len(v) for v in (radius, multiple) if not isinstance(v, int)), default=0)

        def one(axis: int) -> tuple[int, int, int]:
            r = radius if isinstance(radius, int) else radius[axis]
            m = multiple if isinstance(multiple, int) else multiple[axis]
            margin = -(-r // m) * m
            return margin, m, 2 * margin + m

        if not axes:
            return cls(*one(0))
        margins, multiples, minimums = zip(*(one(axis) for axis in range(axes)), strict=True)
        return cls(margins, multiples, minimums)

    @property
    def _numbers(self) -> tuple[int | tuple[int, ...], ...]:
        return self.margin, self.multiple, self.minimum

    def axis(self, axis: int) -> tuple[int, int, int]:
        """``(margin, multiple, minimum)`` of one axis."""
        margin, multiple, minimum = (v if isinstance(v, int) else v[axis] for v in self._numbers)
        return margin, multiple, minimum

    def valid(self, size: int | Sequence[int]) -> bool:
        """Whether the network takes an input of this size (all axes, or one)."""
        return all(
            n >= minimum and (n - minimum) % multiple == 0
            for n, (_, multiple, minimum) in self._by_axis(size)
        )

    @overload
    def output_size(self, size: int) -> int: ...
    @overload
    def output_size(self, size: Sequence[int]) -> tuple[int, ...]: ...
    def output_size(self, size: int | Sequence[int]) -> int | tuple[int, ...]:
        """Size of the output for a valid input size.

        Raises:
            GeometryError: if the size is not valid; the message names the nearest valid ones.
        """
        self.check(size)
        out = tuple(n - 2 * margin for n, (margin, _, _) in self._by_axis(size))
        return out[0] if isinstance(size, SupportsIndex) else out

    @overload
    def input_size(self, size: int) -> int: ...
    @overload
    def input_size(self, size: Sequence[int]) -> tuple[int, ...]: ...
    def input_size(self, size: int | Sequence[int]) -> int | tuple[int, ...]:
        """The smallest valid input whose output covers ``size`` pixels."""
        needed = tuple(
            _round_up(n + 2 * margin, multiple, minimum)
            for n, (margin, multiple, minimum) in self._by_axis(size)
        )
        return needed[0] if isinstance(size, SupportsIndex) else needed

    def nearest(self, size: int | Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The nearest valid input sizes, not above (where there is one) and not below ``size``."""
        above = tuple(_round_up(n, m, least) for n, (_, m, least) in self._by_axis(size))
        below = tuple(
            a if a == n else max(least, a - m)
            for a, (n, (_, m, least)) in zip(above, self._by_axis(size), strict=True)
        )
        return below, above

    def check(self, size: int | Sequence[int], name: str = "input size") -> None:
        """Raise a `GeometryError` that names the nearest valid sizes unless ``size`` is valid."""
        if self.valid(size):
            return
        below, above = (_as_text(s) for s in self.nearest(size))
        nearest = below if below == above else f"{below} or {above}"
        found = _as_text(size)
        raise GeometryError(
            f"{name} {found} does not fit the network",
            f"at least {_as_text(self.minimum)} in steps of {_as_text(self.multiple)}",
            f"nearest valid: {nearest}",
        )

    def _by_axis(self, size: int | Sequence[int]) -> list[tuple[int, tuple[int, int, int]]]:
        sizes = (size,) if isinstance(size, SupportsIndex) else size
        for v in self._numbers:
            if isinstance(v, tuple) and len(v) != len(sizes):
                raise GeometryError(
                    f"size {_as_text(sizes)} of {len(sizes)} axes",
                    f"{len(v)} axes, as the geometry has",
                )
        return [(int(n), self.axis(i)) for i, n in enumerate(sizes)]


def per_level(name: str, value: PerLevel, levels: int, axes: int) -> tuple[tuple[int, ...], ...]:
    """One number a level and axis.

    Args:
        name: of the argument, for the error.
        value: as `PerLevel` says.
        levels: how many there are.
        axes: how many there are.

    Raises:
        ValueError: for sequences of another length, or what is no whole number.

    >>> per_level("strides", [(1, 2), 2], levels=2, axes=2)
    ((1, 2), (2, 2))
    """
    each = [value] * levels if isinstance(value, SupportsIndex) else value
    expected = f"a whole number, or {levels} of them, one a level"
    if axes > 1:
        expected += f", each for all axes or with {axes} numbers, one an axis"
    if not isinstance(each, (tuple, list)) or len(each) != levels:
        raise ArgumentError(f"{name} {value!r}", expected)
    numbers = [(one,) * axes if isinstance(one, SupportsIndex) else one for one in each]
    if not all(
        isinstance(one, (tuple, list))
        and len(one) == axes
        and all(isinstance(n, SupportsIndex) for n in one)
        for one in numbers
    ):
        raise ArgumentError(f"{name} {value!r}", expected)
    return tuple(tuple(map(int, one)) for one in numbers)


def _round_up(n: int, multiple: int, minimum: int) -> int:
    return max(minimum, minimum + -(-(n - minimum) // multiple) * multiple)


def _as_text(size: int | Sequence[int]) -> str:
    return "x".join(str(n) for n in ((size,) if isinstance(size, SupportsIndex) else size))


PADDING_MODES = ("reflect", "replicate", "constant")
"""What lies beyond the edge of an image: its mirror (the paper's), its edge, or a constant."""

_ALSO_CALLED = {  # by PyTorch's grid_sample and by NumPy, whose names MONAI takes
    "reflection": "reflect",
    "border": "replicate",
    "edge": "replicate",
    "zeros": "constant",
}


def padding_mode_of(name: str) -> str:
    """One of `PADDING_MODES`, for it or for what MONAI's transforms call it.

    Raises:
        ValueError: for another name.

    >>> padding_mode_of("border")
    'replicate'
    """
    mode = _ALSO_CALLED.get(str(name), str(name))
    if mode not in PADDING_MODES:
        raise ArgumentError(f"padding_mode={name!r}", f"one of {', '.join(PADDING_MODES)}")
    return mode


def context_indices(start: int, stop: int, size: int, padding_mode: str = "reflect") -> list[int]:
    """Which pixels of an axis stand at the positions start .. stop-1: indices in 0 .. size-1.

    The mirror repeats with period 2 (size - 1), so the context may be longer than the image;
    a single pixel mirrors to a constant. The edge pixel is not doubled. For ``"constant"`` the
    positions outside of the image are those of the edge, for the caller to overwrite.

    >>> context_indices(-3, 6, 3)
    [1, 2, 1, 0, 1, 2, 1, 0, 1]
    >>> context_indices(-2, 4, 3, "replicate")
    [0, 0, 0, 1, 2, 2]
    """
    if padding_mode != "reflect":
        return [min(max(position, 0), size - 1) for position in range(start, stop)]
    period = max(1, 2 * (size - 1))
    folded = (position % period for position in range(start, stop))
    return [i if i < size else period - i for i in folded]
