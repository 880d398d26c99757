"""The findings of the last audit by tile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.catalogue import all_rules
from histoprep.choices import Severity
from histoprep.errors import IntegrityError
from histoprep.findings import Mark
from histoprep.schemas.findings import read_findings

_NO_ROWS = np.zeros(0, np.int32)


@dataclass(frozen=True)
class TileFinding:
    """A finding and the tiles that it names.

    Attributes:
        key: What the page calls it by: code, subcode and place.
        code: Such as HP408.
        name: Such as speck-labels.
        subcode: Part of the rule, or empty.
        severity: error, warning or info.
        where: The group, folder or split it is about, or empty.
        num_named: How many files, groups or classes it names.
        definition: What it means.
        mark: What it marks in masks.
        rows: The tiles, int32, ascending, each once.
        details: What was seen in each of them.
    """

    key: str
    code: str
    name: str
    subcode: str
    severity: str
    where: str
    num_named: int
    definition: str
    mark: Mark
    rows: np.ndarray
    details: pa.Array

    def detail_of(self, row: int) -> str | None:
        """Return what was seen in a tile, None where it is not named."""
        at = int(np.searchsorted(self.rows, row))
        if at == len(self.rows) or self.rows[at] != row:
            return None
        return str(self.details[at].as_py() or "")


@dataclass
class RowNames:
    """What findings can name tiles by: their paths, ids and groups."""

    columns: Mapping[str, pa.ChunkedArray]
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def find(self, names: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of (row, place in `names`) as two int64 arrays."""
        rows, places = [], []
        for column in self.columns.values():
            index = pc.index_in(column, value_set=names)
            found = pc.is_valid(index).to_numpy()
            rows.append(np.flatnonzero(found))
            places.append(index.drop_null().to_numpy())
        return np.concatenate(rows), np.concatenate(places)


def read_tile_findings(
    path: Path, names: RowNames, tiles_digest: str
) -> tuple[list[TileFinding], str]:
    """Return the findings of an audit, worst first, and a note where they cannot be shown.

    Args:
        path: findings.parquet.
        names: What tiles are called.
        tiles_digest: The digest of the tiles table; findings of another one are left out.
    """
    try:
        header, batches = read_findings(path)
        table = pa.concat_tables(list(batches))
    except FileNotFoundError:
        return [], "there was no audit yet: findings appear after histoprep audit"
    except IntegrityError as error:
        return [], f"the findings cannot be read: {error.what}"
    except pa.ArrowInvalid:
        return [], ""
    if header.get("tiles_digest") not in (None, tiles_digest):
        return [], "files changed since the last audit: findings appear after histoprep audit"
    return sorted(_group(table, names), key=_order), ""


def _order(finding: TileFinding) -> tuple[int, str, str, str]:
    rank = Severity(finding.severity).rank
    return (-rank, finding.code, finding.subcode, finding.where)


def _group(table: pa.Table, names: RowNames) -> Iterable[TileFinding]:
    rules = all_rules()
    paths = table["path"].combine_chunks()
    distinct = pc.unique(paths)
    rows, places = names.find(distinct)
    order = np.argsort(places, kind="stable")
    rows, places = rows[order], places[order]
    index = pc.index_in(paths, value_set=distinct).to_numpy()
    for keys, own in _by_key(table):
        code, subcode, where, name, severity = keys
        wanted = index[own]
        starts = np.searchsorted(places, wanted, side="left")
        ends = np.searchsorted(places, wanted, side="right")
        counts = ends - starts
        taken = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        found = rows[taken].astype(np.int32) if len(taken) else _NO_ROWS
        sources = np.repeat(own, counts)
        unique, first = np.unique(found, return_index=True)
        rule = rules.get(code)
        yield TileFinding(
            key="/".join(part for part in (code, subcode, where) if part),
            code=code,
            name=name,
            subcode=subcode,
            severity=severity,
            where=where,
            num_named=len(own),
            definition=rule.definition if rule else "",
            mark=rule.mark if rule else Mark.NONE,
            rows=unique,
            details=table["detail"].take(pa.array(sources[first])).combine_chunks(),
        )


def _by_key(table: pa.Table) -> Iterable[tuple[tuple[str, ...], np.ndarray]]:
    names = ("code", "subcode", "where", "name", "severity")
    encoded = [pc.fill_null(table[name], "").combine_chunks().dictionary_encode() for name in names]
    codes = np.stack([column.indices.to_numpy() for column in encoded], axis=1)
    if not len(codes):
        return
    groups, place = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(place.reshape(-1), kind="stable")
    bounds = np.flatnonzero(np.diff(place.reshape(-1)[order])) + 1
    for group, own in zip(groups, np.split(order, bounds), strict=True):
        yield (
            tuple(
                str(column.dictionary[int(code)].as_py())
                for column, code in zip(encoded, group, strict=True)
            ),
            own,
        )
