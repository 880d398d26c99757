"""The commands as functions: what they return, how it shows itself, and their true signatures."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from audit_cases import DataSet, stripes, tissue
from lossy_masks import jpeg, regions
from notebook import NOTEBOOK, make_notebook
from packed_tiles import LABEL_MAP, make_tiles

import histoprep
import histoprep.functions
from histoprep.errors import UsageError
from histoprep.labels import format_label_map
from histoprep.notebook import MAX_ROWS, html_result
from histoprep.schemas.decisions import Action, Row, format_rows
from histoprep.schemas.manifest import read_manifest

FUNCTIONS = (
    *("scan", "audit", "repair", "remap", "stats"),
    *("build_manifest", "write_shards", "open_tiles"),
)
BAD = "<b>x</b>"


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    make_tiles(tmp_path / "tiles")
    (tmp_path / "tiles.histoprep" / "manifest.parquet").unlink()
    (tmp_path / "three.yml").write_text(format_label_map(LABEL_MAP))
    return tmp_path / "tiles"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_are_functions_with_types(name: str) -> None:
    function = getattr(histoprep, name)
    assert inspect.isfunction(function)
    assert name in histoprep.__all__
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
    assert "Raises:" in (function.__doc__ or "")


@pytest.mark.slow
def test_names_stay_functions_after_everything_was_imported() -> None:
    code = (
        "import histoprep, inspect, pkgutil, importlib\n"
        "for module in pkgutil.walk_packages(histoprep.__path__, 'histoprep.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        f"assert all(inspect.isfunction(getattr(histoprep, name)) for name in {FUNCTIONS!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_example_of_the_module_is_true(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    found = doctest.testmod(histoprep.functions, verbose=False)
    assert found.attempted >= 9
    assert found.failed == 0


def test_the_notebook_shows_what_the_functions_return() -> None:
    assert NOTEBOOK.read_text("utf-8") == make_notebook(), "python tests/notebook.py --write"


def test_scan_counts_and_shows_itself(root: Path) -> None:
    tiles = histoprep.scan(root)
    assert (len(tiles), tiles.num_images, tiles.num_masks) == (24, 24, 18)
    assert repr(tiles) == "<ScannedTiles of tiles: 24 tiles, 18 masks, 0 unreadable>"
    page = tiles._repr_html_()
    assert "<table>" in page and "24 tiles" in page
    frame = tiles.to_pandas(["tile_id", "width_px"])
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["tile_id", "width_px"]
    assert len(tiles.to_pandas()) == 24


def test_stats_and_remap_take_a_map_by_path_or_itself(root: Path) -> None:
    by_path = histoprep.stats(root, root.parent / "three.yml")
    itself = histoprep.stats(root, LABEL_MAP)
    assert repr(by_path) == repr(itself)
    assert "classes of three" in repr(by_path)
    frame = by_path.to_pandas()
    main = frame[(frame["labels"] == "mapped") & (frame["by"] == "all")]
    assert main["pixels"].sum() == 18 * 48 * 48
    assert "Dermis" in by_path._repr_html_()
    masks = histoprep.remap(root, LABEL_MAP)
    assert (masks.num_written, masks.num_failed) == (18, 0)
    assert repr(masks).startswith("<RemapResult: 18 masks written with three, 0 not | ")
    assert len(masks.to_pandas()) == 18
    assert f"{masks.class_pixels[1]:,}" in masks._repr_html_()


def test_remap_without_a_map_says_so(root: Path) -> None:
    with pytest.raises(UsageError, match="no label map"):
        histoprep.remap(root)
    with pytest.raises(UsageError, match="unmapped") as caught:
        histoprep.remap(root, LABEL_MAP, on_unmapped="perhaps")
    assert "error" in str(caught.value.expected)


def test_a_manifest_keeps_its_splits_and_leaves_out_what_was_dropped(root: Path) -> None:
    first = histoprep.build_manifest(root, LABEL_MAP, split={"train": 0.5, "val": 0.5}, seed=1)
    before = read_manifest(first.path)
    assert first.path == root.with_name("tiles.histoprep") / "manifest.parquet"
    assert first.recipe["seed"] == 1
    chosen = before["tile_id"][0].as_py()
    drops = root.with_name("decisions.csv")
    drops.write_bytes(format_rows([Row(chosen, Action.DROP, "", 1)], header=True))
    second = histoprep.build_manifest(root, LABEL_MAP, drop_list=drops)
    after = read_manifest(second.path)
    assert (second.tiles, second.excluded) == (23, {"drop-list": 1})
    splits = dict(zip(before["tile_id"].to_pylist(), before["split"].to_pylist(), strict=True))
    for tile, split in zip(after["tile_id"].to_pylist(), after["split"].to_pylist(), strict=True):
        assert splits[tile] == split
    assert "drop-list" in second._repr_html_()
    assert repr(second).startswith("<ManifestSummary: 23 tiles, 1 left out, ")
    assert len(second.to_pandas()) == 23
    with pytest.raises(UsageError, match="must not mix"):
        histoprep.build_manifest(root, LABEL_MAP, out=root / "manifest.parquet")


def test_shards_and_their_tiles(root: Path, tmp_path: Path) -> None:
    manifest = histoprep.build_manifest(root, LABEL_MAP)
    shards = histoprep.write_shards(manifest.path, tmp_path / "shards")
    assert repr(shards).startswith("<ShardResult: 24 tiles in ")
    assert len(shards.to_pandas()) == 24
    tiles = histoprep.open_tiles(tmp_path / "shards")
    opened = histoprep.open_manifest(manifest.path)
    assert repr(tiles).startswith("<TileSource: 24 tiles from shards | ")
    assert repr(opened).startswith("<Manifest: 24 tiles, 3 classes | ")
    assert "Dermis" in opened._repr_html_()
    assert "conditional" in tiles._repr_html_()
    assert list(tiles.to_pandas()["tile_id"]) == opened.to_pandas(["tile_id"])["tile_id"].tolist()


@pytest.mark.slow
def test_repair_gives_its_ledger(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "lossy")
    for number in range(40):
        mask = jpeg(regions(number), 85)
        data.image(f"{number}.png", tissue(number, mask.shape[0]))
        data.mask(f"{number}_mask.png", mask)
    found = histoprep.repair(data.root)
    assert found.num_repaired > 20
    assert repr(found).startswith(f"<RepairResult: {found.num_repaired} mask")
    assert len(found.to_pandas()) == found.num_repaired + found.num_left
    assert "pixels changed" in found._repr_html_()
    clean = DataSet(tmp_path / "clean")
    clean.pair("a", stripes(0, 1))
    assert histoprep.repair(clean.root).num_repaired == 0


def test_names_are_text_in_a_notebook() -> None:
    page = html_result(f"a {BAD} \u202e", ("<i>",), [(BAD, 3, 0.25, True)] * (MAX_ROWS + 2))
    assert BAD not in page and "<i>" not in page
    assert page.count("&lt;b&gt;x&lt;/b&gt;") == MAX_ROWS + 1
    assert "\\u202e" in page
    assert "and 2 more" in page
    assert html_result("nothing") == "<p>nothing</p>"
