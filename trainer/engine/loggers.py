"""Logs of other programs beside TensorBoard: Weights & Biases and MLflow, as loggers of Fabric.

Each needs a package that need not be installed otherwise. Whatever goes there is also in the folder
of the run; so a service that fails is named once, and never ends a training.
"""

from __future__ import annotations

import contextlib
import importlib.util
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric.loggers.logger import Logger

from histoprep.durable import write_text
from histoprep.extras import install_command
from trainer.config import MlflowLog, RunConfig, WandbLog
from trainer.errors import ConfigError
from trainer.reporter import Reporter


def check_loggers(config: RunConfig) -> None:
    """Raise ConfigError for a log whose package is not installed."""
    for name, section in config.loggers:
        if section is not None and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"loggers.{name} needs the package {name}, which is not installed",
                hint=f"{install_command(name)}; or leave it out: --set loggers.{name}=null",
            )


def open_loggers(
    config: RunConfig, folder: Path, stage: str, reporter: Reporter
) -> list[ServiceLogger]:
    """Return the logs that a configuration names.

    Args:
        config: The run.
        folder: Folder of the stage; the id that the run has at a service is kept in it, so that a
            run that resumes goes on there, too.
        stage: Name of the stage; empty for the only one.
        reporter: Where failures of a service are said.
    """
    name = "-".join(filter(None, (Path(config.out).name, stage)))
    found: list[ServiceLogger] = []
    if config.loggers.wandb is not None:
        found.append(WandbLogger(config.loggers.wandb, folder, name, reporter))
    if config.loggers.mlflow is not None:
        found.append(MlflowLogger(config.loggers.mlflow, folder, name, reporter))
    return found


class ServiceLogger(Logger):
    """A log at a service. The first failure is said, and nothing is sent after it."""

    service = ""

    def __init__(self, folder: Path, name: str, reporter: Reporter) -> None:
        self._folder, self._name, self._reporter = folder, name, reporter
        self._has_failed = False

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return self._name

    @property
    def version(self) -> str | None:
        """Return the id that the run has at the service; None before it has one."""
        place = self._folder / f"{self.service}.id"
        return place.read_text("utf-8").strip() if place.is_file() else None

    @property
    def root_dir(self) -> str:
        """Return the folder of the stage."""
        return str(self._folder)

    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Log a sheet, uint8 RGB [height, width, 3]."""
        raise NotImplementedError

    def _keep_id(self, identity: str) -> None:
        write_text(self._folder / f"{self.service}.id", f"{identity}\n")

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 (any failure of a service)
            if not self._has_failed:
                self._reporter.warn(
                    f"{self.service} failed, and nothing more is logged there:"
                    f" {type(error).__name__}: {error}"
                )
            self._has_failed = True


class WandbLogger(ServiceLogger):
    """Weights & Biases: numbers by the step of the training, sheets as images."""

    service = "wandb"

    def __init__(self, section: WandbLog, folder: Path, name: str, reporter: Reporter) -> None:
        super().__init__(folder, name, reporter)
        self._run: Any = None
        with self._sending():
            import wandb

            self._run = wandb.init(
                project=section.project,
                entity=section.entity,
                mode=section.mode,
                name=name,
                id=self.version,
                resume="allow",
                dir=str(folder),
                settings=wandb.Settings(silent=True, console="off"),
            )
            # A run that resumes logs some steps again, which wandb's own counter refuses.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
            self._keep_id(self._run.id)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Log the configuration."""
        values = vars(params) if isinstance(params, Namespace) else params
        self._send(lambda run: run.config.update(values, allow_val_change=True))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the numbers of a step."""
        self._send(lambda run: run.log({**metrics, "step": step}))

    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Log a sheet, uint8 RGB [height, width, 3]."""
        import wandb

        self._send(lambda run: run.log({name: wandb.Image(image), "step": step}))

    def finalize(self, status: str) -> None:
        """Send what is pending and end."""
        self._send(lambda run: run.finish(exit_code=int(status != "success")))

    def _send(self, what: Any) -> None:
        if self._run is not None and not self._has_failed:
            with self._sending():
                what(self._run)


class MlflowLogger(ServiceLogger):
    """MLflow: numbers by step, the configuration as parameters, sheets as images."""

    service = "mlflow"

    def __init__(self, section: MlflowLog, folder: Path, name: str, reporter: Reporter) -> None:
        super().__init__(folder, name, reporter)
        self._client: Any = None
        self._id = ""
        with self._sending():
            from mlflow.tracking import MlflowClient

            client = MlflowClient(tracking_uri=section.tracking_uri)
            self._id = self.version or _new_mlflow_run(client, section.experiment, name)
            client.update_run(self._id, status="RUNNING")
            self._client = client
            self._keep_id(self._id)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Log the configuration as a file: parameters of MLflow may not change, and a run that
        resumes may have other devices.
        """
        values = vars(params) if isinstance(params, Namespace) else params
        self._send(lambda client: client.log_dict(self._id, dict(values), "config.json"))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the numbers of a step."""

        def send(client: Any) -> None:
            for name, value in metrics.items():
                client.log_metric(self._id, name, float(value), step=step)

        self._send(send)

    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Log a sheet, uint8 RGB [height, width, 3]."""
        self._send(
            lambda client: client.log_image(self._id, image, f"samples/{step:08d}-{name}.png")
        )

    def finalize(self, status: str) -> None:
        """Say how the run ended."""
        ended = "FINISHED" if status == "success" else "FAILED"
        self._send(lambda client: client.set_terminated(self._id, status=ended))

    def _send(self, what: Any) -> None:
        if self._client is not None and not self._has_failed:
            with self._sending():
                what(self._client)


def _new_mlflow_run(client: Any, experiment: str, name: str) -> str:
    """Return the id of a new run of an experiment, which is made where there is none."""
    known = client.get_experiment_by_name(experiment)
    place = known.experiment_id if known is not None else client.create_experiment(experiment)
    return str(client.create_run(place, run_name=name).info.run_id)
