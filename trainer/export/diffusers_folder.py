"""An image generator as a folder that diffusers opens, without this package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
import safetensors.torch

from histoprep import checksums
from histoprep.durable import write_text
from histoprep.labels import format_label_map
from trainer.errors import UsageError
from trainer.export.bundle import bundle
from trainer.export.card import card_of
from trainer.recipes.ldm import load_generator, read_facts
from trainer.recipes.ldm_config import Config
from trainer.sampling.generator import Generator
from trainer.sampling.masks import classes_as_sources

_TEMPLATE_DENOISER = "trainer.models.denoisers.reference_unet"
_UNET, _PIPELINE = "histoprep_unet", "pipeline"


def export_generator(run: Path, out: Path, config: Config, *, codec: str | None = None) -> None:
    """Write a folder for `DiffusionPipeline.from_pretrained`.

    It holds the averaged weights of the best checkpoint (`unet`), the codec (`vae`), the code of
    both and of the pipeline, the classes, and a model card. The same mask, name and seed give the
    pixels of `trainer sample`.

    Args:
        run: Run folder or checkpoint.
        out: New folder.
        config: Configuration of the run.
        codec: Where the codec is now, if not where it was.

    Raises:
        UsageError: When the codec is not here, or is none that diffusers has.
        CheckpointError: When there is no whole checkpoint.
    """
    generator, facts = load_generator(run, codec=codec), read_facts(run)
    if not hasattr(generator.codec.autoencoder, "save_pretrained"):
        raise UsageError(
            "the codec of this run is a codec of patches, which diffusers does not have",
            path=generator.codec.identifier,
            expected="an autoencoder of diffusers, such as a run of codec-512",
            hint="trainer fit --recipe codec --set architecture.kind=kl, then fit with that codec",
        )
    _write_unet(out / "unet", generator, config, facts.channels)
    generator.codec.autoencoder.save_pretrained(out / "vae", safe_serialization=True)
    module = type(config.model).__module__
    unet_files = bundle("trainer.export.unet", name=_UNET, exchanged={_TEMPLATE_DENOISER: module})
    for folder, files in (
        ("unet", unet_files),
        ("", bundle("trainer.export.pipeline", name=_PIPELINE)),
    ):
        for name, text in files.items():
            write_text(out / folder / name, text)
    write_text(out / "model_index.json", json.dumps(_index(generator, config), indent=2) + "\n")
    write_text(out / "label_map.yml", format_label_map(classes_as_sources(facts.label_map)))
    write_text(out / "README.md", card_of(run, config, facts.label_map))
    checksums.list_all_files(out)


def _write_unet(folder: Path, generator: Generator, config: Config, channels: int) -> None:
    """Write what `HistoPrepUNet.save_pretrained` would; that class has another denoiser here."""
    folder.mkdir(parents=True)
    weights = {
        f"network.{name}": tensor.contiguous()
        for name, tensor in generator.denoiser.state_dict().items()
    }
    safetensors.torch.save_file(
        weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"}
    )
    facts = {
        "_class_name": "HistoPrepUNet",
        "_diffusers_version": diffusers.__version__,
        "denoiser": config.model.model_dump(mode="json"),
        "num_classes": generator.num_classes,
        "channels": channels,
    }
    write_text(folder / "config.json", json.dumps(facts, indent=2) + "\n")


def _index(generator: Generator, config: Config) -> dict[str, Any]:
    sampling = config.sampling
    return {
        "_class_name": [_PIPELINE, "HistoPrepPipeline"],
        "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers", type(generator.codec.autoencoder).__name__],
        "unet": [_UNET, "HistoPrepUNet"],
        "objective": dataclasses.asdict(generator.objective),
        "scaling": generator.scaling.to_json(),
        "image_range": generator.codec.image_range,
        "sampling": {
            "guidance_scale": sampling.guidance_scale,
            "guidance_interval": sampling.guidance_interval,
            "solver": {
                "kind": sampling.solver,
                "num_inference_steps": sampling.num_inference_steps,
                "eta": sampling.eta,
                "spacing": sampling.spacing,
            },
        },
    }
