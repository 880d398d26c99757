"""The record of what is wrong with a data set, and how users re-grade it.

Rules stand in the files of their families in `checks/`; `catalogue.py` lists them all.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from histoprep.choices import Severity
from histoprep.errors import UsageError
from histoprep.rule_ids import RuleId

_MAYBE_NUMBERED = ("class ", "label ", "value ")
_NUMBERED = re.compile(r"(class|label|value) (\d+)\b")


class Scope(StrEnum):
    """What one finding speaks of."""

    TILE = "tile"
    SOURCE = "source"
    DATASET = "dataset"


class FixSafety(StrEnum):
    """Whether the suggested command can lose anything."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    NONE = "none"


class Mark(StrEnum):
    """What thumbnails of a finding mark: places in masks; `FIT` shows the mask as it fits best as
    well, and `SEAM` two images as they lie.
    """

    NONE = ""
    SPECKS = "specks"
    HAIRLINES = "hairlines"
    UNMAPPED = "unmapped"
    FIT = "fit"
    SEAM = "seam"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the audit: what it is called, how bad it is and what it means.

    `definition`, `cause` and `suggestion` are what `histoprep explain` prints; a
    finding may carry a more precise cause and suggestion of its own. `mark` is what the page marks
    in the masks of its examples.
    """

    code: str
    name: str
    severity: Severity
    scope: Scope
    definition: str
    cause: str
    suggestion: str
    fix_safety: FixSafety = FixSafety.NONE
    mark: Mark = Mark.NONE


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with everything it is wrong in.

    `paths` are the files, groups or classes concerned and `details` says about
    each what was seen; both have `count` entries, in order of path. `denominator`
    is how many were looked at, in `unit`s (images, masks, groups, ...).
    """

    rule: Rule
    severity: Severity
    count: int
    denominator: int
    unit: str
    paths: tuple[str, ...]
    details: tuple[str, ...]
    subcode: str = ""
    where: str = ""
    cause: str = ""
    suggestion: str = ""
    known: bool = field(default=False, compare=False)

    @property
    def code(self) -> str:
        """Return the rule's code, such as HP401."""
        return self.rule.code

    @property
    def share(self) -> float:
        """Return `count` / `denominator`, in [0, 1]; 0 when nothing was looked at."""
        return self.count / self.denominator if self.denominator else 0.0


def in_order(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return items in order of path, labels, values and classes in that of their numbers."""
    listed = list(items)
    # Of a million paths none has a number: no key is made of them.
    is_numbered = any(path.startswith(_MAYBE_NUMBERED) for path, _ in listed)
    return sorted(listed, key=_place if is_numbered else None)


def _place(item: tuple[str, str]) -> tuple[str, int, str, str]:
    path, detail = item
    numbered = _NUMBERED.match(path)
    return (numbered[1], int(numbered[2]), path, detail) if numbered else (path, 0, path, detail)


def finding(
    rule: Rule,
    items: Iterable[tuple[str, str]],
    *,
    denominator: int,
    unit: str,
    subcode: str = "",
    where: str = "",
    cause: str = "",
    suggestion: str = "",
) -> Finding:
    """Return a finding of `rule` about `items`, pairs of (path, detail), in order of path."""
    ordered = in_order(items)
    return Finding(
        rule=rule,
        severity=rule.severity,
        count=len(ordered),
        denominator=denominator,
        unit=unit,
        paths=tuple(path for path, _ in ordered),
        details=tuple(detail for _, detail in ordered),
        subcode=subcode,
        where=where,
        cause=cause or rule.cause,
        suggestion=suggestion or rule.suggestion,
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """What a stage below the checks found wrong with a file of ours: a finding that knows its rule
    by code and name only.

    `items` are pairs of (path, detail); the other fields are those of a `Finding`.
    """

    rule: RuleId
    items: tuple[tuple[str, str], ...]
    denominator: int
    unit: str
    subcode: str = ""
    where: str = ""

    @property
    def code(self) -> str:
        """Return the rule's code, such as HP901."""
        return self.rule.code

    @property
    def paths(self) -> tuple[str, ...]:
        """Return what is concerned, one entry an item."""
        return tuple(path for path, _ in self.items)

    @property
    def details(self) -> tuple[str, ...]:
        """Return what was seen, one entry an item."""
        return tuple(detail for _, detail in self.items)

    @property
    def count(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def finding(self, rules: Iterable[Rule]) -> Finding:
        """Return the finding with severity and words of the rule of this code among `rules`."""
        [known] = [rule for rule in rules if rule.code == self.code]
        return finding(
            known,
            self.items,
            denominator=self.denominator,
            unit=self.unit,
            subcode=self.subcode,
            where=self.where,
        )


def problem(
    rule: RuleId,
    items: Iterable[tuple[str, str]],
    *,
    denominator: int,
    unit: str,
    subcode: str = "",
    where: str = "",
) -> Problem:
    """Return a problem about `items`, pairs of (path, detail), in order of path."""
    return Problem(rule, tuple(in_order(items)), denominator, unit, subcode, where)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which codes count, and how much: `--select`, `--ignore` and `--severity`.

    Entries of `select` and `ignore` are codes, prefixes (`HP4`) or rule names, in which `*` stands
    for anything; an empty `select` means all, and `ignore` goes before `select`. `severity` maps
    the same keys to a severity.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, Severity] = field(default_factory=dict)

    def validate(self, rules: Sequence[Rule]) -> None:
        """Raise UsageError for an entry that names no rule."""
        for key in (*self.select, *self.ignore, *self.severity):
            if not any(_names(key, rule) for rule in rules):
                raise unknown_rule(key, rules)

    def keeps(self, rule: Rule) -> bool:
        """Return whether findings of `rule` are wanted."""
        wanted = not self.select or any(_names(key, rule) for key in self.select)
        return wanted and not any(_names(key, rule) for key in self.ignore)

    def apply(self, found: Iterable[Finding]) -> list[Finding]:
        """Return the wanted findings with the user's severities, worst first, then by code."""
        kept = [
            replace(problem, severity=self._severity(problem))
            for problem in found
            if self.keeps(problem.rule)
        ]
        return sorted(
            kept,
            key=lambda problem: (
                -problem.severity.rank,
                problem.code,
                problem.subcode,
                problem.where,
            ),
        )

    def _severity(self, problem: Finding) -> Severity:
        # The most specific key wins: a rule's own code or name, then the longest prefix.
        keys = [key for key in self.severity if _names(key, problem.rule)]
        best = max(
            keys,
            key=lambda key: (
                key.upper() == problem.code or key.lower() == problem.rule.name,
                len(key),
            ),
            default=None,
        )
        return problem.severity if best is None else self.severity[best]


def rules_named(keys: Iterable[str], rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules that codes, prefixes of codes or patterns of names mean, each once.

    A prefix or pattern means the rules about tiles alone.

    Raises:
        UsageError: A key names no rule.
    """
    listed = list(rules)
    found: dict[str, Rule] = {}
    for key in keys:
        exact = [rule for rule in listed if key.upper() == rule.code or key.lower() == rule.name]
        meant = exact or [rule for rule in listed if _names(key, rule) and rule.scope is Scope.TILE]
        if not meant:
            raise unknown_rule(key, listed)
        found |= {rule.code: rule for rule in meant}
    return list(found.values())


def rule_called(key: str, rules: Iterable[Rule]) -> Rule:
    """Return the rule of that code or name, in any case; raises UsageError, with what was perhaps
    meant, when there is none.
    """
    listed = list(rules)
    for rule in listed:
        if key.upper() == rule.code or key.lower() == rule.name:
            return rule
    raise unknown_rule(key, listed)


def unknown_rule(key: str, rules: Sequence[Rule]) -> UsageError:
    """Return the error for a key that names no rule."""
    names = [name for rule in rules for name in (rule.name, rule.code)]
    wanted = key.upper() if key.upper().startswith("HP") else key.lower()
    # Letters that look like digits, before all else.
    digits = wanted[:2] + wanted[2:].translate(str.maketrans("OIL", "011"))
    near = [digits] if digits in names else difflib.get_close_matches(wanted[:100], names, n=1)
    meant = f"; perhaps you meant {near[0]!r}" if near else ""
    return UsageError(f"no rule is called {key!r}{meant}", hint="histoprep rules lists them all")


def _names(key: str, rule: Rule) -> bool:
    return bool(key) and (
        rule.code.startswith(key.upper()) or fnmatch.fnmatchcase(rule.name, key.lower())
    )
