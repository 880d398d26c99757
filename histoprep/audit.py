"""The audit: tiles table -> evidence -> findings -> report, in the workspace beside the data set."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from histoprep import __version__, tables
from histoprep.catalogue import RULES
from histoprep.digests import digest_text
from histoprep.durable import locked, write_json, write_text
from histoprep.errors import ExitCode, UsageError
from histoprep.execution import Engine
from histoprep.findings import Finding, Selection, Severity
from histoprep.scan import ScanOptions
from histoprep.tile_table import TableOptions, TableResult, TileTable
from histoprep.tiles import KIND, SCHEMA_VERSION
from histoprep.workspace import Workspace

if TYPE_CHECKING:
    from histoprep.console import Meter
    from histoprep.evidence import Gathered
    from histoprep.report import Report

FINDINGS_SCHEMA = pa.schema(
    [
        ("code", pa.string()),
        ("name", pa.string()),
        ("subcode", pa.string()),
        ("severity", pa.string()),
        ("where", pa.string()),
        ("path", pa.string()),
        ("detail", pa.string()),
        ("known", pa.bool_()),
    ]
)
# Files with these verdicts were not looked at, so nothing can be said of them.
_NOT_LOOKED_AT = ("permission", "folder", "input-output", "cannot-open", "vanished", "worker-died")

Advance = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What to look at, how to grade it and when to fail; None for `fail_on` never fails."""

    table: TableOptions | None = None
    selection: Selection = field(default_factory=Selection)
    map_path: Path | None = None
    expectation: Path | None = None
    baseline: Path | None = None
    tile_size_px: tuple[int, int] | None = None
    fail_on: Severity | None = Severity.ERROR


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit came to. `report` is None when nothing had changed and only the text was wanted."""

    exit_code: ExitCode
    text: str
    report: Report | None


def ensure_tiles(
    workspace: Workspace,
    scan_options: ScanOptions | None = None,
    *,
    workers: int | None = None,
    meter: Meter | None = None,
) -> Path:
    """Return the path of an up-to-date tiles.parquet; only files that are new or changed are read.

    Without options those of the table that is there are used again.
    """
    options = TableOptions(scan=scan_options) if scan_options else None
    told = [0]

    def advance(done: int, _: int) -> None:
        if meter:
            meter.advance(done - told[0])
        told[0] = done

    with locked(workspace.folder):
        return TileTable(workspace, options).build(Engine(workers or 0), advance).path


def audit(root: str | Path, *, workspace: str | Path | None = None, workers: int | None = None, options: AuditOptions | None = None) -> Report:
    """Audit the data set at `root`, write everything to its workspace and return the report.

    Nothing is printed and nothing is written inside the data set.
    """
    where = Workspace.of(Path(root), Path(workspace) if workspace else None)
    result = run_audit(where, options or AuditOptions(), Engine(workers or 0), want_report=True)
    assert result.report is not None  # noqa: S101 (asked for)
    return result.report


def run_audit(workspace: Workspace, options: AuditOptions, engine: Engine, advance: Advance = _silent, *, want_report: bool = False) -> AuditResult:
    """Bring all results of the workspace up to date.

    When neither the files nor the options changed, nothing is done again: the text of the
    last audit is returned, unless the whole report is wanted.
    """
    started = time.monotonic()
    _check_options(options)
    with locked(workspace.folder):
        table = TileTable(workspace, options.table)
        made = table.build(engine, advance)
        inputs = _inputs_digest(workspace, options)
        earlier = None if want_report or not made.up_to_date else _earlier_result(workspace, inputs)
        return earlier or _audit(workspace, options, engine, table.options, made, inputs, started)


def default_map(root: Path) -> Path | None:
    """Return the label map of the data set: the one file label_map*.yml in its root, None if there is none or several."""
    found = sorted(root.glob("label_map*.y*ml"))
    return found[0] if len(found) == 1 else None


def _check_options(options: AuditOptions) -> None:
    options.selection.validate(list(RULES.values()))
    for name, path in (("--expect", options.expectation), ("--baseline", options.baseline)):
        if path is not None and not path.is_file():
            raise UsageError(f"{name}: there is no such file", path=path)


def _inputs_digest(workspace: Workspace, options: AuditOptions) -> str:
    """Return a digest of everything the result depends on besides the clock."""
    _, header = tables.open_table(workspace.tiles, kind=KIND, schema_version=SCHEMA_VERSION)
    files = [path.read_bytes().hex() if path else "" for path in (options.map_path, options.expectation, options.baseline)]
    manifest = workspace.manifest.stat().st_mtime_ns if workspace.manifest.exists() else 0
    graded = dataclasses.asdict(options.selection)
    return digest_text(repr([__version__, header.get("listing_digest"), header["options"], files, manifest, graded, options.tile_size_px, options.fail_on]))


def _earlier_result(workspace: Workspace, inputs: str) -> AuditResult | None:
    try:
        summary = json.loads(workspace.summary.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if summary.get("inputs") != inputs or not workspace.report.exists() or not workspace.findings.exists():
        return None
    return AuditResult(ExitCode(summary["exit_code"]), summary["text"], None)


def _audit(
    workspace: Workspace, options: AuditOptions, engine: Engine, table: TableOptions, made: TableResult, inputs: str, started: float
) -> AuditResult:
    from histoprep.baseline import apply_baseline, read_baseline
    from histoprep.checks import CheckOptions
    from histoprep.evidence import Sources, gather, run_rules
    from histoprep.expectation import read_expectation
    from histoprep.report import render

    sources = Sources(
        options=CheckOptions(table.tiles.min_area_px, options.tile_size_px),
        map_path=options.map_path,
        expected=read_expectation(options.expectation) if options.expectation else {},
    )
    gathered = gather(workspace, sources, engine)
    found = options.selection.apply(run_rules(workspace, gathered.evidence))
    if options.baseline:
        found = apply_baseline(found, read_baseline(options.baseline))
    report = _report(workspace, options, engine, table, made, gathered, found, started)
    _write_findings(workspace, found)
    write_text(workspace.report, render(report, "html"))
    text = render(report, "text")
    exit_code = _exit_code(report, options.fail_on)
    # Last: its presence says that everything else is there.
    as_json = json.loads(render(report, "json"))
    write_json(workspace.summary, as_json | {"inputs": inputs, "exit_code": int(exit_code), "text": text})
    return AuditResult(exit_code, text, report)


def _write_findings(workspace: Workspace, found: list[Finding]) -> None:
    batches = (
        pa.table(
            [
                *([value] * one.count for value in (one.code, one.rule.name, one.subcode, str(one.severity), one.where)),
                list(one.paths),
                list(one.details),
                [one.known] * one.count,
            ],
            schema=FINDINGS_SCHEMA,
        )
        for one in found
    )
    tables.write_table(workspace.findings, batches, FINDINGS_SCHEMA, kind="findings", schema_version="1.0", metadata={"root": str(workspace.root)})


def _exit_code(report: Report, fail_on: Severity | None) -> ExitCode:
    from histoprep.report import Status

    if report.status is Status.INCOMPLETE:
        return ExitCode.INCOMPLETE
    return ExitCode.FINDINGS if report.status is Status.FAILED and fail_on is not None else ExitCode.OK


def _status(found: list[Finding], fail_on: Severity | None) -> Any:
    from histoprep.report import Status

    if any(one.code == "HP201" and one.subcode in _NOT_LOOKED_AT and not one.known for one in found):
        return Status.INCOMPLETE
    failing = fail_on is not None and any(one.severity.rank >= fail_on.rank and not one.known for one in found)
    return Status.FAILED if failing else Status.PASSED


def _report(
    workspace: Workspace,
    options: AuditOptions,
    engine: Engine,
    table: TableOptions,
    made: TableResult,
    gathered: Gathered,
    found: list[Finding],
    started: float,
) -> Report:
    from histoprep.audit_pictures import make_pictures
    from histoprep.report import Report, Summary

    evidence, amounts = gathered.evidence, gathered.evidence.amounts
    summary = Summary(
        num_images=amounts.images,
        num_masks=amounts.masks,
        num_pairs=amounts.pairs,
        num_orphans=amounts.orphan_masks,
        num_zero_masks=amounts.zero_masks,
        num_unreadable=amounts.unreadable,
        num_tiles=made.num_tiles,
        num_reused=made.num_reused,
        seconds=time.monotonic() - started,
        looked_at=made.num_tiles / made.num_listed if made.num_listed else 1.0,
    )
    return Report(
        root=str(workspace.root),
        workspace=str(workspace.folder),
        tool_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status=_status(found, options.fail_on),
        summary=summary,
        findings=tuple(found),
        options=_shown_options(options, table, gathered),
        classes=_class_rows(evidence),
        splits=_split_rows(evidence),
        pictures=make_pictures(workspace, evidence, found, engine),
        rules=tuple(rule for rule in RULES.values() if options.selection.keeps(rule)),
        fail_on=options.fail_on or Severity.ERROR,
        report_path=workspace.report.name,
    )


def _shown_options(options: AuditOptions, table: TableOptions, gathered: Gathered) -> dict[str, object]:
    shown: dict[str, object] = {
        "layout": str(table.scan.layout),
        "group by": table.scan.group_by or "not given: slides and cases are unknown",
        "label map": str(options.map_path) if options.map_path else "none",
        "smallest region (--min-area)": f"{table.tiles.min_area_px} px",
    }
    if table.tiles.headers_only:
        shown["quick"] = "only names and headers were looked at"
    if gathered.num_uncompared:
        shown["copies not compared"] = f"{gathered.num_uncompared:,} candidate pairs beyond the limit"
    return shown


def _class_rows(evidence: Any) -> list[Any]:
    from histoprep.report import ClassRow

    label_map = evidence.label_map or evidence.raw_map
    sums = evidence.counts.classes.groupby("class_id")[["pixels", "tiles", "core_tiles"]].sum()
    rows = []
    for one in label_map.classes:
        seen = sums.loc[one.id] if one.id in sums.index else {"pixels": 0, "tiles": 0, "core_tiles": 0}
        rows.append(ClassRow(one.id, one.name, one.colour, int(seen["pixels"]), int(seen["tiles"]), int(seen["core_tiles"])))
    return rows


def _split_rows(evidence: Any) -> list[Any]:
    from histoprep.report import SplitRow

    tiles, classes = evidence.counts.tiles, evidence.counts.classes
    rows = []
    for name in [split for split in ("train", "val", "test") if (tiles.split == split).any()]:
        own = tiles[tiles.split == name]
        by_pool = own.groupby("pool").tiles.sum()
        groups = own.group[own.group != ""].nunique()
        pixels = classes[classes.split == name].groupby("class_id").pixels.sum()
        rows.append(
            SplitRow(
                name=name,
                num_tiles=int(own.tiles.sum()),
                num_conditional=int(by_pool.get("conditional", 0)),
                num_unconditional=int(by_pool.get("unconditional", 0)),
                num_groups=int(groups) or None,
                pixels={int(key): int(value) for key, value in pixels.items()},
            )
        )
    return rows
