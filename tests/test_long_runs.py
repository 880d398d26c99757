"""Long runs: every test is in one part, and what passed is not run again until the code changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from long_runs import part_of

TESTS = Path(__file__).parent
CONFTEST = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from long_runs import pytest_addoption, pytest_configure
"""
CASES = """
import pathlib, pytest

@pytest.mark.parametrize("number", range(7))
def test_case(number):
    with pathlib.Path("ran").open("a") as stream:
        stream.write(f"{number}\\n")
    assert number != 3 or pathlib.Path("repaired").exists()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_cases.py").write_text(CASES)
    return tmp_path


def ran(folder: Path, *arguments: str) -> list[int]:
    """Run the cases and return which ones ran."""
    (folder / "ran").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=300)
    record = folder / "ran"
    return sorted(map(int, record.read_text().split())) if record.exists() else []


@pytest.mark.slow
def test_every_case_is_in_one_part(folder: Path) -> None:
    parts = [ran(folder, "--part", f"{number}/3") for number in (1, 2, 3)]
    assert sorted(number for part in parts for number in part) == list(range(7))
    assert all(2 <= len(part) <= 3 for part in parts)


@pytest.mark.slow
def test_a_run_goes_on_with_what_has_not_passed(folder: Path) -> None:
    progress = ("--progress", "passed")
    assert ran(folder, "-x", *progress) == [0, 1, 2, 3]
    assert ran(folder, *progress) == [3, 4, 5, 6]
    (folder / "repaired").touch()
    assert ran(folder, *progress) == [3]
    assert ran(folder, *progress) == []
    lines = (folder / "passed").read_text().splitlines()
    (folder / "passed").write_text("\n".join(["code 0", *lines[1:]]))
    assert ran(folder, *progress) == list(range(7))


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1", "1/0", "-1/2"])
def test_odd_parts_are_refused(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="I/N"):
        part_of(text)
