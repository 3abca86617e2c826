import pytest
import torch
from monai.inferers import SimpleInferer

from overtile.networks import MixedPrecisionInferer, ValidUNet
from overtile.networks.inferers.precision import has_bfloat16


def test_bfloat16_multiplies_coarsely_and_answers_in_float32() -> None:
    torch.manual_seed(0)
    network, image = ValidUNet(features=(4, 8)).eval(), torch.randn(1, 1, 44, 44)
    exact = MixedPrecisionInferer(SimpleInferer(), "float32")(image, network)
    coarse = MixedPrecisionInferer(SimpleInferer(), "bfloat16")(image, network)
    assert torch.equal(exact, network(image))
    assert exact.dtype == coarse.dtype == torch.float32
    assert not torch.equal(exact, coarse)
    assert torch.allclose(exact, coarse, rtol=0.03, atol=0.1)
    coarse.sum().backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and g.dtype == torch.float32 for g in gradients)


def test_auto_follows_the_hardware() -> None:
    torch.manual_seed(0)
    network, image = ValidUNet(features=(4, 8)).eval(), torch.randn(1, 1, 44, 44)
    chosen = "bfloat16" if has_bfloat16("cpu") else "float32"
    auto = MixedPrecisionInferer(SimpleInferer())(image, network)
    assert torch.equal(auto, MixedPrecisionInferer(SimpleInferer(), chosen)(image, network))


def test_precision_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="precision='half'"):
        MixedPrecisionInferer(SimpleInferer(), "half")
