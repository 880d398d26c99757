"""Pixels that a label map ignores, in what the toolkit says of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audit_cases import DataSet, write_map
from void_masks import blobs, with_void

from histoprep.auditing.thumbnails import ThumbnailTask
from histoprep.cli import main
from histoprep.errors import ExitCode
from histoprep.findings import Mark
from histoprep.labels import load_label_map
from histoprep.manifest.rows import derive
from histoprep.report.thumbnails import FALLBACK_COLOUR

MAP = """\
sources: {0: a, 1: b, 2: c, 3: d}
ignore: [255]
classes: {0: A, 1: B, 2: C, 3: D}
map: {a: A, b: B, c: C, d: D}
"""
NUMBER = 6


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    data = DataSet(tmp_path / "set")
    for seed in range(NUMBER):
        data.pair(f"t{seed}", with_void(blobs(seed)))
    monkeypatch.chdir(tmp_path)
    return data


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(map(str, arguments)))
    return int(done.value.code or 0)


def num_ignored() -> int:
    return sum(int((with_void(blobs(seed)) == 255).sum()) for seed in range(NUMBER))


def test_remap_and_stats_tell_how_much_is_ignored(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label_map = write_map(tmp_path, MAP)
    assert run("remap", data.root, "--map", label_map, "--workers", "1") == ExitCode.OK
    assert f"ignored: {num_ignored():,} pixels, 255 in new masks" in capsys.readouterr().err
    assert run("stats", data.root, "--map", label_map, "--workers", "1") == ExitCode.OK
    printed = capsys.readouterr()
    assert f"ignored: {num_ignored():,} pixels in {NUMBER} tiles" in printed.err
    assert "255" not in printed.out


def test_a_manifest_without_a_map_warns_of_the_class_to_be(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("manifest", data.root, "--no-groups", "--workers", "1") == ExitCode.OK
    printed = capsys.readouterr().err
    assert "255 lies along boundaries of other labels and becomes a class (HP509)" in printed
    command = next(
        line.split("(HP509): histoprep ")[1].split(" writes")[0]
        for line in printed.splitlines()
        if "(HP509)" in line
    )
    assert run("stats", data.root, "--workers", "1") == ExitCode.OK
    assert "(HP509)" in capsys.readouterr().err
    assert run(*command.split()) == ExitCode.OK
    assert run("stats", data.root, "--map", "label_map.yml", "--workers", "1") == ExitCode.OK
    assert "(HP509)" not in capsys.readouterr().err
    assert load_label_map("label_map.yml").ignore == ((255, 255),)


def test_remapped_masks_are_known_as_such_by_the_map_that_made_them(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label_map = write_map(tmp_path, MAP.replace("3: d}", "7: d}"))
    assert run("remap", data.root, "--map", label_map, "--on-unmapped", "unknown") != ExitCode.OK
    label_map = write_map(tmp_path, MAP.replace("{a: A, b: B,", "{a: B, b: A,"))
    assert run("remap", data.root, "--map", label_map, "--out", tmp_path / "new") == ExitCode.OK
    for name in ("t0", "t1"):
        (tmp_path / "new" / f"{name}.jpg").write_bytes((data.root / f"{name}.jpg").read_bytes())
    capsys.readouterr()
    assert run("remap", tmp_path / "new", "--map", label_map, "--out", tmp_path / "again") == (
        ExitCode.USAGE
    )
    assert "remapped by" in capsys.readouterr().err


def test_a_mask_of_ignored_pixels_alone_counts_as_nothing(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    data.pair("all", np.full((96, 96), 255, np.uint8))
    half = np.zeros((96, 96), np.uint8)
    half[:48] = 255
    data.pair("half", half)
    label_map = write_map(tmp_path, MAP)
    report = data.audit(label_map=label_map)
    assert report.summary.num_zero_masks == 1
    from histoprep.schemas.repaired import open_rows

    rows, _ = open_rows(tmp_path / "set.histoprep" / "tiles.parquet")
    derived = derive(next(rows.read_batches()), load_label_map(label_map))
    assert derived.included.all() and not derived.conditional.any()
    assert derived.pixels.tolist() == [[0, 0, 0, 0], [48 * 96, 0, 0, 0]]
    assert derived.core.tolist() == [[False] * 4, [True, False, False, False]]


def test_thumbnails_name_what_is_ignored(data: DataSet, tmp_path: Path) -> None:
    label_map = load_label_map(write_map(tmp_path, MAP))
    task = ThumbnailTask(
        str(data.root),
        (("t0", Mark.NONE, "t0.jpg", "t0_mask.png"),),
        label_map,
        is_identity=False,
        marker=tmp_path / "marker",
    )
    legend = {entry.name: entry for entry in task.run()["t0", Mark.NONE].legend}
    labels = with_void(blobs(0))
    assert legend["ignored"].share == pytest.approx((labels == 255).mean())
    assert legend["ignored"].colour != FALLBACK_COLOUR
