"""A stage in training: module, optimiser, moving average, log window and step; all of it becomes a
snapshot and comes back from one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from trainer.config import RunConfig
from trainer.engine.checkpoints import Snapshot
from trainer.engine.devices import evaluating, gather_ranks, sum_over_ranks
from trainer.engine.ema import MovingAverage
from trainer.engine.optimisers import build_optimiser, load_optimiser, optimiser_tensors, set_lr
from trainer.engine.patience import Patience
from trainer.engine.schedules import lr_factor
from trainer.engine.window import LossWindow
from trainer.errors import CheckpointError, DivergedError
from trainer.models.frozen import frozen_weights
from trainer.stage import Stage, StepOutput

_MAX_NAMED = 8


class Training:
    """One stage in training. `step` counts the optimiser steps made; `model` is the module as
    Fabric wrapped it.
    """

    def __init__(self, fabric: Fabric, config: RunConfig, stage: Stage) -> None:
        self.fabric, self.config, self.stage = fabric, config, stage
        self.num_steps = -(-stage.num_positions // config.batch_size)
        self.micro = config.batch_size // (config.accumulate * fabric.world_size)
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.patience = Patience(config.early_stopping, stage.best)
        stage.to(fabric.device)
        if config.channels_last:
            stage.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        stage.module.to(fabric.device).train()
        # fp16 unscales the gradients before clipping, which a fused step would want to do itself.
        fused = fabric.device.type == "cuda" and config.precision != "fp16"
        self.raw_optimiser = build_optimiser(
            config.optimiser, stage.parameters_for(stage.module), fused=fused
        )
        self.average = (
            MovingAverage(stage.module, config.ema.decay, config.ema.every) if config.ema else None
        )
        compiled: Any = torch.compile(stage.module) if config.compile else stage.module
        self.model, self.optimiser = fabric.setup(compiled, self.raw_optimiser)
        self.window = LossWindow(stage.breakdown, fabric.device)

    @property
    def lr(self) -> float:
        """Return the learning rate of the next step."""
        return self.config.optimiser.lr * lr_factor(self.config.schedule, self.step, self.num_steps)

    @property
    def evaluated(self) -> nn.Module:
        """Return the module that is validated: the moving average, or the trained one without an
        EMA.
        """
        return self.average.module if self.average else self.stage.module

    def backward(self, output: StepOutput, *, is_last: bool) -> None:
        """Add the gradients of one micro-batch; ranks exchange them with the last one."""
        share = 1.0 / self.config.accumulate
        with self.fabric.no_backward_sync(self.model, enabled=not is_last):
            self.fabric.backward(output.loss.mean() * share)
        self.window.add(output, share)

    def finish_step(self) -> None:
        """Clip once, step the optimiser, follow with the average. Nothing here waits for the
        device, unless non-finite steps are skipped.
        """
        set_lr(self.raw_optimiser, self.lr)
        bound = self.config.optimiser.clip_norm or float("inf")
        norm = self.fabric.clip_gradients(
            self.model, self.optimiser, max_norm=bound, error_if_nonfinite=False
        )
        assert norm is not None
        used = self.config.optimiser.on_nonfinite == "stop" or bool(norm.isfinite())
        if used:
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.window.end_step(norm, used=used)
        self.step += 1
        if self.average:
            self.average.update(self.step)

    def check_finite(self) -> None:
        """Raise DivergedError, naming step, learning rate and tiles, when a loss or gradient since
        the last call was not finite.
        """
        rows = sum_over_ranks(self.fabric, self.window.unchecked()).cpu() / self.fabric.world_size
        # An infinite gradient is how fp16 finds its scale; the step was left out.
        seen = rows[:, :1] if self.config.precision == "fp16" else rows
        bad = torch.nonzero(~seen.isfinite().all(dim=1)).flatten().tolist()
        if bad:
            self._diverged(bad[0], len(rows), rows[bad[0]].tolist())
        self.window.forget_samples()

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the stage; call it in one process."""
        with evaluating(self.fabric, self.evaluated), frozen_weights(self.evaluated):
            return {
                name: float(value) for name, value in self.stage.validate(self.evaluated).items()
            }

    def is_better(self, metrics: dict[str, float]) -> bool:
        """Take note of the best metrics so far and return whether these are."""
        if self.stage.best is None:
            return False
        name, end = self.stage.best
        value = metrics[name]
        self.patience.note(value)
        sign = 1.0 if end == "max" else -1.0
        if math.isnan(value) or (
            self.best is not None and sign * value <= sign * self.best["value"]
        ):
            return False
        self.best = {"metric": name, "value": value, "step": self.step}
        return True

    def snapshot(self) -> Snapshot:
        """Return everything the stage is now; the tensors are those in use, not copies."""
        tensors = {
            "weights": self.stage.module.state_dict(),
            "optimiser": optimiser_tensors(self.raw_optimiser),
            "window": self.window.state(),
        }
        if self.average:
            tensors["ema"] = self.average.module.state_dict()
        scaler = self.fabric.strategy.precision.state_dict()
        return Snapshot(
            tensors,
            {
                "stage": self.stage.name,
                "step": self.step,
                "position": self.step * self.config.batch_size,
                "best": self.best,
                "patience": self.patience.state(),
                "scaler": scaler,
            },
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Become what a snapshot holds.

        Raises:
            CheckpointError: When it is of another model.
        """
        try:
            self.stage.module.load_state_dict(snapshot.tensors["weights"])
            if self.average:
                self.average.module.load_state_dict(snapshot.tensors["ema"])
            load_optimiser(self.raw_optimiser, snapshot.tensors.get("optimiser", {}))
            self.window.load(snapshot.tensors["window"])
            self.step, self.best = snapshot.step, snapshot.state["best"]
            self.patience.load(snapshot.state.get("patience"))
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint is of another model: {error}", path=snapshot.path
            ) from error
        self.fabric.strategy.precision.load_state_dict(snapshot.state["scaler"])

    def positions_of(self, step: int) -> list[int]:
        """Return the positions of a step (0, 1, ...), of all ranks."""
        return list(range(step * self.config.batch_size, (step + 1) * self.config.batch_size))

    def _diverged(self, index: int, num_unchecked: int, row: list[float]) -> None:
        step = self.step - num_unchecked + index
        losses = gather_ranks(self.fabric, self.window.samples_of(index)).cpu()
        positions = self.positions_of(step)
        if losses.numel() == len(positions):
            # Ranks x micro-steps x samples, in the order of the positions: micro-steps first.
            ordered = (
                losses.reshape(self.fabric.world_size, self.config.accumulate, self.micro)
                .transpose(0, 1)
                .reshape(-1)
            )
            positions = [
                position
                for position, loss in zip(positions, ordered.tolist(), strict=True)
                if not math.isfinite(loss)
            ] or positions
        lr = self.config.optimiser.lr * lr_factor(self.config.schedule, step, self.num_steps)
        names = self.stage.name_samples(positions[:_MAX_NAMED])
        more = f" and {len(positions) - _MAX_NAMED} more" if len(positions) > _MAX_NAMED else ""
        raise DivergedError(
            f"the loss is no longer finite at step {step + 1:,}",
            seen=(
                f"loss {row[0]:g}, gradient norm {row[1]:g}, learning rate {lr:g}; tiles"
                f" {', '.join(names)}{more}"
            ),
            hint="lower optimiser.lr, or optimiser.clip_norm; the last checkpoint is from before",
        )
