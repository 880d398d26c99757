"""Names go to text and back without losing a byte, and Arrow holds the text."""

from __future__ import annotations

import os
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoprep.names import pairing_key, to_name, to_text

# Bytes that meet the range in which we hide others: U+EF80 to U+EFFF and their neighbours.
NEAR = st.sampled_from(
    [
        chr(item).encode()
        for item in (0xEF7F, 0xEF80, 0xEFAA, 0xEFFF, 0xF000, 0xDBFF - 0x800, 0x10FFFF)
    ]
)
PIECES = st.one_of(
    st.binary(max_size=6),
    NEAR,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4).map(str.encode),
)
BYTES = st.lists(PIECES, max_size=8).map(b"".join)


@given(BYTES)
def test_there_and_back(raw: bytes) -> None:
    name = os.fsdecode(raw)
    text = to_text(name)
    assert os.fsencode(to_name(text)) == raw
    assert pa.array([text], pa.string()).to_pylist() == [text]
    text.encode("utf-8", "strict")


@given(BYTES, BYTES)
def test_different_names_have_different_texts(item: bytes, other: bytes) -> None:
    assert (item == other) == (to_text(os.fsdecode(item)) == to_text(os.fsdecode(other)))


@given(st.lists(BYTES, max_size=4))
def test_text_of_a_path_is_that_of_its_parts(parts: list[bytes]) -> None:
    names = [os.fsdecode(part) for part in parts]
    assert to_text("/".join(names)) == "/".join(map(to_text, names))
    assert to_name("/".join(map(to_text, names))) == "/".join(names)


@pytest.mark.parametrize("name", ["a.jpg", "Ü 切片 😀.png", ""])
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert to_text(name) == name == to_name(name)


@given(st.text(max_size=20))
def test_keys_ignore_case_and_unicode_form(stem: str) -> None:
    for form in ("NFC", "NFD"):
        assert pairing_key(unicodedata.normalize(form, stem)) == pairing_key(stem)
    assert pairing_key(pairing_key(stem)) == pairing_key(stem)


def test_keys_tell_stems_apart() -> None:
    assert len({pairing_key(stem) for stem in ("a", "b", "ä", "a_mask", "a.b", "ﬁ", "é")}) == 7
    assert pairing_key("STRASSE") == pairing_key("straße")
    assert pairing_key("ÄÖ") == pairing_key("a\u0308o\u0308")
