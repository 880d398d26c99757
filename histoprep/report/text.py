"""The audit in plain lines, for a terminal or a log.

Errors and warnings get a block each; infos and accepted findings one line, so
that nothing is hidden and nothing scrolls away.
"""

from __future__ import annotations

from collections.abc import Iterator

from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety
from histoprep.report import UNDERSTOOD, Report, Status, examples, last_line
from histoprep.report.wording import amount, number, percent
from histoprep.visible import visible

_FIX_NOTES = {
    FixSafety.SAFE: "(safe) ",
    FixSafety.UNSAFE: "(may lose data: keep a copy) ",
    FixSafety.NONE: "",
}


def render(report: Report) -> str:
    """Return the report in plain text without a final line break; its last line is `last_line`."""
    blocks = [render_finding(finding) for finding in report.findings if not _is_short(finding)]
    short = [_headline(finding) for finding in report.findings if _is_short(finding)]
    if short:
        blocks.append("\n".join(short))
    blocks.extend(_caveats(report))
    blocks.append(last_line(report))
    return "\n\n".join(blocks)


def _is_short(finding: Finding) -> bool:
    return finding.known or finding.severity is Severity.INFO


def _headline(finding: Finding) -> str:
    known = " [known]" if finding.known else ""
    where = f" in {visible(finding.where)}" if finding.where else ""
    return f"{finding.severity:<7} {title(finding)}: {amount(finding)}{where}{known}"


def title(finding: Finding) -> str:
    """Return "HP201 unreadable-file (truncated)"."""
    subcode = f" ({visible(finding.subcode)})" if finding.subcode else ""
    return f"{finding.code} {finding.rule.name}{subcode}"


def render_finding(finding: Finding) -> str:
    """Return the block of one finding: headline, cause, suggestion and examples."""
    return "\n".join(_block(finding))


def _block(finding: Finding) -> Iterator[str]:
    yield _headline(finding)
    yield f"    cause: {visible(finding.cause)}"
    # Before the advice, which ends in a command.
    yield f"    try:   {_FIX_NOTES[finding.rule.fix_safety]}{visible(finding.suggestion)}"
    shown = examples(finding)
    for path, detail in shown:
        yield f"    - {visible(path)}" + (f": {visible(detail)}" if detail else "")
    if finding.count > len(shown):
        yield f"    ... and {number(finding.count - len(shown))} more in findings.parquet"


def _caveats(report: Report) -> Iterator[str]:
    if understood := report.options.get(UNDERSTOOD):
        yield visible(str(understood))
    if report.summary.looked_at < 1:
        yield f"Only {percent(report.summary.looked_at)} of the tiles were looked at (--sample)."
    if report.status is Status.INCOMPLETE:
        yield "Incomplete: some files could not be looked at, so the verdict is unknown."
