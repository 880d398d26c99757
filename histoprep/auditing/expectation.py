"""The expectation file: how many files and labels a data set should have.

images: 246750
masks: 246755
pairs: 246750
orphan_masks: 5
zero_masks: 156024
labels:
  3: 5120        # tiles that hold label 3
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from histoprep.checks import Amounts
from histoprep.errors import LabelMapError, UsageError
from histoprep.labels.strict_yaml import YamlTable, as_block, as_text, read_block, whole_number

_NAMES = tuple(field.name for field in fields(Amounts))


def read_expectation(path: Path) -> dict[str, Any]:
    """Return the declared counts by name, `labels` a dict from label id to tiles; raises UsageError
    for anything else.
    """
    try:
        return _read(path)
    except LabelMapError as error:
        # The strict YAML reader was made for label maps and speaks of them.
        what = error.what.replace("label map", "expectation file")
        raise UsageError(
            what, path=error.path, seen=error.seen, expected=error.expected, hint=error.hint
        ) from error


def _read(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = {}
    for key, value in read_block(path).items:
        if key.value in expected:
            raise UsageError(
                "the expectation file declares a count twice",
                path=path,
                seen=key.value,
                hint="keep one line",
            )
        if key.value == "labels":
            expected["labels"] = _read_labels(as_block(value, path, "labels"), path)
        elif key.value in _NAMES:
            expected[key.value] = whole_number(as_text(value, path, key.value), path, key.value)
        else:
            raise UsageError(
                "the expectation file declares an unknown count",
                path=path,
                seen=key.value,
                expected=", ".join((*_NAMES, "labels")),
            )
    return expected


def _read_labels(block: YamlTable, path: Path) -> dict[int, int]:
    labels: dict[int, int] = {}
    for key, value in block.items:
        label = whole_number(key, path, "a label id")
        if label in labels:
            raise UsageError(
                "the expectation file declares a label twice",
                path=path,
                seen=label,
                hint="keep one line",
            )
        labels[label] = whole_number(as_text(value, path, "a count"), path, "a count")
    return labels
