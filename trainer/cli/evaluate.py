"""`trainer evaluate`: what generated tiles are worth, measured against real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from trainer.reporter import Reporter

if TYPE_CHECKING:
    from trainer.evaluation.evaluate import Evaluation

JSON, PAGE = "evaluation.json", "evaluation.html"


def evaluate(
    real: Annotated[
        str,
        typer.Option(
            "--real", help="Manifest or shards of the real tiles, with splits.", show_default=False
        ),
    ],
    synthetic: Annotated[
        str,
        typer.Option(
            "--synthetic",
            help=(
                "Generated tiles: a manifest, shards, a data set of `trainer sample`, or a folder"
                " of images (or of images/ and masks/)."
            ),
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results.",
            show_default="evaluation beside the generated tiles",
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help=(
                "What distances compare: lite0-mid, weights or an exported encoder in a file, or"
                " hub:ID."
            )
        ),
    ] = "lite0-mid",
    segmenter: Annotated[
        Path | None,
        typer.Option(
            help="Run of the recipe segmenter that reads the tiles.",
            show_default="trained in memory on the training tiles",
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="Codec that tiles were decoded with, for the ceiling of faithfulness.",
            show_default=False,
        ),
    ] = None,
    downstream: Annotated[
        bool,
        typer.Option(
            "--downstream",
            help="Also train a segmenter and a classifier on real, generated and both tiles.",
        ),
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, help="Most real training, held-out and generated tiles to read.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of draws and of what is trained.")] = 0,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the real tiles.", show_default="as in the manifest"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure distances to real tiles (KID, FD), whether masks are followed, the spread inside
    classes, and copies of training tiles.

    Each number stands beside what real tiles give against other real tiles, at the same size and
    without a common slide, case or patient; intervals are drawn by group. Writes evaluation.json
    and evaluation.html.

    Examples:
        trainer evaluate --real manifest.parquet --synthetic synthetic
        trainer evaluate --real manifest.parquet --synthetic synthetic --codec runs/codec
        trainer evaluate --real shards --synthetic train_masks --downstream --out results
    """
    from histoprep import checksums
    from histoprep.schemas.workspace import check_outside
    from histoprep.shards import open_tiles
    from trainer.evaluation.evaluate import evaluate_tiles
    from trainer.evaluation.looks import EvaluateOptions
    from trainer.evaluation.page import render_page

    folder = out or Path(f"{str(synthetic).rstrip('/')}.evaluation")
    check_outside(folder, open_tiles(real).manifest.data_folders, "an evaluation")
    if Path(synthetic).is_dir():
        check_outside(folder, [Path(synthetic)], "an evaluation")
    result = evaluate_tiles(
        real,
        synthetic,
        EvaluateOptions(features, segmenter, codec, limit, downstream, device, seed),
        root=None if root is None else str(root),
        reporter=Reporter(console.note, console.warn, console.progress),
    )
    checksums.publish_json(folder, JSON, result.to_json())
    checksums.publish_file(folder, PAGE, render_page(result, real, synthetic))
    _print(result)
    console.out(str(folder / PAGE))


def _print(result: Evaluation) -> None:
    from trainer.evaluation.page import between, short

    for finding in result.findings:
        console.warn(f"{finding.name}: {finding.text}; {finding.advice}")
    measures = {**result.measures, "copies": result.copies.measured}
    rows = [
        (
            name,
            short(found.value),
            between(found.low, found.high),
            between(found.floor_low, found.floor_high),
        )
        for name, found in measures.items()
    ]
    counts = result.counts["synthetic"]["tiles"]
    title = f"{counts:,} generated tiles against real ones; {result.seconds:.0f} s"
    console.table(("measure", "value", "95 % interval", "real halves"), rows, title=title)
    for name, source, ratio in result.copied[:10]:
        console.out(f"copy: {name} of {source} (ratio {ratio:.2f})")
    for task in ("segmenter", "classifier"):
        scores = result.downstream and result.downstream[task]
        if scores:
            cells = ", ".join(
                f"{key.replace('_', ' ')} {short(scores[key]['value'], 3)}"
                for key in ("real", "synthetic", "both", "both_minus_real")
            )
            console.out(f"downstream {task} ({scores['measure']}): {cells}")
    console.out(f"{result.verdict.word}: {' '.join(result.verdict.sentences)}")
