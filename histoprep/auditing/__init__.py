"""The audit: tiles table -> evidence -> findings -> report, in the workspace beside the data set.

In Python, `histoprep.audit` is the function `audit` of this module.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from histoprep import checksums, tables
from histoprep.catalogue import all_rules, outside_rules
from histoprep.choices import Severity
from histoprep.digests import digest_text, file_digest
from histoprep.durable import locked
from histoprep.errors import ExitCode, IntegrityError, UsageError
from histoprep.execution import Engine
from histoprep.findings import Finding, Rule, Selection
from histoprep.progress import Phases, silent_phases
from histoprep.report import Report
from histoprep.schemas import findings as findings_schema
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions, small_images
from histoprep.tiles.options import TableOptions, earlier_options
from histoprep.tiles.table import TableResult, TileTable
from histoprep.version import __version__

if TYPE_CHECKING:
    from histoprep.auditing.baseline import Accepted
    from histoprep.auditing.sources import Sources

# What headers alone cannot tell, so that it cannot be expected of `--quick`.
_FROM_PIXELS = ("zero_masks", "labels")


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What to look at, how to grade it and when to fail; None for `fail_on` never fails.

    `map_path` is the label map's file, `expectation` the counts there should be and `baseline` the
    accepted findings. Without `tile_size_px` (width, height) the most common size is right. With
    `strict`, files of formats that are not read are an error. Without `map_path` the label map of
    the manifest is used, where `takes_manifest_map`.
    """

    table: TableOptions | None = None
    selection: Selection = field(default_factory=Selection)
    map_path: Path | None = None
    expectation: Path | None = None
    baseline: Path | None = None
    tile_size_px: tuple[int, int] | None = None
    fail_on: Severity | None = Severity.ERROR
    strict: bool = False
    takes_manifest_map: bool = True


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit came to. `report` is None when nothing had changed and only the text was
    wanted; `warnings` are about the workspace.
    """

    exit_code: ExitCode
    text: str
    report: Report | None
    warnings: tuple[str, ...] = ()


def audit(
    root: str | Path,
    *,
    label_map: str | Path | None = None,
    group_by: str | None = None,
    workspace: str | Path | None = None,
    workers: int | None = None,
    options: AuditOptions | None = None,
) -> Report:
    """Audit the data set at `root`, write everything to its workspace and return the report.

    Nothing is printed, and nothing is written inside the data set.

    Args:
        root: Folder of the data set.
        label_map: Label map, a path or the name of one, as for `--map`; goes before that of
            `options`. Without any, the one in the data set is used.
        group_by: Slide, case or patient of a tile, as for `--group-by`; goes before that of
            `options`.
        workspace: Folder of the results; by default `ROOT.histoprep`, beside the data set.
        workers: Worker processes; by default one per core.
        options: Everything else. Without a table among them, the data set is read as the last
            audit read it.

    Returns:
        The report, with the findings worst first.

    Raises:
        UsageError: An option or a file that it names makes no sense.
        OutputError: The workspace cannot be written.
        LockedError: Another process writes to the workspace.
    """
    from histoprep.labels import default_map, find_label_map

    where = Workspace.of(Path(root), Path(workspace) if workspace else None)
    chosen = options or AuditOptions()
    table = chosen.table or _earlier_table_options(where)
    if group_by is not None:
        table = replace(table, scan=replace(table.scan, group_by=group_by))
    map_path = (
        find_label_map(label_map, where.root)
        if label_map
        else chosen.map_path or default_map(where.root)
    )
    result = run_audit(
        where,
        replace(chosen, table=table, map_path=map_path),
        Engine(workers or 0, spares_few=workers is None),
        want_report=True,
    )
    assert result.report is not None
    return result.report


def _earlier_table_options(workspace: Workspace) -> TableOptions:
    """Return how the last audit read the data set, and what was decided of its masks."""
    earlier = earlier_options(workspace)
    return TableOptions(
        scan=earlier.scan, tiles=TileOptions().with_reading(earlier.tiles.mask_reading)
    )


def run_audit(
    workspace: Workspace,
    options: AuditOptions,
    engine: Engine,
    phases: Phases = silent_phases,
    *,
    want_report: bool = False,
) -> AuditResult:
    """Bring all results of the workspace up to date.

    When neither the files nor the options changed, nothing is done again: the text of the
    last audit is returned, unless the whole report is wanted. The phases are those of
    `TileTable.build`, `comparing` and `writing`.
    """
    started = time.monotonic()
    with locked(workspace.folder):
        table = TileTable(workspace, options.table)
        prepared = _prepare(options, table.options)
        try:
            made = table.build(engine, phases, keeps_cells=True)
            engine = table.engine_of_few(engine)
            inputs = _inputs_digest(workspace, options, prepared)
            is_same = made.up_to_date and not want_report
            earlier = _earlier_result(workspace, inputs) if is_same else None
            run = Run(workspace, options, engine, table.options, made, started)
            result = earlier or _audit(run, prepared, inputs, phases)
        finally:
            small_images.drop(workspace)
    return replace(result, warnings=(made.warning,) if made.warning else ())


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything that can be read and refused before any tile is looked at."""

    sources: Sources
    accepted: Accepted


def _prepare(options: AuditOptions, table: TableOptions) -> _Prepared:
    """Return what the files among the options say; raises UsageError for options that make no
    sense.
    """
    from histoprep.auditing.baseline import read_baseline
    from histoprep.auditing.sources import Sources

    options.selection.validate(list(all_rules().values()))
    expected = _expected(options.expectation, table) if options.expectation else {}
    sources = Sources.of(
        options.map_path,
        expected,
        min_area_px=table.tiles.min_area_px,
        tile_size_px=options.tile_size_px,
        headers_only=table.tiles.headers_only,
        takes_manifest_map=options.takes_manifest_map,
    )
    return _Prepared(sources, read_baseline(options.baseline) if options.baseline else frozenset())


def _expected(path: Path, table: TableOptions) -> Mapping[str, Any]:
    """Return the counts there should be; raises UsageError for those that these options cannot
    give.
    """
    from histoprep.auditing.expectation import read_expectation

    expected = read_expectation(path)
    if expected and table.sample is not None:
        raise UsageError(
            "a sample cannot be held against an expectation file",
            path=path,
            hint="leave out --sample or --expect",
        )
    unknown = [name for name in _FROM_PIXELS if name in expected]
    if unknown and table.tiles.headers_only:
        raise UsageError(
            "--quick cannot count this, since it looks at no pixels",
            path=path,
            seen=", ".join(unknown),
            hint="leave out --quick",
        )
    return expected


def _inputs_digest(workspace: Workspace, options: AuditOptions, prepared: _Prepared) -> str:
    """Return a digest of everything the result depends on besides the clock."""
    _, header = open_tiles_table(workspace.tiles)
    sources = prepared.sources
    label_map = (
        str(options.map_path),
        sources.label_map.digest if sources.label_map else "",
        sources.map_problems,
    )
    made_since = [
        (str(path.relative_to(workspace.folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in _later_files(workspace)
    ]
    graded = dataclasses.asdict(options.selection)
    seen = [
        header.get("listing_digest"),
        header["options"],
        label_map,
        sources.expected,
        sorted(prepared.accepted),
        made_since,
    ]
    seen += outside_rules()
    flags = ["strict"] if options.strict else []
    flags += [] if options.takes_manifest_map else ["no map of the manifest"]
    return digest_text(
        repr([__version__, *seen, graded, options.tile_size_px, options.fail_on, *flags])
    )


def _later_files(workspace: Workspace) -> list[Path]:
    """Return the files of later stages that rules look at: the note of a repair, the manifest, and
    shards and latent sets beside it.
    """
    from histoprep.manifest.latent_sets import latent_sets
    from histoprep.schemas.latents import ENTRIES, SUMMARY

    shards = sorted((workspace.folder / "shards").glob("*"))
    latents = (
        place / name for place in latent_sets(workspace.folder) for name in (SUMMARY, ENTRIES)
    )
    return [
        path
        for path in (workspace.repaired_note, workspace.manifest, *shards, *latents)
        if path.is_file()
    ]


def _earlier_result(workspace: Workspace, inputs: str) -> AuditResult | None:
    try:
        summary = checksums.read_json(workspace.summary)
        tables.open_table(
            workspace.findings,
            kind=findings_schema.KIND,
            schema_version=findings_schema.VERSION,
        )
        names = [workspace.report.name, workspace.summary.name]
        # Listed last of all: a run that was killed before has not ended.
        listed = checksums.read_checksums(workspace.folder).keys() >= set(names)
        if (
            listed
            and summary["inputs"] == inputs
            and workspace.report.exists()
            and not checksums.damaged_files(workspace.folder, names=names)
        ):
            return AuditResult(ExitCode(summary["exit_code"]), summary["text"], None)
    except (OSError, IntegrityError, KeyError, TypeError):
        # No earlier audit, or a damaged one: it is made again.
        return None
    return None


@dataclass(frozen=True, slots=True)
class Run:
    """One audit under way; `started_s` is of the monotonic clock, `made` what became of the tiles
    table.
    """

    workspace: Workspace
    options: AuditOptions
    engine: Engine
    table: TableOptions
    made: TableResult
    started_s: float


def _audit(run: Run, prepared: _Prepared, inputs: str, phases: Phases) -> AuditResult:
    from histoprep.auditing.baseline import apply_baseline
    from histoprep.auditing.evidence import gather, run_rules
    from histoprep.auditing.outcome import build_report, exit_code_of
    from histoprep.auditing.pairs import suggest_pairs
    from histoprep.checks.listing import strictly
    from histoprep.report import render

    workspace, options = run.workspace, run.options
    phases("comparing", "tiles")
    evidence = gather(workspace, prepared.sources, run.engine)
    found = run_rules(workspace, evidence)
    if options.strict:
        found = [strictly(problem) for problem in found]
    found = apply_baseline(options.selection.apply(found), prepared.accepted)
    phases("writing", "files")
    report = build_report(run, evidence, found)
    _write_findings(workspace, found, report.rules)
    checksums.publish_file(workspace.folder, workspace.report.name, render(report, "html"))
    if evidence.shifts:
        table = suggest_pairs(evidence.overview, evidence.shifts)
        checksums.publish_file(workspace.folder, workspace.suggested_pairs.name, table)
    text, exit_code = render(report, "text"), exit_code_of(report, options.fail_on)
    # Last: its presence says that everything else is there.
    as_json = json.loads(render(report, "json"))
    summary = as_json | {"inputs": inputs, "exit_code": int(exit_code), "text": text}
    checksums.publish_json(workspace.folder, workspace.summary.name, summary)
    return AuditResult(exit_code, text, report)


def _write_findings(workspace: Workspace, found: list[Finding], rules: Iterable[Rule]) -> None:
    batches = (
        pa.table(
            [
                *(
                    [value] * finding.count
                    for value in (
                        finding.code,
                        finding.rule.name,
                        finding.subcode,
                        str(finding.severity),
                        finding.where,
                    )
                ),
                list(finding.paths),
                list(finding.details),
                [finding.known] * finding.count,
            ],
            schema=findings_schema.SCHEMA,
        )
        for finding in found
    )
    tables.write_table(
        workspace.findings,
        batches,
        findings_schema.SCHEMA,
        kind=findings_schema.KIND,
        schema_version=findings_schema.VERSION,
        metadata={
            "root": str(workspace.root),
            "rules": {rule.code: str(rule.scope) for rule in rules},
            "tiles_digest": file_digest(workspace.tiles),
        },
    )
