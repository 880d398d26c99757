"""A small real recipe for tests of the engine: a network with dropout and running statistics learns
a noisy linear map, keyed by position.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.data.randomness import keyed_normals, keyed_uniforms
from trainer.stage import RECIPES, StagePlan, StepOutput

WIDTH = 6
PARITY = ("even", "odd")


class Config(RunConfig):
    """A run with a poisoned position, a second stage, or without running statistics, for tests."""

    poison: int = -1
    two_stages: bool = False
    plain: bool = False


@dataclass
class ToyData:
    """Position -> a noisy linear map of random numbers; position `poison` is not a number."""

    seed: int
    poison: int = -1

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        sys.audit("toy.batch", str(positions[0]))
        inputs = keyed_normals(self.seed, positions, "inputs", (WIDTH,))
        noise = keyed_uniforms(self.seed, positions, "noise", 1).astype(np.float32)
        targets = inputs @ np.linspace(-1, 1, WIDTH, dtype=np.float32)[:, None] + 0.1 * noise
        targets[positions == self.poison] = np.nan
        return {
            "position": torch.from_numpy(positions),
            "inputs": torch.from_numpy(inputs),
            "targets": torch.from_numpy(targets),
        }


@dataclass
class ToyStage:
    """One stage; `start` shifts the data, so that a second stage can depend on the first."""

    config: Config
    name: str = ""
    start: float = 0.0
    best: tuple[str, Literal["min", "max"]] | None = ("error", "min")
    chance: tuple[str, float] | None = None
    weights_from: Mapping[str, str] = field(default_factory=lambda: {"net": "random"})
    breakdown: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"parity": PARITY})
    flops_per_image: int | None = 10**6

    def __post_init__(self) -> None:
        hidden = (
            [nn.Linear(WIDTH, 8), nn.GELU()]
            if self.config.plain
            else [nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2)]
        )
        self.module = nn.Sequential(*hidden, nn.Linear(8, 1))
        self.num_tiles = 40
        self.num_positions = self.config.duration.num_positions(
            self.config.batch_size, self.num_tiles
        )

    def dataset(self) -> ToyData:
        return ToyData(self.config.seed, self.config.poison)

    def parameters_for(self, module: nn.Module) -> Iterable[Any]:
        return module.parameters()

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> StepOutput:
        losses = (module(batch["inputs"]) - batch["targets"] - self.start).square().mean(dim=1)
        return StepOutput(
            losses, {"size": batch["inputs"].abs().mean()}, {"parity": batch["position"] % 2}
        )

    def validate(self, module: nn.Module) -> dict[str, float]:
        batch = ToyData(99).batch(np.arange(32))
        return {"error": float((module(batch["inputs"]) - batch["targets"]).square().mean())}

    def images(self, module: nn.Module) -> dict[str, np.ndarray]:
        return {"grey": np.full((4, 6, 3), 128, dtype=np.uint8)}

    def to(self, device: torch.device) -> None:
        pass

    def name_samples(self, positions: Sequence[int]) -> list[str]:
        return [f"tile-{position}" for position in positions]


def stages(config: Config) -> list[StagePlan]:
    if not config.two_stages:
        return [StagePlan("", lambda _: ToyStage(config))]

    def second(run: Path) -> ToyStage:
        from trainer.engine.checkpoints import load_weights

        weights, _ = load_weights(run / "first")
        return ToyStage(config, "second", start=float(weights["0.weight"].mean()), best=None)

    return [StagePlan("first", lambda _: ToyStage(config, "first")), StagePlan("second", second)]


def describe(config: Config) -> dict[str, Any]:
    return {
        "parameters": {
            "module": sum(parameter.numel() for parameter in ToyStage(config).module.parameters())
        }
    }


def register() -> None:
    """Make `recipe: toy` known to the engine in this process."""
    RECIPES["toy"] = "toy_recipe"
