"""Every finding's advice ends in a command that exists, or says that none can help; what is found
in the tests of the families is held to the same (see `audit_cases.py`).
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from advice import commands_in, fault_of, problems_of
from fix_samples import make_faulty

from histoprep import audit
from histoprep.catalogue import all_rules
from histoprep.checks.commands import placed
from histoprep.cli import run
from histoprep.demo import make_demo
from histoprep.errors import ExitCode
from histoprep.findings import Rule
from histoprep.fixing import OPERATIONS
from histoprep.report import render
from histoprep.report.wording import steps_of

RULES = all_rules()


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_advice_of_a_rule(rule: Rule) -> None:
    assert not problems_of(rule.suggestion), rule.suggestion


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_what_fix_acts_upon_says_so(operation: object) -> None:
    """Of HP413 and HP414 the questions come first, and of HP403 and HP404 the repair."""
    for code in operation.codes:  # type: ignore[attr-defined]
        if code not in ("HP403", "HP404", "HP413", "HP414"):
            assert "histoprep fix ROOT --out ROOT-" in RULES[code].suggestion


@pytest.mark.parametrize(
    ("advice", "words"),
    [
        ("Look at it.", "no command"),
        ("Try: histoprep mend ROOT", "histoprep mend ROOT"),
        ("Try: histoprep audit ROOT --colour", "--colour"),
        ("Try: histoprep fix ROOT --out X --only sharpen", "no such operation"),
        ("Try: histoprep fix ROOT --only plain", "no folder"),
        ("Try: histoprep manifest ROOT --exclude HP403", "names no tiles"),
        ("Try: histoprep manifest ROOT --exclude HP999", "HP999"),
        ("Try: histoprep audit ROOT --depth 7", "7"),
        ("Delete it, then: histoprep audit ROOT", "delete"),
        ("Try: histoprep audit ROOT; or histoprep audit ROOT --colour", "--colour"),
    ],
)
def test_wrong_advice_is_found(advice: str, words: str) -> None:
    assert words in "; ".join(problems_of(advice))


def test_commands_are_found_in_advice() -> None:
    advice = "If so: histoprep audit /x y; or histoprep manifest /x (s1: 3 groups of 4 tiles)"
    assert commands_in(advice) == ["histoprep audit /x y", "histoprep manifest /x"]
    assert not fault_of("histoprep audit --help")
    assert fault_of("histoprep sing --help")


@pytest.mark.parametrize("name", ["plain", "with blanks", "ROOT", "MAP", "it's"])
def test_commands_name_the_data_set(name: str, tmp_path: Path) -> None:
    """A command that is pasted works, whatever the folder is called."""
    root = tmp_path / name
    text = "A: histoprep fix ROOT --out ROOT-fixed; or histoprep remap ROOT --map MAP"
    first, second = commands_in(placed(text, root, "a map.yml"))
    assert shlex.split(first)[2:] == [str(root), "--out", f"{root}-fixed"]
    assert shlex.split(second)[2:] == [str(root), "--map", "a map.yml"]
    # What was filled in stays.
    assert placed(placed(text, root, "m"), tmp_path, "n") == placed(text, root, "m")
    assert placed("See MANIFEST.", root) == "See MANIFEST."


@pytest.mark.parametrize(
    ("advice", "steps"),
    [
        ("Do: histoprep audit x", [("Do:", "histoprep audit x")]),
        ("histoprep repair x", [("", "histoprep repair x")]),
        ("A: histoprep a b; or histoprep c", [("A:", "histoprep a b"), ("", "histoprep c")]),
        (
            "A: histoprep a; or, if so: trainer b",
            [("A:", "histoprep a"), ("or, if so:", "trainer b")],
        ),
        ("A: histoprep a --by '(x)'", [("A:", "histoprep a --by '(x)'")]),
        ("A: histoprep a (s: 3 groups)", [("A: histoprep a (s: 3 groups)", "")]),
        ("A: histoprep a, then more.", [("A: histoprep a, then more.", "")]),
        ("No command can help: look.", [("No command can help: look.", "")]),
    ],
)
def test_reports_show_commands_apart(advice: str, steps: list[tuple[str, str]]) -> None:
    assert steps_of(advice) == steps


def test_nothing_stands_behind_a_command_in_text(tmp_path: Path) -> None:
    make_faulty(tmp_path / "set")
    lines = render(audit(tmp_path / "set", workers=1), "text").splitlines()
    advice = [line.partition("try:")[2].strip() for line in lines if line[4:].startswith("try:")]
    assert len(advice) > 5
    ends = [command for text in advice for _, command in steps_of(text) if command]
    assert ["histoprep", "fix", str(tmp_path / "set"), "--out", f"{tmp_path / 'set'}-plain"] in [
        shlex.split(command)[:5] for command in ends
    ]
    assert not [text for text in advice if text.endswith(("(safe)", "copy)"))]


@pytest.mark.parametrize("make", [make_faulty, make_demo], ids=["faults of fix", "demo"])
@pytest.mark.slow
def test_the_advice_of_an_audit_is_pasted(make: object, tmp_path: Path) -> None:
    root = tmp_path / "my tiles"
    made = make(root)  # type: ignore[operator]
    root = getattr(made, "folder", root)
    report = audit(root, workers=1)
    assert len(report.findings) > 5
    for finding in report.findings:
        assert not problems_of(finding.suggestion), (finding.code, finding.suggestion)
        for command in commands_in(finding.suggestion):
            assert " ROOT" not in command
            assert str(root) in shlex.split(command) or "--help" in command, command


def test_commands_of_an_audit_work_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "my tiles"
    make_faulty(root)
    monkeypatch.chdir(tmp_path)
    findings = audit(root, workers=1).findings
    commands = [each for finding in findings for each in commands_in(finding.suggestion)]
    assert sum(command.startswith("histoprep fix") for command in commands) >= 5
    for command in dict.fromkeys(commands):
        code = run([*shlex.split(command)[1:], "--workers", "1"])
        # Findings and files that are left out are no failure of a command.
        assert code in (ExitCode.OK, ExitCode.FINDINGS, ExitCode.INCOMPLETE), command
