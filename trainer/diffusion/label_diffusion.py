"""Diffusion of labels: maps of N x N noise points with one class vector each, their guidance, start
and loss.

Source: DiffMIC-v2, IEEE TMI 44(5):2244, and what its code does where the two differ; the choice is
always a named one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Integer
from torch import Tensor

STARTS = ("gaussian", "gaussian_diagonal", "guided", "uniform_map")
DIAGONAL_STARTS = ("gaussian_diagonal", "uniform_map")
"""Starts that are equal wherever |i - j| is."""


def label_map(
    labels: Integer[Tensor, " batch"], num_classes: int, num_points: int
) -> Float32[Tensor, "batch {num_classes} {num_points} {num_points}"]:
    """Return the clean map float32 [B, C, N, N] of labels int64 [B]: one-hot, the same at every
    point.
    """
    one_hot = torch.nn.functional.one_hot(labels, num_classes).to(torch.float32)
    return one_hot[:, :, None, None].expand(-1, -1, num_points, num_points)


def local_shares(num_points: int) -> Float32[Tensor, "{num_points} {num_points}"]:
    """Return d_ij = |i - j| / (N - 1), float32 [N, N]: the share of the local answer at each point;
    1/2 for a single point.
    """
    if num_points == 1:
        return torch.full((1, 1), 0.5)
    steps = torch.arange(num_points, dtype=torch.float32)
    return (steps[:, None] - steps[None, :]).abs() / (num_points - 1)


def interpolate_map(
    first: Float[Tensor, "batch classes"],
    second: Float[Tensor, "batch classes"],
    shares: Float[Tensor, "height width"],
) -> Float[Tensor, "batch classes height width"]:
    """Return (1 - d) * first + d * second, [B, C, h, w] of vectors [B, C] and shares [h, w]."""
    shares = shares.to(first)
    return (1 - shares) * first[:, :, None, None] + shares * second[:, :, None, None]


def point_layout(
    num_points: int, *, distinct: bool
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """Return (shares [h, w], weights [h, w] that sum to 1) of the points a map is evaluated at.

    All N x N with equal weights, or with `distinct` the N values of |i - j| as [1, N], weighted by
    how often each occurs: N, then 2 (N - k). The weighted mean over the latter is the mean over all
    points wherever network, guidance and start depend on |i - j| only.
    """
    if not distinct or num_points == 1:
        return local_shares(num_points), torch.full((num_points, num_points), 1.0 / num_points**2)
    counts = torch.tensor(
        [num_points, *(2 * (num_points - step) for step in range(1, num_points))],
        dtype=torch.float32,
    )
    return local_shares(num_points)[:1], counts[None] / num_points**2


def start_map(
    kind: str,
    guidance: Float[Tensor, "batch classes height width"],
    shares: Float[Tensor, "height width"],
    generator: torch.Generator,
) -> Float[Tensor, "batch classes height width"]:
    """Return the map that denoising starts from: what `draw_start` draws, for `guided` around the
    guidance.

    Args:
        kind: See `draw_start`.
        guidance: Guidance map [batch, classes, h, w].
        shares: Share of the local answer at each point [h, w].
        generator: Source of the draws.

    Raises:
        ValueError: For another kind.
    """
    batch, classes = guidance.shape[:2]
    drawn = draw_start(kind, (batch, classes), shares, generator)
    return start_from(kind, drawn.to(guidance), guidance)


def draw_start(
    kind: str,
    size: tuple[int, int],
    shares: Float[Tensor, "height width"],
    generator: torch.Generator,
) -> Float[Tensor, "batch classes height width"]:
    """Return what is drawn for a start, float32 [batch, classes, h, w]; on the CPU, so that every
    device starts alike.

    Args:
        kind: `gaussian`: N(0, 1) at every point. `gaussian_diagonal`: N(0, 1), one draw for each |i
            - j|. `guided`: N(0, 1), to which the guidance is added. `uniform_map`: two uniform
            vectors interpolated as the guidance is (the published code).
        size: Number of images and of classes.
        shares: Share of the local answer at each point [h, w].
        generator: Source of the draws.

    Raises:
        ValueError: For another kind.
    """
    if kind not in STARTS:
        raise ValueError(f"no such start: {kind}; there are {', '.join(STARTS)}")
    if kind == "uniform_map":
        first, second = torch.rand(2, *size, generator=generator)
        return interpolate_map(first, second, shares)
    if kind == "gaussian_diagonal":
        distinct, place = torch.unique(shares, return_inverse=True)
        return torch.randn(*size, len(distinct), generator=generator)[:, :, place]
    return torch.randn(*size, *shares.shape, generator=generator)


def start_from(
    kind: str,
    drawn: Float[Tensor, "batch classes height width"],
    guidance: Float[Tensor, "batch classes height width"],
) -> Float[Tensor, "batch classes height width"]:
    """Return the start [batch, classes, h, w] for what was drawn and the guidance map."""
    return guidance + drawn if kind == "guided" else drawn


def focal_weights(
    fused_logits: Float[Tensor, "batch classes"],
    labels: Integer[Tensor, " batch"],
    *,
    alpha: float = 10.0,
    gamma: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Return w = 1 + alpha * (1 - p)^gamma, [batch], in [1, 1 + alpha], without gradient.

    Args:
        fused_logits: Logits of the frozen classifier [batch, classes].
        labels: True classes; p is the classifier's probability of them.
        alpha: The largest weight, less 1.
        gamma: How fast the weight falls with p.
    """
    probability = fused_logits.detach().float().softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    return 1 + alpha * (1 - probability).clamp_min(0) ** gamma


def label_loss(
    predicted: Float[Tensor, "batch classes height width"],
    target: Float[Tensor, "batch classes height width"],
    weights: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return the loss of each image, [B]: w * mean over classes and points of (predicted -
    target)^2; not divided by the sum of weights.
    """
    return weights * (predicted - target).square().flatten(1).mean(dim=1)


def label_probabilities(scores: Float[Tensor, "... classes"]) -> Float[Tensor, "... classes"]:
    """Return class probabilities [..., C] of scores, the mean denoised labels: held to [0, 1] and
    divided by their sum; uniform if none is positive.

    The clean map is one-hot, so its mean over points and samples estimates the probability of each
    class.
    """
    clamped = scores.clamp(0, 1)
    total = clamped.sum(dim=-1, keepdim=True)
    return torch.where(
        total > 0,
        clamped / total.clamp_min(torch.finfo(scores.dtype).tiny),
        torch.full_like(clamped, 1 / scores.shape[-1]),
    )
