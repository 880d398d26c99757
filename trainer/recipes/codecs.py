"""A codec by its name: from a folder that diffusers saved, from a run of the recipe codec, or from
the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from histoprep.errors import IntegrityError, UsageError
from trainer.models.codec import Codec
from trainer.recipes.codec import trained_autoencoder

HUB_PREFIX, UNIT_SUFFIX = "hub:", "@unit"
CONFIG_NAME, RUN_CONFIG = "config.json", "config.yml"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)*")


def load_codec(id_or_folder: str | Path) -> Codec:
    """Return the codec in a folder (config.json and weights as diffusers saves them, or a run of
    the recipe codec), or `hub:OWNER/NAME`.

    Nothing is downloaded unless the name starts with `hub:`; a subfolder follows the name
    (`hub:OWNER/NAME/vae`). A name that ends in `@unit` is a codec that is fed images in [0, 1], as
    some published models did. Weights are safetensors, or a state dict that torch reads with
    weights_only.

    Raises:
        UsageError: When there is no codec.
        IntegrityError: When weights are missing or do not fit.
    """
    name = str(id_or_folder)
    if name.endswith(UNIT_SUFFIX):
        codec = load_codec(name.removesuffix(UNIT_SUFFIX))
        return Codec(codec.autoencoder, codec.identifier + UNIT_SUFFIX, "unit")
    if name.startswith(HUB_PREFIX):
        return _as_codec(_from_hub(name.removeprefix(HUB_PREFIX)), name)
    if (
        any(
            (home / RUN_CONFIG).is_file()
            for home in (Path(name), *Path(name).absolute().parents[:2])
        )
        and not (Path(name) / CONFIG_NAME).exists()
    ):
        # A run or a checkpoint of it.
        return Codec(trained_autoencoder(Path(name)), str(Path(name).resolve()))
    folder = _codec_folder(Path(name))
    return _as_codec(_from_folder(folder), str(folder.resolve()))


def _as_codec(autoencoder: nn.Module, identifier: str) -> Codec:
    try:
        return Codec(autoencoder, identifier)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise UsageError(
            "this autoencoder does not turn images into maps of latents and back",
            path=identifier,
            seen=f"{type(autoencoder).__name__}: {error}",
            expected="an image autoencoder of diffusers, such as AutoencoderKL, -Tiny or -DC",
        ) from error


def _codec_folder(folder: Path) -> Path:
    for candidate in (folder, folder / "codec", folder / "vae"):
        if (candidate / CONFIG_NAME).is_file():
            return candidate
    hint = "name a folder that diffusers saved, or the folder of a run of the recipe codec"
    if not folder.exists() and _HUB_ID.fullmatch(str(folder)):
        hint += f"; for a model of the Hugging Face hub write {HUB_PREFIX}{folder}"
    raise UsageError("there is no codec here", path=folder, expected=CONFIG_NAME, hint=hint)


def _kind_of(config: dict[str, Any], where: str) -> Any:
    import diffusers
    from huggingface_hub import constants

    # Someone else may have imported the client before this module.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    kind = config.get("_class_name")
    found = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not all(hasattr(found, name) for name in ("from_pretrained", "encode", "decode")):
        raise UsageError(
            "this kind of codec is not supported",
            path=where,
            seen=kind or "no _class_name in config.json",
            expected="an autoencoder of diffusers, such as AutoencoderKL, -Tiny or -DC",
        )
    return found


def _from_folder(folder: Path) -> nn.Module:
    try:
        config = json.loads((folder / CONFIG_NAME).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"cannot read the codec's configuration: {error}", path=folder / CONFIG_NAME
        ) from error
    if not isinstance(config, dict):
        raise IntegrityError(
            "the codec's configuration is not a mapping",
            path=folder / CONFIG_NAME,
            seen=type(config).__name__,
        )
    return _checked(_kind_of(config, str(folder)), str(folder), local_files_only=True)


def _from_hub(name: str) -> nn.Module:
    if not _HUB_ID.fullmatch(name):
        raise UsageError(
            "this is not the name of a model on the hub",
            seen=name,
            expected="OWNER/NAME or OWNER/NAME/SUBFOLDER",
        )
    owner, model, *rest = name.split("/")
    options = {"subfolder": "/".join(rest)} if rest else {}
    from diffusers import AutoencoderKL

    try:
        config = AutoencoderKL.load_config(f"{owner}/{model}", **options)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot get the codec from the hub: {error}", seen=f"{HUB_PREFIX}{name}"
        ) from error
    return _checked(_kind_of(dict(config), f"{HUB_PREFIX}{name}"), f"{owner}/{model}", **options)


def _checked(kind: Any, place: str, **options: Any) -> nn.Module:
    """Return the autoencoder with all of its weights: diffusers fills what is missing with random
    numbers and only warns.
    """
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        loaded = kind.from_pretrained(
            place, output_loading_info=True, low_cpu_mem_usage=False, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise IntegrityError(
            f"cannot load the codec: {error}", path=place, hint="copy its folder again"
        ) from error
    finally:
        logging.set_verbosity(level)
    autoencoder: nn.Module = loaded[0]
    info: Mapping[str, Any] = loaded[1]
    wrong = {
        name: list(info[name])
        for name in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(name)
    }
    if wrong:
        seen = "; ".join(
            f"{len(keys)} {name.replace('_', ' ')}, such as {keys[0]}"
            for name, keys in wrong.items()
        )
        raise IntegrityError(
            "the weights do not fit the codec's configuration",
            path=place,
            seen=seen,
            hint="copy its folder again",
        )
    broken = [
        name
        for name, tensor in autoencoder.state_dict().items()
        if not torch.isfinite(tensor).all()
    ]
    if broken:
        raise IntegrityError(
            "the codec has weights that are not finite",
            path=place,
            seen=", ".join(broken[:3]),
            hint="copy its folder again",
        )
    return autoencoder
