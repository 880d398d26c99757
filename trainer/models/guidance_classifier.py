"""The guidance classifier: class logits of the whole image and of its most salient regions.

A trunk gives a saliency map for each class, whose largest cells make the global logits; the maps
say where to crop K regions; a second trunk and gated attention over its K answers make the local
logits; the mean of both is the fused answer. Sources: Shen et al. 2021 (GMIC), Ilse et al. 2018,
arXiv 1802.04712 (gated attention); DiffMIC-v2, IEEE TMI 44(5):2244.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.models.regions import (
    SALIENCY_RULES,
    combine_saliency,
    corners_in_pixels,
    crop_regions,
    pick_windows,
    window_cells,
)


class Guidance(NamedTuple):
    """What the classifier returns for B images: logits [B, C] (never probabilities), regions and
    where it looked.
    """

    fused: Tensor
    global_logits: Tensor
    local_logits: Tensor
    crops: Tensor
    """[B, K, 3, crop_px, crop_px], normalised as the images were."""
    attention: Tensor
    """[B, K], sums to 1 over the regions."""
    saliency: Tensor
    """[B, C, h, w]."""
    corners: Tensor
    """int64 [B, K, 2]: row and column of each region's upper-left pixel."""


class GuidanceClassifier(nn.Module):
    """Global and local classification of normalised images [B, 3, H, W].

    `make_trunk` is called twice. `top_share` is the share of cells, in (0, 1], whose mean is a
    class's global logit. `roi_saliency` is one of `regions.SALIENCY_RULES`; `red_crops` gives the
    local trunk the red channel three times, as published.
    """

    def __init__(
        self,
        make_trunk: Callable[[], nn.Module],
        *,
        num_classes: int,
        num_regions: int = 6,
        crop_px: int = 32,
        attention_width: int = 128,
        top_share: float = 1.0,
        roi_saliency: str = "prob_weighted",
        red_crops: bool = False,
    ) -> None:
        super().__init__()
        if roi_saliency not in SALIENCY_RULES:
            raise ValueError(
                f"no such saliency rule: {roi_saliency}; there are {', '.join(SALIENCY_RULES)}"
            )
        self.num_classes, self.num_regions, self.crop_px = num_classes, num_regions, crop_px
        self.top_share, self.roi_saliency, self.red_crops = top_share, roi_saliency, red_crops
        self.global_trunk, self.local_trunk = make_trunk(), make_trunk()
        width = int(self.global_trunk.num_features)  # type: ignore[arg-type]
        self.saliency_head = nn.Conv2d(width, num_classes, 1, bias=False)
        self.attention_value = nn.Linear(width, attention_width, bias=False)
        self.attention_gate = nn.Linear(width, attention_width, bias=False)
        self.attention_score = nn.Linear(attention_width, 1, bias=False)
        self.local_head = nn.Linear(width, num_classes, bias=False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Guidance:
        """Return the guidance of normalised images [B, 3, H, W]."""
        saliency = self.saliency_head(self.global_trunk(images))
        global_logits = top_mean(saliency, self.top_share)
        corners = self._corners(
            saliency.detach(), global_logits.detach(), (images.shape[-2], images.shape[-1])
        )
        crops = crop_regions(images, corners, self.crop_px)
        if self.red_crops:
            crops = crops[:, :, :1].expand_as(crops)
        local_logits, attention = self._classify_regions(crops)
        return Guidance(
            (global_logits + local_logits) / 2,
            global_logits,
            local_logits,
            crops,
            attention,
            saliency,
            corners,
        )

    def _corners(self, saliency: Tensor, logits: Tensor, image_size: tuple[int, int]) -> Tensor:
        map_size = (saliency.shape[-2], saliency.shape[-1])
        window = tuple(
            window_cells(self.crop_px, side, cells)
            for side, cells in zip(image_size, map_size, strict=True)
        )
        # Half precision would make ties of different cells.
        combined = combine_saliency(saliency.float(), logits.float(), self.roi_saliency)
        cells = pick_windows(combined, (window[0], window[1]), self.num_regions)
        return corners_in_pixels(cells, map_size, image_size, self.crop_px)

    def _classify_regions(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] and attention [B, K] of crops [B, K, 3, h, w]."""
        features = (
            self.local_trunk(crops.flatten(0, 1)).mean(dim=(-2, -1)).unflatten(0, crops.shape[:2])
        )
        gated = torch.tanh(self.attention_value(features)) * torch.sigmoid(
            self.attention_gate(features)
        )
        attention = self.attention_score(gated).squeeze(-1).softmax(dim=1)
        return self.local_head(torch.einsum("bk,bkf->bf", attention, features)), attention


def top_mean(
    saliency: Float[Tensor, "batch classes height width"], share: float
) -> Float[Tensor, "batch classes"]:
    """Return logits [B, C]: the mean of the largest `share` of the cells of maps [B, C, h, w], at
    least one cell.
    """
    cells = saliency.flatten(2)
    count = max(round(cells.shape[-1] * share), 1)
    return (
        cells.mean(dim=-1)
        if count == cells.shape[-1]
        else cells.topk(count, dim=-1).values.mean(dim=-1)
    )
