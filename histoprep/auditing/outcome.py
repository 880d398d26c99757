"""Findings and evidence -> the report and the verdict of an audit."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from histoprep import rule_ids
from histoprep.auditing.thumbnails import make_thumbnails
from histoprep.catalogue import all_rules
from histoprep.choices import Severity
from histoprep.errors import ExitCode
from histoprep.findings import Finding
from histoprep.remote import shown_root
from histoprep.report import (
    UNDERSTOOD,
    ClassRow,
    CrossRows,
    Report,
    SplitRow,
    Status,
    Summary,
)
from histoprep.scanning import Issue, IssueKind
from histoprep.scanning.formats import count_unread
from histoprep.tiles.image_labels import NO_LABEL
from histoprep.tiles.pixel_groups import describe as describe_groups
from histoprep.version import __version__

if TYPE_CHECKING:
    from histoprep.auditing import AuditOptions, Run
    from histoprep.checks import Evidence
    from histoprep.tiles.options import TableOptions
    from histoprep.tiles.table import TableResult

# Files with these verdicts were not looked at, so nothing can be said of them.
NOT_LOOKED_AT = ("permission", "folder", "input-output", "cannot-open", "vanished", "worker-died")


def build_report(run: Run, evidence: Evidence, found: list[Finding]) -> Report:
    """Return the report of an audit: `found` are selected, graded and sorted."""
    options = run.options
    return Report(
        root=shown_root(run.workspace.root),
        workspace=str(run.workspace.folder),
        tool_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status=status_of(found, options.fail_on),
        findings=tuple(found),
        options=_shown_options(options, run.table, evidence)
        | ({UNDERSTOOD: run.made.understood} if run.made.understood else {}),
        classes=_class_rows(evidence),
        splits=_split_rows(evidence),
        cross_table=_cross_rows(evidence),
        thumbnails=make_thumbnails(run.workspace, evidence, found, run.engine),
        rules=tuple(rule for rule in all_rules().values() if options.selection.keeps(rule)),
        fail_on=options.fail_on or Severity.ERROR,
        report_path=run.workspace.report.name,
        unread=_unread(evidence),
        summary=_summary(evidence, run.made, time.monotonic() - run.started_s),
    )


def _unread(evidence: Evidence) -> dict[str, int]:
    kinds = (IssueKind(str(kind)) for kind in evidence.issues.kind)
    rows = zip(kinds, evidence.issues.path, evidence.issues.detail, strict=True)
    return count_unread(Issue(*row) for row in rows)


def status_of(found: list[Finding], fail_on: Severity | None) -> Status:
    """Return incomplete when files could not be looked at, failed when a new finding is at or above
    `fail_on`.
    """
    if any(
        finding.code == rule_ids.UNREADABLE_FILE.code
        and finding.subcode in NOT_LOOKED_AT
        and not finding.known
        for finding in found
    ):
        return Status.INCOMPLETE
    failing = fail_on is not None and any(
        finding.severity.rank >= fail_on.rank and not finding.known for finding in found
    )
    return Status.FAILED if failing else Status.PASSED


def exit_code_of(report: Report, fail_on: Severity | None) -> ExitCode:
    """Return the exit code that belongs to the verdict."""
    if report.status is Status.INCOMPLETE:
        return ExitCode.INCOMPLETE
    return (
        ExitCode.FINDINGS if report.status is Status.FAILED and fail_on is not None else ExitCode.OK
    )


def _summary(evidence: Evidence, made: TableResult, seconds: float) -> Summary:
    amounts = evidence.amounts
    return Summary(
        num_images=amounts.images,
        num_masks=amounts.masks,
        num_pairs=amounts.pairs,
        num_orphans=amounts.orphan_masks,
        num_zero_masks=amounts.zero_masks,
        num_unreadable=amounts.unreadable,
        num_tiles=made.num_tiles,
        num_reused=made.num_reused,
        seconds=seconds,
        looked_at=made.num_tiles / made.num_listed if made.num_listed else 1.0,
    )


def _shown_options(
    options: AuditOptions, table: TableOptions, evidence: Evidence
) -> dict[str, object]:
    problems = evidence.map_problems and evidence.label_map is None
    shown: dict[str, object] = {
        "layout": str(table.scan.layout),
        "group by": table.scan.group_by or "not given: slides and cases are unknown",
        "label map": (
            f"{evidence.map_path or 'none'}{' (not used: see its findings)' if problems else ''}"
        ),
        "smallest region (--min-area)": f"{table.tiles.min_area_px} px",
    }
    if evidence.pixel_groups:
        shown["groups found in images"] = describe_groups(dict(evidence.pixel_groups))
    if table.tiles.headers_only:
        shown["quick"] = "only names, digests and headers were looked at"
    elif table.tiles.neighbours:
        shown["tiles that touch or overlap"] = "looked for"
    else:
        shown["tiles that touch or overlap"] = "not looked for (--neighbours)"
    if table.sample is not None:
        shown["sample"] = f"{table.sample:,} tiles"
    if evidence.num_uncompared:
        shown["copies not compared"] = (
            f"{evidence.num_uncompared:,} candidate pairs beyond the limit"
        )
    return shown


def _class_rows(evidence: Evidence) -> list[ClassRow]:
    label_map = evidence.label_map or evidence.raw_map
    sums = evidence.counts.classes.groupby("class_id")[["pixels", "tiles", "core_tiles"]].sum()
    sums = sums.reindex([cls.id for cls in label_map.classes], fill_value=0)
    columns = (label_map.classes, sums.pixels, sums.tiles, sums.core_tiles)
    return [
        ClassRow(cls.id, cls.name, cls.colour, int(pixels), int(tiles), int(core))
        for cls, pixels, tiles, core in zip(*columns, strict=True)
    ]


def _cross_rows(evidence: Evidence) -> CrossRows | None:
    table = evidence.image_labels
    if not table.is_shown:
        return None
    columns = table.columns
    return CrossRows(
        tuple(
            "no label but 0" if label == NO_LABEL else evidence.raw_map.class_name(label)
            for label in columns
        ),
        tuple(
            (name, tuple(table.tiles[name][label] for label in columns))
            for name in sorted(table.tiles)
        ),
    )


def _split_rows(evidence: Evidence) -> list[SplitRow]:
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
                pixels={int(str(key)): int(value) for key, value in pixels.items()},
            )
        )
    return rows
