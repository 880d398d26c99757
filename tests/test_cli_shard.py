"""`histoprep shard`: what it prints and exits with, in a user's hands."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from packed_tiles import make_tiles
from PIL import Image

from histoprep.cli import main
from histoprep.cli import run as audit
from histoprep.cli.shard import parse_size
from histoprep.errors import ExitCode, UsageError
from histoprep.shards import open_tiles
from histoprep.storage import beside


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the manifest of 12 tiles; the current folder is an empty one."""
    path = make_tiles(tmp_path / "data", 12)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main(["shard", *map(str, arguments)])
    return int(done.value.code or 0)


def test_a_plain_call_writes_beside_the_manifest(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(manifest, "--workers", "1") == ExitCode.OK
    out = manifest.parent / "shards"
    size = sum(path.stat().st_size for path in out.glob("*.tar")) / 1e6
    count = len(list(out.glob("*.tar")))
    assert (
        capsys.readouterr().out
        == f"12 tiles in {count} shards, {size:.1f} MB | {out / 'index.parquet'}\n"
    )
    assert len(open_tiles(out)) == 12


def test_the_same_command_again_says_that_all_is_there(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(manifest, "--out", "mine", "--workers", "1", "--verify") == ExitCode.OK
    for options in ([], ["--resume"], ["--verify"]):
        assert run(manifest, "--out", "mine", *options) == ExitCode.OK
        assert "up to date: nothing changed" in capsys.readouterr().err
    assert run("verify", "mine", "--manifest", manifest) == ExitCode.OK
    assert "every byte was read" in capsys.readouterr().out


def test_damage_is_found_with_exit_code_1(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(manifest, "--out", "mine", "--workers", "1")
    shard = Path("mine/train-conditional-000000.tar")
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    for arguments in (("verify", "mine"), ("verify", "mine/index.parquet")):
        assert run(*arguments) == ExitCode.INTEGRITY
        printed = capsys.readouterr().out
        assert (
            "error: HP904 shard-corrupt: 1 of" in printed
            and shard.name in printed
            and "try:" in printed
        )
    # Nor is it taken for one that is there.
    for more in ("--verify", "--resume"):
        assert run(manifest, "--out", "mine", more) == ExitCode.INTEGRITY
        assert shard.name in capsys.readouterr().err
    shard.unlink()
    assert run(manifest, "--out", "mine", "--resume", "--workers", "1") == ExitCode.OK
    assert run("verify", "mine") == ExitCode.OK


@pytest.mark.parametrize("name", ["shard.json", "_SUCCESS.json", "checksums.json"])
def test_damage_beside_the_shards_is_6_and_a_finding_of_the_audit(
    name: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(manifest, "--workers", "1")
    changed = manifest.parent / "shards" / name
    changed.write_bytes(changed.read_bytes().replace(b"0", b"1").replace(b"5", b"6"))
    capsys.readouterr()
    assert run("verify", str(changed.parent)) == ExitCode.INTEGRITY
    assert name in capsys.readouterr().out
    assert (
        audit(
            ["audit", str(manifest.parent.with_name("data")), "--workers", "1", "--select", "HP904"]
        )
        == ExitCode.FINDINGS
    )
    assert name in capsys.readouterr().out


def test_a_foreign_shard_is_found_with_exit_code_1(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(manifest, "--out", "mine", "--workers", "1")
    shutil.copy("mine/train-conditional-000000.tar", "mine/extra-000000.tar")
    capsys.readouterr()
    assert run("verify", "mine") == ExitCode.FINDINGS
    printed = capsys.readouterr().out
    assert "HP905" in printed and "extra-000000.tar" in printed and "not of this index" in printed


def test_a_changed_file_gives_exit_code_3_and_its_name(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data/plain_4.jpg").unlink()
    assert run(manifest, "--out", "mine", "--workers", "1") == ExitCode.INCOMPLETE
    text = capsys.readouterr().err
    assert "plain_4.jpg" in text and "HP201 vanished" in text
    assert not Path("mine/index.parquet").exists()


def test_info_says_what_is_in_them(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(manifest, "--out", "mine", "--workers", "1")
    capsys.readouterr()
    assert run("info", "mine") == ExitCode.OK
    printed = capsys.readouterr().out
    assert "12 tiles in" in printed and "label map three with 3 classes" in printed
    source = open_tiles("mine")
    for split in ("train", "test"):
        for pool in ("conditional", "unconditional"):
            number = int(((source.split == split) & (source.pool == pool)).sum())
            rows = [
                line.split() for line in printed.splitlines() if line.split()[:2] == [split, pool]
            ]
            assert (rows[0][3] if rows else "0") == str(number)


def test_preview_draws_tiles_with_their_classes(manifest: Path) -> None:
    run(manifest, "--out", "mine", "--workers", "1")
    assert run("preview", "mine", "--num", "3", "--pool", "conditional") == ExitCode.OK
    drawn = Path("mine/preview.png").read_bytes()
    assert Image.open(io.BytesIO(drawn)).size[0] == 1040
    assert (
        run("preview", manifest, "--num", "3", "--pool", "conditional", "--out", "files.png")
        == ExitCode.OK
    )
    # The same tiles from files look the same.
    assert Path("files.png").read_bytes() == drawn
    assert (
        run("preview", "mine", "--num", "3", "--pool", "unconditional", "--out", "plain.png")
        == ExitCode.OK
    )
    assert not np.array_equal(
        np.array(Image.open("plain.png"))[:300], np.array(Image.open("files.png"))[:300]
    )
    assert run("preview", "mine", "--split", "val") == ExitCode.USAGE


def test_a_preview_lies_beside_the_shards_and_disturbs_nobody(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = manifest.parent / "shards"
    run(manifest, "--workers", "1")
    monkeypatch.chdir(manifest.parent.with_name("data"))
    before = sorted(Path().rglob("*"))
    for shards in (out, out / "index.parquet"):
        assert run("preview", shards, "--num", "1") == ExitCode.OK
        (out / "preview.png").unlink()
    assert run("preview", out, "--num", "1") == ExitCode.OK
    assert sorted(Path().rglob("*")) == before
    assert run("verify", out, "--manifest", manifest) == ExitCode.OK
    assert run(manifest, "--resume") == ExitCode.OK
    assert len(open_tiles(out)) == 12


def test_a_preview_is_never_written_into_the_data_set_or_to_an_address(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(manifest, "--out", "mine", "--workers", "1")
    assert run("preview", "mine", "--out", "../data/x.png") == ExitCode.USAGE
    assert "an image must not mix with the data set" in capsys.readouterr().err
    assert not Path("../data/x.png").exists()
    with pytest.raises(UsageError, match="beside an address"):
        beside("s3://bucket/shards", "preview.png")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-shard-size", "many"), "no such size"),
        (("--max-shard-size", "1kB"), "make no sense"),
        (("--engine", "dask"), "belong together"),
        (("--out", "../data/x"), "must not mix"),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    manifest: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert run(manifest, *arguments) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_what_is_not_there_is_a_usage_error(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ("nowhere.parquet",),
        ("info", "nowhere"),
        ("verify", "."),
        ("info", manifest),
        ("preview", "nowhere"),
    ):
        assert run(*arguments) == ExitCode.USAGE
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512 * 10**6),
        ("1GiB", 2**30),
        ("1.5 gb", 15 * 10**8),
        ("7", 7),
        ("64m", 64 * 10**6),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    with pytest.raises(UsageError):
        parse_size(f"-{text}")


def test_another_root_stands_in_for_the_manifests(manifest: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    (tmp_path / "data").rename(moved)
    assert run(manifest, "--out", "mine", "--workers", "1") == ExitCode.USAGE
    assert run(manifest, "--out", "other", "--workers", "1", "--root", moved) == ExitCode.OK
    np.testing.assert_array_equal(
        open_tiles("other").read(0).image, open_tiles(manifest, root=moved).read(0).image
    )


@pytest.mark.slow
def test_a_stopped_run_says_so_and_goes_on_later(tmp_path: Path) -> None:
    manifest = make_tiles(tmp_path / "data", 12)
    rng = np.random.default_rng(0)
    # Images of noise, so that there are several shards of the least size.
    for index in range(60):
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(
            tmp_path / f"data/n{index}.png", compress_level=0
        )
    command = [sys.executable, "-c", "from histoprep.cli import main; main()"]
    subprocess.run(
        [*command, "manifest", "data", "--workers", "1"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    writing = [
        *command,
        "shard",
        manifest,
        "--out",
        "mine",
        "--max-shard-size",
        "1MB",
        "--workers",
        "1",
    ]
    stopped = subprocess.Popen(writing, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while stopped.poll() is None and not list((tmp_path / "mine/.hp-parts").glob("*.parquet")):
        time.sleep(0.001)
    stopped.send_signal(signal.SIGINT)
    _, text = stopped.communicate()
    assert stopped.returncode == ExitCode.INTERRUPTED, text
    assert not (tmp_path / "mine/index.parquet").exists()
    again = subprocess.run(
        [*writing, "--resume"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == ExitCode.OK, again.stderr
    assert "were there from a stopped run" in again.stderr
    subprocess.run(
        [*command, "shard", "verify", "mine"], cwd=tmp_path, check=True, capture_output=True
    )
