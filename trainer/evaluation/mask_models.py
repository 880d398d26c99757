"""`trainer test` of a model of masks: generated masks against real ones, and a sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histoprep import checksums, imageio
from histoprep.durable import write_bytes, write_json
from histoprep.labels import IGNORED_ID, format_label_map
from histoprep.schemas.workspace import check_outside
from histoprep.shards import TileSource
from trainer.data.mask_cells import cut_windows
from trainer.data.source import open_run_tiles
from trainer.device import choose_device
from trainer.engine.checkpoints import find_checkpoint, load_run_config
from trainer.engine.images import colour_mask, sheet
from trainer.errors import ConfigError, DataError
from trainer.evaluation.layouts import LayoutScores, score_layouts
from trainer.recipes.masks import Config, load_mask_generator, num_classes_of, read_facts
from trainer.reporter import NULL_REPORTER, Reporter
from trainer.sampling.layouts import list_generated
from trainer.sampling.masks import classes_as_sources
from trainer.sampling.sheets import class_colours
from trainer.segmentation.evaluate import (
    FOLDER,
    LABEL_MAP,
    METRICS,
    count_tests,
    group_numbers,
    mask_path,
)

SHEET = "masks.png"
_MOST_REAL = 2000
_COLUMNS = 8


@dataclass(frozen=True, eq=False)
class RealMasks:
    """Windows of real masks: class ids uint8 [n, side, side], the group of each, int [n], and
    whether it was trained on.
    """

    masks: np.ndarray
    groups: np.ndarray
    is_train: np.ndarray


def test_masks(
    run: Path,
    out: Path | None = None,
    *,
    device: str = "auto",
    again: bool = False,
    seed: int = 0,
    reporter: Reporter = NULL_REPORTER,
) -> LayoutScores:
    """Generate `validation.num_tiles` masks, compare them with real ones and return the scores.

    Writes metrics.json, masks/ (class ids), label_map.yml and masks.png: real masks above,
    generated ones below.

    Args:
        run: The run folder of the recipe masks.
        out: Where results go; None for RUN/test.
        device: auto, cpu or cuda.
        again: Whether to test a run that was tested before.
        seed: Seed of the masks.
        reporter: Where progress goes.

    Raises:
        ConfigError: When the run was tested before and `again` is not set, or is of another recipe.
        DataError: When there is no labelled tile, or the manifest has other classes than the run.
    """
    folder = out or run / FOLDER
    times = count_tests(folder, again=again)
    config = load_run_config(run)
    if not isinstance(config, Config):
        raise ConfigError("this run is of another recipe", seen=config.recipe, expected="masks")
    tiles = open_run_tiles(config)
    label_map = read_facts(find_checkpoint(run.absolute()))[0]
    if label_map.digest != tiles.label_map.digest:
        raise DataError(
            "the manifest has other classes than this run was trained with",
            path=tiles.path,
            seen=", ".join(cls.name for cls in tiles.label_map.classes),
            expected=", ".join(cls.name for cls in label_map.classes),
        )
    real = read_real_masks(tiles, config.data.image_size)
    check_outside(folder, tiles.manifest.data_folders, "the results of a test")
    checksums.forget_files(folder, lambda _: True)
    generator = load_mask_generator(run, device=str(choose_device(device)), seed=seed)
    listed = list_generated(generator, config.validation.num_tiles)
    generated = []
    with reporter.progress("generate", len(listed), "masks") as meter:
        for index, name in enumerate(listed.ids):
            mask = listed.read_mask(index)
            write_bytes(
                mask_path(folder, name), imageio.encode_mask_png(mask, imageio.SYNTHETIC_MARK)
            )
            generated.append(mask)
            meter.advance(1)
    scores = score_layouts(
        real.masks,
        np.stack(generated),
        real.groups,
        real.is_train,
        num_classes_of(label_map),
        config.cell_px,
        seed=seed,
    )
    write_json(folder / METRICS, {**scores.to_json(), "times_tested": times + 1})
    checksums.publish_file(folder, LABEL_MAP, format_label_map(classes_as_sources(label_map)))
    colours = class_colours(label_map)
    rows = [
        [colour_mask(mask, colours) for mask in masks[start : start + _COLUMNS]]
        for masks in (real.masks, generated)
        for start in (0, _COLUMNS)
        if len(masks) > start
    ]
    checksums.publish_file(
        folder, SHEET, imageio.encode_rgb_png(sheet(rows), imageio.SYNTHETIC_MARK)
    )
    checksums.list_all_files(folder)
    return scores


def read_real_masks(tiles: TileSource, size_px: int, *, seed: int = 0) -> RealMasks:
    """Return the windows of labelled tiles of all splits, ignored pixels as class 0; of many a
    random two thousand.

    Args:
        tiles: The tiles of a run.
        size_px: Pixels a side of a window.
        seed: Seed of the choice.

    Raises:
        DataError: When there is no labelled tile.
        UsageError: When a mask is smaller than a window.
    """
    labelled = np.flatnonzero(tiles.pool == "conditional")
    if not len(labelled):
        raise DataError("there is no tile with labelled pixels", path=tiles.path)
    windows: list[np.ndarray] = []
    rows: list[int] = []
    for row in np.random.default_rng(seed).permutation(labelled).tolist():
        found = cut_windows(tiles.read_mask(row), size_px)
        windows += found
        rows += [row] * len(found)
        if len(windows) >= _MOST_REAL:
            break
    masks = np.stack(windows)
    if tiles.label_map.ignore:
        masks[masks == IGNORED_ID] = 0
    chosen = np.array(rows)
    return RealMasks(masks, group_numbers(tiles, chosen), tiles.split[chosen] == "train")
