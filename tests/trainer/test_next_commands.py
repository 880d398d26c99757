"""What a command prints as the next one is accepted as it stands, from the manifest to sampling."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from audit_cases import DataSet, stripes, tissue

from histoprep.cli import run as histoprep
from trainer.cli import run as trainer


def following(capfd: pytest.CaptureFixture[str], program: str) -> list[str]:
    """Return the words after `program` of the command that was printed as the next one."""
    lines = capfd.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith(f"next: {program} ")]
    return shlex.split(line)[2:]


@pytest.mark.slow
def test_from_the_manifest_to_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = DataSet(tmp_path / "data")
    for index in range(10):
        data.pair(f"case{index}_0", stripes(0, 1, side_px=64), tissue(index, side_px=64))
    assert histoprep(["manifest", "data", "--split", "0.8/0.1/0.1"]) == 0
    codec = following(capfd, "trainer")
    assert trainer([*codec, "--set", "duration.steps=2", "--out", "codec"]) == 0
    model = following(capfd, "trainer")
    assert trainer([*model, "--set", "duration.steps=2", "--out", "ldm"]) == 0
    sample = following(capfd, "trainer")
    assert trainer([*sample, "--limit", "1", "--steps", "2"]) == 0
    manifest = str(tmp_path / "data.histoprep" / "manifest.parquet")
    encode = ["encode", "--manifest", manifest, "--codec", "codec", "--out", "latents"]
    assert trainer([*encode, "--report", "0"]) == 0
    assert trainer([*following(capfd, "trainer"), "--dry-run"]) == 0
