"""How close a reconstruction is to its original: PSNR and SSIM, one number an image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from jaxtyping import Float, Float32
from torch import Tensor

SSIM_WINDOW_PX, _SIGMA_PX = 11, 1.5
_K1, _K2 = 0.01, 0.03
_RANGE = 2.0


def psnr(
    originals: Float[Tensor, "batch channels height width"],
    reconstructions: Float[Tensor, "batch channels height width"],
) -> Float32[Tensor, " batch"]:
    """Return the peak signal-to-noise ratio of images [batch, channels, height, width] in [-1, 1],
    in dB: [batch].

    10 log10(range^2 / mean squared error), with the range 2; infinite for equal images.
    """
    error = (originals - reconstructions).double().square().flatten(1).mean(1)
    return (10 * (math.log10(_RANGE**2) - torch.log10(error))).float()


def ssim(
    originals: Float[Tensor, "batch channels height width"],
    reconstructions: Float[Tensor, "batch channels height width"],
) -> Float32[Tensor, " batch"]:
    """Return the structural similarity of images [batch, channels, height, width] in [-1, 1]:
    [batch], 1 for equal images.

    Gaussian windows of 11 px and sigma 1.5 inside the image, population moments, mean over windows
    and channels. Images smaller than a window raise ValueError. Source: Wang et al. 2004, "Image
    quality assessment", equation 13 with K1 = 0.01 and K2 = 0.03.
    """
    if min(originals.shape[-2:]) < SSIM_WINDOW_PX:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW_PX} px, not {tuple(originals.shape[-2:])}"
        )
    # Brightness from 0: the comparison of means depends on where black is.
    x, y = (originals.double() + 1) / _RANGE, (reconstructions.double() + 1) / _RANGE
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    similarity = (
        (2 * mean_x * mean_y + c1)
        * (2 * covariance + c2)
        / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    )
    return similarity.flatten(1).mean(1).float()


def _blur(images: Tensor) -> Tensor:
    """Return Gaussian means over windows inside the image, a separable convolution a channel."""
    offsets = (
        torch.arange(SSIM_WINDOW_PX, dtype=images.dtype, device=images.device) - SSIM_WINDOW_PX // 2
    )
    weights = torch.exp(-offsets.square() / (2 * _SIGMA_PX**2))
    channels = images.shape[1]
    kernel = (weights / weights.sum()).expand(channels, 1, 1, -1)
    return F.conv2d(
        F.conv2d(images, kernel, groups=channels), kernel.transpose(2, 3), groups=channels
    )
