"""Curves of training as inline SVG: numbers from metrics.csv, drawn without a style of their
own.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

_WIDTH, _HEIGHT = 560, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 28
_NUM_TICKS = 4


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: (step, value) pairs in order of step; `kind` is its class in the style sheet."""

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]


def read_curves(path: Path, columns: Mapping[str, tuple[str, str]]) -> tuple[Curve, ...]:
    """Return the curves of a metrics.csv: `columns` gives name and kind by column; columns without
    a number are left out.

    A file that is not there gives none.
    """
    try:
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    except OSError:
        return ()
    found = (Curve(name, kind, _points(rows, column)) for column, (name, kind) in columns.items())
    return tuple(curve for curve in found if curve.points)


def _points(
    rows: Sequence[Mapping[str, str | None]], column: str
) -> tuple[tuple[float, float], ...]:
    pairs = ((_number(row.get("step")), _number(row.get(column))) for row in rows)
    return tuple(
        (step, value) for step, value in pairs if math.isfinite(step) and math.isfinite(value)
    )


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def draw_curves(curves: Sequence[Curve], what: str) -> Markup:
    """Return a chart of the curves over the steps, its vertical axis from 0; nothing without
    curves.
    """
    if not curves:
        return Markup("")
    last = max(step for curve in curves for step, _ in curve.points) or 1.0
    top = _round_up(max(value for curve in curves for _, value in curve.points))

    def place(step: float, value: float) -> tuple[float, float]:
        across, up = step / last, min(1.0, max(0.0, value / top))
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (
            _HEIGHT - _TOP - _BOTTOM
        )

    lines = Markup("").join(
        _line(curve, [place(*point) for point in curve.points]) for curve in curves
    )
    shape = Markup('<svg class="curves" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>')
    return shape.format(_WIDTH, _HEIGHT, what, _axes(top, last), lines)


def _axes(top: float, last: float) -> Markup:
    parts = []
    for tick in range(_NUM_TICKS + 1):
        y = _HEIGHT - _BOTTOM - tick / _NUM_TICKS * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(
            Markup('<line class="decade" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                _LEFT, _WIDTH - _RIGHT, y, y
            )
        )
        label = Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>')
        parts.append(label.format(_LEFT - 8, y + 4, f"{top * tick / _NUM_TICKS:.3g}"))
    for share, anchor in ((0.0, "start"), (1.0, "end")):
        x = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        label = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>')
        parts.append(label.format(x, _HEIGHT - 8, anchor, f"step {share * last:,.0f}"))
    return Markup("").join(parts)


def _line(curve: Curve, places: Sequence[tuple[float, float]]) -> Markup:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = Markup("").join(
        Markup('<circle class="{} dot" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(curve.kind, x, y)
        for x, y in places
    )
    line = Markup('<polyline class="{} line" points="{}"><title>{}</title></polyline>').format(
        curve.kind, path, curve.name
    )
    return line + (dots if len(places) <= 12 else Markup(""))


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 2.5, 4, 5, 8, 10 times a power of ten: ticks at quarters of it are
    short numbers.
    """
    if not 0 < value < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        step * power for step in (1, 2, 2.5, 4, 5, 8, 10) if step * power >= value * (1 - 1e-9)
    )
