"""Tiles table -> pairs of tiles that touch or overlap, kept in neighbours.parquet.

Tiles that touch are known from their borders in the table. Tiles that may overlap are known from
their landmarks and read again, in pairs, to compare their pixels; how many is limited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histoprep import tables
from histoprep.digests import digest_text
from histoprep.errors import BrokenFileError, IntegrityError
from histoprep.execution import Engine, Marker, run_tasks
from histoprep.neighbours.borders import LENGTH, Side, find_touching
from histoprep.neighbours.landmarks import NUM_BYTES, Landmarks, cell_size
from histoprep.neighbours.overlaps import Overlapping, find_overlapping
from histoprep.neighbours.placement import Placement, SmallImage, may_agree, place
from histoprep.remote import file_bytes
from histoprep.schemas.neighbours import KIND, SCHEMA, VERSION
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import small_images
from histoprep.tiles.listing import absolute_path
from histoprep.tiles.small_images import KeptImages

if TYPE_CHECKING:
    import pandas as pd

MAX_COMPARED = 20_000
"""Pairs of tiles that are read again at most."""
_PAIRS_A_TASK, _MAX_PAIRS_A_TASK = 64, 2048
_REMEMBERED_BYTES = 16 << 20
_TIME_LIMIT_S = 120.0
_COLUMNS = (
    "image_path", "group", "split", "image_digest", "luminance_digest", "width_px", "height_px",
    "borders", "landmarks",
)  # fmt: skip


class NeighbourKind(StrEnum):
    """How two tiles belong together."""

    TOUCHING = "touching"
    OVERLAPPING = "overlapping"


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What was found of all tiles.

    Attributes:
        pairs: The pairs, with the columns of `schemas.neighbours`.
        num_left_out: Pairs of tiles that may overlap and were not compared, beyond the limit.
        is_known: Whether it was looked for at all.
    """

    pairs: pd.DataFrame
    num_left_out: int = 0
    is_known: bool = True


def no_neighbours() -> Neighbours:
    """Return that nothing was looked for."""
    return Neighbours(_as_frame(SCHEMA.empty_table()), is_known=False)


def find_neighbours(workspace: Workspace, engine: Engine) -> Neighbours:
    """Return what tiles touch and overlap in a workspace with an up-to-date tiles table.

    What was found for the same table before is taken from neighbours.parquet. Of tiles that are
    copies of each other only the first is looked at.

    Raises:
        IntegrityError: The tiles table is damaged.
        OutputError: The workspace cannot be written.
    """
    opened, header = open_tiles_table(workspace.tiles)
    if not header["options"]["tiles"].get("neighbours"):
        return no_neighbours()
    key = _key(opened, header)
    earlier = _earlier(workspace.neighbours, key)
    if earlier is not None:
        return earlier
    tiles = _Tiles.of(opened)
    touching = _touching(tiles)
    overlapping, num_left_out = _overlapping(tiles, workspace, engine)
    found = pa.concat_tables([_without(touching, overlapping), overlapping])
    metadata = key | {"num_left_out": num_left_out}
    tables.write_table(
        workspace.neighbours, [found], SCHEMA, kind=KIND, schema_version=VERSION, metadata=metadata
    )
    return Neighbours(_as_frame(found), num_left_out)


def _key(opened: Any, header: Mapping[str, Any]) -> dict[str, Any]:
    # Not of the file: groups that are found by neighbours are written into it afterwards.
    return {"images_digest": _images_digest(opened), "options": header["options"]["tiles"]}


def _images_digest(opened: Any) -> str:
    """Return a digest of all images: paths, bytes, and whether they could be measured."""
    names = ["image_path", "image_digest", "image_error"]
    rows = (repr(batch.to_pylist()) for batch in tables.read_batches(opened, names))
    return digest_text("".join(digest_text(row) for row in rows))


def _as_frame(table: pa.Table) -> pd.DataFrame:
    result: pd.DataFrame = table.to_pandas()
    return result


def _earlier(path: Path, key: dict[str, Any]) -> Neighbours | None:
    try:
        opened, header = tables.open_table(path, kind=KIND, schema_version=VERSION)
        if any(header.get(name) != value for name, value in key.items()):
            return None
        return Neighbours(_as_frame(tables.read_table(opened)), header["num_left_out"])
    except (FileNotFoundError, IntegrityError):
        return None


@dataclass(frozen=True, slots=True)
class _Tiles:
    """The tiles that may have neighbours, n of them, each image once.

    `shapes` is int64 [n, 2] (height, width), `borders` int8 [n, 4, 128], `landmarks` uint8 [m, 10]
    with `owners` (int64 [m]), the tile of each.
    """

    paths: np.ndarray
    digests: np.ndarray
    groups: np.ndarray
    splits: np.ndarray
    shapes: np.ndarray
    borders: np.ndarray
    landmarks: np.ndarray
    owners: np.ndarray

    @classmethod
    def of(cls, opened: Any) -> _Tiles:
        seen: set[tuple[Any, ...]] = set()
        facts: list[tuple[Any, ...]] = []
        borders: list[bytes] = []
        landmarks: list[bytes] = []
        blank = bytes(len(Side) * LENGTH)
        for batch in tables.read_batches(opened, list(_COLUMNS)):
            columns = [batch[name].to_pylist() for name in _COLUMNS]
            for path, group, split, digest, look, width, height, own, places in zip(
                *columns, strict=True
            ):
                copy = (look, width, height)
                if path is None or (own is None and places is None):
                    continue
                if digest in seen or copy in seen:
                    continue
                seen |= {digest, copy}
                facts.append((path, digest, group, split, height, width))
                borders.append(own or blank)
                landmarks.append(places or b"")
        counts = [len(places) // NUM_BYTES for places in landmarks]
        columns = list(zip(*facts, strict=True)) if facts else [()] * 6
        paths, digests, groups, splits, heights, widths = columns
        return cls(
            np.array(paths, object),
            np.array(digests, object),
            np.array(groups, object),
            np.array(splits, object),
            np.stack([np.array(heights, np.int64), np.array(widths, np.int64)], axis=1),
            np.frombuffer(b"".join(borders), np.int8).reshape(-1, len(Side), LENGTH),
            np.frombuffer(b"".join(landmarks), np.uint8).reshape(-1, NUM_BYTES),
            np.repeat(np.arange(len(facts)), counts),
        )


def _touching(tiles: _Tiles) -> pa.Table:
    found = find_touching(tiles.borders, tiles.shapes[:, 0], tiles.shapes[:, 1])
    sizes = tiles.shapes[found.first]
    number = len(found)
    return pa.table(
        [
            list(tiles.paths[found.first]),
            list(tiles.paths[found.second]),
            [NeighbourKind.TOUCHING.value] * number,
            np.zeros(number, np.int8),
            np.where(found.is_below, 0, sizes[:, 1]).astype(np.int32),
            np.where(found.is_below, sizes[:, 0], 0).astype(np.int32),
            np.zeros(number, np.float32),
            found.score.astype(np.float32),
            found.rival.astype(np.float32),
            found.by_square,
        ],
        schema=SCHEMA,
    )


def _without(touching: pa.Table, overlapping: pa.Table) -> pa.Table:
    """Return the pairs that touch and do not overlap: a tile and its mirror image have a border in
    common.
    """
    sides = ("image_a", "image_b")
    both = {
        frozenset(pair)
        for pair in zip(*(overlapping[side].to_pylist() for side in sides), strict=True)
    }
    pairs = zip(*(touching[side].to_pylist() for side in sides), strict=True)
    return touching.filter(pa.array([frozenset(pair) not in both for pair in pairs], pa.bool_()))


def _overlapping(tiles: _Tiles, workspace: Workspace, engine: Engine) -> tuple[pa.Table, int]:
    """Return the pairs that overlap, and how many candidates were not compared."""
    candidates = _candidates(tiles)
    order = _most_telling(tiles, candidates)
    chosen = candidates.where(order[:MAX_COMPARED])
    pairs = list(
        zip(
            tiles.paths[chosen.first],
            tiles.paths[chosen.second],
            chosen.orientation.tolist(),
            chosen.right.tolist(),
            chosen.down.tolist(),
            strict=True,
        )
    )
    position = {pair[:2]: at for at, pair in enumerate(pairs)}
    digests = dict(zip(tiles.paths, tiles.digests, strict=True))
    kept = small_images.kept_files(workspace)
    # Those of one image follow each other, so that it is decoded once.
    ordered = sorted(pairs)
    # As large as can be, since each task decodes its images anew.
    share = -(-len(pairs) // engine.num_workers)
    size = min(max(share, _PAIRS_A_TASK), _MAX_PAIRS_A_TASK)
    tasks = (
        PlaceTask(
            str(workspace.root),
            tuple(chosen),
            workspace.parts / f"place-{start}.at",
            kept=kept,
            digests={path: digests[path] for pair in chosen for path in pair[:2]} if kept else {},
        )
        for start in range(0, len(pairs), size)
        for chosen in (ordered[start : start + size],)
    )
    few = len(pairs) <= _PAIRS_A_TASK
    used = replace(engine, num_workers=1) if few else engine
    found = list(run_tasks(tasks, used)) if pairs else []
    whole = pa.concat_tables([SCHEMA.empty_table(), *found])
    both = zip(whole["image_a"].to_pylist(), whole["image_b"].to_pylist(), strict=True)
    order_found = np.argsort(np.array([position[pair] for pair in both], np.int64))
    return whole.take(pa.array(order_found)), len(candidates) - len(chosen)


def _candidates(tiles: _Tiles) -> Overlapping:
    """Return the pairs that may overlap, of tiles whose places are counted in cells of one size."""
    cells = np.array([cell_size(*shape) for shape in tiles.shapes.tolist()], np.int64)
    parts = []
    for cell in np.unique(cells[tiles.owners]):
        chosen = cells[tiles.owners] == cell
        landmarks = Landmarks.from_bytes(tiles.landmarks[chosen])
        parts.append(find_overlapping(landmarks, tiles.owners[chosen]))
    if len(parts) == 1:
        return parts[0]
    names = ("first", "second", "orientation", "right", "down", "votes")
    empty = find_overlapping(Landmarks.from_bytes(tiles.landmarks[:0]), tiles.owners[:0])
    return Overlapping(
        *(np.concatenate([getattr(part, name) for part in [empty, *parts]]) for name in names)
    )


def _most_telling(tiles: _Tiles, found: Overlapping) -> np.ndarray:
    """Return the order in which candidates are compared: those in two splits first, then those in
    two groups, then the others.
    """
    apart = [
        np.not_equal(column[found.first], column[found.second]).astype(bool)
        for column in (tiles.splits, tiles.groups)
    ]
    order: np.ndarray = np.lexsort((~apart[1], ~apart[0]))
    return order


@dataclass(frozen=True, slots=True)
class PlaceTask:
    """Decodes some pairs of images and compares them where they may overlap.

    `pairs` are both paths and, of the second image, orientation and place in cells. `kept` are
    files of `small_images.py`, in which images are found by `digests`, that of each path.
    """

    root: str
    pairs: tuple[tuple[str, str, int, float, float], ...]
    marker: Path
    left_out: tuple[int, ...] = ()
    kept: tuple[Path, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> pa.Table:
        """Return the pairs that overlap, as rows of neighbours.parquet."""
        marker = Marker(self.marker, _TIME_LIMIT_S)
        images = _Images(self.root, self.digests, KeptImages(self.kept))
        rows = []
        for index, pair in enumerate(self.pairs):
            marker.at(index)
            if index not in self.left_out:
                found = _place(images, *pair)
                rows += [_row(*pair[:2], found)] if found is not None else []
        marker.close()
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def num_done(self, index: int | None) -> int:
        """Return how many pairs are done at item `index`; all of them for None."""
        return len(self.pairs) if index is None else index

    def without(self, index: int, reason: str) -> PlaceTask:
        """Return the task that leaves one pair out; its files are reported by the tiles table."""
        return replace(self, left_out=(*self.left_out, index))


class _Images:
    """Images of a data set: all of them in cells, whole ones as far as they were used last."""

    def __init__(self, root: str, digests: Mapping[str, str], kept: KeptImages) -> None:
        self._root = root
        self._digests = digests
        self._kept = kept
        self._whole: dict[str, np.ndarray | None] = {}
        self._small: dict[str, SmallImage | None] = {}

    def small(self, path: str) -> SmallImage | None:
        """Return an image in cells; None for a file that broke since it was measured."""
        if path not in self._small:
            small = self._kept.get(self._digests.get(path, ""))
            if small is None and (whole := self.whole(path)) is not None:
                small = SmallImage.of(whole)
            self._small[path] = small
        return self._small[path]

    def whole(self, path: str) -> np.ndarray | None:
        """Return the luminance, uint8 [height, width]; None for a file that broke."""
        if path in self._whole:
            # The one that was used last is forgotten last.
            self._whole[path] = self._whole.pop(path)
            return self._whole[path]
        image = self._read(path)
        self._whole[path] = image
        while self._num_bytes() > _REMEMBERED_BYTES and len(self._whole) > 1:
            self._whole.pop(next(iter(self._whole)))
        return image

    def _num_bytes(self) -> int:
        return sum(0 if image is None else image.nbytes for image in self._whole.values())

    def _read(self, path: str) -> np.ndarray | None:
        from histoprep import imageio

        try:
            data = file_bytes(absolute_path(self._root, path))
            return imageio.decode_luminance(data, imageio.read_header(data))
        except (OSError, BrokenFileError):
            return None


def _place(
    images: _Images, first: str, second: str, orientation: int, right: float, down: float
) -> Placement | None:
    """Return how two images overlap; None where they do not, or a file broke since it was
    measured.
    """
    small = images.small(first), images.small(second)
    if small[0] is None or small[1] is None:
        return None
    # Chance brings most candidates, which their cells are enough to refuse.
    if not may_agree(small[0], small[1], orientation, right, down):
        return None
    fixed, moved = images.whole(first), images.whole(second)
    if fixed is None or moved is None:
        return None
    return place(fixed, moved, orientation, right, down)


def _row(first: str, second: str, found: Placement) -> dict[str, Any]:
    return {
        "image_a": first,
        "image_b": second,
        "kind": NeighbourKind.OVERLAPPING.value,
        "orientation": found.orientation,
        "right_px": found.right_px,
        "down_px": found.down_px,
        "share": found.share,
        "score": found.score,
        "rival": None,
        "by_square": False,
    }
