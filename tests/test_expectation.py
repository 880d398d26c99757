"""The expectation file: strict, and refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from histoprep.auditing.expectation import read_expectation
from histoprep.errors import LabelMapError, UsageError


def written(folder: Path, text: str) -> Path:
    path = folder / "expected.yml"
    path.write_text(text)
    return path


def test_counts_and_labels(tmp_path: Path) -> None:
    text = "images: 246750   # all\nmasks: 246755\norphan_masks: 5\nlabels:\n  3: 5120\n  0: 7\n"
    assert read_expectation(written(tmp_path, text)) == {
        "images": 246_750,
        "masks": 246_755,
        "orphan_masks": 5,
        "labels": {3: 5120, 0: 7},
    }


@pytest.mark.parametrize(
    "text",
    [
        "tiles: 3",
        "images: all",
        "images: 010",
        "images: 1\nimages: 2",
        "labels: 3",
        "labels:\n  3: x",
        "labels:\n  3: 1\n  3: 2",
        "- 3",
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_expectation(written(tmp_path, text))
    assert "expected.yml" in str(refused.value)
    assert not isinstance(refused.value, LabelMapError)
    assert "label map" not in str(refused.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expectation file"):
        read_expectation(tmp_path / "absent.yml")
