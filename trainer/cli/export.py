"""`trainer export`: a trained network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoprep import console
from trainer.errors import UsageError


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
    push: Annotated[
        str | None,
        typer.Option(
            metavar="REPOSITORY",
            help="Upload the folder to this repository (OWNER/NAME) of the Hugging Face hub,"
            " private unless --public is set. The token is that of hf auth login or HF_TOKEN.",
            show_default=False,
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option("--public", help="Let everybody see the repository that --push makes."),
    ] = False,
) -> None:
    """Write a trained network in a form that needs no HistoPrep: an image generator as a folder of
    diffusers, a segmenter or classifier as a program of torch.export, each with a model card.

    Averaged weights of the best checkpoint are taken, where there are any.

    Examples:
        trainer export runs/ldm --out exported
        trainer export runs/diffmic --out classifier
        trainer export runs/ldm --out exported --push me/my-tissue
    """
    from trainer.export.push import check_push, push_folder
    from trainer.export.run import export_run

    if push is None and public:
        raise UsageError("--public says who sees what --push uploads", hint="add --push OWNER/NAME")
    if push is not None:
        check_push(push)
    for path in export_run(run, out, codec=codec):
        console.out(str(path))
    if push is not None:
        console.out(push_folder(out, push, public=public))
