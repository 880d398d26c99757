"""Tiles that a user leaves out: by finding, by list, or all but a sample."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from histoprep import tables
from histoprep.digests import hash_text
from histoprep.errors import UsageError
from histoprep.manifest.inclusion import CHOICE, CHOICES, INCLUDED
from histoprep.name_index import NameIndex
from histoprep.names import to_text
from histoprep.phrases import plural, unmatched_warning
from histoprep.scanning.dataset_csv import NAME_COLUMNS
from histoprep.schemas.decisions import is_decisions, read_dropped
from histoprep.schemas.findings import read_findings
from histoprep.schemas.repaired import RepairedMasks, TileRows
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.text_table import read_text_table
from histoprep.tiles.table import TileTable

_BY_FINDING, _BY_DROP_LIST, _BY_KEEP_LIST, _BY_SAMPLE = range(len(CHOICES))
_KEYS = ("tile_id", "image_path", "mask_path")
_START_BYTES = 256


@dataclass(frozen=True, slots=True)
class ChoiceOptions:
    """What a user leaves out of a manifest.

    Attributes:
        findings: Codes of rules; the tiles whose files their findings name are left out.
        drop_list: Table or list of tiles to leave out.
        keep_list: Table or list of tiles; all others are left out.
        sample: So many tiles are taken of what is left, the same ones every time.
    """

    findings: tuple[str, ...] = ()
    drop_list: Path | None = None
    keep_list: Path | None = None
    sample: int | None = None

    def __bool__(self) -> bool:
        """Return whether anything is left out."""
        return bool(self.findings) or any(
            value is not None for value in (self.drop_list, self.keep_list, self.sample)
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows of a tiles table are left out.

    Attributes:
        reasons: int8 [rows], in order of the table: an index of `CHOICES`, or `INCLUDED`.
        by_code: How many tiles each finding leaves out.
        options: What was chosen.
        warnings: What lists name that is no tile.
    """

    reasons: np.ndarray
    by_code: Mapping[str, int]
    options: ChoiceOptions
    warnings: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the options and the numbers of tiles, for the manifest; empty without any."""
        options = self.options
        described: dict[str, Any] = {}
        if options.findings:
            described["findings"] = {code: self.by_code.get(code, 0) for code in options.findings}
        for name, path, reason in (
            ("drop_list", options.drop_list, _BY_DROP_LIST),
            ("keep_list", options.keep_list, _BY_KEEP_LIST),
        ):
            if path is not None:
                described[name] = {"path": str(path), "tiles": self._number(reason)}
        if options.sample is not None:
            described["sample"] = {"size": options.sample, "tiles": self._number(_BY_SAMPLE)}
        return described

    def _number(self, reason: int) -> int:
        return int((self.reasons == reason).sum())


class ChosenRows:
    """The rows of a tiles table with a further column, `CHOICE`: why a user leaves a tile out."""

    def __init__(self, rows: TileRows, choice: Choice) -> None:
        """Read nothing yet."""
        self._rows, self._choice = rows, choice

    @property
    def num_rows(self) -> int:
        """Return the number of rows, orphan masks too."""
        return self._rows.num_rows

    @property
    def repaired(self) -> RepairedMasks | None:
        """Return the repaired masks, or None."""
        return self._rows.repaired

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the lists of a user name that is no tile, in words."""
        return self._choice.warnings

    def describe_choice(self) -> dict[str, Any]:
        """Return what is left out on demand, for the manifest; empty for nothing."""
        return self._choice.describe()

    def read_batches(
        self, columns: Sequence[str], rows: int = tables.ROW_GROUP_ROWS
    ) -> Iterator[pa.Table]:
        """Yield the rows as `TileRows` does, with `CHOICE` (int8) where that is among `columns`."""
        end = 0
        for batch in self._rows.read_batches([name for name in columns if name != CHOICE], rows):
            start, end = end, end + batch.num_rows
            yield (
                batch.append_column(CHOICE, pa.array(self._choice.reasons[start:end]))
                if CHOICE in columns
                else batch
            )


def choose_tiles(
    workspace: Workspace, rows: TileRows, options: ChoiceOptions, tiles_digest: str
) -> Choice:
    """Return which tiles of a tiles table are left out.

    Raises:
        UsageError: The last audit did not look for a finding, or looked at other files; a list
            names no tile, or a name in it fits several.
        IntegrityError: The table of findings is damaged.
    """
    reasons = np.full(rows.num_rows, INCLUDED, dtype=np.int8)
    by_code: Counter[str] = Counter()
    if not options:
        return Choice(reasons, by_code, options)
    named = _files_of_findings(workspace, options.findings, tiles_digest)
    drop = _open_list(options.drop_list, "--drop-list") if options.drop_list else None
    keep = _List(options.keep_list, "--keep-list") if options.keep_list else None
    # Tiles that are no rest of a sample rank last.
    ranks = np.full(rows.num_rows, np.iinfo(np.uint64).max, dtype=np.uint64)
    row = 0
    stored = _stored_masks(workspace) if named else None
    for batch in rows.read_batches(_KEYS):
        # Findings name masks by their own paths, rows those of the repaired copies.
        own = (
            batch["mask_path"] if stored is None else stored.slice(row, batch.num_rows)
        ).to_pylist()
        keys = (batch[name].to_pylist() for name in _KEYS)
        for tile, image, mask, stored_mask in zip(*keys, own, strict=True):
            # Both lists see every tile, since each is judged by the tiles that it names.
            is_dropped = drop is not None and drop.names(tile, image, mask)
            is_kept = keep is None or keep.names(tile, image, mask)
            if is_dropped:
                reasons[row] = _BY_DROP_LIST
            elif not is_kept:
                reasons[row] = _BY_KEEP_LIST
            elif (code := named.get(image) or named.get(stored_mask)) is not None:
                reasons[row] = _BY_FINDING
                by_code[code] += 1
            elif image is not None:
                ranks[row] = hash_text(tile)
            row += 1
    lists = [given for given in (drop, keep) if given is not None]
    for given in lists:
        given.refuse_foreign()
    if options.sample is not None:
        order = np.argsort(ranks, kind="stable")
        rest = order[options.sample :]
        reasons[rest[reasons[rest] == INCLUDED]] = _BY_SAMPLE
    warnings = tuple(warning for given in lists for warning in given.warnings())
    return Choice(reasons, by_code, options, warnings)


def _stored_masks(workspace: Workspace) -> pa.ChunkedArray:
    """Return the path of each mask in the tiles table, in order."""
    opened, _ = open_tiles_table(workspace.tiles)
    return tables.read_table(opened, ["mask_path"])["mask_path"]


def _files_of_findings(
    workspace: Workspace, codes: Sequence[str], tiles_digest: str
) -> Mapping[str | None, str]:
    """Return the code of a finding by the path of each file that it names."""
    if not codes:
        return {}
    again = f"histoprep audit {shlex.quote(to_text(str(workspace.root)))}"
    try:
        header, batches = read_findings(workspace.findings)
    except FileNotFoundError:
        raise UsageError(
            "--exclude needs the findings of an audit, and there was none",
            path=workspace.findings,
            hint=again,
        ) from None
    rules = header.get("rules", {})
    for code in codes:
        if code not in rules:
            raise UsageError(
                f"the last audit did not look for {code}",
                path=workspace.findings,
                seen=", ".join(sorted(rules)),
                hint=again,
            )
        if rules[code] != "tile":
            raise UsageError(
                f"--exclude leaves out tiles, and findings of {code} name none",
                seen=code,
                expected="rules that name files: "
                + ", ".join(sorted(code for code, scope in rules.items() if scope == "tile")),
            )
    if header.get("tiles_digest") != tiles_digest:
        raise UsageError(
            "files or groups changed since the last audit, so that its findings may be of others",
            path=workspace.findings,
            hint=again + _grouping(workspace),
        )
    named: dict[str | None, str] = {}
    for batch in batches:
        for code, path in zip(batch["code"].to_pylist(), batch["path"].to_pylist(), strict=True):
            if code in codes:
                named.setdefault(path, code)
    return named


def _grouping(workspace: Workspace) -> str:
    """Return the option of an audit that groups as the tiles table does, with a space before it."""
    group_by = TileTable(workspace).requested.scan.group_by
    return "" if group_by is None else f" --group-by {shlex.quote(group_by)}"


class _List:
    """The tiles that a list names, by id or by the path of image or mask."""

    def __init__(self, path: Path, option: str) -> None:
        self._path, self._option = path, option
        rows = read_text_table(path, "the list").rows
        header = [cell.lower() for cell in rows[0]] if rows else []
        at = next(
            (header.index(name) for name in ("tile_id", *NAME_COLUMNS) if name in header), None
        )
        self._names = [row[at or 0] for row in rows[at is not None :] if len(row) > (at or 0)]
        self._index = NameIndex(self._names)
        self._tiles: dict[str, str] = {}

    def names(self, tile: str, image: str | None, mask: str | None) -> bool:
        """Return whether the list names a tile; raises UsageError for a name that fits several."""
        name = next(
            (
                name
                for path in (tile, image, mask)
                if path is not None and (name := self._index.find(path)) is not None
            ),
            None,
        )
        if name is not None and self._tiles.setdefault(name, tile) != tile:
            raise UsageError(
                f"a name in the list of {self._option} fits several tiles",
                path=self._path,
                seen=f"{name} for {self._tiles[name]} and {tile}",
                expected="names with the folders that tell them apart",
            )
        return name is not None

    def refuse_foreign(self) -> None:
        """Raise UsageError when none of the names fits a tile."""
        strange = self._strange()
        if strange and not self._tiles:
            raise UsageError(
                f"the list of {self._option} names no tile",
                path=self._path,
                seen=f"{plural(len(strange), 'name')}, such as {strange[0]}",
                expected="tile ids, or paths of images or masks",
            )

    def warnings(self) -> Iterator[str]:
        """Yield in words that some names fit no tile."""
        if strange := self._strange():
            yield unmatched_warning(f"the list of {self._option}", strange, len(self._names))

    def _strange(self) -> list[str]:
        return [name for name in self._names if name and name not in self._tiles]


class _Decided(_List):
    """The tiles that decisions.csv drops in the end: by their exact ids, as `browse` wrote them."""

    def __init__(self, path: Path, option: str) -> None:
        self._path, self._option = path, option
        self._names = list(read_dropped(path))
        self._dropped = frozenset(self._names)
        self._tiles = {}

    def names(self, tile: str, image: str | None, mask: str | None) -> bool:
        """Return whether the tile is dropped."""
        if tile not in self._dropped:
            return False
        self._tiles[tile] = tile
        return True


def _open_list(path: Path, option: str) -> _List:
    """Return the list in a file, or what decisions.csv says."""
    if path.is_file():
        with path.open("rb") as stream:
            start = stream.read(_START_BYTES)
        if is_decisions(start):
            return _Decided(path, option)
    return _List(path, option)
