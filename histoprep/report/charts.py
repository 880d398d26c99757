"""Bars as inline SVG, one a table row, so that numbers stay text and widths follow the page.

Lengths are percentages of the element; colours are attributes, never styles, since
the page allows no inline style.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from histoprep.report import ClassRow
from histoprep.report.thumbnails import checked_colour
from histoprep.report.wording import percent

_LOG_DECADES = 6  # the logarithmic scale runs from 0.0001 % to 100 %
_SVG = (
    '<svg class="{kind}" width="{width}" height="{height}" aria-hidden="true"'
    ' focusable="false">{body}</svg>'
)


def swatch(colour: str) -> Markup:
    """Return a small square of the colour."""
    square = Markup(
        '<rect class="edge" x="0.5" y="0.5" width="11" height="11" rx="2.5" fill="{}"/>'
    ).format(checked_colour(colour))
    return _svg("swatch", 12, square, width="12")


def bar(share: float, colour: str | None = None) -> Markup:
    """Return a bar of `share` in [0, 1] of the width, at least a hairline when there is
    anything.
    """
    return _svg("bar", 12, _track() + _rect(share, colour))


def nested_bars(outer: float, inner: float, colour: str) -> Markup:
    """Return a pale bar of `outer` with a full one of `inner` in it: present and core-present."""
    pale = Markup(
        '<rect class="pale" x="0" y="0" width="{}" height="12" rx="2" fill="{}"/>'
    ).format(_length(outer), checked_colour(colour))
    return _svg("bar", 12, _track() + pale + _rect(inner, colour))


def log_position(share: float) -> float:
    """Return where a share stands on the logarithmic scale, in [0, 1]: 0.0001 % and less at 0, 100
    % at 1.
    """
    from math import log10

    return 0.0 if share <= 0 else min(1.0, max(0.0, 1 + log10(share) / _LOG_DECADES))


def log_dot(share: float, colour: str) -> Markup:
    """Return a dot on a logarithmic scale with a line a decade; the scale alone when the share is
    0.
    """
    lines = Markup("").join(
        Markup('<line class="decade" x1="{0}" x2="{0}" y1="0" y2="20"/>').format(
            _length(step / _LOG_DECADES)
        )
        for step in range(_LOG_DECADES + 1)
    )
    if share <= 0:
        return _svg("dots", 20, lines)
    place = _length(log_position(share))
    stem = Markup('<line class="stem" x1="0" x2="{}" y1="10" y2="10"/>').format(place)
    dot = Markup('<circle class="edge" cx="{}" cy="10" r="4.5" fill="{}"/>').format(
        place, checked_colour(colour)
    )
    return _svg("dots", 20, lines + stem + dot)


def log_axis() -> Markup:
    """Return the labels of the logarithmic scale, for the head of its column."""
    labels = []
    for step in range(0, _LOG_DECADES + 1, 2):
        anchor = "start" if step == 0 else "end" if step == _LOG_DECADES else "middle"
        text = f"{10.0 ** (step - _LOG_DECADES + 2):g}{' %' if step == _LOG_DECADES else ''}"
        shape = Markup('<text class="tick {0}" x="{1}" y="11" text-anchor="{0}">{2}</text>')
        labels.append(shape.format(anchor, _length(step / _LOG_DECADES), text))
    return _svg("dots", 14, Markup("").join(labels))


def stacked_bar(pixels: Mapping[int, int], classes: Sequence[ClassRow]) -> Markup:
    """Return one bar cut into the shares of the classes, in their order, with a tooltip a part."""
    total = sum(pixels.get(row.id, 0) for row in classes)
    parts, start = [], 0.0
    for row in classes:
        share = pixels.get(row.id, 0) / total if total else 0.0
        if share:
            shape = (
                '<rect x="{}" y="0" width="{}" height="16" fill="{}"><title>{}: {}</title></rect>'
            )
            parts.append(
                Markup(shape).format(
                    _length(start),
                    _length(share),
                    checked_colour(row.colour),
                    row.name,
                    percent(share),
                )
            )
        start += share
    return _svg("stack", 16, Markup("").join(parts))


def share_of(values: Iterable[int]) -> list[float]:
    """Return each value's share of their sum, zeros when the sum is 0."""
    listed = list(values)
    total = sum(listed)
    return [value / total if total else 0.0 for value in listed]


def _track() -> Markup:
    return Markup('<rect class="track" x="0" y="0" width="100%" height="12" rx="2"/>')


def _rect(share: float, colour: str | None) -> Markup:
    if share <= 0:
        return Markup("")
    fill = Markup(' fill="{}"').format(checked_colour(colour)) if colour else Markup("")
    # A rare class still shows: two hundredths of a percent would be less than a pixel.
    return Markup('<rect class="fill" x="0" y="0" width="{}" height="12" rx="2"{}/>').format(
        _length(max(share, 0.004)), fill
    )


def _length(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.3f}%"


def _svg(kind: str, height: int, body: Markup, width: str = "100%") -> Markup:
    return Markup(_SVG).format(kind=kind, width=width, height=height, body=body)
