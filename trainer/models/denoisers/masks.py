"""Masks of class ids, checked against latents and reduced to their resolution."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Integer, Shaped
from torch import Tensor

from histoprep.labels.ignored import IGNORED_ID


def check_masks(mask: Tensor, size: tuple[int, int], *, num_classes: int, stride: int) -> int:
    """Return how many pixels a side of a mask belong to one latent.

    Args:
        mask: Class ids, uint8 or int64 [batch, 1, H, W].
        size: Height and width of the latents.
        num_classes: Class ids 0 .. num_classes - 1 may occur; they are looked at on the CPU only,
            where that costs nothing.
        stride: What height and width of the latents must be multiples of.

    Raises:
        ValueError: When H and W are not one whole multiple of the size of the latents, that size is
            no multiple of `stride`, or a class id is out of range.
    """
    height, width = size
    factor = mask.shape[-2] // height
    if (
        mask.ndim != 4
        or mask.shape[1] != 1
        or factor < 1
        or tuple(mask.shape[-2:]) != (factor * height, factor * width)
    ):
        raise ValueError(
            f"the mask is {tuple(mask.shape)}; [batch, 1, n * {height}, n * {width}] expected for"
            f" latents of {size}"
        )
    if height % stride or width % stride:
        raise ValueError(f"latents of {size}: height and width must be multiples of {stride}")
    if mask.device.type == "cpu" and not torch.compiler.is_compiling():
        least, most = int(mask.min()), int(mask.max())
        if least < 0 or most >= num_classes:
            raise ValueError(
                f"the mask holds class ids {least} to {most}; 0 to {num_classes - 1} expected"
            )
    return factor


def without_ignored(
    mask: Integer[Tensor, " *sizes"], num_classes: int
) -> Integer[Tensor, " *sizes"]:
    """Return masks in which ignored pixels (id 255, which no class has then) are of class 0, as
    unlabelled ones are.

    Args:
        mask: Class ids, uint8 or int64, any shape.
        num_classes: Class ids 0 .. num_classes - 1 may occur; with 256 of them nothing is ignored.
    """
    return mask if num_classes > IGNORED_ID else mask.masked_fill(mask == IGNORED_ID, 0)


def class_fractions(
    mask: Integer[Tensor, "batch 1 height width"], num_classes: int, factor: int
) -> Float32[Tensor, "batch {num_classes} out_height out_width"]:
    """Return the share of each class in every `factor` x `factor` window of masks.

    Class ids are never averaged themselves: between class 1 and class 3 lies no class 2.

    Args:
        mask: Class ids [batch, 1, H, W], H and W multiples of `factor`.
        num_classes: Number of class ids.
        factor: Pixels a side of a window; with that of the codec, windows are latents.

    Returns:
        Shares in [0, 1] that sum to 1 over the classes, float32
        [batch, num_classes, H / factor, W / factor].
    """
    ids = torch.arange(num_classes, device=mask.device, dtype=mask.dtype)[:, None, None]
    windows = split_windows(mask == ids, factor)
    return windows.sum((3, 5), dtype=torch.float32) / (factor * factor)


def split_windows(
    maps: Shaped[Tensor, "batch channels height width"], factor: int
) -> Shaped[Tensor, "batch channels rows {factor} columns {factor}"]:
    """Return maps [batch, channels, H, W] as windows of `factor` x `factor`, without a copy:
    [batch, channels, H / factor, factor, W / factor, factor].
    """
    return torch.unflatten(torch.unflatten(maps, 3, (-1, factor)), 2, (-1, factor))
