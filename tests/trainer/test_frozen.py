"""Weights that are derived once and masks that are looked at once, with the same bits as before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from trainer.diffusion.guidance import guided
from trainer.models.denoisers.reference_layers import WeightStandardisedConv2d
from trainer.models.denoisers.reference_unet import Config, ReferenceUNet
from trainer.models.frozen import frozen_weights

BATCH, SIZE = 2, 8


@pytest.fixture
def network() -> ReferenceUNet:
    torch.manual_seed(3)
    return Config(dim=8, dim_mults=(1, 2), mask_query="class").build(3, 4).eval()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(4)
    mask = torch.randint(0, 3, (BATCH, 1, 8 * SIZE, 8 * SIZE), dtype=torch.uint8)
    return torch.randn(BATCH, 4, SIZE, SIZE), torch.tensor([700, 20]), mask


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[nn.Module]]:
    """Yield the layers whose weight was derived, one entry a time."""
    calls: list[nn.Module] = []
    real = WeightStandardisedConv2d.derive_weight

    def counted(layer: WeightStandardisedConv2d) -> Tensor:
        calls.append(layer)
        return real(layer)

    monkeypatch.setattr(WeightStandardisedConv2d, "derive_weight", counted)
    yield calls


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_frozen_weights_give_the_same_bits(network, inputs, derived, precision) -> None:
    x, t, mask = inputs
    num_layers = sum(isinstance(part, WeightStandardisedConv2d) for part in network.modules())
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision is not None):
        plain = network(x, t, mask)
        assert len(derived) == num_layers > 0
        with frozen_weights(network):
            for _ in range(3):
                assert torch.equal(network(x, t, mask), plain)
            assert len(derived) == 2 * num_layers
    assert all(part.frozen_weight is None for part in network.modules() if part in derived)


def test_frozen_weights_are_let_go_and_gradients_pass_them_by(network, inputs) -> None:
    x, t, mask = inputs
    with pytest.raises(KeyError), frozen_weights(network):
        raise KeyError
    with torch.no_grad():
        before = network(x, t, mask)
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.01)
        assert not torch.equal(network(x, t, mask), before), "the weights of before are kept"
    with frozen_weights(network):
        network(x, t, mask).sum().backward()
    assert network.mid_block1.block1.proj.weight.grad.abs().sum() > 0


def test_what_is_no_module_is_left_alone() -> None:
    with frozen_weights(lambda x: x):
        pass


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_masks_are_looked_at_once(network, inputs, monkeypatch, scale) -> None:
    x, t, mask = inputs
    everything = torch.ones(BATCH, dtype=torch.bool)
    calls = []
    real = ReferenceUNet.condition

    def counted(self: ReferenceUNet, *arguments: object) -> object:
        calls.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(ReferenceUNet, "condition", counted)
    with torch.no_grad():
        denoise = guided(network, mask, scale)
        found = [denoise(x, t), denoise(x + 1, t - 5), denoise(x, t)]
        assert len(calls) == 1
        twice = torch.cat((everything, ~everything))
        for result, (latents, time) in zip(found, [(x, t), (x + 1, t - 5), (x, t)], strict=True):
            pair = (torch.cat((latents, latents)), torch.cat((time, time)))
            null, conditional = network(*pair, torch.cat((mask, mask)), twice).chunk(2)
            wanted = null + scale * (conditional - null)
            if scale in (0.0, 1.0):
                wanted = network(latents, time, mask, everything if scale == 0 else None)
            assert torch.equal(result, wanted)


def test_wrappers_are_called_as_they_are(network, inputs) -> None:
    x, t, mask = inputs
    calls = []

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network
            self.condition, self.denoise = network.condition, network.denoise

        def forward(self, *arguments: Tensor) -> Tensor:
            calls.append(arguments)
            result: Tensor = self.inner(*arguments)
            return result

    with torch.no_grad():
        found = guided(Wrapper(), mask, 2.0)(x, t)
        assert torch.equal(found, guided(network, mask, 2.0)(x, t))
    assert len(calls) == 1
