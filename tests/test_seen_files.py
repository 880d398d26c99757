"""The file system is asked once for each file, however often a data set is walked through."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from histoprep.demo import make_demo
from histoprep.execution import Engine
from histoprep.read_ahead import FileStat
from histoprep.scanning import Pair
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.seen_files import SeenFiles, SeenPair
from histoprep.tiles.table import TileTable


def pair(number: int, mask: str | None = "m.png") -> Pair:
    return Pair(f"t{number}", f"t{number}.jpg", mask, None, None, None, False, ())


def seen(number: int) -> SeenPair:
    image, mask = FileStat(number, -number), FileStat(number + 1, 1 << 62)
    return SeenPair(image, None if number % 2 else mask, number, (1 << 64) - 1 - number)


def test_a_first_table_asks_once_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tiles"
    make_demo(root, num_tiles=48, tile_px=64)
    calls: Counter[str] = Counter()
    ask = os.stat

    def counted(path: Any, *args: Any, **how: Any) -> os.stat_result:
        calls[str(path)] += 1
        return ask(path, *args, **how)

    monkeypatch.setattr(os, "stat", counted)
    made = TileTable(Workspace.of(root)).build(Engine(1))
    files = {path: count for path, count in calls.items() if path.endswith((".jpg", ".png"))}
    assert len(files) > made.num_tiles
    assert set(files.values()) == {1}


@pytest.mark.slow
def test_notes_come_back_as_they_were() -> None:
    notes = SeenFiles()
    # More than stay in memory.
    numbers = range(30_000)
    for number in numbers:
        notes.note(pair(number), seen(number))
    for _ in range(2):
        found = list(notes.of(map(pair, numbers)))
        assert found == [(pair(number), seen(number)) for number in numbers]


def test_nothing_is_known_from_the_first_other_pair_on() -> None:
    notes = SeenFiles()
    for number in range(4):
        notes.note(pair(number), seen(number))
    now = [pair(0), pair(1, None), pair(2), pair(3), pair(4)]
    assert [known for _, known in notes.of(now)] == [seen(0), None, None, None, None]
    assert [known for _, known in notes.of([pair(0)])] == [seen(0)]
