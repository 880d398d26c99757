"""Every format tells the same audit, whatever the files are called."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_sample import HOSTILE, make_report

from histoprep.catalogue import all_rules
from histoprep.choices import Severity
from histoprep.errors import UsageError
from histoprep.findings import Finding, finding
from histoprep.report import MAX_EXAMPLES, Report, ReportFormat, Status, Summary, last_line, render
from histoprep.report.wording import percent, uri
from histoprep.visible import visible

RULES = all_rules()


@pytest.fixture(name="report")
def _report() -> Report:
    return make_report()


def test_the_last_line_reads_as_promised(report: Report) -> None:
    two = [
        finding(RULES[code], [("a", "")], denominator=1, unit="masks")
        for code in ("HP101", "HP401", "HP412", "HP406")
    ]
    plain = replace(report, findings=two)
    counted = "402,779 images, 246,755 masks: 246,750 paired, 5 orphan, 156,024 zero, 0 unreadable"
    assert last_line(plain) == f"{counted} | 2 errors, 1 warning | report.html"


def test_the_last_line_counts_in_words() -> None:
    item = finding(RULES["HP101"], [("a", "")], denominator=1, unit="masks")
    known = [
        replace(item, known=True),
        replace(finding(RULES["HP412"], [], denominator=1, unit="masks"), known=True),
    ]
    known_info = replace(finding(RULES["HP406"], [], denominator=1, unit="masks"), known=True)
    report = Report(
        "/r",
        "/w",
        "1",
        "",
        Status.FAILED,
        Summary(num_masks=1, num_pairs=1),
        findings=[item, *known, known_info],
    )
    assert (
        last_line(report)
        == "0 images, 1 mask: 1 paired, 0 orphan, 0 zero, 0 unreadable | 1 error, 0 warnings (+2"
        " known) | report.html"
    )
    quiet = replace(report, findings=[], report_path="")
    assert (
        last_line(quiet)
        == "0 images, 1 mask: 1 paired, 0 orphan, 0 zero, 0 unreadable | 0 errors, 0 warnings"
    )
    sampled = replace(quiet, summary=replace(report.summary, looked_at=0.05))
    assert " | 5.0 % sampled | " in last_line(sampled)


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_visible_text_holds_nothing_hidden(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert all(
        sign.isprintable() or sign in "\u200c\u200d" or sign.isspace() or not sign.isascii()
        for sign in shown
    )
    assert not set(shown) & set("\r\n\t\x00\x1b\x7f\x85\u2028\u2029\u202e\u2066\u200b\ufeff\uffff")
    assert visible(shown) == shown


def test_visible_text_keeps_what_can_be_read() -> None:
    assert visible("naïve 組織 תמונה a\u200cb") == "naïve 組織 תמונה a\u200cb"
    assert visible("\udcff\x1b\u202e\n") == r"\xff\x1b\u202e\n"


@given(st.binary(min_size=1).filter(lambda raw: b"\x00" not in raw))
def test_a_uri_keeps_the_exact_bytes_of_a_name(raw: bytes) -> None:
    name = os.fsdecode(raw)
    assert uri(name).isascii()
    assert unquote_to_bytes(uri(name).removeprefix("file://")) == raw


@given(st.floats(min_value=0, max_value=1))
def test_a_share_never_reads_as_nothing_or_all_unless_it_is(share: float) -> None:
    text = percent(share)
    assert re.fullmatch(r"([<>] )?\d+(\.\d+)? %", text)
    assert (text == "0 %") == (share == 0)
    if share < 0.9999:
        assert not text.startswith("100")
    if not text.startswith(("<", ">")):
        assert float(text[:-2]) / 100 == pytest.approx(share, rel=0.06)


@pytest.mark.parametrize("name", ReportFormat)
def test_no_format_lets_a_name_through_raw(report: Report, name: str) -> None:
    text = render(report, name)
    text.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\uffff]", text)
    assert "\n::error file=x" not in text


@pytest.mark.parametrize("name", ReportFormat)
def test_every_format_gives_the_same_bytes_again(report: Report, name: str) -> None:
    assert render(report, name) == render(make_report.__wrapped__(), name)


@pytest.mark.parametrize("name", ReportFormat)
def test_every_format_tells_an_audit_without_findings(report: Report, name: str) -> None:
    assert "246,750 paired" in render(
        replace(report, findings=(), classes=(), splits=(), thumbnails={}, status=Status.PASSED),
        name,
    )


def test_an_unknown_format_is_refused(report: Report) -> None:
    with pytest.raises(UsageError, match="unknown report format"):
        render(report, "wording")


def test_text_hides_no_finding_and_ends_with_the_last_line(report: Report) -> None:
    lines = render(report, "text").split("\n")
    assert lines[-1] == last_line(report)
    assert "info    HP406 zero-mask: 156,024 of 246,755 masks (63.2 %)" in lines
    assert (
        "error   HP201 unreadable-file (truncated): 1 of 246,755 images (0.00041 %) in"
        " <script>alert(1)</script>.png" in lines
    )
    assert "warning HP303 blank-image: 1 of 9 images (11.1 %) [known]" in lines
    for name in HOSTILE:
        assert any(line.startswith(f"    - {visible(name)}: seen ") for line in lines)
    for problem in report.findings:
        begins = f"{problem.severity:<7} {problem.code} "
        assert sum(line.startswith(begins) for line in lines) == 1


def test_text_names_ten_examples_and_counts_the_rest(report: Report) -> None:
    text = render(replace(report, findings=[report.findings[4]]), "text")
    assert text.count("    - m0") == MAX_EXAMPLES
    assert "    ... and 1,234 more in findings.parquet" in text


def test_text_says_when_the_verdict_is_not_the_whole_truth(report: Report) -> None:
    text = render(
        replace(report, status=Status.INCOMPLETE, summary=replace(report.summary, looked_at=0.1)),
        "text",
    )
    assert "Only 10.0 % of the tiles were looked at (--sample)." in text
    assert "Incomplete: some files could not be looked at" in text


def test_json_carries_the_numbers_and_exact_names(report: Report) -> None:
    content = json.loads(render(report, "json"))
    assert content["format"] == "histoprep-audit"
    assert content["schema_version"] == "1.0"
    assert content["status"] == "failed"
    assert content["summary"]["num_zero_masks"] == 156_024
    assert content["counts"] == {"errors": 5, "warnings": 1, "infos": 1, "known": 1}
    assert [problem["code"] for problem in content["findings"]] == [
        problem.code for problem in report.findings
    ]
    first = content["findings"][0]
    assert first["count"] == len(first["examples"]) == 8
    assert (content["findings"][4]["count"], len(content["findings"][4]["examples"])) == (
        1_244,
        MAX_EXAMPLES,
    )
    undecodable = finding(RULES["HP101"], [("no-utf8-\udcff.png", "")], denominator=1, unit="masks")
    (example,) = json.loads(render(replace(report, findings=[undecodable]), "json"))["findings"][0][
        "examples"
    ]
    assert example["path"] == r"no-utf8-\xff.png"
    assert unquote_to_bytes(example["uri"]) == b"no-utf8-\xff.png"
    assert content["findings"][3]["examples"][0]["uri"] is None, "a group is no file"


def test_json_is_accepted_by_strict_parsers(report: Report) -> None:
    text = render(report, "json")
    assert text.isascii()
    assert "NaN" not in text
    assert not re.search(r"\\u[dD][89a-fA-F]", text.replace(r"\\u", "")), (
        "a lone surrogate is no Unicode"
    )


def check_sarif(log: dict) -> None:
    """Assert what SARIF 2.1.0 demands of the parts that we write (sections 3.13 to 3.28)."""
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    rules = driver["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    assert all(
        rule["shortDescription"]["text"] and rule["fullDescription"]["text"] for rule in rules
    )
    assert all(base["uri"].endswith("/") for base in run["originalUriBaseIds"].values())
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"none", "note", "warning", "error"}
        assert result["message"]["text"]
        assert result["occurrenceCount"] >= 1
        assert result["locations"]
        for location in result["locations"]:
            artifact = location["physicalLocation"]["artifactLocation"]
            assert re.fullmatch(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+|file:///.*", artifact["uri"])
            assert artifact["uri"].startswith("file:///") != ("uriBaseId" in artifact)
            assert artifact.get("uriBaseId", "ROOT") in run["originalUriBaseIds"]
        for value in result["partialFingerprints"].values():
            assert isinstance(value, str)
        for suppression in result.get("suppressions", []):
            assert suppression["kind"] in {"inSource", "external"}
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        run["invocations"][0].get("endTimeUtc", "2000-01-01T00:00:00Z"),
    )


def test_sarif_is_well_formed(report: Report) -> None:
    outside = finding(RULES["HP201"], [("/other/place/x y.jpg", "")], denominator=1, unit="images")
    log = json.loads(render(replace(report, findings=[*report.findings, outside]), "sarif"))
    check_sarif(log)
    (run,) = log["runs"]
    assert run["invocations"] == [
        {"executionSuccessful": True, "endTimeUtc": "2026-02-11T08:14:03Z"}
    ]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == set(RULES)
    assert [result["level"] for result in run["results"]] == ["error"] * 4 + ["warning"] * 2 + [
        "note"
    ] + ["error"] * 2
    assert [index for index, result in enumerate(run["results"]) if "suppressions" in result] == [5]
    assert run["results"][-1]["locations"][0]["physicalLocation"]["artifactLocation"] == {
        "uri": "file:///other/place/x%20y.jpg"
    }


def test_sarif_locations_lead_back_to_the_files(report: Report) -> None:
    names = [name for name in HOSTILE if "\ud800" not in name]  # a file system cannot give that one
    found = finding(
        RULES["HP101"], [(name, "") for name in names[:MAX_EXAMPLES]], denominator=1, unit="masks"
    )
    (result,) = json.loads(render(replace(report, findings=[found]), "sarif"))["runs"][0]["results"]
    uris = [
        location["physicalLocation"]["artifactLocation"]["uri"] for location in result["locations"]
    ]
    assert [unquote_to_bytes(item) for item in uris] == [os.fsencode(path) for path in found.paths]


def test_sarif_follows_a_finding_while_its_files_change(report: Report) -> None:
    def fingerprint(found: Finding) -> str:
        return json.loads(render(replace(report, findings=[found]), "sarif"))["runs"][0]["results"][
            0
        ]["partialFingerprints"]["histoprepFinding/v1"]

    before = report.findings[2]
    assert fingerprint(before) == fingerprint(
        replace(before, paths=("other.jpg",), details=("x",), denominator=3)
    )
    changed = (
        replace(before, subcode="vanished"),
        replace(before, where="b"),
        replace(before, known=True),
        report.findings[0],
    )
    assert len({fingerprint(item) for item in (before, *changed)}) == 5


def failed_cases(root: ElementTree.Element) -> set[str]:
    """Return the codes of the cases with a failure."""
    return {
        case.attrib["name"].split()[0]
        for case in root.iter("testcase")
        if case.find("failure") is not None
    }


def test_junit_has_a_case_for_each_rule_and_fails_what_fails(report: Report) -> None:
    root = ElementTree.fromstring(render(report, "junit").encode())
    names = [case.attrib["name"] for case in root.iter("testcase")]
    assert names[:-1] == [
        f"{rule.code} {rule.name}" for rule in sorted(RULES.values(), key=lambda rule: rule.code)
    ]
    assert failed_cases(root) == {"HP101", "HP103", "HP108", "HP201", "HP702"}
    (suite,) = root.iter("testsuite")
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == (
        str(len(names)),
        "5",
        "0",
    )
    stricter = ElementTree.fromstring(
        render(replace(report, fail_on=Severity.WARNING), "junit").encode()
    )
    assert failed_cases(stricter) == {
        "HP101",
        "HP103",
        "HP108",
        "HP201",
        "HP702",
        "HP412",
    }, "HP303 is known"


def test_junit_tells_only_of_rules_that_were_looked_at(report: Report) -> None:
    some = replace(report, rules=[RULES["HP401"]], findings=report.findings[:1])
    names = [
        case.attrib["name"]
        for case in ElementTree.fromstring(render(some, "junit").encode()).iter("testcase")
    ]
    assert names == ["HP101 orphan-mask", "HP401 size-mismatch", "every file was looked at"]


def test_junit_shows_hostile_names_and_an_incomplete_audit(report: Report) -> None:
    root = ElementTree.fromstring(
        render(replace(report, status=Status.INCOMPLETE), "junit").encode()
    )
    text = "".join(failure.text or "" for failure in root.iter("failure"))
    assert all(visible(name) in text for name in HOSTILE)
    assert [
        case.attrib["name"] for case in root.iter("testcase") if case.find("error") is not None
    ] == ["every file was looked at"]


def test_github_writes_one_command_a_new_finding(report: Report) -> None:
    lines = render(report, "github").split("\n")
    new = [problem for problem in report.findings if not problem.known]
    assert lines[-1] == last_line(report)
    assert len(lines) == len(new) + 1
    for line, item in zip(lines, new, strict=False):
        match = re.fullmatch(r"::(error|warning|notice) ((?:\w+=[^,:]*,?)+)::([^\r\n]*)", line)
        assert match, line
        properties = dict(part.split("=", 1) for part in match[2].split(","))
        decoded = (
            properties["title"]
            .replace("%3A", ":")
            .replace("%2C", ",")
            .replace("%0D", "\r")
            .replace("%0A", "\n")
            .replace("%25", "%")
        )
        assert decoded.startswith(f"{item.code} {item.rule.name}")
        assert not re.search(r"%(?!25|0A|0D)", match[3])
        assert ("file" in properties) == (item.rule.scope == "tile" and item.count > 0)


def test_github_names_the_exact_file(report: Report) -> None:
    odd = finding(RULES["HP101"], [("a,b:c\r\nd%e.png", "")], denominator=1, unit="masks")
    assert render(replace(report, findings=[odd]), "github").startswith(
        "::error file=a%2Cb%3Ac%0D%0Ad%25e.png,title=HP101 orphan-mask%3A "
    )


def test_markdown_survives_a_renderer(report: Report) -> None:
    tokens = (
        MarkdownIt("commonmark", {"html": True}).enable("table").parse(render(report, "markdown"))
    )
    rows, cells = 0, 0
    for token in tokens:
        rows += token.type == "tr_open"
        cells += token.type in {"td_open", "th_open"}
        for child in token.children or []:
            assert child.type not in {"link_open", "image", "code_inline"}, "names made markup"
            if child.type == "html_inline":
                assert re.fullmatch(r"</?(code|b)>", child.content)
        if token.type == "html_block":
            assert set(re.findall(r"<[^>]*>", token.content)) <= {
                f"<{slash}{tag}>" for slash in ("", "/") for tag in ("details", "summary", "b")
            }
    assert rows == len(report.findings) + 1 + len(report.classes) + 1
    assert cells == 6 * rows
    text = "".join(
        child.content
        for token in tokens
        for child in token.children or []
        if child.type in {"text", "text_special"}
    )
    for name in (*HOSTILE, *(row.name for row in report.classes)):
        assert visible(name) in text


def test_a_report_is_one_line_and_a_table_in_notebooks() -> None:
    report = make_report()
    line = repr(report)
    assert "\n" not in line and len(line) < 300
    assert "failed" in line and last_line(report) in line
    page = report._repr_html_()
    assert page.count("<tr>") == 1 + len(report.findings)
    assert "<script" not in page and "<tiles>" not in page
    frame = report.to_pandas()
    assert len(frame) == sum(len(finding.paths) for finding in report.findings)
    first = report.findings[0]
    assert frame.iloc[0].to_dict() == {
        "severity": str(first.severity),
        "code": first.code,
        "name": first.rule.name,
        "subcode": first.subcode,
        "where": first.where,
        "path": first.paths[0],
        "detail": first.details[0],
        "known": False,
    }
    assert frame.known.sum() == sum(
        len(finding.paths) for finding in report.findings if finding.known
    )
