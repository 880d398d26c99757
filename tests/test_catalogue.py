"""The catalogue, the registered rules and their tests are the same set."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from histoprep import checks
from histoprep.catalogue import RULES
from histoprep.findings import Rule

FAMILY_TESTS = sorted(path.stem for path in Path(__file__).parent.glob("test_checks_*.py"))


def registered() -> set[str]:
    checks.load_rules()
    return {*checks.ROW_RULES, *checks.TABLE_RULES}


def test_every_rule_of_the_catalogue_is_registered_and_no_other() -> None:
    assert registered() == set(RULES)


def test_every_rule_has_a_test_that_triggers_it() -> None:
    triggered: list[str] = []
    for name in FAMILY_TESTS:
        module = import_module(name)
        text = Path(module.__file__ or "").read_text("utf-8")
        # Named in the list and in an assertion besides.
        assert all(text.count(f'"{code}') >= 2 for code in module.TRIGGERS), name
        triggered += module.TRIGGERS
    assert sorted(triggered) == sorted(RULES)


def test_every_family_has_its_tests() -> None:
    assert [f"test_checks_{family}" for family in sorted(checks.FAMILIES)] == FAMILY_TESTS


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_an_entry_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"HP[1-9]\d\d", rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", rule.name)
    for sentence in (rule.definition, rule.cause, rule.suggestion):
        assert sentence[0].isupper() or sentence.startswith(("dataset.csv", "histoprep"))
        assert sentence.endswith(".") or re.search(
            r"histoprep [a-z]+( --?[a-z-]+ \S+)*$", sentence
        ), sentence


def test_names_are_unique() -> None:
    assert len({rule.name for rule in RULES.values()}) == len(RULES)


def test_commands_that_are_suggested_exist() -> None:
    from histoprep.cli import COMMANDS

    for rule in RULES.values():
        for command in re.findall(r"histoprep ([a-z]+)", rule.suggestion):
            assert command in COMMANDS or command in ("at", "never"), (
                f"{rule.code}: histoprep {command}"
            )
