import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overtile.networks import GeometryError, Tile, TileGeometry, plan_tiles, read_tile


@st.composite
def plans(draw: st.DrawFn) -> tuple[tuple[int, ...], TileGeometry, tuple[int, ...]]:
    geometry = draw(
        st.one_of(
            st.integers(1, 4).map(TileGeometry.unet),
            st.builds(
                TileGeometry.padded, st.integers(0, 30), st.integers(0, 4).map(lambda p: 2**p)
            ),
        )
    )
    dims = draw(st.integers(1, 3))
    _, multiple, _ = geometry.axis(0)
    image = draw(st.tuples(*[st.integers(1, (5000, 150, 40)[dims - 1])] * dims))
    steps = draw(st.tuples(*[st.integers(0, 20)] * dims))
    roi = tuple(geometry.input_size(multiple) + multiple * k for k in steps)
    return image, geometry, roi


@given(plans())
@settings(max_examples=150, deadline=None)
def test_every_pixel_is_written_once_from_full_context(
    plan: tuple[tuple[int, ...], TileGeometry, tuple[int, ...]],
) -> None:
    image, geometry, roi = plan
    margin, multiple, _ = geometry.axis(0)
    tiles = list(plan_tiles(image, geometry, roi))
    count = np.zeros(image, int)
    for tile in tiles:
        count[tile.write] += 1
        assert geometry.valid(tile.size)
        assert all(size <= most for size, most in zip(tile.size, roi, strict=True))
        for start, size, write in zip(tile.start, tile.size, tile.write, strict=True):
            assert start + margin == write.start  # the output begins where it is written
            assert write.stop <= start + size - margin
            assert write.start % multiple == 0
            assert write.start < write.stop
    assert (count == 1).all()
    assert len(tiles) == len(plan_tiles(image, geometry, roi))
    assert len({tile.size for tile in tiles}) == 1  # they go through the network in one batch


@given(plans())
@settings(max_examples=100, deadline=None)
def test_there_are_no_more_tiles_than_needed(
    plan: tuple[tuple[int, ...], TileGeometry, tuple[int, ...]],
) -> None:
    image, geometry, roi = plan
    margin, multiple, _ = geometry.axis(0)
    expected = 1
    for n, size in zip(image, roi, strict=True):
        end, output = 0, size - 2 * margin
        while end + output < n:  # as far as an aligned step goes, again and again
            end += output // multiple * multiple
            expected_here = end // (output // multiple * multiple) + 1
        expected *= expected_here if n > output else 1
    assert len(plan_tiles(image, geometry, roi)) == expected


def test_a_tile_without_an_aligned_step_is_refused() -> None:
    paper = TileGeometry.unet(4)  # 188 pixels in, 4 out
    assert len(plan_tiles((4, 4), paper, (188, 188))) == 1
    with pytest.raises(GeometryError, match="expected at least 204"):
        plan_tiles((5, 4), paper, (188, 188))


@given(
    size=st.tuples(st.integers(9, 40), st.integers(1, 9)),
    start=st.tuples(st.integers(-30, 8), st.integers(-30, 0)),
    extent=st.tuples(st.integers(31, 60), st.integers(31, 60)),
    modes=st.sampled_from(
        [("reflect", "reflect"), ("replicate", "edge"), ("constant", "constant")]
    ),
)
@settings(max_examples=80, deadline=None)
def test_context_is_that_of_numpy(
    size: tuple[int, int], start: tuple[int, int], extent: tuple[int, int], modes: tuple[str, str]
) -> None:
    image = np.random.default_rng(0).random((2, 3, *size))
    tile = Tile(start, extent, tuple(slice(0, n) for n in size))
    found = read_tile(torch.from_numpy(image), tile, modes[0])
    padded = np.pad(image, [(0, 0), (0, 0), (40, 90), (40, 90)], mode=modes[1])
    read = (slice(40 + a, 40 + a + n) for a, n in zip(start, extent, strict=True))
    assert np.array_equal(found.numpy(), padded[(..., *read)])
