"""Contact sheets of a repair: each mask before, after, and the pixels that changed, with what the
numbers say.

Labels that repair took away are drawn in magenta, so that the damage shows; others wear the colours
of the label map's classes, or else colours of their own. Panels in the middle of a row enlarge the
part of the mask where most changed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoprep.figures import plain_text

ROWS_A_SHEET = 6
_WINDOW_PX = 72
_FALSE, _CHANGED, _SAME = "#ff00c8", "#d6002f", "#eceff3"
# Colours that differ in lightness too, for labels that no map gives a colour (after Okabe and Ito).
_COLOURS = (
    "#e6e8ec",
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#56b4e9",
    "#f0e442",
    "#332288",
    "#a6761d",
    "#666a73",
    "#d55e00",
)
_STYLE = {"font.family": "DejaVu Sans", "font.size": 8.0, "text.color": "#22262c"}
_TITLES = ("damaged mask", "enlarged: before", "after", "changed pixels")


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One mask of a sheet: labels before and after, [height, width], its path and what is said of
    it.
    """

    path: str
    note: str
    before: np.ndarray
    after: np.ndarray


def draw_sheet(rows: Sequence[SheetRow], title: str, colours: Mapping[int, str]) -> bytes:
    """Return a PNG of up to six masks; `colours` are "#rrggbb" by label. The same masks give the
    same bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with plain_text(_STYLE):
        figure = Figure(figsize=(11.0, 0.75 + 2.95 * len(rows)), dpi=110)
        FigureCanvasAgg(figure)
        height = 0.75 + 2.95 * len(rows)
        figure.text(0.02, 1 - 0.28 / height, title, fontsize=12, fontweight="bold")
        legend = (
            "magenta: labels that nobody drew and that repair takes away; red: pixels that repair"
            " changes; the frame is what is enlarged"
        )
        figure.text(0.02, 1 - 0.5 / height, legend, fontsize=8.5)
        for index, row in enumerate(rows):
            top = 1 - (0.72 + 2.95 * index) / height
            _draw_row(figure, row, top, height, colours)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _draw_row(
    figure: Any, row: SheetRow, top: float, height: float, colours: Mapping[int, str]
) -> None:
    from matplotlib.patches import Rectangle

    changed = row.before != row.after
    window = busiest_window(changed)
    palette = _palette(row, colours)
    figure.text(0.02, top - 0.13 / height, row.path, fontweight="bold", va="center")
    figure.text(0.02, top - 0.3 / height, row.note, va="center", fontsize=7.5)
    difference = np.where(changed[..., None], _rgb(_CHANGED), _rgb(_SAME)).astype(np.uint8)
    images = (
        _paint(row.before, palette),
        _paint(row.before[window], palette),
        _paint(row.after[window], palette),
        difference[window],
    )
    for place, (image, name) in enumerate(zip(images, _TITLES, strict=True)):
        axes = figure.add_axes((0.02 + 0.245 * place, top - 2.85 / height, 0.225, 2.22 / height))
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name, loc="left", fontsize=7.5, pad=3)
        axes.set_xticks([])
        axes.set_yticks([])
        if place == 0:
            rows, columns = window
            corner = (columns.start - 0.5, rows.start - 0.5)
            axes.add_patch(
                Rectangle(
                    corner,
                    columns.stop - columns.start,
                    rows.stop - rows.start,
                    fill=False,
                    edgecolor="black",
                    linewidth=1.2,
                )
            )


def busiest_window(changed: np.ndarray, side_px: int = _WINDOW_PX) -> tuple[slice, slice]:
    """Return the square of that side, or less in a smaller mask, with most changed pixels; the
    first of equals.
    """
    height, width = (min(side_px, size) for size in changed.shape)
    sums = np.pad(changed.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = (
        sums[height:, width:]
        - sums[:-height, width:]
        - sums[height:, :-width]
        + sums[:-height, :-width]
    )
    row, column = divmod(int(inside.argmax()), inside.shape[1])
    return slice(row, row + height), slice(column, column + width)


def _palette(row: SheetRow, colours: Mapping[int, str]) -> dict[int, str]:
    """Return a colour for each label of a row: magenta for those that are gone afterwards."""
    labels = np.unique(row.after).tolist()
    free = [colour for colour in _COLOURS if colour not in {colours.get(label) for label in labels}]
    palette = dict.fromkeys(np.unique(row.before).tolist(), _FALSE)
    for label in labels:
        palette[label] = (
            colours.get(label)
            or free[sum(other not in colours for other in labels if other < label) % len(free)]
        )
    return palette


def _paint(labels: np.ndarray, palette: Mapping[int, str]) -> np.ndarray:
    ids, index = np.unique(labels, return_inverse=True)
    table = np.array([_rgb(palette[label]) for label in ids.tolist()], np.uint8)
    return table[index.reshape(labels.shape)]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
