"""histoprep collect joins the parts of array jobs, of tables and of masks, into what one run
makes.
"""

from __future__ import annotations

from pathlib import Path

from histoprep.cli import run
from histoprep.demo import make_clean_demo

MAP = ["--map", "label_map_5.yml"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".hp-states")
    }


def test_parts_of_audit_and_remap_become_what_one_run_makes(tmp_path: Path) -> None:
    root = str(make_clean_demo(tmp_path / "data", num_tiles=48, tile_px=64).folder)
    whole, parts = (
        ["--workspace", str(tmp_path / "whole")],
        ["--workspace", str(tmp_path / "parts")],
    )
    assert run(["audit", root, *whole, "--workers", "1"]) == 0
    assert run(["remap", root, *MAP, *whole, "--workers", "1"]) == 0
    for command in (["audit", root], ["remap", root, *MAP]):
        for number in (2, 1):
            assert run([*command, *parts, "--part", f"{number}/2", "--workers", "1"]) == 0
        assert run(["collect", root, *parts]) == 0
    assert (tmp_path / "parts/tiles.parquet").read_bytes() == (
        tmp_path / "whole/tiles.parquet"
    ).read_bytes()
    assert contents(tmp_path / "parts/masks-label_map_5") == contents(
        tmp_path / "whole/masks-label_map_5"
    )


def test_a_missing_part_is_named_and_nothing_is_merged(tmp_path: Path) -> None:
    root = str(make_clean_demo(tmp_path / "data", num_tiles=48, tile_px=64).folder)
    where = ["--workspace", str(tmp_path / "parts")]
    assert run(["collect", root, *where]) == 2
    assert run(["audit", root, *where, "--workers", "1"]) == 0
    assert run(["remap", root, *MAP, *where, "--part", "2/2", "--workers", "1"]) == 0
    assert run(["collect", root, *where]) == 3
    assert not (tmp_path / "parts/masks-label_map_5/_SUCCESS.json").exists()
