"""The audit as GitHub workflow commands: one annotation a finding.

A runner reads commands from the log, so every name is escaped: `%`, line breaks, and in
properties also `:` and `,`. Accepted findings make no annotation.
"""

from __future__ import annotations

from histoprep.choices import Severity
from histoprep.findings import Finding
from histoprep.report import Report, examples, last_line, names_files
from histoprep.report.text import render_finding, title
from histoprep.report.wording import amount
from histoprep.visible import visible

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(report: Report) -> str:
    """Return one line a finding and `last_line` at the end."""
    lines = [_command(finding) for finding in report.findings if not finding.known]
    return "\n".join([*lines, last_line(report)])


def _command(finding: Finding) -> str:
    properties = {"title": f"{title(finding)}: {amount(finding)}"}
    if names_files(finding) and (shown := examples(finding, 1)):
        properties = {"file": shown[0][0], **properties}
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{_COMMANDS[finding.severity]} {listed}::{_data(render_finding(finding))}"


def _data(text: str) -> str:
    return visible(text, keep="\r\n").replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
