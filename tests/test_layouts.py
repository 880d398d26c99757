"""Every layout of `layouts.py`: audited, and paired as it was made."""

from __future__ import annotations

from pathlib import Path

import pytest
from layouts import LAYOUTS, Layout, Outcome

from histoprep.scan import scan
from histoprep.scan.listing import Issue, Pair
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import TableOptions, resolved

# What the audit does not understand yet.
NOT_YET = frozenset(
    layout.name for layout in LAYOUTS if layout.outcome not in (Outcome.KNOWN, Outcome.NO_MASKS)
)


def paired(root: Path) -> list[Pair]:
    issues: list[Issue] = []
    options = resolved(Workspace.of(root), TableOptions())
    return list(scan(root, options.scan, issues.append))


def test_names_are_unique() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


@pytest.mark.parametrize(
    "layout",
    [layout for layout in LAYOUTS if layout.name not in NOT_YET],
    ids=lambda layout: layout.name,
)
def test_pairs_are_those_that_were_made(layout: Layout, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    true_pairs = layout.make(root)
    found = {
        pair.image_path: pair.mask_path
        for pair in paired(root)
        if pair.image_path and pair.mask_path
    }
    assert found == true_pairs


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_makers_make_what_they_name(layout: Layout, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for image, mask in layout.make(root).items():
        if layout.name != "links-to-a-store":
            assert (root / image).is_file()
            assert (root / mask).is_file()
