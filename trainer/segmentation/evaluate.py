"""`trainer test` of a segmenter: every labelled test tile once, its scores and predicted masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from histoprep import checksums, imageio
from histoprep.durable import write_bytes, write_json
from histoprep.labels import format_label_map
from histoprep.schemas.workspace import check_outside
from histoprep.shards import TileSource
from trainer.data.source import open_run_tiles
from trainer.engine.images import colour_mask, sheet
from trainer.errors import ConfigError, DataError, IntegrityError
from trainer.metrics.segmentation import mean_iou, pixel_confusion
from trainer.recipes.segmenter import rows_of
from trainer.reporter import NULL_REPORTER, Reporter
from trainer.sampling.masks import classes_as_sources
from trainer.sampling.sheets import class_colours
from trainer.segmentation.network import RunSegmenter, open_segmenter
from trainer.segmentation.scores import SegmentationScores, score_masks

FOLDER, METRICS, MASKS, LABEL_MAP = "test", "metrics.json", "masks", "label_map.yml"
SHEET = "worst.png"
_HINT = "restore it from a copy, or name another --out"
_SHEET_PX = 256


@dataclass(frozen=True, slots=True)
class SegmenterTestOptions:
    """How to test: `num_sheets` tiles are drawn; `again` tests a run once more."""

    num_sheets: int = 12
    device: str = "auto"
    again: bool = False


def test_segmenter(
    run: Path,
    out: Path | None = None,
    options: SegmenterTestOptions | None = None,
    *,
    reporter: Reporter = NULL_REPORTER,
) -> SegmentationScores:
    """Segment every labelled tile of the test split and return the scores.

    Writes metrics.json, masks/ (class ids, named by tile id), label_map.yml and worst.png: tiles
    with their mask and the predicted one, the least agreement first.

    Args:
        run: The run folder.
        out: Where results go; None for RUN/test.
        options: How to test.
        reporter: Where progress goes.

    Raises:
        ConfigError: When the run was tested before and `again` is not set.
        DataError: When there is no labelled test tile.
        IntegrityError: When the manifest has other classes than the run.
    """
    options = options or SegmenterTestOptions()
    folder = out or run / FOLDER
    times = count_tests(folder, again=options.again)
    model = open_segmenter(run, device=options.device)
    tiles = open_run_tiles(model.config)
    rows = _test_rows(model, tiles, run)
    check_outside(folder, tiles.manifest.data_folders, "the results of a test")
    checksums.forget_files(folder, lambda _: True)
    counts = []
    with reporter.progress("test", len(rows), "tiles") as meter:
        for row in rows.tolist():
            counts.append(_test_tile(model, tiles, row, folder))
            meter.advance(1)
    matrices = np.stack(counts)
    groups = group_numbers(tiles, rows)
    scores = score_masks(matrices, groups, tiles.label_map, seed=model.config.seed)
    write_json(folder / METRICS, {**scores.to_json(), "times_tested": times + 1})
    write_label_map(folder, model)
    if options.num_sheets:
        worst = np.argsort(mean_iou(matrices, np.ones(matrices.shape[1], bool)), kind="stable")
        _write_sheet(folder, tiles, rows[worst[: options.num_sheets]])
    checksums.list_all_files(folder)
    return scores


def group_numbers(tiles: TileSource, rows: np.ndarray) -> np.ndarray:
    """Return a number for each row, equal for tiles of the same group and of its own for a tile
    without a group: int64 [rows].
    """
    keys = [
        f"group {name}" if name is not None else f"tile {row}"
        for row, name in zip(rows.tolist(), tiles.group[rows], strict=True)
    ]
    return np.unique(keys, return_inverse=True)[1]


def mask_path(folder: Path, tile_id: str) -> Path:
    """Return where the predicted mask of a tile or image goes."""
    path = folder.joinpath(MASKS, *PurePosixPath(tile_id).parts)
    return path.with_name(f"{path.name}.png")


def count_tests(folder: Path, *, again: bool) -> int:
    """Return how often a run was tested before, by the results in a folder.

    Raises:
        ConfigError: When it was, and `again` is not set.
        IntegrityError: When the results cannot be read.
    """
    try:
        times = int(checksums.read_json(folder / METRICS, hint=_HINT)["times_tested"])
    except FileNotFoundError:
        times = 0
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"the results of an earlier test cannot be read: {error}", path=folder / METRICS
        ) from error
    if times and not again:
        raise ConfigError(
            "this run was tested before; choosing runs by their test results makes these too"
            " optimistic",
            path=folder / METRICS,
            hint="read the results there, or test again with --again",
        )
    return times


def _test_rows(model: RunSegmenter, tiles: TileSource, run: Path) -> np.ndarray:
    if tiles.label_map.digest != model.label_map.digest:
        raise IntegrityError(
            "the manifest has other classes than this run was trained with",
            path=tiles.path,
            seen=", ".join(cls.name for cls in tiles.label_map.classes),
            expected=f"{', '.join(cls.name for cls in model.label_map.classes)}, as in {run}",
            hint="test with the manifest that the run was trained with",
        )
    rows = rows_of(tiles, "test")
    if not len(rows):
        raise DataError(
            "there is no tile with labelled pixels in the test split",
            path=tiles.path,
            hint="make a manifest with --split 0.8/0.1/0.1",
        )
    return rows


def _test_tile(model: RunSegmenter, tiles: TileSource, row: int, folder: Path) -> np.ndarray:
    """Write the predicted mask of a tile and return its confusion matrix."""
    image, mask = tiles.read(row)
    assert mask is not None
    predicted, _ = model.segment(image)
    path = mask_path(folder, str(tiles.tile_ids[row]))
    write_bytes(path, imageio.encode_mask_png(predicted))
    return pixel_confusion(mask, predicted, tiles.label_map.num_classes)


def write_label_map(folder: Path, model: RunSegmenter) -> None:
    """Write the label map under which written masks can be audited."""
    checksums.publish_file(folder, LABEL_MAP, format_label_map(classes_as_sources(model.label_map)))


def _write_sheet(folder: Path, tiles: TileSource, rows: np.ndarray) -> None:
    colours = class_colours(tiles.label_map)
    lines = []
    for row in rows.tolist():
        image, mask = tiles.read(row)
        assert mask is not None
        path = mask_path(folder, str(tiles.tile_ids[row]))
        predicted = imageio.decode_mask(path.read_bytes(), imageio.read_header(path.read_bytes()))
        shown = [image, colour_mask(mask, colours), colour_mask(predicted, colours)]
        lines.append([_square(pixels) for pixels in shown])
    checksums.publish_file(folder, SHEET, imageio.encode_rgb_png(sheet(lines)))


def _square(pixels: np.ndarray) -> np.ndarray:
    """Return the middle of an image on a canvas of one size, so that a sheet can hold any."""
    canvas = np.full((_SHEET_PX, _SHEET_PX, 3), 255, np.uint8)
    top, left = (max(0, (side - _SHEET_PX) // 2) for side in pixels.shape[:2])
    part = pixels[top : top + _SHEET_PX, left : left + _SHEET_PX]
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas
