"""The words that an option can take are listed once, and the command line takes that list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import histoprep
from histoprep.choices import FailOn, ReportFormat, Severity
from histoprep.counting.counts import DIMENSIONS
from histoprep.errors import UsageError
from histoprep.manifest.build import ManifestOptions
from histoprep.report import render

PACKAGE = Path(histoprep.__file__).parent
TRAINER = PACKAGE.parent / "trainer"


def test_no_command_has_a_list_of_its_own() -> None:
    commands = [*(PACKAGE / "cli").glob("*.py"), *(TRAINER / "cli").glob("*.py")]
    assert commands
    for path in commands:
        assert not re.search(r"class \w+\(\w*Enum\)|Literal\[", path.read_text("utf-8")), path


def test_every_severity_can_fail_an_audit() -> None:
    assert [item.severity for item in FailOn] == [*reversed(Severity), None]


def test_severities_are_in_order_of_weight() -> None:
    assert [severity.rank for severity in (Severity.INFO, Severity.WARNING, Severity.ERROR)] == [
        0,
        1,
        2,
    ]


def test_every_report_format_has_a_module() -> None:
    files = {path.stem for path in (PACKAGE / "report").glob("*.py")}
    assert set(ReportFormat) <= files


def test_python_functions_refuse_other_words() -> None:
    with pytest.raises(UsageError, match="auto, hash, file"):
        ManifestOptions(method="solver").validate()
    with pytest.raises(UsageError, match="sarif"):
        render(None, "pdf")  # type: ignore[arg-type]


def test_class_shares_are_broken_down_by_these() -> None:
    assert DIMENSIONS == ("split", "pool", "group")


def test_no_list_of_the_trainer_is_written_twice() -> None:
    lists: dict[str, list[str]] = {}
    for path in TRAINER.rglob("*.py"):
        for text in re.findall(r"Literal\[(\"[^]]*)\]", path.read_text("utf-8")):
            words = sorted(re.findall(r'"([^"]+)"', text))
            if len(words) > 1:
                lists.setdefault(" ".join(words), []).append(str(path.relative_to(TRAINER)))
    own = {words: sorted(set(files)) for words, files in lists.items() if "choices.py" in files}
    assert own and all(files == ["choices.py"] for files in own.values()), own
