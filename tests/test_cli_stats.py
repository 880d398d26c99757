"""`histoprep stats` on real files: what it prints, writes and warns of."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import typer
from believed import believe
from PIL import Image
from typer.testing import CliRunner, Result

from histoprep import tables
from histoprep.cli import run as command_line
from histoprep.cli.stats import stats
from histoprep.errors import ExitCode, HistoprepError, UsageError
from histoprep.schemas.manifest import open_manifest

app = typer.Typer()
app.command()(stats)


def save_pair(root: Path, name: str, mask: np.ndarray | None) -> None:
    rng = np.random.default_rng(len(name))
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        root / f"{name}.jpg", quality=90
    )
    if mask is not None:
        Image.fromarray(mask).save(root / f"{name}_mask.png")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data set of three tiles: half dermis and half background, all unknown,
    unlabelled.
    """
    folder = tmp_path / "tiles"
    folder.mkdir()
    half = np.full((64, 64), 28, np.uint8)
    half[:16] = 1
    save_pair(folder, "a", half)
    save_pair(folder, "bb", np.zeros((64, 64), np.uint8))
    save_pair(folder, "ccc", None)
    monkeypatch.chdir(tmp_path)
    return folder


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, HistoprepError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_table_of_the_classes_and_three_files(root):
    result = run(root, "--map", "label_map_5", "--workers", "1")
    lines = result.stdout.splitlines()
    assert lines[0] == "3 tiles: 1 conditional, 2 unconditional; 8,192 mask pixels"
    rows = {tuple(line.split()[:2]): line.split() for line in lines if line[:1].isdigit()}
    assert rows["1", "Background/Artifact"] is not None
    assert any(
        line.split() == ["1", "Background/Artifact", "1,024", "12.50", "1", "1"] for line in lines
    )
    assert any(
        line.split() == ["4", "Normal", "Tissue", "3,072", "37.50", "1", "1"] for line in lines
    )
    assert any(line.split() == ["3", "Carcinoma", "-", "-", "-"] for line in lines), (
        "no weight for a class that does not occur"
    )
    written = {path.name for path in (root.parent / "tiles.histoprep").iterdir()}
    assert {
        "tiles.parquet",
        "stats.parquet",
        "stats.json",
        "pixel_class_percentages.png",
    } <= written
    assert "pixel_class_percentages.png" in result.stderr
    assert len(list(root.iterdir())) == 5, "nothing is written into the data set"


def test_json_is_all_of_stdout_and_equals_the_file(root):
    result = run(root, "--map", "label_map_10", "--format", "json")
    printed = json.loads(result.stdout)
    assert printed == json.loads((root.parent / "tiles.histoprep" / "stats.json").read_text())
    assert printed["label_map"] == "label_map_10"
    assert [cls["pixels"] for cls in printed["mapped"]["classes"]] == [
        4096,
        1024,
        0,
        0,
        3072,
        0,
        0,
        0,
        0,
        0,
    ]


def test_csv_has_the_rows_of_the_parquet_file(root):
    result = run(
        root, "--format", "csv", "--by", "group", "--by", "pool", "--workspace", root.parent / "w"
    )
    rows = list(csv.DictReader(result.stdout.splitlines()))
    opened, _ = tables.open_table(
        root.parent / "w" / "stats.parquet", kind="stats", schema_version="1.0"
    )
    table = tables.read_table(opened)
    assert [int(row["pixels"]) for row in rows] == table["pixels"].to_pylist()
    assert {row["by"] for row in rows} == {"all", "group", "pool"}
    assert {row["labels"] for row in rows} == {"raw"}, "no label map was given"


def test_a_label_map_in_the_data_set_is_used_and_unmapped_labels_are_told(root):
    (root / "label_map_mine.yml").write_text(
        "sources: {0: nothing, 28: dermis}\nclasses: {0: None, 1: Skin}\nmap: {nothing: None,"
        " dermis: Skin}\n"
    )
    save_pair(root, "dddd", np.full((64, 64), 28, np.uint8))
    result = run(root)
    assert "Classes of label_map_mine" in result.stdout
    assert (
        "label 1 is not in the label map: 1,024 pixels in 1 tile, the first of them a\n"
        in result.stderr
    )
    assert "more that the label map" not in result.stderr
    # The tile with label 1 is in no pool and in no share, as it is in no manifest.
    assert result.stdout.startswith("3 tiles: 1 conditional, 2 unconditional; 8,192 mask pixels")
    assert any(
        line.split() == ["1", "Skin", "4,096", "50.00", "1", "1"]
        for line in result.stdout.splitlines()
    )


def test_of_many_unmapped_labels_the_largest_ten_are_told(root):
    mask = np.zeros((64, 64), np.uint8)
    # One pixel of label 100, two of label 101, ..., twelve of label 111.
    mask.flat[:78] = np.repeat(np.arange(100, 112), np.arange(1, 13))
    save_pair(root, "many", mask)
    save_pair(root, "most", mask)
    warnings = [
        line
        for line in run(root, "--map", "label_map_5").stderr.splitlines()
        if "the label map" in line
    ]
    assert (
        warnings[0]
        == "warning: label 111 is not in the label map: 24 pixels in 2 tiles, the first of them"
        " many"
    )
    assert [int(line.split()[2]) for line in warnings[:-1]] == list(range(111, 101, -1))
    assert (
        warnings[-1] == "warning: and 2 labels more that the label map does not list, in stats.json"
    )
    mask.flat[:78] = 0
    mask.flat[0] = 77
    for name in ("many", "most"):
        (root / f"{name}.jpg").unlink()
        (root / f"{name}_mask.png").unlink()
    save_pair(root, "dot", mask)
    assert (
        "label 77 is not in the label map: 1 pixel in 1 tile, the first of them dot"
        in run(root, "--map", "label_map_5").stderr
    )


def test_rows_that_are_not_counted_are_told(root):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(root / "lost_mask.png")
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(root / "bb_mask.png")
    result = run(root)
    assert (
        "not counted, since no manifest takes them: 1 orphan-mask, 1 size-mismatch; histoprep audit"
        " says more" in result.stderr
    )
    assert result.stdout.startswith("2 tiles: 1 conditional, 1 unconditional; 4,096 mask pixels")


def test_stats_and_manifest_count_the_same_tiles(root):
    (root / "a.jpg").write_bytes((root / "a.jpg").read_bytes()[:400])
    save_pair(root, "dddd", np.full((64, 64), 28, np.uint8))
    save_pair(root, "eeeee", np.full((64, 64), 99, np.uint8))
    before = run(root, "--map", "label_map_5")
    assert before.stdout.startswith("3 tiles: 1 conditional, 2 unconditional; 8,192 mask pixels")
    assert (
        command_line(["manifest", str(root), "--map", "label_map_5", "--workers", "1"])
        == ExitCode.INCOMPLETE
    )
    manifest = open_manifest(root.parent / "tiles.histoprep" / "manifest.parquet")
    after = run(root, "--map", "label_map_5", "--format", "json")
    found = json.loads(after.stdout)
    assert found["left_out"] == manifest.excluded == {"image-error": 1, "unmapped-label": 1}
    listed = manifest.read(["split", "pool", "class_pixels"]).to_pylist()
    for by in ("split", "pool"):
        assert {
            item["key"]: item["tiles"] for item in found["mapped"]["tiles"] if item["by"] == by
        } == Counter(row[by] for row in listed)
    assert [cls["pixels"] for cls in found["mapped"]["classes"]] == np.sum(
        [row["class_pixels"] for row in listed], axis=0
    ).tolist()
    for output in (before.stderr, after.stderr):
        assert (
            "no manifest takes them: 1 image-error, 1 unmapped-label;" in output
            and "not in the manifest" not in output
        )
    save_pair(root, "ffffff", None)
    assert (
        "1 tile not in the manifest, of no split and shown as -: run"
        in run(root, "--map", "label_map_5").stderr
    )


def test_no_pixel_is_read_again(root):
    first = run(root, "--map", "label_map_5").stdout
    table = root.parent / "tiles.histoprep" / "tiles.parquet"
    before = table.read_bytes()
    # Same size and time, other pixels: a second reading would see them.
    mask = root / "a_mask.png"
    stat = mask.stat()
    mask.write_bytes(b"x" * stat.st_size)
    import os

    os.utime(mask, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    believe(root)
    assert run(root, "--map", "label_map_5").stdout == first
    assert table.read_bytes() == before


def test_wrong_options_are_refused(root):
    with pytest.raises(UsageError):
        run(root, "--map", "no_such_map")
    with pytest.raises(UsageError):
        run(root / "nowhere")
    assert CliRunner().invoke(app, [str(root), "--by", "slide"]).exit_code == 2
