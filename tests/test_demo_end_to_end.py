"""The whole way as a stranger has it: our wheel in a fresh environment, in a folder of its own,
without a network.

torch and the other packages are those of the tests, linked into the fresh environment; histoprep
and trainer come from the wheel.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from html import unescape
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TOOLKIT = ("audit", "repair", "remap", "manifest", "stats", "shard")
TRAINER = ("codec", "encode", "fit", "sample")
OURS = re.compile(r"(?i)_editable_impl_histoprep|histoprep|trainer$|__pycache__")
_TIMEOUT_S = 840  # of one command, on a machine that does many other things
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = ("--tiles", "48", "--tile-px", "64", "--codec-steps", "2", "--fit-steps", "2")


def offline() -> list[str]:
    """Return a command in front of others that takes the network away, nothing where the system
    does not allow it.
    """
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build our wheel from the files git would ship, without a network when the build tool is
    here.
    """
    folder = tmp_path_factory.mktemp("wheel")
    alone = ["--no-build-isolation"] if find_spec("hatchling") else []
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        *alone,
        "--wheel-dir",
        str(folder),
        str(REPOSITORY),
    ]
    subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    [made] = folder.glob("*.whl")
    return made


def fresh_environment(folder: Path, wheel: Path, without: tuple[str, ...] = ()) -> Path:
    """Return the bin folder of a new environment: the test environment's packages but ours and
    those named, and our wheel.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    linked = folder / "linked"
    linked.mkdir()
    for place in dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")):
        for path in Path(place).iterdir():
            name = path.name.split("-")[0]
            if (
                not OURS.match(path.name)
                and name not in without
                and not (linked / path.name).exists()
            ):
                (linked / path.name).symlink_to(path)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "linked.pth").write_text(f"{linked}\n")
    python = folder / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(install, check=True, timeout=_TIMEOUT_S)
    return folder / "bin"


def run(programs: Path, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Return the finished command of the environment, in `folder`, cut off from the network."""
    keep = {
        name: value
        for name, value in os.environ.items()
        if name in ("LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
    }
    environment = {
        **keep,
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    command = [*offline(), *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


class _Page(HTMLParser):
    """Collects what a page would load, and its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.add(tag)
        self.ids += [str(named["id"])] if tag == "h2" else []
        self.loads += [
            str(named[name]) for name in ("src", "srcset", "data", "action") if name in named
        ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> tuple[Path, Path]:
    """Return the programs of a fresh environment with our wheel, and an empty folder to work in."""
    return fresh_environment(
        tmp_path_factory.mktemp("environment") / "venv", wheel
    ), tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def first(place: tuple[Path, Path]) -> subprocess.CompletedProcess[str]:
    """Return the first run of the demo."""
    programs, folder = place
    return run(programs, ["histoprep", "demo", "tiles", *SMALL], folder)


def test_what_is_imported_is_the_wheel(place: tuple[Path, Path]) -> None:
    programs, folder = place
    code = (
        "import histoprep, trainer, torch; print(histoprep.__file__, trainer.__file__, sep='\\n')"
    )
    done = run(programs, ["python", "-c", code], folder)
    assert done.returncode == 0, done.stderr
    inside = programs.parent.resolve() / "lib"
    assert all(Path(line).resolve().is_relative_to(inside) for line in done.stdout.split())


def test_the_network_is_cut(place: tuple[Path, Path]) -> None:
    if not offline():
        pytest.skip("this system does not let us take the network away")
    done = run(
        place[0],
        ["python", "-c", "import socket; print([name for _, name in socket.if_nameindex()])"],
        place[1],
    )
    assert done.stdout.strip() == "['lo']", "a loopback alone, and nobody has brought it up"


def test_every_stage_runs_and_is_shown(
    first: subprocess.CompletedProcess[str], place: tuple[Path, Path]
) -> None:
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    work = place[1] / "tiles.histoprep"
    noted = json.loads((work / "demo-stages.json").read_text())
    assert set(noted) == {*TOOLKIT, *TRAINER}
    shown = [line[2:] for line in first.stdout.splitlines() if line.startswith("$ ")]
    assert shown == [noted[name]["command"] for name in (*TOOLKIT, *TRAINER)]
    assert all(command.split()[0] in ("histoprep", "trainer") for command in shown)
    assert len(list((work / "synthetic" / "images").rglob("*.png"))) >= 3


def test_the_page_shows_every_stage_and_asks_for_nothing(
    first: subprocess.CompletedProcess[str], place: tuple[Path, Path]
) -> None:
    assert first.returncode == 0
    text = (place[1] / "tiles.histoprep" / "demo.html").read_text()
    page = _Page(text)
    assert page.ids == [
        "steps",
        "found",
        "repaired",
        "classes",
        "split",
        "codec",
        "model",
        "generated",
    ]
    assert len(page.loads) > 20 and all(load.startswith("data:image/") for load in page.loads)
    assert "default-src 'none'" in unescape(text) and not page.tags & {
        "script",
        "iframe",
        "object",
        "form",
    }
    assert not re.search(r"https?://", text)


def test_a_second_run_trains_nothing_again(
    first: subprocess.CompletedProcess[str], place: tuple[Path, Path]
) -> None:
    assert first.returncode == 0
    programs, folder = place
    work = folder / "tiles.histoprep"
    kept = [
        work / "manifest.parquet",
        *work.glob("*/finished.json"),
        *work.glob("synthetic/images/**/*.png"),
    ]
    before = {path: path.stat().st_mtime_ns for path in kept}
    again = run(programs, ["histoprep", "demo", "tiles", *SMALL], folder)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    assert again.stdout.count("done before") == len(TOOLKIT) - 2 + len(TRAINER), (
        "audit and repair look again, the others are done"
    )
    assert before == {path: path.stat().st_mtime_ns for path in kept}


def test_the_commands_work_as_they_are_printed(
    first: subprocess.CompletedProcess[str], place: tuple[Path, Path]
) -> None:
    """A shell runs the last two commands as printed: nothing is left to do, and they say so."""
    assert first.returncode == 0
    shown = [line[2:] for line in first.stdout.splitlines() if line.startswith("$ ")]
    done = run(place[0], ["sh", "-c", shown[-1]], place[1])
    assert done.returncode == 0, done.stderr
    assert "0 images" in done.stdout


def test_without_torch_the_demo_ends_after_the_toolkit_and_says_how_to_go_on(
    tmp_path: Path, wheel: Path
) -> None:
    programs = fresh_environment(tmp_path / "venv", wheel, without=("torch",))
    (tmp_path / "work").mkdir()
    done = run(programs, ["histoprep", "demo", "tiles", *SMALL], tmp_path / "work")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "torch not installed" in done.stdout and "[train]" in done.stdout
    work = tmp_path / "work" / "tiles.histoprep"
    assert set(json.loads((work / "demo-stages.json").read_text())) == set(TOOLKIT)
    assert _Page((work / "demo.html").read_text()).ids == [
        "steps",
        "found",
        "repaired",
        "classes",
        "split",
    ]
