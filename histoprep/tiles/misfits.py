"""Tiles table -> masks that do not belong where they are: turned, moved, scaled, of other tiles.

A source is a group (slide, case) or a folder, as in `pools.py`. Its tiles vote by the evidence in
tiles.parquet. Only where that is not clear, or where a single mask does not fit, some tiles are
read again; how many is limited, and what came out is kept in misfits.parquet until the table
changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import tables
from histoprep.digests import file_digest
from histoprep.errors import BrokenFileError, IntegrityError
from histoprep.execution import Engine, Marker, Task, run_tasks
from histoprep.fit.measure import MOVES
from histoprep.fit.orientation import ORIENTATIONS, Orientation
from histoprep.fit.remedy import Remedy
from histoprep.fit.search import (
    FINE_CELLS,
    FineTile,
    find_list_offset,
    find_move,
    find_partners,
    find_scale,
    fine_tile,
    gain_of_move,
    turned_evidence,
)
from histoprep.fit.votes import CLEAR_TILE, DOUBTFUL_TILE, MIN_TILES, Vote, best_of, vote
from histoprep.mask_reading import Reading
from histoprep.remote import file_bytes
from histoprep.schemas.misfits import KIND, SCHEMA, VERSION
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.listing import absolute_path
from histoprep.tiles.pools import SourceNames, large_sources

# Tiles of a source that are read again; of all sources that nothing is known of together, at least
# so many, and beyond that this share of the tiles that something can be told of; of sources that
# seem to be wrong, more.
_LOOKED, _LOOKED_ALL, _LOOKED_SHARE, _LOOKED_WRONG = 32, 96, 0.03, 2000
_DOUBTED, _DOUBTED_ALL = 160, 320
# Tiles with masks that fit, to compare single masks with.
_REFERENCES = 12
_DOUBT_CELLS = 64
# Nats, not damped, under which a mask fits no better than chance: this share of those of masks that
# fit, in these limits. Over which share of them a turned one fits.
_UNFIT_SHARE, _UNFIT_LIMITS, _TURNED_SHARE = 0.05, (12.0, 30.0), 0.25
# A mask with less boundary than this share of what is usual says too little.
_BOUNDARY = 0.5
# With fewer tiles one worker process is enough: to start more costs more.
_FEW_TILES = 64
_TIME_LIMIT_S = 120.0
# Of moves, scales and lists: blurred noise of 12 tiles reached 3.
_FIRM_NATS_A_TILE = 6.0


class MisfitKind(StrEnum):
    """What is wrong with masks: the first four with all of a source."""

    MISORIENTED = "misoriented"
    SHIFTED = "shifted"
    SCALED = "scaled"
    OTHER_TILES = "other-tiles"
    SWAPPED = "swapped"
    UNFIT = "unfit"

    @property
    def is_of_source(self) -> bool:
        """Return whether it is about all masks of a source."""
        return self not in (MisfitKind.SWAPPED, MisfitKind.UNFIT)


@dataclass(frozen=True, slots=True)
class MisfitMask:
    """One mask that does not belong where it is.

    Attributes:
        image_path: As in tiles.parquet.
        mask_path: As in tiles.parquet.
        fitting_mask: The mask that fits the image; None where it is not known.
        orientation: What has to be done to this mask; None for nothing.
        evidence: Nats for it as it is; None where it is of one class.
    """

    image_path: str
    mask_path: str
    fitting_mask: str | None = None
    orientation: Orientation | None = None
    evidence: float | None = None


@dataclass(frozen=True, slots=True)
class Misfit:
    """What is wrong with masks of one source, and what has to be done to them.

    Attributes:
        kind: What is wrong.
        source: Group or folder.
        is_firm: Whether it is beyond doubt.
        num_tiles: Tiles of the source that something can be told of.
        masks: The masks, in order of the table.
        orientation: What has to be done to all of them; None for nothing.
        move_px: By how much all have to be moved to the right and down.
        scale: By how much all have to be enlarged; None for nothing.
        evidence: Nats for the masks as they are.
        best: Nats for the masks as they should be.
    """

    kind: MisfitKind
    source: str
    is_firm: bool
    num_tiles: int
    masks: tuple[MisfitMask, ...]
    orientation: Orientation | None = None
    move_px: tuple[float, float] = (0.0, 0.0)
    scale: float | None = None
    evidence: float = 0.0
    best: float = 0.0

    def remedy_of(self, mask: MisfitMask) -> tuple[str, Remedy] | None:
        """Return the mask that fits the image of one of these masks, and what has to be done to
        it; None where neither is known.
        """
        way = mask.orientation or self.orientation
        right, down = (round(value) for value in self.move_px)
        if mask.fitting_mask is not None:
            return mask.fitting_mask, Remedy()
        if way is None and self.scale is None and not (right or down):
            return None
        remedy = Remedy(way or Orientation.AS_IS, self.scale or 1.0, right, down)
        return mask.mask_path, remedy


def find_misfits(workspace: Workspace, engine: Engine) -> tuple[Misfit, ...]:
    """Return what is wrong in a workspace with an up-to-date tiles table, in order of source.

    What was found for the same table before is taken from misfits.parquet.

    Raises:
        IntegrityError: The tiles table is damaged.
        OutputError: The workspace cannot be written.
    """
    opened, header = open_tiles_table(workspace.tiles)
    # Not of the listing: files that could not be read may be read now.
    key = {"tiles_digest": file_digest(workspace.tiles), "options": header["options"]}
    earlier = _earlier(workspace.misfits, key)
    if earlier is not None:
        return earlier
    found: tuple[Misfit, ...] = ()
    if "fit_evidence" in opened.schema_arrow.names:
        reading = TileOptions.from_json(header["options"]["tiles"]).mask_reading
        misfits = _misfits(_Rows.of(opened), workspace, engine, reading)
        found = tuple(sorted(misfits, key=lambda misfit: (misfit.source, misfit.kind)))
    table = _as_table(found)
    tables.write_table(
        workspace.misfits,
        [table],
        SCHEMA,
        kind=KIND,
        schema_version=VERSION,
        metadata=key,
    )
    # As from the file, so that a second audit says the same to the last digit.
    return _from_table(table)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The pairs of image and mask of one size, in order of the table.

    `positions` are their rows in the table, `evidence` is NaN in rows of which nothing can be told.
    """

    names: pa.Table
    positions: np.ndarray
    evidence: np.ndarray
    cell_px: np.ndarray
    paths: tables.RowTaker

    @classmethod
    def of(cls, opened: Any) -> _Rows:
        pieces, positions, votes, cells, start = [], [], [], [], 0
        columns = ["tile_id", "group", "width_px", "mask_width_px", "height_px", "mask_height_px"]
        columns += ["label_ids", "image_error", "fit_evidence", "fit_cell_px"]
        for batch in tables.read_batches(opened, columns):
            same = pc.and_(
                pc.equal(batch["width_px"], batch["mask_width_px"]),
                pc.equal(batch["height_px"], batch["mask_height_px"]),
            )
            readable = pc.and_(pc.is_valid(batch["label_ids"]), pc.is_null(batch["image_error"]))
            chosen = pc.and_(same.fill_null(False), readable)
            at = np.flatnonzero(chosen.to_numpy(zero_copy_only=False))
            kept = batch.filter(chosen)
            pieces.append(kept.select(["tile_id", "group"]))
            positions.append(at + start)
            votes.append(_votes(kept["fit_evidence"]))
            cells.append(kept["fit_cell_px"].fill_null(0).to_numpy(zero_copy_only=False))
            start += batch.num_rows
        schema = pa.schema([("tile_id", pa.string()), ("group", pa.string())])
        return cls(
            pa.concat_tables([schema.empty_table(), *(piece.cast(schema) for piece in pieces)]),
            np.concatenate([np.zeros(0, np.int64), *positions]),
            np.concatenate([np.zeros((0, len(ORIENTATIONS) + len(MOVES)), np.float32), *votes]),
            np.concatenate([np.zeros(0, np.int16), *cells]),
            tables.RowTaker(opened),
        )

    @property
    def telling(self) -> np.ndarray:
        """Return bool [n]: of which rows something can be told."""
        telling: np.ndarray = np.isfinite(self.evidence[:, 0])
        return telling

    def paths_of(self, rows: np.ndarray) -> list[tuple[str, str]]:
        """Return the paths of image and mask of rows."""
        if not len(rows):
            return []
        table = self.paths.take(self.positions[rows], ("image_path", "mask_path"))
        return list(
            zip(table["image_path"].to_pylist(), table["mask_path"].to_pylist(), strict=True)
        )


def _votes(lists: pa.ChunkedArray) -> np.ndarray:
    """Return float32 [rows, hypotheses]; NaN where there is no list."""
    found = np.full((len(lists), len(ORIENTATIONS) + len(MOVES)), np.nan, np.float32)
    there = pc.is_valid(lists).to_numpy(zero_copy_only=False)
    values = lists.drop_null().combine_chunks()
    found[there] = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, found.shape[1])
    return found


@dataclass(frozen=True, slots=True)
class _Source:
    """The rows of one source, those of which something can be told, and how these voted."""

    name: str
    members: np.ndarray
    telling: np.ndarray
    voted: Vote


def _misfits(rows: _Rows, workspace: Workspace, engine: Engine, reading: Reading) -> list[Misfit]:
    found: list[Misfit] = []
    sources: list[_Source] = []
    for name, members in large_sources(SourceNames.of(rows.names), rows.telling, MIN_TILES):
        telling = members[rows.telling[members]]
        voted = vote(rows.evidence[telling], rows.cell_px[telling])
        source = _Source(name, members, telling, voted)
        if voted.is_open or voted.is_off or voted.judges_tiles:
            sources.append(source)
    tasks = list(_tasks(rows, sources, workspace, reading))
    number = sum(len(task.pairs) for _, task in tasks)
    used = engine if number > _FEW_TILES else replace(engine, num_workers=1)
    if tasks:
        looks: list[Task[Answer]] = [task for _, task in tasks]
        results = run_tasks(looks, used)
        for (source, _), answer in zip(tasks, results, strict=True):
            found += _named(rows, source, answer)
    return found


def _tasks(
    rows: _Rows, sources: Iterable[_Source], workspace: Workspace, reading: Reading
) -> Iterator[tuple[_Source, LookTask]]:
    """Yield what has to be read again of each source, within the limits."""
    share = int(_LOOKED_SHARE * np.count_nonzero(rows.telling))
    looks_left = [max(_LOOKED_ALL, share), max(_LOOKED_WRONG, share)]
    doubts_left = max(_DOUBTED_ALL, share)
    for number, source in enumerate(sources):
        marker = workspace.parts / f"look-{number}.at"
        task = LookTask(str(workspace.root), marker, reading, source.voted)
        if source.voted.judges_tiles and not (source.voted.is_off or source.voted.is_open):
            evidence = rows.evidence[source.telling, 0]
            doubtful = source.telling[evidence < DOUBTFUL_TILE]
            order = np.argsort(rows.evidence[doubtful, 0], kind="stable")
            doubtful = doubtful[order[: min(_DOUBTED, doubts_left)]]
            doubts_left -= len(doubtful)
            usual = _spread(source.telling[evidence >= CLEAR_TILE], _REFERENCES)
            if len(doubtful):
                yield (
                    source,
                    replace(
                        task,
                        doubtful=tuple(rows.paths_of(doubtful)),
                        usual=tuple(rows.paths_of(usual)),
                    ),
                )
            continue
        kind = int(source.voted.orientation is not None)
        sample = _spread(source.telling, min(_LOOKED, looks_left[kind]))
        looks_left[kind] -= len(sample)
        block = sample[:0]
        if source.voted.is_open:
            block = _fullest(source.members, rows.telling, min(_LOOKED, looks_left[kind]))
            looks_left[kind] -= len(block)
        if len(sample) >= MIN_TILES:
            yield (
                source,
                replace(
                    task,
                    sample=tuple(rows.paths_of(sample)),
                    block=tuple(rows.paths_of(block)),
                    is_whole=len(block) == len(source.members),
                ),
            )


def _spread(rows: np.ndarray, number: int) -> np.ndarray:
    """Return at most `number` of some rows, evenly spaced."""
    if len(rows) <= number:
        return rows
    spaced: np.ndarray = rows[(np.arange(number) * len(rows)) // max(number, 1)]
    return spaced


def _fullest(rows: np.ndarray, telling: np.ndarray, number: int) -> np.ndarray:
    """Return `number` consecutive ones of some rows, those with most that something can be told
    of.
    """
    if len(rows) <= number:
        return rows
    sums = np.concatenate(([0], np.cumsum(telling[rows])))
    start = int(np.argmax(sums[number:] - sums[:-number])) if number > 0 else 0
    block: np.ndarray = rows[start : start + number]
    return block


def _whole(
    rows: _Rows, source: _Source, kind: MisfitKind, is_firm: bool, facts: dict[str, Any]
) -> Misfit:
    """Return a finding about all masks of a source."""
    nats = rows.evidence[source.members, 0]
    masks = tuple(
        MisfitMask(image, mask, evidence=float(own) if np.isfinite(own) else None)
        for (image, mask), own in zip(rows.paths_of(source.members), nats, strict=True)
    )
    return Misfit(
        kind,
        source.name,
        is_firm,
        len(source.telling),
        masks,
        **{"evidence": source.voted.evidence, **facts},
    )


def _named(rows: _Rows, source: _Source, answer: Answer) -> Iterator[Misfit]:
    """Yield what a second look found, with the masks concerned."""
    if answer.kind is not None:
        # The best of many moves, scales and lists gains something on noise, too.
        is_strong = answer.kind is MisfitKind.MISORIENTED or answer.facts[
            "best"
        ] >= _FIRM_NATS_A_TILE * len(source.telling)
        is_firm = answer.is_firm and is_strong
        found = _whole(rows, source, answer.kind, is_firm, answer.facts)
        if answer.steps:
            # The list goes round: what fits the first images stands at its end.
            masks = found.masks
            fitting = (masks[(at - answer.steps) % len(masks)] for at in range(len(masks)))
            pairs = zip(masks, fitting, strict=True)
            named = tuple(replace(mask, fitting_mask=other.mask_path) for mask, other in pairs)
            found = replace(found, masks=named)
        yield found
    for kind, masks in ((MisfitKind.SWAPPED, answer.swapped), (MisfitKind.UNFIT, answer.unfit)):
        if masks:
            ordered = tuple(sorted(masks, key=lambda mask: mask.mask_path))
            yield Misfit(kind, source.name, True, len(source.telling), ordered)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a second look at a source found: something about all its masks, or about some."""

    kind: MisfitKind | None = None
    is_firm: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    swapped: tuple[MisfitMask, ...] = ()
    unfit: tuple[MisfitMask, ...] = ()


Paths = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LookTask:
    """Reads some tiles of a source again (image and mask paths) and looks where masks belong.

    Attributes:
        sample: Tiles from all over the source.
        block: Consecutive tiles of it.
        is_whole: Whether these are all tiles of the source.
        doubtful: Tiles whose masks seem not to fit.
        usual: Tiles whose masks fit, to compare those with.
    """

    root: str
    marker: Path
    reading: Reading
    voted: Vote
    sample: Paths = ()
    block: Paths = ()
    is_whole: bool = False
    doubtful: Paths = ()
    usual: Paths = ()
    left_out: tuple[int, ...] = ()

    @property
    def pairs(self) -> Paths:
        """Return all tiles that may be read."""
        return (*self.sample, *self.block, *self.doubtful, *self.usual)

    def run(self) -> Answer:
        """Return what was found."""
        marker = Marker(self.marker, _TIME_LIMIT_S)
        answer = self._look_at_tiles(marker) if self.doubtful else self._look_at_source(marker)
        marker.close()
        return answer

    def num_done(self, index: int | None) -> int:
        """Return how many tiles are done at item `index`; all of them for None."""
        return len(self.pairs) if index is None else index

    def without(self, index: int, reason: str) -> LookTask:
        """Return the task that leaves one tile out; its files are reported by the tiles table."""
        return replace(self, left_out=(*self.left_out, index))

    def _look_at_source(self, marker: Marker) -> Answer:
        read = [tile for tile in self._read(marker, 0, self.sample) if tile is not None]
        before = self.voted.evidence
        answers = [(0.0, Answer())]
        move = find_move(read)
        if move is not None and move.is_clear:
            moved = round(move.right_px, 1), round(move.down_px, 1)
            facts = {"move_px": moved, "best": before + move.gain}
            answers.append((gain_of_move(read, move), Answer(MisfitKind.SHIFTED, facts=facts)))
        if self.voted.is_open:
            answers.append(_turned(read, self.voted))
            block = list(self._read(marker, len(self.sample), self.block))
            offset = find_list_offset(block, is_whole=self.is_whole)
            if offset is not None and offset.is_clear:
                facts = {"best": before + offset.gain}
                answer = Answer(MisfitKind.OTHER_TILES, facts=facts, steps=offset.steps)
                answers.append((offset.gain, answer))
            scale = find_scale(read)
            if scale is not None and scale.is_clear:
                facts = {"scale": scale.factor, "best": before + scale.gain}
                answers.append((scale.gain, Answer(MisfitKind.SCALED, facts=facts)))
        return max(answers, key=lambda answer: answer[0])[1]

    def _look_at_tiles(self, marker: Marker) -> Answer:
        read = list(self._read(marker, 0, self.doubtful, _DOUBT_CELLS))
        usual = [
            (tile.boundary, turned_evidence(tile)[0])
            for tile in self._read(marker, len(self.doubtful), self.usual, _DOUBT_CELLS)
            if tile is not None
        ]
        if not usual:
            return Answer()
        boundary, evidence = np.median(np.array(usual), axis=0).tolist()
        unfit_below = float(np.clip(_UNFIT_SHARE * evidence, *_UNFIT_LIMITS))
        kept = [(tile, paths) for tile, paths in zip(read, self.doubtful, strict=True) if tile]
        partner = dict(find_partners([tile for tile, _ in kept]))
        swapped, unfit = [], []
        for place, (tile, (image, path)) in enumerate(kept):
            turned = turned_evidence(tile)
            mask = MisfitMask(image, path, evidence=float(turned[0]))
            if place in partner:
                swapped.append(replace(mask, fitting_mask=kept[partner[place]][1][1]))
            elif turned[0] < unfit_below and tile.boundary >= _BOUNDARY * boundary:
                best = int(np.nanargmax(turned))
                way = ORIENTATIONS[best] if turned[best] >= _TURNED_SHARE * evidence else None
                unfit.append(replace(mask, orientation=way))
        return Answer(swapped=tuple(swapped), unfit=tuple(unfit))

    def _read(
        self, marker: Marker, first: int, pairs: Paths, most_cells: int = FINE_CELLS
    ) -> Iterator[FineTile | None]:
        """Yield tiles in cells; None for those that cannot be read."""
        for index, (image, mask) in enumerate(pairs, start=first):
            marker.at(index)
            is_left_out = index in self.left_out
            yield (
                None
                if is_left_out
                else _read_tile(self.root, image, mask, self.reading, most_cells)
            )


def _read_tile(
    root: str, image: str, mask: str, reading: Reading, most_cells: int
) -> FineTile | None:
    from histoprep import imageio
    from histoprep.tiles.measure import compact_labels

    try:
        rgb = imageio.decode_rgb(file_bytes(absolute_path(root, image)))
        data = file_bytes(absolute_path(root, mask))
        header = imageio.read_header(data, reading)
        _, labels = compact_labels(imageio.decode_mask(data, header, reading))
    except (OSError, BrokenFileError):
        return None
    return fine_tile(rgb, labels, most_cells)


def _turned(read: Sequence[FineTile], voted: Vote) -> tuple[float, Answer]:
    """Return what an orientation gains, and that it does; never another than was voted for."""
    telling = [tile for tile in read if tile.shares is not None]
    if len(telling) < MIN_TILES:
        return 0.0, Answer()
    evidence = np.array([turned_evidence(tile.coarse(), is_damped=True) for tile in telling])
    best, firm, sums = best_of(evidence)
    way = None if best is None else ORIENTATIONS[best]
    if best is None or way is Orientation.AS_IS or voted.orientation not in (None, way):
        return 0.0, Answer()
    gain = float(sums[best] - sums[0])
    facts: dict[str, Any] = {"orientation": way, "evidence": float(sums[0])}
    facts["best"] = float(sums[best])
    if voted.orientation is way:
        facts |= {"evidence": voted.evidence, "best": voted.best}
    return gain, Answer(MisfitKind.MISORIENTED, firm or voted.firm, facts)


def _as_table(misfits: Iterable[Misfit]) -> pa.Table:
    rows = [
        {
            "finding": number,
            "kind": misfit.kind.value,
            "source": misfit.source,
            "is_firm": misfit.is_firm,
            "num_tiles": misfit.num_tiles,
            "orientation": misfit.orientation,
            "right_px": misfit.move_px[0],
            "down_px": misfit.move_px[1],
            "scale": misfit.scale,
            "evidence": misfit.evidence,
            "best": misfit.best,
            "image_path": mask.image_path,
            "mask_path": mask.mask_path,
            "fitting_mask": mask.fitting_mask,
            "mask_orientation": mask.orientation,
            "mask_evidence": mask.evidence,
        }
        for number, misfit in enumerate(misfits)
        for mask in misfit.masks
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _earlier(path: Path, key: dict[str, Any]) -> tuple[Misfit, ...] | None:
    """Return what was found for the same table before; None when nothing was."""
    try:
        opened, header = tables.open_table(path, kind=KIND, schema_version=VERSION)
        if any(header.get(name) != value for name, value in key.items()):
            return None
        return _from_table(tables.read_table(opened))
    except (FileNotFoundError, IntegrityError):
        return None


def _from_table(table: pa.Table) -> tuple[Misfit, ...]:
    grouped: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        grouped.setdefault(row["finding"], []).append(row)
    return tuple(_from_rows(group) for group in grouped.values())


def _from_rows(rows: Sequence[dict[str, Any]]) -> Misfit:
    first = rows[0]
    return Misfit(
        MisfitKind(first["kind"]),
        first["source"],
        first["is_firm"],
        first["num_tiles"],
        tuple(
            MisfitMask(
                row["image_path"],
                row["mask_path"],
                row["fitting_mask"],
                _way(row["mask_orientation"]),
                row["mask_evidence"],
            )
            for row in rows
        ),
        _way(first["orientation"]),
        (round(first["right_px"], 1), round(first["down_px"], 1)),
        first["scale"],
        first["evidence"],
        first["best"],
    )


def _way(name: str | None) -> Orientation | None:
    return None if name is None else Orientation(name)
