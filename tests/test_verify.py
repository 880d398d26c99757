"""`histoprep verify`: every file of every kind of tree is protected, untouched ones pass, and the
commands that use them notice, too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from believed import believe
from lossy_masks import jpeg
from PIL import Image

from histoprep import checksums
from histoprep.cli import run
from histoprep.demo import GROUP_PATTERN, make_clean_demo
from histoprep.digests import file_digest
from histoprep.errors import ExitCode, UsageError
from histoprep.schemas.ledgers import REPAIR, ledger_files
from histoprep.verify import verify, walk

MAP = ("--map", "label_map_5.yml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a data set `set`, of which some masks are lossy, and everything that the
    commands make of it.
    """
    home = tmp_path_factory.mktemp("verify")
    root = make_clean_demo(home / "set", num_tiles=48, tile_px=64).folder
    for path in sorted(root.rglob("*_mask.png"))[:24]:
        with Image.open(path) as opened:
            labels = np.asarray(opened).astype(np.uint8)
        Image.fromarray(jpeg(labels, 90)).save(path)
    workspace, quiet = home / "set.histoprep", ["--quiet"]
    assert (
        run(
            [
                *quiet,
                "audit",
                str(root),
                *MAP,
                "--exit-zero",
                "--group-by",
                GROUP_PATTERN,
                "--workers",
                "1",
            ]
        )
        == 0
    )
    assert run([*quiet, "audit", str(root), "--quick", "--exit-zero", "--workers", "1"]) == 0
    assert run(
        [*quiet, "repair", str(root), "--diff", "--min-confidence", "0", "--workers", "1"]
    ) in (0, 3)
    assert run(
        [*quiet, "remap", str(root), *MAP, "--on-unmapped", "unknown", "--force", "--workers", "1"]
    ) in (0, 3)
    assert run([*quiet, "manifest", str(root), *MAP]) in (0, 3)
    assert run([*quiet, "stats", str(root), *MAP]) == 0
    assert run([*quiet, "shard", str(workspace / "manifest.parquet"), "--workers", "1"]) == 0
    assert (
        run(
            [
                *quiet,
                "audit",
                str(root),
                "--part",
                "1/2",
                "--workspace",
                str(home / "parts.histoprep"),
                "--workers",
                "1",
            ]
        )
        == 0
    )
    return home


TREES = (
    "set.histoprep",
    "set.histoprep/masks-label_map_5",
    "set.histoprep/repaired",
    "set.histoprep/shards",
)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def alone(made: Path, tmp_path: Path) -> Iterator[Path]:
    """Return the folder itself, since absolute paths stand in it; what a test does to it is
    undone.
    """
    shutil.copytree(made, tmp_path / "kept")
    yield made
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "kept", made)


def flip(path: Path, place: float = 0.5) -> None:
    """Change one bit, and leave the modification time as it was."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[min(len(data) - 1, int(len(data) * place))] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.slow
def test_untouched_trees_are_fine_and_every_file_of_them_is_read(made: Path, tree: str) -> None:
    found = verify(made / tree)
    assert found.damages == []
    assert not [note for note in found.notes if "no checksum" in note], found.notes
    # checksums.json is no file of its own: it is checked with what it lists.
    assert found.num_files == len(list(walk(made / tree)))
    assert run(["verify", str(made / tree)]) == ExitCode.OK


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.slow
def test_one_flipped_bit_of_any_file_is_found_and_named(copy: Path, tree: str) -> None:
    files = [*walk(copy / tree), *(copy / tree).rglob("checksums.json")]
    assert len(files) > 5
    # Of a hundred masks of one kind, some.
    masks = [file for file in files if file.name.endswith("_mask.png")]
    for path in sorted({*files} - {*masks[3:-3]}):
        for place in (0.0, 0.5, 1.0):
            whole = path.read_bytes()
            flip(path, place)
            damages = {damage.path for damage in verify(copy / tree).damages}
            assert str(path) in damages, (path, place)
            path.write_bytes(whole)
    assert verify(copy / tree).damages == []


def test_files_that_are_gone_are_found(copy: Path) -> None:
    tree = copy / "set.histoprep/masks-label_map_5"
    victim = next(tree.rglob("*_mask.png"))
    victim.unlink()
    assert [(damage.path, damage.is_missing) for damage in verify(tree).damages] == [
        (str(victim), True)
    ]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("set.histoprep/manifest.parquet", ["manifest", "show", "set.histoprep/manifest.parquet"]),
        (
            "set.histoprep/manifest.parquet",
            ["shard", "set.histoprep/manifest.parquet", "--out", "other"],
        ),
        ("set.histoprep/manifest.parquet", ["stats", "set", *MAP]),
        ("set.histoprep/repaired.json", ["remap", "set", *MAP, "--on-unmapped", "unknown"]),
        ("set.histoprep/repaired.json", ["manifest", "set", *MAP]),
        ("set.histoprep/repaired.json", ["stats", "set", *MAP]),
        ("set.histoprep/repaired.parquet", ["manifest", "set", *MAP]),
        (
            "set.histoprep/repaired.parquet",
            ["remap", "set", *MAP, "--on-unmapped", "unknown"],
        ),
        (
            "set.histoprep/repaired/**/*_mask.png",
            ["remap", "set", *MAP, "--on-unmapped", "unknown"],
        ),
        ("set.histoprep/repaired/**/*_mask.png", ["manifest", "set", *MAP]),
        ("set.histoprep/repaired/**/*_mask.png", ["repair", "set", "--min-confidence", "0"]),
        ("set.histoprep/repaired/repair.json", ["repair", "set", "--min-confidence", "0"]),
        (
            "set.histoprep/masks-label_map_5/**/*_mask.png",
            ["remap", "set", *MAP, "--on-unmapped", "unknown"],
        ),
        (
            "set.histoprep/masks-label_map_5/remap.json",
            ["remap", "set", *MAP, "--on-unmapped", "unknown"],
        ),
        (
            "set.histoprep/masks-label_map_5/label_map.yml",
            ["remap", "set", *MAP, "--on-unmapped", "unknown"],
        ),
        (
            "set.histoprep/shards/shard.json",
            ["shard", "set.histoprep/manifest.parquet", "--resume"],
        ),
        ("set.histoprep/shards/*.tar", ["shard", "set.histoprep/manifest.parquet", "--resume"]),
        ("set.histoprep/shards/index.parquet", ["shard", "info", "set.histoprep/shards"]),
        ("set.histoprep/scan-options.json", ["manifest", "set", *MAP]),
        (
            "parts.histoprep/parts/options.json",
            ["collect", "set", "--workspace", "parts.histoprep"],
        ),
    ],
)
def test_commands_notice_what_they_use(
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: list[str],
) -> None:
    monkeypatch.chdir(alone)
    victim = min(alone.glob(name))
    flip(victim)
    workers = (
        []
        if command[0] in ("stats", "collect") or command[1] in ("show", "info")
        else ["--workers", "1"]
    )
    assert run([*command, *workers]) == ExitCode.INTEGRITY
    assert victim.name in capsys.readouterr().err


@pytest.mark.parametrize("command", ["manifest", "stats"])
def test_a_file_system_that_hides_a_change_is_seen_through_with_verify(
    alone: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    root = alone / "set"
    victim = next((alone / "set.histoprep/repaired").rglob("*_mask.png"))
    flip(victim)
    ledger = ledger_files(alone / "set.histoprep/repaired", REPAIR)
    checksums.remember_files(alone / "set.histoprep/repaired", ledger)
    image = next(root.rglob("*.jpg"))
    flip(image, 1.0)
    believe(root)
    assert run([command, str(root), *MAP]) in (0, 3)
    capsys.readouterr()
    assert run([command, str(root), *MAP, "--verify"]) == ExitCode.INTEGRITY
    assert victim.name in capsys.readouterr().err
    flip(victim)
    # What is the user's may change: it is read.
    before = pq.read_table(alone / "set.histoprep/tiles.parquet")["image_digest"].to_pylist()
    assert run([command, str(root), *MAP, "--verify"]) in (0, 3)
    assert (
        file_digest(image)
        in pq.read_table(alone / "set.histoprep/tiles.parquet")["image_digest"].to_pylist()
    )
    assert len(before) == 48


@pytest.mark.slow
def test_force_writes_changed_masks_again(alone: Path) -> None:
    root, tree = str(alone / "set"), alone / "set.histoprep/repaired"
    flip(next(tree.rglob("*_mask.png")))
    assert (
        run(["--quiet", "repair", root, "--min-confidence", "0", "--workers", "1"])
        == ExitCode.INTEGRITY
    )
    assert run(
        ["--quiet", "repair", root, "--min-confidence", "0", "--force", "--workers", "1"]
    ) in (0, 3)
    assert verify(tree).damages == []


def test_what_each_path_is_recognised_as(made: Path) -> None:
    work = made / "set.histoprep"
    expected = {
        work: "workspace",
        made / "set": "workspace",
        work / "masks-label_map_5": "tree of masks by histoprep remap",
        work / "repaired": "tree of masks by histoprep repair",
        work / "shards": "folder of shards",
        work / "tiles.parquet": "tiles table",
        work / "manifest.parquet": "manifest table",
        work / "stats.parquet": "stats table",
        work / "stats.json": "file listed in checksums.json",
        work / "scan-options.json": "options of the last audit",
    }
    assert {path: verify(path).kind for path in expected} == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "not written by histoprep"),
        (lambda path: path.write_text("mine"), "not written by histoprep"),
        (lambda path: (path.mkdir(), (path / "SHA256SUMS").touch()), "trainer verify"),
        (lambda path: (path.mkdir(), (path / "latents.json").touch()), "trainer verify"),
        (lambda path: (path.mkdir(), (path / "config.yml").touch()), "trainer verify"),
    ],
)
def test_other_things_are_wrong_use(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "thing")
    with pytest.raises(UsageError) as caught:
        verify(tmp_path / "thing")
    assert message in str(caught.value)
    assert "workspace" in str(caught.value) or message == "trainer verify"


def test_files_of_somebody_else_are_noted_and_no_damage(copy: Path) -> None:
    (copy / "set.histoprep/notes.txt").write_text("mine")
    found = verify(copy / "set.histoprep")
    assert found.damages == [] and any("notes.txt" in note for note in found.notes)


def test_trees_of_earlier_versions_are_used_and_verified_as_far_as_can_be(alone: Path) -> None:
    for path in alone.rglob("checksums.json"):
        path.unlink()
    assert run(["--quiet", "manifest", str(alone / "set"), *MAP]) in (0, 3)
    found = verify(alone / "set.histoprep")
    assert found.damages == [] and any("have no checksum" in note for note in found.notes)
    flip(next((alone / "set.histoprep/masks-label_map_5").rglob("*_mask.png")))
    assert len(verify(alone / "set.histoprep").damages) == 1
