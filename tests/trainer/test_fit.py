"""Whole runs of the engine on a small real recipe: what they leave, what stops them, and how they
go on.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from histoprep import checksums
from histoprep.durable import locked
from trainer.config_layers import build_config
from trainer.engine.checkpoints import CheckpointFolder, load_weights
from trainer.engine.fit import fit
from trainer.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    DivergedError,
    ExitCode,
    IntegrityError,
    LockedError,
)
from trainer.reporter import Reporter

Make = Callable[..., Any]


def _lines(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def _column(run: Path, name: str) -> list[float]:
    return [float(line[name]) for line in _lines(run) if line.get(name)]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    snapshot = CheckpointFolder(run / "checkpoints").newest()
    assert snapshot is not None
    return dict(snapshot.tensors["weights"])


def test_a_run_leaves_what_was_promised(toy_config: Make) -> None:
    config = toy_config(every__images=6)
    result = fit(config)
    run = result.run
    names = {path.name for path in run.iterdir()}
    assert {
        "config.yml",
        "environment.json",
        "certificate.json",
        "metrics.csv",
        "logs",
        "checkpoints",
        "samples",
        "finished.json",
    } <= names
    assert build_config(type(config), yaml.safe_load((run / "config.yml").read_text())) == config
    certificate = json.loads((run / "certificate.json").read_text())
    assert (
        certificate["certificate"]["shared_groups"] == 0
        and certificate["manifest"] == config.manifest
    )
    environment = json.loads((run / "environment.json").read_text())
    assert len(environment) == 1 and environment[0]["packages"]["torch"]
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        "00000006-grey.png",
        "00000012-grey.png",
    ]
    assert any("tfevents" in path.name for path in (run / "logs" / "version_0").iterdir())
    facts = yaml.safe_load((run / "logs" / "version_0" / "hparams.yaml").read_text())
    assert facts["weights_from"] == {"net": "random"} and facts["batch_size"] == config.batch_size
    assert result.stages[""]["step"] == 12 and result.stages[""]["best"]["metric"] == "error"
    lines = _lines(run)
    assert [line["step"] for line in lines] == ["3", "4", "6", "8", "9", "12"]
    columns = {
        "loss",
        "lr",
        "gradient_norm",
        "images_per_s",
        "tflop_per_s",
        "data_wait_share",
        "loss_parity_even",
        "loss_parity_odd",
        "size",
        "val_error",
    }
    assert columns <= lines[0].keys()
    rates = [(float(line["images_per_s"]), float(line["tflop_per_s"])) for line in lines[::2]]
    assert all(rate == pytest.approx(images / 1e6) for images, rate in rates)


def test_the_loss_falls(toy_config: Make) -> None:
    run = fit(
        toy_config(
            plain=True,
            duration__steps=150,
            every__log=10,
            every__validate=50,
            ema__decay=0.5,
            optimiser__lr=2e-2,
        )
    ).run
    losses, errors = _column(run, "loss"), _column(run, "val_error")
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3]) and errors[-1] < 0.5 * errors[0]


def test_the_same_command_twice_does_nothing_new(toy_config: Make) -> None:
    config = toy_config()
    first = fit(config)
    before = {path: path.stat().st_mtime_ns for path in (first.run / "checkpoints").rglob("*")}
    assert fit(config).stages[""]["metrics"] == first.stages[""]["metrics"]
    assert {
        path: path.stat().st_mtime_ns for path in (first.run / "checkpoints").rglob("*")
    } == before


def test_a_run_without_an_end_can_be_made_longer(toy_config: Make) -> None:
    settings = {"schedule__kind": "constant"}
    fit(toy_config(out="short", **settings))
    grown = fit(toy_config(out="short", duration__steps=20, **settings)).run
    whole = fit(toy_config(out="long", duration__steps=20, **settings)).run
    assert all(
        torch.equal(a, b)
        for a, b in zip(_weights(grown).values(), _weights(whole).values(), strict=True)
    )


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"optimiser__lr": 0.5}, {"duration__steps": 20}, {"batch_size": 8}]
)
def test_another_configuration_is_another_run(toy_config: Make, change: dict) -> None:
    fit(toy_config())
    with pytest.raises(ConfigError) as caught:
        fit(toy_config(**change))
    assert next(iter(change)).replace("__", ".") in str(caught.value)


def test_a_run_that_ended_before_its_first_checkpoint_gives_its_folder_to_another(
    toy_config: Make,
) -> None:
    config = toy_config(poison=0, two_stages=True)
    with pytest.raises(DivergedError):
        fit(config)
    run = Path(config.out)
    certificate = json.loads((run / "certificate.json").read_text())
    (run / "certificate.json").write_text(json.dumps({**certificate, "digest": "of other data"}))
    repaired = toy_config(seed=1, two_stages=True)
    fit(repaired)
    assert (
        build_config(type(repaired), yaml.safe_load((run / "config.yml").read_text())) == repaired
    )
    assert json.loads((run / "certificate.json").read_text()) == certificate


@pytest.mark.parametrize("left", ["first/checkpoints/last-00000012", "first/finished.json"])
def test_what_one_stage_left_keeps_the_folder(toy_config: Make, left: str) -> None:
    run = fit(toy_config(two_stages=True)).run
    shutil.move(run / left, run.with_name("kept"))
    for stage in ("first", "second"):
        shutil.rmtree(run / stage)
    (run / left).parent.mkdir(parents=True)
    shutil.move(run.with_name("kept"), run / left)
    with pytest.raises(ConfigError, match="another configuration"):
        fit(toy_config(two_stages=True, seed=1))
    shutil.rmtree(run / "first")
    assert fit(toy_config(two_stages=True, seed=1)).stages["second"]["step"] == 12


def test_what_changes_no_result_may_change(toy_config: Make) -> None:
    fit(toy_config(duration__steps=12))
    assert (
        fit(toy_config(keep_checkpoints=3, every__log=1, data__num_workers=1)).stages[""]["step"]
        == 12
    )


def test_accumulation_takes_one_step_of_the_whole_batch(toy_config: Make) -> None:
    # Without statistics over the batch, micro-steps are a matter of rounding only; a clip for each
    # of them would not be.
    runs = [
        fit(toy_config(out=f"a{count}", accumulate=count, plain=True, optimiser__clip_norm=0.1)).run
        for count in (1, 2, 4)
    ]
    losses = [_column(run, "loss") for run in runs]
    norms = [_column(run, "gradient_norm") for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == pytest.approx(
        losses[0], rel=1e-5
    )
    assert norms[2] == pytest.approx(norms[0], rel=1e-4) and max(norms[0]) > 0.1, (
        "the norm is that before clipping"
    )


def test_batches_must_divide(toy_config: Make) -> None:
    with pytest.raises(ConfigError, match="divided"):
        fit(toy_config(accumulate=3))


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_tile(toy_config: Make) -> None:
    config = toy_config(poison=29)
    with pytest.raises(DivergedError) as caught:
        fit(config)
    text = str(caught.value)
    # Position 29 is in step 8 of 4 samples each.
    assert (
        "at step 8" in text
        and "tile-29" in text
        and "tile-28" not in text
        and "learning rate" in text
    )
    assert caught.value.exit_code == ExitCode.FINDINGS
    snapshot = CheckpointFolder(Path(config.out) / "checkpoints").newest()
    assert snapshot is not None and snapshot.step == 4
    assert all(
        bool(value.isfinite().all())
        for part in ("weights", "ema")
        for value in snapshot.tensors[part].values()
        if value.is_floating_point()
    )


def test_steps_that_are_not_finite_can_be_skipped_and_are_counted(toy_config: Make) -> None:
    config = toy_config(poison=29, plain=True, optimiser__on_nonfinite="skip")
    run = fit(config).run
    assert all(bool(value.isfinite().all()) for value in _weights(run).values())
    assert _column(run, "skipped_steps")[-1] == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_weights(toy_config: Make, precision: str) -> None:
    full = fit(toy_config(out="full", plain=True)).run
    half = fit(toy_config(out="half", plain=True, precision=precision)).run
    assert {value.dtype for value in _weights(half).values()} == {torch.float32}
    losses = _column(full, "loss"), _column(half, "loss")
    assert losses[1] == pytest.approx(losses[0], rel=0.1) and losses[1] != losses[0]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler on the CPU")
@pytest.mark.slow
def test_a_compiled_run_has_the_losses_and_names_of_a_plain_one(toy_config: Make) -> None:
    runs = [
        fit(toy_config(out=f"compile-{item}", plain=True, compile=item)).run
        for item in (False, True)
    ]
    assert _column(runs[1], "loss") == pytest.approx(_column(runs[0], "loss"), rel=1e-5)
    assert _weights(runs[1]).keys() == _weights(runs[0]).keys()


def test_channels_last_and_no_average(toy_config: Make) -> None:
    run = fit(toy_config(ema=None, channels_last=True)).run
    assert not list(run.glob("checkpoints/*/ema.safetensors"))
    assert load_weights(run)[0].keys() == load_weights(run, ema=False)[0].keys()


def test_stages_run_in_order_and_a_finished_one_is_not_run_again(toy_config: Make) -> None:
    config = toy_config(two_stages=True)
    fit(config)
    run = Path(config.out)
    assert (run / "first" / "finished.json").exists() and (run / "second" / "metrics.csv").exists()
    stamp = (run / "first" / "metrics.csv").stat().st_mtime_ns
    weights = (run / "second" / "checkpoints" / "last-00000012" / "SHA256SUMS").read_bytes()
    (run / "second" / "finished.json").unlink()
    for path in (run / "second" / "checkpoints").glob("*-00000012"):
        os.rename(
            path,
            path.with_name(
                ".hp-aaaaaaaaaaaa.tmp" if path.name.startswith("last") else ".hp-bbbbbbbbbbbb.tmp"
            ),
        )
    fit(config)
    assert (run / "first" / "metrics.csv").stat().st_mtime_ns == stamp
    assert (run / "second" / "checkpoints" / "last-00000012" / "SHA256SUMS").read_bytes() == weights


def test_a_damaged_checkpoint_is_passed_over_and_told(toy_config: Make) -> None:
    config = toy_config()
    run = fit(config).run
    expected = (run / "checkpoints" / "last-00000012" / "SHA256SUMS").read_bytes()
    (run / "finished.json").unlink()
    (run / "checkpoints" / "last-00000012" / "weights.safetensors").write_bytes(b"no")
    messages: list[str] = []
    fit(config, reporter=Reporter(note=messages.append, warn=messages.append))
    assert any("checkpoint skipped: last-00000012" in record for record in messages) and any(
        "resuming from step 8" in record for record in messages
    )
    assert (run / "checkpoints" / "last-00000012" / "SHA256SUMS").read_bytes() == expected


def test_a_checkpoint_of_another_model_is_refused(toy_config: Make) -> None:
    config = toy_config()
    run = fit(config).run
    (run / "finished.json").unlink()
    text = (run / "config.yml").read_text().replace("plain: false", "plain: true")
    (run / "config.yml").write_text(text)
    with pytest.raises(IntegrityError, match="changed since it was written") as caught:
        fit(toy_config(plain=True))
    assert caught.value.path == str(run / "config.yml")
    checksums.list_files(run, ["config.yml"])
    with pytest.raises(CheckpointError, match="another model"):
        fit(toy_config(plain=True))


def test_a_second_process_is_told_who_holds_the_run(toy_config: Make, tmp_path: Path) -> None:
    config = toy_config()
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, config.out], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "held"
        with pytest.raises(LockedError) as caught:
            fit(config)
        holder.kill()
    assert str(holder.pid) in str(caught.value) and caught.value.exit_code == ExitCode.LOCKED
    with locked(Path(config.out)):
        pass


_HOLD = """
import sys, time
from pathlib import Path
from histoprep.durable import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_leak_stops_before_anything_is_written(
    toy_config: Make, demo_manifest: Path, tmp_path: Path
) -> None:
    import pyarrow as pa

    from histoprep.schemas.manifest import open_manifest, write_manifest

    manifest = open_manifest(demo_manifest)
    table = manifest.read()
    splits = table["split"].to_pylist()
    # One tile of a training group moves to the test split.
    splits[splits.index("train")] = "test"
    leaky = table.set_column(
        table.schema.get_field_index("split"),
        table.schema.field("split"),
        pa.chunked_array([splits]),
    )
    header = {
        name: manifest.header[name]
        for name in ("root", "recipe", "certificate", "tiles_digest", "excluded")
    }
    write_manifest(tmp_path / "leaky.parquet", [leaky], manifest.label_map, header)
    config = toy_config(manifest=str(tmp_path / "leaky.parquet"))
    with pytest.raises(IntegrityError, match="certificate") as caught:
        fit(config)
    assert "1 shared groups" in str(caught.value) and caught.value.exit_code == ExitCode.INTEGRITY
    assert not Path(config.out).exists()


def test_other_data_is_another_run(toy_config: Make) -> None:
    config = toy_config()
    run = fit(config).run
    certificate = json.loads((run / "certificate.json").read_text())
    (run / "certificate.json").write_text(json.dumps({**certificate, "digest": "0"}))
    with pytest.raises(IntegrityError, match="changed since it was written"):
        fit(config)
    checksums.list_files(run, ["certificate.json"])
    with pytest.raises(IntegrityError, match="data changed"):
        fit(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there(toy_config: Make) -> None:
    with pytest.raises(DeviceError) as caught:
        fit(toy_config(accelerator="cuda"))
    assert caught.value.exit_code == ExitCode.OUTPUT


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.slow
def test_a_signal_saves_a_state_that_goes_on_to_the_same_end(
    toy_config: Make, number: signal.Signals, code: int, workers: int
) -> None:
    settings = {
        "duration__steps": 60,
        "every__checkpoint": 1000,
        "every__validate": 30,
        "every__log": 7,
    }
    whole = fit(toy_config(out="whole", **settings)).run
    stopped = toy_config(out="stopped", data__num_workers=workers, **settings)
    script = _SCRIPT.format(folder=str(Path(__file__).parent), root=str(Path(__file__).parents[2]))
    values = json.dumps(stopped.model_dump(mode="json", by_alias=True))
    # Its own process group: a terminal and a scheduler signal all processes of a job.
    process = subprocess.Popen(
        [sys.executable, "-c", script, values],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(600):
        if (Path(stopped.out) / "metrics.csv").exists():
            break
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == code, text
    assert "is saved in last-" in text
    fit(toy_config(out="stopped", **settings))
    ends = [
        run / "checkpoints" / "last-00000060" / "SHA256SUMS" for run in (whole, Path(stopped.out))
    ]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    assert _column(Path(stopped.out), "loss") == _column(whole, "loss")
    assert sorted(path.name for path in (Path(stopped.out) / "logs").iterdir()) == [
        "version_0",
        "version_1",
    ]


_SCRIPT = """
import json, sys, time
sys.path[:0] = [{root!r}, {folder!r}]
import torch; torch.set_num_threads(1)
import toy_recipe; toy_recipe.register()
from trainer.config_layers import build_config
from trainer.engine.fit import fit
from trainer.errors import HistoprepError, Interrupted
loss = toy_recipe.ToyStage.loss
def slowly(self, module, batch):
    time.sleep(0.1)
    return loss(self, module, batch)
toy_recipe.ToyStage.loss = slowly
try:
    fit(build_config(toy_recipe.Config, json.loads(sys.argv[1])))
except (HistoprepError, Interrupted) as error:
    print(error, file=sys.stderr)
    sys.exit(int(error.exit_code))
"""


def test_periods_in_epochs_are_passes_over_the_training_tiles(toy_config: Make) -> None:
    # An epoch of the toy has 40 tiles: 10 steps of 4.
    settings = {"duration__steps": 33, "batch_size": 4, "every__log": "0.5 epochs"}
    run = fit(toy_config(**settings, every__validate="1 epoch", every__checkpoint="2 epochs")).run
    with (run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    logged = [int(row["step"]) for row in rows if row["loss"]]
    assert logged == [5, 10, 15, 20, 25, 30, 33]
    assert [int(row["step"]) for row in rows if row["val_error"]] == [10, 20, 30, 33]
