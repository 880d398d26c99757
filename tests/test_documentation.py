"""README.md is true: its tables are what the code says, and its commands run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documentation import PARTS, README, ROOT, commands_in, renewed

from histoprep.demo import make_demo
from histoprep.labels import load_label_map

TEXT = README.read_text("utf-8")
# Exit codes that the planted defects of the demo lead to.
EXPECTED_CODES = {"audit": {1}, "repair": {0}, "remap": {0}, "manifest": {3}, "stats": {0}, "explain": {0}, "collect": {0}, "shard": {0}}
# Enough training for a test of the commands.
SHORT = ["--set", "duration.steps=2", "--set", "validation.num_tiles=4", "--set", "batch_size=2"]


def run_cli(arguments: list[str], folder: Path, program: str = "histoprep") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"from {program}.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("readme")
    (parent / "more_tiles").mkdir()
    return make_demo(parent / "demo", num_tiles=48, tile_px=64).folder


def test_generated_parts_are_up_to_date() -> None:
    assert set(re.findall(r"<!-- generated: (.+?) -->", TEXT)) == set(PARTS)
    assert renewed(TEXT) == TEXT, "run: make docs"


def test_every_command_runs_as_printed(data: Path) -> None:
    commands = commands_in(TEXT)
    assert len(commands) >= 14
    for command in commands:
        words = shlex.split(command)
        if words[0] == "trainer":
            done = run_cli([*words[1:], *(SHORT if words[1] == "fit" else [])], data, "trainer")
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            continue
        assert words[0] == "histoprep"
        if words[-1] == "../synthetic":
            assert run_cli(words[1:], data).returncode in {0, 1}
            continue
        if "dask" in words:
            continue  # test_dask runs this one on a real scheduler
        arguments = ["--part", "1/1"] if words[1:3] == ["audit", "--part"] else words[2:]
        if words[1] == "remap":
            # The demo has a planted value that no map lists, which the tour would stop at.
            assert run_cli(words[1:], data).returncode == 2
            arguments += ["--on-unmapped", "unknown"]
        done = run_cli([words[1], *arguments], data)
        expected = {0} if "--part" in arguments else EXPECTED_CODES[words[1]]
        assert done.returncode in expected, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_python_example_runs(data: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code[0]], cwd=data.parent, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "error HP101 5" in done.stdout


def test_the_label_map_example_loads(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "my_map.yml"
    path.write_text(example)
    label_map = load_label_map(path)
    raw = yaml.safe_load(example)
    assert {one.id: one.name for one in label_map.sources} == raw["sources"]
    assert dict(label_map.mapping) == {0: 0, 1: 1, 2: 2, 3: 2}


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)|`make (\w+)`", TEXT, re.MULTILINE)):
        name = "".join(target)
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_every_command_has_help() -> None:
    from histoprep.cli import COMMANDS
    from trainer.cli import COMMANDS as TRAINER_COMMANDS

    for program, commands in (("histoprep", COMMANDS), ("trainer", TRAINER_COMMANDS)):
        for name in commands:
            done = run_cli([name, "--help"], Path(), program)
            assert done.returncode == 0, done.stderr
            assert "Usage" in done.stdout
