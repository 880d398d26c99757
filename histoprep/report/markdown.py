"""The audit as GitHub-flavoured Markdown, for a job summary or a comment."""

from __future__ import annotations

from collections.abc import Iterator

from histoprep.choices import Severity
from histoprep.findings import Finding
from histoprep.report import Report, Status, examples, last_line, leaks_unknown
from histoprep.report.text import title
from histoprep.report.wording import amount, number, percent
from histoprep.visible import visible

_MARKS = {Severity.ERROR: "❌ error", Severity.WARNING: "⚠️ warning", Severity.INFO: "ℹ️ info"}
_VERDICTS = {
    Status.PASSED: "✅ passed",
    Status.FAILED: "❌ failed",
    Status.INCOMPLETE: "❔ incomplete",
}
# Everything that starts markup, a mention or a link; an entity never does.
_ENTITIES = {ord(sign): f"&#{ord(sign)};" for sign in "&<>|`*_[]\\~$@:#\"'"}


def render(report: Report) -> str:
    """Return the report: verdict, table of findings, then each finding with its examples."""
    lines = [
        f"## Audit of {_code(report.root)}: {_verdict(report)}",
        "",
        _code(last_line(report)),
        "",
    ]
    if report.findings:
        lines += [
            "| severity | finding | count | of | share | where |",
            "|---|---|--:|--:|--:|---|",
        ]
        lines += [_row(finding) for finding in report.findings]
        lines.append("")
    for finding in report.findings:
        lines += _section(finding)
    if report.classes:
        lines += list(_classes(report))
    return "\n".join(lines).rstrip("\n") + "\n"


def _verdict(report: Report) -> str:
    """Return the verdict; a check mark would say that leaks were looked for."""
    if report.status is Status.PASSED and leaks_unknown(report):
        return "⚠️ passed, but no groups are known"
    return _VERDICTS[report.status]


def _row(finding: Finding) -> str:
    known = " (known)" if finding.known else ""
    cells = (
        f"{_MARKS[finding.severity]}{known}",
        _escape(title(finding)),
        number(finding.count),
        f"{number(finding.denominator)} {_escape(finding.unit)}",
        percent(finding.share),
        _escape(finding.where),
    )
    return f"| {' | '.join(cells)} |"


def _section(finding: Finding) -> Iterator[str]:
    yield "<details>"
    yield f"<summary><b>{_escape(title(finding))}</b>: {_escape(amount(finding))}</summary>"
    yield ""
    yield f"**Likely cause.** {_escape(finding.cause)}"
    yield ""
    yield f"**What to do.** {_escape(finding.suggestion)}"
    yield ""
    shown = examples(finding)
    for path, detail in shown:
        yield f"- {_code(path)}" + (f": {_escape(detail)}" if detail else "")
    if finding.count > len(shown):
        yield f"- and {number(finding.count - len(shown))} more in {_code('findings.parquet')}"
    yield ""
    yield "</details>"
    yield ""


def _classes(report: Report) -> Iterator[str]:
    total = sum(row.pixels for row in report.classes)
    yield "### Classes"
    yield ""
    yield "| id | class | pixels | share | tiles present | core-present |"
    yield "|--:|---|--:|--:|--:|--:|"
    for row in report.classes:
        share = percent(row.pixels / total if total else 0)
        yield (
            f"| {row.id} | {_escape(row.name)} | {number(row.pixels)} | {share} |"
            f" {number(row.tiles)} | {number(row.core_tiles)} |"
        )


def _escape(text: str) -> str:
    return visible(text).translate(_ENTITIES)


def _code(text: str) -> str:
    return f"<code>{_escape(text)}</code>"
