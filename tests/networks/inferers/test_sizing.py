"""Sizing a tile changes nothing in the network that it is given."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks import nets
from monai.utils import OptionalImportError
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves

from overtile.networks import (
    GeometryError,
    OverlapTileInferer,
    RegionInferer,
    TileGeometry,
    ValidUNet,
    peak_bytes,
)
from overtile.networks.inferers.cost import pass_cost

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Place = tuple[int, str, object]
"""Module, kind and name."""


def tensors_of(network: nn.Module) -> dict[Place, Tensor]:
    """Every tensor that a network holds, under every name, the lazily made ones left out."""
    found: dict[Place, Tensor] = {}
    named = {
        "parameter": network.named_parameters(remove_duplicate=False),
        "buffer": network.named_buffers(remove_duplicate=False),
    }
    for kind, tensors in named.items():
        found |= {(0, kind, name): tensor for name, tensor in tensors}
    for i, module in enumerate(network.modules()):
        held = [leaf for leaf in tree_leaves(vars(module)) if isinstance(leaf, Tensor)]
        found |= {(i, "plain", n): tensor for n, tensor in enumerate(held)}
    return {k: v for k, v in found.items() if not nn.parameter.is_lazy(v)}


def bytes_of(tensor: Tensor) -> Tensor:
    # a copy, or it would change with the tensor
    return tensor.detach().clone().contiguous().reshape(-1).view(torch.uint8)


def gradient(tensor: Tensor) -> int | None:
    return id(tensor.grad) if tensor.is_leaf else None


class State:
    """All that must not change about a network, and about random numbers."""

    def __init__(self, network: nn.Module) -> None:
        tensors = tensors_of(network)
        self.kept = list(tensors.values())  # so that no identity is given out again
        once = {id(tensor): tensor for tensor in tensors.values()}
        stored = {key: bytes_of(tensor) for key, tensor in once.items()}
        self.bytes = {place: stored[id(tensor)] for place, tensor in tensors.items()}
        self.about = {
            place: (
                id(t),
                t.device,
                t.dtype,
                t.shape,
                t.stride(),
                t.requires_grad,
                t.is_leaf and id(t.grad),
            )
            for place, t in tensors.items()
        }
        self.modules = [
            (name, id(module), module.training, sorted(vars(module)))
            for name, module in network.named_modules(remove_duplicate=False)
        ]

    def assert_same(self, later: State) -> None:
        assert later.about == self.about
        assert later.modules == self.modules
        self.assert_same_bytes(later)

    def assert_same_bytes(self, later: State) -> None:
        assert self.has_bytes_of(later)

    def has_bytes_of(self, other: State) -> bool:
        return self.bytes.keys() == other.bytes.keys() and all(
            torch.equal(value, other.bytes[place]) for place, value in self.bytes.items()
        )


def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def drawn() -> tuple[object, ...]:
    """The next random numbers."""
    return torch.rand(4).tolist(), random.random(), np.random.rand()


def assert_untouched(network: nn.Module, image: Tensor, *args: Any) -> None:
    """No way to size a tile changes the network or what is drawn next, also where it raises."""
    size, channels = image.shape[2:], image.shape[1]
    region = RegionInferer(OverlapTileInferer(geometry=whole(image)), network, len(size))
    seed()
    expected = drawn()
    before = State(network)
    seed()
    with contextlib.suppress(ValueError):
        peak_bytes(network, image.shape, image.dtype, *args)
    with contextlib.suppress(ValueError), torch.autocast("cpu", torch.bfloat16):
        region.tile_size(size, 2**30, channels)
    with contextlib.suppress(ValueError), torch.inference_mode():
        pass_cost(network, (2, *image.shape[1:]), image.dtype)
    assert drawn() == expected
    before.assert_same(State(network))


def whole(image: Tensor) -> TileGeometry:
    """A geometry of one tile: the image."""
    return TileGeometry.padded(0, tuple(image.shape[2:]))


def assert_answers_as(twin: nn.Module, network: nn.Module, image: Tensor, *args: Any) -> bool:
    """What an inferer answers with ``network``, and makes of it, is what ``twin`` does alone.

    Returns:
        whether they answer at all, and do not raise.
    """
    before = State(network)
    seed()
    with torch.no_grad():
        try:
            expected = twin(image, *args)
        except Exception:
            expected = None
        seed()
        inferer = OverlapTileInferer(geometry=whole(image))
        outputs = [] if expected is None else tree_leaves(expected)
        sizes = [one.shape[2:] if isinstance(one, Tensor) else () for one in outputs]
        if image.shape[2:] in sizes and all(divides(size, image.shape[2:]) for size in sizes):
            answers = tree_leaves(inferer(image, network, *args))
            for found, one in zip(answers, outputs, strict=True):
                assert found.device == one.device
                assert torch.allclose(found, one, atol=1e-6, equal_nan=True)
            State(twin).assert_same_bytes(State(network))
        else:
            with pytest.raises(Exception):  # noqa: B017, PT011 (whatever the network raises)
                inferer(image, network, *args)
            after = State(network)
            assert before.has_bytes_of(after) or State(twin).has_bytes_of(after)
    return expected is not None


def divides(size: tuple[int, ...], image: tuple[int, ...]) -> bool:
    """Whether an output is of the image's size or of a lower resolution."""
    return len(size) == len(image) and all(n % m == 0 for n, m in zip(image, size, strict=True))


def assert_region_answers_as(twin: nn.Module, network: nn.Module, image: Tensor) -> None:
    size = tuple(image.shape[2:])
    around = nn.functional.pad(image, [n for size in reversed(size) for n in (size, size)])
    inferer = RegionInferer(OverlapTileInferer(geometry=whole(image)), network, len(size))
    before = State(network)
    with torch.no_grad():
        found = inferer(around, tuple(slice(0, n) for n in size), size, size)
        assert torch.allclose(found, twin(image), atol=1e-6)
    before.assert_same(State(network))


# --- every network that MONAI ships ------------------------------------------------------------

_UNET = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": (4, 8)}
_CHAIN = {"in_shape": (1, 32, 32), "channels": (4, 8), "strides": (2, 2)}
_DENSE = {"init_features": 4, "growth_rate": 4, "block_config": (1, 1)}
_SE = {"spatial_dims": 2, "in_channels": 1, "layers": (1, 1, 1, 1), "reduction": 4}
_EFFICIENT = {"model_name": "efficientnet-b0", "pretrained": False, "in_channels": 1}
_VIT = {"hidden_size": 24, "mlp_dim": 16, "num_layers": 1, "num_heads": 2, "spatial_dims": 2}
_LEVELS = {"channels": (8, 8), "attention_levels": (False, True), "norm_num_groups": 4}
_LATENT = {"spatial_dims": 2, "in_channels": 1, "num_res_blocks": 1, **_LEVELS}
_DIFFUSION = {**_LATENT, "num_head_channels": 4}
_RESNET = {"model_name": "resnet10", "pretrained": False, "spatial_dims": 2}
_CELLS = {"spatial_dims": 2, "num_blocks": 2, "num_depths": 1, "channel_mul": 0.1}
_BERT = SimpleNamespace(
    hidden_size=24,
    num_attention_heads=2,
    intermediate_size=16,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    layer_norm_eps=1e-12,
)
_LAYERS = (
    {"name": "conv_0", "n_features": 4, "kernel_size": 3},
    {"name": "res_1", "n_features": 4, "kernels": (3, 3), "repeat": 1},
    {"name": "conv_1", "n_features": 4, "kernel_size": 1},
    {"name": "conv_2", "kernel_size": 1},
)

NETS: dict[str, Callable[[], nn.Module]] = {
    "AHNet": lambda: nets.AHNet((1, 1, 1, 1), 2, psp_block_num=0),
    "AttentionUnet": lambda: nets.AttentionUnet(**_UNET, strides=(2,)),
    "AutoEncoder": lambda: nets.AutoEncoder(**_UNET, strides=(1, 1)),
    "AutoencoderKL": lambda: nets.AutoencoderKL(**_LATENT),
    "BasicUNet": lambda: nets.BasicUNet(2, features=(4,) * 6),
    "BasicUNetPlusPlus": lambda: nets.BasicUNetPlusPlus(2, features=(4,) * 6),
    "BertAttention": lambda: nets.transchex.BertAttention(_BERT),
    "BertMixedLayer": lambda: nets.transchex.BertMixedLayer(_BERT),
    "BertOutput": lambda: nets.transchex.BertOutput(_BERT),
    "BertPreTrainedModel": lambda: nets.transchex.BertPreTrainedModel(),
    "Classifier": lambda: nets.Classifier(**_CHAIN, classes=2),
    "ControlNet": lambda: nets.ControlNet(**_DIFFUSION, conditioning_embedding_num_channels=(4,)),
    "Critic": lambda: nets.Critic(**_CHAIN),
    "DecoderOnlyTransformer": lambda: nets.DecoderOnlyTransformer(4, 8, 8, 1, 2),
    "DenseNet": lambda: nets.DenseNet(2, 1, 2, **_DENSE),
    "DenseNet121": lambda: nets.DenseNet121(2, 1, 2, **_DENSE),
    "DenseNet169": lambda: nets.DenseNet169(2, 1, 2, **_DENSE),
    "DenseNet201": lambda: nets.DenseNet201(2, 1, 2, **_DENSE),
    "DenseNet264": lambda: nets.DenseNet264(2, 1, 2, **_DENSE),
    "DiNTS": lambda: nets.DiNTS(nets.TopologyInstance(**_CELLS), 1, 2, spatial_dims=2),
    "DiffusionModelUNet": lambda: nets.DiffusionModelUNet(**_DIFFUSION, out_channels=1),
    "Discriminator": lambda: nets.Discriminator(**_CHAIN),
    "DynUNet": lambda: nets.DynUNet(
        *(2, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2)),
        filters=(4, 8, 8),
        norm_name="batch",
        deep_supervision=True,
        deep_supr_num=1,
    ),
    "EfficientNet": lambda: nets.EfficientNet(
        ["r1_k3_s11_e1_i32_o16_se0.25"], in_channels=1, num_classes=2, image_size=32
    ),
    "EfficientNetBN": lambda: nets.EfficientNetBN(**_EFFICIENT),
    "EfficientNetBNFeatures": lambda: nets.EfficientNetBNFeatures(**_EFFICIENT),
    "EfficientNetEncoder": lambda: nets.flexible_unet.EfficientNetEncoder(**_EFFICIENT),
    "FlexibleUNet": lambda: nets.FlexibleUNet(1, 2, "resnet10", decoder_channels=(4,) * 5),
    "FullyConnectedNet": lambda: nets.FullyConnectedNet(1024, 2, (4,)),
    "Generator": lambda: nets.Generator((1024,), (4, 16, 16), (1,), (2,)),
    "GlobalNet": lambda: nets.GlobalNet([32, 32], 2, 1, 4, depth=2),
    "HighResBlock": lambda: nets.HighResBlock(2, 1, 4),
    "HighResNet": lambda: nets.HighResNet(2, layer_params=_LAYERS),
    "HoVerNet": lambda: nets.HoVerNet(in_channels=1),
    "LocalNet": lambda: nets.LocalNet(2, 1, 4, (0, 1, 2)),
    "MaskedAutoEncoderViT": lambda: nets.MaskedAutoEncoderViT(
        *(1, 32, 16), **_VIT, decoder_hidden_size=24, decoder_mlp_dim=16, decoder_num_heads=2
    ),
    "MedNeXt": lambda: nets.MedNeXt(
        2, 4, kernel_size=3, blocks_down=(1, 1), blocks_bottleneck=1, blocks_up=(1, 1)
    ),
    "MultiScalePatchDiscriminator": lambda: nets.MultiScalePatchDiscriminator(
        2, 1, 2, 4, 1, minimum_size_im=32
    ),
    "NaViT": lambda: nets.NaViT(32, 16, 2, **_VIT),
    "NetAdapter": lambda: nets.NetAdapter(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.AvgPool2d(30), nn.Linear(8, 2)), 2, pool=None
    ),
    "PatchDiscriminator": lambda: nets.PatchDiscriminator(2, 4, 1, num_layers_d=1),
    "PatchMerging": lambda: nets.swin_unetr.PatchMerging(32, spatial_dims=2),
    "PatchMergingV2": lambda: nets.swin_unetr.PatchMergingV2(32, spatial_dims=2),
    "Pooler": lambda: nets.transchex.Pooler(32),
    "Quicknat": lambda: nets.Quicknat(2, num_filters=4),
    "RegUNet": lambda: nets.RegUNet(2, 1, 4, depth=2),
    "Regressor": lambda: nets.Regressor(**_CHAIN, out_shape=(2,)),
    "ResNet": lambda: nets.ResNet("basic", (1,) * 4, (4, 4, 8, 8), 2, 1, num_classes=2),
    "ResNetBlock": lambda: nets.ResNetBlock(1, 1, 2),
    "ResNetBottleneck": lambda: nets.ResNetBottleneck(1, 4, 2, downsample=nn.Conv2d(1, 16, 1)),
    "ResNetEncoder": lambda: nets.flexible_unet.ResNetEncoder(**_RESNET),
    "ResNetFeatures": lambda: nets.ResNetFeatures(**_RESNET),
    "SENet": lambda: nets.SENet(**_SE, block="se_bottleneck", groups=1),
    "SENet154": lambda: nets.SENet154(**_SE, groups=4),
    "SEResNet50": lambda: nets.SEResNet50(**_SE),
    "SEResNet101": lambda: nets.SEResNet101(**_SE),
    "SEResNet152": lambda: nets.SEResNet152(**_SE),
    "SEResNext50": lambda: nets.SEResNext50(**_SE, groups=4),
    "SEResNext101": lambda: nets.SEResNext101(**_SE, groups=4),
    "SPADEAutoencoderKL": lambda: nets.SPADEAutoencoderKL(
        **_LATENT, label_nc=2, spade_intermediate_channels=4
    ),
    "SPADEDiffusionModelUNet": lambda: nets.SPADEDiffusionModelUNet(
        **_DIFFUSION, out_channels=1, label_nc=2, spade_intermediate_channels=4
    ),
    "SPADENet": lambda: nets.SPADENet(
        *(2, 1, 1, 1, (32, 32), [4, 4]), is_vae=False, spade_intermediate_channels=4
    ),
    "SegResNet": lambda: nets.SegResNet(2, blocks_down=(1, 1), blocks_up=(1,)),
    "SegResNetDS": lambda: nets.SegResNetDS(2, 4, blocks_down=(1, 1)),
    "SegResNetDS2": lambda: nets.SegResNetDS2(2, 4, blocks_down=(1, 1)),
    "SegResNetVAE": lambda: nets.SegResNetVAE(
        (32, 32), vae_nz=4, spatial_dims=2, blocks_down=(1, 1), blocks_up=(1,)
    ),
    "SwinUNETR": lambda: nets.SwinUNETR(
        1, 2, depths=(1,) * 4, num_heads=(1,) * 4, feature_size=12, spatial_dims=2
    ),
    "TopologyConstruction": lambda: nets.dints.TopologyConstruction(**_CELLS),
    "TopologyInstance": lambda: nets.TopologyInstance(**_CELLS),
    "TopologySearch": lambda: nets.TopologySearch(**_CELLS),
    "UNETR": lambda: nets.UNETR(1, 2, 32, 4, 24, 16, 2, spatial_dims=2),
    "UNet": lambda: nets.UNet(**_UNET, strides=(2,), num_res_units=2),
    "VISTA3D": lambda: nets.VISTA3D(nn.Conv3d(1, 1, 3), nn.Identity(), nn.Identity()),
    "VNet": lambda: nets.VNet(2, dropout_dim=2),
    "VQVAE": lambda: nets.VQVAE(
        *(2, 1, 1, (4, 4), 1, (4, 4), ((2, 4, 1, 1),) * 2, ((2, 4, 1, 1, 0),) * 2, 4, 4)
    ),
    "VarAutoEncoder": lambda: nets.VarAutoEncoder(2, (1, 32, 32), 1, 2, (4, 8), (2, 2)),
    "VarFullyConnectedNet": lambda: nets.VarFullyConnectedNet(1024, 2, 2, (4,), (4,)),
    "ViT": lambda: nets.ViT(1, 32, 16, **_VIT),
    "ViTAutoEnc": lambda: nets.ViTAutoEnc(1, 32, 16, **_VIT),
    "VoxelMorph": lambda: nets.VoxelMorph(NETS["VoxelMorphUNet"](), spatial_dims=2),
    "VoxelMorphUNet": lambda: nets.VoxelMorphUNet(2, 2, 4, (4, 8, 8, 4), (4,)),
}
UNAVAILABLE = {
    "DAF3D": "needs torchvision",
    "HyenaNDUNETR": "needs nvsubquadratic",
    "MILModel": "needs torchvision",
    "MultiModal": "needs transformers",
    "TorchVisionFCModel": "needs torchvision",
    "Transchex": "needs transformers, and downloads",
}
IMAGES = {  # where it is not one of 32 x 32 pixels
    "VoxelMorphUNet": (1, 2, 32, 32),
    **dict.fromkeys(("BertAttention", "BertMixedLayer", "BertOutput"), (1, 9, 24)),
    "SwinUNETR": (1, 1, 64, 64),
}
_STEP, _SEGMENTS, _LINES = torch.tensor([1]), torch.ones(1, 2, 32, 32), torch.ones(1, 9, 24)
BEHIND = {  # further arguments
    "BertAttention": (_LINES,),
    "BertMixedLayer": (_LINES,),
    "BertOutput": (_LINES,),
    "ControlNet": (_STEP, torch.ones(1, 1, 32, 32)),
    "DiffusionModelUNet": (_STEP,),
    "SPADEAutoencoderKL": (_SEGMENTS,),
    "SPADEDiffusionModelUNet": (_STEP, _SEGMENTS),
    "SPADENet": (torch.ones(1, 1, 32, 32),),
    "VoxelMorph": (torch.ones(1, 1, 32, 32),),
}


def made(make: Callable[[], nn.Module], training: bool) -> nn.Module:
    seed()
    try:
        return make().train(training)
    except OptionalImportError as error:  # a few of MONAI's need what the extra label brings
        pytest.skip(f"{error}".splitlines()[0])


def monai_warns(test: Any) -> Any:
    """A test whose networks warn when they are made."""
    for start in ("arch_code not provided", "monai.networks.blocks.Warp", "torch.meshgrid"):
        test = pytest.mark.filterwarnings(f"ignore:{start}:UserWarning")(test)
    return test


def test_every_network_of_monai_is_here() -> None:
    classes = {
        value.__name__
        for value in vars(nets).values()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }
    assert classes == NETS.keys() | UNAVAILABLE.keys()


@monai_warns
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NETS)
def test_networks_of_monai_are_left_alone(name: str, training: bool) -> None:
    network, twin = made(NETS[name], training), made(NETS[name], training)
    image, behind = torch.rand(IMAGES.get(name, (1, 1, 32, 32))), BEHIND.get(name, ())
    answers = assert_answers_as(twin, network, image, *behind)
    assert_untouched(network, image, *behind)
    if answers:  # then its size is no guess
        assert peak_bytes(network, image.shape, image.dtype, *behind) != 1024 * image[0, 0].numel()


# --- modules that share, tie, wrap, count, or cannot be copied ----------------------------------


def convolution(before: int = 1, width: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, width, 3, padding=1)


class Chain(nn.Module):
    """Runs modules one after the other; subclasses hold them in some way of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = convolution(), convolution()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class TwoNames(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.a])


class Tied(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.b.weight = self.a.weight
        self.a.weight.grad = torch.ones_like(self.a.weight)
        self.a.bias.requires_grad_(False)


class Buffers(Chain):
    """Shared, not saved, counting, and viewed ones."""

    def __init__(self) -> None:
        super().__init__()
        shared = torch.zeros(1, 1, 32, 32)
        self.a.register_buffer("offset", shared)
        self.register_buffer("offset", shared, persistent=False)
        self.register_buffer("view", shared[..., :4])
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.offset += 1
        return super().forward(x) + self.offset + self.view.mean()


class PlainTensors(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(1)
        self.list = [torch.ones(2), nn.Parameter(torch.ones(1))]
        self.dict = {"weight": torch.ones(1, 1, 3, 3), "result": self.a.weight * 2}  # no leaf
        self.hidden = [convolution()]

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(x, self.dict["weight"] + self.dict["result"], padding=1)
        self.list[0] += 1
        self.dict["last"] = x
        return super().forward(self.hidden[0](x)) * self.scale * self.list[1]


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(1)
        self.last = nn.InstanceNorm2d(1, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


class Wrapper(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x) + 1


class Raising(Wrapper):
    """Raises behind the network, from some call on."""

    def __init__(self, error: Exception, calls: int = 0) -> None:
        super().__init__(Normalised())
        self.error, self.allowed = error, calls

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.calls > self.allowed:
            raise self.error
        return x


class Reading(Wrapper):
    """Looks at numbers."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x * 2 if x.mean().item() > 0 else x


class Pair(Wrapper):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Drawing(Wrapper):
    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(x.shape).to(x.device) * random.random() * np.random.rand()
        return nn.functional.dropout(super().forward(x) + noise)


class Closure(Wrapper):
    """Its copy calls the network itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.run = lambda x: self.network(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class ClosureOnWeights(Wrapper):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)

        def scale() -> None:
            next(network.parameters()).data.view(-1).mul_(0.5)

        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        self.scale()
        return super().forward(x)


class Locked(Wrapper):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.lock = threading.Lock()  # which cannot be copied


class Single(Wrapper):
    def __deepcopy__(self, memo: object) -> Single:
        return self


class Refusing(Wrapper):
    def __deepcopy__(self, memo: object) -> Single:
        raise ValueError("there is one of me")


def patched() -> nn.Module:
    network = Wrapper(Normalised())
    forward = network.forward
    network.forward = lambda x: forward(x) * 2  # type: ignore[method-assign]
    return network


def normalised_by_hooks() -> nn.Module:
    """By the older functions, which keep a computed weight as a plain attribute."""
    network = Chain()
    nn.utils.weight_norm(network.a)
    nn.utils.spectral_norm(network.b)
    return network


def compiled_in_place() -> nn.Module:
    network = Normalised()
    network.compile(backend="eager")
    return network


@torch.inference_mode()
def under_inference() -> nn.Module:
    return Chain()


def parametrised(function: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = TwoNames()
    network.a = function(convolution(1, 4))
    network.b = convolution(4, 1)
    return network


def eager(network: nn.Module) -> Any:
    return torch.compile(network, backend="eager")


def scripted() -> nn.Module:
    return torch.jit.script(Normalised())


def traced() -> nn.Module:
    return torch.jit.trace(TwoNames(), torch.rand(1, 1, 32, 32))


def on_absent_devices() -> nn.Module:
    """Data parallelism that cannot run here, around a network that is sized all the same."""
    parallel = nn.DataParallel(Normalised())
    parallel.device_ids = [0, 1]
    return Wrapper(parallel)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "two names": TwoNames,
    "tied": Tied,
    "buffers": Buffers,
    "plain tensors": PlainTensors,
    "batch norm": Normalised,
    "weight norm": lambda: parametrised(parametrizations.weight_norm),
    "spectral norm": lambda: parametrised(parametrizations.spectral_norm),
    "orthogonal": lambda: parametrised(parametrizations.orthogonal),
    "older norms": normalised_by_hooks,
    "compiled": lambda: eager(TwoNames()),
    "compiled inside": lambda: Wrapper(eager(Normalised())),
    "compiled in place": compiled_in_place,
    "scripted": scripted,
    "scripted inside": lambda: Wrapper(scripted()),
    "traced": traced,
    "parallel": lambda: nn.DataParallel(Normalised()),
    "parallel inside": lambda: Wrapper(nn.DataParallel(eager(nn.Sequential(Normalised())))),
    "parallel elsewhere": on_absent_devices,
    "wrapped": lambda: Wrapper(TwoNames()),
    "a shared wrapper": lambda: nn.Sequential(*[Wrapper(Normalised())] * 3),
    "raising": lambda: Raising(RuntimeError("no")),
    "raising another": lambda: Raising(KeyError("no")),
    "refusing": lambda: Raising(GeometryError("no", "yes")),
    "raising later": lambda: Raising(RuntimeError("no"), calls=1),
    "a pair": lambda: Pair(Normalised()),
    "reading": lambda: Reading(Normalised()),
    "drawing": lambda: Drawing(Normalised()),
    "a closure": lambda: Closure(Normalised()),
    "a closure on weights": lambda: ClosureOnWeights(TwoNames()),
    "patched": patched,
    "locked": lambda: Locked(Normalised()),
    "its own copy": lambda: Single(Normalised()),
    "its own copy inside": lambda: Wrapper(Single(Normalised())),
    "without a copy": lambda: Refusing(Normalised()),
    "lazy": lambda: nn.Sequential(nn.LazyConv2d(1, 3, padding=1)),
    "under inference": under_inference,
    "double": lambda: Normalised().double(),
    "frozen": lambda: TwoNames().requires_grad_(False),
    "empty": nn.Identity,
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_are_left_alone(name: str, training: bool) -> None:
    network, twin = made(MODULES[name], training), made(MODULES[name], training)
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64 if name == "double" else torch.float32)
    assert_untouched(network, image)
    assert_answers_as(twin, network, image)


@pytest.mark.parametrize("name", ["two names", "tied", "batch norm", "orthogonal", "compiled"])
def test_regions_are_answered_and_the_network_is_left_alone(name: str) -> None:
    network, twin = made(MODULES[name], False), made(MODULES[name], False)
    assert_region_answers_as(twin, network, torch.rand(1, 1, 32, 32))


@pytest.mark.parametrize("grad", [False, True])
def test_the_issue(grad: bool) -> None:
    network, image = made(TwoNames, False), torch.rand(1, 1, 300, 300)
    expected = network(image).detach()
    with torch.set_grad_enabled(grad):
        found = OverlapTileInferer(roi_size=256, geometry=TileGeometry.padded(2))(image, network)
    inside = (..., slice(2, -2), slice(2, -2))
    assert torch.allclose(found[inside], expected[inside], atol=1e-5)
    assert found.requires_grad is grad
    assert all(weight.device.type == "cpu" for weight in network.parameters())


class Noting(nn.Module):
    """Notes what it sees in a list that it is given, and changes a tensor."""

    def forward(self, x: Tensor, notes: list[Tensor], counts: Tensor) -> Tensor:
        notes.append(x)
        counts += 1
        return x * 2


def test_hooks_and_arguments_see_nothing_of_a_sizing() -> None:
    network, seen = made(TwoNames, True), []
    for module in network.modules():
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
        module.register_forward_hook(lambda *_, **__: seen.append(_), with_kwargs=True)
    assert peak_bytes(network, (1, 1, 32, 32)) == peak_bytes(TwoNames(), (1, 1, 32, 32))
    assert not seen
    notes: list[Tensor] = []
    counts = torch.zeros(2)
    assert peak_bytes(Noting(), (1, 1, 32, 32), torch.float32, notes, counts=counts) == 8 * 32**2
    assert not notes
    assert counts.sum() == 0


def test_functions_around_a_network_leave_it_alone() -> None:
    network = made(Normalised, True)
    before = State(network)

    def writing(x: Tensor) -> Tensor:
        next(network.parameters()).data.view(-1).zero_()
        return x

    def normalising(x: Tensor) -> Tensor:
        own = torch.rand(1, 1, 8, 8)
        mean, variance = network.first.running_mean, network.first.running_var
        return x + nn.functional.batch_norm(own, mean, variance, training=True).mean()

    for function in (network.forward, lambda x: network(x), writing, normalising):
        assert peak_bytes(function, (1, 1, 32, 32)) == 1024 * 32 * 32
        before.assert_same(State(network))


# --- and the size is right -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    "two names/tied/buffers/plain tensors/weight norm/spectral norm/orthogonal/older norms/"
    "compiled/compiled inside/compiled in place/parallel/parallel inside/parallel elsewhere/"
    "a shared wrapper/drawing/under inference".split("/"),
)
def test_modules_are_sized_not_guessed(name: str) -> None:
    assert pass_cost(made(MODULES[name], False), (1, 1, 32, 32)).peak < 100 * 32 * 32


@pytest.mark.parametrize("name", ["scripted inside", "reading", "locked", "its own copy", "lazy"])
def test_what_cannot_run_without_numbers_is_guessed(name: str) -> None:
    assert pass_cost(made(MODULES[name], False), (1, 1, 32, 32)).peak == 1024 * 32 * 32


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_networks_are_left_alone() -> None:
    network, twin = (nn.parallel.DistributedDataParallel(made(Normalised, True)) for _ in "ab")
    assert pass_cost(network, (1, 1, 32, 32)) == pass_cost(Normalised(), (1, 1, 32, 32))
    image = torch.rand(1, 1, 32, 32)
    assert_untouched(network, image)
    assert_answers_as(twin, network, image)


def test_wrappers_change_no_size() -> None:
    shape = (1, 1, 60, 60)
    network = ValidUNet(features=(4, 8)).eval()
    expected = pass_cost(network, shape)
    for wrapped in (eager(network), nn.DataParallel(network), eager(nn.DataParallel(network))):
        assert pass_cost(wrapped, shape) == expected


def test_a_weight_under_several_names_is_copied_once_under_autocast() -> None:
    shape, weights = (1, 1, 32, 32), {TwoNames: 20, Tied: 11}
    for network, count in weights.items():
        full = peak_bytes(network(), shape)
        with torch.autocast("cpu", torch.bfloat16):
            assert peak_bytes(network(), shape) == full // 2 + 2 * count


def test_sizing_allocates_nothing_of_the_weights_size() -> None:
    layer = nn.Conv2d(1, 1, 1, bias=False)
    layer.weight = nn.Parameter(layer.weight.detach().expand(10**7, 10**6, 1, 1))  # 40 terabytes
    layer.table = torch.zeros(1).expand(10**13)
    cost = pass_cost(layer, (1, 10**6, 2, 2))
    assert cost.peak == 4 * 4 * (10**6 + 10**7)
    assert cost.large == 4 * 4 * 10**7  # the weights are none of a pass's blocks


def test_the_size_follows_a_network_that_changes() -> None:
    network, shape = nn.Sequential(convolution(1, 2), nn.Dropout()), (1, 1, 32, 32)
    assert peak_bytes(network.eval(), shape) == 4 * 3 * 32**2
    network[0] = convolution(1, 8)
    assert peak_bytes(network, shape) == 4 * 9 * 32**2
    network[1].train()  # alone: a network is often frozen in part
    assert peak_bytes(network, shape) > 4 * 9 * 32**2


def test_a_network_that_was_sized_can_be_freed() -> None:
    network = ValidUNet(features=(4, 8))
    peak_bytes(network, (1, 1, 60, 60))
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


def test_a_network_says_itself_what_it_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"expected \[B, 1, H, W\]"):
        peak_bytes(ValidUNet(features=(4, 8)), (1, 3, 60, 60))
    with pytest.raises(GeometryError):
        peak_bytes(ValidUNet(features=(4, 8)), (1, 1, 61, 60))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_one(interruption: type[BaseException]) -> None:
    network = Raising(interruption())  # type: ignore[arg-type]
    before = State(network)
    with pytest.raises(interruption):
        peak_bytes(network, (1, 1, 32, 32))
    before.assert_same(State(network))


# --- trees of modules that share at random ------------------------------------------------------

_TREES = st.recursive(
    st.integers(0, 5), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=8
)
_PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=4)


def planted(tree: Any, pool: list[nn.Module]) -> nn.Module:
    if isinstance(tree, int):
        return pool[tree]
    return nn.Sequential(*(planted(branch, pool) for branch in tree))


@given(tree=_TREES, ties=_PAIRS, again=st.integers(0, 5), training=st.booleans())
@settings(max_examples=25, deadline=None)
def test_modules_that_share_at_random_are_left_alone(
    tree: Any, ties: list[tuple[int, int]], again: int, training: bool
) -> None:
    seed()
    pool: list[nn.Module] = [convolution(2, 2) for _ in range(3)]
    pool += [nn.BatchNorm2d(2) for _ in range(3)]
    for one, other in ties:
        if isinstance(pool[one], nn.Conv2d) and isinstance(pool[other], nn.Conv2d):
            pool[one].weight = pool[other].weight
        elif isinstance(pool[one], nn.BatchNorm2d) and isinstance(pool[other], nn.BatchNorm2d):
            pool[one].running_mean = pool[other].running_mean
            pool[one].num_batches_tracked = pool[other].num_batches_tracked
        else:
            pool[one].bias = pool[other].bias
    network = nn.Sequential(planted(tree, pool), nn.ReLU(), pool[again]).train(training)
    image, twin = torch.rand(1, 2, 8, 8), copy.deepcopy(network)
    assert_untouched(network, image)
    assert pass_cost(network, (1, 2, 8, 8)).peak < 1024 * 64  # not assumed
    assert_answers_as(twin, network, image)
