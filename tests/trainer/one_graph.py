"""Compile a denoiser as one graph, call it on several batches, and print the parameters that did
not learn.

A process of its own: shapes are checked in tests, and those checks are no part of the graph.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from trainer.models.denoisers import mask_unet, reference_unet
from trainer.models.denoisers.interface import Denoiser


def build(kind: str) -> Denoiser:
    """Return a small network: mask-unet, or the reference network with the mask query `kind`."""
    small = {"dim": 16, "dim_mults": (1, 2), "block_per_layer": 1}
    if kind != "mask-unet":
        return reference_unet.Config(**small, mask_query=kind).build(5, 4)
    network = mask_unet.Config(**small).build(5, 4)
    for parameter in network.parameters():
        # Behind a layer of zeros nothing learns in the first step.
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def main(kind: str) -> None:
    """Print the names of parameters without a gradient."""
    torch.manual_seed(0)
    network = build(kind).train()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for index in range(3):
        mask = torch.randint(0, 5, (3, 1, 64, 96), dtype=torch.uint8)
        drop = torch.tensor([index == 0, True, index == 2])
        t = torch.tensor([0, 513, 999]) if kind != "mask-unet" else 1000 * torch.rand(3)
        with torch.compiler.set_stance("fail_on_recompile" if index else "default"):
            result: Tensor = compiled(torch.randn(3, 4, 8, 12), t, mask, drop)
        result.square().mean().backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            print(name)


if __name__ == "__main__":
    main(sys.argv[1])
