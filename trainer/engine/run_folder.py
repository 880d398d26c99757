"""The folder of a run: its configuration, environment and certificate; one process at a time, the
same run every time.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from histoprep import checksums
from histoprep.durable import is_temporary
from histoprep.job_folder import differing_keys
from histoprep.version import __version__
from trainer.config import RunConfig
from trainer.config_layers import build_config, dump_config
from trainer.engine.checkpoints import CONFIG, RESTORE_RUN, read_config
from trainer.errors import CheckpointError, ConfigError, IntegrityError

FINISHED = "finished.json"
_LOGS = ("metrics.csv", "logs/**/*", "samples/**/*")
_ENVIRONMENT = "environment.json"
_CERTIFICATE = "certificate.json"
_PACKAGES = ("torch", "lightning-fabric", "diffusers", "safetensors", "numpy", "pyarrow")
# Changing these changes no result, or only its rounding (devices, accumulate, compile).
_MAY_CHANGE = (
    "out",
    "root",
    "preset",
    "data.num_workers",
    "accumulate",
    "accelerator",
    "devices",
    "num_nodes",
    "start_timeout_s",
    "compile",
    "every",
    "keep_checkpoints",
    "log_level",
    "loggers",
)


def prepare_run(config: RunConfig, certificate: Mapping[str, Any]) -> Path:
    """Return the run folder, holding config.yml, environment.json and certificate.json; hold its
    lock.

    A run that ended before its first checkpoint leaves nothing to resume from, so its folder may be
    taken for another.

    Raises:
        ConfigError: When the folder belongs to a run with another configuration.
        IntegrityError: When the data changed since that run began.
    """
    run = Path(config.out)
    if _has_trained(run):
        _refuse_other_config(run / CONFIG, config)
        if (run / _CERTIFICATE).exists():
            _refuse_other_data(run / _CERTIFICATE, certificate)
    environment = [*_read_json(run / _ENVIRONMENT, []), describe_environment(sys.argv)]
    files = {_CERTIFICATE: certificate, _ENVIRONMENT: environment}
    checksums.publish_files(
        run,
        {CONFIG: dump_config(config).encode()}
        | {name: checksums.json_bytes(value) for name, value in files.items()},
    )
    return run


def describe_environment(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what the numbers of a run may depend on: versions, device, threads, command."""
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [Path(arguments[0]).name, *arguments[1:]] if arguments else [],
        "trainer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "devices": devices,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def finished_stage(folder: Path, config: RunConfig) -> dict[str, Any] | None:
    """Return what the end of a stage left in finished.json, or None when it has not ended for this
    duration.
    """
    ended: dict[str, Any] | None = _read_json(folder / FINISHED, None)
    return (
        ended
        if ended is not None and ended["duration"] == config.duration.model_dump(mode="json")
        else None
    )


def write_finished(folder: Path, config: RunConfig, result: Mapping[str, Any]) -> None:
    """List the checksums of what training wrote, then mark the stage as finished; the last thing
    that is written.
    """
    checksums.list_files(folder, sorted(_logged(folder)))
    checksums.publish_json(
        folder, FINISHED, {"duration": config.duration.model_dump(mode="json"), **result}
    )


def begin_stage(folder: Path) -> None:
    """Take off the checksums of a stage what training goes on writing: metrics, logs, sheets, and
    the mark of its end.
    """
    logged = _logged(folder) | {FINISHED}
    checksums.forget_files(folder, logged.__contains__)


def _logged(folder: Path) -> set[str]:
    """Return the files of logs, by path from the folder of their stage."""
    found = (
        path
        for pattern in _LOGS
        for path in folder.glob(pattern)
        if path.is_file() and not is_temporary(path.name)
    )
    return {path.relative_to(folder).as_posix() for path in found}


def _has_trained(run: Path) -> bool:
    """Return whether there is anything of a checkpoint, usable or not, or a finished stage in a run
    folder or its stages.
    """
    names = ("checkpoints/*", FINISHED)
    return any(True for stage in ("", "*/") for name in names for _ in run.glob(f"{stage}{name}"))


def _refuse_other_config(path: Path, config: RunConfig) -> None:
    if not path.exists():
        raise ConfigError(
            f"this folder has checkpoints but no {CONFIG}",
            path=path.parent,
            hint="choose another --out",
        )
    old = flatten(_completed(read_config(path), type(config)))
    new = flatten(config.model_dump(mode="json", by_alias=True))
    bound = config.bound_to_end()
    free = [*_MAY_CHANGE, *([] if bound else ["duration"])]
    changed = [
        key
        for key in differing_keys(old, new)
        if not any(f"{key}.".startswith(f"{name}.") for name in free)
    ]
    if changed:
        seen = "; ".join(f"{key} = {new.get(key)}, was {old.get(key)}" for key in changed[:8])
        hint = (
            "choose another --out for another run, or repeat the options of this run to resume it"
        )
        if all(key.startswith("duration.") for key in changed):
            hint = (
                f"{bound} is planned to the end of the run, so that it cannot go on: begin another"
                f" with its weights, --init {path.parent} and another --out"
            )
        raise ConfigError(
            "this run folder belongs to a run with another configuration",
            path=path,
            seen=seen,
            hint=hint,
        )


def _completed(values: dict[str, Any], kind: type[RunConfig]) -> dict[str, Any]:
    """Return the configuration of a run with the defaults of keys that it is too old to have."""
    try:
        return build_config(kind, values).model_dump(mode="json", by_alias=True)
    except ConfigError:
        return values


def _refuse_other_data(path: Path, certificate: Mapping[str, Any]) -> None:
    before = _read_json(path, {})
    if before != json.loads(json.dumps(certificate)):
        keys = differing_keys(before, certificate)
        hint = "choose another --out: a run on other data is another run"
        raise IntegrityError(
            "the data changed since this run began",
            path=path,
            seen=f"another {', '.join(keys)}",
            hint=hint,
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return flat


def _read_json(path: Path, default: Any) -> Any:
    try:
        return checksums.read_json(path, hint=RESTORE_RUN)
    except FileNotFoundError:
        return default
    except OSError as error:
        raise CheckpointError(
            f"a file of the run folder cannot be read: {error}", path=path
        ) from error


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
