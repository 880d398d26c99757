"""Words that may not come back: private ones for which the field, or plain English, has a word.

`NAMES` are refused as names in code, `WORDS` in everything that is read: code, comments, help
texts, messages, documents.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("histoprep", "trainer")
# The name -> what to write.
NAMES = {
    "one": "the thing itself: tile, mask, cls, finding, path",
    "told": "what it is: message, output, facts",
    "asked": "requested",
    "strangers": "foreign files",
}
# The pattern -> what to write.
WORDS = {
    r"\w*(?<!recom)(?<!com)(?<!a)mend(ed|s|ing|er)?\b": "repair",
    r"\w*[Pp]ictures?\b": "image",
    r"\bstrangers?\b": "foreign files",
}
# Names of earlier settings and files, for which an error names the new ones.
EARLIER = re.compile(r"[\"'](mended\.parquet|pictures|num_pictures)[\"']")
SOURCES = [
    path
    for folder in (*PACKAGES, "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)
]
TEXTS = [
    *(path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES),
    *sorted((ROOT / "docs").glob("*.md")),
    *(path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.j2"))),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and text of every name in a Python file."""
    with path.open("rb") as stream:
        for token in tokenize.tokenize(io.BytesIO(stream.read()).readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string


@pytest.mark.parametrize("name", NAMES)
def test_private_names_are_not_used(name: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line, text in names_in(path)
        if text == name
    ]
    assert not found, f"write {NAMES[name]}"


@pytest.mark.parametrize("pattern", WORDS)
def test_private_words_are_not_read(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(pattern, EARLIER.sub("", line))
    ]
    assert not found, f"write {WORDS[pattern]}"


def test_the_patterns_find_their_words() -> None:
    [mend, image, foreign] = [re.compile(pattern) for pattern in WORDS]
    assert all(map(mend.search, ("mended", "num_mended", "to mend it", "Mender".lower())))
    assert not any(map(mend.search, ("recommends", "amended", "commended")))
    assert image.search("two pictures") and image.search("wanted_pictures")
    assert foreign.search("no strangers")
