import subprocess
import sys

import pytest
import torch
from torch import nn

from overtile.networks import ValidUNet, peak_bytes
from overtile.networks.inferers.cost import _mallopt, pass_cost
from overtile.networks.inferers.precision import has_bfloat16


def peak_of_two_levels(n: int, upper: int, lower: int) -> int:
    """Bytes that a U-Net of depth 1 holds at its widest, tensor by tensor."""
    bottom = (n - 4) // 2 - 4
    image, skip, joined = n**2, upper * (n - 4) ** 2, 2 * upper * (2 * bottom) ** 2
    first = image + upper * (n - 2) ** 2 + skip
    pooled = upper * ((n - 4) // 2) ** 2
    down = image + skip + lower * ((n - 4) // 2 - 2) ** 2 + lower * bottom**2 + pooled
    concatenating = image + skip + joined // 2 + joined
    expanding = image + joined + upper * (2 * bottom - 2) ** 2 + upper * (2 * bottom - 4) ** 2
    return 4 * max(first, down, concatenating, expanding)


@pytest.mark.parametrize("size", [(10, 12), (7, 8, 9)])
def test_chain_holds_image_and_two_layers(size: tuple[int, ...]) -> None:
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
    chain = nn.Sequential(layer(2, 3, 1), nn.ReLU(inplace=True), layer(3, 5, 1), layer(5, 1, 1))
    pixels = torch.Size(size).numel()
    assert peak_bytes(chain, (4, 2, *size)) == 4 * 4 * (2 + 3 + 5) * pixels


@pytest.mark.parametrize(
    ("n", "widths"), [(18, (4, 8)), (60, (4, 8)), (60, (2, 40)), (200, (1, 1))]
)
def test_unet_holds_what_its_layers_need(n: int, widths: tuple[int, int]) -> None:
    predicted = peak_bytes(ValidUNet(features=widths).eval(), (1, 1, n, n))
    assert predicted == peak_of_two_levels(n, *widths)


def test_prediction_allocates_nothing_and_leaves_the_network_alone() -> None:
    network = ValidUNet(features=(64, 128))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert peak_bytes(network, (1, 1, 200_002, 200_002)) > 10**13  # ten terabytes
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.device.type == "cpu" for value in after.values())


def test_views_count_once_and_freed_memory_not_at_all() -> None:
    def freeing(x: torch.Tensor) -> torch.Tensor:
        for _ in range(10):
            x = (x[:, :, 1:] + 0)[:, :, :-1]
        return x

    image = 4 * 100 * 100
    assert 2 * image <= peak_bytes(freeing, (1, 1, 100, 100)) <= 3 * image


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_prediction_is_close_to_what_cuda_holds() -> None:
    network = ValidUNet(features=(16, 32, 64)).cuda().eval()
    shape = (2, 1, 300, 300)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        image = torch.rand(shape, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() - image.nbytes
        network(image)
        held = torch.cuda.max_memory_allocated() - before
    assert held >= 0.9 * peak_bytes(network, shape)


MEASURE = """
import ctypes, sys, torch
from pathlib import Path
from overtile.networks import ValidUNet, peak_bytes
from overtile.networks.inferers.cost import exact_memory

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

torch.set_num_threads(1)
network = ValidUNet(features=(16, 32, 64, 128)).eval()
half = sys.argv[1] == "bfloat16"
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
    network(torch.randn(1, 1, 252, 252))  # loads libraries
    for size in map(int, sys.argv[2:]):
        predicted = peak_bytes(network, (1, 1, size, size))
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        image = torch.randn(1, 1, size, size)
        with exact_memory(predicted):
            network(image)
            network(image)
        print(predicted, resident("VmHWM") - before)
        del image
"""


@pytest.mark.skipif(_mallopt() is None, reason="resident memory is predicted with glibc alone")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_prediction_is_close_to_what_a_process_takes(precision: str) -> None:
    if precision == "bfloat16" and not has_bfloat16("cpu"):
        pytest.skip("this processor emulates bfloat16, with memory for float32")
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, precision, "900", "1100", "1300"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pairs = [tuple(map(int, line.split())) for line in printed.splitlines()]
    assert len(pairs) == 3
    for predicted, measured in pairs:
        assert abs(predicted / measured - 1) < 0.2, pairs


def test_autocast_halves_activations_and_copies_weights() -> None:
    network, shape = ValidUNet(features=(4, 8)).eval(), (1, 1, 300, 300)
    weights = sum(p.numel() for p in network.parameters())
    full = peak_bytes(network, shape)
    with torch.autocast("cpu", torch.bfloat16):
        assert peak_bytes(network, shape) == full // 2 + 2 * weights
    assert peak_bytes(network, shape) == full


def test_cost_counts_operations_and_large_blocks() -> None:
    layer = nn.Conv2d(3, 5, 3, bias=False)
    cost = pass_cost(layer, (1, 3, 102, 202))
    assert cost.operations == 2 * 9 * 3 * 5 * 100 * 200
    assert cost.large == 0
    assert pass_cost(layer, (1, 3, 2002, 1002)).large == 4 * 5 * 2000 * 1000
    layer.double()
    assert pass_cost(layer, (1, 3, 102, 202), torch.float64).peak == 8 * (3 * 102 * 202 + 10**5)


def test_inference_mode_hides_nothing() -> None:
    network = ValidUNet(features=(4, 8)).eval()
    expected = peak_bytes(network, (1, 1, 300, 300))
    with torch.inference_mode():
        assert peak_bytes(ValidUNet(features=(4, 8)).eval(), (1, 1, 300, 300)) == expected
