"""Regions of interest: from saliency maps to windows to crops, on the device, without a loop over
images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Integer
from torch import Tensor

SALIENCY_RULES = ("sum_minmax", "prob_weighted", "predicted_class")


def combine_saliency(
    maps: Float[Tensor, "batch classes height width"],
    logits: Float[Tensor, "batch classes"],
    rule: str,
) -> Float[Tensor, "batch height width"]:
    """Return one map [B, h, w] in which regions are looked for, of saliency maps [B, C, h, w] and
    class logits [B, C].

    Each class's map is first stretched to [0, 1] over its cells; a constant one becomes 0.
    `sum_minmax` adds the classes up (as published; it can avoid the lesion, where one class is high
    but all others are at their minimum), `prob_weighted` weighs them by the softmax of the logits,
    `predicted_class` takes the class of the largest logit.
    """
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    stretch = high - low
    scaled = torch.where(
        stretch > 0,
        (maps - low) / stretch.clamp_min(torch.finfo(maps.dtype).tiny),
        torch.zeros_like(maps),
    )
    if rule == "sum_minmax":
        return scaled.sum(dim=1)
    if rule == "prob_weighted":
        return torch.einsum("bchw,bc->bhw", scaled, logits.softmax(dim=1))
    if rule == "predicted_class":
        return scaled[torch.arange(len(scaled), device=scaled.device), logits.argmax(dim=1)]
    raise ValueError(f"no such saliency rule: {rule}; there are {', '.join(SALIENCY_RULES)}")


def window_cells(crop_px: int, image_px: int, map_cells: int) -> int:
    """Return the side of a crop in cells of the saliency map, at least 1."""
    return max(round(crop_px * map_cells / image_px), 1)


def pick_windows(
    saliency: Float[Tensor, "batch height width"], window: tuple[int, int], count: int
) -> Integer[Tensor, "batch count 2"]:
    """Return the upper-left cells int64 [B, count, 2] (row, column) of the windows with the largest
    mean, one after the other.

    The cells of a chosen window count as 0 afterwards. Of equal windows the first in reading order
    is taken, and none twice, so that `count` distinct windows come back even of a constant map.

    Raises:
        ValueError: Where there are fewer.
    """
    batch, rows, columns = saliency.shape
    across = columns - window[1] + 1
    if (rows - window[0] + 1) * across < count:
        raise ValueError(
            f"{count} windows of {window} cells do not exist in a map of {(rows, columns)}"
        )
    remaining = saliency.clone()
    covered = torch.zeros(
        batch, (rows - window[0] + 1) * across, dtype=torch.bool, device=saliency.device
    )
    row_of, column_of = (
        torch.arange(rows, device=saliency.device),
        torch.arange(columns, device=saliency.device),
    )
    corners = []
    for _ in range(count):
        means = nnf.avg_pool2d(remaining[:, None], window, stride=1).flatten(1)
        chosen = means.masked_fill(covered, -torch.inf).argmax(dim=1, keepdim=True)
        covered.scatter_(1, chosen, True)
        row, column = chosen // across, chosen % across
        inside_rows = (row_of >= row) & (row_of < row + window[0])
        inside_columns = (column_of >= column) & (column_of < column + window[1])
        remaining = remaining.masked_fill(inside_rows[:, :, None] & inside_columns[:, None, :], 0.0)
        corners.append(torch.cat([row, column], dim=1))
    return torch.stack(corners, dim=1)


def corners_in_pixels(
    cells: Integer[Tensor, "batch regions 2"],
    map_size: tuple[int, int],
    image_size: tuple[int, int],
    crop_px: int,
) -> Integer[Tensor, "batch regions 2"]:
    """Return upper-left pixels int64 [B, K, 2] of cells [B, K, 2], moved inwards where a crop would
    leave the image.
    """
    scale = cells.new_tensor(image_size, dtype=torch.float64) / cells.new_tensor(
        map_size, dtype=torch.float64
    )
    last = cells.new_tensor([side - crop_px for side in image_size])
    return torch.minimum((cells * scale).round().long(), last)


def crop_regions(
    images: Float[Tensor, "batch channels height width"],
    corners: Integer[Tensor, "batch regions 2"],
    crop_px: int,
) -> Float[Tensor, "batch regions channels {crop_px} {crop_px}"]:
    """Return the crops [B, K, 3, crop_px, crop_px] of images [B, 3, H, W] at upper-left pixels
    int64 [B, K, 2].
    """
    batch, channels, _, _ = images.shape
    steps = torch.arange(crop_px, device=images.device)
    rows = (corners[..., 0, None] + steps)[:, :, None, :, None]
    columns = (corners[..., 1, None] + steps)[:, :, None, None, :]
    samples = torch.arange(batch, device=images.device)[:, None, None, None, None]
    planes = torch.arange(channels, device=images.device)[None, None, :, None, None]
    return images[samples, planes, rows, columns]
