"""`histoprep shard`: write shards, read them again, say what is in them, show some tiles."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console, rule_ids
from histoprep.choices import EngineName
from histoprep.cli.findings import print_finding
from histoprep.cli.options import DaskScheduler, EngineOption, Workers, engine_of, progress_of
from histoprep.command_style import Commands
from histoprep.durable import write_bytes
from histoprep.errors import ExitCode, UsageError
from histoprep.schemas.workspace import check_outside

if TYPE_CHECKING:
    from collections.abc import Sequence


_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


_HELP = """Pack tiles into tar shards with an index.

`shard MANIFEST ...` is short for `shard write MANIFEST ...`.

Examples:
    histoprep shard tiles.histoprep/manifest.parquet --out shards
    histoprep shard write --help
    histoprep shard verify shards
"""
app = Commands("shard", _HELP, default="write")

Shards = Annotated[
    str,
    typer.Argument(
        help="Folder or address of the shards, or their index.parquet.", show_default=False
    ),
]


@app.command()
def write(
    manifest: Annotated[Path, typer.Argument(help="A manifest.", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the shards.", show_default="shards beside the manifest"
        ),
    ] = None,
    max_shard_size: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="Largest planned size of a shard, in MB, GB, MiB or GiB."
        ),
    ] = "512MB",
    keep_metadata: Annotated[
        bool,
        typer.Option("--keep-metadata", help="Leave EXIF, XMP, comments and text in the images."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", hidden=True)] = False,
    verify_after: Annotated[
        bool, typer.Option("--verify", help="Read all shards again when they are written.")
    ] = False,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set.", show_default="as in the manifest")
    ] = None,
    workers: Workers = None,
    engine: EngineOption = EngineName.LOCAL,
    scheduler: DaskScheduler = None,
) -> None:
    """Pack the tiles of a manifest: images without their metadata, masks as 8-bit PNG of classes,
    and an index.

    Pixels and colour profiles stay as they are; the index has the EXIF orientation and the digests
    of the file and of what is stored. Rerun the same command to resume. Any tar program, webdataset
    and datasets read the shards (docs/shards.md); the trainer takes the index in place of the
    manifest.

    Exit codes: 0 written; 1 or 6 --verify has findings; 3 files are missing or not what the
    manifest says (nothing is published).

    Examples:
        histoprep shard tiles.histoprep/manifest.parquet --out shards
        histoprep shard manifest.parquet --max-shard-size 1GiB --verify
    """
    from histoprep.schemas.manifest import open_named_manifest
    from histoprep.shards.plan import ShardOptions
    from histoprep.shards.write import write_shards

    if root is None and manifest.is_file():
        opened = open_named_manifest(manifest)
        opened.check_root(f"histoprep shard {shlex.quote(str(manifest))}")
        if opened.moved:
            console.note(opened.moved)
    target = out or manifest.parent / "shards"
    options = ShardOptions(parse_size(max_shard_size), keep_metadata)
    with progress_of("packing") as advance:
        result = write_shards(
            manifest,
            target,
            options,
            engine_of(engine, scheduler, workers),
            root=root,
            advance=advance,
        )
    if result.up_to_date:
        console.note("up to date: nothing changed")
    elif result.num_reused:
        console.note(
            f"{result.num_reused:,} of {result.num_shards:,} shards were there from a stopped run"
        )
    if len(result.image_suffixes) > 1:
        found = ", ".join(result.image_suffixes)
        console.warn(
            f"images of several formats ({found}): datasets takes the fields of the first shard and"
            " leaves the others out; see docs/shards.md"
        )
    if verify_after:
        _verify(str(result.index), str(manifest))
    console.out(
        f"{result.num_tiles:,} tiles in {result.num_shards:,} shards,"
        f" {result.num_bytes / 1e6:,.1f} MB | {result.index}"
    )
    console.next_steps(("trainer", "fit", "--manifest", target, "--preset", "codec-tiny"))


@app.command()
def verify(
    shards: Shards,
    manifest: Annotated[
        Path | None, typer.Option(help="Also compare with this manifest.", show_default=False)
    ] = None,
) -> None:
    """Read every byte of the shards again and compare it with the index: HP904, HP905.

    Exit codes: 0 no findings; 1 only tiles differ (HP905); 6 the shards (HP904) or the index itself
    are damaged.

    Examples:
        histoprep shard verify shards
        histoprep shard verify shards/index.parquet --manifest manifest.parquet
    """
    _verify(shards, None if manifest is None else str(manifest))
    console.out(f"{shards}: fine, every byte was read")


def _verify(shards: str, manifest: str | None) -> None:
    from histoprep.checks.shards import shard_findings
    from histoprep.shards.index import open_index
    from histoprep.shards.verify import verify_shards

    # Damage of the index itself is an error, what it says of the shards a finding.
    index = open_index(shards)
    with progress_of("verifying") as advance:
        found = verify_shards(shards, manifest, advance=advance)
    for finding in shard_findings(found):
        print_finding(finding, index.root, manifest)
    if found:
        raise typer.Exit(
            ExitCode.INTEGRITY
            if any(problem.rule == rule_ids.SHARD_CORRUPT for problem in found)
            else ExitCode.FINDINGS
        )


@app.command()
def info(shards: Shards) -> None:
    """Print what is in the shards and where it came from.

    Examples:
        histoprep shard info shards
    """
    from histoprep.shards.index import open_index

    index = open_index(shards)
    header = index.header
    total = sum(shard["bytes"] for shard in header["shards"])
    console.out(f"{len(index):,} tiles in {len(header['shards']):,} shards, {total / 1e6:,.1f} MB")
    console.out(
        f"of {index.root}, label map {index.label_map.name} with"
        f" {index.label_map.num_classes} classes, manifest {header['manifest_digest']}"
    )
    console.table(("split", "pool", "shards", "tiles", "MB"), _amounts(header["shards"]))


def _amounts(shards: Sequence[dict[str, Any]]) -> list[tuple[str, str, int, int, str]]:
    """Return shards, tiles and megabytes by split and pool."""
    sums: dict[tuple[str, str], list[int]] = {}
    for shard in shards:
        split, pool, _ = shard["name"].split("-")
        into = sums.setdefault((split, pool), [0, 0, 0])
        for place, amount in enumerate((1, shard["tiles"], shard["bytes"])):
            into[place] += amount
    return [
        (split, pool, files, tiles, f"{size / 1e6:,.1f}")
        for (split, pool), (files, tiles, size) in sorted(sums.items())
    ]


@app.command()
def preview(
    shards: Annotated[
        str, typer.Argument(help="Shards, or a manifest of files.", show_default=False)
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Image to write.", show_default="preview.png beside the shards"),
    ] = None,
    num: Annotated[int, typer.Option(min=1, max=100, help="How many tiles.")] = 12,
    split: Annotated[
        str | None, typer.Option(help="Only tiles of this split.", show_default=False)
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Only tiles of this pool.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed shows other tiles.")] = 0,
) -> None:
    """Draw some tiles as the trainer reads them, classes in their colours, into one PNG.

    Examples:
        histoprep shard preview shards --num 24 --split test
        histoprep shard preview manifest.parquet --out preview.png
    """
    from histoprep.manifest.check import check_manifest
    from histoprep.shards import open_tiles
    from histoprep.shards.preview import choose_rows, draw_preview
    from histoprep.storage import beside

    source = open_tiles(shards)
    check_manifest(source.manifest)
    target = out or beside(shards, "preview.png")
    check_outside(target, source.manifest.data_folders, "an image")
    rows = choose_rows(source, num, seed, split, pool)
    write_bytes(
        target,
        draw_preview(
            source, rows, f"{len(rows)} of {len(source):,} tiles, label map {source.label_map.name}"
        ),
    )
    console.out(str(target))


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 512MB or 1.5GiB; raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not found or found[2] not in _UNITS:
        raise UsageError(
            "no such size", seen=text, expected="a number and a unit, such as 512MB or 1GiB"
        )
    return int(float(found[1]) * _UNITS[found[2]])
