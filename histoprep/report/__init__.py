"""What an audit says, as one value that every format reads.

The audit fills a `Report`; a format is a module of this package with one pure
function `render(report) -> str`. Nothing here looks at a clock, a terminal or the
data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from histoprep import rule_ids
from histoprep.choices import ReportFormat, Severity
from histoprep.errors import UsageError
from histoprep.findings import Finding, Mark, Rule, Scope
from histoprep.phrases import plural
from histoprep.report.thumbnails import Thumbnail
from histoprep.report.wording import number, percent
from histoprep.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_EXAMPLES = 10
UNDERSTOOD = "understood"
"""The option of a report that says how the data set is read, where that was found out."""
THUMBNAILS_PER_FINDING = 3


class Status(StrEnum):
    """The verdict: `INCOMPLETE` means that some files could not be looked at, so there is none."""

    PASSED = "passed"
    FAILED = "failed"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class Summary:
    """Key figures of the data set.

    `num_pairs` counts masks that have an image, `num_orphans` masks that have
    none, `num_zero_masks` masks of label 0 alone. `num_tiles` are rows of the
    tiles table, `num_reused` of them were taken over from an earlier run.
    `looked_at` is the share of the tiles that were read, below 1 with `--sample`.
    """

    num_images: int = 0
    num_masks: int = 0
    num_pairs: int = 0
    num_orphans: int = 0
    num_zero_masks: int = 0
    num_unreadable: int = 0
    num_tiles: int = 0
    num_reused: int = 0
    seconds: float = 0.0
    looked_at: float = 1.0


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: its pixels, and the tiles it is present and core-present in. `colour` is
    "#rrggbb".
    """

    id: int
    name: str
    colour: str
    pixels: int
    tiles: int
    core_tiles: int


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One split; `num_groups` is None without groups, `pixels` maps class ids to pixel counts."""

    name: str
    num_tiles: int
    num_conditional: int
    num_unconditional: int
    num_groups: int | None = None
    pixels: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CrossRows:
    """Tiles by image-level label and by the mask label of most pixels: `columns` name the mask
    labels, `rows` are image-level labels, each with a number of tiles a column.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """Everything a format may show.

    `findings` are already selected, graded and sorted; `known` ones were
    accepted in a baseline. `created` is ISO 8601. `rules` are those that were
    applied, in any order. `thumbnails` belong to
    paths of the findings and what is marked for them. `report_path` names the HTML file in the
    last line; "" when none was written. `unread` counts files of formats that are not read, by
    extension.
    `cross_table` holds image-level labels against mask labels, None where there is none to show.
    `page_folder` is where the page will be, "" for the workspace: it links to files from there.
    """

    root: str
    workspace: str
    tool_version: str
    created: str
    status: Status
    summary: Summary
    findings: Sequence[Finding] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    classes: Sequence[ClassRow] = ()
    splits: Sequence[SplitRow] = ()
    thumbnails: Mapping[tuple[str, Mark], Thumbnail] = field(default_factory=dict)
    rules: Sequence[Rule] = ()
    fail_on: Severity = Severity.ERROR
    report_path: str = "report.html"
    unread: Mapping[str, int] = field(default_factory=dict)
    cross_table: CrossRows | None = None
    page_folder: str = ""

    def __repr__(self) -> str:
        """Return the verdict in one line; the findings alone may fill a screen."""
        return f"<Report of {visible(self.root)}: {self.status}; {last_line(self)}>"

    def _repr_html_(self) -> str:
        """Return the verdict and the findings as a table, for notebooks."""
        rows = "".join(
            f"<tr><td>{finding.severity}</td><td>{finding.code} {finding.rule.name}</td>"
            f"<td>{_text(finding.subcode)}</td><td>{_text(finding.where)}</td>"
            f"<td style='text-align: right'>{number(finding.count)}</td></tr>"
            for finding in self.findings
        )
        heads = "".join(
            f"<th>{head}</th>" for head in ("severity", "finding", "kind", "where", "affected")
        )
        table = f"<table><tr>{heads}</tr>{rows}</table>" if rows else ""
        return f"<p><b>{self.status}</b>: {_text(last_line(self))}</p>{table}"

    def to_pandas(self) -> DataFrame:
        """Return a row for each file, group or class that a finding names.

        The columns are severity, code, name, subcode, where, path, detail and known (accepted in a
        baseline).
        """
        import pandas as pd

        rows = [
            (
                str(finding.severity),
                finding.code,
                finding.rule.name,
                finding.subcode,
                finding.where,
                path,
                detail,
                finding.known,
            )
            for finding in self.findings
            for path, detail in zip(finding.paths, finding.details, strict=True)
        ]
        columns = ["severity", "code", "name", "subcode", "where", "path", "detail", "known"]
        # Of objects: Arrow's strings do not hold names that are no UTF-8.
        frame = pd.DataFrame(rows, columns=columns, dtype=object)
        return frame.astype({"known": bool})


def _text(name: str) -> str:
    return escape(visible(name))


class ReportModule(Protocol):
    """What a module of this package offers."""

    def render(self, report: Report) -> str:
        """Return the report in this format; it can be encoded as UTF-8."""


def render(report: Report, name: str) -> str:
    """Return the report in the format of that name, one of `ReportFormat`.

    Raises:
        UsageError: There is no such format.
    """
    if name not in list(ReportFormat):
        raise UsageError("unknown report format", seen=name, expected=", ".join(ReportFormat))
    return cast(ReportModule, import_module(f"{__name__}.{name}")).render(report)


def count_severities(findings: Iterable[Finding]) -> dict[Severity, int]:
    """Return how many findings there are of each severity, known ones left out."""
    counts = dict.fromkeys(reversed(Severity), 0)
    for finding in findings:
        counts[finding.severity] += not finding.known
    return counts


def verdict_counts(report: Report) -> str:
    """Return "2 errors, 1 warning (+3 known)": infos do not count, accepted findings stand
    apart.
    """
    counts = count_severities(report.findings)
    known = sum(
        finding.known and finding.severity is not Severity.INFO for finding in report.findings
    )
    words = (
        f"{plural(counts[Severity.ERROR], 'error')}, {plural(counts[Severity.WARNING], 'warning')}"
    )
    return f"{words} (+{number(known)} known)" if known else words


def last_line(report: Report) -> str:
    """Return the line that every audit ends with.

    For instance `402,779 images, 246,755 masks: 246,750 paired, 5 orphan, 156,024 zero,
    0 unreadable | 2 errors, 1 warning | report.html`; with `--sample` it also
    says how much was looked at, and files of formats that are not read are counted: `not read: 8
    .mat`.
    """
    summary = report.summary
    amounts = {
        "paired": summary.num_pairs,
        "orphan": summary.num_orphans,
        "zero": summary.num_zero_masks,
        "unreadable": summary.num_unreadable,
    }
    totals = ", ".join(f"{number(amount)} {name}" for name, amount in amounts.items())
    files = f"{plural(summary.num_images, 'image')}, {plural(summary.num_masks, 'mask')}: {totals}"
    sampled = f"{percent(summary.looked_at)} sampled" if summary.looked_at < 1 else ""
    formats = ", ".join(f"{number(count)} .{name}" for name, count in report.unread.items())
    unread = f"not read: {visible(formats)}" if formats else ""
    return " | ".join(
        part
        for part in (files, sampled, unread, verdict_counts(report), visible(report.report_path))
        if part
    )


def examples(finding: Finding, limit: int = MAX_EXAMPLES) -> list[tuple[str, str]]:
    """Return the first (path, detail) pairs of a finding, at most `limit`."""
    return list(zip(finding.paths, finding.details, strict=True))[:limit]


def names_files(finding: Finding) -> bool:
    """Return whether the paths of a finding are files below the root, not groups or classes."""
    return finding.rule.scope is Scope.TILE or finding.rule.mark is not Mark.NONE


def wanted_thumbnails(findings: Iterable[Finding], limit: int = 60) -> list[tuple[str, Mark]]:
    """Return the paths worth a thumbnail with what is to be marked, each once, at most `limit`: the
    first few of each finding, worst finding first.
    """
    paths = (
        (path, finding.rule.mark)
        for finding in findings
        if names_files(finding)
        for path in finding.paths[:THUMBNAILS_PER_FINDING]
    )
    return list(dict.fromkeys(paths))[:limit]


def rules_of(report: Report) -> list[Rule]:
    """Return the rules that were looked at, those of the findings included, in order of code."""
    rules = {rule.code: rule for rule in report.rules}
    rules |= {finding.code: finding.rule for finding in report.findings}
    return [rules[code] for code in sorted(rules)]


def leaks_unknown(report: Report) -> bool:
    """Return whether leaks between slides or cases were not looked for, as no group is known."""
    return any(
        finding.code == rule_ids.NO_GROUPS.code and not finding.known for finding in report.findings
    )


def fails(report: Report, finding: Finding) -> bool:
    """Return whether a finding is new and at or above `fail_on`."""
    return not finding.known and finding.severity.rank >= report.fail_on.rank
