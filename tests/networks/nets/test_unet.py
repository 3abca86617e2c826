from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from overtile.networks import GeometryError, OverlapTileInferer, PaddedUNet, ValidUNet

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@pytest.fixture(scope="module")
def paper() -> ValidUNet:
    torch.manual_seed(0)
    return ValidUNet().eval()


def standard_deviations(network: nn.Module, image: torch.Tensor) -> dict[str, float]:
    """Of what every layer but dropout puts out, by the layer's name."""
    found: dict[str, float] = {}

    def note(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            found[name] = output.std().item()

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, (*CONVOLUTIONS, nn.ReLU, nn.MaxPool2d))
    ]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return found


def test_parameters_and_layers_of_the_paper(paper: ValidUNet) -> None:
    assert sum(p.numel() for p in paper.parameters()) == 31_030_658
    kernels = [(type(m), m.kernel_size) for m in paper.modules() if isinstance(m, CONVOLUTIONS)]
    assert len(kernels) == 23
    assert kernels.count((nn.Conv2d, (3, 3))) == 18
    assert kernels.count((nn.ConvTranspose2d, (2, 2))) == 4
    assert kernels.count((nn.Conv2d, (1, 1))) == 1
    assert sum(isinstance(m, nn.MaxPool2d) for m in paper.modules()) == 4


def test_parameters_follow_from_the_layers() -> None:
    widths, before, classes = (3, 5, 7), 2, 4
    expected, channels = 0, before
    for width in widths:
        expected += channels * width * 27 + width + width * width * 27 + width
        channels = width
    for upper, lower in ((5, 7), (3, 5)):
        expected += lower * upper * 8 + upper  # up-convolution
        expected += 2 * upper * upper * 27 + upper + upper * upper * 27 + upper
    expected += 3 * classes + classes
    network = ValidUNet(3, before, classes, widths)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_paper_tile() -> None:
    network = ValidUNet(features=(1, 2, 4, 8, 16)).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("up", ["deconv", "nearest"])
@pytest.mark.parametrize("down", ["maxpool", "conv"])
@pytest.mark.parametrize(
    ("dims", "features", "size"),
    [(2, (3, 2), (20, 18)), (3, (2, 3), (18, 20, 22)), (2, (1, 2, 2, 5), (92, 100))],
)
def test_any_depth_width_and_kind(
    up: str, down: str, dims: int, features: tuple[int, ...], size: tuple[int, ...]
) -> None:
    network = ValidUNet(dims, 3, 4, features, up, down).eval()
    with torch.no_grad():
        out = network(torch.rand(2, 3, *size))
    assert out.shape == (2, 4, *(n - 2 * network.geometry.axis(0)[0] for n in size))
    assert out.std() > 0


@pytest.mark.parametrize("pixel", [0, 11, 12, 23])
@pytest.mark.parametrize("up", ["deconv", "nearest"])
def test_output_pixel_sees_the_context_that_pooling_gives_it(up: str, pixel: int) -> None:
    network = ValidUNet(features=(4, 4), up=up, down="conv").eval()
    for parameter in network.parameters():
        parameter.data.abs_()  # so that no ReLU hides a pixel
    image = torch.rand(1, 1, 40, 40, requires_grad=True)
    network(image)[0, 0, pixel, pixel].backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    first = pixel // 2 * 2  # two pixels that were pooled together see the same
    assert (rows.min(), rows.max()) == (first, first + 17)


def test_initial_weights_are_normal_with_the_papers_deviation(paper: ValidUNet) -> None:
    for module in paper.modules():
        if not isinstance(module, CONVOLUTIONS):
            continue
        taps = 1 if isinstance(module, nn.ConvTranspose2d) else int(np.prod(module.kernel_size))
        expected = (2 / (module.in_channels * taps)) ** 0.5
        values = module.weight.detach().double().flatten()
        error = 5 * expected / len(values) ** 0.5  # five standard errors and more
        assert abs(values.mean()) < error
        assert abs(values.std() - expected) < error
        assert not module.bias.any()
        if len(values) > 1000:  # a normal distribution, not a uniform one: 4.55% beyond 2 std
            beyond = (values.abs() > 2 * expected).double().mean().item()
            assert beyond == pytest.approx(0.0455, abs=5 * (0.0455 / len(values)) ** 0.5)


def test_neurons_of_an_up_convolution_meet_one_tap() -> None:
    network = ValidUNet(features=(2, 3))
    up = network.up[0]
    image = torch.rand(1, 3, 4, 4, requires_grad=True)
    up(image)[0, 0, 3, 3].backward()
    assert (image.grad != 0).sum() == up.in_channels  # N of the initialisation


def test_unit_variance_on_every_level(paper: ValidUNet) -> None:
    deviations = standard_deviations(paper, torch.randn(1, 1, 188, 188))
    assert len(deviations) == 23 + 18 + 4  # convolutions, ReLUs, poolings
    assert all(0.1 < deviation < 10 for deviation in deviations.values()), deviations


def test_unit_variance_check_notices_a_wrong_initialisation() -> None:
    network = ValidUNet(features=(16, 32, 64, 128, 256)).eval()
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.normal_(module.weight, std=0.01)
    deviations = standard_deviations(network, torch.randn(1, 1, 188, 188))
    assert min(deviations.values()) < 0.1


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, ["bottom.4"]), (2, ["contract.1.4", "bottom.4"]), (4, ["contract.3.4", "bottom.4"])],
)
def test_dropout_ends_the_contracting_path(depth: int, expected: list[str]) -> None:
    network = ValidUNet(features=(2,) * (depth + 1), dropout=0.3)
    found = {n: m.p for n, m in network.named_modules() if isinstance(m, nn.Dropout)}
    assert found == dict.fromkeys(expected, 0.3)


def test_dropout_acts_in_training_alone() -> None:
    network = ValidUNet(features=(4, 8))
    image = torch.rand(1, 1, 20, 20)
    with torch.no_grad():
        assert not torch.equal(network.train()(image), network(image))
        assert torch.equal(network.eval()(image), network(image))
        none = ValidUNet(features=(4, 8), dropout=0.0).train()
        assert torch.equal(none(image), none(image))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is not supported:DeprecationWarning")
@pytest.mark.parametrize(("dims", "up"), [(2, "deconv"), (2, "nearest"), (3, "deconv")])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_scripted_network_computes_the_same(dims: int, up: str, norm: str | None) -> None:
    network = ValidUNet(dims, features=(2, 3), up=up, norm=norm).eval()
    image = torch.rand(1, 1, *(20, 18, 22)[:dims])
    with torch.no_grad():
        assert torch.allclose(torch.jit.script(network)(image), network(image), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 2, 20, 20), (1, 20, 20), (1, 1, 20, 20, 20), (20, 20)])
def test_wrong_channels_or_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[B, 1, H, W\]"):
        ValidUNet(features=(1, 1))(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.bfloat16])
def test_another_type_than_the_weights_is_refused(dtype: torch.dtype) -> None:
    network, image = ValidUNet(features=(1, 1)), torch.zeros(1, 1, 20, 20, dtype=dtype)
    with pytest.raises(ValueError, match=rf"{dtype}: expected torch\.float32"):
        network(image)
    with pytest.raises(ValueError, match=rf"{dtype}: expected torch\.float32"):
        OverlapTileInferer(20)(image, network)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image.bfloat16()).isfinite().all()


def test_wrong_axes_in_3d_and_wrong_size() -> None:
    network = ValidUNet(3, features=(1, 1))
    with pytest.raises(ValueError, match=r"\[B, 1, D, H, W\]"):
        network(torch.zeros(1, 1, 20, 20))
    with pytest.raises(GeometryError, match="18x18x19"):
        network(torch.zeros(1, 1, 18, 18, 19))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("spatial_dims", 1),
        ("up", "linear"),
        ("down", "average"),
        ("features", (64,)),
        ("features", (4, 0)),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("norm", "instance"),
    ],
)
def test_arguments_out_of_range_are_named(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument):
        ValidUNet(**{argument: value})


@pytest.mark.parametrize(("dims", "features"), [(2, (3, 5, 4)), (3, (2, 3))])
def test_padded_network_has_the_valid_ones_weights_and_is_seamless(
    dims: int, features: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    valid = ValidUNet(spatial_dims=dims, features=features, dropout=0).eval()
    padded = PaddedUNet(spatial_dims=dims, features=features, dropout=0).eval()
    padded.load_state_dict(valid.state_dict())
    image = torch.rand(1, 1, *((61, 47) if dims == 2 else (17, 12, 9)))
    with torch.no_grad():
        tiles = OverlapTileInferer(roi_size=padded.geometry.axis(0)[2])(image, padded)
        whole = OverlapTileInferer(roi_size=1000)(image, padded)
        plain = padded(torch.rand(2, 1, *(16,) * dims))
    assert torch.allclose(tiles, whole, atol=1e-4)
    assert plain.shape == (2, 2, *(16,) * dims)


@pytest.mark.parametrize("kind", [ValidUNet, PaddedUNet])
@pytest.mark.parametrize("dims", [2, 3])
def test_batch_norm_is_a_line_a_channel_once_trained(kind: type[ValidUNet], dims: int) -> None:
    torch.manual_seed(0)
    network = kind(dims, features=(3, 4), dropout=0, norm="batch")
    smallest = network.geometry.axis(0)[2]
    for _ in range(3):  # statistics of images of mean 5
        network(5 + torch.randn(2, 1, *(smallest,) * dims))
    plain = kind(dims, features=(3, 4), dropout=0)
    lines = [m for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d))]
    assert len(lines) == 6
    ours, theirs = (
        [m for m in one.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
        for one in (network, plain)
    )
    with torch.no_grad():
        plain.load_state_dict(network.state_dict(), strict=False)
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            other.weight.copy_(mine.weight)
            if i == len(lines):  # the last one makes the logits
                other.bias.copy_(mine.bias)
                break
            line = lines[i]
            factor = line.weight / (line.running_var + line.eps).sqrt()
            other.weight.mul_(factor.reshape(-1, *[1] * (dims + 1)))
            other.bias.copy_(line.bias - factor * line.running_mean)
        image = 5 + torch.randn(1, 1, *(41, 30, 23)[:dims])
        whole = OverlapTileInferer(roi_size=0)(image, network.eval())
        tiles = OverlapTileInferer(roi_size=smallest + 4)(image, network)
        expected = OverlapTileInferer(roi_size=0)(image, plain.eval())
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tiles, whole, rtol=1e-4, atol=1e-4)


def test_padded_network_refuses_what_it_cannot_pool() -> None:
    with pytest.raises(GeometryError, match="expected multiples of 4"):
        PaddedUNet(features=(2, 2, 2))(torch.rand(1, 1, 16, 18))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_without_a_gradient_is_max_pooling(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    pool = ValidUNet(features=(3, 4)).down[0]
    image = torch.randn(2, 3, 8, 10).to(dtype)
    image[0, 0, 0, 0], image[0, 1, 1, 1] = float("nan"), float("-inf")
    expected = torch.nn.functional.max_pool2d(image, 2)
    with torch.no_grad():
        found = pool(image.contiguous(memory_format=torch.channels_last))
    assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
    ties = torch.zeros(1, 1, 2, 2, requires_grad=True)
    pool(ties).backward(torch.ones(1, 1, 1, 1))
    assert ties.grad is not None
    assert ties.grad.flatten().tolist() == [1, 0, 0, 0]  # training is as it was


def test_the_first_layer_has_channels_innermost_too() -> None:
    network = ValidUNet(features=(8, 16))
    with torch.no_grad():
        answer = network.contract[0][0](torch.rand(1, 1, 20, 20))
    assert answer.is_contiguous(memory_format=torch.channels_last)
