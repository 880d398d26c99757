"""`--group-by pixels`: groups of tiles that touch, overlap or are copies, and what holds them."""

from __future__ import annotations

from pathlib import Path

import coloured_tissue as made
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from audit_cases import DataSet, by_code
from typer.testing import CliRunner

import histoprep
from histoprep.cli.manifest import app
from histoprep.execution import Engine
from histoprep.neighbours.components import join_pairs
from histoprep.scanning import ScanOptions
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.neighbours import SCHEMA
from histoprep.schemas.tiles import PIXEL_GROUPS, open_tiles_table
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.neighbourhood import Neighbours
from histoprep.tiles.options import TableOptions
from histoprep.tiles.pixel_groups import describe, name_groups
from histoprep.tiles.table import TileTable

TILE_PX, NUM_FIELDS = 128, 6


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Return fields that were cut into four tiles each, under names that say nothing."""
    found = DataSet(tmp_path / "data")
    order = iter(np.random.default_rng(3).permutation(4 * NUM_FIELDS).tolist())
    for seed in range(NUM_FIELDS):
        image, labels = made.tile(10 + seed, 2 * TILE_PX)
        for row in (0, TILE_PX):
            for column in (0, TILE_PX):
                part = np.s_[row : row + TILE_PX, column : column + TILE_PX]
                found.pair(f"{next(order):02}", labels[part], image[part])
    return found


def fields(order_seed: int = 3) -> dict[str, int]:
    """Return the field of each tile."""
    order = np.random.default_rng(order_seed).permutation(4 * NUM_FIELDS)
    return {f"{name:02}": place // 4 for place, name in enumerate(order.tolist())}


def groups_of(workspace: Workspace) -> dict[str, str | None]:
    table = pq.read_table(workspace.tiles, columns=["tile_id", "group"])
    return dict(zip(table["tile_id"].to_pylist(), table["group"].to_pylist(), strict=True))


def build(root: Path, group_by: str, **scan: object) -> Workspace:
    workspace = Workspace.of(root)
    options = TableOptions(scan=ScanOptions(group_by=group_by, **scan))  # type: ignore[arg-type]
    TileTable(workspace, options).build(Engine(1))
    return workspace


def test_tiles_of_one_field_become_one_group(data: DataSet) -> None:
    workspace = build(data.root, "pixels")
    found, expected = groups_of(workspace), fields()
    by_group = {(group, expected[tile]) for tile, group in found.items()}
    assert len(by_group) == NUM_FIELDS == len({group for group, _ in by_group})
    assert None not in found.values()
    evidence = open_tiles_table(workspace.tiles)[1][PIXEL_GROUPS]
    assert evidence["groups"] == NUM_FIELDS
    assert 3 * NUM_FIELDS <= evidence["touching"] <= 4 * NUM_FIELDS
    number = evidence["touching"]
    assert describe(evidence).startswith(f"6 groups of 24 tiles: {number} pairs of tiles touch")


def test_a_second_build_finds_the_groups_made_already(data: DataSet) -> None:
    workspace = build(data.root, "pixels")
    before = workspace.tiles.read_bytes()
    options = TableOptions(scan=ScanOptions(group_by="pixels"))
    assert TileTable(workspace, options).build(Engine(1)).up_to_date
    # As after a kill between the table and its groups.
    TileTable(workspace, TableOptions(tiles=TileOptions(neighbours=True))).build(Engine(1))
    assert set(groups_of(workspace).values()) == {None}
    TileTable(workspace, options).build(Engine(1))
    assert workspace.tiles.read_bytes() == before


def test_given_groups_are_joined_by_what_touches(data: DataSet) -> None:
    rows = ["image,slide"]
    rows += [f"{tile}.jpg,s{int(tile) % 2}_{field}" for tile, field in sorted(fields().items())]
    (data.root / "dataset.csv").write_text("\n".join(rows) + "\n")
    found, expected = groups_of(build(data.root, "pixels:csv:slide")), fields()
    for tile, group in found.items():
        names = {
            f"s{int(other) % 2}_{field}"
            for other, field in expected.items()
            if field == expected[tile]
        }
        assert group == "+".join(sorted(names))


def test_the_manifest_keeps_fields_whole_and_says_why(data: DataSet) -> None:
    result = CliRunner().invoke(app, [str(data.root), "--group-by", "pixels"])
    assert result.exit_code == 0, result.output
    manifest = open_manifest(Workspace.of(data.root).manifest)
    assert manifest.recipe["grouping"] == "pixels"
    assert manifest.recipe["pixel_groups"]["touching"] >= 3 * NUM_FIELDS
    table = pq.read_table(manifest.path, columns=["tile_id", "split"])
    splits: dict[int, set[str]] = {}
    for tile, split in zip(table["tile_id"].to_pylist(), table["split"].to_pylist(), strict=True):
        splits.setdefault(fields()[tile], set()).add(split)
    assert all(len(names) == 1 for names in splits.values())


def test_an_audit_offers_groups_where_names_give_none(data: DataSet) -> None:
    report = histoprep.audit(data.root, workers=1)
    [finding] = [finding for finding in report.findings if finding.code == "HP710"]
    assert "(6 groups of 24 tiles): histoprep audit" in finding.suggestion
    assert finding.suggestion.endswith("--group-by pixels")
    grouped = histoprep.audit(data.root, group_by="pixels", workers=1)
    assert "HP710" not in by_code(grouped.findings)
    assert str(grouped.options["groups found in images"]).startswith("6 groups of 24 tiles")


def test_images_that_have_nothing_in_common_have_no_group(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for seed in range(12):
        image, labels = made.tile(100 + seed, TILE_PX)
        data.pair(f"{seed:02}", labels, image)
    assert set(groups_of(build(data.root, "pixels")).values()) == {None}


def test_a_single_weak_seam_is_cut_and_two_are_not() -> None:
    first, second = np.array([0, 2, 1, 0, 4]), np.array([1, 3, 2, 3, 5])
    weak = np.array([False, False, True, True, True])
    found = join_pairs(7, first, second, weak)
    assert found.is_cut.tolist() == [False, False, False, False, True]
    assert len(set(found.of_tile[:4].tolist())) == 1
    assert len(set(found.of_tile.tolist())) == 4
    alone = join_pairs(7, first[[0, 1, 2]], second[[0, 1, 2]], weak[:3])
    assert alone.is_cut.tolist() == [False, False, True]


def test_what_was_cut_is_said() -> None:
    tiles = pd.DataFrame(
        {
            "tile_id": list("abcd"),
            "group": [None] * 4,
            "image_path": [f"{name}.png" for name in "abcd"],
            "image_digest": list("1123"),
            "luminance_digest": list("1123"),
            "contrast": [20.0] * 4,
            "width_px": [128] * 4,
            "height_px": [128] * 4,
        }
    )
    pairs = SCHEMA.empty_table().to_pandas()
    pairs.loc[0] = ["c.png", "d.png", "touching", 0, 128, 0, 0.0, 0.6, 0.42, False]
    names, evidence = name_groups(tiles, Neighbours(pairs))
    assert names == ["pixels:a", "pixels:a", None, None]
    assert describe(evidence) == "1 group of 2 tiles: 1 pairs are copies; 1 weak seam cut (HP706)"


def test_the_certificate_counts_neighbours_in_two_splits(data: DataSet) -> None:
    runner = CliRunner()
    apart = runner.invoke(app, [str(data.root), "--no-groups"])
    certificate = open_manifest(Workspace.of(data.root).manifest).certificate
    assert certificate["neighbours"]["touching"] >= 3 * NUM_FIELDS
    assert certificate["shared_neighbours"] > 0
    assert f"shared neighbours {certificate['shared_neighbours']}" in apart.output
    assert "--group-by pixels keeps them together" in apart.output
    together = runner.invoke(app, [str(data.root), "--group-by", "pixels", "--reshuffle"])
    assert "shared neighbours 0" in together.output
    assert "keeps them together" not in together.output


def test_groups_of_names_are_not_lost_to_groups_of_pixels(data: DataSet) -> None:
    runner = CliRunner()
    by_name = runner.invoke(app, [str(data.root), "--group-by", "(.+)", "--reshuffle"])
    assert "--group-by 'pixels:(.+)' keeps them together" in by_name.output
    alone = runner.invoke(app, [str(data.root), "--group-by", "pixels", "--reshuffle"])
    assert "takes the place of --group-by '(.+)'" in alone.output
    assert "--group-by 'pixels:(.+)'" in alone.output
    again = runner.invoke(app, [str(data.root), "--group-by", "pixels:(.+)", "--reshuffle"])
    assert "takes the place" not in again.output
    assert "shared neighbours 0" in again.output
