"""Networks whose kernels and poolings differ by axis and level, and their geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from overtile.networks import (
    ArgumentError,
    GeometryError,
    OverlapTileInferer,
    PaddedUNet,
    RegionInferer,
    RotationAveragingInferer,
    TileGeometry,
    ValidUNet,
    context_indices,
    geometry_of,
    measure_receptive_field,
)

Numbers = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Shape:
    """Kernels and strides, one number a level and axis."""

    kernels: Numbers
    strides: Numbers

    @property
    def dims(self) -> int:
        return len(self.kernels[0])

    def of(self, axis: int) -> tuple[list[int], list[int]]:
        return [k[axis] for k in self.kernels], [s[axis] for s in self.strides]

    def network(self, kind: type[ValidUNet] = ValidUNet, **more: Any) -> ValidUNet:
        features = (2, 3, 3, 3)[: len(self.kernels)]
        network = kind(
            self.dims, 1, 2, features, kernel_size=self.kernels, strides=self.strides, **more
        )
        for parameter in network.parameters():  # biases too, or zeros would hide a wrong place
            parameter.data += 0.1 * torch.randn_like(parameter)
        return network.double().eval()


@st.composite
def shapes(draw: st.DrawFn, dims: int | None = None, depth: int | None = None) -> Shape:
    dims = dims or draw(st.integers(2, 3))
    depth = depth or draw(st.integers(1, 3))
    kernel, stride = (st.tuples(*[st.sampled_from(c)] * dims) for c in ((1, 3), (1, 2)))
    return Shape(
        draw(st.tuples(*[kernel] * (depth + 1))),
        draw(st.tuples(*[stride] * depth)),
    )


THICK = Shape(((1, 3, 3), (3, 3, 3), (3, 3, 3)), ((1, 2, 2), (2, 2, 2)))  # sections
SECTIONS = Shape(((1, 3, 3), (3, 3, 3)), ((1, 2, 2),))
PLANE = Shape(((3, 3), (1, 3), (1, 1)), ((2, 1), (1, 2)))


def walk(size: int, kernels: list[int], strides: list[int]) -> int | None:
    """Output along one axis, layer by layer; None where a layer crops or pools unevenly."""
    skips = []
    for kernel, stride in zip(kernels, strides, strict=False):
        size -= 2 * (kernel - 1)
        if size <= 0 or size % stride:
            return None
        skips.append(size)
        size //= stride
    size -= 2 * (kernels[-1] - 1)
    if size <= 0:
        return None
    for kernel, stride, skip in zip(
        kernels[-2::-1], reversed(strides), reversed(skips), strict=True
    ):
        size *= stride
        if (skip - size) % 2:
            return None
        size -= 2 * (kernel - 1)
        if size <= 0:
            return None
    return size


def reference(network: ValidUNet, shape: Shape, x: Tensor, padded: bool = False) -> Tensor:
    """The network by the formulas alone, from the weights under their names."""
    weights = dict(network.named_parameters())
    convolve = functional.conv2d if shape.dims == 2 else functional.conv3d
    transposed = functional.conv_transpose2d if shape.dims == 2 else functional.conv_transpose3d
    pool = functional.max_pool2d if shape.dims == 2 else functional.max_pool3d

    def block(name: str, x: Tensor, kernel: tuple[int, ...]) -> Tensor:
        for number in (0, 2):
            w, b = weights[f"{name}.{number}.weight"], weights[f"{name}.{number}.bias"]
            assert tuple(w.shape[2:]) == kernel
            x = convolve(x, w, b, padding=tuple(k // 2 for k in kernel) if padded else 0).relu()
        return x

    skips = []
    for level, stride in enumerate(shape.strides):
        skips.append(block(f"contract.{level}", x, shape.kernels[level]))
        x = pool(skips[-1], stride, stride)
    x = block("bottom", x, shape.kernels[-1])
    for number, level in enumerate(reversed(range(len(shape.strides)))):
        stride = shape.strides[level]
        w, b = weights[f"up.{number}.weight"], weights[f"up.{number}.bias"]
        assert tuple(w.shape[2:]) == stride
        x = transposed(x, w, b, stride=stride)
        skip = skips[level]
        for axis in range(2, x.ndim):
            less = (skip.shape[axis] - x.shape[axis]) // 2
            skip = skip.narrow(axis, less, x.shape[axis])
        x = block(f"expand.{number}", torch.cat([skip, x], 1), shape.kernels[level])
    return convolve(x, weights["head.weight"], weights["head.bias"])


def mirrored(image: Tensor, geometry: TileGeometry) -> Tensor:
    """The image with context of NumPy's, in the smallest size that the network takes."""
    pads = [(0, 0), (0, 0)]
    for axis, n in enumerate(image.shape[2:]):
        margin, multiple, size = geometry.axis(axis)
        while size - 2 * margin < n:
            size += multiple
        pads.append((margin, size - n - margin))
    return torch.from_numpy(np.pad(image.numpy(), pads, mode="reflect"))


@given(shape=shapes(), extra=st.tuples(*[st.integers(-9, 20)] * 3))
@settings(max_examples=150, deadline=None)
def test_sizes_are_those_that_survive_the_walk(shape: Shape, extra: tuple[int, ...]) -> None:
    depth = len(shape.strides)
    geometry = TileGeometry.unet(depth, kernel_size=shape.kernels, strides=shape.strides)
    for axis in range(shape.dims):
        margin, multiple, minimum = geometry.axis(axis)
        alone = TileGeometry(margin, multiple, minimum)
        first = next(n for n in range(1, 500) if walk(n, *shape.of(axis)) is not None)
        assert first == minimum
        for size in range(max(1, minimum + extra[axis]), minimum + extra[axis] + 9):
            out = walk(size, *shape.of(axis))
            assert alone.valid(size) == (out is not None), size
            assert out is None or alone.output_size(size) == out


@given(shape=shapes(), steps=st.tuples(*[st.integers(0, 2)] * 3))
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_networks_deliver_the_sizes_and_numbers_of_the_formulas(
    shape: Shape, steps: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network = shape.network()
    geometry = network.geometry
    size = [geometry.axis(i)[2] + steps[i] * geometry.axis(i)[1] for i in range(shape.dims)]
    image = torch.randn(1, 1, *size, dtype=torch.float64)
    found = network(image)
    assert found.shape[2:] == tuple(walk(n, *shape.of(i)) for i, n in enumerate(size))  # type: ignore[misc]
    assert found.shape[2:] == geometry.output_size(size)
    assert torch.allclose(found, reference(network, shape, image), atol=1e-9)
    for axis in range(shape.dims):
        for n in (size[axis] - 1, size[axis] + 1):
            other = [*size[:axis], n, *size[axis + 1 :]]
            if walk(n, *shape.of(axis)) is None:
                with pytest.raises(GeometryError):
                    network(torch.zeros(1, 1, *other, dtype=torch.float64))


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_the_default_is_the_papers_network_to_the_bit(dims: int) -> None:
    shape = Shape(((3,) * dims,) * 3, ((2,) * dims,) * 2)
    torch.manual_seed(0)
    network = ValidUNet(dims, features=(3, 4, 5)).eval()
    torch.manual_seed(0)
    spelt = ValidUNet(dims, features=(3, 4, 5), kernel_size=[3, 3, 3], strides=shape.strides).eval()
    ours, theirs = network.state_dict(), spelt.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert network.geometry == spelt.geometry == TileGeometry.unet(2)
    image = torch.randn(1, 1, *(44,) * dims)
    assert torch.equal(network(image), spelt(image))
    assert torch.equal(network(image), reference(network, shape, image))


@given(
    shape=shapes(dims=3, depth=2),
    size=st.tuples(*[st.integers(1, 11)] * 3),
    steps=st.tuples(*[st.integers(0, 1)] * 3),
)
@settings(max_examples=12, deadline=None)
@torch.no_grad()
def test_tiles_are_the_whole_volume(
    shape: Shape, size: tuple[int, ...], steps: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network = shape.network()
    geometry = network.geometry
    roi = [
        geometry.input_size(tuple(geometry.axis(i)[1] for i in range(3)))[i]
        + steps[i] * geometry.axis(i)[1]
        for i in range(3)
    ]
    image = torch.randn(1, 1, *size, dtype=torch.float64)
    whole = reference(network, shape, mirrored(image, geometry))
    found = OverlapTileInferer(roi, 2)(image, network)
    assert found.shape[2:] == size
    assert torch.allclose(found, whole[(..., *map(slice, size))], atol=1e-9)


@pytest.mark.parametrize(("kind", "shape"), [(ValidUNet, THICK), (PaddedUNet, SECTIONS)])
@torch.no_grad()
def test_many_tiles_of_thick_sections_are_the_whole_volume(
    kind: type[ValidUNet], shape: Shape
) -> None:
    torch.manual_seed(0)
    network = shape.network(kind)
    geometry = network.geometry
    steps = [geometry.axis(axis)[1] for axis in range(3)]
    image = torch.randn(1, 1, *(n + n // 2 + 1 for n in steps), dtype=torch.float64)
    size = tuple(image.shape[2:])
    roi = geometry.input_size(steps)
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    found = OverlapTileInferer(roi)(image, network)
    assert len(seen) == 2**3
    assert set(seen) == {roi}
    whole = reference(network, shape, mirrored(image, geometry), padded=kind is PaddedUNet)
    if kind is PaddedUNet:  # it answers for its margin too
        for axis in range(3):
            whole = whole.narrow(axis + 2, geometry.axis(axis)[0], size[axis])
    assert torch.allclose(found, whole[(..., *map(slice, size))], atol=1e-9)


@pytest.mark.parametrize("kind", [ValidUNet, PaddedUNet])
@pytest.mark.parametrize("versions", [1, 8])
@torch.no_grad()
def test_a_region_of_a_volume_is_answered_as_the_whole(
    kind: type[ValidUNet], versions: int
) -> None:
    torch.manual_seed(0)
    network = Shape(((1, 3, 3), (3, 3, 1)), ((1, 2, 1),)).network(kind)
    inferer = RotationAveragingInferer(OverlapTileInferer(), versions)
    regions = RegionInferer(inferer, network, 3)
    size = (5, 23, 19)
    image = torch.randn(1, 1, *size, dtype=torch.float64)
    whole = inferer(image, network)
    assert regions.multiple == (1, 2, 1)
    for region in (
        (slice(0, 3), slice(8, 23), slice(0, 11)),
        (slice(3, 5), slice(14, 20), slice(7, 19)),
    ):
        window = image
        for axis, (part, r) in enumerate(zip(region, regions.reach, strict=True), start=2):
            places = context_indices(part.start - r, part.stop + r, image.shape[axis])
            window = window.index_select(axis, torch.tensor(places))
        # of the turned region too
        roi = regions.geometry.input_size((3, 8, 8))
        found = regions(window, region, size, roi)
        # the averages over versions pass through float32
        bound = 1e-9 if versions == 1 else 1e-5
        assert (found - whole[(..., *region)]).abs().max() < bound


def assert_measured(shape: Shape, kind: type[ValidUNet]) -> None:
    torch.manual_seed(0)
    network, dims = shape.network(kind).float(), shape.dims
    valid = TileGeometry.unet(len(shape.strides), kernel_size=shape.kernels, strides=shape.strides)
    axes = [valid.axis(axis) for axis in range(dims)]
    wanted = [max(8, 4 * (margin + multiple) + 1) for margin, multiple, _ in axes]
    size = (  # far less than the tiles of a padded network
        [-(-n // m) * m for n, (_, m, _) in zip(wanted, axes, strict=True)]
        if kind is PaddedUNet
        else network.geometry.input_size(wanted)
    )
    found = measure_receptive_field(network, size, spatial_dims=dims)
    radius, period = (
        (v,) * dims if isinstance(v, int) else v for v in (found.radius, found.period)
    )
    assert radius == tuple(margin + multiple - 1 for margin, multiple, _ in axes)
    assert period == tuple(multiple for _, multiple, _ in axes)
    if kind is PaddedUNet:
        margins = found.geometry
        assert [margins.axis(i) for i in range(dims)] == [
            network.geometry.axis(i) for i in range(dims)
        ]


@pytest.mark.parametrize("kind", [ValidUNet, PaddedUNet])
def test_the_geometry_of_a_volumes_network_is_that_which_is_measured(
    kind: type[ValidUNet],
) -> None:
    assert_measured(SECTIONS, kind)


# of fixed shapes: with random weights and kernels of 1 alone, a ReLU may hide what a network sees
@pytest.mark.parametrize("kind", [ValidUNet, PaddedUNet])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(((3, 3), (3, 3)), ((2, 2),)),
        Shape(((1, 3), (3, 3)), ((1, 2),)),
        Shape(((1, 3), (3, 3), (3, 3)), ((1, 2), (2, 2))),
    ],
)
def test_the_geometry_of_a_plane_is_that_which_is_measured(
    shape: Shape, kind: type[ValidUNet]
) -> None:
    assert_measured(shape, kind)


@given(shape=shapes())
@settings(max_examples=20, deadline=None)
def test_initial_weights_have_the_variance_of_their_taps(shape: Shape) -> None:
    torch.manual_seed(0)
    levels = len(shape.kernels)
    network = ValidUNet(
        shape.dims,
        features=(24,) * levels,
        down="conv",
        kernel_size=shape.kernels,
        strides=shape.strides,
    )
    kernels = []
    for module in network.modules():
        if not isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            continue
        kernels.append(tuple(module.kernel_size))
        transposed = isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d))
        taps = 1 if transposed else int(np.prod(module.kernel_size))
        expected = (2 / (module.in_channels * taps)) ** 0.5
        values = module.weight.detach().double()
        assert abs(float(values.square().mean().sqrt()) - expected) < 5 * expected / (
            values.numel() ** 0.5
        )
    assert sorted(kernels) == sorted(
        [k for kernel in shape.kernels[:-1] for k in [kernel] * 4]
        + [shape.kernels[-1]] * 2
        + [s for stride in shape.strides for s in [stride] * 2]
        + [(1,) * shape.dims]
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is not supported:DeprecationWarning")
@pytest.mark.parametrize("up", ["deconv", "nearest"])
@pytest.mark.parametrize("down", ["maxpool", "conv"])
@pytest.mark.parametrize("shape", [THICK, PLANE], ids=["sections", "plane"])
@pytest.mark.parametrize("kind", [ValidUNet, PaddedUNet])
def test_scripted_networks_compute_the_same(
    kind: type[ValidUNet], shape: Shape, down: str, up: str
) -> None:
    torch.manual_seed(0)
    network = shape.network(kind, up=up, down=down)
    scripted = torch.jit.script(network)
    image = torch.randn(1, 1, *network.geometry.input_size((3,) * shape.dims), dtype=torch.float64)
    with_gradient = network(image)
    assert torch.equal(scripted(image), with_gradient)
    with torch.no_grad():
        assert torch.equal(network(image), with_gradient)
        assert torch.equal(scripted(image), with_gradient)
    assert geometry_of(scripted) == network.geometry


def test_a_padded_network_names_the_multiples_of_each_axis() -> None:
    with pytest.raises(GeometryError, match=r"\(4, 6, 8\): expected multiples of 2, 4, 4"):
        THICK.network(PaddedUNet)(torch.zeros(1, 1, 4, 6, 8, dtype=torch.float64))


@pytest.mark.parametrize("kind", [ValidUNet, PaddedUNet])
def test_a_single_section_is_refused_where_the_network_pools(kind: type[ValidUNet]) -> None:
    network = kind(3, features=(1, 1))
    with pytest.raises(GeometryError) as error:
        network(torch.zeros(1, 1, 1, 20, 20))
    said = str(error.value)
    assert "(1, 20, 20): one pixel along axis 0, where the network pools by 2" in said
    assert "kernel_size and strides of 1 along that axis, or spatial_dims=2" in said
    assert "\n" not in said
    flat = kind(3, features=(1, 1), kernel_size=[(1, 3, 3)] * 2, strides=[(1, 2, 2)])
    assert flat(torch.zeros(1, 1, 1, 20, 20)).shape[2] == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kernel_size", 2, "expected 1 or 3 along an axis"),
        ("kernel_size", [3, 3], "or 3 of them, one a level"),
        ("kernel_size", [3, 3, 3, 3], "or 3 of them, one a level"),
        ("kernel_size", [(3, 3), 3, 3], "with 3 numbers, one an axis"),
        ("kernel_size", [(1, 3, 5), 3, 3], "expected 1 or 3 along an axis"),
        ("kernel_size", "333", "a whole number"),
        ("kernel_size", 3.0, "a whole number"),
        ("kernel_size", None, "a whole number"),
        ("kernel_size", [(1, 3, "3"), 3, 3], "a whole number"),
        ("strides", 3, "expected 1 or 2 along an axis"),
        ("strides", 0, "expected 1 or 2 along an axis"),
        ("strides", [2], "or 2 of them"),
        ("strides", [1, 2, 2], "leave out the first, which DynUNet has"),
        ("strides", [(2, 2), 2], "with 3 numbers, one an axis"),
    ],
)
def test_kernels_and_strides_of_a_wrong_length_or_value_are_named(
    name: str, value: Any, said: str
) -> None:
    with pytest.raises(ArgumentError) as error:
        ValidUNet(3, features=(1, 1, 1), **{name: value})
    assert str(error.value).startswith(f"{name} {value!r}")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_geometry_refuses_kernels_without_a_centre() -> None:
    for kernel in (2, 0, -1):
        with pytest.raises(ArgumentError, match=f"kernel_size {kernel}"):
            TileGeometry.unet(1, kernel_size=kernel)
    with pytest.raises(ArgumentError, match="strides 0"):
        TileGeometry.unet(1, strides=0)
    with pytest.raises(ArgumentError, match="kernel_size"):
        TileGeometry.unet(1, kernel_size=[(1, 3), 3], strides=[(1, 2, 2)])
