"""An image generator as a folder that diffusers opens, without this package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
import safetensors.torch
from torch import nn

from histoprep import checksums
from histoprep.durable import write_text
from histoprep.labels import format_label_map
from trainer.diffusion.samplers import Solver, scheduler_of
from trainer.export.bundle import bundle
from trainer.export.card import card_of, use_of_pipeline
from trainer.models.patch_codec import PatchAutoencoder
from trainer.recipes.ldm import load_generator, read_facts
from trainer.recipes.ldm_config import Config
from trainer.sampling.generator import Generator
from trainer.sampling.masks import classes_as_sources

_TEMPLATE_DENOISER = "trainer.models.denoisers.reference_unet"
_UNET, _VAE, _PIPELINE = "histoprep_unet", "histoprep_vae", "pipeline"
_SCHEDULER = "scheduler"
_UNET_CLASS, _VAE_CLASS = "HistoPrepUNet", "HistoPrepVAE"


def export_generator(run: Path, out: Path, config: Config, *, codec: str | None = None) -> None:
    """Write a folder for `DiffusionPipeline.from_pretrained`.

    It holds the averaged weights of the best checkpoint (`unet`), the codec (`vae`), the code of
    both and of the pipeline, the classes, a model card, and, where diffusers takes the same steps
    as the run's solver, its scheduler. The same mask, name and seed give the
    pixels of `trainer sample`.

    Args:
        run: Run folder or checkpoint.
        out: New folder.
        config: Configuration of the run.
        codec: Where the codec is now, if not where it was.

    Raises:
        UsageError: When the codec is not here.
        CheckpointError: When there is no whole checkpoint.
    """
    generator, facts = load_generator(run, codec=codec), read_facts(run)
    denoiser = {
        "_class_name": _UNET_CLASS,
        "denoiser": config.model.model_dump(mode="json"),
        "num_classes": generator.num_classes,
        "channels": facts.channels,
    }
    _write_network(out / "unet", generator.denoiser, denoiser)
    vae = generator.codec.autoencoder
    code = {"": bundle("trainer.export.pipeline", name=_PIPELINE)}
    if isinstance(vae, PatchAutoencoder):
        _write_network(out / "vae", vae, {"_class_name": _VAE_CLASS, **vae.arguments})
        code["vae"] = bundle("trainer.export.vae", name=_VAE)
    else:
        vae.save_pretrained(out / "vae", safe_serialization=True)
        _forget_place(out / "vae" / "config.json")
    scheduler = scheduler_of(generator.objective, _solver_of(config))
    if scheduler is not None:
        scheduler.save_pretrained(out / _SCHEDULER)
    module = type(config.model).__module__
    exchanged = {_TEMPLATE_DENOISER: module}
    code["unet"] = bundle("trainer.export.unet", name=_UNET, exchanged=exchanged)
    for folder, files in code.items():
        for name, text in files.items():
            write_text(out / folder / name, text)
    index = _index(generator, config)
    if scheduler is not None:
        index[_SCHEDULER] = ["diffusers", type(scheduler).__name__]
    write_text(out / "model_index.json", json.dumps(index, indent=2) + "\n")
    write_text(out / "label_map.yml", format_label_map(classes_as_sources(facts.label_map)))
    usage = use_of_pipeline(config.data.image_size)
    classes = [(cls.id, cls.name) for cls in facts.label_map.classes]
    write_text(out / "README.md", card_of(run, config, classes, usage))
    checksums.list_all_files(out)


def _write_network(folder: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write what `save_pretrained` of a wrapper with that network would."""
    folder.mkdir(parents=True)
    weights = {
        f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()
    }
    safetensors.torch.save_file(
        weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"}
    )
    facts = {**config, "_diffusers_version": diffusers.__version__}
    write_text(folder / "config.json", json.dumps(facts, indent=2) + "\n")


def _forget_place(path: Path) -> None:
    """Take out of a configuration of diffusers where on this machine it was read from."""
    facts = checksums.read_json(path)
    facts.pop("_name_or_path", None)
    write_text(path, json.dumps(facts, indent=2) + "\n")


def _solver_of(config: Config) -> Solver:
    sampling = config.sampling
    return Solver(sampling.solver, sampling.num_inference_steps, sampling.eta, sampling.spacing)


def _index(generator: Generator, config: Config) -> dict[str, Any]:
    sampling, vae = config.sampling, generator.codec.autoencoder
    return {
        "_class_name": [_PIPELINE, "HistoPrepPipeline"],
        "_diffusers_version": diffusers.__version__,
        "vae": [_VAE, _VAE_CLASS]
        if isinstance(vae, PatchAutoencoder)
        else ["diffusers", type(vae).__name__],
        "unet": [_UNET, _UNET_CLASS],
        "objective": dataclasses.asdict(generator.objective),
        "scaling": generator.scaling.to_json(),
        "image_range": generator.codec.image_range,
        "sampling": {
            "guidance_scale": sampling.guidance_scale,
            "guidance_interval": sampling.guidance_interval,
            "solver": dataclasses.asdict(_solver_of(config)),
        },
    }
