"""What a corrected copy came to: the sums over its ledger, and over what a trial run would do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep.fixing.operations.base import MASK
from histoprep.fixing.plan import TABLE
from histoprep.mask_tree.task import WRITTEN
from histoprep.schemas.ledgers import LEDGER

NUM_EXAMPLES = 3
_NUM_KEPT = 1000
_COLUMNS = (
    "path", "output_path", "role", "how", "operations", "left", "changed_names", "label_ids",
    "output_label_ids", "status", "reason",
)  # fmt: skip


@dataclass(slots=True)
class FixCounts:
    """What was done, or would be.

    Attributes:
        num_files: Files that were looked at.
        done: Files by operation.
        examples: The first files of each operation.
        left: What was to be done and was not, by operation and reason: the number of files.
        left_examples: A file of each.
        how: Files by how they came into the tree.
        changed_names: Names of files that were changed, by table.
        copied_tables: Tables from elsewhere of which the tree has a copy with new names: the path
            there by the path here.
        num_other_labels: Masks that hold other labels than before.
        failed: Files without one in the tree, and why: the first 1,000.
        num_failed: How many these are.
        num_stale: Files of an earlier run that a trial run found and a run would remove.
    """

    num_files: int = 0
    done: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)
    left_examples: dict[str, str] = field(default_factory=dict)
    how: Counter[str] = field(default_factory=Counter)
    changed_names: dict[str, int] = field(default_factory=dict)
    copied_tables: dict[str, str] = field(default_factory=dict)
    num_other_labels: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    num_failed: int = 0
    num_stale: int = 0

    def add(self, ledger: pa.Table) -> None:
        """Count a piece of the ledger."""
        for row in ledger.select(_COLUMNS).to_pylist():
            self.add_row(row)

    def add_row(self, row: dict[str, Any]) -> None:
        """Count a row of the ledger."""
        self.num_files += 1
        for name in row["operations"] or ():
            self.done[name] += 1
            examples = self.examples.setdefault(name, [])
            if len(examples) < NUM_EXAMPLES:
                examples.append(row["path"])
        for reason in row["left"] or ():
            self.left[reason] += 1
            self.left_examples.setdefault(reason, row["path"])
        if row["status"] != WRITTEN:
            self.num_failed += 1
            if len(self.failed) < _NUM_KEPT:
                self.failed.append((row["path"], row["reason"]))
            return
        self.how[row["how"]] += 1
        if row["changed_names"]:
            self.changed_names[row["path"]] = row["changed_names"]
        if row["role"] == TABLE and row["path"].startswith("/"):
            self.copied_tables[row["path"]] = row["output_path"]
        if row["role"] == MASK and row["label_ids"] is not None:
            self.num_other_labels += [*row["label_ids"]] != [*(row["output_label_ids"] or ())]


@dataclass(frozen=True, slots=True)
class FixResult:
    """What a corrected copy came to.

    Attributes:
        out: Folder of the tree.
        counts: What was done.
        num_stale_removed: Files of an earlier run that were removed.
        unexpected: Files in the tree that fix did not write: the first few.
        up_to_date: Whether nothing had to be done.
    """

    out: Path
    counts: FixCounts
    num_stale_removed: int = 0
    unexpected: tuple[str, ...] = ()
    up_to_date: bool = False

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.out / LEDGER
