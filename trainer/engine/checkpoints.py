"""The checkpoints of a stage: which are kept, which one a run resumes from, and the weights that
other commands load.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from histoprep import checksums
from histoprep.durable import is_temporary, sync_folder, temporary_beside
from trainer.config import RunConfig
from trainer.config_layers import build_config, parse_yaml
from trainer.engine.checkpoint_files import (
    check_finite,
    read_tensors,
    verify_checkpoint,
    write_checkpoint,
)
from trainer.errors import CheckpointError, ConfigError
from trainer.stage import recipe_of

SCHEMA_VERSION = "1.0"
CONFIG = "config.yml"
RESTORE_RUN = (
    "restore it from a copy; options of a run are changed by trainer fit with another --out, not in"
    " its files"
)
_NAME = re.compile(r"(last|best)-(\d{8,})")


@dataclass(frozen=True)
class Snapshot:
    """Everything a stage is at one step: `tensors` by file (weights, ema, optimiser, window),
    `state` the numbers (step, best, ...).
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]
    path: Path | None = None

    @property
    def step(self) -> int:
        """Return the number of optimiser steps made."""
        return int(self.state["step"])


@dataclass(frozen=True)
class CheckpointFolder:
    """The folder `checkpoints` of a stage; `keep` is how many of the newest are kept, at least
    two.
    """

    folder: Path
    keep: int = 2
    skipped: list[str] = field(default_factory=list)

    def save(self, snapshot: Snapshot) -> Path:
        """Publish a snapshot as last-<step> and delete what is no longer needed; see
        `write_checkpoint` for errors.
        """
        path = self._write("last", snapshot, snapshot.tensors)
        self.prune()
        return path

    def save_best(self, snapshot: Snapshot) -> Path:
        """Publish the weights (and EMA) of a snapshot as best-<step>; older ones go when no kept
        checkpoint refers to them.
        """
        return self._write(
            "best",
            snapshot,
            {
                name: snapshot.tensors[name]
                for name in ("weights", "ema")
                if name in snapshot.tensors
            },
        )

    @property
    def is_empty(self) -> bool:
        """Return whether there is no checkpoint to resume from, whole or damaged."""
        return not self._list("last")

    def newest(self) -> Snapshot | None:
        """Return the newest valid checkpoint, or None when there is none at all; `skipped` lists
        those that were skipped, and why.

        Raises:
            CheckpointError: When there are checkpoints, but not one that can be used.
        """
        found = self._list("last")
        for path in reversed(found):
            try:
                state = _checked_state(path)
                names = sorted(file.stem for file in path.glob("*.safetensors"))
                return Snapshot({name: read_tensors(path, name) for name in names}, state, path)
            except CheckpointError as error:
                self.skipped.append(
                    f"{path.name}: {error.what}{f' ({error.seen})' if error.seen else ''}"
                )
        if found:
            hint = "restore one from a copy, or delete the folder checkpoints to start anew"
            raise CheckpointError(
                "none of the checkpoints can be used",
                path=self.folder,
                seen="; ".join(self.skipped),
                hint=hint,
            )
        return None

    def forget_after(self, step: int) -> None:
        """Delete checkpoints of later steps than `step`: the run goes on from there and makes them
        again.
        """
        for path in (*self._list("last"), *self._list("best")):
            if _step_of(path) > step:
                _delete(path)

    def prune(self) -> None:
        """Delete checkpoints that are no longer needed; a killed run may have left that undone."""
        if not self._list("last"):
            return
        newest = self._list("last")[-max(2, self.keep) :]
        # A resumed run may need the best of the oldest checkpoint that it can go on from.
        oldest = _step_of(newest[0])
        bests = self._list("best")
        before = [path for path in bests if _step_of(path) <= oldest]
        for path in (*self._list("last")[: -max(2, self.keep)], *before[:-1]):
            _delete(path)
        sync_folder(self.folder)

    def sweep(self) -> None:
        """Delete what a killed run left half written or half deleted; hold the lock of the run
        folder.
        """
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if is_temporary(path.name):
                    shutil.rmtree(path)

    def _write(
        self, kind: str, snapshot: Snapshot, tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> Path:
        for name in ("weights", "ema"):
            check_finite(
                tensors.get(name, {}),
                f"the {'weights' if name == 'weights' else 'averaged weights'}",
            )
        path = self.folder / f"{kind}-{snapshot.step:08d}"
        write_checkpoint(path, tensors, {"schema_version": SCHEMA_VERSION, **snapshot.state})
        return path

    def _list(self, kind: str) -> list[Path]:
        return list_checkpoints(self.folder, kind)


def list_checkpoints(folder: Path, kind: str) -> list[Path]:
    """Return the checkpoints of a kind ("last" or "best") in a folder, oldest first."""
    if not folder.is_dir():
        return []
    named = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir() if path.is_dir()]
    return sorted((path for path, match in named if match and match[1] == kind), key=_step_of)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder that `path` means: itself, or the best of a run or stage, or
    else its newest.

    Raises:
        CheckpointError: When there is none.
    """
    if _NAME.fullmatch(path.name) and path.is_dir():
        return path
    for folder in (path / "checkpoints", path):
        for kind in ("best", "last"):
            found = list_checkpoints(folder, kind)
            if found:
                return found[-1]
    raise CheckpointError(
        "there is no checkpoint here",
        path=path,
        expected="a run folder of `trainer fit`, or a folder in its checkpoints",
    )


def load_weights(path: str | Path, *, ema: bool = True) -> tuple[dict[str, Tensor], RunConfig]:
    """Return the weights of a run, stage or checkpoint, on the CPU, and the configuration of the
    run.

    A run or stage gives its best checkpoint, or its newest where no best was chosen. `ema` asks for
    the averaged weights; without any the raw ones are given.

    Raises:
        CheckpointError: For what is missing, damaged or of another version.
    """
    folder = find_checkpoint(Path(path).absolute())
    _checked_state(folder)
    averaged = ema and (folder / "ema.safetensors").is_file()
    return read_tensors(folder, "ema" if averaged else "weights"), load_run_config(folder)


def load_run_config(path: str | Path) -> RunConfig:
    """Return the configuration of the run that a folder belongs to: config.yml in it or the nearest
    folder above.
    """
    place = Path(path).absolute()
    home = next((path for path in (place, *place.parents) if (path / CONFIG).is_file()), None)
    if home is None and not place.exists():
        raise ConfigError(
            "there is no such run",
            path=place,
            expected="the run folder of `trainer fit`, or a checkpoint in it",
        )
    if home is None:
        raise CheckpointError(
            f"there is no {CONFIG} here or above",
            path=place,
            expected="the run folder of `trainer fit`",
        )
    values = read_config(home / CONFIG)
    return build_config(
        recipe_of(str(values.get("recipe"))).Config, values, where=str(home / CONFIG)
    )


def read_config(path: Path) -> dict[str, Any]:
    """Return the mapping in the config.yml of a run.

    Raises:
        IntegrityError: When it was changed since the run wrote it.
        ConfigError: When it cannot be read.
    """
    try:
        data = checksums.read_file(path, hint=RESTORE_RUN)
        return parse_yaml(data.decode("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration: {error}", path=path) from error


def _checked_state(folder: Path) -> dict[str, Any]:
    state = verify_checkpoint(folder)
    version = str(state.get("schema_version"))
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise CheckpointError(
            "the checkpoint is of another version of trainer",
            path=folder,
            seen=version,
            expected=SCHEMA_VERSION,
        )
    return state


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _delete(path: Path) -> None:
    # Renamed first: a checkpoint is whole or not there, also while it goes.
    gone = temporary_beside(path)
    path.rename(gone)
    shutil.rmtree(gone)
