"""`trainer review`: masks that disagree with what all other slides teach."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoprep import console
from histoprep.errors import ExitCode

_SHOWN = 20


def review(
    manifest: Annotated[
        Path, typer.Argument(help="Manifest of the tiles.", metavar="MANIFEST", show_default=False)
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the score of every tile.", show_default="review.csv in the workspace"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Most tiles to read.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of folds and networks.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Rank masks by how they disagree with a network that learned from all other slides.

    Groups are dealt to five folds; a small segmenter of the other folds reads the tiles of each.
    Masks swapped between tiles are scored as a control, and their share above the limit is printed.
    Suspicious tiles become findings that `histoprep browse` shows. Nothing is changed: a mask may
    be right and the network wrong.

    Exit codes: 0 nothing suspicious; 1 some masks are.

    Examples:
        trainer review tiles.histoprep/manifest.parquet
    """
    from histoprep.schemas.manifest import open_named_manifest
    from histoprep.schemas.workspace import Workspace, check_outside
    from trainer.classification.table import write_csv
    from trainer.evaluation.sides import limit_side, real_side
    from trainer.review import browse_command, review_masks, write_review

    opened = open_named_manifest(manifest)
    opened.check_root(f"trainer review {manifest}")
    if out is not None:
        check_outside(out, opened.data_folders, "a review", text=True)
    side = limit_side(real_side(str(manifest)), limit, seed)
    with console.progress("review", len(side), "tiles") as meter:
        found = review_masks(side, seed=seed, device=device, advance=meter.advance)
    table = write_review(found, manifest)
    place = out or Workspace.of(opened.root).folder / "review.csv"
    rows = [
        (tile.tile_id, round(tile.score, 4), round(tile.disagreement, 4), tile.detail)
        for tile in found.tiles
    ]
    write_csv(place, ("tile_id", "score", "disagreement", "detail"), rows)
    shown = [
        (tile.tile_id, f"{tile.score:.2f}", tile.detail)
        for tile in found.tiles[: min(_SHOWN, found.num_suspicious)]
    ]
    if shown:
        title = f"{found.num_suspicious:,} suspicious masks of {len(found.tiles):,}"
        console.table(("tile", "score", "what was seen"), shown, title=title)
    console.out(
        f"{found.num_suspicious:,} of {len(found.tiles):,} masks are suspicious (score from"
        f" {found.limit:.2f}); {found.planted_found} of {found.planted} swapped masks are found"
    )
    console.out(f"{place}\n{table}")
    if found.num_suspicious:
        console.note(f"look at them: {browse_command(manifest)}")
    raise typer.Exit(ExitCode.FINDINGS if found.num_suspicious else ExitCode.OK)
