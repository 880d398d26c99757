"""Which stages are done: each is noted with its command and the digests of what it read and
left.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histoprep.checksums import publish_json, read_json
from histoprep.demo.stages import DemoStage
from histoprep.digests import file_digest
from histoprep.errors import IntegrityError, OutputError

NAME = "demo-stages.json"


@dataclass(frozen=True, slots=True)
class Ledger:
    """The notes of a workspace; a note that cannot be read counts as none, and its stage runs
    again.
    """

    path: Path

    def read(self) -> dict[str, Any]:
        """Return the notes by the name of the stage."""
        try:
            noted = read_json(self.path)
        except (OSError, IntegrityError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def is_done(self, stage: DemoStage) -> bool:
        """Return whether nothing changed since the stage ended: command, files read, files left."""
        if stage.always or not all(path.is_file() for path in stage.outputs):
            return False
        noted = self.read().get(stage.name, {})
        return isinstance(noted, dict) and {
            key: noted.get(key) for key in ("command", "inputs", "outputs")
        } == self._facts(stage)

    def note(self, stage: DemoStage, seconds: float) -> None:
        """Note that the stage ended, after `seconds`; raises OutputError."""
        try:
            facts = {
                **self._facts(stage),
                "seconds": round(seconds, 1),
                "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            publish_json(self.path.parent, self.path.name, {**self.read(), stage.name: facts})
        except OSError as error:
            raise OutputError.from_os_error(error, self.path) from error

    def _facts(self, stage: DemoStage) -> dict[str, Any]:
        return {
            "command": stage.command,
            "inputs": _digests(stage.inputs),
            "outputs": _digests(stage.outputs),
        }


def _digests(paths: Iterable[Path]) -> dict[str, str | None]:
    return {str(path): _digest(path) for path in paths}


def _digest(path: Path) -> str | None:
    # A path that is not there, or is a folder in the way, has no digest.
    try:
        return file_digest(path)
    except OSError:
        return None
