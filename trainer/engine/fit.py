"""Training a run: its stages in order, each in one loop, resumed exactly from the last checkpoint.

The same command on the same folder resumes where it stopped. A killed run ends with the same
tensors as one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from histoprep.durable import locked
from histoprep.manifest.check import check_manifest
from histoprep.schemas.workspace import check_outside
from trainer.config import Period, RunConfig
from trainer.data.loader import loader
from trainer.data.source import open_run_tiles
from trainer.engine.checkpoints import CheckpointFolder
from trainer.engine.devices import (
    RankPositions,
    evaluating,
    move_batch,
    plan_fabric,
    seed_step,
    sum_over_ranks,
)
from trainer.engine.initial_weights import initialise
from trainer.engine.inspection import describe_batch, watching
from trainer.engine.joining import JoiningStrategy
from trainer.engine.loggers import check_loggers, open_loggers
from trainer.engine.logs import StageLog
from trainer.engine.processes import started
from trainer.engine.run_folder import begin_stage, finished_stage, prepare_run, write_finished
from trainer.engine.speed import Stopwatch
from trainer.engine.state import Training
from trainer.errors import Explained, HistoprepError, Interrupted, OutputError
from trainer.reporter import NULL_REPORTER, Reporter
from trainer.signals import StopRequest, saying, stopped_by
from trainer.stage import StagePlan, recipe_of

_TELL_EVERY_S = 60.0
_VALIDATIONS_AT_CHANCE = 3


@dataclass(frozen=True)
class FitResult:
    """Where a run lies and what its stages ended with: name -> step, metrics, best."""

    run: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)


def fit(config: RunConfig, *, reporter: Reporter = NULL_REPORTER) -> FitResult:
    """Train every stage of a run that is not finished, and return where it lies and how it ended.

    Args:
        config: The run; its recipe plans the stages.
        reporter: Where notes, warnings and progress go.

    Raises:
        ConfigError: When the configuration cannot work, or the folder belongs to another run.
        IntegrityError: For a leak between splits, or other data than the run began with.
        LockedError: When another process trains in the folder.
        DataError: When a tile cannot be read, or the data cannot feed the model.
        DeviceError: When there is no such device, or processes of the run do not come.
        DivergedError: When loss, gradient or weights are not finite.
        CheckpointError: When checkpoints are damaged.
        OutputError: When the folder cannot be written.
        Interrupted: After SIGINT or SIGTERM, when a checkpoint was saved.
    """
    check_loggers(config)
    certificate = check_data(config)
    moved = open_run_tiles(config).manifest.moved
    if moved and config.root is None:
        reporter.note(moved)
    fabric = plan_fabric(config, reporter)
    run = Path(config.out)
    with contextlib.ExitStack() as resources:
        resources.enter_context(saying(lambda: "no training step was lost"))
        resources.enter_context(started(fabric))
        reporter = reporter if fabric.is_global_zero else NULL_REPORTER
        if fabric.world_size > 1:
            reporter.note(f"training with {fabric.world_size} processes")

        def prepare() -> None:
            resources.enter_context(locked(run))
            prepare_run(config, certificate)

        _in_first_process(fabric, prepare)
        return FitResult(
            run,
            {
                plan.name: _fit_stage(fabric, config, plan, run, reporter)
                for plan in recipe_of(config.recipe).stages(config)
            },
        )


def _in_first_process(fabric: Fabric, work: Callable[[], None]) -> None:
    """Have one process do `work` while the others wait; an error of ours is raised in all of
    them.
    """
    strategy = fabric.strategy
    if not isinstance(strategy, JoiningStrategy):
        work()
        return
    error: Explained | None = None
    if fabric.is_global_zero:
        try:
            work()
        except (HistoprepError, Interrupted) as raised:
            error = raised
    error = strategy.answer_of_first(error)
    if error is not None:
        raise error


def check_data(config: RunConfig) -> dict[str, Any]:
    """Return the certificate of the data after proving it again from the rows.

    Raises:
        IntegrityError: For a leak.
        UsageError: For a run folder inside the data set.
    """
    tiles = open_run_tiles(config)
    folders = tiles.manifest.data_folders
    if config.root is not None:
        folders = (Path(config.root), *folders)
    check_outside(Path(config.out), folders, "a run")
    check_manifest(tiles.manifest)
    return {
        "manifest": config.manifest,
        "digest": tiles.digest,
        "label_map": tiles.label_map.digest,
        "certificate": tiles.certificate,
    }


def _fit_stage(
    fabric: Fabric, config: RunConfig, plan: StagePlan, run: Path, reporter: Reporter
) -> dict[str, Any]:
    """Train one stage, or return how it ended before."""
    folder = run / plan.name if plan.name else run
    ended = finished_stage(folder, config)
    if ended is not None:
        reporter.note(f"{plan.name or 'training'} is finished: {ended['step']:,} steps")
        return ended
    if plan.prepare:
        _in_first_process(fabric, functools.partial(plan.prepare, run, reporter))
    _in_first_process(fabric, functools.partial(begin_stage, folder))
    torch.manual_seed(config.seed)
    stage = plan.build(run)
    checkpoints = CheckpointFolder(folder / "checkpoints", config.keep_checkpoints)
    if config.init is not None and checkpoints.is_empty:
        for note in initialise(stage, plan, config):
            reporter.note(note)
    training = Training(fabric, config, stage)
    _resume(training, checkpoints, reporter)
    log = _open_log(training, folder, reporter) if fabric.is_global_zero else None
    has_ended = False
    try:
        metrics = _train(training, checkpoints, log, reporter)
        has_ended = True
    finally:
        if log:
            log.close(has_ended=has_ended)
    result = {"stage": plan.name, "step": training.step, "metrics": metrics, "best": training.best}
    if fabric.is_global_zero:
        write_finished(folder, config, result)
    fabric.barrier()
    return result


def _open_log(training: Training, folder: Path, reporter: Reporter) -> StageLog:
    services = open_loggers(training.config, folder, training.stage.name, reporter)
    return StageLog(folder, training.step, _hparams(training), services)


def _hparams(training: Training) -> dict[str, Any]:
    """Return what a log is to be read with: the configuration, and where weights came from."""
    return {
        "weights_from": dict(training.stage.weights_from),
        "flops_per_image": training.stage.flops_per_image,
        **training.config.model_dump(mode="json", by_alias=True),
    }


def _resume(training: Training, checkpoints: CheckpointFolder, reporter: Reporter) -> None:
    """Resume from the newest valid checkpoint, if any, and warn about skipped ones."""
    fabric = training.fabric
    _in_first_process(fabric, checkpoints.sweep)
    snapshot = checkpoints.newest()
    for line in checkpoints.skipped:
        reporter.warn(f"checkpoint skipped: {line}")
    if snapshot is not None:
        training.restore(snapshot)
        reporter.note(f"resuming from step {training.step:,} of {training.num_steps:,}")
    fabric.barrier()
    if fabric.is_global_zero:
        checkpoints.forget_after(training.step)
        checkpoints.prune()
    fabric.barrier()


def _train(
    training: Training, checkpoints: CheckpointFolder, log: StageLog | None, reporter: Reporter
) -> dict[str, float]:
    """Make the steps that are left and return the metrics of the last one. The loop."""
    config, stage = training.config, training.stage
    watch = Stopwatch()
    events = _Events(training, checkpoints, log, reporter, watch)
    label = f"{config.recipe}{f' {stage.name}' if stage.name else ''}"
    request = StopRequest()
    with (
        request.listening(),
        _stopping(request, training),
        reporter.progress(label, events.images_left, "images") as meter,
    ):
        batches = watch.waiting(_batches(training))
        while training.step < training.num_steps and not training.patience.is_over:
            for micro_step in range(config.accumulate):
                batch = move_batch(
                    training.fabric, next(batches), channels_last=config.channels_last
                )
                seed_step(config.seed, stage.name, _first_position(training, micro_step))
                with events.inspecting(batch, micro_step):
                    output = stage.loss(training.model, batch)
                training.backward(output, is_last=micro_step == config.accumulate - 1)
            training.finish_step()
            watch.count(config.batch_size)
            meter.advance(config.batch_size)
            events.after_step()
            if events.should_stop(request):
                raise stopped_by(
                    request.number or 15,
                    f"step {training.step:,} of {training.num_steps:,} is saved in"
                    f" {events.save().name}",
                )
    if training.patience.is_over:
        reporter.note(_early_stop(training))
    return events.metrics or _metrics_of_the_end(training)


def _early_stop(training: Training) -> str:
    """Return what is said of a stage that ended before its duration."""
    assert training.stage.best is not None
    best = training.best
    at = f"; best {best['value']:.4g} at step {best['step']:,}" if best else ""
    return (
        f"stopped early after step {training.step:,}: {training.stage.best[0]} has not improved in"
        f" {training.patience.num_waited} validations{at}"
    )


def _metrics_of_the_end(training: Training) -> dict[str, float]:
    """Return the metrics again when a run was stopped after its last checkpoint and has no steps
    left.
    """
    return training.evaluate() if training.fabric.is_global_zero else {}


@contextlib.contextmanager
def _stopping(request: StopRequest, training: Training) -> Iterator[None]:
    """Tell a failure that a signal brought about (it reaches the processes that read, too) as what
    it is.
    """
    try:
        yield
    except (RuntimeError, OutputError) as error:
        if request.number is None:
            raise
        # Raised in the middle of anything: the step under way may be half made, so it is not saved.
        raise stopped_by(
            request.number, f"step {training.step:,} was under way; the last checkpoint is whole"
        ) from error


def _batches(training: Training) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the micro-batches of this rank from the current step on."""
    fabric, config = training.fabric, training.config
    positions = RankPositions(
        training.step,
        training.num_steps,
        batch_size=config.batch_size,
        micro=training.micro,
        rank=fabric.global_rank,
        num_ranks=fabric.world_size,
    )
    workers = config.data.num_workers
    pin_memory = fabric.device.type == "cuda"
    return loader(
        training.stage.dataset(),
        positions,  # type: ignore[arg-type]
        training.micro,
        workers,
        pin_memory=pin_memory,
    )


def _first_position(training: Training, micro_step: int) -> int:
    fabric = training.fabric
    return (
        training.step * training.config.batch_size
        + (micro_step * fabric.world_size + fabric.global_rank) * training.micro
    )


class _Events:
    """What happens between steps: the log, validation, images and checkpoints, each at its time
    and at the end.
    """

    def __init__(
        self,
        training: Training,
        checkpoints: CheckpointFolder,
        log: StageLog | None,
        reporter: Reporter,
        watch: Stopwatch,
    ) -> None:
        self._training, self._checkpoints, self._log = training, checkpoints, log
        self._reporter, self._watch = reporter, watch
        config = training.config
        self._every = config.every.in_steps(config.batch_size, training.stage.num_tiles)
        self._told = 0.0
        self._num_at_chance: int | None = 0
        self.metrics: dict[str, float] = {}

    @property
    def images_left(self) -> int:
        """Return how many images the rest of the stage takes."""
        return (self._training.num_steps - self._training.step) * self._training.config.batch_size

    def after_step(self) -> None:
        """Do what is due after the step just made."""
        training = self._training
        line: dict[str, float] = {}
        if self._is_due(self._every.log):
            line |= self._read_window()
        if self._is_due(self._every.validate_):
            self.metrics = self._validate()
            line |= {f"val_{name}": value for name, value in self.metrics.items()}
        if line and self._log:
            self._log.write(training.step, line)
        if self._is_due(self._every.images) and self._every.images and self._log:
            self._draw()
        if self._is_due(self._every.checkpoint):
            self.save()

    @contextlib.contextmanager
    def inspecting(self, batch: Mapping[str, torch.Tensor], micro_step: int) -> Iterator[None]:
        """Tell what this step works on, where the log is written after it and `log_level` is
        debug.
        """
        training = self._training
        is_due = self._is_due_at(training.step + 1, self._every.log)
        if training.config.log_level != "debug" or micro_step or not is_due:
            yield
            return
        lines = describe_batch(batch)
        parts: list[str] = []
        with contextlib.ExitStack() as stack:
            # Hooks would have the network compiled again.
            if not training.config.compile:
                parts = stack.enter_context(watching(training.stage.module))
            yield
        for line in (*lines, *parts):
            self._reporter.note(f"step {training.step + 1:,}: {line}")

    def should_stop(self, request: StopRequest) -> bool:
        """Return whether a signal requested a stop; with several ranks they agree on it where the
        log is read anyway.
        """
        fabric = self._training.fabric
        if fabric.world_size == 1:
            return request.number is not None
        if not self._is_due(self._every.log):
            return False
        stop = torch.tensor(float(request.number is not None), device=fabric.device)
        return bool(sum_over_ranks(fabric, stop) > 0)

    def save(self) -> Path:
        """Save a checkpoint and return its folder.

        Raises:
            DivergedError: When anything is not finite; nothing is saved then.
        """
        training, go_on = self._training, self._watch.pause()
        training.check_finite()
        if self._log:
            self._log.sync()
        path = self._checkpoints.folder / f"last-{training.step:08d}"
        if training.fabric.is_global_zero:
            path = self._checkpoints.save(training.snapshot())
        training.fabric.barrier()
        go_on()
        return path

    def _is_due(self, every: Period | None) -> bool:
        return self._training.patience.is_over or self._is_due_at(self._training.step, every)

    def _is_due_at(self, step: int, every: Period | None) -> bool:
        is_last = step == self._training.num_steps
        return is_last or (isinstance(every, int) and step % every == 0)

    def _read_window(self) -> dict[str, float]:
        training, fabric = self._training, self._training.fabric
        training.check_finite()
        means = training.window.read(
            lambda tensor: sum_over_ranks(fabric, tensor), fabric.world_size
        )
        speed = self._watch.read()
        flops = training.stage.flops_per_image
        if flops is not None:
            speed["tflop_per_s"] = speed["images_per_s"] * flops / 1e12
        lr = float(training.raw_optimiser.param_groups[0]["lr"])
        images = training.step * training.config.batch_size
        if training.config.optimiser.on_nonfinite == "skip":
            means["skipped_steps"] = training.window.num_skipped
        self._tell(
            f"step {training.step:,}: loss {means['loss']:.4g}, gradient norm"
            f" {means['gradient_norm']:.3g}, lr {lr:.3g}, {speed['images_per_s']:,.0f} images/s,"
            f" {speed['data_wait_share']:.0%} waiting for data"
        )
        return {
            "images": images,
            "loss": means.pop("loss"),
            "lr": lr,
            "gradient_norm": means.pop("gradient_norm"),
            **speed,
            **means,
        }

    def _tell(self, line: str) -> None:
        """Tell a line of the log, at most one a minute; all of them are in metrics.csv."""
        if time.monotonic() - self._told >= _TELL_EVERY_S:
            self._told = time.monotonic()
            self._reporter.note(line)

    def _validate(self) -> dict[str, float]:
        """Return the metrics of this step; the best weights so far are saved, if these are."""
        training, go_on = self._training, self._watch.pause()
        metrics: dict[str, float] = {}
        training.check_finite()
        if training.fabric.is_global_zero:
            metrics = training.evaluate()
            self._reporter.note(
                f"step {training.step:,}: "
                + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            )
            self._warn_of_chance(metrics)
            if training.is_better(metrics):
                self._checkpoints.save_best(training.snapshot())
        # One process validates; all of them stop.
        training.patience.load(training.fabric.broadcast(training.patience.state()))
        training.fabric.barrier()
        go_on()
        return metrics

    def _warn_of_chance(self, metrics: dict[str, float]) -> None:
        """Warn once when the first validations are no better than guessing."""
        if self._training.stage.chance is None or self._num_at_chance is None:
            return
        name, limit = self._training.stage.chance
        if metrics[name] > limit:
            self._num_at_chance = None
            return
        self._num_at_chance += 1
        if self._num_at_chance == _VALIDATIONS_AT_CHANCE:
            self._reporter.warn(
                f"validation stays at chance: {name} {metrics[name]:.3f} after"
                f" {_VALIDATIONS_AT_CHANCE} validations, and guessing reaches {limit:.3f}; either"
                " the labels do not belong to the images, or the network does not learn (try"
                " another optimiser.lr)"
            )

    def _draw(self) -> None:
        training, go_on = self._training, self._watch.pause()
        assert self._log is not None
        with evaluating(training.fabric, training.evaluated):
            self._log.draw(training.step, training.stage.images(training.evaluated))
        go_on()
