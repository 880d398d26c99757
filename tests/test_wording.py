"""Names as people read them, also those that tables keep."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoprep.names import to_text
from histoprep.report.wording import uri
from histoprep.visible import visible


@given(
    st.binary(min_size=1, max_size=30).filter(
        lambda raw: b"\0" not in raw and not raw.startswith(b"/")
    )
)
def test_the_uri_of_a_stored_name_has_its_bytes(raw: bytes) -> None:
    assert unquote_to_bytes(uri(to_text(os.fsdecode(raw)))) == raw


# Python's form of a name may itself hold the characters that stored names keep their bytes in: no
# function can tell the two apart.
@given(
    st.binary(max_size=30).filter(lambda raw: not re.search("[\uef80-\uefff]", os.fsdecode(raw)))
)
def test_what_is_shown_is_the_same_for_stored_names_and_those_of_python(raw: bytes) -> None:
    name = os.fsdecode(raw)
    shown = visible(to_text(name))
    assert shown == visible(name)
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (os.fsdecode(b"caf\xe9.png"), r"caf\xe9.png"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}.png", "café.png"),
        ("line\nbreak", r"line\nbreak"),
        ("half-\ud800-surrogate", r"half-\ud800-surrogate"),
    ],
)
def test_names_as_shown(name: str, shown: str) -> None:
    assert visible(to_text(name)) == shown
