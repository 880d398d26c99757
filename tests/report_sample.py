"""A report with every feature in it, for the tests of the formats."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from histoprep.catalogue import all_rules
from histoprep.findings import Mark, finding
from histoprep.report import ClassRow, Report, SplitRow, Status, Summary
from histoprep.report.thumbnails import make_thumbnail

RULES = all_rules()

HOSTILE = (
    "<script>alert(1)</script>.png",
    '"><img src=http://evil.invalid/x.png onerror=alert(1)>.png',
    "' onmouseover='alert(1).png",
    "]]>&lt;&amp;<!--.png",
    "{{ 7 * 7 }}{% raw %}.png",
    "\u202egnp.exe",
    "bell\x07escape\x1b[31mred\x00.png",
    "line\r\n::error file=x::injected\n.png",
    "no-utf8-\udcff\udc80.png",
    "half-\ud800-surrogate.png",
    "noncharacter-\uffff\ufffe\U0001ffff.png",
    "pipe|back`tick*star_[link](http://evil.invalid).png",
    "comma, colon: 100% café.png",
    "=cmd|' /C calc'!A0.png",
    "a" * 300 + ".png",
    "naïve 組織 תמונה.png",
)


@cache
def make_report() -> Report:
    """Return a report with every feature in it; names are as bad as a file system allows."""
    rng = np.random.default_rng(7)
    classes = [
        ClassRow(0, "unknown", "#d9d4cc", 700_000, 90, 90),
        ClassRow(1, "tumour <b>bold</b>", "#c8385a", 290_000, 40, 38),
        ClassRow(2, "rim | `thin`", "red; } body { display: none", 7, 30, 2),
        ClassRow(3, "absent", "#00ff00", 0, 0, 0),
    ]
    found = [
        finding(
            RULES["HP101"],
            [(name, f"seen {name}") for name in HOSTILE[:8]],
            denominator=246_755,
            unit="masks",
        ),
        finding(
            RULES["HP103"],
            [(name, f"seen {name}") for name in HOSTILE[8:]],
            denominator=246_755,
            unit="files",
        ),
        finding(
            RULES["HP201"],
            [("a/b c.jpg", "12 bytes missing")],
            denominator=246_755,
            unit="images",
            subcode="truncated",
            where=HOSTILE[0],
        ),
        finding(
            RULES["HP702"], [("case <i>7</i>", "train 3, test 1")], denominator=12, unit="groups"
        ),
        finding(
            RULES["HP412"],
            [(f"m{i:05}.png", "16 bit") for i in range(1_244)],
            denominator=246_755,
            unit="masks",
        ),
        replace(
            finding(RULES["HP303"], [("glass.jpg", "97 % glass")], denominator=9, unit="images"),
            known=True,
        ),
        finding(
            RULES["HP406"],
            [(f"z{i:06}.png", "") for i in range(156_024)],
            denominator=246_755,
            unit="masks",
        ),
        finding(RULES["HP108"], [], denominator=0, unit="counts"),
    ]
    image = rng.integers(0, 255, (64, 48, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, (64, 48))
    drawn = {
        (HOSTILE[0], Mark.NONE): make_thumbnail(image, labels, classes, caption=HOSTILE[1]),
        (HOSTILE[1], Mark.NONE): make_thumbnail(None, labels, classes),
        (HOSTILE[2], Mark.NONE): make_thumbnail(image, None, classes),
    }
    return Report(
        root="/data/<tiles> & 100%\u202e",
        workspace="/data/<tiles>.histoprep",
        tool_version="1.2.3",
        rules=tuple(RULES.values()),
        created="2026-02-11T09:14:03+01:00",
        status=Status.FAILED,
        summary=Summary(402_779, 246_755, 246_750, 5, 156_024, 0, 402_784, 17, 12.5),
        findings=found,
        options={
            "ignore": ["HP304"],
            "map": HOSTILE[0],
            "sample": None,
            "workers": 2,
            "odd": float("nan"),
            "quick": False,
        },
        classes=classes,
        splits=[
            SplitRow(HOSTILE[0], 90, 40, 50, None, {0: 10, 1: 30}),
            SplitRow("val", 9, 4, 5, 3, {}),
        ],
        thumbnails=drawn,
    )
