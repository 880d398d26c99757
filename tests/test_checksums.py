"""Checksums of folders: what was changed is named, what a killed process left is not, and files are
read again only when they may have changed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from histoprep import checksums
from histoprep.checksums import (
    CHECKSUMS,
    STATES,
    Checksum,
    Expected,
    check_files,
    damaged_files,
    publish_file,
    publish_json,
    read_file,
    read_json,
)
from histoprep.errors import IntegrityError


def test_what_was_published_is_read_back(tmp_path: Path) -> None:
    publish_json(tmp_path, "a.json", {"scale": 1.6})
    publish_file(tmp_path, "folder/b.yml", "kind: v\n")
    assert read_json(tmp_path / "a.json") == {"scale": 1.6}
    assert read_file(tmp_path / "folder/b.yml", folder=tmp_path) == b"kind: v\n"
    assert damaged_files(tmp_path) == []


def test_every_flipped_byte_of_a_file_and_of_the_list_is_noticed(tmp_path: Path) -> None:
    publish_json(tmp_path, "a.json", {"scale": 1.6})
    for name in ("a.json", CHECKSUMS):
        whole = (tmp_path / name).read_bytes()
        for place in range(len(whole)):
            broken = bytearray(whole)
            broken[place] ^= 1
            (tmp_path / name).write_bytes(broken)
            with pytest.raises(IntegrityError) as caught:
                read_json(tmp_path / "a.json")
            assert caught.value.path == str(tmp_path / name)
        (tmp_path / name).write_bytes(whole)
    assert read_json(tmp_path / "a.json") == {"scale": 1.6}


def test_an_edit_is_named_with_both_digests_and_advice(tmp_path: Path) -> None:
    publish_json(tmp_path, "a.json", {"scale": 1.6})
    (tmp_path / "a.json").write_text(json.dumps({"scale": 9.6}))
    with pytest.raises(IntegrityError) as caught:
        read_json(tmp_path / "a.json", hint="encode again with --force")
    assert (
        caught.value.path == str(tmp_path / "a.json")
        and "digest" in str(caught.value.seen)
        and "digest" in str(caught.value.expected)
    )
    assert caught.value.hint == "encode again with --force"
    assert [item.path for item in damaged_files(tmp_path)] == [str(tmp_path / "a.json")]


def test_a_file_that_is_not_listed_is_used(tmp_path: Path) -> None:
    # Of an earlier version, or somebody's own.
    (tmp_path / "a.json").write_text("[1]")
    assert read_json(tmp_path / "a.json") == [1]
    publish_json(tmp_path, "b.json", 2)
    assert read_json(tmp_path / "a.json") == [1]


def test_a_process_killed_while_it_publishes_leaves_nothing_that_seems_damaged(
    tmp_path: Path,
) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from histoprep import checksums, durable
left = int(sys.argv[2])
replace = os.replace
def die(*names):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = die
checksums.publish_files(Path(sys.argv[1]), {"a.json": b"[2]", "b.json": b"[3]"})
"""
    ends = []
    for step in range(6):
        folder = tmp_path / str(step)
        checksums.publish_files(folder, {"a.json": b"[1]", "b.json": b"[1]"})
        ends.append(
            subprocess.run(
                [sys.executable, "-c", program, str(folder), str(step)], check=False
            ).returncode
        )
        assert damaged_files(folder) == []
        assert (read_json(folder / "a.json"), read_json(folder / "b.json")) in (
            ([1], [1]),
            ([2], [1]),
            ([2], [3]),
        )
    assert ends == [-signal.SIGKILL] * 4 + [0, 0]


def make_files(folder: Path, number: int = 40) -> list[Expected]:
    folder.mkdir()
    found = []
    for index in range(number):
        data = f"mask {index}".encode() * 20
        (folder / f"{index:03}.png").write_bytes(data)
        found.append(Expected(f"{index:03}.png", Checksum.of(data)))
    return found


def flip(path: Path, *, keep_times: bool = True) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    if keep_times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_changed_file_with_its_old_size_and_time_is_found_quickly(tmp_path: Path) -> None:
    files = make_files(tmp_path / "tree")
    assert check_files(tmp_path / "tree", files, whole=False) == []
    flip(tmp_path / "tree/007.png")
    for whole in (False, True):
        assert [item.path for item in check_files(tmp_path / "tree", files, whole=whole)] == [
            str(tmp_path / "tree/007.png")
        ]


def test_a_file_replaced_by_another_inode_with_all_times_is_read(tmp_path: Path) -> None:
    files = make_files(tmp_path / "tree")
    check_files(tmp_path / "tree", files, whole=False)
    victim = tmp_path / "tree/003.png"
    shutil.copy2(victim, tmp_path / "copy")
    flip(tmp_path / "copy")
    os.replace(tmp_path / "copy", victim)
    assert [item.path for item in check_files(tmp_path / "tree", files, whole=False)] == [
        str(victim)
    ]


def test_unchanged_files_are_read_once_and_copies_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    real = checksums.file_digest
    monkeypatch.setattr(checksums, "file_digest", lambda path: read.append(path) or real(path))
    files = make_files(tmp_path / "tree")
    counts = []
    for folder, whole in (
        (tmp_path / "tree", False),
        (tmp_path / "tree", False),
        (tmp_path / "tree", True),
    ):
        read.clear()
        assert check_files(folder, files, whole=whole) == []
        counts.append(len(read))
    shutil.copytree(tmp_path / "tree", tmp_path / "copy")
    for _ in range(2):
        read.clear()
        assert check_files(tmp_path / "copy", files, whole=False) == []
        counts.append(len(read))
    assert counts == [40, 0, 40, 40, 0]


def test_gone_cut_and_odd_files_are_named(tmp_path: Path) -> None:
    files = make_files(tmp_path / "tree")
    (tmp_path / "tree/000.png").unlink()
    os.truncate(tmp_path / "tree/001.png", 5)
    (tmp_path / "tree/002.png").unlink()
    (tmp_path / "tree/002.png").mkdir()
    found = check_files(tmp_path / "tree", files, whole=False)
    assert [(Path(item.path).name, item.is_missing) for item in found] == [
        ("000.png", True),
        ("001.png", False),
        ("002.png", False),
    ]


def test_damaged_states_only_cost_a_reading(tmp_path: Path) -> None:
    files = make_files(tmp_path / "tree")
    check_files(tmp_path / "tree", files, whole=False)
    flip(tmp_path / "tree" / STATES)
    assert check_files(tmp_path / "tree", files, whole=False) == []
