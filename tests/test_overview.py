"""What table rules look at is the same from memory and from a mapped file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from audit_cases import DataSet, stripes, tissue

from histoprep.auditing import overview
from histoprep.labels import load_label_map
from histoprep.schemas.repaired import TileRows
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Return tiles with and without masks, zero masks, one that cannot be read, and groups."""
    made = DataSet(tmp_path / "tiles")
    for number in range(6):
        made.pair(f"case{number % 2}/{number}", stripes(0, 7, 9), tissue(number))
    made.pair("zero", stripes(0), tissue(7))
    made.pair("one", stripes(9), tissue(8))
    made.image("alone.jpg", tissue(9))
    made.mask("lost_mask.png")
    made.write("zero_copy.jpg", (made.root / "zero.jpg").read_bytes()[:500])
    made.audit(scan={"group_by": r"case\d"})
    return made


@pytest.mark.parametrize("ignored", [(200,), (9,)])
def test_a_mapped_file_holds_what_memory_does(
    data: DataSet, ignored: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.of(data.root)
    path = data.root.parent / "my_map.yml"
    path.write_text(
        f"sources: {{0: a, 7: b}}\nignore: {list(ignored)}\nclasses: {{0: A, 1: B}}\n"
        "map: {a: A, b: B}\n"
    )
    label_map = load_label_map(path)

    def read() -> pd.DataFrame:
        opened, _ = open_tiles_table(workspace.tiles)
        return overview.read_overview(TileRows(opened, None, ()), label_map, workspace.folder)

    held = read()
    names = set(workspace.folder.iterdir())
    monkeypatch.setattr(overview, "_MAX_ROWS_IN_MEMORY", 0)
    mapped = read()
    pd.testing.assert_frame_equal(mapped, held)
    assert set(workspace.folder.iterdir()) == names
    by_tile = held.set_index("tile_id")
    assert by_tile.zero.tolist().count(True) == 1 and by_tile.zero["zero"]
    assert by_tile.foreground["one"] == (9 not in ignored)
    assert by_tile.foreground["case0/0"]
    assert by_tile.source["case1/1"] == "case1"
