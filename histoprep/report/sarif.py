"""The audit as SARIF 2.1.0, for code scanning services and editors.

Source: OASIS Static Analysis Results Interchange Format (SARIF) Version 2.1.0. One
result is one finding: up to ten files are its locations and `occurrenceCount` says
how many there are. Findings accepted in a baseline are suppressed results.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from histoprep.choices import Severity
from histoprep.findings import Finding, Rule
from histoprep.report import Report, Status, examples, last_line, names_files, rules_of
from histoprep.report.wording import amount, uri
from histoprep.visible import visible

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_ROOT = "ROOT"
_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def render(report: Report) -> str:
    """Return one SARIF log with one run, indented, in ASCII."""
    return json.dumps(to_object(report), indent=2, ensure_ascii=True)


def to_object(report: Report) -> dict[str, Any]:
    """Return the SARIF log as plain lists, dicts, strings and numbers."""
    rules = rules_of(report)
    positions = {rule.code: index for index, rule in enumerate(rules)}
    driver = {
        "name": "histoprep",
        "version": report.tool_version,
        "rules": [_rule(rule) for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "utf16CodeUnits",
        "originalUriBaseIds": {_ROOT: {"uri": uri(report.root.rstrip("/") + "/")}},
        "invocations": [_invocation(report)],
        "results": [_result(finding, positions[finding.code]) for finding in report.findings],
        "properties": {"lastLine": last_line(report)},
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.name},
        "fullDescription": {"text": rule.definition},
        "help": {"text": f"{rule.cause} {rule.suggestion}"},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"scope": str(rule.scope), "fixSafety": str(rule.fix_safety)},
    }


def _invocation(report: Report) -> dict[str, Any]:
    invocation: dict[str, Any] = {"executionSuccessful": report.status is not Status.INCOMPLETE}
    try:
        moment = datetime.fromisoformat(report.created)
    except ValueError:
        return invocation
    if moment.tzinfo is not None:  # SARIF wants UTC; a local time without a zone says nothing
        invocation["endTimeUtc"] = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return invocation


def _result(finding: Finding, rule_index: int) -> dict[str, Any]:
    shown = examples(finding)
    first = f" First: {visible(shown[0][0])}: {visible(shown[0][1])}." if shown else ""
    where = f" in {visible(finding.where)}" if finding.where else ""
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": _LEVELS[finding.severity],
        "message": {
            "text": (
                f"{finding.rule.definition} {amount(finding)}{where}.{first}"
                f" {visible(finding.suggestion)}"
            )
        },
        "locations": (
            [_location(finding, path, detail) for path, detail in shown] or [_whole_root()]
        ),
        "occurrenceCount": max(finding.count, 1),
        "partialFingerprints": {"histoprepFinding/v1": _fingerprint(finding)},
        "properties": {
            "subcode": visible(finding.subcode),
            "count": finding.count,
            "denominator": finding.denominator,
            "unit": finding.unit,
        },
    }
    if finding.known:
        result["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": "accepted in the baseline"}
        ]
    return result


def _location(finding: Finding, path: str, detail: str) -> dict[str, Any]:
    if not names_files(finding):
        return _whole_root() | {
            "logicalLocations": [{"name": visible(path)}],
            "message": {"text": visible(detail) or finding.rule.name},
        }
    artifact = {"uri": uri(path)} | ({} if path.startswith("/") else {"uriBaseId": _ROOT})
    return {
        "physicalLocation": {"artifactLocation": artifact},
        "message": {"text": visible(detail) or finding.rule.name},
    }


def _whole_root() -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": "./", "uriBaseId": _ROOT}}}


def _fingerprint(finding: Finding) -> str:
    # What stays the same while files come and go, so that a service follows one finding over time.
    identity = json.dumps([finding.code, finding.subcode, finding.where, finding.known])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
