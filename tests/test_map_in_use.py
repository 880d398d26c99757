"""Every command says which label map it uses where `--map` does not name it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from audit_cases import DataSet, stripes

from histoprep.cli import run
from histoprep.errors import ExitCode

MAP = """\
name: three
sources: {0: none, 1: tumour, 2: stroma}
classes: {0: None, 1: Stroma, 2: Tumour}
map: {none: None, stroma: Stroma, tumour: Tumour}
"""


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    data = DataSet(tmp_path / "set")
    for index in range(6):
        data.pair(f"s{index}_t", stripes(0, 1, 2))
    return data


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run([*arguments, "--workers", "1"]) == ExitCode.OK
    return capsys.readouterr().err


@pytest.mark.slow
def test_the_only_map_of_the_data_set_is_named(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    (data.root / "label_map_mine.yml").write_text(MAP)
    line = "label map: label_map_mine.yml of the data set (--map names another)"
    for command in ("audit", "remap", "manifest", "stats"):
        printed = said(capsys, command, str(data.root), *["--exit-zero"] * (command == "audit"))
        assert printed.count(line) == 1
    named = ["--map", str(data.root / "label_map_mine.yml")]
    assert "label map:" not in said(capsys, "stats", str(data.root), *named)


@pytest.mark.slow
def test_the_map_of_the_manifest_is_named_and_can_be_left_aside(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label_map, root = tmp_path / "three.yml", str(data.root)
    label_map.write_text(MAP)
    grouped = ["--group-by", r"(s\d)_"]
    said(capsys, "manifest", root, "--map", str(label_map), *grouped)
    manifest = Path(f"{root}.histoprep") / "manifest.parquet"
    summary = manifest.with_name("summary.json")
    printed = said(capsys, "audit", root)
    assert f"label map: three, with which {manifest} was made (--map names another" in printed
    assert "Tumour" in json.dumps(json.loads(summary.read_text()))
    # The next command keeps the classes, which a manifest without a map would not.
    following = shlex.split(printed.rpartition("next: ")[2])
    assert following == ["histoprep", "manifest", "check", str(manifest)]
    assert run(following[1:]) == ExitCode.OK
    printed = said(capsys, "audit", root, "--forget", *grouped)
    assert (
        f"no label map is used, not that of the manifest either: three, with which {manifest}"
        in (printed)
    )
    assert "Tumour" not in json.dumps(json.loads(summary.read_text()))
    assert printed.splitlines()[-1] == f"next: histoprep manifest {root}"
    for command in ("stats", "manifest"):
        assert "no label map is used, not that of the manifest" in said(capsys, command, root)
    # Now the manifest has none.
    assert "label map:" not in said(capsys, "audit", root)


def test_without_a_map_the_audit_offers_to_write_one(
    data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = said(capsys, "audit", str(data.root), "--group-by", r"(s\d)_")
    steps = [line.removeprefix("next: ") for line in printed.splitlines() if "next: " in line]
    assert steps == [
        f"histoprep map init {data.root} --out label_map.yml",
        f"histoprep manifest {data.root}",
    ]
    printed = said(capsys, *shlex.split(steps[0])[1:])
    steps = [line.removeprefix("next: ") for line in printed.splitlines() if "next: " in line]
    assert steps[1] == f"histoprep manifest {data.root} --map label_map.yml"
    said(capsys, *shlex.split(steps[1])[1:])
    # A file is there now, and no command replaces it.
    assert "--out label_map_2.yml" in said(capsys, "audit", str(data.root))
    without = DataSet(tmp_path / "images")
    for index in range(3):
        without.image(f"s{index}_a.jpg")
    printed = said(capsys, "audit", str(without.root), "--group-by", r"(s\d)_", "--exit-zero")
    assert "map init" not in printed
