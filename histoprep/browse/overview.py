"""Counts of a set of tiles: class by class, label by label, group by group. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from histoprep.browse.columns import MISSING, Category, Columns
from histoprep.browse.findings import TileFinding
from histoprep.visible import visible


def class_rows(columns: Columns) -> list[dict[str, Any]]:
    """Return a row a class: pixels, share of all pixels, tiles, core-present tiles, groups, and
    tiles by split.
    """
    shares = columns.shares
    total = int(shares.pixels.sum())
    group, split = columns.categories["group"], columns.categories["split"]
    found = []
    for cls, rows, core, pixels in zip(
        shares.classes, shares.rows, shares.is_core, shares.pixels.tolist(), strict=True
    ):
        groups = np.unique(group.codes[rows])
        found.append(
            {
                "id": cls.id,
                "name": visible(cls.name),
                "colour": cls.colour,
                "pixels": pixels,
                "share": pixels / total if total else 0.0,
                "tiles": len(rows),
                "core_tiles": int(core.sum()),
                "groups": int((groups != MISSING).sum()),
                "splits": _counts(split, rows),
            }
        )
    return found


def pair_table(columns: Columns) -> list[list[int]]:
    """Return how many tiles hold both of two classes, [classes, classes]."""
    rows = columns.shares.rows
    return [
        [len(np.intersect1d(first, second, assume_unique=True)) for second in rows]
        for first in rows
    ]


def label_table(columns: Columns) -> dict[str, Any]:
    """Return image labels by the class of most pixels: tiles of each pair, and names of both."""
    label = columns.categories["label"]
    dominant = np.full(len(columns), MISSING, np.int32)
    best = np.zeros(len(columns), np.float32)
    for place, (rows, shares) in enumerate(
        zip(columns.shares.rows, columns.shares.shares, strict=True)
    ):
        larger = shares > best[rows]
        dominant[rows[larger]] = place
        best[rows[larger]] = shares[larger]
    width = len(columns.shares.classes) + 1
    codes = np.where(label.codes == MISSING, len(label.values), label.codes)
    flat = codes * width + np.where(dominant == MISSING, width - 1, dominant)
    table = np.bincount(flat, minlength=(len(label.values) + 1) * width).reshape(-1, width)
    return {
        "labels": [*({"value": value, "name": visible(value)} for value in label.values), None],
        "counts": table.tolist(),
    }


def group_rows(
    columns: Columns,
    name: str,
    dropped: np.ndarray,
    findings: Sequence[TileFinding],
) -> list[dict[str, Any]]:
    """Return a row a value of a category: tiles, dropped ones, tiles with an error or a warning,
    classes, and a first row for its thumbnail.
    """
    category = columns.categories[name]
    length = len(category.values) + 1
    codes = np.where(category.codes == MISSING, length - 1, category.codes)
    tiles = np.bincount(codes, minlength=length)
    gone = np.bincount(codes[dropped], minlength=length)
    first = np.full(length, -1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    flawed = {severity: np.zeros(len(codes), bool) for severity in ("error", "warning")}
    for finding in findings:
        if finding.severity in flawed:
            flawed[finding.severity][finding.rows] = True
    counts = {
        severity: np.bincount(codes[rows], minlength=length) for severity, rows in flawed.items()
    }
    classes = np.zeros(length, np.int64)
    for rows in columns.shares.rows:
        classes[np.unique(codes[rows])] += 1
    return [
        {
            "value": category.values[code] if code < length - 1 else "",
            "name": visible(category.values[code]) if code < length - 1 else "none",
            "tiles": int(tiles[code]),
            "dropped": int(gone[code]),
            "errors": int(counts["error"][code]),
            "warnings": int(counts["warning"][code]),
            "classes": int(classes[code]),
            "row": int(first[code]),
        }
        for code in range(length)
        if tiles[code]
    ]


def _counts(category: Category, rows: np.ndarray) -> dict[str, int]:
    counts = np.bincount(category.codes[rows] + 1, minlength=len(category.values) + 1)
    return {visible(value): int(counts[code + 1]) for code, value in enumerate(category.values)}
