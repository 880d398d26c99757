"""What one training step works on, in words: shapes, ranges, class distribution, embeddings; for
`log_level: debug`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_MAX_VALUES = 16
_MAX_CLASSES = 32


def describe_batch(batch: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each tensor of a batch, and the class distribution of masks.

    Masks are integer tensors named `mask`; their distribution is the share of pixels of each class
    id over the batch.
    """
    lines = []
    for name, tensor in batch.items():
        lines.append(f"batch {name}: {describe_tensor(tensor)}")
        if name == "mask" and not tensor.is_floating_point():
            lines.append(f"batch {name}, share of pixels: {_class_shares(tensor)}")
    return lines


def describe_tensor(tensor: Tensor) -> str:
    """Return shape, type, place and range of a tensor; the values of short ones."""
    shape = " x ".join(map(str, tensor.shape)) or "a number"
    kind = f"{shape} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
    if not tensor.numel():
        return kind
    if tensor.ndim <= 1 and tensor.numel() <= _MAX_VALUES:
        return f"{kind}: {', '.join(f'{value:.4g}' for value in tensor.flatten().tolist())}"
    values = tensor.detach().double()
    text = f"{kind}: {values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}"
    return f"{text}, std {values.std():.4g}" if tensor.numel() > 1 else text


def _class_shares(mask: Tensor) -> str:
    ids, counts = torch.unique(mask, return_counts=True)
    shown = [
        f"{int(cls)}: {count / mask.numel():.2%}"
        for cls, count in zip(ids[:_MAX_CLASSES].tolist(), counts.tolist(), strict=False)
    ]
    return ", ".join(shown)


@contextlib.contextmanager
def watching(module: nn.Module) -> Iterator[list[str]]:
    """Yield a list that gets a line for each input of `module` and for the output of each part of
    it (its direct children), as they are called.
    """
    lines: list[str] = []

    def see_inputs(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = {str(index): value for index, value in enumerate(arguments)} | named
        lines.extend(
            f"network input {name}: {describe_tensor(value)}"
            for name, value in values.items()
            if isinstance(value, Tensor)
        )

    def see_output(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                lines.append(f"network part {name}: {describe_tensor(output)}")

        return hook

    handles = [module.register_forward_pre_hook(see_inputs, with_kwargs=True)]
    handles += [
        part.register_forward_hook(see_output(name)) for name, part in module.named_children()
    ]
    # Lists of parts are never called themselves.
    handles += [
        part.register_forward_hook(see_output(f"{name}.{number}"))
        for name, parts in module.named_children()
        if isinstance(parts, nn.ModuleList)
        for number, part in enumerate(parts)
    ]
    handles += [
        part.register_forward_hook(see_output(name))
        for name, part in module.named_modules()
        if isinstance(part, nn.Embedding)
    ]
    try:
        yield lines
    finally:
        for handle in handles:
            handle.remove()
