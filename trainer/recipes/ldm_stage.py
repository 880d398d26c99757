"""The training of a mask-conditioned denoiser on latents, as a stage for the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from histoprep.errors import HistoprepError
from histoprep.shards import TileSource
from trainer.data.latent_dataset import LatentDataset
from trainer.data.latents import LatentSet
from trainer.data.transforms import to_uint8
from trainer.diffusion.mean_flow import (
    Intervals,
    Predict,
    average_target,
    draw_intervals,
    guided_velocity,
)
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver
from trainer.diffusion.schedule import NoiseSchedule
from trainer.engine.images import colour_mask, sheet
from trainer.errors import ConfigError
from trainer.models.codec import Codec
from trainer.models.denoisers.footprint import count_flops
from trainer.models.denoisers.interface import Denoiser
from trainer.models.denoisers.masks import without_ignored
from trainer.recipes.codecs import load_codec
from trainer.recipes.ldm_config import Config, Diffusion, LatentValidation, Sampling
from trainer.recipes.ldm_data import training_dataset, validation_streams
from trainer.recipes.ldm_denoiser import build_denoiser, check_image_size
from trainer.sampling.generator import Generator, SamplingOptions
from trainer.stage import PositionDataset, StepOutput

_NUM_BINS = 5
NOISE_BINS = tuple(
    f"{index / _NUM_BINS:.1f}-{(index + 1) / _NUM_BINS:.1f}" for index in range(_NUM_BINS)
)
# Validation has its own seed: another training seed is compared on the same noise.
_VALIDATION_SEED = 0


def objective_of(diffusion: Diffusion) -> Objective:
    """Return the objective of a run.

    Args:
        diffusion: The section `diffusion` of its configuration.

    Raises:
        ConfigError: When the settings do not go together.
    """
    try:
        schedule = NoiseSchedule(diffusion.noise_schedule, diffusion.num_train_timesteps)
        return Objective(
            diffusion.prediction_type,
            schedule,
            diffusion.loss,
            diffusion.min_snr_gamma,
            diffusion.flow_mean,
            diffusion.flow_std,
            diffusion.flow_shift,
            diffusion.interval_share,
            diffusion.max_guidance,
        )
    except ValueError as error:
        raise ConfigError(f"diffusion: {error}") from error


class LdmStage:
    """One stage: a denoiser learns the latents of tiles given their masks. See
    `trainer.stage.Stage`.
    """

    name = ""
    best: tuple[str, Literal["min", "max"]] | None = ("loss", "min")
    chance: tuple[str, float] | None = None

    def __init__(self, config: Config, tiles: TileSource, latents: LatentSet) -> None:
        self.config, self.tiles, self.latents = config, tiles, latents
        self.objective = objective_of(config.diffusion)
        self.denoiser: Denoiser = build_denoiser(config, tiles.label_map, latents.shape[0])
        check_image_size(config, self.denoiser, latents.factor)
        _check_interval(self.denoiser, self.objective)
        self.module: nn.Module = self.denoiser
        self._dataset = training_dataset(config, tiles, latents)
        self._placement = self._dataset.inner.placement
        self.weights_from: Mapping[str, str] = {"denoiser": "random"}
        with torch.device("meta"):
            uncomputed = build_denoiser(config, tiles.label_map, latents.shape[0])
        self.flops_per_image: int | None = count_flops(
            uncomputed, config.data.image_size, latents.factor, training=True
        )
        self.breakdown: Mapping[str, Sequence[str]] = {
            "noise": NOISE_BINS,
            "stream": tuple(stream.name for stream in self._placement.streams),
        }
        self.num_tiles = int((tiles.split == "train").sum())
        self.num_positions = config.duration.num_positions(config.batch_size, self.num_tiles)
        streams, _ = validation_streams(tiles)
        self._validation = LatentDataset(
            latents, tiles, streams, _VALIDATION_SEED, flips=False, turns=False
        )
        self._device = torch.device("cpu")
        self._codec: Codec | None = _codec_of(config, latents)

    def dataset(self) -> Any:
        """Return the samples by position."""
        return self._dataset

    def parameters_for(self, module: nn.Module) -> Iterable[Any]:
        """Return all parameters as one group."""
        return module.parameters()

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> StepOutput:
        """Return the loss of each sample, by noise level and by stream; equation: see
        `Objective`.
        """
        losses = self._losses(module, batch, batch["drop"])
        bins = (batch["u"] * _NUM_BINS).long().clamp(0, _NUM_BINS - 1)
        skipped = (
            {"skipped_tiles": batch["num_skipped"].float()}
            if self.config.data.on_unreadable == "skip"
            else {}
        )
        return StepOutput(losses, skipped, {"noise": bins, "stream": batch["stream"]})

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return `loss`: the mean over the validation split, noise levels spread evenly, with
        masks; `loss_null`: the same without masks.
        """
        return condition_losses(
            self._validation,
            self.config.validation,
            self._device,
            lambda batch, drop: self._losses(module, batch, drop),
        )

    def images(self, module: nn.Module) -> dict[str, np.ndarray]:
        """Return a sheet: each row the mask, the tile as the codec gives it back, and a generated
        one.
        """
        if self._codec is None:
            return {}
        batch = self._validation.batch(np.arange(self.config.sampling.num_images))
        masks = batch["mask"].numpy()
        names = self._names(
            self._validation.placement.place(batch["position"].numpy(), _VALIDATION_SEED)[1]
        )
        generated = self.generator(module).generate(
            masks, names, sampling_options_of(self.config.sampling, self.config.seed)
        )
        raw = self.latents.denormalise(batch["latents"].to(self._device))
        real = to_uint8(self._codec.decode(raw).float().cpu().numpy())
        colours = {cls.id: _rgb(cls.colour) for cls in self.tiles.label_map.classes}
        rows = [
            [colour_mask(mask, colours), tile, image]
            for mask, tile, image in zip(masks, real, generated, strict=True)
        ]
        return {"mask-tile-generated": sheet(rows)}

    def generator(self, module: nn.Module) -> Generator:
        """Return what turns masks into images with `module` as the denoiser; needs the codec."""
        assert self._codec is not None
        scaling, device = self.latents.scaling, self._device
        return Generator(
            module,
            self.objective,
            self._codec,
            scaling,
            self.denoiser.num_classes,
            self.denoiser.stride,
            device,
            self.config.precision,
            self.denoiser.halo,
        )

    def to(self, device: torch.device) -> None:
        """Move the codec."""
        self._device = device
        if self._codec is not None:
            self._codec.to(device)

    def name_samples(self, positions: Sequence[int]) -> list[str]:
        """Return the tile ids at training positions."""
        return self._names(self._placement.place(np.asarray(positions), self.config.seed)[1])

    def _losses(self, module: nn.Module, batch: dict[str, Tensor], drop: Tensor) -> Tensor:
        clean, noise = batch["latents"], batch["noise"]
        mask = batch["mask"][:, None]
        if self.tiles.label_map.ignore:
            mask = without_ignored(mask, self.denoiser.num_classes)
        if self.objective.prediction_type == "mean_flow":
            return average_losses(module, self.objective, clean, noise, batch, mask, drop)
        t = self.objective.timesteps_from_uniform(batch["u"])
        noisy = self.objective.noised(clean, noise, t)
        output = module(noisy, self.objective.model_time(t), mask, drop)
        return self.objective.per_sample_loss(
            output, self.objective.training_target(clean, noise, t), t
        )

    def _names(self, rows: np.ndarray) -> list[str]:
        return [str(tile_id) for tile_id in self.tiles.tile_ids[rows]]


def sampling_options_of(sampling: Sampling, seed: int) -> SamplingOptions:
    """Return how the section `sampling` of a configuration says to sample."""
    return SamplingOptions(
        sampling.guidance_scale,
        Solver(sampling.solver, sampling.num_inference_steps, sampling.eta, sampling.spacing),
        seed,
        sampling.guidance_interval,
    )


def average_losses(
    module: nn.Module,
    objective: Objective,
    clean: Tensor,
    noise: Tensor,
    batch: Mapping[str, Tensor],
    mask: Tensor,
    drop: Tensor,
) -> Tensor:
    """Return the loss of each sample for mean_flow, float32 [batch].

    Args:
        module: The denoiser, which may be wrapped.
        objective: A mean_flow.
        clean: Normalised latents [batch, channels, height, width].
        noise: Standard normal numbers of that shape.
        batch: `u` [batch], and `interval` [batch, 3]: uniform numbers. Without `interval` the
            interval has no length, and there is no guidance: the loss of a flow.
        mask: Class ids [batch, 1, H, W].
        drop: The samples without condition, bool [batch].
    """
    scale = objective.schedule.num_train_timesteps

    def predict_with(network: Any, dropped: Tensor) -> Predict:
        return lambda x, t, r, guidance: network(
            x, torch.stack((scale * t, scale * r, guidance), dim=1), mask, dropped
        )

    u = batch["u"]
    if "interval" not in batch:
        t = objective.timesteps_from_uniform(u)
        intervals, target = Intervals(t, t, torch.ones_like(t)), noise - clean
        noisy = objective.noised(clean, noise, t)
    else:
        intervals = draw_intervals(objective, torch.cat((u[:, None], batch["interval"]), dim=1))
        guidance = torch.where(drop, 1.0, intervals.guidance)
        intervals = intervals._replace(guidance=guidance)
        noisy = objective.noised(clean, noise, intervals.t)
        # Wrappers for several devices and compilation know no forward-mode derivatives.
        network = unwrapped(module)
        predict = predict_with(network, drop)
        predict_null = predict_with(network, torch.ones_like(drop))
        velocity, own = guided_velocity(
            predict, predict_null, noisy, noise - clean, intervals, drop
        )
        target = average_target(predict, noisy, velocity, own, intervals)
    output = predict_with(module, drop)(noisy, *intervals)
    return objective.per_sample_loss(output, target, intervals.t)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the denoiser inside of wrappers for training and compilation."""
    inner: Any = module
    while not isinstance(inner, Denoiser):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module
    return inner


def _check_interval(denoiser: Denoiser, objective: Objective) -> None:
    if objective.prediction_type == "mean_flow" and not denoiser.takes_interval:
        raise ConfigError(
            "mean_flow needs a denoiser that takes intervals of times",
            seen="model without intervals",
            expected="mask-unet with model.interval=true",
            hint="--set model.interval=true",
        )


def _codec_of(config: Config, latents: LatentSet) -> Codec | None:
    """Return the codec that decodes for sheets, or None when it is not here: training needs latents
    only.
    """
    try:
        codec = load_codec(config.codec or latents.codec.identifier)
    except HistoprepError:
        if config.codec is not None:
            raise
        return None
    latents.check_codec(codec)
    return codec


def condition_losses(
    dataset: PositionDataset,
    settings: LatentValidation,
    device: torch.device,
    losses: Callable[[dict[str, Tensor], Tensor], Tensor],
) -> dict[str, float]:
    """Return `loss`, the mean over the first tiles with noise levels spread evenly, and
    `loss_null`, the same without the condition.

    Args:
        dataset: Samples by position.
        settings: How many tiles, and how many at once.
        device: Where the network is.
        losses: (batch with `u` in (0, 1), which samples drop their condition, bool [batch]) -> the
            loss of each, [batch].
    """
    shown, hidden = [], []
    for start in range(0, settings.num_tiles, settings.batch_size):
        positions = np.arange(start, min(start + settings.batch_size, settings.num_tiles))
        batch = {name: tensor.to(device) for name, tensor in dataset.batch(positions).items()}
        batch["u"] = torch.from_numpy(spread_evenly(positions, settings.num_tiles)).to(device)
        everything = torch.ones(len(positions), dtype=torch.bool, device=device)
        shown.append(losses(batch, ~everything))
        hidden.append(losses(batch, everything))
    return {
        "loss": float(torch.cat(shown).mean()),
        "loss_null": float(torch.cat(hidden).mean()),
    }


def spread_evenly(positions: np.ndarray, total: int) -> np.ndarray:
    """Return numbers in (0, 1), float32, that are evenly spread over all positions 0 .. total - 1
    and in no order.
    """
    # Multiples of the golden ratio: any run of positions is evenly spread, too.
    return np.asarray(((positions + 0.5) * 0.6180339887498949 % 1.0).astype(np.float32))


def _rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of `#rrggbb`."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
