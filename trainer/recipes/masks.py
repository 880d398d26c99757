"""The recipe masks: a diffusion model of label masks, so that images need no masks of real tiles.

Masks are reduced to cells of one class each, which the network sees as +1 for the class of the cell
and -1 for all others. It is told the class shares of the mask. Sampled scores become the class with
the highest one, cell by cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from histoprep import checksums
from histoprep.errors import UsageError
from histoprep.labels import LabelMap
from histoprep.shards import TileSource
from histoprep.streams import single_stream
from trainer.config import RunConfig
from trainer.data.mask_cells import CellDataset, class_shares, enlarge_cells, one_hot
from trainer.data.source import check_tile_sizes, open_run_tiles
from trainer.engine.checkpoints import RESTORE_RUN, find_checkpoint, load_weights
from trainer.engine.images import colour_mask, sheet
from trainer.errors import CheckpointError, ConfigError
from trainer.models.layout_unet import LayoutConfig, LayoutUNet
from trainer.recipes.ldm_config import Diffusion, LatentValidation, Sampling
from trainer.recipes.ldm_denoiser import names_by_id
from trainer.recipes.ldm_stage import condition_losses, objective_of, sampling_options_of
from trainer.recipes.segmenter import TRAIN, VALIDATION, labelled_rows, rows_of
from trainer.reporter import Reporter
from trainer.sampling.layouts import MaskGenerator
from trainer.sampling.sheets import class_colours
from trainer.section import Positive
from trainer.stage import NO_VALIDATION, Classes, StagePlan, StepOutput

FACTS = "masks.json"
_MOST_KNOWN, _CROPS_OF_TILE = 2048, 4
_VALIDATION_SEED = 0
_DIGITS = 6
_FLOAT_BYTES = 4


class Config(RunConfig):
    """A run of the recipe masks.

    Attributes:
        cell_px: Pixels a side of a cell, which has one class.
        model: The options of the network.
        drop_shares: How often the class shares are hidden from the network.
    """

    recipe: Literal["masks"] = "masks"
    cell_px: Positive = 8
    model: LayoutConfig = LayoutConfig()
    drop_shares: Annotated[float, Field(ge=0, lt=1)] = 0.1
    diffusion: Diffusion = Diffusion(prediction_type="flow")
    sampling: Sampling = Sampling(guidance_scale=2.0)
    validation: LatentValidation = LatentValidation()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        multiple = self.cell_px << (len(self.model.dim_mults) - 1)
        if self.data.image_size % multiple:
            raise ValueError(
                f"data.image_size {self.data.image_size} is not a multiple of {multiple}, cell_px"
                " times the stride of the model"
            )
        return self


def stages(config: Config) -> list[StagePlan]:
    """Return the one stage of the recipe."""
    tiles = open_run_tiles(config)
    labelled_rows(tiles, TRAIN, config.manifest)
    objective_of(config.diffusion)

    def prepare(run: Path, reporter: Reporter) -> None:
        if not len(rows_of(tiles, VALIDATION)):
            reporter.warn(NO_VALIDATION.format("loss"))
        if not (run / FACTS).exists():
            _write_facts(config, tiles, run)

    def classes(_: MaskStage, checkpoint: Path) -> Classes:
        before, now = names_by_id(read_facts(checkpoint)[0]), names_by_id(tiles.label_map)
        if before != now:
            raise ConfigError(
                "a model of masks goes on with the same classes only",
                path=checkpoint,
                seen=", ".join(map(str, before)),
                expected=", ".join(map(str, now)),
                hint="train without init",
            )
        return Classes(before, now, lambda count: LayoutUNet(config.model, count))

    return [StagePlan("", lambda _: MaskStage(config, tiles), prepare=prepare, classes=classes)]


def describe(config: Config) -> dict[str, Any]:
    """Return parameters, tiles, steps and memory of a run to come."""
    tiles = open_run_tiles(config)
    with torch.device("meta"):
        module = LayoutUNet(config.model, num_classes_of(tiles.label_map))
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    rows = labelled_rows(tiles, TRAIN, config.manifest)
    check_tile_sizes(tiles, config, rows)
    num_positions = config.duration.num_positions(config.batch_size, len(rows))
    copies = 4 + (config.ema is not None)
    return {
        "parameters": {"denoiser": num_parameters},
        "streams": [{"name": "with labels", "probability": 1.0, "tiles": len(rows)}],
        "steps": num_positions // config.batch_size,
        "images": num_positions,
        "memory_bytes": {
            "weights, gradients, optimiser, ema": copies * num_parameters * _FLOAT_BYTES
        },
    }


def num_classes_of(label_map: LabelMap) -> int:
    """Return the largest class id and 1: ids may have gaps."""
    return max(cls.id for cls in label_map.classes) + 1


def cell_dataset(
    config: Config, tiles: TileSource, rows: np.ndarray, seed: int, *, augmented: bool = True
) -> CellDataset:
    """Return the cells of some tiles by position, every tile once a pass.

    Args:
        config: The run.
        tiles: Its tiles.
        rows: Which of them, int [n].
        seed: Seed of crops, views and noise.
        augmented: Whether masks are flipped and turned as the run says.
    """
    data = config.data
    return CellDataset(
        tiles,
        single_stream(rows),
        seed,
        data.image_size,
        num_classes_of(tiles.label_map),
        config.cell_px,
        fit=data.fit,
        flips=data.flips and augmented,
        turns=data.turns and augmented,
        on_unreadable=data.on_unreadable,
        drop=config.drop_shares,
    )


class MaskStage:
    """The one stage; see `trainer.stage.Stage`."""

    name = ""
    best: tuple[str, Literal["min", "max"]] | None = ("loss", "min")
    chance: tuple[str, float] | None = None
    breakdown: Mapping[str, Sequence[str]] = {}
    flops_per_image: int | None = None

    def __init__(self, config: Config, tiles: TileSource) -> None:
        self.config, self.label_map = config, tiles.label_map
        self.objective = objective_of(config.diffusion)
        self.num_classes = num_classes_of(self.label_map)
        self.module: nn.Module = LayoutUNet(config.model, self.num_classes)
        self.weights_from: Mapping[str, str] = {"denoiser": "random"}
        train = labelled_rows(tiles, TRAIN, config.manifest)
        self.num_tiles = len(train)
        self.num_positions = config.duration.num_positions(config.batch_size, self.num_tiles)
        self._training = cell_dataset(config, tiles, train, config.seed)
        held_out = rows_of(tiles, VALIDATION)
        rows = held_out if len(held_out) else train
        self._validation = cell_dataset(config, tiles, rows, _VALIDATION_SEED, augmented=False)
        self._device = torch.device("cpu")

    def dataset(self) -> CellDataset:
        """Return the samples by position."""
        return self._training

    def parameters_for(self, module: nn.Module) -> Iterable[Any]:
        """Return all parameters as one group."""
        return module.parameters()

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> StepOutput:
        """Return the loss of each sample; equation: see `Objective`."""
        return StepOutput(self._losses(module, batch, batch["drop"]))

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return `loss`: the mean over the validation split, noise levels spread evenly; and
        `loss_null`: the same with hidden class shares.
        """
        return condition_losses(
            self._validation,
            self.config.validation,
            self._device,
            lambda batch, drop: self._losses(module, batch, drop),
        )

    def images(self, module: nn.Module) -> dict[str, np.ndarray]:
        """Return a sheet: each row a held-out mask on its cells, and a generated one with the same
        class shares.
        """
        batch = self._validation.batch(np.arange(self.config.sampling.num_images))
        shares = class_shares(batch["cells"], self.num_classes).numpy()
        generator = self.generator(module, shares)
        generated = generator.generate(0, shares, self.config.data.image_size)
        real = enlarge_cells(batch["cells"].numpy(), self.num_classes, self.config.cell_px)
        colours = class_colours(self.label_map)
        rows = [
            [colour_mask(mask, colours) for mask in pair]
            for pair in zip(real, generated, strict=True)
        ]
        return {"mask-generated": sheet(rows)}

    def generator(self, module: nn.Module, known_shares: np.ndarray) -> MaskGenerator:
        """Return what makes masks with `module` as the network."""
        return _generator(self.config, module, self.label_map, known_shares, self._device)

    def to(self, device: torch.device) -> None:
        """Remember where validation takes place; nothing is frozen."""
        self._device = device

    def name_samples(self, positions: Sequence[int]) -> list[str]:
        """Return the tile ids at training positions."""
        dataset = self._training
        rows = dataset.placement.place(np.asarray(positions), self.config.seed)[1]
        return [str(tile_id) for tile_id in dataset.tiles.tile_ids[rows]]

    def _losses(self, module: nn.Module, batch: dict[str, Tensor], drop: Tensor) -> Tensor:
        cells, noise = batch["cells"], batch["noise"]
        clean, shares = one_hot(cells, self.num_classes), class_shares(cells, self.num_classes)
        t = self.objective.timesteps_from_uniform(batch["u"])
        noisy = self.objective.noised(clean, noise, t)
        output = module(noisy, self.objective.model_time(t), shares, drop)
        return self.objective.per_sample_loss(
            output, self.objective.training_target(clean, noise, t), t
        )


def load_mask_generator(
    path: Path, *, device: str = "cpu", seed: int = 0, ema: bool = True
) -> MaskGenerator:
    """Return what makes masks from a run of this recipe or one of its checkpoints.

    Args:
        path: A run folder or checkpoint.
        device: Name of the device.
        seed: Seed of the masks.
        ema: Whether to use the averaged weights, where there are any.

    Raises:
        UsageError: For a run of another recipe.
        CheckpointError: When there is none or it does not fit.
    """
    weights, config = load_weights(path, ema=ema)
    if not isinstance(config, Config):
        raise UsageError(
            "this run has not trained a model of masks",
            path=path,
            seen=f"recipe {config.recipe}",
            expected="recipe masks",
            hint="trainer fit --recipe masks --manifest MANIFEST",
        )
    label_map, known_shares = read_facts(find_checkpoint(path.absolute()))
    module = LayoutUNet(config.model, num_classes_of(label_map))
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the configuration of the run: {error}", path=path
        ) from error
    place = torch.device(device)
    module = module.to(place).eval().requires_grad_(False)
    return _generator(config, module, label_map, known_shares, place, seed)


def read_facts(checkpoint: Path) -> tuple[LabelMap, np.ndarray]:
    """Return the classes of the run of a checkpoint, and class shares of its training masks,
    float32 [n, classes].

    Raises:
        CheckpointError: When they cannot be read.
    """
    place = checkpoint.parents[1] / FACTS
    try:
        facts = checksums.read_json(place, hint=RESTORE_RUN)
        return LabelMap.from_json(facts["label_map"]), np.array(facts["shares"], dtype=np.float32)
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"what the model of masks was trained on cannot be read: {error}", path=place
        ) from error


def _write_facts(config: Config, tiles: TileSource, run: Path) -> None:
    """Write the classes, and the class shares of training crops: those of whole tiles would be
    more mixed.
    """
    train = labelled_rows(tiles, TRAIN, config.manifest)
    dataset = cell_dataset(config, tiles, train, config.seed)
    each = 1 if config.data.fit == "refuse" else _CROPS_OF_TILE
    positions = np.arange(min(_MOST_KNOWN, each * len(train)))
    parts = [
        class_shares(dataset.batch(piece)["cells"], dataset.num_classes).numpy()
        for piece in np.array_split(positions, -(-len(positions) // config.batch_size))
    ]
    shares = np.concatenate(parts).astype(float).round(_DIGITS).tolist()
    facts = {"label_map": tiles.label_map.to_json(), "shares": shares}
    checksums.publish_json(run, FACTS, facts)


def _generator(
    config: Config,
    module: nn.Module,
    label_map: LabelMap,
    known_shares: np.ndarray,
    device: torch.device,
    seed: int = 0,
) -> MaskGenerator:
    return MaskGenerator(
        module,
        objective_of(config.diffusion),
        label_map,
        num_classes_of(label_map),
        config.cell_px,
        1 << (len(config.model.dim_mults) - 1),
        config.data.image_size,
        known_shares,
        sampling_options_of(config.sampling, seed),
        device,
    )
