"""Compile the reference network as one graph, and print the parameters that did not learn.

A process of its own: shapes are checked in tests, and those checks are no part of the graph.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from trainer.models.denoisers.reference_unet import Config


def main(mask_query: str) -> None:
    """Print the names of parameters without a gradient."""
    torch.manual_seed(0)
    config = Config(dim=16, dim_mults=(1, 2), block_per_layer=1, mask_query=mask_query)
    network = config.build(5, 4).train()
    mask = torch.randint(0, 5, (3, 1, 64, 96), dtype=torch.uint8)
    drop = torch.tensor([False, True, False])
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    result: Tensor = compiled(torch.randn(3, 4, 8, 12), torch.tensor([0, 513, 999]), mask, drop)
    result.square().mean().backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            print(name)


if __name__ == "__main__":
    main(sys.argv[1])
