"""Weights that a layer derives from its parameters, derived once while these do not change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class DerivedWeight(nn.Module, ABC):
    """A layer whose weight is a function of its parameters.

    Attributes:
        frozen_weight: The derived weight inside of `frozen_weights`, None outside.
    """

    frozen_weight: Tensor | None = None

    @abstractmethod
    def derive_weight(self) -> Tensor:
        """Return the weight, at least in float32."""

    def current_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in a precision, derived from the parameters unless it is frozen."""
        if self.frozen_weight is not None and not torch.is_grad_enabled():
            return self.frozen_weight
        return self.derive_weight().to(dtype)


@contextmanager
def frozen_weights(network: object) -> Iterator[None]:
    """Derive the weights of all `DerivedWeight` layers of a network once, for calls without
    gradients; parameters must not change inside. What a call returns stays the same to the last
    bit.

    Args:
        network: A module, or any other function, for which nothing is done.
    """
    parts = network.modules() if isinstance(network, nn.Module) else ()
    layers = [part for part in parts if isinstance(part, DerivedWeight)]
    try:
        with torch.no_grad():
            for layer in layers:
                weight = layer.derive_weight()
                layer.frozen_weight = weight.to(_precision(weight))
        yield
    finally:
        for layer in layers:
            layer.frozen_weight = None


def _precision(weight: Tensor) -> torch.dtype:
    """Return the precision in which convolutions will want a weight."""
    device = weight.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype
