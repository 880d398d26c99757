"""The page of an evaluation: one HTML file that asks for nothing from outside, in the manner of the
audit's report.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from histoprep import imageio, report
from histoprep.phrases import plural
from histoprep.report import charts
from histoprep.report.wording import number, percent
from histoprep.version import __version__
from histoprep.visible import visible
from trainer.engine.images import colour_mask
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.measured import Measured
from trainer.evaluation.shown import Shown
from trainer.sampling.sheets import class_colours

if TYPE_CHECKING:
    from jinja2 import Template

_HERE = Path(__file__).parent
_TILE_PX = 256
_TITLES = {
    "kid": ("KID", "distance of features; 0 is equal", "below"),
    "fd": ("FD", "distance of 32 principal components; grows as sets get smaller", "below"),
    "faithfulness": ("Faithfulness", "mean IoU with the mask, over that of real tiles", "above"),
    "shares": ("Class shares", "L1 distance of what is read to what the masks say", "below"),
    "spread": ("Spread in a class", "of generated regions, over that of real ones", "inside"),
    "copies": ("Copies", "nearest training tile, over nearest held-out tile", "above"),
}


def render_page(result: Evaluation, real: str, synthetic: str) -> str:
    """Return the page.

    Args:
        result: What was measured.
        real: How the real tiles were named.
        synthetic: How the generated ones were.
    """
    css = "".join(
        path.read_text("utf-8")
        for path in (Path(report.__file__).parent / "report.css", _HERE / "page.css")
    )
    digest = b64encode(sha256(css.encode()).digest()).decode("ascii")
    measures = {**result.measures, "copies": result.copies.measured}
    return _template().render(
        css=Markup(css),
        policy=(
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none';"
            " form-action 'none'"
        ),
        result=result,
        real=real,
        synthetic=synthetic,
        name=Path(synthetic).name or synthetic,
        version=__version__,
        figures=_figures(result),
        rows=[_row(name, measures[name]) for name in _TITLES if name in measures],
        classes=_class_rows(result),
        shown=[_tile(tile, result) for tile in result.shown],
        downstream=_downstream_rows(result.downstream),
        legend=result.label_map.classes if result.label_map else (),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "number": number, "percent": percent}
    environment.globals |= {"swatch": charts.swatch, "plural": plural}
    return environment.get_template("page.html.j2")


def short(value: float | None, digits: int = 2) -> str:
    """Return a number with few digits, `-` for none."""
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def between(low: float, high: float) -> str:
    """Return an interval in words. Ends that are equal come from draws of a single group, or of
    values that are all alike: that says nothing of another group.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return "not known"
    return f"{short(low)} in all draws" if low == high else f"{short(low)} to {short(high)}"


def _figures(result: Evaluation) -> list[tuple[str, str, str]]:
    counts = result.counts
    of_train, of_held_out = counts["real"]["train"], counts["real"]["held_out"]
    kid = result.measures["kid"]
    faithful = result.measures.get("faithfulness")
    more = result.copies.measured.more
    return [
        (
            "Generated tiles",
            number(counts["synthetic"]["tiles"]),
            plural(counts["synthetic"]["groups"], "group"),
        ),
        (
            "Real tiles",
            number(of_train["tiles"] + of_held_out["tiles"]),
            f"{number(of_held_out['tiles'])} held out, {plural(of_held_out['groups'], 'group')}",
        ),
        ("KID", short(kid.value), f"real halves up to {short(kid.floor_high)}"),
        (
            "Faithfulness",
            short(faithful.value) if faithful else "-",
            f"shuffled masks {short(faithful.more['shuffled'])}" if faithful else "not measured",
        ),
        (
            "Copies",
            "-" if result.copies.verdict == "cannot tell" else number(len(result.copied)),
            f"{more['planted_found']} of {more['planted']} planted found",
        ),
        ("Time", f"{result.seconds:,.0f} s", result.features),
    ]


def _row(name: str, measured: Measured) -> dict[str, Any]:
    title, meaning, good = _TITLES[name]
    inside = (
        not measured.is_known
        or (good != "above" and measured.value <= measured.floor_high and good == "below")
        or (good == "above" and measured.value >= measured.floor_low)
        or (
            good == "inside"
            and measured.high >= measured.floor_low
            and measured.low <= measured.floor_high
        )
    )
    return {
        "title": title,
        "meaning": meaning,
        "value": short(measured.value),
        "interval": between(measured.low, measured.high),
        "floor": between(measured.floor_low, measured.floor_high),
        "chart": _range(measured) if measured.is_known else "",
        "tone": "" if inside else "outside",
        "note": _note(name, measured),
    }


def _note(name: str, measured: Measured) -> str:
    more = measured.more
    if name in ("kid", "fd"):
        parts = [
            f"to {label} tiles {short(more[key])}"
            for key, label in (("to_train", "training"), ("to_held_out", "held-out"))
            if more.get(key) is not None
        ]
        size = more.get("size", 0)
        return "; ".join([*parts, f"sets of {size} tiles"] if size else parts)
    if name == "faithfulness":
        ceiling = more.get("ceiling")
        return f"shuffled masks {short(more['shuffled'])}" + (
            "" if ceiling is None else f"; ceiling of the codec {short(ceiling)}"
        )
    if name == "copies":
        return f"a copy lies below {short(more.get('limit'))}"
    return ""


def _range(measured: Measured) -> Markup:
    """Return a bar of the floor with a line for the interval and a dot for the value."""
    ends = [measured.low, measured.high, measured.floor_low, measured.floor_high, measured.value]
    finite = [end for end in ends if np.isfinite(end)]
    least, most = min(0.0, *finite), max(finite)
    span = (most - least) or 1.0

    def place(value: float) -> str:
        return f"{4 + 92 * (value - least) / span:.2f}%"

    def width(low: float, high: float) -> str:
        return f"{max(0.5, 92 * (high - low) / span):.2f}%"

    body = Markup('<rect class="track" x="0" y="5" width="100%" height="14" rx="2"/>')
    body += Markup('<rect class="floor" x="{}" y="5" width="{}" height="14"/>').format(
        place(measured.floor_low), width(measured.floor_low, measured.floor_high)
    )
    if np.isfinite(measured.low):
        body += Markup('<line class="interval" x1="{}" x2="{}" y1="12" y2="12"/>').format(
            place(measured.low), place(measured.high)
        )
    body += Markup('<circle class="value" cx="{}" cy="12" r="4.5"/>').format(place(measured.value))
    shape = (
        '<svg class="range" width="100%" height="24" aria-hidden="true" focusable="false">{}</svg>'
    )
    return Markup(shape).format(body)


def _class_rows(result: Evaluation) -> list[dict[str, Any]]:
    faithful, shares = result.measures.get("faithfulness"), result.measures.get("shares")
    spread = result.measures.get("spread")
    if faithful is None or shares is None or result.label_map is None:
        return []
    rows = []
    for cls in result.label_map.classes:
        found = faithful.more["by_class"].get(cls.name)
        if found is None:
            continue
        share = shares.more["by_class"][cls.name]
        rows.append(
            {
                "cls": cls,
                "counted": cls.name in faithful.more["classes"],
                "iou": short(found["iou"]),
                "real_iou": short(found["real_iou"]),
                "masks": percent(share["masks"]),
                "read": percent(share["generated"]),
                "spread": short(spread.more["by_class"].get(cls.name) if spread else None),
            }
        )
    return rows


def _tile(tile: Shown, result: Evaluation) -> dict[str, Any]:
    colours = class_colours(result.label_map) if result.label_map else {}
    parts = [
        ("mask", None if tile.mask is None else colour_mask(tile.mask, colours), True),
        ("generated", tile.generated, False),
        (
            "read as",
            None if tile.predicted is None else colour_mask(tile.predicted, colours),
            True,
        ),
        ("real", tile.real, False),
    ]
    return {
        "tile_id": tile.tile_id,
        "note": tile.note,
        "parts": [(name, _uri(pixels, exact)) for name, pixels, exact in parts],
    }


def _uri(pixels: np.ndarray | None, exact: bool) -> str:
    if pixels is None:
        return ""
    step = -(-max(pixels.shape[:2]) // _TILE_PX)
    if exact:
        data, kind = imageio.encode_rgb_png(np.ascontiguousarray(pixels[::step, ::step])), "png"
    else:
        small = imageio.shrink_rgb(pixels, _TILE_PX)
        data, kind = imageio.encode_rgb_jpeg(small, 88, "4:4:4"), "jpeg"
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"


def _downstream_rows(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not found:
        return []
    rows = []
    for name in ("segmenter", "classifier"):
        scores = found[name]
        if scores is None:
            continue
        cells = [
            f"{short(scores[key]['value'], 3)} ({short(scores[key]['low'], 3)} to"
            f" {short(scores[key]['high'], 3)})"
            for key in ("real", "synthetic", "both", "both_minus_real")
        ]
        rows.append({"name": name, "measure": scores["measure"], "cells": cells})
    return rows
