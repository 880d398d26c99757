"""Whether the masks of images with an orientation tag fit these as stored, or as readers turn them.

Sizes tell it where sides differ; else what the classes explain of the image in either orientation
(`fit/`), over all such tiles together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoprep import tables
from histoprep.fit.orientation import ORIENTATIONS, Orientation
from histoprep.schemas.tiles import open_tiles_table

# The standard says how the stored image becomes upright; this is what takes that back.
_BACK = {
    2: Orientation.FLIP_LEFT_RIGHT,
    3: Orientation.TURN_180,
    4: Orientation.FLIP_TOP_BOTTOM,
    5: Orientation.TRANSPOSE,
    6: Orientation.TURN_90_COUNTERCLOCKWISE,
    7: Orientation.ANTI_TRANSPOSE,
    8: Orientation.TURN_90_CLOCKWISE,
}
_COLUMNS = (
    "exif_orientation", "width_px", "height_px", "mask_width_px", "mask_height_px", "fit_evidence",
)  # fmt: skip
MIN_TILES = 3
# What makes a verdict firm elsewhere, too: nats above the other, and on average a tile.
_MARGIN, _MEAN = 20.0, 2.0


@dataclass(slots=True)
class ExifFit:
    """What the tiles with an orientation tag say.

    Attributes:
        num_tiles: Tiles of which something is known.
        stored: Evidence, in nats, that masks fit images as stored.
        turned: The same for images as readers turn them.
    """

    num_tiles: int = 0
    stored: float = 0.0
    turned: float = 0.0

    @property
    def fits_turned(self) -> bool | None:
        """Return whether masks fit the turned images; None where it is not beyond doubt."""
        best, other = max(self.stored, self.turned), min(self.stored, self.turned)
        is_firm = best - other >= _MARGIN and best >= _MEAN * self.num_tiles
        return self.turned > self.stored if self.num_tiles >= MIN_TILES and is_firm else None

    def add(self, row: dict[str, Any]) -> None:
        """Count a tile with the columns that `find_exif_fit` reads."""
        way = _BACK.get(row["exif_orientation"])
        size, mask = (
            (row[f"{prefix}width_px"], row[f"{prefix}height_px"]) for prefix in ("", "mask_")
        )
        if way is None or None in (*size, *mask):
            return
        if way.swaps_sides and size[0] != size[1]:
            if mask in (size, size[::-1]):
                self.num_tiles += 1
                self.stored += _MARGIN * (mask == size)
                self.turned += _MARGIN * (mask != size)
            return
        values = row["fit_evidence"]
        if values is None:
            return
        stored, turned = values[0], values[ORIENTATIONS.index(way)]
        if stored is not None and turned is not None and np.isfinite([stored, turned]).all():
            self.num_tiles += 1
            self.stored += stored
            self.turned += turned


def find_exif_fit(table: Path) -> ExifFit:
    """Return what the tiles of a table with an orientation tag say of their masks."""
    opened, _ = open_tiles_table(table)
    found = ExifFit()
    if "fit_evidence" not in opened.schema_arrow.names:
        return found
    for batch in tables.read_batches(opened, list(_COLUMNS)):
        tags = batch["exif_orientation"].fill_null(1).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero((tags > 1) & (tags <= max(_BACK)))
        for row in batch.take(rows).to_pylist() if len(rows) else ():
            found.add(row)
    return found
