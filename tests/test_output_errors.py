"""What is said when the system refuses to write: what helps against its reason, and the options
that the command has.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from packed_tiles import make_tiles

from histoprep.cli import run
from histoprep.errors import OutputError


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.EROFS, "writable"),
        (errno.EACCES, "permission"),
        (errno.EPERM, "permission"),
        (errno.ENOENT, "make the folder that is missing"),
        (errno.ENOTDIR, "in the place of a folder"),
        (errno.EIO, "dmesg"),
        (errno.ENAMETOOLONG, "shorter names"),
    ],
)
def test_hint_is_what_helps_against_the_reason(number: int, remedy: str) -> None:
    hint = str(OutputError.from_os_error(OSError(number, os.strerror(number)), "out").hint)
    assert remedy in hint and hint.endswith(
        "another place for the results; then run the same command again"
    )
    assert ("free space" in hint) == (number in (errno.ENOSPC, errno.EDQUOT))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["audit", "data", "--workspace", "file/below"], "--workspace or --output"),
        (
            ["remap", "data", "--map", "label_map_5", "--workspace", "file/below"],
            "--out or --workspace",
        ),
        (["audit", "data", "--output", "file/below"], "--workspace or --output"),
        (["manifest", "data", "--out", "file/below"], "--out or --workspace"),
        (["shard", "data.histoprep/manifest.parquet", "--out", "file/below"], "--out"),
        (["manifest", "build", "data", "--workspace", "file/below"], "--out or --workspace"),
    ],
)
def test_hint_names_the_options_of_the_command(
    arguments: list[str],
    options: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiles(tmp_path / "data", 6)
    Path("file").touch()
    capsys.readouterr()
    assert run(arguments) == 4
    hint = capsys.readouterr().err.split("try: ")[1].strip()
    assert (
        hint
        == f"move the file away that is in the place of a folder, or name another {options}; then"
        " run the same command again"
    )


def test_hint_of_a_lock_names_the_option_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiles(tmp_path / "data", 6)
    with (tmp_path / "data.histoprep" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(["stats", str(tmp_path / "data")]) == 5
    assert "try: wait for it to end, or name another --workspace\n" in capsys.readouterr().err
