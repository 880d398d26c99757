"""Two training steps of the same network: ours, and that of the lineage, plainly.

The lineage computes in float32, with an explicit softmax over all pairs of positions and the VAE
inside the step: the same function of the same parameters, computed otherwise.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.diffusion.objectives import Objective
from trainer.engine.ema import MovingAverage
from trainer.models.denoisers.reference_layers import HEAD_WIDTH, NUM_HEADS, MaskAttention


class PlainAttention(nn.Module):
    """`MaskAttention` with the whole matrix of attention weights, and a query for each position
    even where all of them are alike.
    """

    def __init__(self, ours: MaskAttention) -> None:
        super().__init__()
        self.to_kv, self.to_q, self.to_out = ours.to_kv, ours.to_q, ours.to_out

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        """Return [batch, dim, height, width] as `MaskAttention` does."""
        batch, dim, height, width = x.shape
        keys, values = (
            part.reshape(batch, NUM_HEADS, HEAD_WIDTH, -1) for part in self.to_kv(x).chunk(2, dim=1)
        )
        queries = self.to_q(query.to(x.dtype).repeat(1, dim // query.shape[1], 1, 1)).reshape(
            batch, NUM_HEADS, HEAD_WIDTH, -1
        )
        weights = torch.einsum("bhdi,bhdj->bhij", queries / math.sqrt(HEAD_WIDTH), keys).softmax(
            dim=-1
        )
        found = torch.einsum("bhij,bhdj->bhid", weights, values)
        return self.to_out(found.transpose(2, 3).reshape(batch, -1, height, width))


def made_plain(network: nn.Module) -> nn.Module:
    """Replace every attention of a reference network by the plain one, in place, and return the
    network.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MaskAttention):
                setattr(parent, name, PlainAttention(child))
    return network


class LineageStep:
    """One training step as published: images in [0, 1] through the VAE, cosine schedule, l1 on the
    noise, Adam, clipping at norm 1.
    """

    def __init__(self, network: nn.Module, vae: Any, alpha_bars: Tensor) -> None:
        self.network, self.vae, self.alpha_bars = network, vae, alpha_bars
        self.optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def __call__(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of images, uint8 [batch, 3, height, width], with masks [batch, 1, height,
        width].
        """
        with torch.no_grad():
            latents = self.vae.encode(images.float() / 255).latent_dist.sample() / 50
        noise, t = (
            torch.randn_like(latents),
            torch.randint(0, len(self.alpha_bars), (len(latents),), device=latents.device),
        )
        power = self.alpha_bars[t].view(-1, 1, 1, 1)
        loss = functional.l1_loss(
            self.network(power.sqrt() * latents + (1 - power).sqrt() * noise, t, mask), noise
        )
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.detach()


@dataclass
class OurStep:
    """One training step as the engine makes it: cached latents, autocast, fused AdamW, averages
    every tenth step, no host sync; in float32 where `is_exact`.
    """

    network: Any
    device: torch.device
    objective: Objective = field(default_factory=lambda: Objective(loss="l1"))
    step: int = 0
    is_exact: bool = False

    def __post_init__(self) -> None:
        inner = getattr(self.network, "_orig_mod", self.network)
        self.optimiser = torch.optim.AdamW(
            inner.parameters(), lr=1e-4, fused=self.device.type == "cuda"
        )
        self.average = MovingAverage(inner, 0.995, 10)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of a batch of `CachedTiles`."""
        t = self.objective.timesteps_from_uniform(batch["u"])
        noisy = self.objective.noised(batch["latents"], batch["noise"], t)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=not self.is_exact):
            output = self.network(noisy, t, batch["mask"], batch["u"] < 0.5)
        loss = self.objective.per_sample_loss(output, batch["noise"], t).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        self.average.update(self.step)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return copy.deepcopy(
            {
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "average": self.average.module.state_dict(),
                "step": self.step,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one of the same network was."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.module.load_state_dict(state["average"])
        self.step = state["step"]
