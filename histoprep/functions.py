"""The commands as plain functions: a folder in, a result out, nothing printed.

Each function brings the tiles table up to date first, as its command does, and keeps results in the
workspace. A result has a short `repr`, shows itself in notebooks, and gives its rows with
`to_pandas()`.

    >>> import histoprep
    >>> histoprep.scan("tiles")
    <ScannedTiles of tiles: 24 tiles, 18 masks, 0 unreadable>
    >>> histoprep.stats("tiles").main.num_pixels
    41472
    >>> manifest = histoprep.build_manifest("tiles", split={"train": 0.75, "val": 0.25}, seed=3)
    >>> manifest.tiles, manifest.excluded
    (24, {})
    >>> shards = histoprep.write_shards(manifest.path, "shards")
    >>> tiles = histoprep.open_tiles("shards")
    >>> tiles
    <TileSource: 24 tiles from shards | shards>
    >>> image, mask = tiles.read(0)
    >>> image.shape, image.dtype
    ((48, 48, 3), dtype('uint8'))
    >>> sorted(tiles.to_pandas()["split"].unique())
    ['train', 'val']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from histoprep import tables
from histoprep.choices import OnUnmapped
from histoprep.durable import locked
from histoprep.errors import UsageError
from histoprep.execution import Engine
from histoprep.labels import LabelMap, default_map, find_label_map, load_label_map
from histoprep.notebook import html_result
from histoprep.phrases import plural
from histoprep.schemas.tiles import open_tiles_table
from histoprep.schemas.workspace import Workspace, check_outside
from histoprep.tiles.options import earlier_options
from histoprep.tiles.table import ensure_tiles

if TYPE_CHECKING:
    from fractions import Fraction

    from pandas import DataFrame

    from histoprep.counting import Stats
    from histoprep.manifest.build import ManifestOptions, ManifestSummary
    from histoprep.remapping import RemapResult
    from histoprep.repairing import RepairResult
    from histoprep.scanning import ScanOptions

MapLike = LabelMap | str | Path
DIMENSIONS = ("split", "pool")


@dataclass(frozen=True, repr=False)
class ScannedTiles:
    """The tiles of a data set, as they were read.

    Attributes:
        workspace: Where the data set and its results are.
        path: tiles.parquet.
        num_tiles: Rows of it: images, and masks without an image.
        num_images: Tiles with an image.
        num_masks: Tiles with a mask.
        num_unreadable: Files that could not be used.
    """

    workspace: Workspace
    path: Path
    num_tiles: int
    num_images: int
    num_masks: int
    num_unreadable: int

    def __len__(self) -> int:
        """Return the number of tiles."""
        return self.num_tiles

    def __repr__(self) -> str:
        """Return the counts in one line."""
        return f"<ScannedTiles of {self.workspace.root.name}: {self._counts()}>"

    def _repr_html_(self) -> str:
        """Return the counts and the first rows, for notebooks."""
        opened, _ = open_tiles_table(self.path)
        names = ["tile_id", "group", "split", "width_px", "height_px", "label_ids"]
        rows = next(tables.read_batches(opened, names, 5), None)
        shown = [] if rows is None else [list(row.values()) for row in rows.to_pylist()]
        return html_result(f"{self.workspace.root.name}: {self._counts()}", names, shown)

    def _counts(self) -> str:
        counts = f"{plural(self.num_tiles, 'tile')}, {plural(self.num_masks, 'mask')}"
        return f"{counts}, {self.num_unreadable:,} unreadable"

    def to_pandas(self, columns: Sequence[str] | None = None) -> DataFrame:
        """Return a row a tile, with the columns of tiles.parquet.

        Args:
            columns: Names of columns; None for all.
        """
        opened, _ = open_tiles_table(self.path)
        frame: DataFrame = tables.read_table(opened, columns).to_pandas()
        return frame


def scan(
    root: str | Path,
    *,
    options: ScanOptions | None = None,
    workspace: str | Path | None = None,
    workers: int | None = None,
) -> ScannedTiles:
    """Read the tiles of a data set, each file once, and return what they are.

    Files that did not change since the last scan are not read again.

    Args:
        root: Folder of the data set.
        options: How images and masks belong together; None for as in the last audit, or as the
            names say.
        workspace: Folder of the results; None for `ROOT.histoprep`, beside the data set.
        workers: Worker processes; None for one per core.

    Raises:
        UsageError: There is nothing to read, or an option makes no sense.
        OutputError: The workspace cannot be written.
        LockedError: Another process writes to the workspace.
    """
    where = _workspace(root, workspace)
    path = ensure_tiles(where, options, workers=workers)
    opened, _ = open_tiles_table(path)
    names = ["image_path", "mask_path", "image_error", "mask_error"]
    counts = dict.fromkeys(names, 0)
    for batch in tables.read_batches(opened, names):
        for name in names:
            counts[name] += int(pc.sum(pc.is_valid(batch[name])).as_py() or 0)
    return ScannedTiles(
        where,
        path,
        int(opened.metadata.num_rows),
        counts["image_path"],
        counts["mask_path"],
        counts["image_error"] + counts["mask_error"],
    )


def repair(
    root: str | Path,
    *,
    rules: Sequence[str] | None = None,
    min_confidence: float | None = None,
    unclear: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    workspace: str | Path | None = None,
    workers: int | None = None,
) -> RepairResult:
    """Repair masks that were saved as JPEG or resized with interpolation, into a tree of their own.

    Later steps take the repaired masks in place of the damaged ones. The data set is only read.

    Args:
        root: Folder of the data set.
        rules: Findings whose masks are repaired; None for HP403 and HP404.
        min_confidence: Masks whose repair has less are left alone, 0 to 1; None for 0.2.
        unclear: Also repair masks that cannot be judged alone, where the JPEG quality of the
            others of their slide or folder shows their damage.
        out: Folder of the repaired masks; None for `repaired` in the workspace.
        force: Replace masks that were repaired with other options, or changed since.
        workspace: Folder of the results; None for `ROOT.histoprep`, beside the data set.
        workers: Worker processes; None for one per core.

    Raises:
        UsageError: An option makes no sense.
        OutputError: The masks cannot be written.
        LockedError: Another process writes there.
        IntegrityError: Masks were changed since they were written.
    """
    from histoprep.repairing import RULES, RepairOptions, plan_repair, run_repair

    where = _workspace(root, workspace)
    ensure_tiles(where, workers=workers)
    chosen = RepairOptions(
        Path(out) if out else where.folder / "repaired",
        tuple(rules or RULES),
        force=force,
        unclear=unclear,
    )
    if min_confidence is not None:
        chosen = replace(chosen, min_confidence=min_confidence)
    return run_repair(plan_repair(where, chosen), Engine(workers or 0))


def remap(
    root: str | Path,
    label_map: MapLike | None = None,
    *,
    on_unmapped: OnUnmapped | str = OnUnmapped.ERROR,
    out: str | Path | None = None,
    force: bool = False,
    workspace: str | Path | None = None,
    workers: int | None = None,
) -> RemapResult:
    """Apply a label map to all masks: new 8-bit PNG files in a tree of their own.

    Args:
        root: Folder of the data set.
        label_map: A label map, its path or its name; None for the only one in the data set.
        on_unmapped: What to do with values that the map does not list: error, or unknown.
        out: Folder of the new masks; None for `masks-MAP` in the workspace.
        force: Remap masks that look remapped already, and replace those of another map.
        workspace: Folder of the results; None for `ROOT.histoprep`, beside the data set.
        workers: Worker processes; None for one per core.

    Raises:
        UsageError: There is no label map, it does not fit the masks, or an option makes no sense.
        OutputError: The masks cannot be written.
        LockedError: Another process writes there.
        IntegrityError: Masks were changed since they were written.
    """
    from histoprep.remapping import RemapOptions, plan_remap, run_remap

    where = _workspace(root, workspace)
    chosen = _label_map(label_map, where)
    if chosen is None:
        raise UsageError(
            "no label map given, and the data set does not contain exactly one label_map*.yml",
            path=where.root,
            hint="histoprep map init writes one of the labels that masks hold",
        )
    if on_unmapped not in list(OnUnmapped):
        raise UsageError(
            "no such way to treat unmapped values",
            seen=str(on_unmapped),
            expected=" or ".join(OnUnmapped),
        )
    ensure_tiles(where, workers=workers)
    options = RemapOptions(Path(out) if out else None, OnUnmapped(on_unmapped), force)
    return run_remap(plan_remap(where, chosen, options), Engine(workers or 0))


def stats(
    root: str | Path,
    label_map: MapLike | None = None,
    *,
    by: Sequence[str] = DIMENSIONS,
    workspace: str | Path | None = None,
    workers: int | None = None,
) -> Stats:
    """Count classes: shares of pixels, tiles that hold them, pairs, weights.

    Nothing is written but the tiles table. Splits and pools are those of the manifest, if there is
    one.

    Args:
        root: Folder of the data set.
        label_map: A label map, its path or its name; None for the only one in the data set, or for
            the labels as they are.
        by: Columns by which shares are also counted: split, pool, group, label.
        workspace: Folder of the results; None for `ROOT.histoprep`, beside the data set.
        workers: Worker processes; None for one per core.

    Raises:
        UsageError: There is no such label map or column.
        LockedError: Another process writes to the workspace.
        IntegrityError: A table is damaged, or repaired masks are gone.
    """
    from histoprep.counting import compute_stats

    where = _workspace(root, workspace)
    chosen = _label_map(label_map, where)
    ensure_tiles(where, workers=workers)
    return compute_stats(where, chosen, by=tuple(by))


def build_manifest(
    root: str | Path,
    label_map: MapLike | None = None,
    *,
    split: Mapping[str, Fraction | float] | None = None,
    seed: int | None = None,
    drop_list: str | Path | None = None,
    options: ManifestOptions | None = None,
    out: str | Path | None = None,
    workspace: str | Path | None = None,
    workers: int | None = None,
) -> ManifestSummary:
    """Split the tiles without leaks and write the manifest.

    A manifest that is there already keeps its splits, as `histoprep manifest` does.

    Args:
        root: Folder of the data set.
        label_map: A label map, its path or its name; None for the only one in the data set, or for
            the labels as classes.
        split: Share of each split, such as `{"train": 0.8, "val": 0.1, "test": 0.1}`; goes before
            that of `options`.
        seed: Of the split; goes before that of `options`.
        drop_list: Table or list of tiles to leave out, such as decisions.csv of `histoprep browse`;
            goes before that of `options`.
        options: Everything else.
        out: Path of the manifest; None for manifest.parquet in the workspace.
        workspace: Folder of the results; None for `ROOT.histoprep`, beside the data set.
        workers: Worker processes; None for one per core.

    Raises:
        UsageError: The options cannot be met, or masks do not fit.
        OutputError: The manifest cannot be written.
        LockedError: Another process writes to the workspace.
        IntegrityError: A table is damaged, or repaired masks are gone.
    """
    from fractions import Fraction

    from histoprep.manifest.build import ManifestOptions, raw_label_map
    from histoprep.manifest.build import build_manifest as build
    from histoprep.tiles.instances import refuse_instances

    where = _workspace(root, workspace)
    target = Path(out) if out else where.manifest
    check_outside(target, (where.root, *earlier_options(where).scan.unlabelled), "the manifest")
    chosen = options or ManifestOptions()
    if split is not None:
        # As people write decimals: 0.1 is a tenth, not the nearest binary number.
        shares = {name: Fraction(str(share)) for name, share in split.items()}
        chosen = replace(chosen, fractions=shares)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    if drop_list is not None:
        chosen = replace(chosen, choice=replace(chosen.choice, drop_list=Path(drop_list)))
    if chosen.keep is None and target.exists():
        chosen = replace(chosen, keep=target)
    chosen.validate()
    found = _label_map(label_map, where)
    tiles = ensure_tiles(where, workers=workers)
    if found is None:
        refuse_instances(tiles, where.root)
        found = raw_label_map(tiles)
    with locked(where.folder):
        return build(tiles, found, chosen, target)


def _workspace(root: str | Path, workspace: str | Path | None) -> Workspace:
    return Workspace.of(Path(root), Path(workspace) if workspace else None)


def _label_map(label_map: MapLike | None, workspace: Workspace) -> LabelMap | None:
    """Return a label map by itself, path or name; None for the only one of the data set, if any."""
    if isinstance(label_map, LabelMap):
        return label_map
    path = find_label_map(label_map, workspace.root) if label_map else default_map(workspace.root)
    return None if path is None else load_label_map(path)
