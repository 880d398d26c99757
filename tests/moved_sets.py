"""Data sets that moved after their manifest was written."""

from __future__ import annotations

from pathlib import Path

from audit_cases import DataSet, stripes, tissue

from histoprep.cli import run


def move_with_unlabelled(folder: Path) -> Path:
    """Return the root of a data set of 6 pairs that moved together with 6 images beside it, which
    an audit read with --unlabelled.
    """
    before = folder / "before"
    data, more = DataSet(before / "data"), DataSet(before / "unlabelled")
    for index in range(6):
        data.pair(f"t{index}", stripes(0, 1, 2), tissue(index))
        more.image(f"u{index}.jpg", tissue(50 + index))
    words = ["--unlabelled", str(more.root), "--workers", "1"]
    assert run(["audit", str(data.root), *words]) == 0
    assert run(["manifest", str(data.root), "--split", "0.5/0.5"]) == 0
    before.rename(folder / "after")
    return folder / "after" / "data"
