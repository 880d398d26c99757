"""`trainer review`: masks that were swapped or relabelled come first, and browse shows them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from histoprep.browse.opening import open_folder
from histoprep.cli import run as histoprep
from histoprep.demo import GROUP_PATTERN, make_clean_demo
from histoprep.schemas.findings import read_findings
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from trainer.cli import run as trainer
from trainer.errors import DataError
from trainer.evaluation.sides import real_side
from trainer.review import review_masks
from trainer.segmentation.quick import QuickOptions

NUM_WRONG = 5


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Return a manifest of 96 tiles and the ids of those whose mask was exchanged for another."""
    folder = tmp_path_factory.mktemp("review") / "tiles"
    make_clean_demo(folder, num_tiles=96, tile_px=128, seed=5)
    command = ["--quiet", "manifest", str(folder), "--map", "label_map_5.yml"]
    more = ["--group-by", GROUP_PATTERN, "--split", "0.5/0.25/0.25"]
    assert histoprep([*command, *more]) == 0
    manifest = folder.with_name("tiles.histoprep") / "manifest.parquet"
    tiles = open_tiles(manifest)
    rows = np.flatnonzero(tiles.pool == "conditional")
    main = np.array([np.argmax(row[1:]) for row in tiles.class_pixels[rows]])
    masks = {row["tile_id"]: row["mask_path"] for row in tiles.manifest.read().to_pylist()}
    wrong: list[str] = []
    for first, second in zip(rows[::2], rows[1::2], strict=False):
        differ = main[rows == first][0] != main[rows == second][0]
        if differ and len(wrong) < NUM_WRONG - 1:
            names = [str(tiles.tile_ids[row]) for row in (first, second)]
            paths = [folder / masks[name] for name in names]
            data = [path.read_bytes() for path in paths]
            for path, other in zip(paths, reversed(data), strict=True):
                path.write_bytes(other)
            wrong += names
    assert histoprep([*command, *more]) == 0
    return manifest, set(wrong)


@pytest.mark.slow
def test_wrong_masks_come_first_and_browse_shows_them(
    reviewed: tuple[Path, set[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    manifest, wrong = reviewed
    before = {path: path.read_bytes() for path in manifest.parent.parent.glob("tiles/**/*.png")}
    assert trainer(["review", str(manifest), "--device", "cpu"]) == 1
    assert "suspicious" in capfd.readouterr().out
    rows = list(csv.DictReader((manifest.parent / "review.csv").open(newline="")))
    assert len(rows) == int((open_tiles(manifest).pool == "conditional").sum())
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    first = {row["tile_id"] for row in rows[: len(wrong)]}
    assert len(first & wrong) >= len(wrong) - 1
    _, batches = read_findings(manifest.parent / "review.parquet")
    table = next(iter(batches))
    named = set(table["path"].to_pylist())
    assert len(named) <= 2 * len(wrong)
    assert "where the mask says" in table["detail"][0].as_py()
    shown = open_folder(Workspace.of(manifest.parent.parent / "tiles"), None)
    [finding] = [found for found in shown.findings if found.code == "review"]
    assert len(finding.rows) == len(named)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_masks_of_a_single_group_cannot_be_reviewed(reviewed: tuple[Path, set[str]]) -> None:
    side = real_side(str(reviewed[0]))
    alone = side.take(np.flatnonzero(side.group_numbers() == 0)[:4])
    with pytest.raises(DataError, match="two groups"):
        review_masks(alone, quick=QuickOptions(steps=1))


def test_a_review_is_repeatable(reviewed: tuple[Path, set[str]]) -> None:
    side = real_side(str(reviewed[0]))
    some = side.take(np.arange(0, len(side), 6))
    first, second = (review_masks(some, quick=QuickOptions(steps=5)) for _ in range(2))
    assert [(tile.tile_id, tile.score) for tile in first.tiles] == [
        (tile.tile_id, tile.score) for tile in second.tiles
    ]
