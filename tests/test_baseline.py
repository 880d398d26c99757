"""Accepted findings: written, read, taken apart from new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoprep.auditing.baseline import apply_baseline, read_baseline, write_baseline
from histoprep.catalogue import all_rules
from histoprep.errors import UsageError
from histoprep.findings import Finding, finding

RULES = all_rules()


def make(code: str, *paths: str, subcode: str = "") -> Finding:
    return finding(
        RULES[code],
        [(path, f"about {path}") for path in paths],
        denominator=99,
        unit="files",
        subcode=subcode,
    )


def test_what_was_accepted_is_known_and_the_rest_new(tmp_path: Path) -> None:
    path = tmp_path / "accepted.json"
    before = [make("HP101", "a", "b"), make("HP201", "x", subcode="truncated")]
    assert write_baseline(path, before) == 3
    after = [
        make("HP101", "a", "b", "c"),
        make("HP201", "x", subcode="truncated"),
        make("HP201", "x", subcode="zero-bytes"),
        make("HP104", "a"),
    ]
    found = [
        (item.code, item.subcode, item.paths, item.known)
        for item in apply_baseline(after, read_baseline(path))
    ]
    assert found == [
        ("HP101", "", ("c",), False),
        ("HP101", "", ("a", "b"), True),
        ("HP201", "truncated", ("x",), True),
        ("HP201", "zero-bytes", ("x",), False),
        ("HP104", "", ("a",), False),
    ]


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.booleans(), min_size=1, max_size=20))
@pytest.mark.slow
def test_parts_make_up_the_whole(accepted: dict[str, bool]) -> None:
    whole = make("HP406", *accepted)
    parts = apply_baseline(
        [whole], frozenset(("HP406", "", path) for path, known in accepted.items() if known)
    )
    assert sum(part.count for part in parts) == whole.count
    assert sorted(path for file in parts for path in file.paths) == sorted(accepted)
    for part in parts:
        assert {accepted[path] for path in part.paths} == {part.known}
        assert part.denominator == 99
        assert all(
            detail == f"about {path}" for path, detail in zip(part.paths, part.details, strict=True)
        )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "x",
        "[" * 100_000,
        *(
            json.dumps({"format": "histoprep-baseline", **rest})
            for rest in ({"version": 2, "accepted": {}}, {"version": 1})
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "accepted.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="no baseline"):
        read_baseline(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(tmp_path / "absent.json")
