"""The demo as stages: their order, when they run again, how they end, and what the page shows of
them.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoprep.cli import run as run_here
from histoprep.demo import GROUP_PATTERN, make_clean_demo
from histoprep.demo.curves import draw_curves, read_curves
from histoprep.demo.ledger import Ledger
from histoprep.demo.page import write_page
from histoprep.demo.run import StageFailed, run_stages, run_trainer
from histoprep.demo.stages import (
    DemoOptions,
    DemoStage,
    toolkit_stages,
    trainer_stages,
    training_size,
)

OPTIONS = DemoOptions(Path("tiles"), Path("tiles.histoprep"), "label_map_5.yml", GROUP_PATTERN)


def test_stages_read_only_what_earlier_ones_left_and_are_what_the_command_line_knows():
    from histoprep.cli import COMMANDS
    from trainer.cli import COMMANDS as TRAINER_COMMANDS

    stages = (*toolkit_stages(OPTIONS), *trainer_stages(OPTIONS, [256]))
    assert [stage.name for stage in stages] == [
        "audit",
        "repair",
        "remap",
        "manifest",
        "stats",
        "shard",
        "codec",
        "encode",
        "fit",
        "sample",
    ]
    made: set[Path] = {OPTIONS.workspace / name for name in ("repaired.json", "repaired.parquet")}
    for stage in stages:
        assert (
            stage.arguments[0]
            in {"histoprep": COMMANDS, "trainer": TRAINER_COMMANDS}[stage.program]
        )
        assert set(stage.inputs) <= made, stage.name
        made |= set(stage.outputs)
        assert stage.always or stage.outputs, f"{stage.name} could not be seen to be done"


def test_a_codec_of_the_users_is_taken_and_none_trained():
    stages = trainer_stages(replace(OPTIONS, codec="my codec"), [224])
    assert [stage.name for stage in stages] == ["encode", "fit", "sample"]
    assert all(shlex.split(stage.command)[1:] == list(stage.arguments) for stage in stages)
    assert [stage.arguments[stage.arguments.index("--codec") + 1] for stage in stages[:2]] == [
        "my codec"
    ] * 2


@given(st.lists(st.integers(16, 4096), min_size=1, max_size=4))
def test_the_training_size_fits_into_every_tile_and_the_network(sides):
    size = training_size(sides)
    assert size % 16 == 0 and 16 <= size <= min(64, *sides)
    assert size + 16 > min(64, *sides), "and is the largest such"
    stages = {side.name: side for side in trainer_stages(OPTIONS, sides)}
    assert ("sample" in stages) == all(side % 16 == 0 for side in sides)
    assert "--split train " in trainer_stages(OPTIONS, [64], "train")[-1].command
    assert f"--image-size {size} --fit tile" in stages["encode"].command


@pytest.fixture
def step(tmp_path) -> DemoStage:
    (tmp_path / "in").write_text("a")
    return DemoStage(
        "step", "copy", "histoprep", ("copy",), (tmp_path / "in",), (tmp_path / "out",)
    )


def copying(stage: DemoStage, calls: list[tuple[str, ...]]):
    def launch(arguments):
        calls.append(tuple(arguments))
        shutil.copy(stage.inputs[0], stage.outputs[0])
        return 0

    return launch


def test_a_stage_runs_again_exactly_when_something_changed(step, tmp_path):
    ledger, calls = Ledger(tmp_path / "notes.json"), []

    def runs(stage: DemoStage) -> bool:
        before = len(calls)
        run_stages([stage], ledger, copying(stage, calls), lambda _: None)
        assert ledger.is_done(stage)
        return len(calls) > before

    assert runs(step) and not runs(step)
    (tmp_path / "in").touch()
    assert not runs(step), "another time is no other content"
    (tmp_path / "in").write_text("b")
    assert runs(step) and not runs(step)
    (tmp_path / "out").unlink()
    assert runs(step) and not runs(step)
    (tmp_path / "out").write_text("tampered")
    assert runs(step) and not runs(step)
    assert runs(replace(step, arguments=("copy", "--other"))) and runs(step)
    (tmp_path / "notes.json").write_text("not JSON")
    assert runs(step) and not runs(step)


def test_a_stage_that_always_runs_is_never_done(step, tmp_path):
    always, calls = replace(step, always=True), []
    for _ in range(2):
        run_stages(
            [always], Ledger(tmp_path / "notes.json"), copying(always, calls), lambda _: None
        )
    assert len(calls) == 2


def test_a_stage_that_fails_ends_the_demo_with_its_exit_code_and_is_not_noted(step, tmp_path):
    lines, ledger = [], Ledger(tmp_path / "notes.json")
    later = replace(step, name="later")
    with pytest.raises(StageFailed) as caught:
        run_stages([step, later], ledger, lambda _: 4, lines.append)
    assert caught.value.exit_code == 4 and "step" in str(caught.value)
    assert not ledger.is_done(step) and lines == [
        "",
        f"{step.name}: {step.purpose}",
        f"$ {step.command}",
    ]
    run_stages([replace(step, accepted=frozenset({3}))], ledger, lambda _: 3, lines.append)


def test_the_trainer_runs_in_a_process_of_its_own_and_gives_its_exit_code(capfd):
    assert run_trainer(["no-such-command"]) == 2
    assert "no-such-command" in capfd.readouterr().err


def test_curves_end_where_the_numbers_say(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,val_loss\n10,1.0,\n20,0.5,0.8\n40,0.25,nan\n")
    curves = read_curves(
        path,
        {
            "loss": ("loss", "first"),
            "val_loss": ("held out", "second"),
            "absent": ("absent", "third"),
        },
    )
    assert [(curve.name, curve.points) for curve in curves] == [
        ("loss", ((10, 1.0), (20, 0.5), (40, 0.25))),
        ("held out", ((20, 0.8),)),
    ]
    drawn = str(draw_curves(curves, "Loss"))
    points = [
        tuple(map(float, pair.split(",")))
        for pair in re.search(r'class="first line" points="([^"]+)"', drawn)[1].split()
    ]
    (left, top), _, (right, bottom) = points
    # Linear in the value down from the top of the axis, which is 1, and in the step.
    assert (points[1][1] - top) / (bottom - top) == pytest.approx(0.5 / 0.75, abs=0.01)
    assert (points[1][0] - left) / (right - left) == pytest.approx(1 / 3, abs=0.01)
    assert (
        read_curves(tmp_path / "none.csv", {"loss": ("loss", "first")}) == ()
        and draw_curves((), "Loss") == ""
    )


HOSTILE = '<img src=x onerror=alert(1)>&"'


@pytest.mark.slow
def test_the_page_escapes_names_and_shows_a_finding_with_its_image(tmp_path):
    folder = tmp_path / f"{HOSTILE}\u202e"
    plan = make_clean_demo(folder, num_tiles=48, tile_px=64)
    for kind in (".jpg", "_mask.png"):
        (folder / f"slide01_0000{kind}").rename(folder / f"slide01_<b>{kind}")
    (folder / "slide01_<b>.jpg").write_bytes((folder / "slide01_0001.jpg").read_bytes())
    options = DemoOptions(
        plan.folder, tmp_path / "work", "label_map_5.yml", GROUP_PATTERN, named=True
    )
    stages = toolkit_stages(options)
    run_stages(stages, Ledger(options.workspace / "notes.json"), run_here, lambda _: None)
    text = write_page(options, stages, Ledger(options.workspace / "notes.json").read()).read_text()
    assert "<img src=x" not in text and "<b>.jpg" not in text and "\u202e" not in text
    assert "slide01_&lt;b&gt;" in text and "data:image/jpeg" in text
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    css = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert f"sha256-{b64encode(hashlib.sha256(css.encode()).digest()).decode()}" in policy.replace(
        "&#39;", "'"
    )
    assert 'style="' not in text and not re.search(r"(?:src|href)=\"(?!data:|report\.html)", text)
