"""Which class a tile has, and which tiles are trained and validated on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoprep import checksums
from histoprep.shards import TileSource
from trainer.data.randomness import keyed_uniforms
from trainer.data.source import open_run_tiles
from trainer.data.tiles import label_ids, label_names
from trainer.engine.checkpoints import RESTORE_RUN
from trainer.errors import CheckpointError, DataError, IntegrityError
from trainer.recipes.diffmic_config import Config

SPLIT_FILE = "split.json"
_SHOWN = 3
_MAX_TRIES = 64
_MAX_UNITS_LOOKED_AT = 200_000


@dataclass(frozen=True, eq=False)
class LabelledTiles:
    """Tiles of C classes: `labels` int64 [tiles], -1 for none; `rows` of train, val and test,
    ascending, labelled ones only.

    `derived`: train was cut in two because the manifest has no validation split.
    """

    tiles: TileSource
    names: tuple[str, ...]
    labels: np.ndarray
    rows: dict[str, np.ndarray]
    derived: bool
    warnings: tuple[str, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of tiles by split and class."""
        return {
            split: dict(
                zip(
                    self.names,
                    np.bincount(self.labels[rows], minlength=len(self.names)).tolist(),
                    strict=True,
                )
            )
            for split, rows in self.rows.items()
        }

    def groups(self, rows: np.ndarray) -> np.ndarray:
        """Return a number for each row, equal for tiles of one group and of its own for a tile
        without one: int64 [rows].
        """
        keys = [
            f"group {name}" if name is not None else f"tile {row}"
            for row, name in zip(rows.tolist(), self.tiles.group[rows], strict=True)
        ]
        return np.unique(keys, return_inverse=True)[1]


def labelled_tiles(config: Config) -> LabelledTiles:
    """Return the tiles of a configuration with their classes and splits.

    Raises:
        DataError: When there are fewer than two classes, none to train on, or test has a class that
            train lacks.
        IntegrityError: When a group or a copy of an image is in two splits.
    """
    tiles = open_run_tiles(config)
    names, labels, warnings = _classes(tiles, config.labels)
    if len(names) < 2:
        raise DataError(
            "a classifier needs tiles of at least two classes",
            path=config.manifest,
            seen=", ".join(names) or "no labels and no masks with classes",
            hint=(
                "histoprep audit ROOT --label-by folder, then histoprep manifest ROOT; or masks of"
                " several classes (--set labels=masks)"
            ),
        )
    usable = labels >= 0
    if not usable.all():
        warnings.append(
            f"{np.sum(~usable):,} of {len(labels):,} tiles have no class and are left out"
        )
    units = _units(tiles)
    _refuse_leaks(tiles, units)
    rows = {
        split: np.flatnonzero((tiles.split == split) & usable) for split in ("train", "val", "test")
    }
    derived = not len(rows["val"])
    if derived:
        chosen = validation_rows(
            labels[rows["train"]],
            units[rows["train"]],
            len(names),
            config.validation_share,
            config.seed,
        )
        rows["train"], rows["val"] = rows["train"][~chosen], rows["train"][chosen]
    if config.shuffle_labels:
        labels = shuffled_labels(labels, rows["train"], config.seed)
        warnings.append(
            "shuffle_labels: training tiles have the classes of others; validation must stay at"
            " chance, or the data leak"
        )
    labelled = LabelledTiles(
        tiles, names, labels, rows, derived, tuple(warnings + _absent(names, labels, rows))
    )
    _refuse_unlearnable(labelled, config.manifest)
    return labelled


def shuffled_labels(labels: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return labels int64 [tiles] with those of `rows` dealt out among `rows` at random."""
    order = np.argsort(keyed_uniforms(seed, rows, "shuffled labels", 1)[:, 0])
    shuffled = labels.copy()
    shuffled[rows] = labels[rows][order]
    return shuffled


def write_split(folder: Path, data: LabelledTiles) -> None:
    """Store the training and validation tiles and the class counts of a run in split.json."""
    chosen = {
        split: data.tiles.tile_ids[rows].tolist()
        for split, rows in data.rows.items()
        if split != "test"
    }
    checksums.publish_json(
        folder,
        SPLIT_FILE,
        {
            "manifest_digest": data.tiles.digest,
            "classes": data.names,
            "validation_from_train": data.derived,
            "counts": data.counts(),
            "tiles": chosen,
        },
    )


def read_split(run: Path) -> dict[str, Any]:
    """Return what `write_split` stored in a run folder.

    Raises:
        CheckpointError: When it cannot be read.
    """
    try:
        split: dict[str, Any] = checksums.read_json(run / SPLIT_FILE, hint=RESTORE_RUN)
    except OSError as error:
        raise CheckpointError(
            f"the classes of the run cannot be read: {error}",
            path=run / SPLIT_FILE,
            hint="trainer fit writes them first",
        ) from error
    return split


def validation_rows(
    labels: np.ndarray, units: np.ndarray, num_classes: int, share: float, seed: int
) -> np.ndarray:
    """Return which of n tiles to hold out, bool [n]: whole units, and of each class as near to
    `share` as they allow.

    Units are taken roughly from the largest to the smallest, in several seeded orders of which the
    best is kept; a unit is held out when that brings the class counts nearer to their targets. Of
    single tiles each class then comes within half a tile; a class of one or two stays in training.
    """
    distinct, place = np.unique(units, return_inverse=True)
    table = np.zeros((len(distinct), num_classes))
    np.add.at(table, (place, labels), 1)
    sizes = table.sum(axis=1)
    tries = 1 if (sizes == 1).all() else min(_MAX_TRIES, 1 + _MAX_UNITS_LOOKED_AT // len(distinct))
    chances = keyed_uniforms(seed, np.arange(len(distinct)), "validation", 2 * tries).reshape(
        -1, tries, 2
    )
    candidates = [
        _hold_out(
            table,
            share,
            np.lexsort(
                (chances[:, number, 0], -sizes * (0.5 + chances[:, number, 1] * (sizes > 1)))
            ),
        )
        for number in range(tries)
    ]
    return min(candidates, key=lambda pair: pair[0])[1][place]


def _hold_out(table: np.ndarray, share: float, order: np.ndarray) -> tuple[float, np.ndarray]:
    """Return (squared distance to the targets, units held out bool [units]) of class counts [units,
    C] gone through in `order`.
    """
    target = share * table.sum(axis=0)
    chosen, missing = np.zeros(len(table), dtype=bool), target.copy()
    for unit in order.tolist():
        left = missing - table[unit]
        if left @ left < missing @ missing:
            chosen[unit], missing = True, left
    return float(missing @ missing), chosen


def _classes(tiles: TileSource, source: str) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Return class names, the class of each tile (int64, -1 for none) and warnings; `source` is
    auto, manifest or masks.
    """
    ids = label_ids(tiles)
    if source == "manifest" or (source == "auto" and (ids >= 0).any()):
        return label_names(tiles), ids, []
    kinds = [(column, cls) for column, cls in enumerate(tiles.label_map.classes) if cls.id != 0]
    pixels = tiles.class_pixels[:, [column for column, _ in kinds]]
    dominant = (
        np.where(pixels.any(axis=1), pixels.argmax(axis=1), -1)
        if kinds
        else np.full(len(tiles), -1)
    )
    used = np.unique(dominant[dominant >= 0])
    renumbered = np.full(len(kinds) + 1, -1)
    renumbered[used] = np.arange(len(used))
    names = tuple(tiles.label_map.class_name(kinds[column][1].id) for column in used.tolist())
    return (
        names,
        renumbered[dominant].astype(np.int64),
        ["classes are those with the most pixels in the mask, class 0 left aside"],
    )


def _units(tiles: TileSource) -> np.ndarray:
    """Return a number for each tile, equal for all that must stay together: those of a group, and
    copies of an image; int64 [tiles].
    """
    digests = tiles.manifest.read(["image_digest"])["image_digest"].to_pylist()
    parent = list(range(len(tiles)))

    def top(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, (group, digest) in enumerate(zip(tiles.group.tolist(), digests, strict=True)):
        for key in (("group", group), ("image", digest)):
            if key[1] is not None:
                parent[top(row)] = top(first.setdefault((key[0], str(key[1])), row))
    return np.array([top(row) for row in range(len(parent))])


def _refuse_leaks(tiles: TileSource, units: np.ndarray) -> None:
    splits = np.unique(tiles.split.astype(str), return_inverse=True)[1]
    first = np.zeros(len(units), dtype=np.int64)
    first[units[::-1]] = splits[::-1]
    leaking = np.flatnonzero(splits != first[units])
    if len(leaking):
        row = int(leaking[0])
        other = int(np.flatnonzero((units == units[row]) & (splits != splits[row]))[0])
        raise IntegrityError(
            "a group, or copies of an image, are in two splits: tests would measure memorisation",
            path=tiles.path,
            seen=(
                f"{tiles.tile_ids[row]} in {tiles.split[row]}, {tiles.tile_ids[other]} in"
                f" {tiles.split[other]}; {len(leaking):,} such tiles"
            ),
            hint="make a new split with histoprep manifest, which keeps groups and copies together",
        )


def _absent(names: tuple[str, ...], labels: np.ndarray, rows: dict[str, np.ndarray]) -> list[str]:
    return [
        f"{split} has no tile of class {name}"
        for split in ("val", "test")
        for index, name in enumerate(names)
        if index not in labels[rows[split]]
    ]


def _refuse_unlearnable(data: LabelledTiles, path: str) -> None:
    for split in ("train", "val"):
        if not len(data.rows[split]):
            raise DataError(
                f"there is no tile with a class in {split}",
                path=path,
                seen=str(data.counts()),
                hint="see histoprep manifest show",
            )
    learnt = set(data.labels[data.rows["train"]].tolist())
    unseen = [name for index, name in enumerate(data.names) if index not in learnt]
    if unseen:
        raise DataError(
            "classes without a tile to train on",
            path=path,
            seen=", ".join(unseen[:_SHOWN]),
            hint="leave them out or add tiles",
        )
