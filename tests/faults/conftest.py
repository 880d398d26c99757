"""Fixtures of the fault tests: the zygote, a small data set, strace."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.running import Stage, Undisturbeds, Zygote
from histoprep.demo import make_demo


@pytest.fixture(scope="session")
def strace() -> None:
    """Skip where processes cannot be traced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (apt-get install strace)")
    if subprocess.run(
        ["strace", "-o", "/dev/null", "true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("strace may not trace here (ptrace is not permitted)")


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Yield the process that runs commands."""
    started = Zygote(tmp_path_factory.mktemp("zygote"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 48 tiles with planted defects; tests must not change it."""
    root = tmp_path_factory.mktemp("data") / "demo"
    make_demo(root, num_tiles=48, tile_px=64)
    shutil.rmtree(root.with_name("demo.histoprep"))
    return root


@pytest.fixture
def stage(demo: Path, tmp_path: Path) -> Stage:
    """Return the data set with an empty workspace of its own."""
    return Stage(demo, tmp_path / "workspace")


@pytest.fixture(scope="session")
def undisturbed(
    zygote: Zygote, demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbeds:
    """Return how commands end when nothing goes wrong."""
    return Undisturbeds(zygote, demo, tmp_path_factory.mktemp("undisturbed"))
