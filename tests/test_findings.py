"""Selecting and re-grading findings; what a finding holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoprep import checks
from histoprep.catalogue import all_rules
from histoprep.choices import Severity
from histoprep.errors import UsageError
from histoprep.findings import Finding, Scope, Selection, finding, rule_called, rules_named

RULES = all_rules()


def make(code: str, *paths: str, subcode: str = "", where: str = "") -> Finding:
    return finding(
        RULES[code],
        [(path, f"about {path}") for path in paths or ("a",)],
        denominator=9,
        unit="files",
        subcode=subcode,
        where=where,
    )


EVERYTHING = [make(code) for code in RULES]


def codes(selection: Selection) -> set[str]:
    selection.validate(list(RULES.values()))
    return {item.code for item in selection.apply(EVERYTHING)}


def test_items_are_sorted_with_their_details() -> None:
    item = finding(RULES["HP101"], [("b", "2"), ("a", "1")], denominator=4, unit="masks")
    assert (item.paths, item.details, item.count, item.share) == (("a", "b"), ("1", "2"), 2, 0.5)
    assert finding(RULES["HP101"], [], denominator=0, unit="masks").share == 0


def test_cause_and_suggestion_come_from_the_rule_unless_given() -> None:
    assert make("HP101").cause == RULES["HP101"].cause
    own = finding(
        RULES["HP101"], [("a", "")], denominator=1, unit="masks", cause="mine", suggestion="do"
    )
    assert (own.cause, own.suggestion) == ("mine", "do")


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ((), (), set(RULES)),
        (("HP401",), (), {"HP401"}),
        (("hp4",), (), {code for code in RULES if code.startswith("HP4")}),
        (
            ("blank-image", "HP7"),
            ("HP704",),
            {"HP303", "HP701", "HP702", "HP703", "HP705", "HP706", "HP710"},
        ),
        (("exact-duplicate-*",), (), {"HP601", "HP602"}),
        ((), ("HP",), set()),
        (("HP406",), ("HP4",), set()),
    ],
)
def test_select_and_ignore(
    select: tuple[str, ...], ignore: tuple[str, ...], expected: set[str]
) -> None:
    assert codes(Selection(select, ignore)) == expected


def test_severity_of_the_most_specific_key() -> None:
    grades = {
        "HP": Severity.INFO,
        "HP3": Severity.WARNING,
        "blank-image": Severity.ERROR,
        "HP304": Severity.ERROR,
    }
    graded = {item.code: item.severity for item in Selection(severity=grades).apply(EVERYTHING)}
    assert (graded["HP101"], graded["HP301"], graded["HP303"], graded["HP304"]) == (
        Severity.INFO,
        Severity.WARNING,
        Severity.ERROR,
        Severity.ERROR,
    )
    # A code is more specific than a longer pattern.
    both = Selection(severity={"HP601": Severity.ERROR, "exact-duplicate-f*": Severity.INFO})
    assert {item.code: item.severity for item in both.apply(EVERYTHING)}["HP601"] is Severity.ERROR


def test_a_severity_of_its_own_stays_unless_regraded() -> None:
    from dataclasses import replace

    mild = replace(make("HP402"), severity=Severity.WARNING)
    assert Selection().apply([mild])[0].severity is Severity.WARNING
    assert Selection(severity={"HP402": Severity.INFO}).apply([mild])[0].severity is Severity.INFO


def test_worst_first() -> None:
    ranks = [(-item.severity.rank, item.code) for item in Selection().apply(EVERYTHING)]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("HP1O1", "HP101"),
        ("blank-imag", "blank-image"),
        ("Orphan_Mask", "orphan-mask"),
        ("qqqq", None),
        ("", None),
    ],
)
def test_unknown_rules_are_refused_with_what_was_perhaps_meant(key: str, meant: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        Selection(ignore=(key,)).validate(list(RULES.values()))
    assert (f"perhaps you meant {meant!r}" in str(refused.value)) is (meant is not None)
    with pytest.raises(UsageError):
        rule_called(key, RULES.values())


def test_rules_by_code_and_name_in_any_case() -> None:
    assert (
        rule_called("hp303", RULES.values())
        is rule_called("Blank-Image", RULES.values())
        is RULES["HP303"]
    )
    with pytest.raises(UsageError):
        rule_called("HP3", RULES.values())


PIECES = st.tuples(
    st.sampled_from(["HP101", "HP406"]),
    st.sampled_from(["", "x"]),
    st.lists(st.text("abc", min_size=1), min_size=1, max_size=4),
)


@given(st.lists(PIECES, max_size=8))
def test_merging_pieces_loses_and_mixes_nothing(made: list[tuple[str, str, list[str]]]) -> None:
    pieces = [make(code, *paths, subcode=subcode) for code, subcode, paths in made]
    merged = checks.merged(pieces)
    assert len({(item.code, item.subcode) for item in merged}) == len(merged)
    for item in merged:
        expected = sorted(
            path
            for code, subcode, paths in made
            if (code, subcode) == (item.code, item.subcode)
            for path in paths
        )
        assert list(item.paths) == expected
        assert item.count == len(expected)
        assert all(
            detail == f"about {path}" for path, detail in zip(item.paths, item.details, strict=True)
        )


@pytest.mark.parametrize(
    ("keys", "codes"),
    [
        (["HP406", "hp601"], ["HP406", "HP601"]),
        (["speck-labels"], ["HP408"]),
        (["HP60"], ["HP601", "HP602", "HP603", "HP604"]),
        (["*-label*", "HP802"], None),
    ],
)
def test_rules_are_named_as_audit_selects_them(keys: list[str], codes: list[str] | None) -> None:
    named = rules_named(keys, all_rules().values())
    if codes is not None:
        assert [rule.code for rule in named] == codes
    # A prefix or pattern means rules about tiles, a code what it says.
    assert all(rule.scope is Scope.TILE for rule in named if rule.code != "HP802")
    assert len({rule.code for rule in named}) == len(named)
    with pytest.raises(UsageError, match="perhaps you meant 'HP406'"):
        rules_named(["HP4O6"], all_rules().values())


def test_labels_are_in_the_order_of_their_numbers() -> None:
    paths = ["label 10", "b.png", "class 2 fat", "label 9 x", "a.png", "class 11 bone"]
    rule = next(iter(all_rules().values()))
    found = finding(rule, [(path, "") for path in paths], denominator=6, unit="labels")
    expected = ["a.png", "b.png", "class 2 fat", "class 11 bone", "label 9 x", "label 10"]
    assert list(found.paths) == expected
    parts = [
        finding(rule, [(path, "")], denominator=6, unit="labels") for path in reversed(expected)
    ]
    [joined] = checks.merged(parts)
    assert list(joined.paths) == expected
