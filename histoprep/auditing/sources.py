"""What an audit is told besides the tables of the workspace; cheap to read, so that bad input is
refused before any tile is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histoprep.labels import LabelMap, MapProblem, check_label_map, load_label_map


@dataclass(frozen=True, slots=True)
class Sources:
    """The label map, the counts there should be and the thresholds of rules.

    `label_map` is None without a map and when the map has problems that forbid its use.
    """

    map_path: Path | None = None
    label_map: LabelMap | None = None
    map_problems: tuple[MapProblem, ...] = ()
    expected: Mapping[str, Any] = field(default_factory=dict)
    min_area_px: int = 64
    tile_size_px: tuple[int, int] | None = None
    headers_only: bool = False
    takes_manifest_map: bool = True

    @classmethod
    def of(
        cls, map_path: Path | None, expected: Mapping[str, Any] | None = None, **thresholds: Any
    ) -> Sources:
        """Return the sources with the label map read; raises LabelMapError when the file cannot be
        read as one at all.
        """
        problems = tuple(check_label_map(map_path)) if map_path else ()
        usable = map_path is not None and all(not problem.forbids_use for problem in problems)
        label_map = load_label_map(map_path) if usable and map_path else None
        return cls(map_path, label_map, problems, expected or {}, **thresholds)
