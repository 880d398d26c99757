"""The recipe ldm: a latent diffusion model that draws tissue for a mask of classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoprep import rule_ids
from trainer.data.source import check_tile_sizes, open_run_tiles
from trainer.engine.checkpoints import find_checkpoint, load_weights
from trainer.errors import CheckpointError, ConfigError
from trainer.models.denoisers.footprint import count_flops, count_parameters
from trainer.recipes.codecs import UNIT_SUFFIX, load_codec
from trainer.recipes.ldm_config import Config
from trainer.recipes.ldm_data import (
    FACTS,
    ModelFacts,
    check_augmentation,
    describe_streams,
    latents_folder,
    open_latents,
    prepare_latents,
)
from trainer.recipes.ldm_denoiser import (
    build_denoiser,
    check_image_size,
    estimate_memory,
    names_by_id,
)
from trainer.recipes.ldm_stage import LdmStage, objective_of
from trainer.reporter import Reporter
from trainer.sampling.generator import Generator
from trainer.stage import Classes, StagePlan

__all__ = ["Config", "describe", "load_generator", "stages"]


def stages(config: Config) -> list[StagePlan]:
    """Return the one stage of the recipe; the tiles are encoded before it, unless a latent set is
    named.
    """
    latents_folder(config)
    objective_of(config.diffusion)

    def build(_: Path) -> LdmStage:
        return LdmStage(config, open_run_tiles(config), open_latents(config))

    def prepare(run: Path, reporter: Reporter) -> None:
        prepare_latents(config, run, reporter)

    return [StagePlan("", build, prepare, partial(_compare_classes, config))]


def _compare_classes(config: Config, stage: LdmStage, checkpoint: Path) -> Classes:
    """Return how the classes of a stage differ from those of a checkpoint that it begins with.

    Raises:
        ConfigError: When the latents of the stage come from another codec.
    """
    label_map, latents = stage.tiles.label_map, stage.latents
    now = names_by_id(label_map)
    before = now
    run = checkpoint.parents[1]
    if (run / FACTS).is_file():
        facts = ModelFacts.read(run)
        before = names_by_id(facts.label_map)
        if facts.codec_digest != latents.codec.digest:
            raise ConfigError(
                f"{rule_ids.LATENT_MISMATCH}: the weights of init were trained with another codec",
                path=checkpoint,
                seen=f"latents of {latents.codec.identifier}",
                expected=facts.codec_identifier,
                hint=(
                    f"trainer encode --codec {facts.codec_identifier} --out NEW, then --latents NEW"
                ),
            )
    return Classes(
        before,
        now,
        lambda count: config.model.build(count, latents.shape[0]),
        stage.denoiser.first_class,
    )


def describe(config: Config) -> dict[str, Any]:
    """Return parameters, operations, streams, steps, latents and memory of a run to come; reads
    the manifest only.
    """
    tiles = open_run_tiles(config)
    channels, factor = _latents_to_come(config)
    with torch.device("meta"):
        denoiser = build_denoiser(config, tiles.label_map, channels)
    check_image_size(config, denoiser, factor)
    if config.latents is None:
        check_tile_sizes(tiles, config, np.arange(len(tiles)))
    num_positions = config.duration.num_positions(
        config.batch_size, int((tiles.split == "train").sum())
    )
    return {
        "parameters": {"denoiser": count_parameters(denoiser)},
        "GFLOP an image": {
            name: round(count_flops(denoiser, config.data.image_size, factor, training=on) / 1e9, 3)
            for name, on in (("forward", False), ("forward and backward", True))
        },
        "streams": describe_streams(config, tiles),
        "steps": num_positions // config.batch_size,
        "images": num_positions,
        "latents": str(latents_folder(config)),
        "augmentation": check_augmentation(config),
        "memory_bytes": estimate_memory(config, denoiser, factor),
    }


def load_generator(
    path: str | Path,
    *,
    ema: bool = True,
    codec: str | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Generator:
    """Return what turns masks into images.

    Args:
        path: A run folder, or one of its checkpoints.
        ema: Whether to use the averaged weights, where there are any.
        codec: Where the codec is now, if not where it was.
        device: Name of the device, such as cuda:1.
        precision: fp32, bf16 or fp16.

    Raises:
        ConfigError: For a run of another recipe.
        CheckpointError: When there is no valid checkpoint, or for a codec with other weights than
            in
            training (HP907).
        UsageError: When there is no codec.
        IntegrityError: When the codec is damaged.
    """
    weights, config = load_weights(path, ema=ema)
    if not isinstance(config, Config):
        raise ConfigError(
            "this run is not of the recipe ldm", path=path, seen=config.recipe, expected="ldm"
        )
    facts = read_facts(path)
    if codec and facts.codec_identifier.endswith(UNIT_SUFFIX):
        codec = codec.removesuffix(UNIT_SUFFIX) + UNIT_SUFFIX
    loaded = load_codec(codec or facts.codec_identifier)
    if loaded.digest != facts.codec_digest:
        seen, expected = (f"digest {digest[:16]}" for digest in (loaded.digest, facts.codec_digest))
        raise CheckpointError(
            f"{rule_ids.LATENT_MISMATCH}: the model was trained with another codec",
            path=loaded.identifier,
            seen=seen,
            expected=expected,
        )
    denoiser = build_denoiser(config, facts.label_map, facts.channels)
    try:
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the configuration: {error}", path=path
        ) from error
    place = torch.device(device)
    denoiser, loaded = denoiser.to(place).eval(), loaded.to(place)
    return Generator(
        denoiser,
        objective_of(config.diffusion),
        loaded,
        facts.scaling,
        denoiser.num_classes,
        denoiser.stride,
        place,
        precision,
        denoiser.halo,
    )


def read_facts(path: str | Path) -> ModelFacts:
    """Return label map, scaling and codec of the model in a run folder or one of its
    checkpoints.
    """
    return ModelFacts.read(find_checkpoint(Path(path).absolute()).parents[1])


def _latents_to_come(config: Config) -> tuple[int, int]:
    """Return the channels of the latents of a run, and the pixels a side that become one latent."""
    folder = latents_folder(config)
    if config.latents is not None or (folder / "latents.json").is_file():
        latents = open_latents(config)
        return latents.shape[0], latents.factor
    codec = load_codec(config.codec or "")
    return codec.channels, codec.factor
