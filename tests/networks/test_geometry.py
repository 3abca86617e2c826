from math import gcd

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overtile.networks import GeometryError, TileGeometry, ValidUNet, context_indices


def walk(size: int, depth: int) -> int | None:
    """Output of a valid U-Net, layer by layer; None where it would crop or pool unevenly."""
    skips = []
    for _ in range(depth):
        size -= 4  # two 3x3 convolutions
        if size <= 0 or size % 2:
            return None
        skips.append(size)
        size //= 2
    size -= 4
    if size <= 0:
        return None
    for skip in reversed(skips):
        size *= 2
        if (skip - size) % 2:
            return None
        size -= 4
        if size <= 0:
            return None
    return size


def differences_of_crops(size: int, depth: int) -> list[int]:
    levels = []
    for _ in range(depth):
        levels.append(size - 4)
        size = levels[-1] // 2
    size -= 4
    differences = []
    for skip in reversed(levels):
        differences.append(skip - 2 * size)
        size = 2 * size - 4
    return differences


@pytest.mark.parametrize("depth", range(1, 6))
def test_valid_sizes_are_those_that_survive_the_walk(depth: int) -> None:
    geometry = TileGeometry.unet(depth)
    for size in range(1, geometry.axis(0)[2] + 5 * 2**depth):
        assert geometry.valid(size) == (walk(size, depth) is not None), size


@given(depth=st.integers(1, 5), size=st.integers(1, 5000))
@settings(max_examples=200, deadline=None)
def test_output_size_is_that_of_the_walk(depth: int, size: int) -> None:
    geometry, expected = TileGeometry.unet(depth), walk(size, depth)
    if expected is not None:
        assert geometry.output_size(size) == expected
        assert geometry.input_size(geometry.output_size(size)) == size
    else:
        with pytest.raises(GeometryError):
            geometry.output_size(size)


@given(depth=st.integers(1, 5), wanted=st.integers(1, 3000))
@settings(max_examples=200, deadline=None)
def test_input_size_is_the_smallest_that_covers(depth: int, wanted: int) -> None:
    size = TileGeometry.unet(depth).input_size(wanted)
    covered = walk(size, depth)
    assert covered is not None
    assert covered >= wanted
    smaller = (walk(n, depth) for n in range(max(1, size - 2 ** (depth + 1)), size))
    assert all(out is None or out < wanted for out in smaller)


@pytest.mark.parametrize(("depth", "dims"), [(1, 2), (2, 2), (3, 2), (1, 3), (2, 3)])
def test_real_networks_agree(depth: int, dims: int) -> None:
    network = ValidUNet(dims, features=(1,) * (depth + 1)).eval()
    smallest = network.geometry.axis(0)[2]
    refused = 0
    for size in range(smallest - 2**depth, smallest + 2**depth + 1):
        shape = (size,) + (smallest,) * (dims - 1)
        image = torch.zeros(1, 1, *shape)
        if (expected := walk(size, depth)) is None:
            refused += 1
            with pytest.raises(GeometryError):
                network(image)
        else:
            with torch.no_grad():
                assert network(image).shape[2:] == (expected, *[walk(smallest, depth)] * (dims - 1))
    assert refused == 2 ** (depth + 1) - 1  # all but the smallest and the next


def test_a_refused_size_really_pools_unevenly() -> None:
    network = ValidUNet(features=(1, 1, 1)).eval()
    network.geometry = TileGeometry(margin=0, multiple=1, minimum=1)  # accept everything
    image = torch.zeros(1, 1, 46, 46)  # 42 -> 21 -> 17: the second pooling drops a pixel
    assert walk(46, 2) is None
    assert network(image).shape[-1] != 46 - 2 * TileGeometry.unet(2).axis(0)[0]


def test_facts_of_the_paper() -> None:
    paper = TileGeometry.unet(depth=4)
    assert (paper.margin, paper.multiple) == (92, 16)
    assert paper.output_size(572) == 388
    for k in range(4, 60):
        assert walk(16 * k + 124, 4) == paper.output_size(16 * k + 124) == 16 * k - 60
    assert not paper.valid(16 * 3 + 124)


def test_the_tile_of_the_3d_unet_of_2016() -> None:
    assert TileGeometry.unet(depth=3).output_size((132, 132, 116)) == (44, 44, 28)


@given(depth=st.integers(1, 5), steps=st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_every_crop_difference_is_a_multiple_of_four(depth: int, steps: int) -> None:
    geometry = TileGeometry.unet(depth)
    size = geometry.axis(0)[2] + steps * 2**depth
    differences = differences_of_crops(size, depth)
    assert len(differences) == depth
    assert gcd(*differences) % 8 == 0  # each side's crop, half of it, is a multiple of 4


def test_error_names_the_nearest_valid_sizes() -> None:
    network = ValidUNet(features=(1,) * 5)
    with pytest.raises(GeometryError, match=r"512x572.*508x572 or 524x572"):
        network(torch.zeros(1, 1, 512, 572))
    with pytest.raises(GeometryError, match=r"100x188.*nearest valid: 188x188$"):
        network(torch.zeros(1, 1, 100, 188))


@given(depth=st.integers(1, 4), size=st.integers(1, 600))
@settings(max_examples=100, deadline=None)
def test_nearest_sizes_are_valid_neighbours(depth: int, size: int) -> None:
    (below,), (above,) = TileGeometry.unet(depth).nearest(size)
    valid = [n for n in range(1, 800) if walk(n, depth) is not None]
    assert above == min(n for n in valid if n >= size)
    assert below == max((n for n in valid if n <= size), default=valid[0])


def test_axes_of_their_own() -> None:
    geometry = TileGeometry(margin=(8, 20), multiple=(2, 4), minimum=(18, 44))
    assert geometry.valid((20, 48))
    assert not geometry.valid((20, 46))
    assert geometry.output_size((20, 48)) == (4, 8)
    assert geometry.input_size((3, 5)) == (20, 48)
    with pytest.raises(GeometryError, match="3 axes"):
        geometry.valid((20, 48, 48))
    assert TileGeometry.unet(1).output_size((20, 22, 24)) == (4, 6, 8)


@given(
    radius=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    power=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    out=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
@settings(max_examples=60, deadline=None)
def test_padded_keeps_context_and_alignment(
    radius: tuple[int, int], power: tuple[int, int], out: tuple[int, int]
) -> None:
    multiple = tuple(2**p for p in power)
    geometry = TileGeometry.padded(radius, multiple)
    size = geometry.input_size(out)
    for axis in range(2):
        margin = geometry.axis(axis)[0]
        assert radius[axis] <= margin < radius[axis] + multiple[axis]
        assert margin % multiple[axis] == size[axis] % multiple[axis] == 0
        assert out[axis] + 2 * margin <= size[axis] < out[axis] + 2 * margin + multiple[axis]


def test_padded_takes_plain_numbers() -> None:
    geometry = TileGeometry.padded(10, 4)
    assert (geometry.margin, geometry.multiple, geometry.minimum) == (12, 4, 28)


@pytest.mark.parametrize("numbers", [(-1, 1, 1), (1, 0, 3), (4, 2, 8), ((1, 4), 2, (3, 8))])
def test_geometry_without_an_output_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(GeometryError, match="expected margin >= 0"):
        TileGeometry(*numbers)


def test_a_unet_pools_at_least_once() -> None:
    with pytest.raises(GeometryError, match="depth >= 1"):
        TileGeometry.unet(0)


@given(size=st.integers(1, 12), before=st.integers(0, 50), after=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_mirror_walks_back_and_forth(size: int, before: int, after: int) -> None:
    found = context_indices(-before, size + after, size)
    there_and_back = [*range(size), *range(size - 2, 0, -1)]
    endless = there_and_back * (110 // len(there_and_back) + 2)
    middle = len(there_and_back) * (before // len(there_and_back) + 1)
    assert found == (endless * 3)[middle - before : middle + size + after]
