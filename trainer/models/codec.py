"""The codec: images to latents and back, over diffusers' AutoencoderKL and AutoencoderTiny.

Raw latents are what the encoder gives: the posterior's mean and standard deviation, unscaled. Scaling for a denoiser is a fact of the
latent set, see `trainer.data.latent_scaling`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from histoprep.errors import IntegrityError, UsageError

# Before the first import of diffusers: it asks the hub's client, which reads this once.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DISABLE_TELEMETRY"] = "1"

HUB_PREFIX = "hub:"
CONFIG_NAME, RUN_CONFIG = "config.json", "config.yml"
_KL, _TINY = "AutoencoderKL", "AutoencoderTiny"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)*")
_LOG_VARIANCE_LIMITS = (-30.0, 20.0)


class Posterior(NamedTuple):
    """Raw latents of a batch, float [batch, channels, height / factor, width / factor]; `std` is None where the codec has none."""

    mean: Tensor
    std: Tensor | None


class Codec(nn.Module):
    """A frozen autoencoder. `identifier` says where it came from, `digest` (SHA-256, hex) what it is: its weights.

    `factor` pixels a side become one latent; `channels` of them. `shift` and `scale`, float [channels], are the codec's own
    normalisation: z = (raw - shift) / scale; a tiny autoencoder's latents come scaled already, so 0 and 1.
    """

    def __init__(self, autoencoder: nn.Module, identifier: str) -> None:
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.identifier = identifier
        config: Any = autoencoder.config
        self.is_tiny = type(autoencoder).__name__ == _TINY
        widths = config.encoder_block_out_channels if self.is_tiny else config.block_out_channels
        self.factor: int = 2 ** (len(widths) - 1)
        self.channels: int = config.latent_channels
        self.shift, self.scale = _own_scaling(config, self.channels)
        self.digest = weights_digest(autoencoder)

    def train(self, mode: bool = True) -> Codec:
        """Return the codec, always in evaluation mode: it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Posterior:
        """Return the raw latents of images [batch, 3, height, width] in [-1, 1]; height and width are multiples of `factor`.

        Raises UsageError for other sizes: the encoder would cut the rest off without a word.
        """
        if any(side % self.factor for side in images.shape[-2:]):
            seen = " x ".join(str(side) for side in images.shape[-2:])
            raise UsageError("the codec cannot take images of this size", seen=f"{seen} px", expected=f"multiples of {self.factor}")
        if self.is_tiny:
            # encode, not forward: forward rounds latents to 8 bits.
            return Posterior(self.autoencoder.encode(images).latents, None)  # type: ignore[operator]
        return posterior_of(self.autoencoder, images)

    @torch.no_grad()
    def decode(self, raw: Tensor) -> Tensor:
        """Return images [batch, 3, height * factor, width * factor] in [-1, 1] of raw latents."""
        return self.autoencoder.decode(raw).sample.clamp(-1, 1)  # type: ignore[operator]


def posterior_of(autoencoder: nn.Module, images: Tensor) -> Posterior:
    """Return mean and standard deviation of a KL autoencoder's posterior, with gradients; log-variance is held to [-30, 20]."""
    made: Any = autoencoder
    moments = made.encoder(images)
    if made.quant_conv is not None:
        moments = made.quant_conv(moments)
    mean, log_variance = moments.chunk(2, dim=1)
    return Posterior(mean, torch.exp(0.5 * log_variance.clamp(*_LOG_VARIANCE_LIMITS)))


def load_codec(id_or_folder: str | Path) -> Codec:
    """Return the codec in a folder (config.json and weights as diffusers saves them, or a run of the recipe codec), or `hub:OWNER/NAME`.

    Nothing is downloaded unless the name starts with `hub:`; a subfolder follows the name (`hub:OWNER/NAME/vae`). Weights are
    safetensors, or a state dict that torch reads with weights_only. Raises UsageError when there is no codec, IntegrityError when
    weights are missing or do not fit.
    """
    name = str(id_or_folder)
    if name.startswith(HUB_PREFIX):
        return Codec(_from_hub(name.removeprefix(HUB_PREFIX)), name)
    if any((home / RUN_CONFIG).is_file() for home in (Path(name), *Path(name).absolute().parents[:2])) and not (Path(name) / CONFIG_NAME).exists():
        # A run or a checkpoint of it. Networks know nothing of runs; the recipe that made this one does.
        autoencoder = import_module("trainer.recipes.codec").trained_autoencoder(Path(name))
        return Codec(autoencoder, str(Path(name).resolve()))
    folder = _codec_folder(Path(name))
    return Codec(_from_folder(folder), str(folder.resolve()))


def save_codec(autoencoder: nn.Module, folder: Path) -> None:
    """Write config.json and the weights (safetensors) of an autoencoder into `folder`, which `load_codec` reads."""
    saved: Any = autoencoder
    saved.save_pretrained(folder, safe_serialization=True)


class TrainableCodec(nn.Module):
    """An untrained AutoencoderKL as one call; `architecture` are the arguments of diffusers."""

    def __init__(self, **architecture: Any) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.autoencoder: Any = AutoencoderKL(**architecture)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstructions of mean + std * noise, and the posterior's mean and std.

        Images [batch, 3, height, width] in [-1, 1] in and out (not cut off); the others [batch, channels, height / 8, width / 8].
        """
        mean, std = posterior_of(self.autoencoder, images)
        assert std is not None
        return self.autoencoder.decode(mean + std * noise).sample, mean, std


def weights_digest(autoencoder: nn.Module) -> str:
    """Return the SHA-256 (hex) of an autoencoder: its kind, and name, shape and float32 values of each weight, in order of name.

    It does not depend on the file format, the device or the precision that half-precision weights are held in.
    """
    state = hashlib.sha256(type(autoencoder).__name__.encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        state.update(f"\n{name} {tuple(tensor.shape)}\n".encode())
        state.update(memoryview(tensor.detach().float().cpu().contiguous().numpy()).cast("B"))
    return state.hexdigest()


def _own_scaling(config: Any, channels: int) -> tuple[Tensor, Tensor]:
    factor = float(getattr(config, "scaling_factor", None) or 1.0)
    means, stds = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    shift = torch.tensor(means or [float(getattr(config, "shift_factor", None) or 0.0)] * channels, dtype=torch.float32)
    return shift, torch.tensor(stds or [1.0] * channels, dtype=torch.float32) / factor


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
    if kind not in (_KL, _TINY):
        raise UsageError("this is no codec that we know", path=where, seen=kind or "no _class_name in config.json", expected=f"{_KL} or {_TINY}")
    return getattr(diffusers, kind)


def _from_folder(folder: Path) -> nn.Module:
    try:
        config = json.loads((folder / CONFIG_NAME).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"cannot read the codec's configuration: {error}", path=folder / CONFIG_NAME) from error
    return _checked(_kind_of(config, str(folder)), str(folder), local_files_only=True)


def _from_hub(name: str) -> nn.Module:
    if not _HUB_ID.fullmatch(name):
        raise UsageError("this is no name of a model on the hub", seen=name, expected="OWNER/NAME or OWNER/NAME/SUBFOLDER")
    owner, model, *rest = name.split("/")
    options = {"subfolder": "/".join(rest)} if rest else {}
    from diffusers import AutoencoderKL

    try:
        config = AutoencoderKL.load_config(f"{owner}/{model}", **options)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot get the codec from the hub: {error}", seen=f"{HUB_PREFIX}{name}") from error
    return _checked(_kind_of(dict(config), f"{HUB_PREFIX}{name}"), f"{owner}/{model}", **options)


def _checked(kind: Any, place: str, **options: Any) -> nn.Module:
    """Return the autoencoder with all of its weights: diffusers fills what is missing with random numbers and only warns."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        made, info = kind.from_pretrained(place, output_loading_info=True, low_cpu_mem_usage=False, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise IntegrityError(f"cannot load the codec: {error}", path=place, hint="copy its folder again") from error
    finally:
        logging.set_verbosity(level)
    wrong = {name: list(info[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(name)}
    if wrong:
        seen = "; ".join(f"{len(keys)} {name.replace('_', ' ')}, such as {keys[0]}" for name, keys in wrong.items())
        raise IntegrityError("the weights do not fit the codec's configuration", path=place, seen=seen, hint="copy its folder again")
    broken = [name for name, tensor in made.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise IntegrityError("the codec has weights that are not finite", path=place, seen=", ".join(broken[:3]), hint="copy its folder again")
    return made
