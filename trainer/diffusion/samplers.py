"""From noise to latents: solvers over diffusers' schedulers, one loop for all of them, with a
region that may be known.

Nothing is clipped: latents are not pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.choices import SolverKind, Spacing
from trainer.diffusion.guidance import Denoise
from trainer.diffusion.objectives import Objective

SOLVERS = {
    "epsilon": ("dpm++", "ddim"),
    "v": ("dpm++", "ddim"),
    "flow": ("dpm++", "euler", "heun"),
    "mean_flow": ("euler",),
}
# log(signal / sigma) below which a predicted noise says nothing about the clean latents: Lu et al.
# 2022, arXiv 2211.01095, and
# the value that diffusers names for the cosine schedule.
_LEAST_LOG_RATIO = -5.1
# The levels that steps of equal log-SNR are spread over: log(signal / sigma) of the first, which
# starts at noise alone all the same, and of the last.
_LOG_RATIOS = (-4.0, 3.0)
_LARGEST_FLOW_TIME = 0.999
_PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "flow": "flow_prediction"}


@dataclass(frozen=True)
class Solver:
    """The solver of sampling and its number of steps.

    dpm++: second-order multistep DPM-Solver++. ddim: eta 0 is deterministic, eta 1 ancestral; its
    number of steps divides the number of training timesteps, and very many steps leave out the
    first few, at which the noise carries no information. euler, heun: for flow; heun calls the
    network 2 n - 1 times. euler is exact for mean_flow, whose network gives the way of a whole
    step.

    `spacing`: steps of equal time, or, with dpm++, of equal log(signal / sigma), which is better
    with few steps: ten or so for flow, 25 on a noise schedule.
    """

    kind: SolverKind = "dpm++"
    num_inference_steps: int = 25
    eta: float = 0.0
    spacing: Spacing = "time"

    def problem(self, objective: Objective) -> str | None:
        """Return what keeps the solver from working with an objective, or None."""
        known, num_train = (
            SOLVERS[objective.prediction_type],
            objective.schedule.num_train_timesteps,
        )
        if self.kind not in known:
            return (
                f"solver {self.kind!r} does not solve {objective.prediction_type};"
                f" {' or '.join(known)} expected"
            )
        # Two steps at one timestep would divide by zero.
        most = (
            _first_timestep(objective)
            if self.kind == "dpm++" and not objective.is_flow
            else num_train
        )
        if not 1 <= self.num_inference_steps <= most:
            return f"{self.num_inference_steps} steps of {self.kind}; 1 to {most} expected"
        if self.kind == "ddim" and num_train % self.num_inference_steps:
            return (
                f"{self.num_inference_steps} steps of ddim; a divisor of {num_train} expected, such"
                " as 25, 50 or 250"
            )
        if self.spacing != "time" and self.kind != "dpm++":
            return f"spacing {self.spacing} with {self.kind}; dpm++ expected"
        if self.eta and (self.kind != "ddim" or not 0 <= self.eta <= 1):
            return f"eta {self.eta} with {self.kind}; 0 to 1 with ddim expected, 0 otherwise"
        return None


@dataclass(frozen=True)
class Known:
    """What is known beforehand: `latents` [batch, channels, height, width] where `where` [batch, 1,
    height, width] (bool) is true.
    """

    latents: Float[Tensor, "batch channels height width"]
    where: Bool[Tensor, "batch 1 height width"]


@dataclass(frozen=True)
class _Evaluation:
    """One call of the network: the scheduler's own timestep, the time input of the network, and
    the level of `x` there.
    """

    timestep: Any
    time: float
    signal: float
    sigma: float


@dataclass(frozen=True)
class Elsewhere:
    """The network to call where sigma / signal is not in `interval` (least and largest, both
    included): without guidance, say, which helps at middle noise levels only.

    Source: Kynkäänniemi et al. 2024, arXiv 2404.07724, equation 5.
    """

    interval: tuple[float, float]
    denoise: Denoise

    def holds(self, evaluation: _Evaluation) -> bool:
        """Return whether an evaluation lies in the interval."""
        least, largest = self.interval
        return least * evaluation.signal <= evaluation.sigma <= largest * evaluation.signal


@torch.no_grad()
def sample(
    denoise: Denoise,
    noise: Float[Tensor, "batch channels height width"],
    objective: Objective,
    solver: Solver,
    *,
    step_noise: Callable[[int], Tensor] | None = None,
    known: Known | None = None,
    elsewhere: Elsewhere | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Return latents for noise.

    The region of `known` is put to the level of the next evaluation after every step, with the
    noise
    that the sample started from, so that the network always sees both regions at the level of its
    time
    input, and the result holds the known latents exactly. Source of the replacement: Lugmayr et al.
    2022, arXiv 2201.09865, equation 8.

    Args:
        denoise: The network, guidance included: (x, t) -> prediction; for mean_flow t is [batch,
            2]: the time, and that which the step leads to.
        noise: Unit variance, [batch, channels, height, width].
        objective: What the network predicts.
        solver: The solver and its number of steps.
        step_noise: Returns the fresh noise of an evaluation, which ddim with an eta above 0 needs.
        known: The region that is known beforehand.
        elsewhere: The network outside an interval of noise levels; `denoise` at every level if
            None.

    Raises:
        ValueError: For a solver that does not fit.
    """
    if problem := solver.problem(objective):
        raise ValueError(problem)
    if solver.eta and step_noise is None:
        raise ValueError("ddim with eta above 0 needs step_noise")
    scheduler, evaluations = _plan(objective, solver)
    levels = [(evaluation.signal, evaluation.sigma) for evaluation in evaluations] + [(1.0, 0.0)]
    x = _with_known(noise, known, noise, *levels[0])
    for index, evaluation in enumerate(evaluations):
        t = torch.full(
            (len(x),),
            evaluation.time,
            device=x.device,
            dtype=torch.float32 if objective.is_flow else torch.int64,
        )
        if objective.prediction_type == "mean_flow":
            following = evaluations[index + 1 : index + 2]
            end = torch.full_like(t, following[0].time if following else 0.0)
            t = torch.stack((t, end), dim=1)
        network = denoise if elsewhere is None or elsewhere.holds(evaluation) else elsewhere.denoise
        output = network(x, t).to(x.dtype)
        more = (
            {"eta": solver.eta, "variance_noise": step_noise(index)}
            if solver.eta and step_noise
            else {}
        )
        x = scheduler.step(output, evaluation.timestep, x, return_dict=False, **more)[0]
        x = _with_known(x, known, noise, *levels[index + 1])
    return x


def count_calls(objective: Objective, solver: Solver) -> int:
    """Return how often `sample` calls the network."""
    return len(_plan(objective, solver)[1])


def scheduler_of(objective: Objective, solver: Solver) -> Any | None:
    """Return the scheduler of diffusers that takes the steps of a solver by its configuration and
    `set_timesteps(num_inference_steps)` alone; None where there is none, as for steps of equal
    log-SNR.

    Raises:
        ValueError: For a solver that does not fit.
    """
    if problem := solver.problem(objective):
        raise ValueError(problem)
    scheduler, evaluations = _plan(objective, solver)
    twin = type(scheduler).from_config(scheduler.config)
    twin.set_timesteps(solver.num_inference_steps)
    same_steps = len(twin.timesteps) == len(evaluations) and torch.equal(
        twin.timesteps, scheduler.timesteps
    )
    sigmas = [getattr(each, "sigmas", torch.zeros(0)) for each in (twin, scheduler)]
    return twin if same_steps and torch.equal(*sigmas) else None


def _with_known(
    x: Tensor, known: Known | None, noise: Tensor, signal: float, sigma: float
) -> Tensor:
    if known is None:
        return x
    return torch.where(
        known.where, signal * known.latents + sigma * noise if sigma else known.latents, x
    )


def _plan(objective: Objective, solver: Solver) -> tuple[Any, list[_Evaluation]]:
    if solver.spacing == "log_snr":
        return _multistep_by_log_snr(objective, solver.num_inference_steps)
    makers = {"ddim": _ddim, "dpm++": _multistep, "euler": _euler, "heun": _heun}
    return makers[solver.kind](objective, solver.num_inference_steps)


def _ddim(objective: Objective, num_steps: int) -> tuple[Any, list[_Evaluation]]:
    """Song et al. 2020, arXiv 2010.02502."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    num_train = objective.schedule.num_train_timesteps
    stride = num_train // num_steps
    first = _first_timestep(objective)
    offset = min(stride - 1, first - stride * (num_steps - 1))
    scheduler = DDIMScheduler(
        **objective.schedule.scheduler_arguments,
        prediction_type=_PREDICTION_TYPES[objective.prediction_type],
        clip_sample=False,
        timestep_spacing="leading",
        steps_offset=max(0, offset),
    )
    scheduler.set_timesteps(num_steps)
    return scheduler, _at_timesteps(
        objective, scheduler.timesteps[scheduler.timesteps < first + stride]
    )


def _multistep(objective: Objective, num_steps: int) -> tuple[Any, list[_Evaluation]]:
    """Lu et al. 2022, arXiv 2211.01095, algorithm 2."""
    scheduler = _multistep_scheduler(objective)
    scheduler.set_timesteps(num_steps)
    return scheduler, _multistep_evaluations(objective, scheduler)


def _multistep_by_log_snr(objective: Objective, num_steps: int) -> tuple[Any, list[_Evaluation]]:
    """The same with steps of equal log(signal / sigma), section 3.3 of the source."""
    scheduler = _multistep_scheduler(objective)
    least, largest = _LOG_RATIOS
    if objective.is_flow:
        scheduler.set_timesteps(num_steps)
        ratios = torch.linspace(least, largest, num_steps, dtype=torch.float64)
        times = torch.sigmoid(-ratios)
        times[0] = _LARGEST_FLOW_TIME
        scheduler.sigmas = torch.cat((times, times.new_zeros(1))).float()
        return scheduler, _multistep_evaluations(objective, scheduler)
    alpha_bars = objective.schedule.alpha_bars().double()
    known = 0.5 * torch.log(alpha_bars / (1 - alpha_bars))
    first = _first_timestep(objective)
    ratios = torch.linspace(
        max(least, float(known[first])), min(largest, float(known[0])), num_steps
    ).double()
    timesteps = [first]
    for index, nearest in enumerate((known - ratios[1:, None]).abs().argmin(1).tolist(), 1):
        # No timestep comes twice, and all that follow find one.
        timesteps.append(max(min(nearest, timesteps[-1] - 1), num_steps - 1 - index))
    scheduler.set_timesteps(timesteps=timesteps)
    return scheduler, _multistep_evaluations(objective, scheduler)


def _multistep_scheduler(objective: Objective) -> Any:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    flow = objective.is_flow
    return DPMSolverMultistepScheduler(
        **objective.schedule.scheduler_arguments,
        prediction_type=_PREDICTION_TYPES[objective.prediction_type],
        use_flow_sigmas=flow,
        flow_shift=objective.flow_shift if flow else 1.0,
        lambda_min_clipped=(
            _LEAST_LOG_RATIO if objective.prediction_type == "epsilon" else -float("inf")
        ),
    )


def _multistep_evaluations(objective: Objective, scheduler: Any) -> list[_Evaluation]:
    scheduler.set_begin_index(0)
    if not objective.is_flow:
        return _at_timesteps(objective, scheduler.timesteps)
    # The scheduler's timesteps are cut to whole numbers; its sigmas are exact.
    return [
        _at_flow_time(objective, sigma, step)
        for sigma, step in zip(scheduler.sigmas[:-1].tolist(), scheduler.timesteps, strict=True)
    ]


def _euler(objective: Objective, num_steps: int) -> tuple[Any, list[_Evaluation]]:
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=objective.schedule.num_train_timesteps
    )
    times = torch.arange(num_steps, 0, -1, dtype=torch.float64) / num_steps
    scheduler.set_timesteps(sigmas=objective.shifted(times).tolist())
    scheduler.set_begin_index(0)
    return scheduler, _at_flow_times(objective, scheduler.timesteps)


def _heun(objective: Objective, num_steps: int) -> tuple[Any, list[_Evaluation]]:
    from diffusers.schedulers.scheduling_flow_match_heun_discrete import (
        FlowMatchHeunDiscreteScheduler,
    )

    scheduler = FlowMatchHeunDiscreteScheduler(
        num_train_timesteps=objective.schedule.num_train_timesteps
    )
    # Stated when it is made, diffusers 0.42 would shift the least time twice.
    scheduler.register_to_config(shift=objective.flow_shift)
    scheduler.set_timesteps(num_steps)
    scheduler.set_begin_index(0)
    return scheduler, _at_flow_times(objective, scheduler.timesteps)


def _first_timestep(objective: Objective) -> int:
    """Return the timestep to start from: the last one, or for epsilon the last at which the noise
    tells something about the latents.
    """
    alpha_bars = objective.schedule.alpha_bars()
    usable_steps = 0.5 * torch.log(alpha_bars / (1 - alpha_bars)) >= _LEAST_LOG_RATIO
    return (
        int(usable_steps.sum()) - 1
        if objective.prediction_type == "epsilon"
        else len(alpha_bars) - 1
    )


def _at_timesteps(objective: Objective, timesteps: Tensor) -> list[_Evaluation]:
    signals, sigmas = (level.flatten().tolist() for level in objective.signal_and_sigma(timesteps))
    return [
        _Evaluation(step, step, signal, sigma)
        for step, signal, sigma in zip(timesteps.tolist(), signals, sigmas, strict=True)
    ]


def _at_flow_times(objective: Objective, timesteps: Tensor) -> list[_Evaluation]:
    return [
        _at_flow_time(objective, float(step) / objective.schedule.num_train_timesteps, step)
        for step in timesteps
    ]


def _at_flow_time(objective: Objective, time: float, timestep: Any) -> _Evaluation:
    return _Evaluation(timestep, time * objective.schedule.num_train_timesteps, 1 - time, time)
