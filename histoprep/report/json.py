"""The audit as JSON for programs.

The top level holds `format` ("histoprep-audit"), `schema_version` ("1.0": fields may be
added, none change their meaning before 2.0), `tool_version`, `created`, `root`, `workspace`,
`status` (passed, failed, incomplete), `fail_on`, `last_line`, `options`, `summary` (the
fields of `Summary`), `unread` (files of formats that are not read, by extension, where there
are any), `counts` (new errors, warnings, infos and known findings), `classes`,
`splits` and `findings`.

A finding holds `code`, `name`, `subcode`, `severity`, `scope`, `known`, `count`, `denominator`,
`share`, `unit`, `where`, `cause`, `suggestion`, `fix_safety`, `definition` and `examples`: at
most ten of `path` (readable; bytes that are no UTF-8 as `\\xff`), `uri` (exact, percent-encoded;
null when the path is no file) and `detail`. All files are in findings.parquet.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from histoprep.findings import Finding
from histoprep.report import Report, count_severities, examples, last_line, names_files
from histoprep.report.wording import uri
from histoprep.visible import visible

SCHEMA_VERSION = "1.0"


def render(report: Report) -> str:
    """Return one JSON object, indented, in ASCII."""
    return json.dumps(to_object(report), indent=2, ensure_ascii=True, allow_nan=False, default=str)


def to_object(report: Report) -> dict[str, Any]:
    """Return the object described above, of plain lists, dicts, strings and numbers."""
    counts = {
        f"{severity}s": amount for severity, amount in count_severities(report.findings).items()
    }
    return {
        "format": "histoprep-audit",
        "schema_version": SCHEMA_VERSION,
        "tool_version": report.tool_version,
        "created": report.created,
        "root": visible(report.root),
        "workspace": visible(report.workspace),
        "status": str(report.status),
        "fail_on": str(report.fail_on),
        "last_line": last_line(report),
        "options": {visible(str(name)): _option(value) for name, value in report.options.items()},
        "summary": asdict(report.summary),
        **({"unread": dict(report.unread)} if report.unread else {}),
        "counts": counts | {"known": sum(finding.known for finding in report.findings)},
        "classes": [
            asdict(row) | {"name": visible(row.name), "colour": visible(row.colour)}
            for row in report.classes
        ],
        "splits": [asdict(row) | {"name": visible(row.name)} for row in report.splits],
        "findings": [_finding(finding) for finding in report.findings],
    }


def _option(value: object) -> Any:
    if (
        value is None
        or isinstance(value, bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_option(entry) for entry in value]
    return visible(str(value))


def _finding(finding: Finding) -> dict[str, Any]:
    is_file = names_files(finding)
    return {
        "code": finding.code,
        "name": finding.rule.name,
        "subcode": visible(finding.subcode),
        "severity": str(finding.severity),
        "scope": str(finding.rule.scope),
        "known": finding.known,
        "count": finding.count,
        "denominator": finding.denominator,
        "share": finding.share,
        "unit": finding.unit,
        "where": visible(finding.where),
        "cause": visible(finding.cause),
        "suggestion": visible(finding.suggestion),
        "fix_safety": str(finding.rule.fix_safety),
        "definition": finding.rule.definition,
        "examples": [
            {
                "path": visible(path),
                "uri": uri(path) if is_file else None,
                "detail": visible(detail),
            }
            for path, detail in examples(finding)
        ],
    }
