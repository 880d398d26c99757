"""`histoprep fix --also fit`: masks that were turned or moved lie on their images again."""

from __future__ import annotations

from pathlib import Path

import coloured_tissue as made
import numpy as np
import pytest
from audit_cases import DataSet
from test_checks_fit import NUM_TILES, enlarged, fill, moved

import histoprep
from histoprep import imageio
from histoprep.errors import UsageError
from histoprep.fit.orientation import Orientation
from histoprep.fixing import FixOptions, choose_operations, plan_fix, run_fix
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import ensure_tiles

MOVE = (10, -16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    data = DataSet(tmp_path_factory.mktemp("fix-fit") / "set")
    fill(data, "right", lambda labels: labels)
    for way in (Orientation.TURN_90_CLOCKWISE, Orientation.FLIP_TOP_BOTTOM):
        fill(data, way, lambda labels, way=way: np.ascontiguousarray(way.inverse.apply(labels)))
    fill(data, "moved", moved(*MOVE))
    fill(data, "enlarged", enlarged)
    ensure_tiles(Workspace.of(data.root), workers=2)
    return data


def read(root: Path, name: str) -> np.ndarray:
    stored = (root / name).read_bytes()
    return imageio.decode_mask(stored, imageio.read_header(stored))


def test_it_is_done_on_request_alone() -> None:
    assert "fit" not in choose_operations()
    assert list(choose_operations(only=["HP418"])) == ["fit"]


def test_a_value_that_is_no_label_is_refused(data: DataSet, tmp_path: Path) -> None:
    options = FixOptions(tmp_path / "tree", choose_operations(only=["fit=void"]))
    with pytest.raises(UsageError, match="uncovers gets a label"):
        plan_fix(Workspace.of(data.root), options)


@pytest.mark.parametrize("fill_label", [None, 7])
def test_masks_are_as_they_were_before_they_were_harmed(
    data: DataSet, tmp_path: Path, fill_label: int | None
) -> None:
    chosen = "fit" if fill_label is None else f"fit={fill_label}"
    tree = tmp_path / "tree"
    plan = plan_fix(Workspace.of(data.root), FixOptions(tree, choose_operations(only=[chosen])))
    run_fix(plan)
    for index in range(NUM_TILES):
        labels, name = made.tile(index)[1], f"{index:02}_mask.png"
        assert np.array_equal(read(tree, f"turn-90-clockwise/{name}"), labels)
        assert np.array_equal(read(tree, f"flip-top-bottom/{name}"), labels)
        assert np.array_equal(read(tree, f"right/{name}"), labels)
        scaled = (tree / f"enlarged/{name}").read_bytes()
        assert scaled == (data.root / f"enlarged/{name}").read_bytes()
    found = [
        finding
        for finding in histoprep.audit(tree, workers=1).findings
        if finding.code in ("HP418", "HP419", "HP420", "HP421")
    ]
    assert [(finding.code, finding.subcode) for finding in found] == [("HP419", "scaled")]


def test_a_move_uncovers_pixels_without_a_label(data: DataSet, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    plan = plan_fix(Workspace.of(data.root), FixOptions(tree, choose_operations(only=["fit=9"])))
    run_fix(plan)
    for index in range(NUM_TILES):
        labels = made.tile(index)[1]
        fixed = read(tree, f"moved/{index:02}_mask.png")
        uncovered = fixed == 9
        # Measured to 2 px, so that nearly all labels are where they were.
        assert np.mean(fixed[~uncovered] == labels[~uncovered]) > 0.97
        assert abs(int(uncovered[:, 96].sum()) - abs(MOVE[1])) <= 2
        assert abs(int(uncovered[96].sum()) - abs(MOVE[0])) <= 2
