"""Few steps: a network learns the average velocity over an interval of times, so that one call goes
all the way along it.

x_t = (1 - t) clean + t noise moves with the velocity v(x_t, t). Its average from t to r,
u(x_t, t, r) = (x_t - x_r) / (t - r), obeys u = v - (t - r) du/dt along the path, where du/dt is a
forward-mode derivative of the network itself. Sources: Geng et al. 2025, arXiv 2505.13447,
equation 6, and arXiv 2512.02012, section 4, from which the velocity along which to differentiate is
the network's own, at an interval of no length, and the guidance scale is an input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.diffusion.objectives import Objective

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(noisy, time, end of the interval, guidance scale) -> average velocity; times in [0, 1]."""


class Intervals(NamedTuple):
    """What is drawn for a batch: times `t` and their ends `r` <= t in [0, 1], guidance scales, each
    float32 [batch].
    """

    t: Tensor
    r: Tensor
    guidance: Tensor


def draw_intervals(objective: Objective, uniforms: Float[Tensor, "batch 4"]) -> Intervals:
    """Return intervals for uniform numbers in [0, 1), [batch, 4].

    Two times are drawn as those of the flow; where the third number is `interval_share` or more the
    interval has no length. The inverse of the guidance scale is uniform from 1 / `max_guidance` to
    1.
    """
    first, second = (objective.timesteps_from_uniform(uniforms[:, index]) for index in (0, 1))
    t, r = torch.maximum(first, second), torch.minimum(first, second)
    is_point = uniforms[:, 2] >= objective.interval_share
    least = 1 / objective.max_guidance
    guidance = 1 / (least + (1 - least) * uniforms[:, 3])
    return Intervals(
        torch.where(is_point, first, t), torch.where(is_point, first, r), guidance.float()
    )


@torch.no_grad()
def guided_velocity(
    predict: Predict,
    predict_null: Predict,
    noisy: Float[Tensor, "batch channels height width"],
    velocity: Float[Tensor, "batch channels height width"],
    intervals: Intervals,
    drop: Bool[Tensor, " batch"],
) -> tuple[Tensor, Tensor]:
    """Return the velocity to learn, and the network's own, both under guidance: [batch, channels,
    height, width].

    With scale w: v_w = v + (1 - 1/w) (v_w' - v_0'), where v_w' and v_0' are the network's own
    velocities with guidance and without condition; in the mean over noise, v_w = v_0 + w (v - v_0).
    Samples without condition have w = 1.

    Args:
        predict: The network under the masks.
        predict_null: The same without condition.
        noisy: Latents at the times of `intervals`.
        velocity: Noise minus clean latents.
        intervals: What was drawn.
        drop: The samples without condition, bool [batch].
    """
    t = intervals.t
    own = predict(noisy, t, t, intervals.guidance).float()
    null = predict_null(noisy, t, t, torch.ones_like(t)).float()
    share = torch.where(drop, 0.0, 1 - 1 / intervals.guidance).view(-1, 1, 1, 1)
    return velocity + share * (own - null), own


@torch.no_grad()
def average_target(
    predict: Predict,
    noisy: Float[Tensor, "batch channels height width"],
    velocity: Float[Tensor, "batch channels height width"],
    tangent: Float[Tensor, "batch channels height width"],
    intervals: Intervals,
) -> Float[Tensor, "batch channels height width"]:
    """Return what the network should predict: velocity - (t - r) du/dt, the derivative along
    `tangent`; float32.

    Args:
        predict: The network.
        noisy: Latents at the times of `intervals`.
        velocity: The velocity to learn.
        tangent: How latents move with time, as the network knows it.
        intervals: What was drawn.
    """
    t, r, guidance = intervals
    # `no_grad` is of backward mode; forward mode goes on.
    moved = torch.func.jvp(
        lambda x, time: predict(x, time, r, guidance),
        (noisy, t),
        (tangent.to(noisy.dtype), torch.ones_like(t)),
    )
    change: Tensor = moved[1].float()
    return velocity - (t - r).view(-1, 1, 1, 1) * change
