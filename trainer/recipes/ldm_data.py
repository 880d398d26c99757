"""What the recipe ldm works on: tiles, class streams, latents, and the facts of a trained model
that sampling needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histoprep import checksums
from histoprep.errors import UsageError
from histoprep.labels import LabelMap
from histoprep.phrases import plural
from histoprep.shards import TileSource
from histoprep.streams import Streams, class_streams, single_stream
from trainer.data.latent_dataset import LatentDataset
from trainer.data.latent_scaling import LatentScaling
from trainer.data.latents import LatentSet
from trainer.data.randomness import keyed_uniforms
from trainer.data.source import open_run_tiles
from trainer.data.transforms import VIEW_ORDER, allowed_views, unmet_augmentation, views_for
from trainer.engine.checkpoints import RESTORE_RUN
from trainer.errors import CheckpointError, ConfigError
from trainer.recipes.ldm_config import Config
from trainer.reporter import Reporter
from trainer.stage import NO_VALIDATION

FACTS = "model.json"
TRAIN, VALIDATION = "train", "val"


@dataclass(frozen=True)
class ModelFacts:
    """What a trained denoiser belongs to, beside its configuration: written into the run folder,
    read by `trainer sample`.
    """

    label_map: LabelMap
    channels: int
    scaling: LatentScaling
    codec_identifier: str
    codec_digest: str

    @classmethod
    def of(cls, latents: LatentSet, label_map: LabelMap) -> ModelFacts:
        """Return the facts of a model trained on a latent set."""
        return cls(
            label_map,
            latents.shape[0],
            latents.scaling,
            latents.codec.identifier,
            latents.codec.digest,
        )

    @classmethod
    def read(cls, run: Path) -> ModelFacts:
        """Return the facts in a run folder.

        Raises:
            CheckpointError: When they cannot be read.
        """
        try:
            value = checksums.read_json(run / FACTS, hint=RESTORE_RUN)
            codec = value["codec"]
            scaling = LatentScaling.from_json(value["scaling"])
            return cls(
                LabelMap.from_json(value["label_map"]),
                value["channels"],
                scaling,
                codec["identifier"],
                codec["digest"],
            )
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"cannot read what the model was trained on: {error}", path=run / FACTS
            ) from error

    def write(self, run: Path) -> None:
        """Publish the facts in a run folder."""
        codec = {"identifier": self.codec_identifier, "digest": self.codec_digest}
        facts = {
            "label_map": self.label_map.to_json(),
            "channels": self.channels,
            "scaling": self.scaling.to_json(),
            "codec": codec,
        }
        checksums.publish_json(run, FACTS, facts)


def training_streams(config: Config, tiles: TileSource) -> Streams:
    """Return the class streams of the training split."""
    shares = config.streams
    return class_streams(
        tiles.table,
        tiles.label_map,
        split=TRAIN,
        unconditional=shares.cond_drop_prob,
        weights=shares.class_weights,
    )


def validation_streams(tiles: TileSource) -> tuple[Streams, str | None]:
    """Return the streams that validation draws from, and a warning when they are not those of a
    validation split.

    Every class comes alike; where no tile has a class, every tile does.
    """
    split, warning = (
        (VALIDATION, None)
        if (tiles.split == VALIDATION).any()
        else (TRAIN, NO_VALIDATION.format("val_loss"))
    )
    try:
        return class_streams(tiles.table, tiles.label_map, split=split, unconditional=0.0), warning
    except UsageError:
        return single_stream(np.flatnonzero(tiles.split == split)), warning


def extra_drop(streams: Streams, cond_drop_prob: float) -> float:
    """Return how often a tile of a class loses its mask, so that a share of `cond_drop_prob` of all
    positions is without condition.
    """
    share = sum(stream.probability for stream in streams.streams if stream.class_id is None)
    return max(0.0, (cond_drop_prob - share) / (1.0 - share)) if share < 1.0 else 0.0


def num_views(config: Config) -> int:
    """Return how many views of each tile are encoded when no latent set is given."""
    data = config.data
    return config.encoding.views or views_for(flips=data.flips, turns=data.turns)


def check_augmentation(config: Config) -> str:
    """Return in words which flips and turns are in force.

    Raises:
        ConfigError: When some are asked for that the latents have no views of.
        LatentSetError: When the latent set is missing or damaged.
    """
    data = config.data
    named = config.latents is not None
    views = open_latents(config).views if named else VIEW_ORDER[: num_views(config)]
    unmet = unmet_augmentation(views, flips=data.flips, turns=data.turns)
    if unmet:
        off = " ".join(f"--set data.{name}=false" for name in unmet)
        needed = views_for(flips=data.flips, turns=data.turns)
        more = f"trainer encode --views {needed}" if named else f"--set encoding.views={needed}"
        raise ConfigError(
            f"the latents have no views for the {' and '.join(unmet)} that are asked for",
            path=latents_folder(config),
            seen=plural(len(views), "view"),
            expected=f"{needed} views",
            hint=f"{more}; or train without: {off}",
        )
    in_force = set(views) & set(allowed_views(flips=data.flips, turns=data.turns))
    names = [name for name in ("flips", "turns") if getattr(data, name)]
    return f"{' and '.join(names) or 'none'} ({plural(len(in_force), 'view')} of a tile)"


def latents_folder(config: Config) -> Path:
    """Return where the latents of a run lie: the set that was named, or one beside the manifest
    that its settings name.

    Runs with the same codec, size and views share it. A manifest at an address has no folder here,
    so the run takes its place.
    """
    if config.latents is not None:
        return Path(config.latents)
    if config.codec is None:
        hint = "give --codec FOLDER (or hub:OWNER/NAME), or --latents of `trainer encode`"
        raise ConfigError("neither latents nor a codec are given", hint=hint)
    home = Path(config.out) if "://" in config.manifest else _folder_of(Path(config.manifest))
    codec = "-".join(part for part in config.codec.removeprefix("hub:").split("/")[-2:] if part)
    crops = f"{config.data.image_size}px-{config.data.fit}"
    return home / "latents" / f"{codec}-{crops}-{num_views(config)}views-{config.encoding.scaling}"


def open_latents(config: Config) -> LatentSet:
    """Return the latent set of a run.

    Raises:
        LatentSetError: When it is missing or damaged.
        ConfigError: When it holds crops of another size than the run is to train on.
    """
    latents = LatentSet.open(latents_folder(config))
    if latents.image_size != config.data.image_size:
        raise ConfigError(
            "the latent set was encoded at another size than the run trains on",
            path=latents.folder,
            seen=f"crops of {latents.image_size} px",
            expected=f"data.image_size, {config.data.image_size} px",
            hint=(
                f"give --set data.image_size={latents.image_size}, or a set of trainer encode"
                f" --image-size {config.data.image_size}"
            ),
        )
    return latents


def prepare_latents(config: Config, run: Path, reporter: Reporter) -> None:
    """Report warnings of the streams, encode the tiles unless that is done, and write the facts of
    the model to come.

    Args:
        config: The run.
        run: Its folder.
        reporter: Where warnings and progress go.
    """
    # A run that began before this was looked at goes on as it is.
    if not (run / FACTS).exists():
        check_augmentation(config)
    tiles = open_run_tiles(config)
    for warning in (*training_streams(config, tiles).warnings, validation_streams(tiles)[1]):
        if warning:
            reporter.warn(warning)
    if config.latents is None:
        _encode(config, tiles, latents_folder(config), reporter)
    latents = open_latents(config)
    latents.match(tiles)
    if config.latents is not None:
        with reporter.progress("check latents", None, "crops") as meter:
            latents.check_files(advance=meter.advance)
    ModelFacts.of(latents, tiles.label_map).write(run)


def _encode(config: Config, tiles: TileSource, folder: Path, reporter: Reporter) -> None:
    from trainer.encode import EncodeOptions, encode_tiles
    from trainer.recipes.codecs import load_codec

    assert config.codec is not None
    codec = load_codec(config.codec)
    options = EncodeOptions(
        image_size=config.data.image_size,
        views=num_views(config),
        fit=config.data.fit,
        scaling=config.encoding.scaling,
        batch_size=config.encoding.batch_size,
        num_workers=config.data.num_workers,
        on_unreadable=config.data.on_unreadable,
        device="cuda" if config.accelerator != "cpu" and torch.cuda.is_available() else "cpu",
        asked_by=("data.image_size", "data.fit"),
    )
    with reporter.progress("encode", None, "windows") as meter:
        result = encode_tiles(tiles, codec, folder, options, advance=meter.advance)
    if result.num_encoded:
        reporter.note(
            f"encoded {result.num_encoded:,} windows of {len(tiles):,} tiles with"
            f" {codec.identifier}: {folder}"
        )
    if result.skipped:
        reporter.warn(
            f"{len(result.skipped):,} tiles could not be read and are left out, such as"
            f" {result.skipped[0]}"
        )


@dataclass
class DroppingDataset:
    """A latent dataset whose batches say who loses the condition: `drop`, bool [batch]; and
    `interval`, three more uniform numbers a sample, in batches from position `first_interval` on
    (in none if None).

    Always for the unconditional stream (`unconditional`, its numbers), and for others with the
    probability `extra`, drawn by position.
    """

    inner: LatentDataset
    unconditional: tuple[int, ...]
    extra: float
    first_interval: int | None = None

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return the samples of `positions` with `drop`."""
        batch = self.inner.batch(positions)
        drawn = keyed_uniforms(self.inner.seed, positions, "drop")[:, 0] < self.extra
        batch["drop"] = torch.from_numpy(
            drawn | np.isin(batch["stream"].numpy(), self.unconditional)
        )
        if self.first_interval is not None and positions.min() >= self.first_interval:
            drawn = keyed_uniforms(self.inner.seed, positions, "interval", 3)
            batch["interval"] = torch.from_numpy(drawn.astype(np.float32))
        return batch


def training_dataset(config: Config, tiles: TileSource, latents: LatentSet) -> DroppingDataset:
    """Return the training samples of a run."""
    streams = training_streams(config, tiles)
    inner = LatentDataset(
        latents, tiles, streams, config.seed, flips=config.data.flips, turns=config.data.turns
    )
    unconditional = tuple(
        index for index, stream in enumerate(streams.streams) if stream.class_id is None
    )
    extra = max(extra_drop(streams, config.streams.cond_drop_prob), config.streams.drop_conditional)
    return DroppingDataset(inner, unconditional, extra, _first_interval(config, tiles))


def _first_interval(config: Config, tiles: TileSource) -> int | None:
    """Return the first position of a step that learns averages over intervals, None for none."""
    if config.diffusion.prediction_type != "mean_flow":
        return None
    num_tiles = int((tiles.split == "train").sum())
    num_steps = config.duration.num_positions(config.batch_size, num_tiles) // config.batch_size
    return int(config.diffusion.flow_share * num_steps) * config.batch_size


def describe_streams(config: Config, tiles: TileSource) -> list[Mapping[str, Any]]:
    """Return name, probability and number of tiles of each class stream."""
    return [
        {"name": stream.name, "probability": stream.probability, "tiles": len(stream.rows)}
        for stream in training_streams(config, tiles).streams
    ]


def _folder_of(manifest: Path) -> Path:
    return manifest if manifest.is_dir() else manifest.parent
