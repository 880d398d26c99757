"""Options of the last audit outlive damage to the tables that they configure, or the loss of them
is an error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from histoprep.cli import run
from histoprep.errors import ExitCode, IntegrityError, UsageError
from histoprep.scanning import ScanOptions
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import TableOptions, earlier_options, keeping_options

GROUP_BY = r"slide\d+"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Return 35 tiles of 7 slides; without groups, several slides lie in both splits."""
    root = tmp_path / "data"
    root.mkdir()
    for index in range(35):
        draw = np.random.default_rng(index)
        Image.fromarray(draw.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(
            root / f"slide{index % 7}_{index}.png"
        )
        mask = np.zeros((24, 24), np.uint8)
        mask[3:15, 3:15] = index % 2
        Image.fromarray(mask).save(root / f"slide{index % 7}_{index}_mask.png")
    return root


def manifest(root: Path, *options: str) -> int:
    return run(["manifest", str(root), "--workers", "1", *options])


def slides_in_both(root: Path) -> int:
    rows = open_manifest(Workspace.of(root).manifest).read(["tile_id", "split"]).to_pylist()
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["tile_id"].split("_")[0], set()).add(row["split"])
    return sum(len(names) > 1 for names in splits.values())


def flip_footer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-30] ^= 8
    path.write_bytes(data)


def flip_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 8
    path.write_bytes(data)


def other_major_version(path: Path) -> None:
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"histoprep"]) | {"schema_version": "2.0"}
    pq.write_table(table.replace_schema_metadata({b"histoprep": json.dumps(header)}), path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit in the footer": flip_footer,
    "flipped bit in a page": flip_page,
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
    "of another major version": other_major_version,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_groups_outlive_a_damaged_tiles_table(
    dataset: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    space = Workspace.of(dataset)
    run(["audit", str(dataset), "--group-by", GROUP_BY, "--workers", "1"])
    tables_before = pq.read_table(space.tiles)
    DAMAGES[damage](space.tiles)
    capsys.readouterr()
    assert manifest(dataset) == ExitCode.OK
    output = capsys.readouterr().err
    assert f"as in the last audit: group by {GROUP_BY}" in output
    assert ("could not be used" in output) == (damage != "deleted")
    assert slides_in_both(dataset) == 0
    assert pq.read_table(space.tiles).equals(tables_before)


def test_without_groups_slides_do_lie_in_both_splits(dataset: Path) -> None:
    """The control of the tests above."""
    assert manifest(dataset) == ExitCode.OK
    assert slides_in_both(dataset) > 0


def test_options_that_cannot_be_read_are_damage_until_they_are_named_again(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = Workspace.of(dataset)
    run(["audit", str(dataset), "--group-by", GROUP_BY, "--workers", "1"])
    text = space.scan_options.read_text("utf-8")
    for content in (text.replace(r"slide", "slid"), text[: len(text) // 2], ""):
        space.scan_options.write_text(content, "utf-8")
        for command in ("manifest", "stats", "audit"):
            capsys.readouterr()
            assert run([command, str(dataset), "--workers", "1"]) == ExitCode.INTEGRITY
            assert str(space.scan_options) in capsys.readouterr().err
    assert run(["audit", str(dataset), "--forget", "--group-by", GROUP_BY, "--workers", "1"]) in (
        ExitCode.OK,
        ExitCode.FINDINGS,
    )
    assert manifest(dataset) == ExitCode.OK
    assert slides_in_both(dataset) == 0


@pytest.mark.parametrize(
    "damage", ["flipped bit in the footer", "cut in half", "empty", "of another major version"]
)
def test_a_workspace_of_before_this_file_loses_nothing_silently(dataset: Path, damage: str) -> None:
    """Earlier versions kept the options in the tiles table alone."""
    space = Workspace.of(dataset)
    run(["audit", str(dataset), "--group-by", GROUP_BY, "--workers", "1"])
    space.scan_options.unlink()
    assert earlier_options(space).scan.group_by == GROUP_BY
    DAMAGES[damage](space.tiles)
    with pytest.raises(IntegrityError, match="options of the last audit are lost"):
        earlier_options(space)
    assert manifest(dataset) == ExitCode.INTEGRITY


def test_a_killed_first_audit_leaves_its_options(dataset: Path) -> None:
    """Killed as soon as it reads the first tile, long before there is a table."""
    space = Workspace.of(dataset)
    command = "from histoprep.cli import main; main()"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            command,
            "audit",
            str(dataset),
            "--group-by",
            GROUP_BY,
            "--workers",
            "1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not space.scan_options.exists() and process.poll() is None:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not space.tiles.exists(), "the audit was killed too late to show anything"
    assert manifest(dataset) == ExitCode.OK
    assert slides_in_both(dataset) == 0


def test_refused_options_are_dropped_and_those_before_them_stay(dataset: Path) -> None:
    space = Workspace.of(dataset)
    with pytest.raises(UsageError), keeping_options(space, TableOptions(ScanOptions(group_by="("))):
        assert space.scan_options.exists()
        raise UsageError("refused")
    assert not space.scan_options.exists()
    with keeping_options(space, TableOptions(ScanOptions(group_by="a"))):
        pass
    before = space.scan_options.read_bytes()
    with pytest.raises(UsageError), keeping_options(space, TableOptions(ScanOptions(group_by="("))):
        raise UsageError("refused")
    assert space.scan_options.read_bytes() == before


def test_collected_parts_leave_their_options(dataset: Path) -> None:
    space = Workspace.of(dataset)
    run(["audit", str(dataset), "--workers", "1"])
    assert (
        run(["audit", str(dataset), "--group-by", GROUP_BY, "--part", "1/1", "--workers", "1"])
        == ExitCode.OK
    )
    assert run(["collect", str(dataset)]) == ExitCode.OK
    space.tiles.unlink()
    assert manifest(dataset) == ExitCode.OK
    assert slides_in_both(dataset) == 0


def test_a_manifest_does_not_lose_its_groups_unless_told(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = Workspace.of(dataset)
    assert manifest(dataset, "--group-by", GROUP_BY) == ExitCode.OK
    before = space.manifest.read_bytes()
    run(["audit", str(dataset), "--forget", "--workers", "1"])
    capsys.readouterr()
    assert manifest(dataset) == ExitCode.USAGE
    output = capsys.readouterr().err
    assert "--no-groups" in output and GROUP_BY in output
    assert space.manifest.read_bytes() == before
    damaged = bytearray(before)
    damaged[-20] ^= 1
    space.manifest.write_bytes(damaged)
    assert manifest(dataset) == ExitCode.INTEGRITY
    assert manifest(dataset, "--no-groups", "--group-by", "a") == ExitCode.USAGE
    assert manifest(dataset, "--no-groups") == ExitCode.INTEGRITY, "nobody knows its split"
    assert manifest(dataset, "--no-groups", "--reshuffle") == ExitCode.OK
    assert open_manifest(space.manifest).recipe["grouping"] is None
    assert manifest(dataset) == ExitCode.OK, "there are no groups to lose any more"


def test_no_groups_drops_those_of_the_last_audit(dataset: Path) -> None:
    run(["audit", str(dataset), "--group-by", GROUP_BY, "--workers", "1"])
    assert manifest(dataset, "--no-groups") == ExitCode.OK
    assert open_manifest(Workspace.of(dataset).manifest).recipe["grouping"] is None
    assert earlier_options(Workspace.of(dataset)).scan.group_by is None
