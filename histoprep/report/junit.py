"""The audit as JUnit XML: one test case a rule, so that every build server can draw it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from xml.etree import ElementTree

from histoprep.findings import Finding
from histoprep.report import Report, Status, fails, last_line, rules_of
from histoprep.report.text import render_finding, title
from histoprep.report.wording import amount
from histoprep.visible import visible


def render(report: Report) -> str:
    """Return the XML document.

    A rule fails when a new finding of it is at or above `fail_on`; other findings
    are told in the output of a case that passes. An incomplete audit is an error
    of a case of its own.
    """
    ordered = sorted(report.findings, key=lambda finding: finding.code)
    found = {
        code: list(group) for code, group in groupby(ordered, key=lambda finding: finding.code)
    }
    suite = ElementTree.Element(
        "testsuite",
        name="histoprep audit",
        timestamp=visible(report.created),
        time=f"{report.summary.seconds:.3f}",
    )
    for rule in rules_of(report):
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"histoprep.{rule.code[:3]}",
            name=f"{rule.code} {rule.name}",
            time="0",
        )
        _tell(case, report, found.get(rule.code, []))
    complete = ElementTree.SubElement(
        suite, "testcase", classname="histoprep", name="every file was looked at", time="0"
    )
    if report.status is Status.INCOMPLETE:
        error = ElementTree.SubElement(
            complete, "error", type="incomplete", message="some files could not be looked at"
        )
        error.text = last_line(report)
    ElementTree.SubElement(suite, "system-out").text = last_line(report)
    for name, tag in (
        ("tests", "testcase"),
        ("failures", "testcase/failure"),
        ("errors", "testcase/error"),
    ):
        suite.set(name, str(len(suite.findall(tag))))
    totals = {name: suite.attrib[name] for name in ("name", "tests", "failures", "errors", "time")}
    suites = ElementTree.Element("testsuites", totals)
    suites.append(suite)
    ElementTree.indent(suites)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        + ElementTree.tostring(suites, encoding="unicode")
        + "\n"
    )


def _tell(case: ElementTree.Element, report: Report, findings: Sequence[Finding]) -> None:
    if not findings:
        return
    body = "\n\n".join(render_finding(finding) for finding in findings)
    failing = [finding for finding in findings if fails(report, finding)]
    if failing:
        message = "; ".join(f"{title(finding)}: {amount(finding)}" for finding in failing)
        ElementTree.SubElement(
            case, "failure", type=str(failing[0].severity), message=message
        ).text = body
    else:
        ElementTree.SubElement(case, "system-out").text = body
