"""tiles.parquet, one row a tile: its schema and the options its rows depend on.

Pixels are looked at once, by `measurer.py`; every later stage works on this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from histoprep.mask_reading import Reading


@dataclass(frozen=True, slots=True)
class TileOptions:
    """What the measurements depend on. With `headers_only` no pixel is decoded (`--quick`).

    `reading` is what was decided of masks that readers understand in two ways, as `Reading.as_json`
    gives it, a pair a decision. With `seeks_labels` every image without a mask is held against
    what labels look like, otherwise only those that are no RGB. `neighbours` says whether borders
    and landmarks are measured, by which tiles that touch or overlap are found; None leaves it to
    the number of tiles.
    """

    min_area_px: int = 64
    max_pixels: int = 64_000_000
    max_file_bytes: int = 1 << 30
    headers_only: bool = False
    reading: tuple[tuple[str, str], ...] = ()
    seeks_labels: bool = False
    neighbours: bool | None = None

    @property
    def mask_reading(self) -> Reading:
        """Return the decisions."""
        return Reading.from_json(dict(self.reading))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TileOptions:
        """Return the options that JSON made of others: it has no tuples."""
        return cls(
            **{
                **stored,
                "reading": tuple(
                    (str(name), str(value)) for name, value in stored.get("reading", ())
                ),
            }
        )

    def with_reading(self, reading: Reading) -> TileOptions:
        """Return these options with other decisions."""
        return replace(self, reading=tuple(reading.as_json().items()))
