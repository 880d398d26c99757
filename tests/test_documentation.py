"""README.md and docs/ are true: their tables are what the code says, and their commands run."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from documentation import PAGES, PARTS, README, ROOT, commands_in, renewed
from PIL import Image

from histoprep.demo import make_demo
from histoprep.labels import load_label_map

TEXTS = {page: page.read_text("utf-8") for page in PAGES}
TEXT = "\n".join(TEXTS.values())
# Exit codes that the planted defects of the demo lead to.
EXPECTED_CODES = {
    "verify": {0},
    "audit": {1},
    "repair": {0},
    "fix": {0},
    "map": {0},
    "remap": {0},
    "manifest": {3},
    "stats": {0},
    "explain": {0},
    "collect": {0},
    "shard": {0},
    "export": {0},
}


def settings(*changes: str) -> list[str]:
    """--set for each change."""
    return [word for change in changes for word in ("--set", change)]


# Enough training for a test of the commands.
SHORT = settings("duration.steps=2", "batch_size=2")


def run_cli(
    arguments: list[str], folder: Path, program: str = "histoprep"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"from {program}.cli import main; main()", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("readme")
    (parent / "more_tiles").mkdir()
    return make_demo(parent / "demo", num_tiles=48, tile_px=64).folder


def test_generated_parts_are_up_to_date() -> None:
    assert set(re.findall(r"<!-- generated: (.+?) -->", TEXT)) == set(PARTS)
    for page, text in TEXTS.items():
        assert renewed(text) == text, f"{page.name}: run make docs"


def test_the_readme_is_short() -> None:
    assert len(TEXTS[README].splitlines()) < 150


def test_every_page_is_in_the_navigation_and_here() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("nav:")[2]
    assert set(re.findall(r"[\w-]+\.md", navigation)) == pages
    assert {page.name for page in PAGES} - {"README.md"} == pages


def test_links_between_pages_lead_somewhere() -> None:
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
def test_every_command_runs_as_printed(data: Path) -> None:
    commands = list(dict.fromkeys(commands_in(TEXT)))
    assert len(commands) >= 18
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
        if "s3://" in command:
            continue  # test_remote runs this one on a real S3 server
        if words[1] == "import":
            continue  # run by import_documentation.py, on sources that it makes
        arguments = ["--part", "1/1"] if words[1:3] == ["audit", "--part"] else words[2:]
        if words[1] == "remap":
            # The demo has a planted value that no map lists, which the tour would stop at.
            assert run_cli(words[1:], data).returncode == 2
            arguments += ["--on-unmapped", "unknown"]
        done = run_cli([words[1], *arguments], data)
        expected = {0} if "--part" in arguments else EXPECTED_CODES[words[1]]
        assert done.returncode in expected, f"{command}\n{done.stdout}\n{done.stderr}"


def run_block(word: str, folder: Path, changes: dict[str, list[str]]) -> None:
    """Run the lines of the block of commands that names `word`; `changes` are options that make a
    command small, by its name.
    """
    [block] = [item for item in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) if word in item]
    for line in block.splitlines():
        program, name, *arguments = shlex.split(line)
        done = run_cli([name, *arguments, *changes.get(name, [])], folder, program)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_commands_of_the_classifier_run(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for split, label, number in itertools.product(
        ("train", "test"), ("normal", "tumour"), range(5)
    ):
        path = tmp_path / "tiles" / split / label / f"{split}_{label}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (224, 224, 3), np.uint8)).save(path)
    (tmp_path / "new_tiles").mkdir()
    for path in (tmp_path / "tiles" / "test" / "normal").iterdir():
        (tmp_path / "new_tiles" / path.name).hardlink_to(path)
    run_block(
        "diffmic-224",
        tmp_path,
        {"fit": [*SHORT, *settings("guidance.duration.steps=2", "data.num_workers=0")]},
    )
    assert (tmp_path / "runs" / "diffmic" / "predictions" / "predictions.csv").exists()


@pytest.mark.slow
def test_the_commands_of_the_published_configuration_run(
    data: Path, shared_data: Path, tmp_path: Path
) -> None:
    """As printed but for the size of tiles and network, and a codec that is here instead of on a
    hub.
    """
    done = run_cli(
        [
            "manifest",
            str(data),
            "--map",
            "label_map_5.yml",
            "--out",
            str(tmp_path / "manifest.parquet"),
        ],
        data,
    )
    assert done.returncode == 3, done.stderr  # 3: the demo has planted defects
    assert run_cli(["shard", "manifest.parquet", "--out", "shards"], tmp_path).returncode == 0
    small = settings(
        "model.dim=8", "data.image_size=64", "data.num_workers=0", "compile=false", "precision=fp32"
    )
    codec = [
        "--codec",
        str(shared_data / "taesd_diffusers" / "taesd"),
        "--image-size",
        "64",
        "--num-workers",
        "0",
    ]
    run_block(
        "reference-512-class",
        tmp_path,
        {"encode": codec, "fit": [*SHORT, *small], "sample": ["--steps", "2"]},
    )
    assert (tmp_path / "synthetic.histoprep" / "manifest.parquet").exists()


def test_the_python_example_runs(data: Path) -> None:
    [code] = set(re.findall(r"```python\n(import histoprep\n.*?)```", TEXT, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=data.parent,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error HP101 5" in done.stdout


def test_the_label_map_example_loads(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(name: my_map.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "my_map.yml"
    path.write_text(example)
    label_map = load_label_map(path)
    raw = yaml.safe_load(example)
    assert {source.id: source.name for source in label_map.sources} == raw["sources"]
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


def test_the_api_page_has_every_public_name() -> None:
    import histoprep

    page = TEXTS[ROOT / "docs" / "api.md"]
    public = set(histoprep.__all__) - {"__version__", "audit"}
    assert {f"::: histoprep.{name}" for name in public} <= set(page.splitlines())
