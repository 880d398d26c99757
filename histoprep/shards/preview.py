"""A contact sheet of tiles as the trainer would read them: the image with its classes drawn over
it, and a legend.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from histoprep.figures import plain_text
from histoprep.labels import IGNORED_ID
from histoprep.report.thumbnails import checked_colour, overlay, shrink_labels
from histoprep.shards.source import TileSource
from histoprep.streams import single_stream

_COLUMNS = 4
_CELL_PX = 224
_NAME_LENGTH = 34


def choose_rows(
    source: TileSource, num_tiles: int, seed: int, split: str | None = None, pool: str | None = None
) -> list[int]:
    """Return the rows of up to `num_tiles` tiles of a split and pool, drawn with `seed`; raises
    UsageError when there are none.
    """
    fits = np.ones(len(source), bool)
    for column, wanted in ((source.split, split), (source.pool, pool)):
        if wanted is not None:
            fits &= column == wanted
    rows = np.flatnonzero(fits)
    _, drawn = single_stream(rows).place(np.arange(min(num_tiles, len(rows))), seed)
    return [int(row) for row in drawn]


def draw_preview(source: TileSource, rows: Sequence[int], title: str) -> bytes:
    """Return a PNG of tiles, four in a row; the same tiles give the same bytes. Raises TileError
    for one that cannot be read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    classes = [cls for cls in source.label_map.classes if cls.id != 0]
    lines = -(-len(rows) // _COLUMNS)
    height = 0.6 + 2.75 * lines + 0.17 * -(-len(classes) // 6)
    with plain_text({"font.family": "DejaVu Sans", "font.size": 7.5, "text.color": "#22262c"}):
        figure = Figure(figsize=(10.4, height), dpi=100)
        FigureCanvasAgg(figure)
        figure.text(0.02, 1 - 0.3 / height, title, fontsize=11, fontweight="bold")
        for place, row in enumerate(rows):
            across, down = place % _COLUMNS, place // _COLUMNS
            axes = figure.add_axes(
                (
                    0.02 + 0.245 * across,
                    1 - (0.5 + 2.75 * (down + 1)) / height + 0.02,
                    0.225,
                    2.35 / height,
                )
            )
            axes.imshow(_image(source, row))
            axes.set_title(_caption(source, row), loc="left", fontsize=6.5, pad=3)
            axes.set_xticks([])
            axes.set_yticks([])
        if classes:
            patches = [
                Patch(color=checked_colour(cls.colour), label=f"{cls.id} {cls.name}")
                for cls in classes
            ]
            figure.legend(
                handles=patches, loc="lower left", bbox_to_anchor=(0.015, 0), ncols=6, frameon=False
            )
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _image(source: TileSource, row: int) -> np.ndarray:
    from histoprep import imageio

    tile = source.read(row)
    small = imageio.shrink_rgb(tile.image, _CELL_PX)
    if tile.mask is None or tile.mask.shape != tile.image.shape[:2]:
        return small
    # What is ignored stays uncoloured, as class 0 does.
    mask = np.where(tile.mask == IGNORED_ID, 0, tile.mask) if source.label_map.ignore else tile.mask
    return overlay(
        small,
        shrink_labels(mask, _CELL_PX),
        {cls.id: checked_colour(cls.colour) for cls in source.label_map.classes},
    )


def _caption(source: TileSource, row: int) -> str:
    name = str(source.tile_ids[row])
    caption = name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}"
    return f"{caption}\n{source.split[row]}, {source.pool[row]}"
