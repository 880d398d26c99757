"""Tables on terminals of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from histoprep import console

COLUMNS = ("class", "name", "pixels", "pixel %", "tiles")
ROWS = [
    ("0", "Background and artefact", 141_720_333, "  74.01", 1_234_567),
    ("12", "Papilloma", 9, "   0.02", 3),
]


def printed(monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(
        console, "_out", Console(file=stream, width=width, soft_wrap=True, highlight=False)
    )
    console.table(COLUMNS, ROWS)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [1, 20, 30, 45, 60, 200])
def test_numbers_are_never_broken(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = printed(monkeypatch, width)
    words = [line.split() for line in lines]
    assert any(
        row[:1] == ["0"] and row[-3:] == ["141,720,333", "74.01", "1,234,567"] for row in words
    )
    assert any(row[:1] == ["12"] and row[-3:] == ["9", "0.02", "3"] for row in words)
    header = lines[0]
    assert header.split() == ["class", "name", "pixels", "pixel", "%", "tiles"]
    # Text is folded and nothing of it is lost.
    start, end = header.index("name"), header.index("pixels") - 5
    assert (
        "".join(line[start:end].strip() for line in lines[1:]).replace(" ", "")
        == "BackgroundandartefactPapilloma"
    )


def test_lines_are_as_wide_as_the_terminal_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for width in (52, 60, 80):
        assert max(len(line) for line in printed(monkeypatch, width)) <= width
    assert len(printed(monkeypatch, 200)) == 3
