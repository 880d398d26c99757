"""Tables -> the evidence that rules look at, and the findings of all rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from histoprep import catalogue, checks, tables
from histoprep.auditing.duplicates import COLUMNS as DUPLICATE_COLUMNS
from histoprep.auditing.duplicates import SCHEMA as DUPLICATE_SCHEMA
from histoprep.auditing.duplicates import compare, find_candidates
from histoprep.auditing.overview import read_overview
from histoprep.auditing.sources import Sources
from histoprep.checks import Amounts, CheckOptions, Chunk, Evidence, commands
from histoprep.counting import Counts, count_table
from histoprep.digests import file_digest
from histoprep.errors import IntegrityError
from histoprep.execution import Engine
from histoprep.findings import Finding
from histoprep.labels import LabelMap
from histoprep.labels.ignored import IgnoredValue, LabelAmounts, find_ignored_value
from histoprep.mask_reading import Reading
from histoprep.names import to_text
from histoprep.remote import shown_root
from histoprep.scanning import ScanOptions
from histoprep.scanning.companions import MAX_IMAGES, ImageFacts, find_companions
from histoprep.scanning.group_patterns import MIN_GROUPS, Grouping
from histoprep.scanning.numbering import find_shifts
from histoprep.scanning.table_groups import suggest_columns
from histoprep.schemas.repaired import (
    CONTENT_COLUMNS,
    IS_REPAIRED,
    RepairedMasks,
    TileRows,
    open_repaired,
)
from histoprep.schemas.tiles import PIXEL_GROUPS, open_tiles_table, read_issues
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.exif_fit import find_exif_fit
from histoprep.tiles.instances import COLUMNS as INSTANCE_COLUMNS
from histoprep.tiles.instances import InstanceIds, LabelUse
from histoprep.tiles.lossy_sources import lossy_sources
from histoprep.tiles.misfits import find_misfits
from histoprep.tiles.neighbourhood import Neighbours, find_neighbours
from histoprep.tiles.options import earlier_options
from histoprep.tiles.pixel_groups import COLUMNS as GROUP_COLUMNS
from histoprep.tiles.pixel_groups import name_groups
from histoprep.tiles.readings import MaskReadings

if TYPE_CHECKING:
    from histoprep.schemas.manifest import Manifest

_DUPLICATES_KIND = "duplicates"
_DUPLICATES_VERSION = "2.0"


@dataclass(frozen=True)
class _WithoutManifest(Workspace):
    """A workspace whose manifest cannot be read: counts go by the folders' splits, and HP901 says
    why.
    """

    @property
    def manifest(self) -> Path:
        """Return a path where nothing is."""
        return self.folder / "no-manifest"


def gather(workspace: Workspace, sources: Sources, engine: Engine) -> Evidence:
    """Return the evidence of a workspace with an up-to-date tiles table.

    Candidate copies are decoded again in worker processes and kept in duplicates.parquet.
    """
    opened, header = open_tiles_table(workspace.tiles)
    # First, since it needs columns of all tiles that nothing else does.
    duplicates, num_uncompared = _duplicates(workspace, opened, header, engine)
    repaired = _repaired_masks(workspace)
    manifest = _readable_manifest(workspace)
    counted = workspace if manifest else _WithoutManifest(workspace.root, workspace.folder)
    label_map, map_path = sources.label_map, to_text(str(sources.map_path or ""))
    takes_map = sources.map_path is None and sources.takes_manifest_map
    if takes_map and manifest and not manifest.label_map.is_identity:
        # What is split by classes is judged by the same classes.
        label_map, map_path = manifest.label_map, to_text(str(manifest.path))
    rows = TileRows(opened, repaired, CONTENT_COLUMNS)
    overview = read_overview(rows, label_map, workspace.folder)
    counts = count_table(counted, label_map, by_group=True, repaired=repaired)
    readings = MaskReadings.of(workspace.tiles)
    neighbours = find_neighbours(workspace, engine)
    scan = earlier_options(workspace).scan
    return Evidence(
        root=workspace.root,
        overview=overview,
        issues=read_issues(workspace).to_pandas(types_mapper=checks.nullable),
        duplicates=duplicates,
        num_uncompared=num_uncompared,
        amounts=_amounts(overview),
        label_counts=counts.raw,
        counts=counts.mapped if counts.mapped is not None else counts.raw,
        raw_map=counts.raw_map,
        label_map=label_map,
        map_problems=sources.map_problems,
        map_path=map_path,
        expected=sources.expected,
        manifest=workspace.manifest if workspace.manifest.exists() else None,
        options=CheckOptions(sources.min_area_px, sources.tile_size_px, sources.headers_only),
        lossy=tuple(lossy_sources(workspace.tiles)),
        repaired=frozenset(overview.mask_path[overview[IS_REPAIRED]]),
        readings=readings,
        ignored_value=_ignored_value(counts.raw, label_map, are_colours=readings.has_colours),
        instances=_instances(TileRows(opened, repaired, CONTENT_COLUMNS)),
        image_labels=counts.image_labels,
        companions=tuple(find_companions(_image_facts(overview))),
        misfits=find_misfits(workspace, engine),
        exif_fit=find_exif_fit(workspace.tiles),
        neighbours=neighbours.pairs,
        pixel_groups=header.get(PIXEL_GROUPS, {}),
        groups_in_pixels=_groups_in_pixels(opened, overview, neighbours),
        shifts=tuple(find_shifts(_sides(overview))),
        suggested_pairs=workspace.suggested_pairs,
        scan=scan,
        columns_of_groups=_columns_of_groups(workspace.root, scan, overview),
    )


def _groups_in_pixels(
    opened: Any, overview: pd.DataFrame, neighbours: Neighbours
) -> tuple[int, int]:
    """Return how many groups --group-by pixels would find, and of how many tiles; none where groups
    are known or nothing touches or overlaps.
    """
    if neighbours.pairs.empty or overview.group.notna().any():
        return 0, 0
    tiles = tables.read_table(opened, list(GROUP_COLUMNS)).to_pandas()
    _, found = name_groups(tiles, neighbours)
    return found["groups"], found["tiles"]


def _sides(overview: pd.DataFrame) -> list[tuple[str | None, str | None]]:
    """Return image and mask of each tile; none at all where no image or no mask is alone."""
    has_image, has_mask = overview.image_path.notna(), overview.mask_path.notna()
    if (has_image | ~has_mask).all() or (has_mask | ~has_image).all():
        return []
    chosen = overview[~checks.true(overview.unlabelled)]
    columns = [chosen[name] for name in ("image_path", "mask_path")]
    images, masks = (column.astype(object).where(column.notna(), None) for column in columns)
    return list(zip(images, masks, strict=True))


def _columns_of_groups(
    root: Path, scan: ScanOptions, overview: pd.DataFrame
) -> tuple[Grouping, ...]:
    """Return the columns of tables that would group the tiles; none where groups are known."""
    images = overview.image_path.dropna()
    if len(images) < MIN_GROUPS or overview.group.notna().any() or not root.is_dir():
        return ()
    return tuple(suggest_columns(root, scan.csv, images.tolist()))


def _image_facts(overview: pd.DataFrame) -> list[ImageFacts]:
    images = overview[overview.image_path.notna()].head(MAX_IMAGES)
    if images.mask_path.notna().all():
        return []
    columns = [images[name] for name in ("image_mode", "image_error")]
    modes, errors = (column.astype(object).where(column.notna(), None) for column in columns)
    return list(map(ImageFacts, images.image_path, images.mask_path.notna(), modes, errors))


def _instances(rows: TileRows) -> InstanceIds | None:
    use = LabelUse()
    for chunk in rows.read_batches(INSTANCE_COLUMNS):
        use.add(chunk)
    return use.instances()


def _ignored_value(
    counts: Counts, label_map: LabelMap | None, *, are_colours: bool
) -> IgnoredValue | None:
    """Return the value that seems to mark pixels without a label; None where the label map gives it
    a class, which somebody decided then.
    """
    names = ("tiles", "core_tiles", "pixels", "core_pixels")
    sums = counts.classes.groupby("class_id")[list(names)].sum()
    amounts = {
        int(str(label)): LabelAmounts(*map(int, row))
        for label, row in zip(sums.index, sums.to_numpy(), strict=True)
    }
    rows = counts.cooccurrence[["class_a", "class_b", "tiles"]].to_numpy().tolist()
    pairs = {(int(a), int(b)): int(tiles) for a, b, tiles in rows}
    found = find_ignored_value(amounts, pairs, are_colours=are_colours)
    listed = found is not None and label_map is not None and label_map.class_of(found.value) >= 0
    return None if listed else found


def _readable_manifest(workspace: Workspace) -> Manifest | None:
    from histoprep.schemas.manifest import open_manifest

    try:
        return open_manifest(workspace.manifest) if workspace.manifest.exists() else None
    except IntegrityError:
        return None


def _repaired_masks(workspace: Workspace) -> RepairedMasks | None:
    """Return the repaired masks; None where those are gone or a repair did not end, which the
    stages that need them say.
    """
    try:
        repaired = open_repaired(workspace.folder)
        if repaired is not None:
            repaired.check_files(workspace.root)
    except IntegrityError:
        return None
    return repaired


def _amounts(overview: pd.DataFrame) -> Amounts:
    has_image, has_mask = overview.image_path.notna(), overview.mask_path.notna()
    return Amounts(
        images=int(has_image.sum()),
        masks=int(has_mask.sum()),
        pairs=int((has_image & has_mask).sum()),
        orphan_masks=int((has_mask & ~has_image).sum()),
        zero_masks=int((overview.zero & has_image).sum()),
        unreadable=sum(
            int(overview[side].str.startswith("HP2").fillna(False).sum())
            for side in ("image_error", "mask_error")
        ),
    )


def _duplicates(
    workspace: Workspace, opened: Any, header: Mapping[str, Any], engine: Engine
) -> tuple[pd.DataFrame, int]:
    """Return the compared pairs and how many were left out; those of an earlier audit of the same
    table are taken over.
    """
    # Not of the listing: files that could not be read may be read now.
    key = {"tiles_digest": file_digest(workspace.tiles), "options": header["options"]}
    earlier = _earlier_duplicates(workspace, key)
    if earlier is not None:
        return earlier
    taker = tables.RowTaker(opened)
    candidates = find_candidates(
        tables.read_batches(opened, DUPLICATE_COLUMNS),
        lambda rows: taker.take(rows, ("image_path", "mask_path")),
    )
    found = compare(workspace.root, candidates.pairs, workspace.parts, engine, _reading(header))
    metadata = key | {"num_left_out": candidates.num_left_out}
    tables.write_table(
        workspace.duplicates,
        [found],
        DUPLICATE_SCHEMA,
        kind=_DUPLICATES_KIND,
        schema_version=_DUPLICATES_VERSION,
        metadata=metadata,
    )
    return found.to_pandas(types_mapper=checks.nullable), candidates.num_left_out


def _reading(header: Mapping[str, Any]) -> Reading:
    return TileOptions.from_json(header["options"]["tiles"]).mask_reading


def _earlier_duplicates(
    workspace: Workspace, key: Mapping[str, Any]
) -> tuple[pd.DataFrame, int] | None:
    try:
        opened, header = tables.open_table(
            workspace.duplicates, kind=_DUPLICATES_KIND, schema_version=_DUPLICATES_VERSION
        )
        if any(header.get(name) != value for name, value in key.items()):
            return None
        return tables.read_table(opened).to_pandas(types_mapper=checks.nullable), header[
            "num_left_out"
        ]
    except (FileNotFoundError, IntegrityError):
        return None


def run_rules(workspace: Workspace, evidence: Evidence) -> list[Finding]:
    """Return the findings of every rule, those of one rule and place joined, in order of code."""
    opened, _ = open_tiles_table(workspace.tiles)
    # `gather` saw that the repaired masks are there.
    repaired = open_repaired(workspace.folder) if evidence.repaired else None
    found = [
        replace(each, suggestion=_placed(each.suggestion, evidence))
        for each in checks.merged(_run(TileRows(opened, repaired, CONTENT_COLUMNS), evidence))
    ]
    return sorted(found, key=lambda finding: (finding.code, finding.subcode, finding.where))


def _placed(advice: str, evidence: Evidence) -> str:
    """Return advice whose commands name this data set."""
    root = to_text(shown_root(evidence.root))
    manifest = evidence.manifest and to_text(str(evidence.manifest))
    return commands.placed(advice, root, evidence.map_path, manifest)


def _run(rows: TileRows, evidence: Evidence) -> Iterator[Finding]:
    for batch in rows.read_batches():
        chunk = Chunk.of(batch)
        for find_in in catalogue.row_checks():
            yield from find_in(chunk, evidence)
    for find in catalogue.table_checks():
        yield from find(evidence)
