"""Whether a device trains as the CPU does: losses of the same steps, and of a resumed run."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.gpu_steps import OurStep

NUM_STEPS = 20
# bf16 has 8 bits of mantissa, and errors of the weights add up over the steps.
TOLERANCE = 0.01
_BATCH, _LATENT_PX, _FACTOR = 2, 8, 8
_NOISE = 0.02


class Differences(NamedTuple):
    """Relative differences of losses: the largest against those of the CPU in float32, and the
    largest of a run that was stopped half-way and resumed against one that was not.
    """

    largest: float
    resumed: float

    @property
    def is_alike(self) -> bool:
        """Return whether both are within `TOLERANCE`."""
        return max(self) <= TOLERANCE


def loss_differences(network: nn.Module, device: torch.device, num_classes: int) -> Differences:
    """Train copies of a network on the same batches, and compare the losses of all steps.

    Args:
        network: A denoiser of latents of four channels, on the CPU.
        device: The device that is compared, in bf16.
        num_classes: Classes of its masks.
    """
    network = _telling(copy.deepcopy(network))
    batches = [_batch(number, num_classes) for number in range(NUM_STEPS)]
    plain = _losses(OurStep(copy.deepcopy(network), torch.device("cpu"), is_exact=True), batches)
    whole = _losses(OurStep(copy.deepcopy(network).to(device), device), batches)
    first = OurStep(copy.deepcopy(network).to(device), device)
    half = NUM_STEPS // 2
    resumed = _losses(first, batches[:half])
    again = OurStep(copy.deepcopy(network).to(device), device)
    again.load_state_dict(first.state_dict())
    resumed = torch.cat([resumed, _losses(again, batches[half:])])
    return Differences(_largest(whole, plain), _largest(resumed, whole))


def _telling(network: nn.Module) -> nn.Module:
    """Return a network without dropout, which is another on each device, and without weights that
    begin at 0, since its output would hardly depend on anything.
    """
    rng = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(_NOISE * torch.randn(weights.shape, generator=rng))
    return network


def _batch(number: int, num_classes: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(number)
    side = _LATENT_PX * _FACTOR
    shape = (_BATCH, 4, _LATENT_PX, _LATENT_PX)
    return {
        "latents": torch.randn(shape, generator=rng),
        "noise": torch.randn(shape, generator=rng),
        "mask": torch.randint(0, num_classes, (_BATCH, 1, side, side), generator=rng).byte(),
        "u": torch.rand(_BATCH, generator=rng),
    }


def _losses(step: OurStep, batches: list[dict[str, Tensor]]) -> Tensor:
    """Return the loss of each step, float32 [steps] on the CPU."""
    found = [
        step({name: value.to(step.device) for name, value in batch.items()}) for batch in batches
    ]
    return torch.stack(found).float().cpu()


def _largest(losses: Tensor, others: Tensor) -> float:
    return float(((losses - others) / others).abs().max())
