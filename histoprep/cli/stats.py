"""`histoprep stats`: class shares, tiles a class, pairs of classes and class weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console, rule_ids
from histoprep.choices import Dimension, StatsFormat
from histoprep.cli.label_maps import chosen_map, note_manifest_map
from histoprep.cli.options import MapName, Root, Verify, Workers, WorkspaceFolder
from histoprep.cli.reading import read_tiles
from histoprep.labels import load_label_map
from histoprep.phrases import plural
from histoprep.schemas.workspace import Workspace

if TYPE_CHECKING:
    from histoprep.counting import Stats
    from histoprep.counting.summary import ClassSummary

_MAX_KEYS = 8
_MAX_CLASSES = 12
_MAX_UNMAPPED = 10


def stats(
    root: Root = Path(),
    *,
    workspace_folder: WorkspaceFolder = None,
    map_name: MapName = None,
    by: Annotated[
        list[Dimension] | None,
        typer.Option(
            help="Report shares by this column; repeatable.", show_default="split and pool"
        ),
    ] = None,
    output: Annotated[
        StatsFormat, typer.Option("--format", help="Format of the result.")
    ] = StatsFormat.TABLE,
    verify: Verify = False,
    workers: Workers = None,
) -> None:
    """Count classes: pixel shares, tiles that hold them, pairs, weights.

    Pixels are not read again: everything comes from tiles.parquet, which is created first if it is
    missing. Writes stats.parquet, stats.json and pixel_class_percentages.png to the workspace.
    Splits and pools are those of the manifest if there is one; tiles that no manifest can include
    are not counted, and the reason is printed.

    Exit codes: 0 done; 3 some folders could not be read (listed in the output).

    Examples:
        histoprep stats tiles --map my_map.yml
        histoprep stats tiles --by group --format csv
    """
    from histoprep.counting import as_json, compute_stats, csv_text, write_stats
    from histoprep.remapping.contradictions import contradictions
    from histoprep.remapping.evidence import evidence_in
    from histoprep.remapping.first_map import void_warning
    from histoprep.remapping.fit import misfit, misfit_error
    from histoprep.repairing.record import damage_warnings
    from histoprep.tiles.readings import MaskReadings

    workspace = Workspace.of(root, workspace_folder)
    path = chosen_map(map_name, workspace.root)
    label_map = load_label_map(path) if path else None
    if label_map is None:
        note_manifest_map(workspace, is_used=False)
    seen = read_tiles(workspace, workers=workers, verify=verify)
    found = compute_stats(workspace, label_map, by=tuple(by or (Dimension.SPLIT, Dimension.POOL)))
    paths = write_stats(found, workspace)
    if output is StatsFormat.JSON:
        console.raw(json.dumps(as_json(found), indent=2, ensure_ascii=False))
    elif output is StatsFormat.CSV:
        console.raw(csv_text(found).rstrip("\n"))
    else:
        _print_tables(found)
    _print_warnings(found)
    if label_map is not None and (remapped := evidence_in(workspace.tiles, label_map)):
        console.warn(
            f"{rule_ids.ALREADY_REMAPPED}: {remapped}; these shares are of masks that were mapped"
            " twice"
        )
    evidence = None
    if label_map is not None:
        tiles = dict(zip(found.raw.classes["class_id"], found.raw.classes["tiles"], strict=True))
        evidence = misfit(label_map, tiles, workspace.tiles, workspace.root)
        if evidence is not None:
            error = misfit_error(label_map, workspace.root, evidence)
            console.warn(f"{error.what}: {evidence}")
        for each in contradictions(label_map, found.image_labels):
            console.warn(f"{rule_ids.NAME_CONTRADICTION.code}: {each.name}: {each.detail}")
    if label_map is None and (void := void_warning(workspace.tiles, workspace.root)):
        console.warn(void)
    for warning in MaskReadings.of(workspace.tiles).warnings():
        console.warn(warning)
    for warning in damage_warnings(workspace):
        console.warn(warning)
    for path in paths:
        console.note(f"wrote {path}")
    console.next_steps(
        ("histoprep", "map", "init", root, "--out", "label_map.yml")
        if evidence is not None
        else ("histoprep", "manifest", root, *(("--map", map_name) if map_name else ()))
    )
    raise typer.Exit(seen)


def _print_tables(found: Stats) -> None:
    summary = found.main
    conditional = summary.num_tiles - summary.num_unconditional
    pools = f"{conditional:,} conditional, {summary.num_unconditional:,} unconditional"
    repaired = f"; {found.num_repaired:,} repaired masks" if found.num_repaired else ""
    console.out(
        f"{summary.num_tiles:,} tiles: {pools}; {summary.num_pixels:,} mask pixels{repaired}"
    )
    records = summary.classes.to_dict("records")
    names = [(str(record["class_id"]), record["class_name"]) for record in records]
    shares = [
        (record["pixels"], _percent(record["pixel_percent"]), record["tiles"], record["core_tiles"])
        for record in records
    ]
    title = "Classes" if found.label_map is None else f"Classes of {found.label_map.name}"
    console.table(
        ("class", "name", "pixels", "pixel %", "tiles", "core tiles"),
        _joined(names, shares),
        title=title,
    )
    weights = [
        tuple(_weight(record[f"weight_{kind}"]) for kind in ("inverse", "median", "effective"))
        for record in records
    ]
    console.table(
        ("class", "name", "  inverse", "   median", "effective"),
        _joined(names, weights),
        title=(
            "Class weights of a loss, mean 1: inverse and median (of the class shares) for a loss"
            " over pixels, effective (number of tiles) for a loss over tiles"
        ),
    )
    for dimension in found.by:
        _print_breakdown(found, dimension)
    _print_pairs(summary)
    _print_image_labels(found)


def _print_image_labels(found: Stats) -> None:
    from histoprep.tiles.image_labels import NO_LABEL

    table = found.image_labels
    if not table.is_shown or len(table.columns) > _MAX_CLASSES:
        return
    names = found.raw_map
    columns = ["none" if label == NO_LABEL else names.class_name(label) for label in table.columns]
    console.table(
        ("image label", *columns),
        [
            (name, *(table.tiles[name][label] for label in table.columns))
            for name in sorted(table.tiles)
        ],
        title="Tiles of each image label, by the mask label of most pixels",
    )


def _print_breakdown(found: Stats, dimension: str) -> None:
    from histoprep.counting import shares_by

    table = shares_by(found.main, dimension)
    keys = [str(key) for key in table.columns[2:]]
    rows = [
        (str(row[0]), str(row[1]), *map(_percent, row[2 : 2 + _MAX_KEYS]))
        for row in table.itertuples(index=False, name=None)
    ]
    source = f" (splits of the {found.split_source})" if dimension == Dimension.SPLIT else ""
    more = f"; {len(keys) - _MAX_KEYS:,} more in stats.parquet" if len(keys) > _MAX_KEYS else ""
    console.table(
        ("class", "name", *(f"{key:>7}" for key in keys[:_MAX_KEYS])),
        rows,
        title=f"Per cent of pixels by {dimension}{source}{more}",
    )


def _print_pairs(summary: ClassSummary) -> None:
    square = summary.cooccurrence
    if len(square) > _MAX_CLASSES:
        console.note("pairs of classes are in stats.json")
        return
    rows = [(str(label), *map(int, square.loc[label])) for label in square.index]
    console.table(("class", *map(str, square.columns)), rows, title="Tiles that hold both classes")


def _print_warnings(found: Stats) -> None:

    if found.left_out:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in found.left_out.items())
        console.warn(
            f"not counted, since no manifest takes them: {reasons}; histoprep audit says more"
        )
    if found.ignored is not None:
        amount = plural(found.ignored.pixels, "pixel")
        console.note(f"ignored: {amount} in {plural(found.ignored.tiles, 'tile')}")
    if found.num_unlisted:
        console.warn(
            f"{plural(found.num_unlisted, 'tile')} not in the manifest, of no split and shown as -:"
            " run histoprep manifest again"
        )
    unmapped = sorted(
        found.main.unmapped.to_dict("records"), key=lambda row: (-row["pixels"], row["label_id"])
    )
    for row in unmapped[:_MAX_UNMAPPED]:
        amount = f"{plural(row['pixels'], 'pixel')} in {plural(row['tiles'], 'tile')}"
        console.warn(
            f"label {row['label_id']} is not in the label map: {amount}, the first of them"
            f" {row['example']}"
        )
    if len(unmapped) > _MAX_UNMAPPED:
        console.warn(
            f"and {plural(len(unmapped) - _MAX_UNMAPPED, 'label')} more that the label map does not"
            " list, in stats.json"
        )


def _joined(
    left: Sequence[tuple[object, ...]], right: Sequence[tuple[object, ...]]
) -> list[tuple[object, ...]]:
    return [(*a, *b) for a, b in zip(left, right, strict=True)]


def _percent(share: float) -> str:
    return f"{share:7.2f}"


def _weight(value: float) -> str:
    # NaN: the class does not occur.
    return "        -" if math.isnan(value) else f"{value:9.3f}"
