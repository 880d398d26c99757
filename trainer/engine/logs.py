"""The log of a stage: metrics.csv, one line a step that was looked at, and the same numbers and
images for TensorBoard and, on request, for services.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from histoprep.durable import write_text
from trainer.engine.images import write_sheet
from trainer.engine.loggers import ServiceLogger

_FIRST = ("step", "images")


class MetricsLog:
    """Appends lines to metrics.csv; a column that comes later is empty before.

    `step` is where the run resumes: lines of later steps, and a line that a killed run left
    half written, are dropped. Numbers are written so that reading gives back the very same float.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.csv"
        self._columns, self._rows = _read_rows(self.path, step)
        if self.path.exists():
            self._rewrite()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the line of a step."""
        row = {"step": str(step), **{name: _cell(value) for name, value in values.items()}}
        new = [name for name in (*_FIRST, *row) if name not in self._columns and name in row]
        self._rows.append(row)
        if new:
            self._columns += dict.fromkeys(new)
            self._rewrite()
            return
        with self.path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_csv_text(self._columns, [row], header=False))

    def sync(self) -> None:
        """Make the lines so far survive a power cut: called before a checkpoint that relies on
        them.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())

    def _rewrite(self) -> None:
        write_text(self.path, _csv_text(self._columns, self._rows, header=True))


def _read_rows(path: Path, step: int) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the whole lines up to `step` of a metrics.csv, nothing when there is
    none.
    """
    if not path.exists():
        return [], []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    lines = csv.DictReader(io.StringIO(whole, newline=""))
    rows = [
        {name: value for name, value in row.items() if value}
        for row in lines
        if row.get("step", "").isdecimal() and int(row["step"]) <= step
    ]
    return list(lines.fieldnames or []), rows


def _csv_text(columns: list[str], rows: list[dict[str, str]], *, header: bool) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _cell(value: float) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)


def _next_version(logs: Path) -> Path:
    """Return logs/version_X for the first X that is free."""
    numbers = (path.name.removeprefix("version_") for path in logs.glob("version_*"))
    return (
        logs / f"version_{max((int(item) for item in numbers if item.isdecimal()), default=-1) + 1}"
    )


class StageLog:
    """metrics.csv, TensorBoard events and hparams.yaml in logs/version_X, and sheets in samples/ of
    one stage.

    Every start of a run is a version of its own: what a killed one logged after its last checkpoint
    stays there to be seen, while metrics.csv tells of the run as it counts.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        hparams: Mapping[str, Any],
        services: Sequence[ServiceLogger] = (),
    ) -> None:
        # Imported here: it takes a second, and only the process that writes needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._metrics = MetricsLog(folder, step)
        version = _next_version(folder / "logs")
        self._board: Any = SummaryWriter(str(version))
        write_text(
            version / "hparams.yaml",
            yaml.safe_dump(dict(hparams), sort_keys=False, allow_unicode=True),
        )
        self._services = services
        for service in services:
            service.log_hyperparams(dict(hparams))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._metrics.write(step, values)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for name, value in finite.items():
            self._board.add_scalar(name, value, step)
        for service in self._services:
            service.log_metrics(finite, step)

    def draw(self, step: int, sheets: Mapping[str, np.ndarray]) -> None:
        """Log sheets (uint8 [height, width, 3]) as samples/<step>-<name>.png and for
        TensorBoard.
        """
        for name, image in sheets.items():
            write_sheet(self._folder / "samples" / f"{step:08d}-{name}.png", image)
            self._board.add_image(name, image, step, dataformats="HWC")
            for service in self._services:
                service.log_image(name, image, step)

    def sync(self) -> None:
        """Bring everything logged so far to the device."""
        self._metrics.sync()
        self._board.flush()

    def close(self, *, has_ended: bool = True) -> None:
        """Write what is pending and close; `has_ended` says whether the stage came to its end."""
        self._board.close()
        for service in self._services:
            service.finalize("success" if has_ended else "failed")
