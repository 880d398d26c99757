"""The recipe ldm: a latent diffusion model that draws tissue for a mask of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from histoprep.shards import open_tiles
from trainer.engine.checkpoints import find_checkpoint, load_weights
from trainer.errors import CheckpointError, ConfigError
from trainer.models.layers import NUM_HEADS
from trainer.models.reference_unet import ReferenceUNet
from trainer.recipes.codecs import load_codec
from trainer.recipes.ldm_config import Config
from trainer.recipes.ldm_data import (
    ModelFacts,
    describe_streams,
    latents_folder,
    open_latents,
    prepare_latents,
)
from trainer.recipes.ldm_stage import LdmStage, denoiser_config, objective_of
from trainer.sampling.generator import Generator
from trainer.stage import StagePlan

__all__ = ["Config", "describe", "load_generator", "stages"]

_FLOAT32_BYTES = 4
_FACTOR = 8


def stages(config: Config) -> list[StagePlan]:
    """Return the one stage of the recipe; the tiles are encoded before it, unless a latent set is
    named.
    """
    latents_folder(config)
    objective_of(config)

    def build(_: Path) -> LdmStage:
        return LdmStage(config, open_tiles(config.manifest), open_latents(config))

    return [StagePlan("", build, lambda run, voice: prepare_latents(config, run, voice))]


def describe(config: Config) -> dict[str, Any]:
    """Return parameters, streams, share without condition, steps, latents and memory of a run to
    come; reads the manifest only.
    """
    tiles = open_tiles(config.manifest)
    network = denoiser_config(config, tiles.label_map, _channels(config))
    with torch.device("meta"):
        denoiser = ReferenceUNet(network)
    num_parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    num_positions = config.duration.num_positions(
        config.batch_size, int((tiles.split == "train").sum())
    )
    return {
        "parameters": {"denoiser": num_parameters},
        "streams": describe_streams(config, tiles),
        "steps": num_positions // config.batch_size,
        "images": num_positions,
        "latents": str(latents_folder(config)),
        "memory_bytes": _estimate_memory(config, denoiser, num_parameters),
    }


def load_generator(
    path: str | Path,
    *,
    ema: bool = True,
    codec: str | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Generator:
    """Return what turns masks into images, from a run folder or one of its checkpoints.

    `codec`: where the codec is now, if not where it was. Raises CheckpointError, ConfigError for a
    run of another recipe, and what `load_codec` raises; a codec with other weights than in training
    is refused (HP907).
    """
    weights, config = load_weights(path, ema=ema)
    if not isinstance(config, Config):
        raise ConfigError(
            "this run is not of the recipe ldm", path=path, seen=config.recipe, expected="ldm"
        )
    facts = read_facts(path)
    loaded = load_codec(codec or facts.codec_identifier)
    if loaded.digest != facts.codec_digest:
        seen, expected = (f"digest {digest[:16]}" for digest in (loaded.digest, facts.codec_digest))
        raise CheckpointError(
            "HP907 latent-mismatch: the model was trained with another codec",
            path=loaded.identifier,
            seen=seen,
            expected=expected,
        )
    network = denoiser_config(config, facts.label_map, facts.channels)
    denoiser = ReferenceUNet(network)
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
        objective_of(config),
        loaded,
        facts.scaling,
        network.num_classes,
        network.stride,
        place,
        precision,
    )


def read_facts(path: str | Path) -> ModelFacts:
    """Return label map, scaling and codec of the model in a run folder or one of its
    checkpoints.
    """
    return ModelFacts.read(find_checkpoint(Path(path).absolute()).parents[1])


def _channels(config: Config) -> int:
    """Return the latent channels of a run to come."""
    folder = latents_folder(config)
    if config.latents is not None or (folder / "latents.json").is_file():
        return open_latents(config).shape[0]
    return load_codec(config.codec or "").channels


def _estimate_memory(
    config: Config, denoiser: ReferenceUNet, num_parameters: int
) -> dict[str, int]:
    """Return bytes by what they hold, for one device."""
    ranks = (config.devices if isinstance(config.devices, int) else 1) * config.num_nodes
    micro = max(1, config.batch_size // (config.accumulate * ranks))
    small, two = (_kept_bytes(denoiser, batch, config.data.image_size) for batch in (1, 2))
    share = 1 if config.precision == "fp32" else 2
    weights = num_parameters * _FLOAT32_BYTES
    parts = {
        "weights": weights,
        "gradients": weights,
        "optimiser": 2 * weights,
        "ema": weights if config.ema else 0,
    }
    # Standardised weights are kept once, features for every image.
    parts[f"activations ({micro} images)"] = (2 * small - two + (two - small) * micro) // share
    return {**parts, "in all": sum(parts.values())}


def _kept_bytes(denoiser: ReferenceUNet, batch: int, image_size: int) -> int:
    """Return what autograd keeps of one forward pass in float32, counted by running the network
    without data.

    Softmax matrices are left out: without data attention is written out, with data none of its
    kernels keeps one.
    """
    side = image_size // _FACTOR
    matrices = {(side >> stage) ** 2 for stage in range(len(denoiser.config.dim_mults))}
    own = {parameter.untyped_storage()._cdata for parameter in denoiser.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not (
            tensor.ndim == 4
            and tensor.shape[1] == NUM_HEADS
            and tensor.shape[2] == tensor.shape[3]
            and tensor.shape[3] in matrices
        ):
            # Held on to, so that no address is used twice.
            kept.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage())
        return tensor

    with (
        torch.device("meta"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        mask = torch.zeros(batch, 1, image_size, image_size, dtype=torch.uint8)
        x = torch.zeros(batch, denoiser.config.channels, side, side)
        denoiser.train()(x, torch.zeros(batch), mask, torch.zeros(batch, dtype=torch.bool))
    return sum(tensor.nbytes() for key, tensor in kept.items() if key not in own)
