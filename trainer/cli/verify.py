"""`trainer verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoprep import console
from histoprep.command_line import print_verified


def verify(
    path: Annotated[
        Path,
        typer.Argument(
            help="Run, checkpoint, latent set or synthetic data set, or a file in one of these.",
            show_default=False,
        ),
    ],
) -> None:
    """Read everything in a file or folder that the trainer wrote, and compare it with the checksums
    of when it was written.

    The kind of file or folder is recognised by its content.

    Exit codes: 0 nothing was changed; 2 not written by the trainer (the kinds are listed); 3
    nothing was changed, but a folder is not finished; 6 damaged or edited files (each is listed).

    Examples:
        trainer verify runs/mask-unet
        trainer verify latents
    """
    from trainer.verify import verify as verify_path

    with console.progress("verifying", None, "files"):
        found = verify_path(path)
    raise typer.Exit(print_verified(found))
