"""How well one mask fits one image: the numbers in tiles.parquet, and what they are made of."""

from __future__ import annotations

from pathlib import Path

import coloured_tissue as made
import cv2
import numpy as np
import pyarrow as pa
import pytest
from audit_cases import DataSet
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from histoprep import tables
from histoprep.execution import Engine
from histoprep.fit.evidence import differences, evidence_for, explained_share
from histoprep.fit.grids import MAX_CLASSES, Cells, class_shares
from histoprep.fit.measure import TileFit, mask_shares, measure_fit, tile_grid
from histoprep.fit.orientation import ORIENTATIONS, Orientation
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import TableOptions, TileTable


def shares_of(labels: np.ndarray) -> np.ndarray | None:
    return mask_shares(labels, *np.unique(labels, return_counts=True))


def fit_of(image: np.ndarray, labels: np.ndarray) -> TileFit | None:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    eighth = cv2.resize(grey, (-(-width // 8), -(-height // 8)), interpolation=cv2.INTER_AREA)
    compared = eighth if min(eighth.shape) >= 16 else grey
    return measure_fit(tile_grid(compared, height, width), shares_of(labels))


@given(st.integers(0, 1 << 20), st.integers(1, 5))
def test_the_explained_share_is_that_of_least_squares(seed: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(num_classes + 1), (9, 11))[..., :-1].transpose(2, 0, 1)
    shares = shares.astype(np.float32)
    density = (rng.normal(size=(9, 11)) + shares.sum(axis=0) * rng.normal()).astype(np.float32)
    design = np.column_stack([np.ones(99), *shares.reshape(num_classes, -1).astype(np.float64)])
    target = density.ravel().astype(np.float64)
    rest = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    expected = 1 - (rest @ rest) / ((target - target.mean()) ** 2).sum()
    assert explained_share(density, shares) == pytest.approx(expected, abs=1e-6)


def _expected_evidence(density: np.ndarray, shares: np.ndarray) -> float:
    """Return the evidence by least squares in float64, one size of cells after the other."""
    planes = np.concatenate((density[None], shares)).astype(np.float64)
    total = 0.0
    while min(planes.shape[1:]) >= 4:
        across, down = np.diff(planes, axis=2), np.diff(planes, axis=1)
        pairs = np.concatenate([part.reshape(len(planes), -1) for part in (across, down)], axis=1)
        target, design = pairs[0], pairs[1:].T
        rest = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
        left = (rest @ rest) / (target @ target)
        gain = -0.375 * len(target) / 2 * np.log(max(left, 1e-4)) - len(shares) / 2
        total += 5 * np.log1p(gain / 5) if gain > 0 else gain
        rows, columns = (side // 2 * 2 for side in planes.shape[1:])
        cut = planes[:, :rows, :columns]
        planes = cut.reshape(len(planes), rows // 2, 2, columns // 2, 2).mean(axis=(2, 4))
    return total


@given(st.integers(0, 1 << 20), st.integers(2, 5))
def test_evidence_is_what_least_squares_gives(seed: int, num_classes: int) -> None:
    labels = made.regions(seed, 17 * 4, num_classes)
    cells = Cells(17, 17, 4)
    shares = class_shares(labels, cells, *np.unique(labels, return_counts=True))
    assert shares is not None
    planes = shares.astype(np.float32) / 255
    rng = np.random.default_rng(seed)
    density = (planes[0] * 0.05 + rng.normal(0, 0.2, (17, 17))).astype(np.float32)
    found = evidence_for(density[None], planes)
    assert found[0] == pytest.approx(_expected_evidence(density, planes), abs=0.05)


def test_without_a_relation_evidence_is_about_none() -> None:
    found = []
    for seed in range(300):
        fit = fit_of(made.tile(seed)[0], made.regions(1000 + seed))
        assert fit is not None
        found.append(fit.evidence[0])
    assert abs(np.mean(found)) < 2
    assert np.mean(np.array(found) > 8) < 0.05


@pytest.mark.parametrize("way", ORIENTATIONS)
def test_what_has_to_be_done_to_a_mask_is_what_speaks_most_for_it(way: Orientation) -> None:
    image, labels = made.tile(3)
    harmed = np.ascontiguousarray(way.inverse.apply(labels))
    assert np.array_equal(way.apply(harmed), labels)
    fit = fit_of(image, harmed)
    assert fit is not None
    assert ORIENTATIONS[int(np.argmax(fit.evidence[:8]))] is way


def test_orientations_are_what_numpy_calls_so() -> None:
    pixels = np.arange(6).reshape(2, 3)
    assert np.array_equal(Orientation.TURN_90_CLOCKWISE.apply(pixels), np.rot90(pixels, -1))
    assert np.array_equal(Orientation.TURN_90_COUNTERCLOCKWISE.apply(pixels), np.rot90(pixels))
    assert np.array_equal(Orientation.TURN_180.apply(pixels), np.rot90(pixels, 2))
    assert np.array_equal(Orientation.TRANSPOSE.apply(pixels), pixels.T)
    assert np.array_equal(Orientation.ANTI_TRANSPOSE.apply(pixels), np.rot90(pixels, 2).T)
    assert np.array_equal(Orientation.FLIP_LEFT_RIGHT.apply(pixels), np.fliplr(pixels))
    assert np.array_equal(Orientation.FLIP_TOP_BOTTOM.apply(pixels), np.flipud(pixels))


@pytest.mark.parametrize(("right", "down", "at"), [(-1, 0, 8), (1, 0, 9), (0, -1, 10), (0, 1, 11)])
def test_a_mask_that_lies_a_cell_off_fits_best_when_it_is_moved(
    right: int, down: int, at: int
) -> None:
    image, labels = made.tile(5)
    fit = fit_of(image, np.roll(labels, (-8 * down, -8 * right), (0, 1)))
    assert fit is not None and fit.cell_px == 8
    assert int(np.nanargmax(fit.evidence)) == at


def test_tiles_that_are_not_square_cannot_be_turned_by_a_quarter() -> None:
    image, labels = made.tile(5)
    fit = fit_of(image[:160], labels[:160])
    assert fit is not None
    possible = [not way.swaps_sides for way in ORIENTATIONS] + [True] * 4
    assert np.isfinite(fit.evidence).tolist() == possible


def test_nothing_is_said_where_nothing_can_be_told() -> None:
    image, labels = made.tile(7)
    assert fit_of(image, np.full_like(labels, 3)) is None
    assert fit_of(np.full_like(image, 90), labels) is None
    assert fit_of(image[60:100, 60:100], labels[60:100, 60:100]) is not None
    assert fit_of(image[:7, :7], labels[:7, :7]) is None
    assert fit_of(image, labels[:160]) is None


@given(
    arrays.arrays(np.uint8, (64, 64), elements=st.integers(0, 9)),
)
def test_shares_are_those_of_the_most_common_classes(labels: np.ndarray) -> None:
    ids, pixels = np.unique(labels, return_counts=True)
    shares = class_shares(labels, Cells(16, 16, 4), ids, pixels)
    if len(ids) == 1:
        assert shares is None
        return
    assert shares is not None
    common = ids[np.argsort(-pixels, kind="stable")][1:MAX_CLASSES]
    blocks = labels.reshape(16, 4, 16, 4)
    expected = np.stack([(blocks == label).mean(axis=(1, 3)) for label in common])
    assert np.abs(shares / 255 - expected).max() <= 1 / 255


def test_differences_are_of_neighbours() -> None:
    planes = np.arange(32, dtype=np.float32).reshape(1, 4, 8)
    [pairs] = differences(planes)
    assert pairs[0, :28].tolist() == [1.0] * 28
    assert pairs[0, 28:].tolist() == [8.0] * 24


def _fits(root: Path, workers: int, name: str) -> pa.Table:
    workspace = Workspace.of(root, root.with_name(name))
    TileTable(workspace, TableOptions(partition_tiles=4)).build(Engine(workers))
    return tables.read_table(open_tiles_table(workspace.tiles)[0])


def test_the_table_holds_it_for_every_tile_whoever_measures(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for index in range(9):
        image, labels = made.tile(index)
        data.pair(f"{index}", labels, image)
    data.pair("uniform", np.full((192, 192), 2, np.uint8), made.tile(20)[0])
    data.image("alone.jpg", made.tile(21)[0])
    found, again = _fits(data.root, 1, "once"), _fits(data.root, 2, "twice")
    assert found.equals(again)
    rows = {row["tile_id"]: row for row in found.to_pylist()}
    assert rows["uniform"]["fit_evidence"] is None and rows["alone"]["fit_explained"] is None
    for index in range(9):
        row = rows[str(index)]
        assert row["fit_cell_px"] == 8 and 0.2 < row["fit_explained"] <= 1
        assert np.argmax(row["fit_evidence"]) == 0
