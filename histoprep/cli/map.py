"""`histoprep map`: write, check, show, compare and join label maps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.choices import MapFailOn, MapFormat
from histoprep.cli.options import Root, Workers, WorkspaceFolder
from histoprep.cli.reading import read_tiles
from histoprep.command_style import Commands
from histoprep.durable import write_text
from histoprep.errors import ExitCode, UsageError
from histoprep.labels import (
    check_label_map,
    find_label_map,
    format_ignored,
    load_label_map,
    map_name_fault,
)
from histoprep.phrases import plural
from histoprep.schemas.workspace import Workspace

if TYPE_CHECKING:
    from histoprep.labels import LabelMap

_HELP = """Write, check, show, compare and join label maps.

Examples:
    histoprep map init tiles --out my_map.yml
    histoprep map show label_map_5
    histoprep map check my_map.yml
"""
app = Commands("map", _HELP)

MapFile = Annotated[
    str,
    typer.Argument(
        help="Label map: a path, or the name of one packed with histoprep.", show_default=False
    ),
]


@app.command()
def init(
    root: Root = Path(),
    *,
    out: Annotated[Path, typer.Option("--out", help="File to write; it must not exist.")] = Path(
        "label_map.yml"
    ),
    workspace: WorkspaceFolder = None,
    workers: Workers = None,
) -> None:
    """Write a label map to begin with: the labels or colours of the masks, each a class of its own.

    Comments tell pixels, tiles and up to three masks of each label. Names are those of a file that
    lists classes (classes.txt, class_dict.csv, dataset.json), or of folders that go with a label.
    Instance ids become one label, and a value that lies along boundaries is ignored. The map can be
    used as it is; check the names first.

    Exit codes: 0 written; 2 the file exists already, or no labels are known; 3 written, but some
    folders or masks could not be read (listed in the output).

    Examples:
        histoprep map init tiles --out my_map.yml
    """
    from histoprep.remapping.first_map import first_label_map

    _refuse_existing(out, hint="choose another --out")
    reason = map_name_fault(out.stem)
    if reason:
        raise UsageError(
            f"this file could not name a label map: {reason}", path=out, hint="choose another --out"
        )
    where = Workspace.of(root, workspace)
    status = read_tiles(where, workers=workers)
    text, found = first_label_map(where.tiles)
    write_text(out, text)
    console.out(_summary(load_label_map(out)))
    if found.num_unknown:
        unknown = plural(found.num_unknown, "mask")
        console.warn(
            f"the labels of {unknown} are not known; this says why: histoprep audit {where.root}"
        )
        status = ExitCode.INCOMPLETE
    ignored = found.ignored()
    if ignored is not None and ignored.along_boundaries:
        console.note(f"{ignored.spelt} lies along boundaries of other labels and is ignored")
    console.out(str(out))
    console.next_steps(
        ("histoprep", "map", "check", out), ("histoprep", "manifest", root, "--map", out)
    )
    raise typer.Exit(status)


@app.command()
def check(
    file: MapFile,
    fail_on: Annotated[
        MapFailOn, typer.Option(help="Least severity that leads to exit status 1.")
    ] = MapFailOn.ERROR,
) -> None:
    """List everything that is wrong with a label map: HP503 to HP506, with lines.

    Exit codes: 0 it can be used; 1 it has problems; 2 it is no label map at all.

    Examples:
        histoprep map check my_map.yml
        histoprep map check my_map.yml --fail-on warning
    """

    path = find_label_map(file)
    problems = check_label_map(path)
    for problem in problems:
        severity = MapFailOn.ERROR if problem.forbids_use else MapFailOn.WARNING
        line = f":{problem.line}" if problem.line else ""
        console.out(f"{path}{line}: {severity}: {problem}")
    if any(problem.forbids_use for problem in problems):
        raise typer.Exit(ExitCode.FINDINGS)
    console.out(_summary(_load(file)))
    if problems and fail_on is MapFailOn.WARNING:
        raise typer.Exit(ExitCode.FINDINGS)


@app.command()
def show(
    file: MapFile,
    output: Annotated[MapFormat, typer.Option("--format", help="Output format.")] = MapFormat.TEXT,
) -> None:
    """Print a label map: its classes, and the class of each source label.

    Examples:
        histoprep map show label_map_5
        histoprep map show my_map.yml --format json
    """
    label_map = _load(file)
    if output is MapFormat.JSON:
        console.raw(label_map.to_json())
        return
    console.out(_summary(label_map))
    sizes = Counter(label_map.mapping.values())
    classes = [
        (str(cls.id), cls.name, cls.colour, f"{cls.min_radius_px:g}", sizes[cls.id])
        for cls in label_map.classes
    ]
    console.table(("class", "name", "colour", "min radius px", "labels"), classes)
    targets = {cls.id: f"{cls.id} {cls.name}" for cls in label_map.classes}
    console.out("")
    console.table(
        ("label", "name", "class"),
        [
            (label_map.values_of(source), source.name, targets[label_map.mapping[source.id]])
            for source in label_map.sources
        ],
    )
    for line in format_ignored(label_map):
        console.out(line)


@app.command()
def diff(a: MapFile, b: MapFile) -> None:
    """Print the differences between two label maps.

    Exit codes: 0 no difference; 1 differences.

    Examples:
        histoprep map diff label_map_5 my_map.yml
    """
    from histoprep import labels

    first, second = _load(a), _load(b)
    differences = labels.diff(first, second)
    if not differences:
        console.out("no difference")
        return
    console.note(f"A is {first.name}, B is {second.name}")
    console.table(
        ("what", "id", "name", "A", "B"),
        [
            (difference.what, str(difference.id), difference.name, difference.a, difference.b)
            for difference in differences
        ],
    )
    raise typer.Exit(ExitCode.FINDINGS)


@app.command()
def compose(
    a: MapFile,
    b: MapFile,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write; without it, the result is printed.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    ignore_names: Annotated[
        bool, typer.Option("--ignore-names", help="Join by number even if the names differ.")
    ] = False,
) -> None:
    """Join two label maps: the classes of A are the source labels of B.

    Examples:
        histoprep map compose first.yml second.yml --out joined.yml
    """
    from histoprep import labels

    text = labels.format_label_map(labels.compose(_load(a), _load(b), match_names=not ignore_names))
    if out is None:
        console.raw(text.rstrip("\n"))
        return
    if not force:
        _refuse_existing(out, hint="choose another --out, or replace it with --force")
    write_text(out, text)
    console.out(str(out))


def _refuse_existing(out: Path, *, hint: str) -> None:
    if out.exists():
        raise UsageError("the file exists already", path=out, hint=hint)


def _load(file: str) -> LabelMap:

    return load_label_map(find_label_map(file))


def _summary(label_map: LabelMap) -> str:
    return (
        f"{label_map.name}: {len(label_map.sources)} source labels in"
        f" {label_map.num_classes} classes, digest {label_map.digest}"
    )
