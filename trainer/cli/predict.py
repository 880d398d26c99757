"""`trainer predict`: classify image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoprep import console
from histoprep.errors import ExitCode
from trainer.reporter import Reporter

_SHOWN = 20


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder of `trainer fit` with a diffmic preset.", show_default=False
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="RUN/predictions")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps.", show_default="as in the run")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Denoisings of each image.", show_default="as in the run"),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Verify the run first.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Write class, probabilities and uncertainty of every image as CSV and Parquet.

    Uncertainty is the spread of the predicted class's score over several denoisings.

    Exit codes: 0 done; 3 some images could not be read (listed in the output).

    Examples:
        trainer predict runs/diffmic new_tiles
        trainer predict runs/diffmic a.png b.png --out predictions
    """
    from trainer.classification.predict import predict_images

    if verify:
        from trainer.verify import require_whole

        require_whole(run)
    reporter = Reporter(console.note, console.warn, console.progress)
    result = predict_images(
        run,
        images,
        out,
        device=device,
        num_inference_steps=steps,
        num_samples=samples,
        reporter=reporter,
    )
    for path, reason in result.broken:
        console.warn(f"cannot be read: {path}: {reason}")
    rows = result.table.slice(0, _SHOWN).select(["image", "predicted", "uncertainty"]).to_pylist()
    rows = [
        (
            row["image"],
            row["predicted"],
            "" if row["uncertainty"] is None else f"{row['uncertainty']:.3f}",
        )
        for row in rows
    ]
    console.table(
        ("image", "predicted", "uncertainty"),
        rows,
        title=f"{result.table.num_rows:,} images, the first {len(rows)}",
    )
    for path in result.paths:
        console.out(str(path))
    raise typer.Exit(ExitCode.INCOMPLETE if result.broken else ExitCode.OK)
