"""The denoiser of a run: built for its classes and latents, and what training it takes."""

from __future__ import annotations

from histoprep.labels import LabelMap
from trainer.errors import ConfigError
from trainer.models.denoisers.footprint import count_activation_bytes, count_parameters
from trainer.models.denoisers.interface import Denoiser
from trainer.recipes.ldm_config import Config

_FLOAT32_BYTES = 4


def build_denoiser(config: Config, label_map: LabelMap, channels: int) -> Denoiser:
    """Return the denoiser of a run with random weights.

    Args:
        config: The run; its section `model` builds the network.
        label_map: Its classes are those of the masks.
        channels: Channels of the latents.

    Raises:
        ConfigError: When the options of the model do not fit these classes and latents.
    """
    # Class ids may have gaps (HP506), and masks hold the ids.
    num_classes = max(cls.id for cls in label_map.classes) + 1
    try:
        return config.model.build(num_classes, channels)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def check_image_size(config: Config, denoiser: Denoiser, factor: int) -> None:
    """Raise ConfigError unless the images of a run are whole multiples of what its denoiser takes.

    Args:
        config: The run.
        denoiser: Its denoiser.
        factor: Pixels a side that become one latent.
    """
    image_px, multiple_px = config.data.image_size, factor * denoiser.stride
    if image_px % multiple_px:
        nearest = max(1, round(image_px / multiple_px)) * multiple_px
        raise ConfigError(
            f"the denoiser {config.model.name} cannot take images of this size",
            seen=f"data.image_size, {image_px} px",
            expected=f"a multiple of {multiple_px} px",
            hint=f"--set data.image_size={nearest}",
        )


def estimate_memory(config: Config, denoiser: Denoiser, factor: int) -> dict[str, int]:
    """Return the bytes that training takes on one device, by what they hold.

    Args:
        config: The run.
        denoiser: Its denoiser, on PyTorch's device "meta".
        factor: Pixels a side that become one latent.
    """
    ranks = 1
    for count in (config.devices, config.num_nodes):
        ranks *= count if isinstance(count, int) else 1
    micro = max(1, config.batch_size // (config.accumulate * ranks))
    one_image, two_images = (
        count_activation_bytes(denoiser, batch_size, config.data.image_size, factor)
        for batch_size in (1, 2)
    )
    per_image = two_images - one_image
    share = 1 if config.precision == "fp32" else 2
    weights = count_parameters(denoiser) * _FLOAT32_BYTES
    parts = {
        "weights": weights,
        "gradients": weights,
        "optimiser": 2 * weights,
        "ema": weights if config.ema else 0,
        # Standardised weights are kept once, features for every image.
        f"activations ({micro} images)": (one_image - per_image + per_image * micro) // share,
    }
    return {**parts, "in all": sum(parts.values())}


def names_by_id(label_map: LabelMap) -> list[str | None]:
    """Return the names of the classes by class id; None for an id that no class has."""
    names = {cls.id: cls.name for cls in label_map.classes}
    return [names.get(index) for index in range(max(names) + 1)]
