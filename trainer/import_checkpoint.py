"""A published checkpoint of the reference network becomes a run of ours: safetensors, its average,
configuration, facts of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histoprep import checksums
from histoprep.durable import locked
from histoprep.errors import UsageError
from histoprep.labels import LabelMap, identity_map
from trainer.choices import ClassEmbedding, ImageRange, Lineage
from trainer.config_layers import dump_config
from trainer.data.latent_scaling import LatentScaling
from trainer.engine.checkpoints import CONFIG, CheckpointFolder, Snapshot
from trainer.errors import CheckpointError
from trainer.models.codec import Codec
from trainer.models.denoisers.reference_checkpoints import (
    CheckpointMismatchError,
    PublishedWeights,
    published_weights,
)
from trainer.recipes.ldm_config import Config
from trainer.recipes.ldm_data import ModelFacts
from trainer.tensor_files import read_tensor_file

# A run of ours names its data; that of published weights is not known.
NO_MANIFEST = "none: the weights were imported"


@dataclass(frozen=True)
class Convention:
    """What the trainings of one lineage of the reference network have in common.

    Attributes:
        class_embedding: How the classes of a mask become a condition.
        image_range: Range of the images that the codec was fed.
        latent_scale: Latents were raw / latent_scale; None is the codec's own scaling.
    """

    class_embedding: ClassEmbedding
    image_range: ImageRange
    latent_scale: float | None


# Read from the public code of both: github.com/marcoaversa/diffinfinite (dm.py) and its fork for
# skin tissue, github.com/minha12/diffinfinite.
CONVENTIONS: dict[Lineage, Convention] = {
    "diffinfinite": Convention("max", "unit", 50.0),
    "skin-fork": Convention("fraction", "signed", None),
}


@dataclass(frozen=True)
class CheckpointOptions:
    """What a checkpoint does not say of itself; the defaults are those of the published training.

    Attributes:
        network: Fields of the section `model` that shapes do not tell.
        diffusion: Fields of the section `diffusion`.
        label_map: The classes; None names them by number.
        codec: What latents were made with; without it the model can be trained on, not sampled
            from.
        scaling: How latents were scaled; None is the codec's own scaling.
    """

    network: Mapping[str, Any] = field(default_factory=lambda: {"null_class": 0})
    diffusion: Mapping[str, Any] = field(default_factory=lambda: {"loss": "l1"})
    label_map: LabelMap | None = None
    codec: Codec | None = None
    scaling: LatentScaling | None = None


@dataclass(frozen=True)
class Imported:
    """What was found in a checkpoint.

    Attributes:
        published: Its weights.
        not_loaded: Names of other Python objects in the file, which were not loaded.
    """

    published: PublishedWeights
    not_loaded: tuple[str, ...]


def import_checkpoint(path: Path, out: Path, options: CheckpointOptions | None = None) -> Imported:
    """Write a run folder for a published checkpoint and return what was found in it.

    Tensors, containers and numbers are read; nothing in the file is executed, and other objects in
    it are left out.

    Args:
        path: The checkpoint.
        out: The run folder.
        options: What the checkpoint does not hold; None for the published training.

    Raises:
        CheckpointError: When it is no reference network; the text names missing, unexpected and
            misshapen tensors.
        UsageError: When `out` holds a run, or label map or codec do not fit the checkpoint.
        OutputError: When `out` cannot be written.
    """
    options = options or CheckpointOptions()
    try:
        file = read_tensor_file(path)
        published = published_weights(file.content, **options.network)
    except CheckpointMismatchError as error:
        raise CheckpointError(
            "this is not a checkpoint of the reference network", path=path, seen=str(error)
        ) from error
    label_map = options.label_map or identity_map(range(published.network.num_classes))
    if label_map.num_classes != published.network.num_classes:
        seen = f"{label_map.num_classes} classes in {label_map.name}"
        raise UsageError(
            "the label map is not that of the checkpoint",
            path=path,
            seen=seen,
            expected=f"{published.network.num_classes} classes",
        )
    if options.codec is not None and options.codec.channels != published.network.channels:
        seen, expected = (
            f"{options.codec.channels} channels",
            f"{published.network.channels} channels",
        )
        raise UsageError(
            "the codec is not that of the checkpoint",
            path=options.codec.identifier,
            seen=seen,
            expected=expected,
        )
    _write_run(out.absolute(), published, label_map, options)
    return Imported(published, file.not_loaded)


def _write_run(
    out: Path, published: PublishedWeights, label_map: LabelMap, options: CheckpointOptions
) -> None:
    with locked(out):
        if (out / CONFIG).exists() or (out / "checkpoints").exists():
            raise UsageError("this folder holds a run", path=out, hint="choose another --out")
        tensors = {"weights": published.weights} | ({"ema": published.ema} if published.ema else {})
        CheckpointFolder(out / "checkpoints").save_best(Snapshot(tensors, {"step": published.step}))
        if options.codec is not None:
            own = LatentScaling(
                "codec", tuple(options.codec.shift.tolist()), tuple(options.codec.scale.tolist())
            )
            facts = ModelFacts(
                label_map,
                published.network.channels,
                options.scaling or own,
                options.codec.identifier,
                options.codec.digest,
            )
            facts.write(out)
        checksums.publish_file(out, CONFIG, dump_config(_config_of(published, out, options)))


def _config_of(published: PublishedWeights, out: Path, options: CheckpointOptions) -> Config:
    return Config.model_validate(
        {
            "recipe": "ldm",
            "manifest": NO_MANIFEST,
            "out": str(out),
            "codec": options.codec.identifier if options.codec else None,
            "model": published.network.config,
            "diffusion": dict(options.diffusion),
        }
    )
