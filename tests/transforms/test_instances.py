import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from overtile.transforms import (
    InstancesFromProbabilities,
    InstancesFromProbabilitiesd,
    SeparateTouching,
)


def smooth(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), 1.3)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def cores(probability: NDArray[np.float32], threshold: float, min_size: int) -> NDArray[np.int_]:
    """Components above the threshold, those that are large enough, in order."""
    found, count = label(probability > threshold)
    result, number = np.zeros_like(found), 0
    for n in range(1, count + 1):
        if (found == n).sum() >= min_size:
            number += 1
            result[found == n] = number
    return result


maps = st.builds(
    smooth,
    st.integers(0, 9999),
    st.sampled_from([(20, 25), (7, 31), (5, 9, 11), (30, 1)]),
)


@given(probability=maps, threshold=st.floats(0.5, 0.95), min_size=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_instances_are_the_components(
    probability: NDArray[np.float32], threshold: float, min_size: int
) -> None:
    found = InstancesFromProbabilities(threshold, min_size)(probability[None])
    assert (found.dtype, found.shape) == (np.int32, (1, *probability.shape))
    assert np.array_equal(found[0], cores(probability, threshold, min_size))


@pytest.mark.parametrize("wrong", [-3.0, 255.0, np.nan, np.inf])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    probability = np.full((1, 5, 5), 0.5, np.float32)
    probability[0, 2, 2] = wrong
    with pytest.raises(ValueError, match=r"expected P.cell. in .0, 1."):
        InstancesFromProbabilities(0.5)(probability)


@given(
    probability=maps,
    threshold=st.floats(0.55, 0.9),
    extent=st.floats(0.2, 0.5),
    grow=st.sampled_from([0.5, 1, 2, 3.3, 40]),
    min_size=st.integers(0, 4),
)
@settings(max_examples=80, deadline=None)
def test_growing_takes_what_is_likely_and_near(
    probability: NDArray[np.float32], threshold: float, extent: float, grow: float, min_size: int
) -> None:
    transform = InstancesFromProbabilities(threshold, min_size, grow, extent)
    found, core = transform(probability[None])[0], cores(probability, threshold, min_size)
    assert np.array_equal(found[core > 0], core[core > 0])  # no core is lost, none merges
    ids = np.unique(core[core > 0])
    if len(ids) == 0:
        assert not found.any()
        return
    stack = np.stack([distance_transform_edt(core != n) for n in ids])
    nearest = stack.min(axis=0)
    expected = (core > 0) | ((probability > extent) & (nearest <= grow))
    assert np.array_equal(found > 0, expected)
    to_own = np.take_along_axis(stack, np.searchsorted(ids, found)[None] % len(ids), axis=0)[0]
    np.testing.assert_allclose(to_own[expected], nearest[expected], rtol=1e-6)


def test_last_channel_is_the_cell() -> None:
    probability = smooth(0, (20, 20))
    two = np.stack([1 - probability, probability])
    transform = InstancesFromProbabilities(0.6)
    assert np.array_equal(transform(two), transform(probability[None]))
    assert transform(two).max() > 1


def test_kinds_and_metadata_are_kept() -> None:
    array = smooth(1, (1, 20, 20))
    transform = InstancesFromProbabilities(0.6, grow=2)
    tensor = transform(torch.from_numpy(array))
    assert (type(tensor), tensor.dtype) == (torch.Tensor, torch.int32)
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])).double()
    meta = transform(MetaTensor(torch.from_numpy(array), affine=affine))
    assert isinstance(meta, MetaTensor)
    assert torch.equal(meta.affine, affine)
    for result in (tensor, meta):
        assert np.array_equal(result.numpy(), transform(array))


def test_dictionaries() -> None:
    array = smooth(2, (1, 20, 20))
    expected = InstancesFromProbabilities(0.7, 3, 1, 0.4)(array)
    options = {"threshold": 0.7, "min_size": 3, "grow": 1, "extent": 0.4}
    replaced = InstancesFromProbabilitiesd("pred", **options)({"pred": array})
    assert np.array_equal(replaced["pred"], expected)
    added = InstancesFromProbabilitiesd("pred", output_key="cells", **options)({"pred": array})
    assert added["pred"] is array
    assert np.array_equal(added["cells"], expected)


@pytest.mark.parametrize(
    "options",
    [{"threshold": 1.1}, {"extent": 0.6}, {"extent": -0.1}, {"min_size": -1}, {"grow": -1}],
)
def test_arguments_out_of_range_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}={next(iter(options.values()))}"):
        InstancesFromProbabilities(**options)


@given(probability=maps, threshold=st.floats(0.55, 0.9), extent=st.floats(0.2, 0.5))
@settings(max_examples=60, deadline=None)
def test_watershed_grows_into_the_same_pixels(
    probability: NDArray[np.float32], threshold: float, extent: float
) -> None:
    core = cores(probability, threshold, 0)
    flooded = InstancesFromProbabilities(threshold, 0, 10**4, extent, growth="watershed")
    found = flooded(probability[None])[0]
    assert np.array_equal(found[core > 0], core[core > 0])
    # all that a core can be reached from without leaving what is likely, and in one piece
    reachable, _ = label(probability > extent)
    with_core = np.unique(reachable[core > 0])
    assert np.array_equal(found > 0, np.isin(reachable, with_core[with_core > 0]))
    for n in np.unique(found[found > 0]):
        assert label(found == n)[1] == 1


def test_watershed_meets_in_the_valley_and_nearest_half_way() -> None:
    row = np.array([[[0.9, 0.5, 0.4, 0.3, 0.2, 0.15, 0.9]]])
    settings = {"threshold": 0.8, "grow": 9, "extent": 0.1}
    nearest = InstancesFromProbabilities(**settings)(row)
    flooded = InstancesFromProbabilities(**settings, growth="watershed")(row)
    assert nearest[0, 0].tolist() == [1, 1, 1, 1, 2, 2, 2]
    assert flooded[0, 0].tolist() == [1, 1, 1, 1, 1, 2, 2]


def test_what_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="threshold='abc': expected a number"):
        InstancesFromProbabilities("abc")


def test_growth_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="growth='random'"):
        InstancesFromProbabilities(growth="random")


@given(probability=maps, threshold=st.floats(0.4, 0.8), line=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_narrow_gaps_go_to_the_nearer_cell(
    probability: NDArray[np.float32], threshold: float, line: int
) -> None:
    core = cores(probability, threshold, 0)
    found = InstancesFromProbabilities(threshold, line=line)(probability[None])[0]
    if core.max() < 2:
        assert np.array_equal(found, core)
        return
    each = np.stack([distance_transform_edt(core != n) for n in range(1, core.max() + 1)])
    near, far = np.sort(each, 0)[:2]
    given_back = (core == 0) & (near + far < line + 2)
    assert np.array_equal(found > 0, (core > 0) | given_back)
    distance = np.take_along_axis(each, np.maximum(found - 1, 0)[None], 0)[0]
    assert np.allclose(distance[found > 0], near[found > 0])


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_line_between_two_cells_is_undone(width: int) -> None:
    touching = np.repeat(np.array([[1] * 20 + [2] * 20], np.int32), 30, 0)
    separated = np.asarray(SeparateTouching(width)(touching[None]))
    assert (separated == 0).sum() == 30 * width
    found = InstancesFromProbabilities(0.5, line=width)((separated > 0).astype(np.float32))[0]
    assert (found > 0).all()
    assert (found != touching).sum() <= 30 * ((width + 1) // 2)  # the two share the line


def test_wider_gaps_stay() -> None:
    row = np.array([[[1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1]]], np.float32)
    found = [InstancesFromProbabilities(0.5, line=n)(row)[0, 0].tolist() for n in (0, 1, 2)]
    assert found[0] == [1, 1, 0, 2, 2, 0, 0, 3, 3, 0, 0, 0, 4]
    assert found[1] == [1, 1, 1, 2, 2, 0, 0, 3, 3, 0, 0, 0, 4]
    assert found[2] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0, 4]
