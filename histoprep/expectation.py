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
from histoprep.errors import UsageError
from histoprep.label_yaml import as_block, as_text, read_block, whole_number

_NAMES = tuple(field.name for field in fields(Amounts))


def read_expectation(path: Path) -> dict[str, Any]:
    """Return the declared counts by name, `labels` a dict from label id to tiles; raises UsageError for anything else."""
    expected: dict[str, Any] = {}
    for key, value in read_block(path).items:
        if key.value == "labels":
            labels = as_block(value, path, "labels").items
            expected["labels"] = {whole_number(label, path, "a label id"): whole_number(as_text(n, path, "a count"), path, "a count") for label, n in labels}
        elif key.value in _NAMES:
            expected[key.value] = whole_number(as_text(value, path, key.value), path, key.value)
        else:
            raise UsageError("the expectation file declares an unknown count", path=path, seen=key.value, expected=", ".join((*_NAMES, "labels")))
    return expected
