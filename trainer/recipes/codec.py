"""The recipe codec: a KL autoencoder of our own, so that nothing has to be downloaded.

diffusers' AutoencoderKL, eight pixels a side to one latent, or a small codec of patches. The loss
is L1 of pixels, L1 of their differences to neighbours (which keeps edges of nuclei sharp without
another network as a judge) and a tiny KL term that keeps latents from growing without bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from histoprep.errors import UsageError
from histoprep.shards import TileSource
from histoprep.streams import single_stream
from trainer.config import RunConfig
from trainer.data.source import check_tile_sizes, open_run_tiles
from trainer.data.tiles import TileDataset
from trainer.data.transforms import to_uint8
from trainer.engine.checkpoints import load_weights
from trainer.engine.images import difference, sheet
from trainer.errors import CheckpointError, ConfigError
from trainer.metrics.reconstruction import psnr, ssim
from trainer.models.codec import TrainableCodec
from trainer.models.patch_codec import PatchAutoencoder
from trainer.reporter import Reporter
from trainer.section import Positive, Section
from trainer.stage import NO_VALIDATION, StagePlan, StepOutput

TRAIN, VALIDATION = "train", "val"
# Validation has its own seed: another training seed is compared on the same crops.
_VALIDATION_SEED = 0
# Crops whose patches give the components that a patch codec starts from.
_NUM_FIRST = 256
_BYTES = 4


class Architecture(Section):
    """The autoencoder: channels of its stages (each but the last halves the sides), residual blocks
    a stage, channels of the latents.

    Without attention in the middle a crop of a large image gives the same latents as the whole
    image, away from borders. `kind: patch` is another network, for minutes on a CPU: principal
    components of patches, which the training tiles give, corrected by convolutions. Its patches
    have as many pixels a side as the stages make, its corrections `layers_per_block` convolutions
    of the width of the last stage.
    """

    kind: Literal["kl", "patch"] = "kl"
    block_out_channels: tuple[Positive, ...] = (128, 256, 512, 512)
    layers_per_block: Positive = 2
    latent_channels: Positive = 4
    norm_num_groups: Positive = 32
    mid_block_add_attention: bool = False

    @property
    def factor(self) -> int:
        """Return how many pixels a side become one latent."""
        return int(2 ** (len(self.block_out_channels) - 1))


class LossWeights(Section):
    """Weights of the terms of the loss; see `CodecStage.loss`."""

    pixel: Annotated[float, Field(ge=0)] = 1.0
    gradient: Annotated[float, Field(ge=0)] = 1.0
    kl: Annotated[float, Field(ge=0)] = 1e-6


class CodecValidation(Section):
    """How many crops are reconstructed for the metrics, at once, and for the sheet."""

    num_tiles: Positive = 64
    batch_size: Positive = 8
    num_images: Positive = 4


class Config(RunConfig):
    """A run of the recipe codec."""

    recipe: str = "codec"
    architecture: Architecture = Architecture()
    loss: LossWeights = LossWeights()
    validation: CodecValidation = CodecValidation()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        architecture = self.architecture
        if self.data.image_size % architecture.factor:
            raise ValueError(
                f"data.image_size {self.data.image_size} is not a multiple of"
                f" {architecture.factor}, the factor of the architecture"
            )
        if architecture.kind == "kl" and any(
            width % architecture.norm_num_groups for width in architecture.block_out_channels
        ):
            raise ValueError(
                "architecture.block_out_channels are no multiples of norm_num_groups"
                f" {architecture.norm_num_groups}"
            )
        return self


def stages(config: Config) -> list[StagePlan]:
    """Return the one stage of the recipe."""
    tiles = open_run_tiles(config)

    def warn(_: Path, reporter: Reporter) -> None:
        if not len(_rows(tiles, VALIDATION)):
            reporter.warn(NO_VALIDATION.format("psnr_db"))

    return [StagePlan("", lambda _: CodecStage(config, tiles), prepare=warn)]


def describe(config: Config) -> dict[str, Any]:
    """Return parameters, tiles, steps and memory of a run to come."""
    tiles = open_run_tiles(config)
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in build_module(config).parameters())
    rows = _rows(tiles, TRAIN)
    check_tile_sizes(tiles, config, rows)
    num_positions = config.duration.num_positions(config.batch_size, len(rows))
    copies = 4 + (config.ema is not None)
    return {
        "parameters": {"autoencoder": num_parameters},
        "streams": [{"name": "all", "probability": 1.0, "tiles": len(rows)}],
        "steps": num_positions // config.batch_size,
        "images": num_positions,
        "memory_bytes": {"weights, gradients, optimiser, ema": copies * num_parameters * _BYTES},
    }


def build_module(config: Config) -> TrainableCodec:
    """Return the untrained network of a run."""
    architecture = config.architecture
    if architecture.kind == "patch":
        return TrainableCodec(
            PatchAutoencoder(
                architecture.factor,
                architecture.latent_channels,
                architecture.block_out_channels[-1],
                architecture.layers_per_block,
            )
        )
    stages_ = len(architecture.block_out_channels)
    return TrainableCodec(
        down_block_types=("DownEncoderBlock2D",) * stages_,
        up_block_types=("UpDecoderBlock2D",) * stages_,
        **architecture.model_dump(exclude={"kind"}),
    )


def trained_autoencoder(folder: Path) -> nn.Module:
    """Return the autoencoder of a run or checkpoint of this recipe, with its averaged weights;
    `load_codec` calls this for a run folder.

    Raises:
        CheckpointError: When there is none or it does not fit.
        UsageError: For a run of another recipe.
    """
    weights, config = load_weights(folder)
    if not isinstance(config, Config):
        raise UsageError(
            "this run has not trained a codec",
            path=folder,
            seen=f"recipe {config.recipe}",
            expected="recipe codec",
        )
    module = build_module(config)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the configuration of the run: {error}", path=folder
        ) from error
    autoencoder: nn.Module = module.autoencoder
    return autoencoder


class CodecStage:
    """The one stage; see `trainer.stage.Stage`."""

    name = ""
    best: tuple[str, Literal["min", "max"]] | None = ("psnr_db", "max")
    chance: tuple[str, float] | None = None
    breakdown: Mapping[str, Sequence[str]] = {}
    weights_from: Mapping[str, str] = {}
    flops_per_image: int | None = None

    def __init__(self, config: Config, tiles: TileSource) -> None:
        self.config = config
        self.module: nn.Module = build_module(config)
        train = _rows(tiles, TRAIN)
        if not len(train):
            raise ConfigError(
                "the manifest has no tile of the training split", path=config.manifest
            )
        self.num_tiles = len(train)
        self.num_positions = config.duration.num_positions(config.batch_size, self.num_tiles)
        self._training = self._dataset(tiles, train, config.seed)
        # Tiles of the test split are left alone, even where there is no validation split.
        held_out = _rows(tiles, VALIDATION)
        self._validation = self._dataset(
            tiles, held_out if len(held_out) else train, _VALIDATION_SEED, augmented=False
        )
        self._num_validated = min(config.validation.num_tiles, len(held_out) or len(train))
        self._device = torch.device("cpu")
        autoencoder = getattr(self.module, "autoencoder", None)
        if isinstance(autoencoder, PatchAutoencoder):
            # A function of the data and the seed alone; a resumed run has its weights restored.
            first = self._training.batch(np.arange(min(_NUM_FIRST, self.num_positions)))
            autoencoder.start_from(first["image"])

    def _dataset(
        self, tiles: TileSource, rows: np.ndarray, seed: int, *, augmented: bool = True
    ) -> TileDataset:
        data, architecture = self.config.data, self.config.architecture
        side = data.image_size // architecture.factor
        return TileDataset(
            tiles,
            single_stream(rows),
            seed,
            data.image_size,
            fit=data.fit,
            flips=data.flips and augmented,
            turns=data.turns and augmented,
            on_unreadable=data.on_unreadable,
            noise_shape=(architecture.latent_channels, side, side),
        )

    def dataset(self) -> Any:
        """Return the samples by position: crops of the training split, every tile once a pass."""
        return self._training

    def parameters_for(self, module: nn.Module) -> Iterable[Any]:
        """Return all parameters as one group."""
        return module.parameters()

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> StepOutput:
        """Return the loss of each sample.

        pixel * mean |d| + gradient * (mean |d_x| + mean |d_y|) + kl * KL(posterior || N(0, 1)),
        where d is the reconstruction of a draw from the posterior minus the image, d_x and d_y are
        its differences to the next pixel, and KL is a mean over latents.
        """
        reconstruction, mean, std = module(batch["image"], batch["noise"])
        weights = self.config.loss
        apart = reconstruction.float() - batch["image"]
        pixel = apart.abs().flatten(1).mean(1)
        gradient = apart.diff(dim=-1).abs().flatten(1).mean(1) + apart.diff(dim=-2).abs().flatten(
            1
        ).mean(1)
        variance = std.float().square()
        kl = 0.5 * (mean.float().square() + variance - 1 - variance.log()).flatten(1).mean(1)
        loss = weights.pixel * pixel + weights.gradient * gradient + weights.kl * kl
        return StepOutput(loss, {"pixel": pixel, "gradient": gradient, "kl": kl})

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return `psnr_db`, `ssim` and `pixel` (mean absolute error) of reconstructions of
        posterior means, and `latent_std`.
        """
        values: dict[str, list[Tensor]] = {"psnr_db": [], "ssim": [], "pixel": [], "latent_std": []}
        for start in range(0, self._num_validated, self.config.validation.batch_size):
            positions = np.arange(
                start, min(start + self.config.validation.batch_size, self._num_validated)
            )
            image, decoded, mean = self._reconstruct(module, positions)
            values["psnr_db"].append(psnr(image, decoded))
            values["ssim"].append(ssim(image, decoded))
            values["pixel"].append((image - decoded).abs().flatten(1).mean(1))
            values["latent_std"].append(mean.float().flatten(1).std(1))
        return {name: float(torch.cat(parts).mean()) for name, parts in values.items()}

    def images(self, module: nn.Module) -> dict[str, np.ndarray]:
        """Return a sheet: each row an original, its reconstruction and four times their
        difference.
        """
        count = min(self.config.validation.num_images, self._num_validated)
        image, decoded, _ = self._reconstruct(module, np.arange(count))
        pairs = zip(
            *(to_uint8(pixels.float().cpu().numpy()) for pixels in (image, decoded)), strict=True
        )
        return {
            "original-reconstruction-difference": sheet(
                [[pair, other, difference(pair, other)] for pair, other in pairs]
            )
        }

    def to(self, device: torch.device) -> None:
        """Remember where validation takes place; nothing is frozen."""
        self._device = device

    def name_samples(self, positions: Sequence[int]) -> list[str]:
        """Return the tile ids at training positions."""
        rows = self._training.placement.place(np.asarray(positions), self.config.seed)[1]
        return [str(tile_id) for tile_id in self._training.tiles.tile_ids[rows]]

    def _reconstruct(
        self, module: nn.Module, positions: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, reconstructions of the posterior means, cut to [-1, 1], and those
        means.
        """
        batch = self._validation.batch(positions)
        image = batch["image"].to(self._device)
        decoded, mean, _ = module(image, torch.zeros_like(batch["noise"]).to(self._device))
        return image, decoded.float().clamp(-1, 1), mean


def _rows(tiles: TileSource, split: str) -> np.ndarray:
    return np.flatnonzero(tiles.split == split)
