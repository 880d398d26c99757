"""`histoprep manifest`: build, check, compare and show manifests."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console
from histoprep.choices import SplitMethod
from histoprep.cli.findings import print_finding
from histoprep.cli.label_maps import chosen_map, note_manifest_map
from histoprep.cli.options import MapName, Root, Verify, Workers, WorkspaceFolder, separated
from histoprep.cli.reading import read_tiles
from histoprep.command_style import Commands
from histoprep.durable import locked
from histoprep.errors import ExitCode, UsageError
from histoprep.labels import load_label_map
from histoprep.phrases import first_of, plural
from histoprep.schemas.workspace import Workspace, check_outside
from histoprep.split import parse_fractions

if TYPE_CHECKING:
    from histoprep.labels import LabelMap
    from histoprep.manifest.build import ManifestSummary

_SHOWN = 10
# Where more classes than these are in no tile, the table leaves them out.
_MAX_EMPTY_CLASSES = 10


_HELP = """Split without leaks and write the manifest.

`manifest [ROOT] ...` is short for `manifest build [ROOT] ...`.

Examples:
    histoprep manifest tiles --map my_map.yml --group-by "(case\\d+)_"
    histoprep manifest build --help
    histoprep manifest check tiles.histoprep/manifest.parquet
"""
_CHOICE = "What is left out"
app = Commands("manifest", _HELP, default="build")

ManifestFile = Annotated[Path, typer.Argument(help="A manifest.", show_default=False)]


@app.command()
def build(
    root: Root = Path(),
    *,
    workspace_folder: WorkspaceFolder = None,
    map_name: MapName = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SHARES",
            help="Shares of the splits: 0.9/0.1, 0.8/0.1/0.1 or train=0.9,test=0.1.",
            show_default="0.9/0.1",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Another seed gives another split of the same shares.",
            show_default="as before, or 0",
        ),
    ] = None,
    split_method: Annotated[
        SplitMethod,
        typer.Option(
            help=(
                "auto: even shares; hash: by the names of groups alone, whatever the others are;"
                " file: as in --split-file."
            )
        ),
    ] = SplitMethod.AUTO,
    split_file: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Table of tiles, images, slides or groups and their split, or a folder with"
                " train.txt and test.txt. What it does not name is shared out; not to test if it"
                " names one."
            ),
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUPS",
            help=(
                "Groups or slides that are test, such as case7,case9, and no others are; or a file"
                " with a name a line."
            ),
            show_default=False,
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help=(
                "Share what is not test out to so many folds for cross-validation; or one fold for"
                " each value of folder, csv:COLUMN or a regular expression."
            ),
            show_default="as before",
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="Tiles of this manifest stay in their split.",
            show_default="the one that --out replaces",
        ),
    ] = None,
    reshuffle: Annotated[
        bool,
        typer.Option(
            "--reshuffle",
            help="Split all tiles anew; otherwise those of the manifest in this place stay.",
        ),
    ] = False,
    ignore_folder_split: Annotated[
        bool,
        typer.Option(
            "--ignore-folder-split",
            help="Split tiles anew that folders or a table of pairs give a split.",
        ),
    ] = False,
    group_by: Annotated[
        str | None, typer.Option(help="As in audit.", show_default="as in the last audit")
    ] = None,
    no_groups: Annotated[
        bool,
        typer.Option(
            "--no-groups",
            help="Split tile by tile, and forget the groups until --group-by names them again.",
        ),
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULES",
            help=(
                "Leave out the tiles that findings of these rules name, such as HP303,HP601; of"
                " copies, one stays."
            ),
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    drop_list: Annotated[
        Path | None,
        typer.Option(
            help="Leave out the tiles of this table or list: ids, or paths of images or masks.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    keep_list: Annotated[
        Path | None,
        typer.Option(
            help="Leave out all but the tiles of this table or list.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take only this many of the tiles that are left, the same ones every time.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    conditional_threshold: Annotated[
        float,
        typer.Option(
            help="Least share of pixels of classes other than 0 in a conditional tile.",
            show_default="any pixel",
        ),
    ] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="WORKSPACE/manifest.parquet")
    ] = None,
    dataset_csv: Annotated[
        Path | None,
        typer.Option(help="Also write image names and classes as CSV.", show_default=False),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help=(
                "Go on although masks seem to be remapped already (HP508), or other than those the"
                " map was made for, or named otherwise in it than the images (HP510), or are"
                " numbered otherwise than images (HP111), or lie among the images (HP109), where"
                " they are left out."
            ),
        ),
    ] = False,
    verify: Verify = False,
    workers: Workers = None,
) -> None:
    """Assign every valid tile to a split and a pool, and write the manifest.

    Groups (--group-by) and copies of an image never cross splits; pools and classes are distributed
    evenly.

    Exit codes: 0 written; 3 written without some tiles whose files could not be used (listed in
    manifest.excluded.parquet), or without some folders that could not be read (listed in the
    output).

    Examples:
        histoprep manifest tiles --map my_map.yml --group-by "(case\\d+)_"
        histoprep manifest tiles --exclude HP303,HP601 --drop-list dropped.csv
        histoprep manifest tiles --test case7,case9 --split 0.8/0.2/0
    """
    from histoprep.manifest.build import ManifestOptions, build_manifest, raw_label_map
    from histoprep.manifest.choice import ChoiceOptions
    from histoprep.manifest.dataset_csv import write_dataset_csv
    from histoprep.manifest.groups import regrouped
    from histoprep.remapping.first_map import void_warning
    from histoprep.repairing.record import damage_warnings
    from histoprep.schemas.manifest import open_manifest
    from histoprep.tiles.instances import refuse_instances
    from histoprep.tiles.options import earlier_options

    workspace = Workspace.of(root, workspace_folder)
    target = out or workspace.manifest
    method = SplitMethod.FILE if split_file and split_method is SplitMethod.AUTO else split_method
    fractions = parse_fractions(split) if split else None
    options = ManifestOptions(
        fractions,
        seed,
        method.value,
        split_file,
        conditional_threshold,
        ignore_folder_split,
        force,
        ChoiceOptions(_codes(separated(exclude)), drop_list, keep_list, sample),
        _test_groups(test),
        _kept(keep, target, folds, reshuffle=reshuffle),
        folds,
    )
    options.validate()
    if no_groups and group_by is not None:
        raise UsageError(
            "--no-groups and --group-by contradict each other",
            seen=f"--group-by {group_by}",
            hint="choose one of them",
        )
    data = (workspace.root, *earlier_options(workspace).scan.unlabelled)
    if out:
        check_outside(out, data, "the manifest")
    if dataset_csv:
        check_outside(dataset_csv, data, "a table", "--dataset-csv", text=True)
    map_path = chosen_map(map_name, workspace.root)
    label_map = load_label_map(map_path) if map_path else None
    if not no_groups:
        _check_groups(workspace, group_by, target)
    with regrouped(workspace, group_by, no_groups=no_groups) as scan_options:
        seen = read_tiles(workspace, scan_options, workers=workers, verify=verify)
        if label_map is None:
            refuse_instances(workspace.tiles, workspace.root)
            label_map = raw_label_map(workspace.tiles)
            console.warn(
                "no label map (--map): the classes are the labels of the masks (histoprep map init"
                " writes a map to begin with)"
            )
            note_manifest_map(workspace, is_used=False)
            if warning := void_warning(workspace.tiles, workspace.root):
                console.warn(warning)
        with locked(workspace.folder), console.phases() as phases:
            summary = build_manifest(
                workspace.tiles,
                label_map,
                options,
                target,
                phases=phases,
            )
    _print_summary(summary, label_map)
    if number := summary.excluded.get("unmapped-label"):
        named = ["--map", map_name] if map_name else []
        words = shlex.join(["histoprep", "audit", str(root), *named])
        console.warn(
            f"{plural(number, 'tile')} left out, since {label_map.name} does not list all of their"
            f" labels; which these are (HP501): {words}"
        )
    for warning in damage_warnings(workspace):
        console.warn(warning)
    if dataset_csv:
        write_dataset_csv(open_manifest(summary.path), dataset_csv)
        console.note(f"wrote {dataset_csv}")
    console.out(str(summary.path))
    console.next_steps(
        ("trainer", "fit", "--manifest", summary.path, "--preset", "codec-tiny"),
        ("histoprep", "shard", summary.path),
    )
    raise typer.Exit(ExitCode.INCOMPLETE if summary.incomplete else seen)


def _codes(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the codes of the rules that --exclude names."""
    from histoprep.catalogue import all_rules
    from histoprep.findings import rules_named

    return tuple(rule.code for rule in rules_named(keys, all_rules().values())) if keys else ()


def _kept(keep: Path | None, target: Path, folds: str | None, *, reshuffle: bool) -> Path | None:
    """Return the manifest whose tiles stay in their split: that of --keep, or the one in the place
    of the new one; raises UsageError for --keep with --reshuffle, and warns of folds that go.
    """
    from histoprep.manifest.earlier import lost_folds_warning

    if not reshuffle:
        return keep or (target if target.exists() else None)
    if keep is not None:
        raise UsageError(
            "--reshuffle and --keep contradict each other",
            seen=f"--keep {keep}",
            hint="choose one of them",
        )
    if warning := lost_folds_warning(target, folds):
        console.warn(warning)
    return None


def _test_groups(options: list[str] | None) -> tuple[str, ...]:
    """Return the names of --test: those of files, a name a line, and others as they are."""
    from histoprep.text_table import read_text_table

    names: list[str] = []
    for option in separated(options):
        path = Path(option)
        names += (
            [row[0] for row in read_text_table(path, "the list").rows if row[0]]
            if path.is_file()
            else [option]
        )
    return tuple(names)


def _check_groups(workspace: Workspace, group_by: str | None, target: Path) -> None:
    """Refuse, or warn of, groups that were known and would be lost."""
    from histoprep.manifest.groups import check_groups_stay, left_groups_warning

    check_groups_stay(workspace, group_by, target)
    if warning := left_groups_warning(workspace, group_by):
        console.warn(warning)


def _print_summary(summary: ManifestSummary, label_map: LabelMap) -> None:
    _print_split(summary.recipe, summary.certificate, label_map)
    _print_kept(summary.recipe.get("kept"))
    _print_repaired(summary.num_repaired)
    _print_excluded(summary.excluded)
    if summary.excluded:
        console.note(f"excluded tiles, with reasons: {summary.excluded_path}")
    for warning in summary.warnings:
        console.warn(warning)


def _print_kept(kept: Mapping[str, Any] | None) -> None:
    if kept is not None:
        stayed = kept["tiles"] - kept["moved"]
        console.out(
            f"{plural(stayed, 'tile')} in the split of {kept['manifest']}, {kept['new']:,} new"
        )


def _print_split(
    recipe: Mapping[str, Any], certificate: Mapping[str, Any], label_map: LabelMap
) -> None:
    # JSON keeps no order of its own.
    splits = {
        name: certificate["splits"][name]
        for name in ("train", "val", "test")
        if name in certificate["splits"]
    }
    rows = [
        (name, split["tiles"], split["conditional"], split["unconditional"], split["groups"])
        for name, split in splits.items()
    ]
    console.table(
        ("split", "tiles", "conditional", "unconditional", "groups"),
        rows,
        title=f"Split by {recipe['method']} ({recipe['solver']})",
    )
    classes = [
        (str(cls.id), cls.name, *(split["classes"][str(cls.id)] for split in splits.values()))
        for cls in label_map.classes
    ]
    empty = [class_id for class_id, _, *numbers in classes if not any(numbers)]
    shown = classes
    if len(empty) > _MAX_EMPTY_CLASSES:
        shown = [row for row in classes if row[0] not in empty]
    console.table(("class", "name", *splits), shown, title="Tiles that hold a class (core-present)")
    if shown is not classes:
        console.warn(f"{len(empty):,} classes are core-present in no tile: {first_of(empty)}")
    labels = [
        (name, *(split["labels"][name] for split in splits.values()))
        for name in next(iter(splits.values()))["labels"]
    ]
    if labels:
        console.table(("label", *splits), labels, title="Tiles of an image-level label")
    console.out(_certificate_line(certificate, label_map))
    if "folds" in certificate:
        _print_folds(certificate["folds"], label_map)


def _print_folds(proof: Mapping[str, Any], label_map: LabelMap) -> None:
    rows = [(name, fold["tiles"], fold["groups"]) for name, fold in sorted(proof["folds"].items())]
    console.table(("fold", "tiles", "groups"), rows, title="Folds of what is not test")
    worst = proof["worst_class"]
    names = {f"class {cls.id}": f"class {cls.id} {cls.name}" for cls in label_map.classes}
    deviation = (
        f", worst class deviation {worst['points']:.2f} points"
        f" ({names.get(worst['column'], worst['column'])} in fold {worst['fold']})"
        if worst
        else ""
    )
    console.out(
        f"folds: shared groups {proof['shared_groups']},"
        f" shared duplicates {proof['shared_duplicates']}{deviation}"
    )


def _certificate_line(certificate: Mapping[str, Any], label_map: LabelMap) -> str:
    grouped = any(split["groups"] for split in certificate["splits"].values())
    groups = (
        f"shared groups {certificate['shared_groups']}"
        if grouped
        else "no groups known (--group-by): tiles are split individually"
    )
    shared = f"{groups}, shared duplicates {certificate['shared_duplicates']}"
    neighbours = certificate.get("shared_neighbours")
    shared += (
        ", neighbours not looked for" if neighbours is None else f", shared neighbours {neighbours}"
    )
    worst = certificate["worst_class"]
    if worst is None:
        return f"certificate: {shared}"
    names = {f"class {cls.id}": f"class {cls.id} {cls.name}" for cls in label_map.classes}
    where = (
        f"{names.get(worst['column'], worst['column'])} in {worst['split']}:"
        f" {plural(worst['tiles'], 'tile')}, {worst['wanted']:,g} requested"
    )
    return f"certificate: {shared}, worst class deviation {worst['points']:.2f} points ({where})"


def _print_repaired(number: int) -> None:
    if number:
        console.out(f"{number:,} masks are repaired copies")


def _print_excluded(excluded: Mapping[str, int]) -> None:
    if excluded:
        console.table(("left out", "tiles"), list(excluded.items()))


@app.command()
def check(
    file: ManifestFile,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set.", show_default="as in the manifest")
    ] = None,
    digests: Annotated[
        bool,
        typer.Option(
            "--digests", help="Read every file and compare its digest, not only its size."
        ),
    ] = False,
) -> None:
    """Verify a manifest against its files and for internal consistency: HP901 to HP903, HP701 to
    HP704.

    Exit codes: 0 no findings; 1 findings; 6 the file is damaged.

    Examples:
        histoprep manifest check tiles.histoprep/manifest.parquet
        histoprep manifest check manifest.parquet --root tiles --digests
    """
    from histoprep.checks.manifests import manifest_findings
    from histoprep.manifest.check import validate_manifest
    from histoprep.schemas.manifest import open_named_manifest

    # Damage of the file itself is an error, what its rows say a finding.
    manifest = open_named_manifest(file)
    if root is None:
        manifest.check_root(f"histoprep manifest check {shlex.quote(str(file))}")
        if manifest.moved:
            console.note(manifest.moved)
    with console.progress("checking", None) as meter:
        found = validate_manifest(file, root, digests=digests, advance=meter.advance)
    for finding in manifest_findings(found):
        print_finding(finding, root or manifest.root, file)
    if found:
        raise typer.Exit(ExitCode.FINDINGS)
    console.out(f"{file}: fine, {'every byte' if digests else 'sizes'} of the files compared")


@app.command()
def diff(first: ManifestFile, second: ManifestFile) -> None:
    """List what changed from one manifest to another: tiles, splits, pools, files, label map.

    Exit codes: 0 no difference; 1 differences.

    Examples:
        histoprep manifest diff old/manifest.parquet new/manifest.parquet
    """
    from histoprep.manifest.diff import diff_manifests
    from histoprep.schemas.manifest import open_named_manifest

    change = diff_manifests(open_named_manifest(first), open_named_manifest(second))
    _print_some("added", change.added)
    _print_some("removed", change.removed)
    _print_some(
        "in another split", [f"{tile}: {old} -> {new}" for tile, old, new in change.moved_split]
    )
    _print_some(
        "in another pool", [f"{tile}: {old} -> {new}" for tile, old, new in change.moved_pool]
    )
    _print_some("other image", change.changed_images)
    _print_some("other mask", change.changed_masks)
    _print_some("label map", change.label_map)
    if not change.empty:
        raise typer.Exit(ExitCode.FINDINGS)
    console.out("no difference")


def _print_some(what: str, items: list[str] | tuple[str, ...]) -> None:
    if items:
        console.out(f"{what}: {len(items):,}")
        for item in items[:_SHOWN]:
            console.out(f"  {item}")
        if len(items) > _SHOWN:
            console.out(f"  and {len(items) - _SHOWN:,} more")


@app.command()
def show(file: ManifestFile) -> None:
    """Print how a manifest was made, its splits and classes, its certificate and the excluded
    tiles.

    Examples:
        histoprep manifest show tiles.histoprep/manifest.parquet
    """
    from histoprep.schemas.manifest import open_named_manifest

    manifest = open_named_manifest(file)
    console.out(
        f"{len(manifest):,} tiles of {manifest.root}, label map {manifest.label_map.name},"
        f" {manifest.label_map.num_classes} classes"
    )
    _print_split(manifest.recipe, manifest.certificate, manifest.label_map)
    _print_repaired(manifest.header.get("repaired_masks", 0))
    _print_excluded(manifest.excluded)
    recipe = [
        (name, "-" if value is None else str(value)) for name, value in manifest.recipe.items()
    ]
    console.table(("recipe", ""), recipe)
