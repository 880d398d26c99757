"""The class share plot: raw labels and, beside them, the classes of the label map."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from histoprep.counting import Stats
from histoprep.figures import plain_text
from histoprep.labels import UNMAPPED
from histoprep.names import to_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_ROW_IN = 0.19
_NAME_LENGTH = 72
_DOMINANT = 3.0
# Labels without a class stand behind all others.
_NO_CLASS = 1 << 32
_CUT_AT = 0.9
_GREY = "#8a8f98"
_INK = "#22262c"
# Sizes in points; no system font is needed.
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.hashsalt": "histoprep",
}


def plot_shares(stats: Stats) -> bytes:
    """Return a PNG with one bar a label and, when there is a label map, one a class; lengths are
    per cent of pixels.

    Labels stand in the order of their classes and wear their colours. A bar that would dwarf all
    others is cut, with a mark; the figure at its end is always the true share.
    """
    with plain_text(_STYLE):
        stream = io.BytesIO()
        # No software or date in the file: the same stats give the same bytes.
        draw_shares(stats).savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def draw_shares(stats: Stats) -> Figure:
    """Return the figure of `plot_shares`; its panels have one scale, so that bars can be
    compared.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    raw = _raw_rows(stats)
    mapped = stats.mapped.classes if stats.mapped is not None else None
    panels = [raw] if mapped is None else [mapped, raw]
    heights = [max(len(rows), 1) for rows in panels]
    limit = max(_limit(rows["pixel_percent"].to_list()) for rows in panels)
    figure = Figure(
        figsize=(9.2, 0.75 * len(heights) + 0.55 + _ROW_IN * 1.25 * sum(heights)),
        dpi=200,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if mapped is not None and stats.label_map is not None:
        _bars(axes[0], mapped, f"Classes of {stats.label_map.name}", limit)
    title = "Source labels" if mapped is None else "Source labels, in the colours of their classes"
    _bars(axes[-1], raw, title, limit)
    figure.suptitle(_title(stats), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _title(stats: Stats) -> str:
    summary = stats.main
    text = (
        f"{to_text(stats.root.name)}: share of {summary.num_pixels:,} mask pixels in"
        f" {summary.num_tiles:,} tiles"
    )
    missing = int(summary.unmapped["pixels"].sum())
    return f"{text}; {missing:,} unmapped pixels left out" if missing else text


def _raw_rows(stats: Stats) -> DataFrame:
    """Return the raw classes that occur, in order of their target class, then of their share, with
    its colour.
    """
    rows = stats.raw.classes[stats.raw.classes["pixels"] > 0]
    if stats.label_map is None:
        return rows
    target = stats.label_map.apply_to_ids(rows["class_id"].to_numpy()).astype(int)
    target[target == UNMAPPED] = _NO_CLASS
    colours = {cls.id: cls.colour for cls in stats.label_map.classes}
    rows = rows.assign(
        target=target, colour=[colours.get(class_id, "#000000") for class_id in target]
    )
    rows = rows.assign(
        class_name=rows["class_name"].where(
            rows["target"] != _NO_CLASS, rows["class_name"] + " (unmapped)"
        )
    )
    return rows.sort_values(
        ["target", "pixels", "class_id"], ascending=[True, False, True], ignore_index=True
    )


def _bars(axes: Any, rows: DataFrame, title: str, limit: float) -> None:
    """Draw a bar a row; those longer than `limit` per cent are cut."""
    shares = rows["pixel_percent"].to_numpy()
    cut = bool((shares > limit).any())
    places = range(len(rows))
    axes.barh(
        places,
        shares.clip(max=limit),
        color=rows["colour"],
        edgecolor=_INK,
        linewidth=0.3,
        height=0.72,
    )
    for place, share in zip(places, shares, strict=True):
        axes.annotate(
            _percent(share),
            (min(share, limit), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
        if share > limit:
            _cut_mark(axes, place, _CUT_AT * limit)
    axes.set_yticks(
        places,
        [_name(*pair) for pair in zip(rows["class_id"], rows["class_name"], strict=True)],
        fontsize=7.5,
    )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, limit * 1.13 if limit else 1)
    if cut:
        # Beyond the mark the axis tells nothing.
        axes.set_xticks([tick for tick in axes.get_xticks() if tick < _CUT_AT * limit])
    axes.set_xlabel("per cent of pixels" + (" (longest bar cut)" if cut else ""), fontsize=7.5)
    axes.set_title(title, loc="left", fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#d9dce1", linewidth=0.5)
    axes.set_axisbelow(True)


def _limit(shares: list[float]) -> float:
    """Return the length at which bars are to be cut; the longest where none is."""
    longest, second = [*sorted(shares, reverse=True), 0.0, 0.0][:2]
    if second > 0 and longest > _DOMINANT * second:
        return 1.5 * second
    return longest


def _cut_mark(axes: Any, place: int, where: float) -> None:
    # A white slanted band across the bar: its length is not to scale.
    width = 0.012 * where
    axes.fill(
        [where - width, where + width, where + 3 * width, where + width],
        [place + 0.45, place + 0.45, place - 0.45, place - 0.45],
        color="white",
        zorder=3,
    )


def _percent(share: float) -> str:
    if 0 < share < 0.005:
        return "< 0.01 %"
    return f"{share:.2f} %"


def _name(class_id: int, name: str) -> str:
    text = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1].rstrip() + "…"
    return f"{text}  {class_id}"
