"""The configuration of a run: typed, frozen, complete; what it does not know it refuses.

`RunConfig` is what the engine needs; a recipe's `Config` adds its own sections.
`config_layers.load_config` fills one.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, PlainValidator, model_validator

from trainer.choices import Fit, LogLevel, OnNonfinite, OnUnreadable, Precision
from trainer.section import Natural, Positive, Section, Share

RENAMED = {
    ("every", "pictures"): "images",
    ("sampling", "num_pictures"): "num_images",
    ("validation", "num_pictures"): "num_images",
}
"""Keys of older configurations, by section: what they are called now."""


class Duration(Section):
    """How long to train: exactly one of optimiser steps, images, or passes over the training
    tiles.
    """

    steps: Positive | None = None
    images: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        stated = [name for name, value in self if value is not None]
        if len(stated) != 1:
            raise ValueError(
                f"give exactly one of steps, images, epochs; given: {', '.join(stated) or 'none'}"
            )
        return self

    def num_positions(self, batch_size: int, num_tiles: int) -> int:
        """Return the number of training positions, rounded up to whole steps of `batch_size`."""
        positions = (
            self.images or (self.steps or 0) * batch_size or round((self.epochs or 0.0) * num_tiles)
        )
        return max(1, -(-positions // batch_size)) * batch_size


class Data(Section):
    """How a tile becomes a sample."""

    image_size: Positive = 512
    fit: Fit = "refuse"
    flips: bool = True
    turns: bool = True
    num_workers: Natural = 4
    on_unreadable: OnUnreadable = "stop"


class Optimiser(Section):
    """Adam or AdamW; `clip_norm` bounds the gradient norm once per optimiser step, null for no
    bound.

    `on_nonfinite: skip` leaves out a step whose gradient is not finite and counts it, at the price
    of one host sync a step.
    """

    kind: Literal["adam", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.99)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    on_nonfinite: OnNonfinite = "stop"


class Schedule(Section):
    """The learning rate over the steps, a pure function of the step; see `engine.schedules`.

    `warmup_steps` is used by warmup_constant and cosine, `final_ratio` (of the peak rate) by
    cosine.
    """

    kind: Literal["constant", "warmup_constant", "cosine", "one_cycle"] = "constant"
    warmup_steps: Natural = 0
    final_ratio: Share = 0.0


class Ema(Section):
    """An exponential moving average of the weights, updated every `every` steps.

    In its first updates the decay is smaller, min(decay, (1 + n) / (10 + n)), so that short runs
    forget the initial weights.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.995
    every: Positive = 10


class EarlyStopping(Section):
    """When a stage ends before its duration: after `patience` validations in a row none of which is
    better by more than `min_delta` than the best before them.

    What is compared is the metric that selects checkpoints/best-*.
    """

    patience: Positive
    min_delta: Annotated[float, Field(ge=0)] = 0.0


_EPOCHS = re.compile(r"(\d+(?:\.\d+)?) epochs?")


def _check_period(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = _EPOCHS.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or not float(found[1]):
        raise ValueError("expected a whole number of steps, at least 1, or epochs: '5 epochs'")
    return found[0]


Period = Annotated[int | str, PlainValidator(_check_period)]
"""Optimiser steps, or passes over the training tiles, such as `5 epochs`."""


class Every(Section):
    """How often things happen: in optimiser steps, or in passes over the training tiles such as `5
    epochs`; null for never (the last step always validates and saves).
    """

    log: Period = 50
    validate_: Annotated[Period | None, Field(alias="validate")] = 1000
    checkpoint: Period = 1000
    images: Period | None = 5000

    def in_steps(self, batch_size: int, num_tiles: int) -> Every:
        """Return the same in whole optimiser steps, at least one.

        Args:
            batch_size: Samples of a step.
            num_tiles: Tiles of one pass over the training tiles.
        """

        def steps(period: int | str | None) -> int | None:
            found = _EPOCHS.fullmatch(period) if isinstance(period, str) else None
            if found is None:
                return int(period) if period is not None else None
            return max(1, round(float(found[1]) * num_tiles / batch_size))

        return self.model_copy(update={name: steps(value) for name, value in self})

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )


class WandbLog(Section):
    """A run at Weights & Biases; `offline` writes to RUN/wandb for `wandb sync`."""

    project: str = "histoprep"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class MlflowLog(Section):
    """A run of an MLflow experiment; without `tracking_uri`, as MLflow is set up here."""

    experiment: str = "histoprep"
    tracking_uri: str | None = None


class Loggers(Section):
    """Where a run is logged besides its own folder: `loggers.wandb={}` and `loggers.mlflow={}` take
    their defaults, null is nowhere.
    """

    wandb: WandbLog | None = None
    mlflow: MlflowLog | None = None


_SCHEDULES_WITHOUT_END = ("constant", "warmup_constant")


class RunConfig(Section):
    """Everything the engine needs for a run; recipes add sections.

    `batch_size` is the number of samples of one optimiser step, over all devices and micro-steps: a
    device sees batch_size / (devices * accumulate) at once. `manifest` is a manifest or the index
    of shards, `root` the folder of the data set where it is another one than the manifest says.
    `fold` is the cross-validation fold that is test, `inner_fold`, or the next one, is val.
    `out` is the run folder. `init` is a run, or a checkpoint of one, whose weights this one begins
    with. `log_level` debug prints what a step works on each time that the log is written.
    `devices` and `num_nodes` auto: what torchrun or SLURM started, else
    all GPUs of this machine. `start_timeout_s` is how many seconds the processes of a run wait for
    each other when it starts.
    """

    recipe: str
    preset: str | None = None
    seed: Natural = 0
    manifest: str
    root: str | None = None
    fold: Natural | None = None
    inner_fold: Natural | None = None
    init: str | None = None
    out: str
    batch_size: Positive = 4
    accumulate: Positive = 1
    duration: Duration = Duration(steps=100_000)
    data: Data = Data()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    precision: Precision = "fp32"
    ema: Ema | None = Ema()
    compile: bool = False
    channels_last: bool = False
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Positive | Literal["auto"] = "auto"
    num_nodes: Positive | Literal["auto"] = "auto"
    start_timeout_s: Positive = 600
    every: Every = Every()
    early_stopping: EarlyStopping | None = None
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    log_level: LogLevel = "info"
    loggers: Loggers = Loggers()

    def bound_to_end(self) -> str:
        """Return the option by which training depends on when it ends, so that a run cannot go on
        for longer; "" without one.
        """
        is_bound = self.schedule.kind not in _SCHEDULES_WITHOUT_END
        return f"schedule.kind {self.schedule.kind}" if is_bound else ""
