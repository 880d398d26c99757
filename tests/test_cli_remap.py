"""`histoprep remap`: what it prints and exits with, in a user's hands."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoprep.cli import main
from histoprep.errors import ExitCode

MAP = """\
sources: {0: nothing, 1: skin, 2: fat, 9: ink}
classes: {0: Unknown, 1: Tissue}
map: {nothing: Unknown, skin: Tissue, fat: Tissue, ink: Unknown}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data set of 12 tiles with a label map in it; it is the current folder."""
    root = tmp_path / "set"
    root.mkdir()
    rng = np.random.default_rng(5)
    for index in range(12):
        Image.new("RGB", (32, 32), (200, 120, 160)).save(root / f"t{index:02}.jpg")
        labels = np.kron(rng.choice([0, 1, 2, 9], (4, 4)), np.ones((8, 8), int)).astype(np.uint8)
        Image.fromarray(labels).save(root / f"t{index:02}_mask.png")
    (root / "label_map_2.yml").write_text(MAP)
    monkeypatch.chdir(root)
    return root


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main(["remap", *map(str, arguments)])
    return int(done.value.code or 0)


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*_mask.png"))}


def test_a_plain_call_remaps_the_current_folder(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--map", "label_map_2.yml", "--workers", "1") == ExitCode.OK
    out = root.with_name("set.histoprep") / "masks-label_map_2"
    printed = capsys.readouterr().out.splitlines()
    tissue = sum(
        int(np.isin(np.array(Image.open(path)), [1, 2]).sum()) for path in root.glob("*_mask.png")
    )
    total = 12 * 32 * 32
    assert printed[0] == "Classes of label_map_2"
    assert [line.split() for line in printed[2:4]] == [
        ["0", "Unknown", f"{total - tissue:,}", f"{100 - 100 * tissue / total:.2f}"],
        ["1", "Tissue", f"{tissue:,}", f"{100 * tissue / total:.2f}"],
    ]
    assert printed[-1] == f"12 masks, 0 failed | {out}"
    for name, data in masks(root).items():
        assert data != masks(out)[name]
        np.testing.assert_array_equal(
            np.array(Image.open(out / name)), np.isin(np.array(Image.open(root / name)), [1, 2])
        )
    assert sorted(path.name for path in root.iterdir() if path.suffix not in (".jpg", ".png")) == [
        "label_map_2.yml"
    ]


def test_the_map_of_the_data_set_is_found_and_a_second_run_does_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--workers", "1") == ExitCode.OK
    first = capsys.readouterr()
    assert run() == ExitCode.OK
    second = capsys.readouterr()
    assert second.out == first.out
    assert "nothing had changed" in second.err
    assert "nothing had changed" not in first.err


def test_failed_masks_are_listed_and_the_exit_code_says_so(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(11):
        (root / f"t{index:02}_mask.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(root / "t00_mask.png")
    assert run(root, "--workers", "1") == ExitCode.INCOMPLETE
    done = capsys.readouterr()
    assert "not remapped: t00_mask.png: HP402 rgb: 1,024 colours" in done.err
    assert "not remapped: t09_mask.png: HP201" in done.err
    assert "t10_mask.png" not in done.err
    assert "and 1 more; all are in" in done.err
    assert done.out.splitlines()[-1].startswith("1 masks, 11 failed")


def test_unmapped_values_stop_it_before_anything_is_written(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((32, 32), 44, np.uint8)).save(root / "t03_mask.png")
    assert run("--workers", "1") == ExitCode.USAGE
    text = capsys.readouterr().err
    assert "1 value that label_map_2 does not list" in text
    assert "44 (1,024 pixels in 1 tile, such as t03_mask.png)" in text
    assert not (root.with_name("set.histoprep") / "masks-label_map_2").exists()
    assert run("--on-unmapped", "unknown", "--workers", "1") == ExitCode.OK
    assert not np.array(
        Image.open(root.with_name("set.histoprep") / "masks-label_map_2/t03_mask.png")
    ).any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--on-unmapped", "ignore"), "Invalid value for '--on-unmapped'"),
        (("--part", "4/3"), "--part is not a part of an array job"),
        (("--engine", "dask"), "belong together"),
        (("--out", "inside"), "must not mix with the data set"),
        (("--map", "label_map_3"), "no label map"),
        (("--part", "1/2"), "no tiles table"),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert run(*arguments) == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert not (root / "inside").exists()


def test_a_map_must_be_chosen(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "label_map_2.yml").unlink()
    assert run() == ExitCode.USAGE
    assert "no label map given" in capsys.readouterr().err


def test_jobs_of_an_array_and_a_last_call_give_the_same_masks(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--out", tmp_path / "whole", "--workers", "1") == ExitCode.OK
    for number in (1, 2):
        assert (
            run("--out", tmp_path / "parts", "--part", f"{number}/2", "--workers", "1")
            == ExitCode.OK
        )
    assert "part 2 of 2: 0 partitions done" in capsys.readouterr().err
    assert not (tmp_path / "parts/_SUCCESS.json").exists()
    assert run("--out", tmp_path / "parts") == ExitCode.OK
    assert masks(tmp_path / "parts") == masks(tmp_path / "whole")
    assert (tmp_path / "parts/ledger.parquet").read_bytes() == (
        tmp_path / "whole/ledger.parquet"
    ).read_bytes()


def test_an_output_that_cannot_be_written_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run("--out", tmp_path / "file/new", "--workers", "1") == ExitCode.OUTPUT
    text = capsys.readouterr().err
    assert str(tmp_path / "file") in text
    assert os.strerror(20) in text


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)],
)
@pytest.mark.slow
def test_a_stopped_run_says_so_and_goes_on_later(
    root: Path, number: signal.Signals, code: ExitCode
) -> None:
    rng = np.random.default_rng(1)
    for index in range(500):
        Image.fromarray(rng.choice([0, 1, 2, 9], (32, 32)).astype(np.uint8)).save(
            root / f"m{index}_mask.png", compress_level=1
        )
    command = [
        sys.executable,
        "-c",
        "from histoprep.cli import main; main()",
        "remap",
        "--workers",
        "1",
    ]
    out = root.with_name("set.histoprep") / "masks-label_map_2"
    stopped = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    while (
        stopped.poll() is None
        and not (out / "m5_mask.png").exists()
        and not (out / "t05_mask.png").exists()
    ):
        time.sleep(0.001)
    stopped.send_signal(number)
    _, text = stopped.communicate()
    assert stopped.returncode == code, text
    assert "rerun the same command" in text
    assert not (out / "_SUCCESS.json").exists()
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert again.returncode == ExitCode.OK, again.stderr
    assert again.stdout.splitlines()[-1].startswith("512 masks, 0 failed")
    assert len(masks(out)) == 512


@pytest.mark.slow
def test_a_failing_sync_promises_nothing(root: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from histoprep.cli import main; main()",
        "remap",
        "--workers",
        "1",
    ]
    traced = [
        "strace",
        "-f",
        "-o",
        os.devnull,
        "-e",
        "trace=syncfs",
        "-e",
        "inject=syncfs:error=EIO",
    ]
    if (
        shutil.which("strace") is None
        or subprocess.run([*traced, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("strace cannot trace here")
    failed = subprocess.run(
        [*traced, *command], cwd=root, capture_output=True, text=True, check=False
    )
    assert failed.returncode == ExitCode.OUTPUT, failed.stderr
    assert os.strerror(errno.EIO) in failed.stderr
    out = root.with_name("set.histoprep") / "masks-label_map_2"
    assert [
        path for path in out.rglob("*") if path.suffix == ".parquet" or path.name == "_SUCCESS.json"
    ] == []
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert again.stdout.splitlines()[-1].startswith("12 masks, 0 failed")
