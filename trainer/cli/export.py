"""`trainer export`: a trained network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoprep import console


def export(
    run: Annotated[
        Path,
        typer.Argument(help="Run folder of `trainer fit`, or a checkpoint.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder to write.", show_default=False)],
    *,
    codec: Annotated[
        str | None,
        typer.Option(help="The codec of the run, if it has moved.", show_default=False),
    ] = None,
) -> None:
    """Write a trained network in a form that needs no HistoPrep: an image generator as a folder of
    diffusers, a segmenter or classifier as a program of torch.export, each with a model card.

    Averaged weights of the best checkpoint are taken, where there are any.

    Examples:
        trainer export runs/ldm --out exported
        trainer export runs/segmenter --out segmenter
        trainer export runs/diffmic --out classifier
    """
    from trainer.export.run import export_run

    for path in export_run(run, out, codec=codec):
        console.out(str(path))
