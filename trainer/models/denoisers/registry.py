"""Which denoisers there are: ours, and those of installed packages.

A package adds one by an entry point in the group `histoprep.denoisers`: the name is the denoiser's
(`model.name` in a configuration), the value its module.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from trainer.models.denoisers.interface import DenoiserConfig

# Name -> module with a `Config`; imported when used.
DENOISERS = {
    "reference-unet": "trainer.models.denoisers.reference_unet",
    "mask-unet": "trainer.models.denoisers.mask_unet",
}
DEFAULT_DENOISER = "reference-unet"
"""The denoiser of configurations that name none: all of those before there were several."""
ENTRY_POINTS = "histoprep.denoisers"


def denoiser_names() -> list[str]:
    """Return the names of all denoisers, ours first."""
    return [*DENOISERS, *sorted({point.name for point in _installed()} - DENOISERS.keys())]


def find_denoiser(name: str) -> type[DenoiserConfig]:
    """Return the configuration class of a denoiser, which builds it.

    Args:
        name: What `model.name` says. A name of ours cannot be taken by another package.

    Raises:
        LookupError: When there is no such denoiser, or its package cannot be loaded.
    """
    if name in DENOISERS:
        return _config_in(DENOISERS[name], name)
    point = next((point for point in _installed() if point.name == name), None)
    if point is None:
        near = difflib.get_close_matches(name, denoiser_names(), 1)
        known = f"perhaps {near[0]}" if near else f"known: {', '.join(denoiser_names())}"
        raise LookupError(f"there is no such denoiser; {known}")
    return _config_in(point.value, name)


def _installed() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


def _config_in(module: str, name: str) -> type[DenoiserConfig]:
    try:
        config = import_module(module).Config
    except (ImportError, AttributeError) as error:
        raise LookupError(f"the denoiser cannot be loaded from {module}: {error}") from error
    if not (isinstance(config, type) and issubclass(config, DenoiserConfig)):
        raise LookupError(f"{module}.Config is not a DenoiserConfig")
    stated = config.model_fields["name"].default
    if stated != name:
        raise LookupError(f"{module}.Config calls itself {stated}; its name must be {name}")
    return config
