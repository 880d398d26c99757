"""The rules that are there: each is registered together with the function that finds it.

A rule may be found by several functions, and a function may find several rules. Other packages
register theirs in the same way, from a module that an entry point in the group `histoprep.rules`
names: see docs/adding-a-rule.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from histoprep.checks import Chunk, Evidence
from histoprep.errors import UsageError
from histoprep.findings import Finding, Rule

RowCheck = Callable[[Chunk, Evidence], Iterator[Finding]]
TableCheck = Callable[[Evidence], Iterator[Finding]]
Check = TypeVar("Check", RowCheck, TableCheck)

_rules: dict[str, Rule] = {}
# From a check to the rules it finds, in order of registration.
_row_checks: dict[RowCheck, tuple[Rule, ...]] = {}
_table_checks: dict[TableCheck, tuple[Rule, ...]] = {}


def row_rule(*rules: Rule) -> Callable[[RowCheck], RowCheck]:
    """Register a function that looks at one chunk of tiles at a time and yields findings of
    `rules`.

    Raises:
        UsageError: Another rule has the code or the name of one of these.
    """
    return _registrar(_row_checks, rules)


def table_rule(*rules: Rule) -> Callable[[TableCheck], TableCheck]:
    """Register a function that looks at the whole data set and yields findings of `rules`.

    Raises:
        UsageError: Another rule has the code or the name of one of these.
    """
    return _registrar(_table_checks, rules)


def _registrar(
    checks: dict[Check, tuple[Rule, ...]], rules: tuple[Rule, ...]
) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        for rule in rules:
            _add(rule)
        checks[check] = rules
        return check

    return register


def _add(rule: Rule) -> None:
    for other in _rules.values():
        if other != rule and (other.code == rule.code or other.name == rule.name):
            raise UsageError(
                f"the rule {rule.code} {rule.name} has the code or the name of another one,"
                f" {other.code} {other.name}"
            )
    _rules[rule.code] = rule


def registered_rules() -> dict[str, Rule]:
    """Return every registered rule by its code, in order of code."""
    return dict(sorted(_rules.items()))


def row_checks() -> dict[RowCheck, tuple[Rule, ...]]:
    """Return the functions that look at one chunk at a time, each with the rules it finds."""
    return dict(_row_checks)


def table_checks() -> dict[TableCheck, tuple[Rule, ...]]:
    """Return the functions that look at the whole data set, each with the rules it finds."""
    return dict(_table_checks)
