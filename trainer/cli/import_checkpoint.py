"""`trainer import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.errors import UsageError
from histoprep.labels import find_label_map, load_label_map
from trainer.choices import (
    ClassEmbedding,
    ImageRange,
    Lineage,
    MaskQuery,
    PredictionType,
    ScheduleKind,
)

if TYPE_CHECKING:
    from trainer.data.latent_scaling import LatentScaling
    from trainer.models.codec import Codec

_RANGES = {"signed": "in [-1, 1]", "unit": "in [0, 1]"}


def import_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint of the reference network: .pt, .pth, .ckpt or .safetensors.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.", show_default=False)],
    *,
    codec: Annotated[
        str | None,
        typer.Option(
            help=(
                "Codec that the network was trained with, needed for sampling: a folder or"
                " hub:OWNER/NAME."
            )
        ),
    ] = None,
    map_name: Annotated[
        str | None,
        typer.Option(
            "--map", help="Label map of its classes.", show_default="classes named by number"
        ),
    ] = None,
    groups: Annotated[
        int, typer.Option(help="Number of groups of its group normalisation.", min=1)
    ] = 2,
    mask_query: Annotated[
        MaskQuery, typer.Option(help="Query of its attention: the binary mask or the class mask.")
    ] = "binary",
    lineage: Annotated[
        Lineage | None,
        typer.Option(
            help=(
                "Training that it comes from; sets class embedding, scale of latents and range of"
                " images."
            ),
            show_default=False,
        ),
    ] = None,
    class_embedding: Annotated[
        ClassEmbedding | None,
        typer.Option(
            help="Class embedding: the fraction of pixels, or the largest class id.",
            show_default="of the lineage, else fraction",
        ),
    ] = None,
    null_class: Annotated[
        int, typer.Option(help="Class that was its unconditional input; -1 for none.", min=-1)
    ] = 0,
    prediction: Annotated[
        PredictionType, typer.Option(help="What it was trained to predict.")
    ] = "epsilon",
    schedule: Annotated[ScheduleKind, typer.Option(help="Its noise schedule.")] = "cosine",
    latent_shift: Annotated[
        float | None,
        typer.Option(
            help="Latents were (raw - shift) / scale.",
            show_default="of the lineage, else the codec's",
        ),
    ] = None,
    latent_scale: Annotated[
        float | None,
        typer.Option(help="See --latent-shift; 50 where raw latents were divided by 50."),
    ] = None,
    image_range: Annotated[
        ImageRange | None,
        typer.Option(
            help="Range of the images that the codec was fed: [-1, 1] or [0, 1].",
            show_default="of the lineage, else signed",
        ),
    ] = None,
) -> None:
    """Convert a published checkpoint of the reference network into a run folder with safetensors.

    Sizes, classes and depth follow from the tensors; the options cover what does not, and default
    to the published training; --lineage sets those that differ between published trainings. Nothing
    in the file is executed; Python objects in it other than tensors and numbers are left out.

    Exit codes: 0 converted; 2 wrong usage; 6 not such a checkpoint (missing and unexpected tensors
    are listed).

    Examples:
        trainer import model.pt --codec runs/codec-512 --out runs/imported
        trainer import model.pt --lineage diffinfinite --codec sd-vae --out runs/imported
        trainer import model.safetensors --out runs/imported --map label_map_5 --prediction v
    """
    from trainer.import_checkpoint import CONVENTIONS, CheckpointOptions
    from trainer.import_checkpoint import import_checkpoint as convert
    from trainer.recipes.codecs import UNIT_SUFFIX, load_codec

    convention = CONVENTIONS[lineage] if lineage else None
    if convention is not None:
        class_embedding = class_embedding or convention.class_embedding
        image_range = image_range or convention.image_range
        latent_scale = convention.latent_scale if latent_scale is None else latent_scale
    if codec and image_range == "unit" and not codec.endswith(UNIT_SUFFIX):
        codec += UNIT_SUFFIX
    loaded = load_codec(codec) if codec else None
    network = {
        "resnet_block_groups": groups,
        "mask_query": mask_query,
        "class_embedding": class_embedding or "fraction",
        "null_class": None if null_class < 0 else null_class,
    }
    options = CheckpointOptions(
        network,
        {"prediction_type": prediction, "noise_schedule": schedule, "loss": "l1"},
        load_label_map(find_label_map(map_name)) if map_name else None,
        loaded,
        _scaling(loaded, latent_shift, latent_scale, from_lineage=convention is not None),
    )
    found = convert(checkpoint, out, options)
    imported = found.published
    config = imported.network.config
    console.table(
        ("what", "value"),
        [
            ("classes", str(imported.network.num_classes)),
            (
                "dim, dim_mults, blocks",
                f"{config.dim}, {'-'.join(map(str, config.dim_mults))}, {config.block_per_layer}",
            ),
            ("parameters", f"{sum(tensor.numel() for tensor in imported.weights.values()):,}"),
            ("found under", ", ".join(repr(prefix) for prefix in imported.prefixes)),
            ("averaged weights", "yes" if imported.ema else "no"),
            ("other tensors, ignored", f"{imported.num_ignored:,}"),
            ("other objects, not loaded", ", ".join(found.not_loaded) or "none"),
            ("class embedding", config.class_embedding),
            *([] if loaded is None else [("images of the codec", _RANGES[loaded.image_range])]),
        ],
        title="Reference network",
    )
    if loaded is None:
        console.warn(
            "without --codec there is nothing to decode with: `trainer sample` will refuse this run"
        )
    console.out(str(out))


def _scaling(
    codec: Codec | None, shift: float | None, scale: float | None, *, from_lineage: bool
) -> LatentScaling | None:
    from trainer.data.latent_scaling import LatentScaling

    if (shift is None and scale is None) or (codec is None and from_lineage):
        return None
    if codec is None:
        raise UsageError("--latent-shift and --latent-scale need --codec")
    if scale is not None and scale <= 0:
        raise UsageError("--latent-scale must be positive", seen=scale, expected="a number above 0")
    return LatentScaling(
        "codec", (shift or 0.0,) * codec.channels, (scale or 1.0,) * codec.channels
    )
