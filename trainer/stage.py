"""What the engine knows of a recipe: one protocol for its stages, and the registry of recipes.

A recipe is a module with a `Config` (a subclass of `RunConfig`), `stages` and `describe`. It plans
one or more stages; the engine trains them in order. Everything random in a batch is keyed by (seed,
position) and drawn in the dataset; dropout is seeded by the engine at every step. So a stage holds
no state but the weights of `module`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from trainer.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from trainer.config import RunConfig
    from trainer.reporter import Reporter

# Name -> module; imported when used, since most of them import torch.
RECIPES = {
    "ldm": "trainer.recipes.ldm",
    "codec": "trainer.recipes.codec",
    "diffmic": "trainer.recipes.diffmic",
    "segmenter": "trainer.recipes.segmenter",
    "masks": "trainer.recipes.masks",
}
# What a recipe trains when nothing else is said: its full size.
DEFAULT_PRESETS = {
    "ldm": "reference-512",
    "codec": "codec-512",
    "diffmic": "diffmic-224",
    "segmenter": "segmenter-512",
    "masks": "masks-512",
}
DEFAULT_RECIPE = "ldm"
NO_VALIDATION = (
    "there is no validation split (see histoprep manifest --help): {} is measured on training tiles"
)


class PositionDataset(Protocol):
    """What the loader asks of a dataset: the batch of these positions, each sample a function of
    its position alone. Picklable.
    """

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return the samples of `positions` (int64) as tensors with a first axis of that length."""
        ...


@dataclass(frozen=True)
class StepOutput:
    """What one batch gave.

    `loss` is a scalar (mean over the batch) or [batch]; the engine takes the mean and the gradient.
    `values` are logged, as means, under their names: scalars or [batch], detached or not. `groups`
    break the loss down in the log: for each name of `Stage.breakdown` the index (int64 [batch]) of
    the group every sample belongs to, -1 for none; it needs a loss of [batch].
    """

    loss: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)
    groups: Mapping[str, Tensor] = field(default_factory=dict)


class Stage(Protocol):
    """One training: a module, its data and its loss. Built new on every start; the engine restores
    the weights of `module`.
    """

    name: str
    """Folder below the run folder; "" for a single stage, whose files lie in the run folder."""
    module: nn.Module
    """What is trained and saved; the EMA is a copy of it. Frozen networks are not part of it."""
    best: tuple[str, Literal["min", "max"]] | None
    """The metric of `validate` that selects checkpoints/best-*, and its good end."""
    chance: tuple[str, float] | None
    """A metric of `validate` and the most that guessing reaches of it, with 97.5 % certainty; None
    where there is no such thing. Training warns when validation stays there."""
    num_positions: int
    """Training positions of the stage; the engine rounds up to whole optimiser steps."""
    num_tiles: int
    """Tiles of one pass over the training tiles: an epoch."""
    breakdown: Mapping[str, Sequence[str]]
    """Groups the loss is broken down by, such as {"stream": ("unconditional", "Tumour")}."""

    weights_from: Mapping[str, str]
    """Where weights came from that training did not start at random; written beside the log."""
    flops_per_image: int | None
    """Floating-point operations of one image, forward and backward, or None where nobody counted;
    the log gives the rate."""

    def dataset(self) -> PositionDataset:
        """Return what gives the batch of positions (0, 1, 2, ...); picklable; the same samples in
        every process.
        """
        ...

    def parameters_for(self, module: nn.Module) -> Iterable[Any]:
        """Return the parameters, or parameter groups, of `module` for the optimiser. A group may
        have a `weight_decay`, or a factor `lr_scale`.
        """
        ...

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> StepOutput:
        """Return the loss of a batch on the device of `module`, which may be wrapped (DDP): call
        it, nothing else of it.
        """
        ...

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return metrics of `module` (the EMA where there is one; in eval mode, without gradients),
        on fixed noise.
        """
        ...

    def images(self, module: nn.Module) -> Mapping[str, np.ndarray]:
        """Return sheets to look at: name -> uint8 [height, width, 3]. `module` as in `validate`."""
        ...

    def to(self, device: torch.device) -> None:
        """Move what is frozen (codec, guidance classifier) to `device`; the engine moves
        `module`.
        """
        ...

    def name_samples(self, positions: Sequence[int]) -> list[str]:
        """Return the tile ids at training positions, for messages."""
        ...


@dataclass(frozen=True)
class Classes:
    """The classes of a network, before and now.

    Attributes:
        before: Names by class id in the run that the weights come from; None for an unused id.
        now: Names by class id in this run.
        build: Builds the network for a number of classes; called on PyTorch's device "meta".
        first: Parameter -> place of class 0 along its axis of classes, where that is not 0.
    """

    before: Sequence[str | None]
    now: Sequence[str | None]
    build: Callable[[int], nn.Module]
    first: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StagePlan:
    """A stage to come: its name, and how to build it given the run folder (where earlier stages
    left their checkpoints).

    `prepare`, where there is one, makes what all processes need before (encoded latents); one
    process calls it, first. `classes`, where there is one, says how the classes of the stage differ
    from those of a checkpoint that it begins with.

    Raises, from `classes`: ConfigError when the stage cannot begin with that checkpoint.
    """

    name: str
    build: Callable[[Path], Stage]
    prepare: Callable[[Path, Reporter], None] | None = None
    classes: Callable[[Any, Path], Classes] | None = None


class Recipe(Protocol):
    """The module of a recipe."""

    Config: type[RunConfig]

    def stages(self, config: Any) -> Sequence[StagePlan]:
        """Return the stages in order, unbuilt.

        Raises:
            ConfigError: When the configuration cannot work with the data.
        """
        ...

    def describe(self, config: Any) -> dict[str, Any]:
        """Return what --dry-run prints: `parameters` (name -> count), `streams` (name, probability,
        tiles), `memory_bytes` (part -> bytes).
        """
        ...


def recipe_of(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        ConfigError: When there is none.
    """
    if name not in RECIPES:
        raise ConfigError("there is no such recipe", seen=name, expected=", ".join(RECIPES))
    return cast(Recipe, import_module(RECIPES[name]))
