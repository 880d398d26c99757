"""What a running browser works on: tiles, queries, decisions, thumbnails; JSON values out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from histoprep.auditing.marks import find_marks
from histoprep.browse import pixels, points
from histoprep.browse.beside import matching_rows
from histoprep.browse.columns import ShownClass, places_in
from histoprep.browse.decisions import Journal, MarkedRows
from histoprep.browse.features import Features
from histoprep.browse.findings import TileFinding
from histoprep.browse.opening import TileSet
from histoprep.browse.overview import class_rows, group_rows, label_table, pair_table
from histoprep.browse.pixels import UnreadableError
from histoprep.browse.query import CATEGORIES, Query, QueryEngine
from histoprep.browse.thumbnails import ThumbnailCache
from histoprep.errors import UsageError
from histoprep.findings import Mark
from histoprep.schemas.decisions import Action
from histoprep.version import __version__
from histoprep.visible import visible

MAX_PAGE = 500
THUMBNAIL_PX = 192
_NUM_DECODED = 4
_NUM_SELECTIONS = 20
_MAX_CLASSES_A_TILE = 12


@dataclass
class Session:
    """A set of tiles, other sets beside it, and what was decided of it."""

    tiles: TileSet
    journal: Journal
    others: tuple[TileSet, ...] = ()
    features: Features | None = None
    _colour_features: dict[int, np.ndarray | None] = field(default_factory=dict)
    _decoded: OrderedDict[tuple[int, str], np.ndarray | None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _selections: dict[int, np.ndarray] = field(default_factory=dict)
    _num_selections: int = 0

    @cached_property
    def marked(self) -> MarkedRows:
        """Return what decisions say of the tiles."""
        return MarkedRows(self.journal, self.tiles.columns.tile_ids)

    @cached_property
    def findings(self) -> dict[str, TileFinding]:
        """Return the findings by key."""
        return {finding.key: finding for finding in self.tiles.findings}

    @cached_property
    def _engine(self) -> QueryEngine:
        return QueryEngine(self.tiles.columns, self.findings, self._selections)

    @cached_property
    def _caches(self) -> list[ThumbnailCache]:
        return [ThumbnailCache(self.tiles.workspace) for _ in (self.tiles, *self.others)]

    @cached_property
    def _beside(self) -> list[np.ndarray]:
        own = self.tiles.columns.tile_ids
        return [matching_rows(own, other.columns.tile_ids) for other in self.others]

    def warm_up(self) -> None:
        """Prepare what the first requests would wait for."""
        self.marked.refresh()
        _ = self._engine, self._caches, self._beside
        columns = self.tiles.columns
        columns.rank("tile_id")
        _ = columns.has_image, columns.has_mask
        # What reading the tables took beside what is kept.
        pa.default_memory_pool().release_unused()

    def describe(self) -> dict[str, Any]:
        """Return what the page is built from: names, classes, columns, findings, decisions."""
        columns = self.tiles.columns
        self.marked.refresh()
        return {
            "version": __version__,
            "name": visible(self.tiles.name),
            "path": visible(str(self.tiles.path)),
            "kind": self.tiles.kind,
            "num_tiles": len(self.tiles),
            "thumbnail_px": THUMBNAIL_PX,
            "notes": [visible(note) for note in self.tiles.notes],
            "classes": [_class(cls) for cls in columns.shares.classes],
            "categories": {
                name: {
                    "values": [
                        {"value": value, "name": visible(value)}
                        for value in columns.categories[name].values[:2000]
                    ],
                    "has_none": bool((columns.categories[name].codes < 0).any()),
                    "num_values": len(columns.categories[name].values),
                }
                for name in CATEGORIES
            },
            "numbers": {
                name: limits
                for name, column in columns.numbers.items()
                if (limits := _limits(column)) is not None
            },
            "findings": [self._finding(finding) for finding in self.tiles.findings],
            "others": [
                {"name": visible(other.name), "path": visible(str(other.path))}
                for other in self.others
            ],
            "has_neighbours": len(self.tiles.neighbours) > 0,
            "decisions": self.decisions(),
        }

    def page(self, query: Query, offset: int, limit: int) -> dict[str, Any]:
        """Return the tiles of a query from `offset` on, at most `limit`, and how many there are.

        Raises:
            UsageError: As `QueryEngine.rows`, and for numbers out of range.
        """
        if offset < 0 or not 0 <= limit <= MAX_PAGE:
            raise UsageError(
                "no such part of the tiles",
                seen=f"offset {offset}, limit {limit}",
                expected=f"offset 0 or more, limit 0 to {MAX_PAGE}",
            )
        self.marked.refresh()
        rows = self._engine.rows(query, self.marked)
        chosen = rows[offset : offset + limit]
        return {"total": len(rows), "offset": offset, "tiles": self._tiles(chosen)}

    def all_rows(self, query: Query) -> np.ndarray:
        """Return the rows of a query in its order, int32 [n]; raises UsageError."""
        self.marked.refresh()
        return self._engine.rows(query, self.marked)

    def details(self, row: int) -> dict[str, Any]:
        """Return everything that is known of a tile; raises UsageError where there is none."""
        self.check_row(row)
        columns = self.tiles.columns
        image, mask = columns.image_paths[row].as_py(), columns.mask_paths[row].as_py()
        return {
            **self._tiles(np.array([row]))[0],
            "image_path": None if image is None else visible(image),
            "mask_path": None if mask is None else visible(mask),
            "numbers": {name: _finite(column[row]) for name, column in columns.numbers.items()},
            "details": [
                {**self._finding(finding), "detail": visible(detail)}
                for finding in self.tiles.findings
                if (detail := finding.detail_of(row)) is not None
            ],
            "neighbours": [
                {
                    "row": near.row,
                    "name": visible(columns.tile_ids[near.row].as_py()),
                    "side": near.side,
                    "kind": near.kind,
                    "right_px": near.right_px,
                    "down_px": near.down_px,
                    "share": near.share,
                    "score": near.score,
                    "split": columns.categories["split"].value(near.row),
                }
                for near in self.tiles.neighbours.of_row(row)
            ],
        }

    def points(self, query: Query, source: str, by: str) -> dict[str, Any]:
        """Return tiles of a query as points in two dimensions.

        Args:
            query: Which tiles; evenly spread ones of very many.
            source: `measures` of the audit, `colours` (read from thumbnails), `classes`, or
                `features` of the file that was named.
            by: What they are coloured by: `class`, `split`, `group`, `pool`, `label` or `decision`.

        Raises:
            UsageError: As `QueryEngine.rows`, and for another source or column.
        """
        rows = self.all_rows(query)
        total = len(rows)
        chosen, values, names = self._features_of(np.sort(rows).astype(np.int64), source)
        found = points.to_json(chosen, self._codes(chosen, by), points.project(values, names))
        return {**found, "total": total, "legend": self._legend(by), "sources": self.sources()}

    def sources(self) -> list[str]:
        """Return what points can be made from."""
        columns = self.tiles.columns
        has_measures = any(name in columns.numbers for name in points.MEASURES)
        return [
            *(["features"] if self.features else []),
            *(["measures"] if has_measures else []),
            "colours",
            *(["classes"] if columns.shares.classes else []),
        ]

    def _features_of(
        self, rows: np.ndarray, source: str
    ) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        columns = self.tiles.columns
        if source not in self.sources():
            raise UsageError(
                "points cannot be made from this",
                seen=source[:60],
                expected=", ".join(self.sources()),
            )
        if source == "features" and self.features is not None:
            known, values = self.features.of(rows)
            picked = points.evenly(np.arange(len(known)), points.MAX_POINTS)
            return known[picked], values[picked], self.features.names
        # Of an orphan mask there is no image to measure.
        rows = rows if source == "classes" else rows[columns.has_image[rows]]
        if source == "colours":
            chosen = points.evenly(rows, points.MAX_COLOUR_POINTS)
            measured = [self._colours(row) for row in chosen.tolist()]
            kept = [at for at, found in enumerate(measured) if found is not None]
            values = np.array([measured[at] for at in kept], np.float32)
            return chosen[kept], values.reshape(-1, 6), points.COLOUR_NAMES
        chosen = points.evenly(rows, points.MAX_POINTS)
        measure = points.class_features if source == "classes" else points.measured_features
        return chosen, *measure(columns, chosen)

    def _colours(self, row: int) -> np.ndarray | None:
        """Return colour features of a thumbnail, measured once; None where it is unreadable."""
        if row not in self._colour_features:
            try:
                image = pixels.decode_thumbnail(self.thumbnail(0, row))
                self._colour_features[row] = points.colour_features(image)
            except UnreadableError:
                self._colour_features[row] = None
        return self._colour_features[row]

    def _codes(self, rows: np.ndarray, by: str) -> np.ndarray:
        if by == "class":
            return points.dominant_classes(self.tiles.columns, rows)
        if by == "decision":
            dropped: np.ndarray = self.marked.dropped[rows].astype(np.int32)
            return dropped
        if by not in CATEGORIES:
            raise UsageError(
                "points cannot be coloured by this",
                seen=by[:60],
                expected=", ".join(("class", "decision", *CATEGORIES)),
            )
        codes: np.ndarray = self.tiles.columns.categories[by].codes[rows]
        return codes

    def _legend(self, by: str) -> list[dict[str, Any]]:
        """Return what each code stands for, with a colour where it has one."""
        if by == "class":
            return [_class(cls) for cls in self.tiles.columns.shares.classes]
        names = (
            ("kept", "dropped") if by == "decision" else self.tiles.columns.categories[by].values
        )
        return [{"id": name, "name": visible(name), "colour": None} for name in names]

    def classes(self) -> dict[str, Any]:
        """Return the tables of classes, pairs of classes and image labels."""
        columns = self.tiles.columns
        return {
            "classes": class_rows(columns),
            "pairs": pair_table(columns),
            "image_labels": label_table(columns),
        }

    def groups(self, name: str) -> list[dict[str, Any]]:
        """Return a row a value of a category; raises UsageError for another column."""
        if name not in CATEGORIES:
            raise UsageError("no such category", seen=name[:60], expected=", ".join(CATEGORIES))
        self.marked.refresh()
        return group_rows(self.tiles.columns, name, self.marked.dropped, self.tiles.findings)

    def decisions(self) -> dict[str, Any]:
        """Return how many tiles are dropped, the tags, and whether there is something to undo."""
        self.marked.refresh()
        return {
            "dropped": int(self.marked.dropped.sum()),
            "tags": self.marked.tags,
            "undoable": self.marked.num_undoable,
            "not_here": self.marked.num_foreign,
            "path": visible(str(self.journal.path)),
        }

    def decide(self, action: Action, rows: Iterable[int], tag: str = "") -> dict[str, Any]:
        """Record a decision about tiles and return what holds then.

        Raises:
            UsageError: There is no such tile, or the tag is none.
            OutputError: decisions.csv cannot be written.
        """
        chosen = sorted(set(rows))
        for row in chosen:
            self.check_row(row)
        if not chosen:
            raise UsageError("no tile is chosen")
        ids = self.tiles.columns.tile_ids.take(np.array(chosen)).to_pylist()
        self.journal.append(action, ids, tag)
        return {**self.decisions(), "changed": len(chosen)}

    def undo(self) -> dict[str, Any]:
        """Take the last decision back and return what holds then; raises OutputError."""
        number = self.journal.undo()
        return {**self.decisions(), "undone": number}

    def select(self, rows: Sequence[int]) -> int:
        """Keep a set of tiles for queries and return its number; the oldest are forgotten."""
        for row in rows:
            self.check_row(row)
        with self._lock:
            self._num_selections += 1
            self._selections[self._num_selections] = np.array(sorted(set(rows)), np.int64)
            for number in list(self._selections)[:-_NUM_SELECTIONS]:
                del self._selections[number]
            return self._num_selections

    def thumbnail(self, number: int, row: int) -> bytes:
        """Return a JPEG of the image of a tile; raises UnreadableError, UsageError."""
        tiles = self._set(number, row)
        key = f"image {THUMBNAIL_PX} {tiles.path} {tiles.reader.stamp(row)}"
        return self._caches[number].get(
            key, lambda: pixels.encode_thumbnail(tiles.reader.image(row), THUMBNAIL_PX)
        )

    def overlay(self, number: int, row: int) -> bytes:
        """Return a PNG of 1 + place of the class of each pixel of the small mask, 0 for none;
        raises UnreadableError, also without a mask, and UsageError.
        """
        tiles = self._set(number, row)
        ids = [cls.id for cls in tiles.columns.shares.classes]
        key = f"mask {THUMBNAIL_PX} {tiles.path} {ids} {tiles.reader.stamp(row)}"

        def make() -> bytes:
            small = pixels.small_labels(self._labels(number, row), THUMBNAIL_PX)
            return pixels.encode_numbers(pixels.class_places(small, tiles.reader, ids))

        return self._caches[number].get(key, make)

    def image(self, number: int, row: int) -> bytes:
        """Return a PNG with the pixels of the image; raises UnreadableError, UsageError."""
        return pixels.encode_image(self._set(number, row).reader.image(row))

    def mask(self, number: int, row: int) -> bytes:
        """Return a PNG of 1 + place of the label of each pixel among those of `labels`; raises
        UnreadableError, UsageError.
        """
        labels = self._labels(number, row)
        _, index = np.unique(labels, return_inverse=True)
        return pixels.encode_numbers(np.minimum(index.reshape(labels.shape) + 1, 65535))

    def labels(self, number: int, row: int) -> list[dict[str, Any]]:
        """Return the labels of a mask in order, with pixels and class; raises UnreadableError."""
        tiles = self._set(number, row)
        present, counts = np.unique(self._labels(number, row), return_counts=True)
        own = {cls.id: place for place, cls in enumerate(self.tiles.columns.shares.classes)}
        names = {cls.id: cls for cls in tiles.columns.shares.classes}
        found = []
        for label, class_id, count in zip(
            present.tolist(), tiles.reader.class_ids(present).tolist(), counts.tolist(), strict=True
        ):
            cls = names.get(class_id) or ShownClass(class_id, f"label {label}", "#ff00ff")
            name = tiles.label_map.source_name(label) if tiles.label_map is not None else cls.name
            found.append(
                {
                    "label": label,
                    "label_name": visible(name),
                    "class": _class(cls),
                    "place": own.get(class_id),
                    "pixels": count,
                }
            )
        return found

    def marks(self, row: int, key: str) -> list[list[int]]:
        """Return boxes [top, left, bottom, right] of the places in a mask that a finding speaks
        of; empty for findings about something else. Raises UsageError, UnreadableError.
        """
        self.check_row(row)
        if key not in self.findings:
            raise UsageError("the last audit has no such finding", seen=key[:200])
        mark = self.findings[key].mark
        if mark in (Mark.NONE, Mark.FIT, Mark.SEAM) or (
            mark is Mark.UNMAPPED and self.tiles.label_map is None
        ):
            return []
        found = find_marks(self._labels(0, row), mark, self.tiles.min_area_px, self.tiles.label_map)
        return [list(box) for box in found]

    def check_row(self, row: int) -> None:
        """Raise UsageError for a row that there is not."""
        if not 0 <= row < len(self.tiles):
            raise UsageError(
                "there is no such tile", seen=str(row), expected=f"0 to {len(self.tiles) - 1}"
            )

    def _set(self, number: int, row: int) -> TileSet:
        sets = (self.tiles, *self.others)
        if not 0 <= number < len(sets) or not 0 <= row < len(sets[number]):
            raise UsageError("there is no such tile", seen=f"set {number}, row {row}")
        return sets[number]

    def _labels(self, number: int, row: int) -> np.ndarray:
        """Return the labels of a mask; the last few stay in memory."""
        tiles = self._set(number, row)
        key = (number, f"{row} {tiles.reader.stamp(row)}")
        with self._lock:
            known = self._decoded.get(key)
        if known is None:
            known = tiles.reader.labels(row)
            if known is None:
                raise UnreadableError("there is no mask")
            with self._lock:
                self._decoded[key] = known
                while len(self._decoded) > _NUM_DECODED:
                    self._decoded.popitem(last=False)
        return known

    def _tiles(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Return what the grid shows of tiles."""
        columns = self.tiles.columns
        findings: list[list[str]] = [[] for _ in rows]
        for finding in self.tiles.findings:
            for at, _ in places_in(finding.rows, rows):
                findings[at].append(finding.key)
        tags: list[list[str]] = [[] for _ in rows]
        for tag in self.marked.tags:
            for at, _ in places_in(self.marked.tagged(tag), rows):
                tags[at].append(tag)
        classes = columns.shares.of_rows(rows)
        return [
            {
                "row": row,
                "name": visible(columns.tile_ids[row].as_py()),
                **{name: _named(columns.categories[name].value(row)) for name in CATEGORIES},
                "has_image": bool(columns.has_image[row]),
                "has_mask": bool(columns.has_mask[row]),
                "width_px": _finite(columns.numbers["width_px"][row]),
                "height_px": _finite(columns.numbers["height_px"][row]),
                "classes": classes[at][:_MAX_CLASSES_A_TILE],
                "findings": findings[at],
                "dropped": bool(self.marked.dropped[row]),
                "tags": tags[at],
                "beside": [_row_or_none(own[row]) for own in self._beside],
            }
            for at, row in enumerate(rows.tolist())
        ]

    def _finding(self, finding: TileFinding) -> dict[str, Any]:
        return {
            "key": finding.key,
            "code": finding.code,
            "name": finding.name,
            "subcode": visible(finding.subcode),
            "where": visible(finding.where),
            "severity": finding.severity,
            "num_named": finding.num_named,
            "num_tiles": len(finding.rows),
            "definition": finding.definition,
            "has_marks": finding.mark in (Mark.SPECKS, Mark.HAIRLINES, Mark.UNMAPPED),
        }


def _class(cls: ShownClass) -> dict[str, Any]:
    return {"id": cls.id, "name": visible(cls.name), "colour": cls.colour}


def _named(value: str | None) -> str | None:
    return None if value is None else visible(value)


def _row_or_none(row: int) -> int | None:
    return None if row < 0 else int(row)


def _finite(value: np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _limits(column: np.ndarray) -> list[float] | None:
    """Return the smallest and largest value, None where all are null."""
    known = column[np.isfinite(column)]
    return [float(known.min()), float(known.max())] if len(known) else None
