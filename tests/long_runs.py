"""Long runs of tests in parts that go on where they stopped: `--part 2/5 --progress FILE`.

FILE lists the tests that passed, one a line, below the digest of the code they passed with; with
other code the list begins again.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from histoprep.digests import hash_text

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of long runs."""
    group = parser.getgroup("long runs")
    group.addoption("--part", default="1/1", help="run part I of N: I/N")
    group.addoption("--progress", default=None, help="file of the tests that passed already")


def part_of(text: str) -> tuple[int, int]:
    """Return (i, n) of a text such as 2/5; raises UsageError for other texts."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise pytest.UsageError(f"--part {text}: expected I/N with 1 <= I <= N, such as 2/5")
    return number, count


def code_digest() -> str:
    """Return a digest of all Python files of the packages and of the tests."""
    files = sorted(
        path for name in ("histoprep", "trainer", "tests") for path in (ROOT / name).rglob("*.py")
    )
    text = "\0".join(f"{path.relative_to(ROOT)}\0{path.read_text('utf-8')}" for path in files)
    return f"code {hash_text(text):016x}"


def read_passed(path: Path, code: str) -> set[str]:
    """Return the tests that passed with this code."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return set(lines[1:]) if lines[:1] == [code] else set()


class LongRun:
    """Chooses the tests of a part that have not passed yet, and notes those that do."""

    def __init__(self, config: pytest.Config) -> None:
        """Read the options; the list is begun again when the code is another."""
        self.number, self.count = part_of(config.option.part)
        self.path = Path(config.option.progress) if config.option.progress else None
        self.notes = self.path is not None and not hasattr(config, "workerinput")
        self.passed: set[str] = set()
        if self.path is not None:
            code = code_digest()
            self.passed = read_passed(self.path, code)
            if self.notes and not self.passed:
                self.path.write_text(f"{code}\n", "utf-8")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out other parts and what passed already."""
        chosen = sorted({item.nodeid for item in items})[self.number - 1 :: self.count]
        due = set(chosen) - self.passed
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in due])
        items[:] = [item for item in items if item.nodeid in due]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that passed, at once."""
        if self.path is not None and self.notes and report.when == "call" and report.passed:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(f"{report.nodeid}\n")


def pytest_configure(config: pytest.Config) -> None:
    """Take part where one of the options is used."""
    if config.option.part != "1/1" or config.option.progress:
        config.pluginmanager.register(LongRun(config), "long-run")
