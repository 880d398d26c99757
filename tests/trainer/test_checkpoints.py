"""Checkpoints: whole or not there, checked, finite, at least two kept, and passed over with a
reason when damaged.
"""

from __future__ import annotations

import json
import resource
import signal
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from trainer.engine.checkpoint_files import check_finite
from trainer.engine.checkpoints import (
    CheckpointFolder,
    Snapshot,
    find_checkpoint,
    list_checkpoints,
    load_weights,
)
from trainer.errors import CheckpointError, DivergedError, ExitCode, OutputError


def _snapshot(step: int, value: float = 1.0) -> Snapshot:
    weights = {"w": torch.full((3, 2), value), "n": torch.tensor(step)}
    return Snapshot(
        {
            "weights": weights,
            "ema": {"w": weights["w"] / 2},
            "optimiser": {"0.exp_avg": weights["w"]},
        },
        {"step": step, "best": None},
    )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    odd = torch.tensor([1e-45, -0.0, 3.0000002, 1e38])
    folder.save(
        Snapshot(
            {"weights": {"w": odd, "view": odd[1:3], "t": torch.ones(2, 3).T}},
            {"step": 7, "best": {"value": 0.1}},
        )
    )
    read = folder.newest()
    assert read is not None and read.step == 7 and read.state["best"] == {"value": 0.1}
    assert read.tensors["weights"]["w"].numpy().tobytes() == odd.numpy().tobytes()
    assert torch.equal(read.tensors["weights"]["t"], torch.ones(3, 2)) and read.tensors["weights"][
        "view"
    ].shape == (2,)


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path).save(_snapshot(1))
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.count(": OK") == 4
    assert {stat.S_IMODE(file.stat().st_mode) & 0o044 for file in path.iterdir()} == {0o044}, (
        "others may read"
    )


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "optimiser.safetensors", "state.json", "SHA256SUMS"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_seen_and_the_one_before_is_taken(tmp_path: Path, file: str, damage: str) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(_snapshot(1))
    target = folder.save(_snapshot(2)) / file
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "flip": lambda: target.write_bytes(data),
        "cut": lambda: target.write_bytes(data[: len(data) // 2]),
        "gone": target.unlink,
    }[damage]()
    read = folder.newest()
    assert read is not None and read.step == 1
    assert len(folder.skipped) == 1 and folder.skipped[0].startswith("last-00000002")


def test_damage_to_all_is_an_error_and_none_is_not(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.newest() is None
    path = folder.save(_snapshot(1))
    (path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the checkpoints") as caught:
        folder.newest()
    assert caught.value.exit_code == ExitCode.INTEGRITY and "last-00000001" in str(caught.value)


def test_another_version_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(Snapshot(_snapshot(1).tensors, {"step": 1, "best": None, "schema_version": "2.0"}))
    with pytest.raises(CheckpointError) as caught:
        folder.newest()
    assert "another version" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["weights", "ema"])
def test_what_is_not_finite_is_never_published(tmp_path: Path, value: float, part: str) -> None:
    folder = CheckpointFolder(tmp_path)
    snapshot = _snapshot(3)
    snapshot.tensors[part]["w"][1, 1] = value
    for save in (folder.save, folder.save_best):
        with pytest.raises(DivergedError):
            save(snapshot)
    assert not tmp_path.exists() or _names(tmp_path) == []


def test_huge_but_finite_weights_are_finite() -> None:
    huge = torch.full((64,), torch.finfo(torch.float32).max)
    check_finite(
        {"w": huge, "n": torch.tensor(3), "d": torch.full((9,), 1e308, dtype=torch.float64)}, "w"
    )


def test_the_newest_are_kept_and_the_bests_they_need(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 8):
        if step in (1, 3, 6):
            folder.save_best(_snapshot(step))
        folder.save(_snapshot(step))
    # Going on from 6 needs the best as of 6.
    assert _names(tmp_path) == ["best-00000006", "last-00000006", "last-00000007"]
    folder.save_best(_snapshot(8))
    assert [item.name for item in list_checkpoints(tmp_path, "best")] == [
        "best-00000006",
        "best-00000008",
    ]
    folder.forget_after(6)
    assert _names(tmp_path) == ["best-00000006", "last-00000006"]


def test_the_best_holds_weights_only(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path).save_best(_snapshot(2))
    assert _names(path) == ["SHA256SUMS", "ema.safetensors", "state.json", "weights.safetensors"]


def test_leftovers_are_swept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(_snapshot(1))
    half = tmp_path / ".hp-0123456789ab.tmp"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"x")
    folder.sweep()
    assert _names(tmp_path) == ["last-00000001"]


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        CheckpointFolder(tmp_path / "file" / "checkpoints").save(_snapshot(1))
    assert caught.value.exit_code == ExitCode.OUTPUT


def test_a_file_that_cannot_grow_leaves_the_old_one(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(_snapshot(1))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = Snapshot({"weights": {"w": torch.zeros(1 << 20)}}, {"step": 2, "best": None})
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
    try:
        with pytest.raises(OutputError):
            folder.save(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)
    assert _names(tmp_path) == ["last-00000001"]


def test_weights_of_a_run(toy_config, tmp_path: Path) -> None:
    from trainer.engine.fit import fit

    config = toy_config(out="run")
    run = fit(config).run
    best = find_checkpoint(run)
    assert best.name.startswith("best-")
    ema, read = load_weights(run)
    raw, _ = load_weights(run, ema=False)
    assert read == config
    assert ema.keys() == raw.keys() and not torch.equal(ema["0.weight"], raw["0.weight"])
    last, _ = load_weights(run / "checkpoints" / "last-00000012")
    state = json.loads((best / "state.json").read_text())
    assert state["step"] == int(best.name[-8:]) and last.keys() == ema.keys()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_weights(tmp_path)
