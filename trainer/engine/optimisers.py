"""The optimiser of a stage, and its state as named tensors and plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config import Optimiser
from trainer.errors import CheckpointError

_KINDS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimiser(
    settings: Optimiser, parameters: Iterable[Any], *, fused: bool
) -> torch.optim.Optimizer:
    """Return Adam or AdamW over parameters or groups; `lr_scale` of a group stays in it, for
    `set_lr`.
    """
    common: dict[str, Any] = {
        "lr": settings.lr,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    return _KINDS[settings.kind](list(parameters), fused=fused or None, **common)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr`, times its `lr_scale` where it has one."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments of every parameter as <number>.<name> -> tensor."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put moments from `optimiser_tensors` back, in the memory layout of their parameters.

    Raises:
        CheckpointError: When they do not fit.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        if int(number) >= len(parameters) or (
            value.ndim and value.shape != parameters[int(number)].shape
        ):
            raise CheckpointError(
                "the optimiser's state does not fit the model", seen=f"{key}: {tuple(value.shape)}"
            )
        # A scalar is a count; moments follow the layout (channels_last) of their parameter, which
        # load_state_dict would not give them.
        fitted = (
            torch.empty_like(parameters[int(number)], dtype=value.dtype).copy_(value)
            if value.ndim
            else value
        )
        state.setdefault(int(number), {})[name] = fitted
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
