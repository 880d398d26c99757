"""Tiles table -> manifest: left out with a reason, or classes, pool and split.

Two passes in pieces, so that memory stays bounded: the first keeps a few dozen bytes a tile and
splits these; the second writes the rows.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import rule_ids, tables
from histoprep.choices import SplitMethod
from histoprep.digests import file_digest
from histoprep.errors import UsageError
from histoprep.execution import Engine
from histoprep.labels import LabelMap, identity_map
from histoprep.manifest import rows as manifest_rows
from histoprep.manifest.choice import ChoiceOptions, ChosenRows, choose_tiles
from histoprep.manifest.earlier import EarlierSplit, open_earlier, write_moved
from histoprep.manifest.folds import Folds, choose_folds
from histoprep.manifest.gather import SplitInputs, gather
from histoprep.manifest.given import IncludedTiles, SplitOrigin
from histoprep.manifest.groups import ungrouped_warning
from histoprep.manifest.inclusion import CHOICE, CHOICES, INCLUDED
from histoprep.manifest.neighbours import certify_neighbours, neighbours_warning
from histoprep.manifest.rows import MAX_CLASS_ID, Derived, derive
from histoprep.manifest.splitting import Kept, choose_split
from histoprep.notebook import html_result
from histoprep.phrases import first_of, plural
from histoprep.progress import Advance, Phases, TaskProgress, silent_phases
from histoprep.remapping.contradictions import contradiction_error, contradictions
from histoprep.remapping.evidence import remapped_error
from histoprep.remapping.fit import misfit, misfit_error
from histoprep.scanning import ScanOptions
from histoprep.scanning.advice import explain_masks_alone, further_masks
from histoprep.scanning.companions import MAX_IMAGES, ImageFacts, find_companions
from histoprep.scanning.numbering import find_shifts
from histoprep.schemas.manifest import (
    EXCLUDED_KIND,
    EXCLUDED_SCHEMA,
    FOLD,
    SHARD_COLUMNS,
    read_manifest,
    schema,
    write_manifest,
)
from histoprep.schemas.repaired import TileRows, open_rows
from histoprep.schemas.tiles import PIXEL_GROUPS
from histoprep.schemas.workspace import Workspace
from histoprep.split import Units, join_units
from histoprep.split.certificate import certify, certify_folds
from histoprep.split.units import CONDITIONAL, NO_SPLIT, SPLITS, UNCONDITIONAL
from histoprep.tiles import image_labels
from histoprep.tiles.misfits import MisfitKind, find_misfits
from histoprep.tiles.options import earlier_options
from histoprep.tiles.readings import MaskReadings
from histoprep.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame

EXCLUDED_VERSION = "1.0"
_FILE_FACTS = ("width_px", "height_px", "image_bytes", "image_digest", "mask_bytes", "mask_digest")
_COPIED = ("tile_id", "image_path", "mask_path", "group", "label", *_FILE_FACTS)
_PASS_2 = tuple(dict.fromkeys((*manifest_rows.COLUMNS, *_COPIED)))
_PIECE = 8192


@dataclass(frozen=True, slots=True)
class ManifestOptions:
    """How to make a manifest.

    Attributes:
        fractions: Share of each split; None for those of `keep`, or for 0.9 train and 0.1 test, or,
            where folders give the split, validation 80/20 from train.
        seed: Of the split; None for that of `keep`, or 0.
        method: auto (solved; folders train, val, test are kept unless `ignore_folder_split`), hash
            (by the names of groups alone) or file (`split_file`).
        split_file: A table or lists of names and their splits; others are shared out.
        test: Names of groups that are test, and no others are.
        folds: The number of cross-validation folds of the tiles that are not test, or `folder`,
            `csv:COLUMN` or a regular expression whose values are the folds; None for none.
        keep: A manifest: its tiles stay in their split unless groups or copies join those of two.
        conditional_threshold: Least share of pixels of classes other than 0, in [0, 1].
        ignore_folder_split: Split tiles anew that folders or a table of pairs give a split.
        force: Map masks that look mapped already (HP508), and the like.
        choice: What is left out on demand.
    """

    fractions: Mapping[str, Fraction] | None = None
    seed: int | None = None
    method: str = SplitMethod.AUTO.value
    split_file: Path | None = None
    conditional_threshold: float = 0.0
    ignore_folder_split: bool = False
    force: bool = False
    choice: ChoiceOptions = field(default_factory=ChoiceOptions)
    test: tuple[str, ...] = ()
    keep: Path | None = None
    folds: str | None = None

    def validate(self) -> None:
        """Raise UsageError for options that do not go together."""
        if self.method not in list(SplitMethod):
            raise UsageError(
                "no such split method", seen=self.method, expected=", ".join(SplitMethod)
            )
        if (self.method == SplitMethod.FILE) != (self.split_file is not None):
            raise UsageError(
                "--split-method file and --split-file go together",
                seen=f"method {self.method}, file {self.split_file}",
            )
        if self.test and self.method != SplitMethod.AUTO:
            raise UsageError(
                "--test names the test itself, and so does the split method",
                seen=f"--test {','.join(self.test)}, method {self.method}",
                hint="leave out --split-file and --split-method, or --test",
            )
        if not 0 <= self.conditional_threshold <= 1:
            raise UsageError(
                "the conditional threshold is a share of pixels",
                seen=self.conditional_threshold,
                expected="0 to 1",
            )


@dataclass(frozen=True, slots=True, repr=False)
class ManifestSummary:
    """What `build_manifest` wrote: `excluded` counts by reason (without zeros), `warnings` what the
    user should know.

    `num_repaired` of the masks are those that `repair` made.
    """

    path: Path
    excluded_path: Path
    tiles: int
    excluded: dict[str, int]
    recipe: dict[str, Any]
    certificate: dict[str, Any]
    warnings: tuple[str, ...]
    num_repaired: int = 0

    @property
    def incomplete(self) -> bool:
        """Return whether tiles are missing because their files could not be used; an orphan mask is
        no tile, and what was left out on demand is not missing.
        """
        return any(reason not in ("orphan-mask", *CHOICES) for reason in self.excluded)

    def __repr__(self) -> str:
        """Return the counts in one line."""
        return f"<ManifestSummary: {self._counts()} | {visible(str(self.path))}>"

    def _repr_html_(self) -> str:
        """Return the counts, and what was left out, for notebooks."""
        rows = list(self.excluded.items())
        return html_result(f"{self._counts()} | {self.path}", ("left out", "tiles"), rows)

    def _counts(self) -> str:
        gone = sum(self.excluded.values())
        return f"{plural(self.tiles, 'tile')}, {gone:,} left out, {len(self.warnings)} warnings"

    def to_pandas(self) -> DataFrame:
        """Return the manifest: a row a tile."""
        frame: DataFrame = read_manifest(self.path).to_pandas()
        return frame


def build_manifest(
    tiles_path: str | Path,
    label_map: LabelMap,
    options: ManifestOptions,
    out_path: str | Path,
    *,
    phases: Phases = silent_phases,
) -> ManifestSummary:
    """Write the manifest of a tiles table, and what was left out to `<stem>.excluded.parquet`
    beside it.

    The result depends on the tiles, the label map and the options, not on the order of rows (but
    for the order of its own). Repaired masks take the place of damaged ones.

    Args:
        tiles_path: Path of tiles.parquet.
        label_map: The map from labels to classes.
        options: How to split, and what makes a tile conditional.
        out_path: Path of the manifest.
        phases: Called for `counting`, `splitting` and `writing`.

    Raises:
        UsageError: The options cannot be met, the labels of some masks are undecided (HP413,
            HP414), masks lie among the images (HP109), are numbered otherwise (HP111) or were
            remapped before (HP508), a given split leaks, or no tile can be included.
        IntegrityError: A table is damaged, or repaired masks are gone.
    """
    options.validate()
    source, target = Path(tiles_path), Path(out_path)
    tile_rows, header = open_rows(source)
    tiles_digest = file_digest(source)
    workspace = Workspace(Path(header["root"]), source.parent)
    rows = ChosenRows(tile_rows, choose_tiles(workspace, tile_rows, options.choice, tiles_digest))
    scanned = _scan_options(header, source)
    if rows.repaired is not None:
        rows.repaired.check_files(header["root"])
    readings = MaskReadings.of(source)
    readings.refuse(Path(header["root"]), here=False)
    if not options.force:
        _refuse_companions(rows, workspace)
        _refuse_labels_among_images(rows, Path(header["root"]))
        _refuse_masks_without_images(rows, Path(header["root"]))
        _refuse_shifted_numbers(rows, workspace)
        _refuse_misfits(rows, workspace)
    earlier = _earlier(options)
    plan = _plan(rows, source, label_map, options, workspace.root, scanned, earlier, phases)
    if found := header.get(PIXEL_GROUPS):
        plan.recipe["pixel_groups"] = found
    included = IncludedTiles(rows, label_map, workspace.root)
    plan.certificate.update(certify_neighbours(included, plan.splits, workspace))
    near = tuple(neighbours_warning(plan.certificate, scanned.get("group_by")))
    described = {
        "root": header["root"],
        "unlabelled_roots": scanned.get("unlabelled", []),
        "tiles_digest": tiles_digest,
        "recipe": plan.recipe,
        "certificate": plan.certificate,
        "excluded": plan.excluded,
    }
    if decided := readings.reading.as_json():
        described["mask_reading"] = decided
    if rows.repaired is not None:
        described |= {
            "repaired_masks": plan.num_repaired,
            "repaired_digest": file_digest(rows.repaired.path),
        }
    excluded_path = target.with_name(f"{target.stem}.excluded.parquet")
    gone = _excluded_batches(rows, label_map) if plan.excluded else iter(())
    tables.write_table(
        excluded_path,
        gone,
        EXCLUDED_SCHEMA,
        kind=EXCLUDED_KIND,
        schema_version=EXCLUDED_VERSION,
        metadata={},
    )
    moved = _moved_warning(target, included, plan)
    written = write_manifest(
        target,
        _rows(rows, label_map, options, plan.splits, plan.folds, phases("writing", "tiles")),
        label_map,
        described,
    )
    return ManifestSummary(
        target,
        excluded_path,
        written,
        plan.excluded,
        plan.recipe,
        plan.certificate,
        (*plan.warnings, *near, *moved),
        plan.num_repaired,
    )


def _earlier(options: ManifestOptions) -> EarlierSplit | None:
    """Return the split that is kept, its names seeded as those of the tiles will be."""
    if options.keep is None:
        return None
    manifest = open_earlier(options.keep)
    seed = int(manifest.recipe["seed"]) if options.seed is None else options.seed
    return EarlierSplit.of(manifest, seed)


def _moved_warning(target: Path, source: IncludedTiles, plan: _Plan) -> Iterator[str]:
    """Write which tiles of the kept split changed it beside the manifest, and yield it in words."""
    table = target.with_name(f"{target.stem}.moved.csv")
    number, first = write_moved(table, source, plan.kept, plan.splits)
    if number:
        tiles = plural(number, "tile")
        yield f"{tiles} changed the split, since {plan.why_moved}: {first}; all of them: {table}"


def _refuse_labels_among_images(source: ChosenRows, root: Path) -> None:
    """Raise UsageError when files that are read as images look like label masks (HP109): a model
    would learn to generate masks. Further masks of an image that has one are left out instead.
    """
    code = rule_ids.LABEL_LIKE_IMAGE
    paths: list[str] = []
    has_image = False
    for batch in source.read_batches(("image_path", "image_error", "contrast"), _PIECE):
        is_label = pc.fill_null(pc.starts_with(batch["image_error"], code.code), False)
        paths += batch["image_path"].filter(is_label).to_pylist()
        # Blank masks look like blank images.
        is_drawn = pc.and_(
            pc.invert(is_label), pc.fill_null(pc.greater(batch["contrast"], 0), True)
        )
        has_image |= bool(pc.any(pc.and_(is_drawn, pc.is_valid(batch["image_path"]))).as_py())
    if paths:
        further = further_masks(paths, _paired_images(source))
        paths = [path for path in paths if path not in further]
    if paths and not has_image:
        cause, advice = explain_masks_alone(root)
        raise UsageError(
            f"there are masks alone, and no image ({code})",
            path=root,
            seen=f"{plural(len(paths), 'file')}: {first_of(paths)}",
            expected="images, and a mask for each",
            details=[cause],
            hint=advice,
        )
    if paths:
        raise UsageError(
            f"masks lie among the images ({code})",
            path=root,
            seen=f"{plural(len(paths), 'file')}: {first_of(paths)}",
            expected="each mask with its image",
            hint=f"histoprep audit {shlex.quote(str(root))} says how to pair them; if they are"
            " images, --force leaves them out",
        )


def _paired_images(source: ChosenRows) -> Iterator[str]:
    for batch in source.read_batches(("image_path", "mask_path"), _PIECE):
        paired = batch["image_path"].filter(pc.is_valid(batch["mask_path"]))
        yield from paired.drop_null().to_pylist()


def _refuse_companions(source: ChosenRows, workspace: Workspace) -> None:
    """Raise UsageError when files that would be tiles rather belong to other images (HP109): masks,
    probability maps or overlays of them.
    """
    for group in find_companions(_image_facts(source)):
        raise UsageError(
            f"files that belong to other images would be tiles ({rule_ids.LABEL_LIKE_IMAGE})",
            path=workspace.root,
            seen=f"{plural(len(group.paths), 'file')}: {first_of(group.paths)}",
            expected="images, and one mask of each",
            details=[group.cause],
            hint=group.suggestion(workspace.root, earlier_options(workspace).scan),
        )


def _image_facts(source: ChosenRows) -> list[ImageFacts]:
    """Return what is known of the images that nobody left out, where some have no mask."""
    facts: list[ImageFacts] = []
    if not any(
        pc.any(pc.and_(pc.is_valid(batch["image_path"]), pc.is_null(batch["mask_path"]))).as_py()
        for batch in source.read_batches(("image_path", "mask_path"), _PIECE)
    ):
        return facts
    for batch in source.read_batches(
        ("image_path", "mask_path", "image_mode", "image_error", CHOICE), _PIECE
    ):
        rows = batch.filter(
            pc.and_(pc.is_valid(batch["image_path"]), pc.equal(batch[CHOICE], INCLUDED))
        )
        facts += map(
            ImageFacts,
            rows["image_path"].to_pylist(),
            pc.is_valid(rows["mask_path"]).to_pylist(),
            rows["image_mode"].to_pylist(),
            rows["image_error"].to_pylist(),
        )
        if len(facts) >= MAX_IMAGES:
            break
    return facts


def _refuse_misfits(source: ChosenRows, workspace: Workspace) -> None:
    """Raise UsageError when all masks of a slide or folder are turned, moved, scaled or of other
    tiles beyond doubt (HP418 to HP420) and some of them would be included.
    """
    codes = {
        MisfitKind.MISORIENTED: rule_ids.MISORIENTED_MASKS,
        MisfitKind.SHIFTED: rule_ids.SHIFTED_MASKS,
        MisfitKind.SCALED: rule_ids.SHIFTED_MASKS,
        MisfitKind.OTHER_TILES: rule_ids.MASKS_OF_OTHER_TILES,
    }
    found = [
        wrong
        for wrong in find_misfits(workspace, Engine(1))
        if wrong.is_firm and wrong.kind.is_of_source
    ]
    if not found:
        return
    included: set[str] = set()
    for batch in source.read_batches(("mask_path", CHOICE), _PIECE):
        included.update(batch["mask_path"].filter(pc.equal(batch[CHOICE], INCLUDED)).to_pylist())
    for wrong in found:
        paths = [mask.mask_path for mask in wrong.masks if mask.mask_path in included]
        if paths:
            root = shlex.quote(str(workspace.root))
            raise UsageError(
                f"masks do not fit their images ({codes[wrong.kind]})",
                path=workspace.root,
                seen=f"{plural(len(paths), 'mask')} in {wrong.source}: {first_of(paths)}",
                expected="masks that lie on their images as they are",
                hint=f"histoprep audit {root} says and shows what has to be done to them; --force"
                " takes them as they are",
            )


def _refuse_masks_without_images(source: ChosenRows, root: Path) -> None:
    """Raise UsageError when there are masks and images, and none of them belong together: every
    tile would be unconditional.
    """
    images = masks = 0
    for batch in source.read_batches(("image_path", "mask_path"), _PIECE):
        has_image, has_mask = (pc.is_valid(batch[name]) for name in ("image_path", "mask_path"))
        if pc.any(pc.and_(has_image, has_mask)).as_py():
            return
        images += pc.sum(has_image).as_py() or 0
        masks += pc.sum(has_mask).as_py() or 0
    if images and masks:
        raise UsageError(
            f"no mask has an image ({rule_ids.ORPHAN_MASK})",
            path=root,
            seen=f"{plural(images, 'image')}, {plural(masks, 'mask')}, and no pair",
            expected="masks that are called like their images",
            hint=f"histoprep audit {shlex.quote(str(root))} says how to pair them; --force takes"
            " the images alone",
        )


def _refuse_shifted_numbers(source: ChosenRows, workspace: Workspace) -> None:
    """Raise UsageError when masks are numbered otherwise than their images (HP111), so that each
    would be paired with a wrong one.
    """
    sides: list[tuple[str | None, str | None]] = []
    lone = [False, False]
    for batch in source.read_batches(("image_path", "mask_path", "unlabelled"), _PIECE):
        rows = batch.filter(pc.invert(batch["unlabelled"]))
        images, masks = (rows[name].to_pylist() for name in ("image_path", "mask_path"))
        sides += zip(images, masks, strict=True)
        lone = [found or None in side for found, side in zip(lone, (images, masks), strict=True)]
    for shift in find_shifts(sides) if all(lone) else ():
        root = workspace.root
        raise UsageError(
            f"masks are numbered otherwise than their images ({rule_ids.SHIFTED_NUMBERS})",
            path=root,
            seen=f"{plural(len(shift.masks), 'mask')}, such as: {shift.example}",
            expected="equal numbers for an image and its mask",
            hint=f"histoprep audit {shlex.quote(str(root))} says how to pair them; --force pairs"
            " equal numbers",
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything decided in pass 1: the split code and, if asked for, the fold of each included
    tile, the split it had (int8 [n]), why some changed it, and what is said of the split.
    """

    splits: np.ndarray
    folds: np.ndarray | None
    kept: np.ndarray
    why_moved: str
    recipe: dict[str, Any]
    certificate: dict[str, Any]
    excluded: dict[str, int]
    warnings: tuple[str, ...]
    num_repaired: int


def _plan(
    source: ChosenRows,
    table: Path,
    label_map: LabelMap,
    options: ManifestOptions,
    root: Path,
    scanned: Mapping[str, Any],
    earlier: EarlierSplit | None,
    phases: Phases,
) -> _Plan:
    group_by, pairs = scanned.get("group_by"), scanned.get("pairs")
    pairs_table = Path(pairs) if pairs else None
    seed = (earlier.recipe["seed"] if earlier else 0) if options.seed is None else options.seed
    inputs = gather(
        source,
        label_map,
        seed=seed,
        conditional_threshold=options.conditional_threshold,
        by_name=options.split_file is not None or bool(options.test),
        earlier=earlier,
        advance=phases("counting", "tiles"),
    )
    phases("splitting", "groups")
    if inputs.remapped and not options.force:
        raise remapped_error(label_map, root, inputs.remapped)
    if not options.force and (evidence := misfit(label_map, inputs.tiles_by_label, table, root)):
        raise misfit_error(label_map, root, evidence)
    if not options.force:
        _refuse_contradictions(source, label_map, root)
    included = IncludedTiles(source, label_map, root)
    ungrouped = (
        tuple(ungrouped_warning(included, inputs.rows.grouped, group_by)) if group_by else ()
    )
    units = join_units(inputs.rows)
    joined = tuple(_joined_warning(units))
    origin = SplitOrigin(root, options.split_file, pairs_table, options.test)
    kept = Kept.of(earlier, inputs, group_by)
    split = choose_split(included, inputs, units, options, origin, kept, seed)
    splits, num_joined = split.assignment.splits, units.num_joined
    del units
    shares = {name: float(np.mean(splits == SPLITS.index(name))) for name in SPLITS}
    wanted = {name: float(value) for name, value in (split.fractions or {}).items()} or {
        name: share for name, share in shares.items() if share
    }
    certificate = certify(inputs.rows, splits, wanted)
    recipe = {
        "method": split.method,
        "solver": split.assignment.solver,
        "fractions": wanted,
        "seed": seed,
        "split_file": str(options.split_file) if options.split_file else None,
        "conditional_threshold": options.conditional_threshold,
        "groups_joined_by_copies": num_joined,
        "grouping": group_by,
    }
    if options.test:
        recipe["test"] = list(options.test)
    folds = _folds(included, inputs, splits, options, kept, scanned)
    if folds is not None:
        recipe["folds"] = folds.recipe
        certificate["folds"] = certify_folds(inputs.rows, folds.of_tile, folds.recipe["names"])
    if kept is not None and not kept.no_basis:
        recipe |= kept.describe(inputs.kept, splits)
    if left_out := source.describe_choice():
        recipe["left_out"] = certificate["left_out"] = left_out
    listed = (*source.warnings, *split.warnings)
    warnings = (*listed, *ungrouped, *joined, *_warnings(inputs, certificate))
    return _Plan(
        splits,
        None if folds is None else folds.of_tile,
        inputs.kept,
        split.why_moved,
        recipe,
        certificate,
        inputs.excluded,
        warnings,
        inputs.num_repaired,
    )


def _folds(
    source: IncludedTiles,
    inputs: SplitInputs,
    splits: np.ndarray,
    options: ManifestOptions,
    kept: Kept | None,
    scanned: Mapping[str, Any],
) -> Folds | None:
    """Return the folds that are asked for, or those that the manifest before had."""
    before = kept.earlier.recipe.get("folds") if kept is not None and not kept.no_basis else None
    how = options.folds
    if how is None and before is not None:
        how = str(len(before["names"])) if before["by"] == "number" else str(before["by"])
    if how is None:
        return None
    table = scanned.get("csv")
    scan_options = ScanOptions(csv=Path(table) if table else None)
    return choose_folds(how, source, inputs.rows, splits, inputs.kept_folds, before, scan_options)


def _refuse_contradictions(source: ChosenRows, label_map: LabelMap, root: Path) -> None:
    """Raise UsageError when the map calls labels of the included tiles otherwise than folders or a
    table call the images (HP510).
    """
    chunks = (
        batch.filter(pc.equal(batch[CHOICE], INCLUDED))
        for batch in source.read_batches((*image_labels.COLUMNS, CHOICE), _PIECE)
    )
    table = image_labels.count_image_labels(chunks, label_map)
    found = [each for each in contradictions(label_map, table) if each.is_firm]
    if found:
        raise contradiction_error(label_map, root, found)


def _scan_options(header: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return how the folder was read; raises UsageError for a table that holds a sample, or no
    labels.
    """
    options = header.get("options", {})
    if options.get("sample") is not None or options.get("tiles", {}).get("headers_only"):
        raise UsageError(
            "the tiles table was made by a quick or sampling audit",
            path=path,
            expected="a table of all tiles",
            hint="histoprep audit",
        )
    scanned: Mapping[str, Any] = options.get("scan", {})
    return scanned


def _rows(
    source: ChosenRows,
    label_map: LabelMap,
    options: ManifestOptions,
    splits: np.ndarray,
    folds: np.ndarray | None,
    advance: Advance,
) -> Iterator[pa.Table]:
    """Yield the manifest's rows, pass 2."""
    progress, end = TaskProgress(advance, source.num_rows), 0
    for chunk in source.read_batches(_PASS_2, _PIECE):
        derived = derive(chunk, label_map, options.conditional_threshold)
        start, end = end, end + int(derived.included.sum())
        chunk_folds = None if folds is None else folds[start:end]
        yield _manifest_table(chunk, derived, splits[start:end], chunk_folds, label_map)
        progress.add(chunk.num_rows)


def _manifest_table(
    chunk: pa.Table,
    derived: Derived,
    splits: np.ndarray,
    folds: np.ndarray | None,
    label_map: LabelMap,
) -> pa.Table:
    included = derived.included
    rows = chunk.select(_COPIED).filter(pa.array(included))
    core = derived.core[included]
    ids = np.array([cls.id for cls in label_map.classes], dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum(core.sum(axis=1))]).astype(np.int32)
    columns: dict[str, Any] = {name: rows[name] for name in _COPIED}
    columns["split"] = pa.array(SPLITS).take(pa.array(splits))
    columns["pool"] = pa.array((UNCONDITIONAL, CONDITIONAL)).take(
        pa.array(derived.conditional[included].astype(np.int8))
    )
    columns["class_pixels"] = pa.FixedSizeListArray.from_arrays(
        pa.array(derived.pixels[included].ravel()), len(ids)
    )
    columns["classes"] = pa.ListArray.from_arrays(offsets, pa.array(ids[np.nonzero(core)[1]]))
    wanted = schema(len(ids), has_folds=folds is not None)
    if folds is not None:
        columns[FOLD.name] = pa.array(folds, FOLD.type, mask=folds == NO_SPLIT)
    columns |= {name: pa.nulls(rows.num_rows, wanted.field(name).type) for name in SHARD_COLUMNS}
    return pa.table([columns[name] for name in wanted.names], schema=wanted)


def _excluded_batches(source: ChosenRows, label_map: LabelMap) -> Iterator[pa.Table]:
    for chunk in source.read_batches(manifest_rows.COLUMNS):
        yield manifest_rows.describe_exclusions(chunk, derive(chunk, label_map), label_map)


def _joined_warning(units: Units) -> Iterator[str]:
    if units.num_joined:
        largest = int(np.bincount(units.of_tile).max())
        yield (
            f"{units.num_joined} groups share images with other groups and were kept together with"
            f" them; the largest such unit has {largest} tiles"
        )


def _warnings(inputs: SplitInputs, certificate: Mapping[str, Any]) -> Iterator[str]:
    if inputs.num_stale:
        yield (
            f"{inputs.num_stale:,} repaired masks are left out: their damaged masks changed or"
            " are gone; run histoprep repair again"
        )
    if inputs.pool_overlaps:
        yield (
            f"{inputs.pool_overlaps} images are in the conditional and in the unconditional pool"
            " (HP704)"
        )
    if certificate["missing"]:
        yield "no tile of " + ", ".join(certificate["missing"][:10]) + " (HP801)"


def raw_label_map(tiles_path: str | Path) -> LabelMap:
    """Return the map of each label in a tiles table to itself, repaired masks in place of damaged
    ones; without masks it has the one class 0.

    Raises UsageError when a label is too large for a class.
    """
    source, header = open_rows(Path(tiles_path))
    labels: set[int] = set()
    for chunk in source.read_batches(["label_ids"]):
        labels.update(pc.unique(pc.list_flatten(chunk["label_ids"])).to_pylist())
    if labels and max(labels) > MAX_CLASS_ID:
        raise _too_large(source, max(labels), Path(tiles_path), header["root"])
    return identity_map(labels or {0})


def _too_large(source: TileRows, largest: int, table: Path, root: str) -> UsageError:
    """Return the error for labels that are too large for classes, with the first mask that holds
    one.
    """
    masks: list[str] = []
    for chunk in source.read_batches(["mask_path", "label_ids"]):
        rows = zip(chunk["mask_path"].to_pylist(), chunk["label_ids"].to_pylist(), strict=True)
        masks += [path for path, labels in rows if labels and max(labels) > MAX_CLASS_ID]
    what = f"labels of {plural(len(masks), 'mask')} are too large to be classes (HP505)"
    folder = shlex.quote(root)
    hint = (
        f"histoprep map init {folder} --out labels.yml, give the classes their names in it, then"
        f" histoprep manifest {folder} --map labels.yml; tiles with a label that a map does not"
        " list are left out"
    )
    label = f"#{largest:06x}" if MaskReadings.of(table).has_colours else str(largest)
    return UsageError(
        what, path=masks[0], seen=f"label {label}", expected=f"at most {MAX_CLASS_ID}", hint=hint
    )
