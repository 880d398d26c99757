"""What a denoiser costs: parameters, what training keeps of an image, and operations, without
running it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from trainer.models.denoisers.interface import Denoiser


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def copy_shapes(denoiser: Denoiser) -> Denoiser:
    """Return a copy of a network on the device "meta": shapes without numbers."""
    tensors = (*denoiser.parameters(), *denoiser.buffers())
    copies = [
        nn.Parameter(tensor.detach().to("meta"), tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else tensor.to("meta")
        for tensor in tensors
    ]
    # Nothing of the network itself is copied: each tensor has its copy already.
    memo: dict[int, Any] = {id(tensor): made for tensor, made in zip(tensors, copies, strict=True)}
    return copy.deepcopy(denoiser, memo)


def count_activation_bytes(denoiser: Denoiser, batch_size: int, image_px: int, factor: int) -> int:
    """Return what autograd keeps of one forward pass in float32, in bytes.

    The network runs on PyTorch's device "meta", which computes shapes only; the parameters
    themselves are not counted. Attention through `scaled_dot_product_attention` counts as its fused
    kernels keep it: queries, keys, values and result, no softmax matrix.

    Args:
        denoiser: The network, on the device "meta".
        batch_size: Images at once.
        image_px: Height and width of an image.
        factor: Pixels a side that become one latent.
    """
    own = {parameter.untyped_storage()._cdata for parameter in denoiser.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Held on to, so that no address is used twice.
        saved.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage())
        return tensor

    side = image_px // factor
    with (
        torch.device("meta"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        _FusedAttention(),
    ):
        denoiser.train()(
            torch.zeros(batch_size, denoiser.channels, side, side),
            torch.zeros(batch_size),
            torch.zeros(batch_size, 1, image_px, image_px, dtype=torch.uint8),
            torch.zeros(batch_size, dtype=torch.bool),
        )
    return sum(storage.nbytes() for key, storage in saved.items() if key not in own)


def count_flops(denoiser: Denoiser, image_px: int, factor: int, *, training: bool) -> int:
    """Return the floating-point operations of one image: of convolutions, matrix products and
    attention as the network executes them, 2 for a multiply-add.

    Args:
        denoiser: The network; on the device "meta" nothing is computed.
        image_px: Height and width of the image.
        factor: Pixels a side that become one latent.
        training: Whether to count the backward pass, too.
    """
    device = next(denoiser.parameters()).device
    side = image_px // factor
    with (
        FlopCounterMode(display=False) as counter,
        torch.set_grad_enabled(training),
        torch.device(device),
    ):
        result = denoiser(
            torch.randn(1, denoiser.channels, side, side),
            torch.zeros(1),
            torch.zeros(1, 1, image_px, image_px, dtype=torch.uint8),
        )
        if training:
            result.sum().backward()
    denoiser.zero_grad()
    return int(counter.get_total_flops())


class _FusedAttention(TorchFunctionMode):
    """Makes attention on the device "meta" keep what fused kernels keep; without it the softmax
    matrix is written out there.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or stand in for attention."""
        if func is functional.scaled_dot_product_attention:
            stand_in: Any = _KeptByAttention
            return stand_in.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _KeptByAttention(torch.autograd.Function):
    """The shape of attention's result, and what its backward pass needs."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return an empty result [..., queries, width of values]."""
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, result)
        return result
