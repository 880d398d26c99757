"""`histoprep card`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from histoprep import console
from histoprep.durable import write_text
from histoprep.errors import OutputError, UsageError
from histoprep.schemas.manifest import Manifest
from histoprep.schemas.workspace import Workspace, check_outside

CROISSANT, CARD = "croissant.json", "README.md"


def card(
    manifest: Annotated[
        Path,
        typer.Argument(help="A manifest, or the index of shards.", show_default=False),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to.", show_default="beside the manifest"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set.", show_default="that of its folder")
    ] = None,
    description: Annotated[
        str | None, typer.Option(help="What it is.", show_default="its size and classes")
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="SPDX identifier, such as cc-by-4.0, or an address.",
            show_default="unknown",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Where the data set can be had.", show_default=False)
    ] = None,
    citation: Annotated[
        str | None, typer.Option(help="How to cite it.", show_default=False)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a README.md that histoprep did not write.")
    ] = False,
) -> None:
    """Write a description that travels with the data: croissant.json (Croissant JSON-LD) and
    README.md (a Hugging Face dataset card).

    Both say classes, counts, splits and what was proven of them; the card also says what was left
    out and what the last audit found.

    Examples:
        histoprep card tiles.histoprep/manifest.parquet --license cc-by-4.0
        histoprep card shards --name "Colon tiles" --url https://example.org/colon
    """
    from histoprep.cards.croissant import CardText, describe_croissant
    from histoprep.cards.hub import MARK, describe_card
    from histoprep.shards.index import open_any

    opened = open_any(manifest)
    folder = out or opened.path.parent
    check_outside(folder / CARD, opened.data_folders, "the card")
    target = folder / CARD
    if not force and target.exists() and MARK not in target.read_text("utf-8", "replace"):
        raise UsageError(
            "there is a README.md that histoprep did not write",
            path=target,
            hint="name another --out, or replace it with --force",
        )
    title = name or opened.root.name
    text = CardText(title, description or _sentence(opened), license_, url, citation)
    described = describe_croissant(opened, text, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder cannot be made: {error.strerror}", path=folder) from error
    write_text(folder / CROISSANT, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    write_text(target, describe_card(opened, text, _findings(opened), folder))
    for path in (folder / CROISSANT, target):
        console.out(str(path))


def _sentence(manifest: Manifest) -> str:
    names = ", ".join(cls.name for cls in manifest.label_map.classes)
    return f"{len(manifest):,} histology tiles with label masks of the classes {names}."


def _findings(manifest: Manifest) -> list[tuple[str, str, int]]:
    """Return code, severity and number of places of what the last audit of the tiles found; empty
    where there was none, or files changed since.
    """
    from histoprep.schemas.findings import read_findings

    try:
        header, batches = read_findings(Workspace.of(manifest.root).findings)
    except FileNotFoundError:
        return []
    if header.get("tiles_digest") != manifest.tiles_digest:
        return []
    found: Counter[tuple[str, str]] = Counter()
    for batch in batches:
        found.update(zip(batch["code"].to_pylist(), batch["severity"].to_pylist(), strict=True))
    return [(code, severity, number) for (code, severity), number in sorted(found.items())]
