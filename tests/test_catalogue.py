"""The catalogue, the registered rules and their tests are the same set."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from histoprep import catalogue, rule_ids
from histoprep.catalogue import all_rules
from histoprep.checks import registry
from histoprep.choices import Severity
from histoprep.errors import UsageError
from histoprep.findings import Rule
from histoprep.labels import MapProblem

RULES = all_rules()

PACKAGE = Path(catalogue.__file__).parent
FAMILY_TESTS = sorted(path.stem for path in Path(__file__).parent.glob("test_checks_*.py"))


def test_every_rule_stands_in_the_file_of_its_family_and_a_function_finds_it() -> None:
    for family in catalogue.FAMILIES:
        own = {rule.code for rule in vars(family).values() if isinstance(rule, Rule)}
        assert own <= set(RULES), family.__name__
    found = [*registry.row_checks().values(), *registry.table_checks().values()]
    assert {rule.code for rules in found for rule in rules} == set(RULES)


def test_the_words_of_a_rule_are_written_once() -> None:
    sources = [path.read_text("utf-8") for path in PACKAGE.rglob("*.py")]
    for code, rule in RULES.items():
        written = [text for text in sources if re.search(rf'Rule(Id)?\(\s*"{code}"', text)]
        assert len(written) == 1, f"{code} is written in {len(written)} files"
        assert f'"{rule.name}"' in written[0]


def test_rules_that_lower_stages_name_are_those_of_the_catalogue() -> None:
    known = [rule for rule in vars(rule_ids).values() if isinstance(rule, rule_ids.RuleId)]
    assert known
    assert all(RULES[rule.code].name == rule.name for rule in known)


def test_a_label_map_is_refused_for_what_the_catalogue_calls_an_error() -> None:
    for rule in (
        rule_ids.MAP_NOT_TOTAL,
        rule_ids.MAP_COLLISION,
        rule_ids.MAP_OVERFLOW,
        rule_ids.MAP_GAP,
    ):
        severity = RULES[rule.code].severity
        assert MapProblem(rule, "").forbids_use is (severity is Severity.ERROR)


def test_two_rules_cannot_share_a_code_or_a_name() -> None:
    taken = RULES["HP401"]
    for code, name in ((taken.code, "another-name"), ("LAB1", taken.name)):
        with pytest.raises(UsageError, match="has the code or the name"):
            registry.row_rule(replace(taken, code=code, name=name))(
                lambda chunk, evidence: iter(())
            )
    assert all_rules() == RULES


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
    names = sorted(family.__name__.rpartition(".")[2] for family in catalogue.FAMILIES)
    assert [f"test_checks_{name}" for name in names] == FAMILY_TESTS
    helpers = {"__init__", "commands", "registry"}
    assert names == sorted({path.stem for path in (PACKAGE / "checks").glob("*.py")} - helpers)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_an_entry_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"HP[1-9]\d\d", rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", rule.name)
    for sentence in (rule.definition, rule.cause, rule.suggestion):
        assert sentence[0].isupper() or sentence.startswith(("dataset.csv", "histoprep"))
    for sentence in (rule.definition, rule.cause):
        assert sentence.endswith("."), sentence


def test_names_are_unique() -> None:
    assert len({rule.name for rule in RULES.values()}) == len(RULES)
