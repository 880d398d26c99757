"""`--device`: what is not here is wrong use, said before anything is read or written, and never a
bug of ours.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from coordinate_tiles import write_tiles

from histoprep.errors import ExitCode, UsageError
from trainer.cli import run
from trainer.device import choose_device


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="there is no GPU 2 here"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", "no CUDA here"),
        ("cuda:1", "no CUDA here"),
        ("foo", "no such"),
        ("", "no such"),
        ("meta", "not sup"),
    ],
)
def test_what_is_not_here_is_refused(no_gpu: None, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose_device(name)


@pytest.mark.parametrize("command", ["encode", "sample", "test", "predict"])
def test_every_command_says_so(
    command: str, no_gpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {
        "sample": ["--checkpoint", "run", "--masks", "masks", "--out", str(tmp_path / "out")],
        "test": ["run", "--out", str(tmp_path / "out")],
        "predict": ["run", __file__, "--out", str(tmp_path / "out")],
    }
    if command == "encode":
        manifest = write_tiles(tmp_path / "data", 10, 32)
        arguments["encode"] = [
            "--manifest",
            str(manifest),
            "--codec",
            "codec",
            "--out",
            str(tmp_path / "out"),
        ]
    for device, said in (("cuda", "--device cpu"), ("foo", "no such device")):
        assert run([command, *arguments[command], "--device", device]) == ExitCode.USAGE
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
