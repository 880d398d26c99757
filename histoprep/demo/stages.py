"""The stages of the demo as data: each is the command that one would type, what it reads, and what
it leaves behind.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histoprep.errors import ExitCode
from histoprep.labels import find_label_map, load_label_map

Program = Literal["histoprep", "trainer"]

CODEC_RUN, LATENTS, MODEL_RUN, SYNTHETIC = "codec", "latents", "ldm", "synthetic"
"""Names of the trainer's results in the workspace."""

# The training size of the presets. The codec halves a side three times, the network of
# mask-unet-tiny once more.
_LONGEST_SIDE_PX = 64
_SIDE_MULTIPLE_PX = 16
_SAMPLED_PIXELS = 12 * 256 * 256
_FEWEST_SAMPLED, _MOST_SAMPLED = 3, 12


@dataclass(frozen=True, slots=True)
class DemoStage:
    """One step: `histoprep` or `trainer` with `arguments`, and how to see that it is done.

    `inputs` and `outputs` are files: a stage is done while its outputs are there and neither they,
    nor its inputs, nor its command changed since (see `ledger`). One with `always` runs each time:
    its command finds out by itself what is left to do. `accepted` are the exit codes after which
    the demo goes on: planted defects lead to findings.
    """

    name: str
    purpose: str
    program: Program
    arguments: tuple[str, ...]
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    accepted: frozenset[int] = frozenset({ExitCode.OK})
    always: bool = False

    @property
    def command(self) -> str:
        """Return the command as one would type it."""
        return shlex.join((self.program, *self.arguments))


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the stages depend on: `data` is the folder of the tiles, `workspace` where results go.

    `map_name` is a label map, or None: then the labels of the masks are the classes. `group_by` is
    as in `histoprep audit`. `codec` is the folder of a codec, or None: then one is trained.
    `codec_steps` and `fit_steps` are optimiser steps. `named` says that the workspace is not the
    one that commands find by themselves.
    """

    data: Path
    workspace: Path
    map_name: str | None = None
    group_by: str | None = None
    codec: str | None = None
    codec_steps: int = 300
    fit_steps: int = 600
    named: bool = False
    audit_options: tuple[str, ...] = field(default=())

    @property
    def manifest(self) -> Path:
        """Return the path of the manifest."""
        return self.workspace / "manifest.parquet"

    @property
    def shards(self) -> Path:
        """Return the folder of the shards."""
        return self.workspace / "shards"

    @property
    def index(self) -> Path:
        """Return the path of the shards' index."""
        return self.shards / "index.parquet"

    @property
    def label_map_name(self) -> str:
        """Return the name that the label map gives itself; raises LabelMapError when it cannot be
        used.
        """
        return load_label_map(find_label_map(str(self.map_name), self.data)).name

    @property
    def shown_shards(self) -> tuple[str, str]:
        """Return the option of the trainer that names the shards."""
        return "--manifest", str(self.shards)

    @property
    def codec_folder(self) -> str:
        """Return the codec that tiles are encoded with: the one that was given, or the run that
        trains one.
        """
        return str(self.workspace / CODEC_RUN) if self.codec is None else self.codec

    @property
    def trains_codec(self) -> bool:
        """Return whether a codec is trained, or one was given."""
        return self.codec is None


def toolkit_stages(options: DemoOptions) -> tuple[DemoStage, ...]:
    """Return the stages from the folder of tiles to shards, in order."""
    work, data = options.workspace, str(options.data)
    place = ("--workspace", str(work)) if options.named else ()
    mapped = ("--map", options.map_name) if options.map_name else ()
    grouped = ("--group-by", options.group_by) if options.group_by else ()
    tiles, repair_record, repaired = (
        work / "tiles.parquet",
        work / "repaired.json",
        work / "repaired.parquet",
    )
    left_out = frozenset({ExitCode.OK, ExitCode.INCOMPLETE})
    stages = [
        DemoStage(
            "audit",
            "check every file; find causes and advice",
            "histoprep",
            ("audit", data, *mapped, *grouped, *options.audit_options, *place),
            outputs=(tiles,),
            accepted=frozenset({ExitCode.OK, ExitCode.FINDINGS, ExitCode.INCOMPLETE}),
            always=True,
        ),
        DemoStage(
            "repair",
            "repair masks that were saved as JPEG or resized",
            "histoprep",
            ("repair", data, *place),
            accepted=left_out,
            always=True,
        ),
        DemoStage(
            "manifest",
            "split without leaks, by slide or patient",
            "histoprep",
            ("manifest", data, *mapped, "--split", "0.8/0.1/0.1", *place),
            (tiles, repaired),
            (options.manifest,),
            left_out,
        ),
        DemoStage(
            "stats",
            "count the classes",
            "histoprep",
            ("stats", data, *mapped, *place),
            (tiles, repaired, options.manifest),
            (work / "stats.json",),
            left_out,
        ),
        DemoStage(
            "shard",
            "pack the tiles for training",
            "histoprep",
            ("shard", str(options.manifest)),
            (options.manifest,),
            (options.index,),
        ),
    ]
    if options.map_name:
        remap = ("remap", data, *mapped, "--on-unmapped", "unknown", *place)
        ended = work / f"masks-{options.label_map_name}" / "_SUCCESS.json"
        stages.insert(
            2,
            DemoStage(
                "remap",
                "apply the label map",
                "histoprep",
                remap,
                (tiles, repair_record),
                (ended,),
                left_out,
            ),
        )
    return tuple(stages)


def trainer_stages(
    options: DemoOptions, sides_px: Sequence[int], masks_of: str = "test"
) -> tuple[DemoStage, ...]:
    """Return the stages from shards to generated tiles.

    `sides_px`: heights and widths of the tiles; the training size follows them, and none are
    generated where the network cannot make them. `masks_of`: the split whose masks tiles are made
    for.
    """
    size = training_size(sides_px)
    smaller = (f"data.image_size={size}",) if size < _LONGEST_SIDE_PX else ()
    stages = [_encode_stage(options, size), _fit_stage(options, smaller)]
    if options.trains_codec:
        stages.insert(0, _codec_stage(options, smaller))
    if not any(side % _SIDE_MULTIPLE_PX for side in sides_px):
        number = max(_FEWEST_SAMPLED, min(_MOST_SAMPLED, _SAMPLED_PIXELS // max(sides_px) ** 2))
        stages.append(_sample_stage(options, number, masks_of))
    return tuple(stages)


def _codec_stage(options: DemoOptions, settings: Sequence[str]) -> DemoStage:
    run = options.workspace / CODEC_RUN
    return DemoStage(
        "codec",
        f"train the codec, {options.codec_steps} steps",
        "trainer",
        (
            "fit",
            "--preset",
            "codec-tiny",
            *options.shown_shards,
            "--out",
            str(run),
            *_settings(options.codec_steps, *settings),
        ),
        (options.index,),
        (run / "finished.json",),
    )


def _encode_stage(options: DemoOptions, size: int) -> DemoStage:
    latents = options.workspace / LATENTS
    codec = ("--codec", options.codec_folder, "--image-size", str(size), "--fit", "tile")
    return DemoStage(
        "encode",
        "encode every tile",
        "trainer",
        ("encode", *options.shown_shards, *codec, "--views", "2", "--out", str(latents)),
        (
            options.index,
            *([options.workspace / CODEC_RUN / "finished.json"] if options.trains_codec else []),
        ),
        (latents / "latents.json",),
    )


def _fit_stage(options: DemoOptions, settings: Sequence[str]) -> DemoStage:
    latents, run = options.workspace / LATENTS, options.workspace / MODEL_RUN
    source = (*options.shown_shards, "--latents", str(latents), "--codec", options.codec_folder)
    return DemoStage(
        "fit",
        f"train the diffusion model, {options.fit_steps} steps",
        "trainer",
        (
            "fit",
            # What the codec keeps is on the page; a demo goes its way to the end.
            "--force",
            "--preset",
            "mask-unet-tiny",
            *source,
            "--out",
            str(run),
            *_settings(options.fit_steps, *settings),
        ),
        (options.index, latents / "latents.json"),
        (run / "finished.json",),
    )


def _sample_stage(options: DemoOptions, number: int, masks_of: str) -> DemoStage:
    run, out = options.workspace / MODEL_RUN, options.workspace / SYNTHETIC
    masks = ("--masks", str(options.shards), "--split", masks_of, "--limit", str(number))
    seen = "not seen in training" if masks_of != "train" else "of the training tiles"
    return DemoStage(
        "sample",
        f"generate tiles for masks {seen}",
        "trainer",
        ("sample", "--checkpoint", str(run), *masks, "--out", str(out)),
        (options.index, run / "finished.json"),
        (out.with_name(out.name + ".histoprep") / "manifest.parquet",),
    )


def training_size(sides_px: Sequence[int]) -> int:
    """Return the side of the squares that are trained on: that of the smallest tile, at most 64, a
    multiple of 16.
    """
    return max(
        _SIDE_MULTIPLE_PX,
        min(_LONGEST_SIDE_PX, min(sides_px) // _SIDE_MULTIPLE_PX * _SIDE_MULTIPLE_PX),
    )


def _settings(steps: int, *more: str) -> tuple[str, ...]:
    """Return `--set` options: the steps, and a log and validation often enough for a curve."""
    values = (
        f"duration.steps={steps}",
        f"every.log={max(1, steps // 40)}",
        f"every.validate={max(1, steps // 4)}",
        f"every.images={steps}",
        *more,
    )
    return tuple(part for value in values for part in ("--set", value))
