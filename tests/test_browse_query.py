"""Filters and orders of the browser against plain loops over the rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tile_rows import tile_row, write_tiles

from histoprep.browse.beside import matching_rows
from histoprep.browse.columns import SharesBuilder, ShownClass
from histoprep.browse.decisions import Journal, MarkedRows
from histoprep.browse.neighbours import side_of
from histoprep.browse.opening import TileSet, open_folder
from histoprep.browse.query import Query, QueryEngine, parse_query, stable_order
from histoprep.errors import UsageError
from histoprep.labels import LabelMap, SourceLabel, TargetClass
from histoprep.schemas.decisions import Action
from histoprep.schemas.workspace import Workspace

NUM_TILES = 60
LABEL_MAP = LabelMap(
    "two",
    tuple(SourceLabel(item, f"s{item}") for item in (0, 1, 2)),
    (TargetClass(0, "none", "#999999"), TargetClass(4, "skin", "#d55e00")),
    {0: 0, 1: 4, 2: 4},
)
ROWS: list[dict[str, Any]] = [
    tile_row(
        f"case{number % 4}/Tile-{number:02}",
        None if number % 7 == 3 else {1: number, 2: 2 * number % 50, 9: number % 3},
        group=None if number % 5 == 4 else f"case{number % 4}",
        label=["a", "b", None][number % 3],
        focus=None if number % 6 == 1 else float((number * 37) % 20),
        luminance=-float(number % 9),
    )
    for number in range(NUM_TILES)
]


@pytest.fixture(name="tiles", scope="module")
def _tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    root = tmp_path_factory.mktemp("query") / "data"
    root.mkdir()
    workspace = Workspace.of(root)
    workspace.folder.mkdir()
    write_tiles(workspace.tiles, ROWS, root)
    return open_folder(workspace, LABEL_MAP)


@pytest.fixture(name="marked", scope="module")
def _marked(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> MarkedRows:
    journal = Journal(tmp_path_factory.mktemp("marks") / "decisions.csv")
    ids = tiles.columns.tile_ids.to_pylist()
    journal.append(Action.DROP, ids[3:9])
    journal.append(Action.TAG, ids[7:12], "odd")
    marked = MarkedRows(journal, tiles.columns.tile_ids)
    marked.refresh()
    return marked


def share_of(row: dict[str, Any], class_id: int) -> float:
    """Return the share of a class in the mask of a row."""
    pixels = dict(zip(row.get("label_ids", ()), row.get("label_pixels", ()), strict=True))
    total = sum(pixels.values())
    own = sum(
        count for label, count in pixels.items() if {0: 0, 1: 4, 2: 4}.get(label, -1) == class_id
    )
    return own / total if total else 0.0


def wanted(query: list[tuple[str, str]]) -> list[int]:
    """Return the rows of filters, by one loop."""
    found = []
    for number, row in enumerate(ROWS):
        keep = True
        class_id = next((int(value) for name, value in query if name == "class"), None)
        for name, value in query:
            if name == "text":
                keep &= value.lower() in row["tile_id"].lower()
            elif name in ("class", "also"):
                keep &= share_of(row, int(value)) > 0
            elif name in ("min_share", "max_share") and class_id is not None:
                share = share_of(row, class_id)
                keep &= share >= float(value) if name == "min_share" else share <= float(value)
            elif name in ("group", "label"):
                values = [other for key, other in query if key == name]
                keep &= (row.get(name) or "") in values
            elif name[:4] in ("min.", "max."):
                number_of = row.get(name[4:])
                if number_of is None:
                    keep = False
                else:
                    low = name.startswith("min.")
                    keep &= number_of >= float(value) if low else number_of <= float(value)
            elif name == "state":
                keep &= (3 <= number < 9) == (value == "dropped")
            elif name == "tag":
                keep &= 7 <= number < 12
        if keep:
            found.append(number)
    return found


FILTERS = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.sampled_from(["tile-1", "CASE2", "3", "none"])),
        st.tuples(st.just("class"), st.sampled_from(["0", "4", "-1"])),
        st.tuples(st.just("also"), st.sampled_from(["0", "4", "-1"])),
        st.tuples(st.just("min_share"), st.sampled_from(["0", "0.1", "0.33"])),
        st.tuples(st.just("max_share"), st.sampled_from(["0.05", "0.5", "1"])),
        st.tuples(st.just("group"), st.sampled_from(["case0", "case3", ""])),
        st.tuples(st.just("label"), st.sampled_from(["a", "b", ""])),
        st.tuples(st.just("min.focus"), st.sampled_from(["0", "7", "19"])),
        st.tuples(st.just("max.luminance"), st.sampled_from(["-2", "0"])),
        st.tuples(st.just("state"), st.sampled_from(["dropped", "kept"])),
        st.tuples(st.just("tag"), st.just("odd")),
    ),
    max_size=4,
    # Only values of categories, and further classes, may be several.
    unique_by=lambda pair: pair if pair[0] in ("group", "label", "also") else pair[0],
)


@given(FILTERS)
def test_filters_find_what_a_loop_finds(
    tiles: TileSet, marked: MarkedRows, query: list[tuple[str, str]]
) -> None:
    engine = QueryEngine(tiles.columns, {})
    assert engine.rows(parse_query(query), marked).tolist() == wanted(query)


@given(st.sampled_from(["tile_id", "focus", "luminance", "group", "label", "share"]), st.booleans())
def test_orders_are_stable_and_end_with_what_is_missing(
    tiles: TileSet, marked: MarkedRows, name: str, is_descending: bool
) -> None:
    query = Query(sort=name, is_descending=is_descending, class_id=4 if name == "share" else None)
    rows = QueryEngine(tiles.columns, {}).rows(query, marked).tolist()
    values = [share_of(ROWS[row], 4) if name == "share" else ROWS[row].get(name) for row in rows]
    known = [value for value in values if value is not None]
    assert values[: len(known)] == known, "null is last either way"
    assert known == sorted(known, reverse=is_descending)
    ties = zip(values, rows, values[1:], rows[1:], strict=False)
    assert all(first < second for value, first, other, second in ties if value == other)


@given(
    st.lists(st.floats(width=32), max_size=40),
    st.booleans(),
)
def test_the_radix_order_is_that_of_a_stable_sort(
    numbers: list[float], is_descending: bool
) -> None:
    keys = np.array(numbers, np.float32)
    order = stable_order(keys, is_descending=is_descending).tolist()

    def place(index: int) -> tuple[bool, float]:
        missing = math.isnan(keys[index])
        value = 0.0 if missing else float(keys[index])
        return missing, -value if is_descending else value

    assert order == sorted(range(len(numbers)), key=place)


def test_negative_zero_is_zero_to_the_order() -> None:
    assert stable_order(np.array([0.0, -0.0, 0.0], np.float32)).tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40), st.booleans())
def test_whole_numbers_are_in_order(numbers: list[int], is_descending: bool) -> None:
    order = stable_order(np.array(numbers, np.int32), is_descending=is_descending).tolist()
    sign = -1 if is_descending else 1
    assert order == sorted(range(len(numbers)), key=lambda index: sign * numbers[index])


def test_labels_of_one_class_are_summed() -> None:
    builder = SharesBuilder()
    builder.add(
        np.array([0, 0, 0, 2]),
        np.array([4, 4, 0, 4]),
        np.array([10, 20, 70, 5]),
        np.array([False, True, False, False]),
    )
    shares = builder.build([ShownClass(0, "none", "#999999"), ShownClass(4, "skin", "#d55e00")])
    assert [rows.tolist() for rows in shares.rows] == [[0], [0, 2]]
    assert shares.shares[1].tolist() == pytest.approx([0.3, 1.0])
    assert [core.tolist() for core in shares.is_core] == [[False], [True, False]]
    assert shares.pixels.tolist() == [70, 35]
    assert shares.of_rows(np.array([2, 0, 1])) == [
        [(1, 1.0)],
        [(0, pytest.approx(0.7)), (1, pytest.approx(0.3))],
        [],
    ]


def test_an_answer_is_kept_until_decisions_change(tiles: TileSet, tmp_path: Path) -> None:
    marked = MarkedRows(Journal(tmp_path / "decisions.csv"), tiles.columns.tile_ids)
    engine = QueryEngine(tiles.columns, {})
    marked.refresh()
    query = Query(state="dropped")
    assert engine.rows(query, marked) is engine.rows(query, marked)
    marked.journal.append(Action.DROP, [ROWS[5]["tile_id"]])
    marked.refresh()
    assert engine.rows(query, marked).tolist() == [5]


def test_generated_tiles_match_the_real_ones() -> None:
    import pyarrow as pa

    generated = pa.chunked_array([["images/a/b", "images/c"], ["d"]])
    real = pa.chunked_array([["d", "c"], ["a/b"]])
    assert matching_rows(generated, real).tolist() == [2, 1, 0]
    assert matching_rows(real, generated).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("right", "down", "side"),
    [(128, 0, "right"), (-100, 20, "left"), (0, -128, "above"), (3, 90, "below"), (0, 0, "over")],
)
def test_sides(right: int, down: int, side: str) -> None:
    assert side_of(right, down, kind="overlapping") == side


@pytest.mark.parametrize("pairs", [[("sort", "share")], [("sort", "pool"), ("class", "77")]])
def test_queries_that_make_no_sense_are_errors(
    tiles: TileSet, marked: MarkedRows, pairs: list[tuple[str, str]]
) -> None:
    with pytest.raises(UsageError):
        QueryEngine(tiles.columns, {}).rows(parse_query(pairs), marked)


def test_a_file_that_ended_a_process_is_not_tried_again(tmp_path: Path) -> None:
    from PIL import Image

    from histoprep.browse.pixels import UnreadableError

    root = tmp_path / "data"
    root.mkdir()
    for name in ("good", "bad"):
        Image.new("RGB", (16, 16)).save(root / f"{name}.jpg")
    workspace = Workspace.of(root)
    workspace.folder.mkdir()
    rows = [tile_row("good"), tile_row("bad", image_error="HP201 worker-died")]
    write_tiles(workspace.tiles, rows, root)
    reader = open_folder(workspace, LABEL_MAP).reader
    assert reader.image(0).shape == (16, 16, 3)
    with pytest.raises(UnreadableError, match="ended the process"):
        reader.image(1)
