"""Which tiles touch or overlap a tile, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import tables
from histoprep.errors import IntegrityError
from histoprep.schemas.neighbours import KIND, VERSION


@dataclass(frozen=True)
class Neighbour:
    """A tile beside another one; `right_px` and `down_px` say where its corner lies from that one's
    corner. `side` is left, right, above, below or over.
    """

    row: int
    side: str
    kind: str
    right_px: int
    down_px: int
    share: float
    score: float


@dataclass(frozen=True)
class NeighbourPairs:
    """Pairs of neighbours by row; `first` int64 [n] ascending, the other arrays beside it. Each
    pair is there from both sides.
    """

    first: np.ndarray
    second: np.ndarray
    offset: np.ndarray
    kinds: tuple[str, ...]
    share: np.ndarray
    score: np.ndarray

    def of_row(self, row: int) -> list[Neighbour]:
        """Return the neighbours of a tile."""
        start, end = np.searchsorted(self.first, [row, row + 1])
        return [self._pair(at) for at in range(int(start), int(end))]

    def _pair(self, at: int) -> Neighbour:
        right_px, down_px = self.offset[at].tolist()
        kind = self.kinds[at]
        side = side_of(right_px, down_px, kind=kind)
        share, score = float(self.share[at]), float(self.score[at])
        return Neighbour(int(self.second[at]), side, kind, right_px, down_px, share, score)

    def __len__(self) -> int:
        """Return the number of pairs, each counted from both sides."""
        return len(self.first)


def side_of(right_px: int, down_px: int, *, kind: str) -> str:
    """Return on which side of a tile another one lies whose corner is so far right and down."""
    if kind == "overlapping" and right_px == 0 and down_px == 0:
        return "over"
    if abs(right_px) >= abs(down_px):
        return "right" if right_px > 0 else "left"
    return "below" if down_px > 0 else "above"


_NAMES = ("image_a", "image_b", "kind", "right_px", "down_px", "share", "score")


def read_neighbours(path: Path, image_paths: pa.ChunkedArray) -> NeighbourPairs:
    """Return the neighbours that the last audit found; none where it looked for none."""
    try:
        opened, _ = tables.open_table(path, kind=KIND, schema_version=VERSION)
        table = tables.read_table(opened, _NAMES)
    except (FileNotFoundError, IntegrityError):
        table = pa.table({name: pa.array([], pa.float32()) for name in _NAMES})
    if not table.num_rows:
        empty = np.zeros(0, np.int64)
        return NeighbourPairs(empty, empty, np.zeros((0, 2), np.int64), (), empty, empty)
    wanted = pc.unique(pa.chunked_array([*table["image_a"].chunks, *table["image_b"].chunks]))
    place = pc.index_in(image_paths, value_set=wanted)
    row_of = np.full(len(wanted), -1, np.int64)
    row_of[place.drop_null().to_numpy()] = np.flatnonzero(pc.is_valid(place).to_numpy())
    first, second = (
        row_of[pc.index_in(table[name], value_set=wanted).to_numpy()]
        for name in ("image_a", "image_b")
    )
    offset = np.stack([table[name].to_numpy() for name in ("right_px", "down_px")], axis=1)
    kinds = np.array(table["kind"].to_pylist(), object)
    share, score = (
        np.nan_to_num(table[name].to_numpy().astype(np.float64)) for name in ("share", "score")
    )
    known = (first >= 0) & (second >= 0)
    both = [np.concatenate(pair) for pair in ((first, second), (second, first))]
    keep = np.concatenate([known, known])
    order = np.argsort(both[0][keep], kind="stable")
    doubled = [np.concatenate([each, each])[keep][order] for each in (kinds, share, score)]
    return NeighbourPairs(
        both[0][keep][order],
        both[1][keep][order],
        np.concatenate([offset, -offset])[keep][order].astype(np.int64),
        tuple(map(str, doubled[0])),
        doubled[1],
        doubled[2],
    )
