"""The configuration of the mask-conditioned latent diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, field_validator

from trainer.choices import (
    LossKind,
    PredictionType,
    ScalingMethod,
    ScheduleKind,
    SolverKind,
    Spacing,
)
from trainer.config import RunConfig
from trainer.models.denoisers.interface import DenoiserConfig
from trainer.models.denoisers.registry import DEFAULT_DENOISER, find_denoiser
from trainer.section import KindByName, Positive, Section, Share

_DENOISERS = KindByName(find_denoiser, DEFAULT_DENOISER)


class Diffusion(Section):
    """What the network is trained to predict, and the noise schedule; see
    `diffusion.objectives.Objective`.

    `flow_share`: the share of the training, from its beginning, in which a mean_flow learns the
    velocity alone, as a flow does; averages follow from it.
    """

    prediction_type: PredictionType = "epsilon"
    noise_schedule: ScheduleKind = "cosine"
    num_train_timesteps: Positive = 1000
    loss: LossKind = "l2"
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    flow_mean: float = 0.0
    flow_std: Annotated[float, Field(gt=0)] = 1.0
    flow_shift: Annotated[float, Field(gt=0)] = 1.0
    flow_share: Share = 0.0
    interval_share: Share = 0.5
    max_guidance: Annotated[float, Field(ge=1)] = 4.0


class StreamShares(Section):
    """How often a training position is shown without its condition, and how the rest is shared
    among the classes.

    `cond_drop_prob` is the share of the unconditional stream. Where that has no tiles (or too small
    a share), tiles of the classes are shown without their mask instead, so that guidance always has
    something to push away from. `drop_conditional` is the least share of the class streams' tiles
    that lose their mask even where the unconditional stream has tiles: those are another kind of
    tissue.
    """

    cond_drop_prob: Annotated[float, Field(ge=0, lt=1)] = 0.5
    drop_conditional: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: dict[int, float] = Field(default_factory=dict)


class EncodingSection(Section):
    """How tiles are encoded when no latent set is given; see `trainer encode`. `views` null: as
    many as data.flips and data.turns need.
    """

    views: Literal[1, 2, 4, 8] | None = None
    scaling: ScalingMethod = "measured"
    batch_size: Positive = 8


class Sampling(Section):
    """How sheets are drawn during training, and `trainer sample` samples unless it is told
    otherwise.

    `guidance_interval`: least and largest sigma / signal with guidance, null for everywhere.
    """

    guidance_scale: float = 2.0
    guidance_interval: tuple[float, float] | None = None
    solver: SolverKind = "dpm++"
    num_inference_steps: Positive = 25
    spacing: Spacing = "time"
    eta: Share = 0.0
    num_images: Positive = 6


class LatentValidation(Section):
    """The loss of the validation split on fixed noise; `num_tiles` draws, `batch_size` at once."""

    num_tiles: Positive = 256
    batch_size: Positive = 16


class Config(RunConfig):
    """A run of the recipe ldm.

    Attributes:
        latents: A latent set, or null: then the tiles are encoded first with `codec`.
        codec: A folder or hub:OWNER/NAME.
        model: The denoiser that `name` says, with its options; the number of classes is the label
            map's.
    """

    latents: str | None = None
    codec: str | None = None
    model: Annotated[SerializeAsAny[DenoiserConfig], _DENOISERS] = Field(
        default_factory=_DENOISERS.make_default
    )
    diffusion: Diffusion = Diffusion()
    streams: StreamShares = StreamShares()
    encoding: EncodingSection = EncodingSection()
    sampling: Sampling = Sampling()
    validation: LatentValidation = LatentValidation()

    def bound_to_end(self) -> str:
        """Return also the share of the training in which a mean_flow learns the velocity alone."""
        diffusion = self.diffusion
        has_share = diffusion.prediction_type == "mean_flow" and diffusion.flow_share > 0
        return super().bound_to_end() or (
            f"diffusion.flow_share {diffusion.flow_share:g}" if has_share else ""
        )

    @field_validator("latents", "codec")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # A run can be resumed from any working directory.
        if value is None or value.startswith("hub:") or "://" in value:
            return value
        return str(Path(value).expanduser().absolute())
