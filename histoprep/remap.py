"""Masks -> masks of classes: a tree of 8-bit PNG files, a ledger of what became of each mask, a seal.

`plan_remap` checks everything that can be checked before a file is written; `run_remap` does the work.
Partitions of the masks become ledger parts, each written after its files were synced, so a
stopped run goes on where it was. The tree has the relative paths of the masks, with the suffix
`.png`, and beside them `remap.json` (what was asked for), `label_map.yml`, `ledger.parquet` and, last of
all, `_SUCCESS.json`. Its bytes do not depend on workers, partitions or interruptions.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from histoprep import __version__, durable, tables, tiles
from histoprep.digests import RunningDigest, digest, digest_text, hash_text
from histoprep.errors import BrokenFileError, IncompleteError, IntegrityError, OutputError, UnmappedLabelError, UsageError
from histoprep.execution import Engine, run_tasks
from histoprep.execution_marker import Marker
from histoprep.labels import UNMAPPED, LabelMap, TargetClass, format_label_map
from histoprep.manifest import file_digest
from histoprep.names import to_name, to_text
from histoprep.read_ahead import FileStat, Request, read_ahead, stat_file
from histoprep.remap_evidence import already_remapped
from histoprep.workspace import Workspace

KIND = "remap-ledger"
SCHEMA_VERSION = "1.0"
LEDGER, REQUEST, LABEL_MAP, SUCCESS = "ledger.parquet", "remap.json", "label_map.yml", "_SUCCESS.json"
PARTS = ".hp-parts"
PARTITION_MASKS = 1000
TIME_LIMIT_S = 60.0
WRITTEN, FAILED = "written", "failed"

_PART_KIND = "remap-ledger-part"
_OURS = frozenset({LEDGER, REQUEST, LABEL_MAP, SUCCESS, PARTS, ".lock"})
_MAX_CLASS_ID = 255
_NUM_SHOWN = 10
_NUM_FAILED_KEPT = 1000
_NUM_REMEMBERED = 256
_NAMES_AT_ONCE = 8192
_UNKNOWN_WORDS = ("unknown", "unlabel", "undefined", "void", "ignore")


Advance = Callable[[int, int], object]


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


def _column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"meaning": meaning})


LEDGER_SCHEMA = pa.schema(
    [
        _column("mask_path", pa.string(), "path of the mask relative to the data set"),
        _column("output_path", pa.string(), "path of the new mask relative to this folder; null when failed"),
        _column("source_digest", pa.string(), "XXH3-128 of the mask, hex; null when it could not be read"),
        _column("output_digest", pa.string(), "XXH3-128 of the new mask, hex; null when failed"),
        _column("output_bytes", pa.int64(), "size of the new mask; null when failed"),
        _column("class_pixels", pa.list_(pa.int64()), "pixels of each class of the label map, in its order; null when failed"),
        _column("status", pa.string(), "written or failed"),
        _column("reason", pa.string(), "why it failed: code, subcode and words; null when written"),
    ]
)


class OnUnmapped(StrEnum):
    """What becomes of values that the label map does not list."""

    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RemapOptions:
    """How to remap.

    `out` is the new tree, by default `masks-<map>` in the workspace. `force` remaps masks that look
    remapped already, and replaces a tree that was made with another map or other options.
    """

    out: Path | None = None
    on_unmapped: OnUnmapped = OnUnmapped.ERROR
    force: bool = False
    partition_masks: int = PARTITION_MASKS
    time_limit_s: float = TIME_LIMIT_S


class FailedMask(NamedTuple):
    """A mask that was not remapped, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemapResult:
    """What a remap came to.

    `class_pixels` is in the order of the map's classes; `failed` holds the first 1,000, the ledger all;
    `unexpected` names files in the tree that remap did not write; `up_to_date` when nothing had to be done.
    """

    out: Path
    label_map: LabelMap
    num_written: int
    num_failed: int
    class_pixels: tuple[int, ...]
    failed: tuple[FailedMask, ...]
    num_stale_removed: int = 0
    unexpected: tuple[str, ...] = ()
    up_to_date: bool = False

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.out / LEDGER


class MaskRow(NamedTuple):
    """What tiles.parquet says of one mask; `failure` is the reason why it cannot be remapped, or None."""

    path: str
    num_bytes: int
    mtime_ns: int
    digest: str | None
    failure: str | None
    ids: tuple[int, ...]
    pixels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How labels become classes: `table` is uint8 [65536] as bytes, `no_class` stands in it for values without one.

    `no_class` is None when every value has a class, or every byte is one. `note` goes into each new mask.
    """

    table: bytes
    class_ids: tuple[int, ...]
    no_class: int | None
    note: str

    @classmethod
    def of(cls, label_map: LabelMap, on_unmapped: OnUnmapped) -> Recipe:
        """Return the recipe; raises UsageError for classes above 255 (HP505) or without a class for unknown values."""
        ids = tuple(one.id for one in label_map.classes)
        if ids[-1] > _MAX_CLASS_ID:
            raise UsageError("HP505 map-overflow: new masks have 8 bits", seen=f"class {ids[-1]} of {label_map.name}", expected="class ids 0 to 255")
        unknown = unknown_class(label_map).id if on_unmapped is OnUnmapped.UNKNOWN else None
        no_class = next((one for one in range(_MAX_CLASS_ID, -1, -1) if one not in ids), None) if unknown is None else None
        table = label_map.lookup_table()
        table[table == UNMAPPED] = unknown or no_class or 0
        return cls(table.astype(np.uint8).tobytes(), ids, no_class, f"{label_map.name} {label_map.digest}")

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Return the classes, uint8, of labels, uint8 or uint16 [height, width].

        Raises BrokenFileError for a picture that is no class map, and for values without a class.
        """
        import cv2

        if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16):
            raise BrokenFileError("HP402 mask-wrong-mode", f"no class map: {labels.dtype} of {labels.ndim} dimensions")
        table = np.frombuffer(self.table, np.uint8)
        if labels.dtype == np.uint16 and labels.max() < 1 << 8:
            labels = labels.astype(np.uint8)
        classes = cv2.LUT(labels, table[:256]) if labels.dtype == np.uint8 else table[labels]
        if self.no_class is not None and (classes == self.no_class).any():
            raise BrokenFileError("HP501 unmapped-label", "it holds values that are not in the tiles table")
        return classes

    def count(self, row: MaskRow) -> list[int]:
        """Return the pixels of each class that this mask will have."""
        pixels: Counter[int] = Counter()
        for label, number in zip(row.ids, row.pixels, strict=True):
            pixels[self.table[label]] += number
        return [pixels[one] for one in self.class_ids]


def unknown_class(label_map: LabelMap) -> TargetClass:
    """Return the class for values that nobody listed: the one called Unknown, or class 0 if its name says so.

    Raises UsageError when there is none.
    """
    for one in label_map.classes:
        if one.name.casefold() == "unknown":
            return one
    first = label_map.classes[0]
    if first.id == 0 and any(word in first.name.casefold() for word in _UNKNOWN_WORDS):
        return first
    raise UsageError(
        f"--on-unmapped unknown needs a class for unknown values, and {label_map.name} has none",
        seen=", ".join(f"{one.id} {one.name}" for one in label_map.classes[:_NUM_SHOWN]),
        expected="a class called Unknown, or a class 0 named like it",
        hint="add such a class to the label map, or list the values",
    )


class _Remapper:
    """Turns bytes into a new mask and its digest; identical bytes are remapped once."""

    def __init__(self, recipe: Recipe) -> None:
        # Decoders take longest to import, and only workers need them.
        from histoprep import imageio

        self._imageio = imageio
        self._recipe = recipe
        self._known: dict[str, tuple[bytes, str]] = {}

    def __call__(self, data: bytes, key: str) -> tuple[bytes, str]:
        found = self._known.get(key)
        if found is None:
            classes = self._recipe.apply(self._imageio.decode_mask(data, self._imageio.read_header(data)))
            encoded = self._imageio.encode_mask_png(classes, {self._imageio.LABEL_MAP_TEXT: self._recipe.note})
            found = encoded, digest(encoded)
            if len(self._known) >= _NUM_REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[key] = found
        return found


@dataclass(frozen=True, slots=True)
class RemapTask:
    """One partition: writes its new masks, syncs them, then writes their part of the ledger."""

    root: str
    out: str
    rows: tuple[MaskRow, ...]
    recipe: Recipe
    max_file_bytes: int
    part: Path
    marker: Path
    time_limit_s: float
    left_out: tuple[tuple[int, str], ...] = ()

    def run(self) -> Path:
        """Do the work unless it is done, and return the path of the part; raises OutputError."""
        if self.is_done():
            return self.part
        try:
            with contextlib.closing(Marker(self.marker, self.time_limit_s)) as marker:
                rows = list(self._remap(marker))
            # Its files first: a part promises them.
            durable.sync_file_system(Path(self.out))
        except OSError as error:
            raise OutputError.from_os_error(error, error.filename or self.out) from error
        ledger = tiles.to_table(rows, LEDGER_SCHEMA)
        tables.write_table(self.part, [ledger], LEDGER_SCHEMA, kind=_PART_KIND, schema_version=SCHEMA_VERSION, metadata={})
        return self.part

    def without(self, index: int, reason: str) -> RemapTask:
        """Return the task that reports item `index` as failed instead of decoding it."""
        return replace(self, left_out=(*self.left_out, (index, reason)))

    def is_done(self) -> bool:
        """Return whether the part is there, its files have their sizes, and nothing failed that could be tried again."""
        if not self.part.exists():
            return False
        try:
            ledger = tables.read_table(_open_ledger(self.part, _PART_KIND), ["output_path", "output_bytes"])
        except IntegrityError:
            return False
        num_refused = sum(one.failure is not None for one in self.rows)
        return ledger["output_path"].null_count == num_refused and _all_there(Path(self.out), ledger)

    def _remap(self, marker: Marker) -> Iterator[dict[str, Any]]:
        failures = {index: row.failure for index, row in enumerate(self.rows) if row.failure}
        failures |= {index: f"HP201 worker-died: {reason}" for index, reason in self.left_out}
        chosen = [row for index, row in enumerate(self.rows) if index not in failures]
        contents = read_ahead([Request(_beside(self.root, row.path), FileStat(row.num_bytes, row.mtime_ns)) for row in chosen], self.max_file_bytes)
        remapper, folders = _Remapper(self.recipe), set[str]()
        for index, row in enumerate(self.rows):
            marker.at(index)
            if index in failures:
                yield _failed(row, failures[index])
                continue
            try:
                yield self._write(row, next(contents), remapper, folders)
            except BrokenFileError as error:
                yield _failed(row, f"{error.verdict}: {error.detail}")

    def _write(self, row: MaskRow, data: bytes | BrokenFileError, remapper: _Remapper, folders: set[str]) -> dict[str, Any]:
        if isinstance(data, BrokenFileError):
            raise data
        key = digest(data)
        if key != row.digest:
            raise BrokenFileError("HP206 changed", "its bytes are not those that were audited")
        encoded, output_digest = remapper(data, key)
        name = output_name(row.path)
        path = Path(_beside(self.out, name))
        try:
            if (folder := str(path.parent)) not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(folder)
            durable.publish_in_batch(path, encoded)
        except OSError as error:
            raise OutputError.from_os_error(error, path) from error
        return {
            "mask_path": row.path,
            "output_path": name,
            "source_digest": key,
            "output_digest": output_digest,
            "output_bytes": len(encoded),
            "class_pixels": self.recipe.count(row),
            "status": WRITTEN,
        }


def _failed(row: MaskRow, reason: str | None) -> dict[str, Any]:
    return {"mask_path": row.path, "source_digest": row.digest, "status": FAILED, "reason": reason}


def _beside(folder: str | Path, path: str) -> str:
    return os.path.join(folder, to_name(path))


def _open_ledger(path: Path, kind: str = KIND) -> Any:
    return tables.open_table(path, kind=kind, schema_version=SCHEMA_VERSION)[0]


def _all_there(out: Path, ledger: pa.Table) -> bool:
    for name, size in zip(ledger["output_path"].to_pylist(), ledger["output_bytes"].to_pylist(), strict=True):
        if name is not None and (stat_file(_beside(out, name)) or (None,))[0] != size:
            return False
    return True


def output_name(mask_path: str) -> str:
    """Return the path of the new mask of `mask_path`: the same with the suffix .png."""
    folder, slash, name = mask_path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.png"


@dataclass(frozen=True, slots=True)
class RemapPlan:
    """Everything decided before the first file is written; `inputs` is the digest of the masks to remap."""

    workspace: Workspace
    label_map: LabelMap
    options: RemapOptions
    out: Path
    recipe: Recipe
    request: dict[str, Any]
    max_file_bytes: int
    num_masks: int
    num_refused: int
    inputs: str
    tiles_stat: FileStat | None

    def tasks(self) -> Iterator[RemapTask]:
        """Yield the partitions in order of the tiles table."""
        how = (SCHEMA_VERSION, __version__, self.recipe.note, self.recipe.class_ids, digest(self.recipe.table))
        rows = mask_rows(self.workspace.tiles)
        while chosen := tuple(itertools.islice(rows, self.options.partition_masks)):
            key = digest_text(repr((how, [(one.path, one.digest, one.failure) for one in chosen])))
            part = self.out / PARTS / f"{key}.parquet"
            limits = self.max_file_bytes, part, part.with_suffix(".at"), self.options.time_limit_s
            yield RemapTask(str(self.workspace.root), str(self.out), chosen, self.recipe, *limits)


_COLUMNS = (
    "mask_path", "mask_bytes", "mask_mtime_ns", "mask_digest", "mask_error", "mask_error_detail",
    "mask_mode", "mask_colours", "mask_channels_equal", "label_ids", "label_pixels",
)  # fmt: skip


def mask_rows(table: Path) -> Iterator[MaskRow]:
    """Yield every mask of a tiles table, orphan masks too, in its order."""
    opened, _ = tables.open_table(table, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION)
    for batch in tables.read_batches(opened, _COLUMNS, rows=8192):
        columns = (batch[one].to_pylist() for one in _COLUMNS)
        for path, size, time, key, error, detail, mode, colours, equal, ids, pixels in zip(*columns, strict=True):
            if path is None:
                continue
            failure = f"{error}: {detail}" if error else None
            if failure is None and ids is None:
                failure = f"HP402 mask-wrong-mode: {_wrong_mode(mode, colours, equal)}"
            yield MaskRow(path, size or 0, time or 0, key, failure, tuple(ids or ()), tuple(pixels or ()))


def _wrong_mode(mode: str, colours: int | None, channels_equal: bool | None) -> str:
    kind = f"mode {mode}{f' with {colours} colours' if colours is not None else ''} is no class map"
    if channels_equal:
        return f"{kind}; its channels are equal, so save one of them as 8-bit grey"
    return f"{kind}; save label ids as 8-bit grey, not colours"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


@dataclass(slots=True)
class _Survey:
    """One look at all masks: what they hold and what they will be called."""

    tiles: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    examples: dict[int, str] = field(default_factory=dict)
    names: array[int] = field(default_factory=lambda: array("Q"))
    num_refused: int = 0
    digest: RunningDigest = field(default_factory=RunningDigest)

    @classmethod
    def of(cls, table: Path) -> _Survey:
        survey = cls()
        for row in mask_rows(table):
            survey.digest.update(f"{row.path}\0{row.digest}\0{row.failure}")
            survey.names.append(hash_text(output_name(row.path)))
            survey.num_refused += row.failure is not None
            for label, number in zip(row.ids, row.pixels, strict=True):
                survey.tiles[label] += 1
                survey.pixels[label] += number
                survey.examples.setdefault(label, row.path)
        return survey

    def refuse_unmapped(self, label_map: LabelMap) -> None:
        unmapped = sorted(set(self.tiles) - set(label_map.mapping))
        if not unmapped:
            return
        shown = [
            f"{one} ({_many(self.pixels[one], 'pixel')} in {_many(self.tiles[one], 'tile')}, such as {self.examples[one]})"
            for one in unmapped[:_NUM_SHOWN]
        ]
        more = f" and {len(unmapped) - _NUM_SHOWN} more" if len(unmapped) > _NUM_SHOWN else ""
        ids = [one.id for one in label_map.sources]
        raise UnmappedLabelError(
            f"HP501 unmapped-label: the masks hold {_many(len(unmapped), 'value')} that {label_map.name} does not list",
            seen="; ".join(shown) + more,
            expected=f"{_many(len(ids), 'source label')} from {min(ids, default=0)} to {max(ids, default=0)}",
            hint="add them to the label map, or make them unknown with --on-unmapped unknown; histoprep audit looks for the cause",
        )

    def refuse_collisions(self, table: Path) -> None:
        hashes = np.sort(np.array(self.names, np.uint64))
        doubled = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        first: dict[str, str] = {}
        for row in mask_rows(table) if doubled else ():
            name = output_name(row.path)
            if hash_text(name) in doubled and first.setdefault(name, row.path) != row.path:
                raise UsageError(
                    "two masks would become the same file",
                    path=name,
                    seen=f"{first[name]} and {row.path}",
                    hint="keep one of them: they belong to one image (HP104)",
                )


def plan_remap(workspace: Workspace, label_map: LabelMap, options: RemapOptions | None = None) -> RemapPlan:
    """Return the plan of a remap; nothing is written.

    Raises UnmappedLabelError for values without a class; UsageError when the masks were remapped
    before (HP508), when two would become one file, for an unusable `out`, or when tiles.parquet is missing or partial.
    """
    options = options or RemapOptions()
    tiles_stat = stat_file(str(workspace.tiles))
    header = _complete_table(workspace.tiles)
    out = _usable_out(workspace, label_map, options, header["options"]["scan"]["unlabelled"])
    recipe = Recipe.of(label_map, options.on_unmapped)
    request = {"root": str(workspace.root), "label_map": json.loads(label_map.to_json()), "on_unmapped": str(options.on_unmapped)}
    if not options.force:
        _refuse_other_request(out, request)
    survey = _Survey.of(workspace.tiles)
    evidence = None if options.force else already_remapped(label_map, survey.tiles, _notes(workspace.tiles))
    if evidence:
        raise UsageError(
            "HP508 already-remapped: these masks hold classes, and remapping them again would mix these up",
            path=workspace.root,
            seen=evidence,
            hint=f"remap the original masks; if these classes are what {label_map.name} lists as its source labels, use --force",
        )
    if options.on_unmapped is OnUnmapped.ERROR:
        survey.refuse_unmapped(label_map)
    survey.refuse_collisions(workspace.tiles)
    numbers = header["options"]["tiles"]["max_file_bytes"], len(survey.names), survey.num_refused
    return RemapPlan(workspace, label_map, options, out, recipe, request, *numbers, survey.digest.value(), tiles_stat)


def _complete_table(path: Path) -> dict[str, Any]:
    try:
        _, header = tables.open_table(path, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION)
    except FileNotFoundError:
        raise UsageError("there is no tiles table yet", path=path, hint="histoprep audit") from None
    if header["options"]["sample"] is not None or header["options"]["tiles"]["headers_only"]:
        raise UsageError("the tiles table was made by a quick or sampling audit", path=path, expected="a table of all tiles", hint="histoprep audit")
    return header


def _notes(table: Path) -> set[str]:
    opened, _ = tables.open_table(table, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION)
    notes: set[str] = set()
    for batch in tables.read_batches(opened, ["mask_label_map"]):
        notes.update(batch["mask_label_map"].unique().drop_null().to_pylist())
    return notes


def _usable_out(workspace: Workspace, label_map: LabelMap, options: RemapOptions, unlabelled: list[str]) -> Path:
    """Return the absolute folder of the new tree; raises UsageError where it would touch the data or other results."""
    out = (options.out or workspace.masks(label_map.name)).absolute()
    real = out.resolve()
    for folder in (workspace.root, *(Path(one).resolve() for one in unlabelled)):
        if real.is_relative_to(folder) or folder.is_relative_to(real):
            raise UsageError("new masks must not mix with the data set", path=out, seen=f"data in {folder}", hint="name another --out")
    if workspace.folder.resolve().is_relative_to(real):
        raise UsageError("new masks need a folder of their own", path=out, seen="it holds the workspace", hint="name a new folder with --out")
    if out.exists() and not out.is_dir():
        raise UsageError("new masks need a folder", path=out, seen="a file of that name")
    return out


def _refuse_other_request(out: Path, request: dict[str, Any]) -> None:
    earlier = _read_json(out / REQUEST)
    for name, what in (("root", "data set"), ("label_map", "label map"), ("on_unmapped", "--on-unmapped")):
        if earlier is not None and earlier.get(name) != request[name]:
            shown = [one[name]["name"] if name == "label_map" else one[name] for one in (earlier, request)]
            seen = f"{what} {shown[0]}" + (", with another content" if shown[0] == shown[1] else "")
            hint = "choose another --out, or replace these masks with --force"
            raise UsageError(f"this folder holds masks that were made with another {what}", path=out, seen=seen, expected=shown[1], hint=hint)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8", "surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise IntegrityError(f"damaged note of an earlier remap: {error}", path=path, hint="delete the folder, or name another --out") from error
    return found if isinstance(found, dict) else {}


def run_remap(plan: RemapPlan, engine: Engine | None = None, advance: Advance = _silent) -> RemapResult:
    """Do what was planned and return what came of it; `advance` is told how many masks are done, and of how many.

    Masks that cannot be used are in the result and the ledger, and everything else is done. Goes on from a stopped run, and
    does nothing when all is there already. Raises OutputError, LockedError, IntegrityError when written files are gone at the end.
    """
    with _locked(plan):
        finished = _finished(plan)
        if finished is not None:
            return finished
        _begin(plan)
        with contextlib.closing(run_tasks(plan.tasks(), engine or Engine())) as parts:
            return _finish(plan, parts, advance)


def run_remap_part(plan: RemapPlan, number: int, count: int, engine: Engine | None = None, advance: Advance = _silent) -> int:
    """Make every partition whose index is `number` - 1 modulo `count`, and return how many; `collect_remap` ends the work.

    Takes no lock: many of these run at once, on many machines.
    """
    if _finished(plan) is not None:
        return 0
    _begin(plan)
    done = 0
    with contextlib.closing(run_tasks(itertools.islice(plan.tasks(), number - 1, None, count), engine or Engine())) as parts:
        for _ in parts:
            done += 1
            advance(done, 0)
    return done


def unfinished_remaps(workspace: Workspace) -> list[Path]:
    """Return the folders of the workspace that hold parts of a remap which nobody collected yet."""
    return sorted(one.parent for one in workspace.folder.glob(f"masks-*/{PARTS}"))


def collect_remap(workspace: Workspace, out: Path, advance: Advance = _silent, *, partition_masks: int = PARTITION_MASKS) -> RemapResult:
    """Join the parts that array jobs made in `out`; raises IncompleteError naming what is missing."""
    request = _read_json(out / REQUEST)
    if request is None:
        raise UsageError("no remap was begun here", path=out, hint="histoprep remap --part i/n")
    label_map = LabelMap.from_json(json.dumps(request["label_map"]))
    plan = plan_remap(workspace, label_map, RemapOptions(out, OnUnmapped(request["on_unmapped"]), True, partition_masks))
    if plan.request != request:
        raise UsageError("these parts are of another data set", path=out, seen=request["root"], expected=str(workspace.root))
    with _locked(plan):
        finished = _finished(plan)
        if finished is not None:
            return finished
        missing = [index for index, task in enumerate(plan.tasks()) if not task.is_done()]
        if missing:
            shown = ", ".join(map(str, missing[:_NUM_SHOWN]))
            raise IncompleteError(
                f"{len(missing)} partitions are not done",
                path=out,
                seen=f"partitions {shown} missing",
                hint="of n jobs, job i makes partitions i-1, i-1+n, ...: run the missing ones again with --part i/n",
            )
        return _finish(plan, (task.part for task in plan.tasks()), advance)


@contextlib.contextmanager
def _locked(plan: RemapPlan) -> Iterator[None]:
    with contextlib.ExitStack() as locks:
        locks.enter_context(durable.locked(plan.workspace.folder))
        if not plan.out.is_relative_to(plan.workspace.folder):
            locks.enter_context(durable.locked(plan.out))
        yield


def _finished(plan: RemapPlan) -> RemapResult | None:
    """Return the result of an earlier run if it was this one, is whole, and nothing is left to try again."""
    if stat_file(str(plan.workspace.tiles)) != plan.tiles_stat:
        raise IntegrityError("the tiles table changed meanwhile", path=plan.workspace.tiles, hint="run the same command again")
    seal = _read_json(plan.out / SUCCESS)
    ledger = plan.out / LEDGER
    if seal is None or seal != _seal(plan, seal.get("written", -1), plan.num_refused) or _read_json(plan.out / REQUEST) != plan.request:
        return None
    try:
        totals, opened = _Totals(plan), _open_ledger(ledger)
        for batch in tables.read_batches(opened):
            if not _all_there(plan.out, batch):
                return None
            totals.add(batch)
    except (IntegrityError, FileNotFoundError):
        return None
    shutil.rmtree(plan.out / PARTS, ignore_errors=True)
    return replace(totals.result(), up_to_date=True)


def _seal(plan: RemapPlan, written: int, failed: int) -> dict[str, Any]:
    ledger = plan.out / LEDGER
    return {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "inputs_digest": plan.inputs,
        "label_map_digest": plan.label_map.digest,
        "written": written,
        "failed": failed,
        "ledger_digest": file_digest(ledger) if ledger.exists() else None,
    }


def _begin(plan: RemapPlan) -> None:
    """Take the seal off the tree and note what is being made."""
    try:
        strangers = plan.out.is_dir() and not (plan.out / REQUEST).exists() and [one for one in os.listdir(plan.out) if _is_strange(one)]
        if strangers:
            raise UsageError(
                "this folder is not empty and remap did not make it",
                path=plan.out,
                seen=", ".join(sorted(map(to_text, strangers))[:_NUM_SHOWN]),
                hint="name a new or empty folder with --out",
            )
        if not plan.options.force:
            _refuse_other_request(plan.out, plan.request)
        (plan.out / PARTS).mkdir(parents=True, exist_ok=True)
        (plan.out / SUCCESS).unlink(missing_ok=True)
        durable.sync_folder(plan.out)
    except OSError as error:
        raise OutputError.from_os_error(error, error.filename or plan.out) from error
    durable.write_json(plan.out / REQUEST, plan.request)
    durable.write_text(plan.out / LABEL_MAP, format_label_map(plan.label_map))


def _is_strange(name: str) -> bool:
    return name not in _OURS and not durable.is_temporary(name)


@dataclass(slots=True)
class _Totals:
    """Sums over the ledger, and the hashes of the names it promises."""

    plan: RemapPlan
    written: int = 0
    failures: int = 0
    first_failed: list[FailedMask] = field(default_factory=list)
    names: array[int] = field(default_factory=lambda: array("Q"))
    pixels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.plan.label_map.num_classes, np.int64)

    def add(self, ledger: pa.Table) -> None:
        counts = ledger["class_pixels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self.pixels += counts.reshape(-1, len(self.pixels)).sum(axis=0)
        columns = (ledger[name].to_pylist() for name in ("mask_path", "output_path", "reason"))
        for mask, output, reason in zip(*columns, strict=True):
            if output is not None:
                self.names.append(hash_text(output))
                self.written += 1
                continue
            self.failures += 1
            if len(self.first_failed) < _NUM_FAILED_KEPT:
                self.first_failed.append(FailedMask(mask, reason))

    def result(self) -> RemapResult:
        numbers = self.written, self.failures, tuple(self.pixels.tolist())
        return RemapResult(self.plan.out, self.plan.label_map, *numbers, tuple(self.first_failed))


def _finish(plan: RemapPlan, parts: Iterable[Path], advance: Advance) -> RemapResult:
    """Join the parts of the ledger, clean up, count the files, and seal the tree."""
    totals, used = _Totals(plan), set[Path]()
    joined = plan.out / PARTS / LEDGER

    def batches() -> Iterator[pa.Table]:
        for part in parts:
            used.add(part)
            for batch in tables.read_batches(_open_ledger(part, _PART_KIND)):
                totals.add(batch)
                yield batch
            advance(totals.written + totals.failures, plan.num_masks)

    tables.write_table(joined, batches(), LEDGER_SCHEMA, kind=KIND, schema_version=SCHEMA_VERSION, metadata=plan.request)
    written = np.sort(np.array(totals.names, np.uint64))
    try:
        num_stale = _remove_stale(plan.out, written, used)
        durable.remove_temporaries(plan.out)
        unexpected = _count_files(plan.out, written)
        # Only now: the earlier ledger was needed to know which files were ours.
        os.replace(joined, plan.out / LEDGER)
        durable.sync_file_system(plan.out)
        durable.write_json(plan.out / SUCCESS, _seal(plan, totals.written, totals.failures))
        shutil.rmtree(plan.out / PARTS)
    except OSError as error:
        raise OutputError.from_os_error(error, error.filename or plan.out) from error
    return replace(totals.result(), num_stale_removed=num_stale, unexpected=unexpected)


def _hashes(names: list[str]) -> np.ndarray:
    return np.array([hash_text(name) for name in names], np.uint64)


def _is_in(hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(hashes, wanted), max(len(hashes) - 1, 0))
    return hashes[at] == wanted if len(hashes) else np.zeros(len(wanted), bool)


def _remove_stale(out: Path, written: np.ndarray, used: set[Path]) -> int:
    """Delete files that an earlier run wrote here and this one did not, and return how many."""
    ledgers = [(out / LEDGER, KIND), *((one, _PART_KIND) for one in (out / PARTS).glob("*.parquet") if one not in used and one.name != LEDGER)]
    removed = 0
    for path, kind in ledgers:
        # What a damaged ledger named stays, and is reported as unexpected.
        with contextlib.suppress(FileNotFoundError, IntegrityError):
            for batch in tables.read_batches(_open_ledger(path, kind), ["output_path"]):
                names = batch["output_path"].drop_null().to_pylist()
                removed += sum(_remove_output(out, name) for name in itertools.compress(names, ~_is_in(written, _hashes(names))))
    return removed


def _remove_output(out: Path, name: str) -> bool:
    """Delete one file of an earlier ledger and the folders it leaves empty; return whether it was there."""
    target = Path(_beside(out, name))
    if ".." in target.parts or not target.is_relative_to(out):
        return False
    try:
        target.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    for folder in target.parents:
        if folder == out:
            break
        with contextlib.suppress(OSError):
            folder.rmdir()
    return True


def _count_files(out: Path, written: np.ndarray) -> tuple[str, ...]:
    """Return the first files in the tree that are not of the ledger; raises IntegrityError when one of the ledger is not there."""
    missing, unexpected = len(written), list[str]()
    names = _walk(out)
    while chunk := list(itertools.islice(names, _NAMES_AT_ONCE)):
        ours = _is_in(written, _hashes(chunk))
        missing -= int(ours.sum())
        unexpected += itertools.compress(chunk, ~ours)
        del unexpected[_NUM_SHOWN:]
    if missing:
        raise IntegrityError(
            f"{missing:,} of {len(written):,} new masks are not in the folder that they were written to",
            path=out,
            hint="does another program change this folder, or does its file system ignore case? Run the same command again",
        )
    return tuple(sorted(unexpected))


def _walk(out: Path) -> Iterator[str]:
    """Yield the path, as text relative to `out`, of everything in the tree that is no folder and none of our own notes."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(out / prefix) as entries:
            for one in entries:
                if not prefix and one.name in _OURS:
                    continue
                if one.is_dir(follow_symlinks=False):
                    waiting.append(f"{prefix}{one.name}/")
                else:
                    yield to_text(f"{prefix}{one.name}")
