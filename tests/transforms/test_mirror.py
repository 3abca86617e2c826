from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from overtile.networks import TileGeometry
from overtile.transforms import CropToOutput, CropToOutputd, MirrorPad, MirrorPadd

sizes = st.lists(st.integers(1, 40), min_size=2, max_size=3).map(tuple)


@given(size=sizes, depth=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_context_is_that_of_numpy(size: tuple[int, ...], depth: int) -> None:
    geometry = TileGeometry.unet(depth)
    margin = {1: 8, 2: 20, 3: 44}[depth]
    image = np.random.default_rng(0).random((1, *size)).astype(np.float32)
    padded = MirrorPad(geometry)(image)
    assert geometry.valid(padded.shape[1:])
    pads = [(margin, p - n - margin) for p, n in zip(padded.shape[1:], size, strict=True)]
    assert all(margin <= after for _, after in pads)
    assert all(
        before + after - 2 * margin < 2**depth or n < 2**depth
        for n, (before, after) in zip(size, pads, strict=True)
    )
    assert np.array_equal(padded, np.pad(image, [(0, 0), *pads], mode="reflect"))
    assert torch.equal(MirrorPad(geometry)(torch.from_numpy(image)), torch.from_numpy(padded))


@given(size=sizes, depth=st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_cropping_gives_the_image_back(size: tuple[int, ...], depth: int) -> None:
    geometry = TileGeometry.unet(depth)
    image = np.random.default_rng(0).random((2, *size))
    back = CropToOutput(geometry)(MirrorPad(geometry)(image))
    assert np.array_equal(back[(slice(None), *map(slice, size))], image)


def test_axes_of_their_own() -> None:
    geometry = TileGeometry((1, 4), (1, 2), (3, 10))
    image = np.random.default_rng(0).random((1, 5, 6))
    padded = MirrorPad(geometry)(image)
    assert np.array_equal(padded, np.pad(image, [(0, 0), (1, 1), (4, 4)], mode="reflect"))
    assert np.array_equal(CropToOutput(geometry)(padded), image)


@pytest.mark.parametrize("margin", [3, (3, 3)])
def test_crop_takes_a_plain_margin(margin: Any) -> None:
    image = np.arange(80).reshape(1, 8, 10)
    assert np.array_equal(CropToOutput(margin)(image), image[:, 3:5, 3:7])
    assert np.array_equal(CropToOutput((0, 4))(image), image[:, :, 4:6])


def test_crop_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tile of \(8, 10\): expected .* the margin of \(4, 4\)"):
        CropToOutput(4)(np.zeros((1, 8, 10)))


def test_metadata_and_dtype_are_kept() -> None:
    labels = MetaTensor(torch.ones(1, 9, 9, dtype=torch.int32), meta={"filename_or_obj": "a"})
    geometry = TileGeometry.unet(1)
    for result in (MirrorPad(geometry)(labels), CropToOutput(2)(labels)):
        assert isinstance(result, MetaTensor)
        assert result.dtype == torch.int32
        assert result.meta["filename_or_obj"] == "a"


def test_dictionaries() -> None:
    geometry = TileGeometry.unet(1)
    data = {"image": np.random.default_rng(0).random((1, 10, 12)), "other": 3}
    padded = MirrorPadd("image", geometry)(data)
    assert np.array_equal(padded["image"], MirrorPad(geometry)(data["image"]))
    assert padded["other"] == 3
    cropped = CropToOutputd("image", geometry)(padded)
    assert np.array_equal(cropped["image"], data["image"])
    assert data["image"].shape == (1, 10, 12)


@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    margin=st.tuples(*[st.integers(0, 25)] * 3),
    multiple=st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
)
@settings(max_examples=40, deadline=None)
def test_volumes_shorter_than_the_margin_mirror_again_and_again(
    size: tuple[int, ...], margin: tuple[int, ...], multiple: tuple[int, ...]
) -> None:
    least = tuple(2 * m + step for m, step in zip(margin, multiple, strict=True))
    geometry = TileGeometry(margin, multiple, least)
    volume = np.random.default_rng(0).random((1, *size))
    transform = MirrorPad(geometry)
    padded = transform(MetaTensor(torch.from_numpy(volume)))
    pads = [(m, p - n - m) for m, n, p in zip(margin, size, padded.shape[1:], strict=True)]
    assert all(
        m <= after < m + step for m, step, (_, after) in zip(margin, multiple, pads, strict=True)
    )
    assert np.array_equal(padded.numpy(), np.pad(volume, [(0, 0), *pads], mode="reflect"))
    assert np.array_equal(transform.inverse(padded).numpy(), volume)
