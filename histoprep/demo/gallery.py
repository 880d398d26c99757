"""The thumbnails of the demo's page, as data URIs: tiles that findings name, generated tiles beside
real ones, sheets that stages drew.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoprep import imageio, tables
from histoprep.auditing.thumbnails import ThumbnailTask
from histoprep.errors import BrokenFileError, HistoprepError
from histoprep.execution import Engine, run_tasks
from histoprep.findings import Mark
from histoprep.labels import LabelMap
from histoprep.report.thumbnails import Thumbnail, make_thumbnail
from histoprep.schemas.tiles import open_tiles_table
from histoprep.shards import TileSource

_NUM_FINDINGS = 9
_SHEET_PX = 1400
_TILE_PX = 256


@dataclass(frozen=True, slots=True)
class Generated:
    """One generated tile, its mask and the real tile of that mask."""

    tile_id: str
    mask: str
    generated: str
    real: str


def read_rgb(path: Path) -> np.ndarray | None:
    """Return a thumbnail file as uint8 RGB, None when it is not there or broken."""
    try:
        return imageio.decode_rgb(path.read_bytes())
    except (OSError, BrokenFileError):
        return None


def sheet_uri(path: Path) -> str | None:
    """Return a sheet that a stage drew, shrunk to the width of a page; None when it is not
    there.
    """
    thumbnail = read_rgb(path)
    if thumbnail is None:
        return None
    return _jpeg(imageio.shrink_rgb(thumbnail, _SHEET_PX))


def finding_thumbnails(
    findings: Sequence[Mapping[str, Any]], root: Path, tiles: Path, label_map: LabelMap
) -> dict[str, Thumbnail]:
    """Return a thumbnail of the first example of each of the first findings, by its path; drawn in
    a worker process.

    `tiles` is the path of tiles.parquet. Findings whose example is no file of a tile have none.
    """
    opened, _ = open_tiles_table(tiles)
    rows = tables.read_table(opened, ["image_path", "mask_path"]).to_pylist()
    by_path = {
        path: (row["image_path"], row["mask_path"]) for row in rows for path in row.values() if path
    }
    wanted = [finding["examples"][0]["path"] for finding in findings if finding["examples"]]
    chosen = tuple(
        (path, Mark.NONE, *by_path[path]) for path in dict.fromkeys(wanted) if path in by_path
    )[:_NUM_FINDINGS]
    if not chosen:
        return {}
    task = ThumbnailTask(
        str(root.resolve()), chosen, label_map, False, tiles.parent / "parts" / "demo-thumbnails.at"
    )
    drawn = next(run_tasks([task], Engine(1)))
    return {path: thumbnail for (path, _), thumbnail in drawn.items()}


def generated_tiles(source: TileSource, folder: Path, most: int) -> list[Generated]:
    """Return up to `most` tiles of a synthetic data set beside the tiles of `source` with their
    ids; those that cannot be read are left out.
    """
    found: list[Generated] = []
    for row, tile_id in enumerate(source.tile_ids.tolist()):
        made = read_rgb(folder / "images" / f"{tile_id}.png") if len(found) < most else None
        if made is None:
            continue
        try:
            tile = source.read(row)
        except HistoprepError:
            continue
        mask = make_thumbnail(
            None, tile.mask, source.label_map.classes, longest_px=_TILE_PX
        ).overlay_data_uri
        found.append(Generated(tile_id, mask or "", _tile(made), _tile(tile.image)))
    return found


def _tile(thumbnail: np.ndarray) -> str:
    return _jpeg(imageio.shrink_rgb(thumbnail, _TILE_PX))


def _jpeg(thumbnail: np.ndarray) -> str:
    encoded = b64encode(imageio.encode_rgb_jpeg(thumbnail, 88, "4:4:4")).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"
