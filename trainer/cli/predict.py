"""`trainer predict`: classify or segment image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from histoprep import console
from histoprep.errors import ExitCode
from trainer.reporter import Reporter

_SHOWN = 20


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder of `trainer fit` with a diffmic or segmenter preset.",
            show_default=False,
        ),
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, or folders with images in them or below.", show_default=False
        ),
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
    """Write class, probabilities and uncertainty of every image as CSV and Parquet; with a
    segmenter, a mask of every image.

    Uncertainty is the spread of the predicted class's score over several denoisings. A segmenter
    writes masks/NAME.png with class ids, label_map.yml, and predictions.csv with class shares.

    Exit codes: 0 done; 3 some images could not be read (listed in the output).

    Examples:
        trainer predict runs/diffmic new_tiles
        trainer predict runs/diffmic a.png b.png --out predictions
        trainer predict runs/segmenter new_tiles --out predicted
    """
    from trainer.classification.predict import predict_images

    if verify:
        from trainer.verify import require_whole

        require_whole(run)
    from histoprep.schemas.workspace import check_outside
    from trainer.classification.predict import FOLDER
    from trainer.device import choose_device
    from trainer.engine.checkpoints import load_run_config

    folders = [path for path in images if path.is_dir()]
    check_outside(out or run / FOLDER, folders, "predictions")
    reporter = Reporter(console.note, console.warn, console.progress)
    choose_device(device)
    if load_run_config(run).recipe == "segmenter":
        from trainer.cli.test import refuse_diffusion_options

        refuse_diffusion_options(steps, samples, "segmenter")
        _predict_masks(run, images, out, device, reporter)
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


def _predict_masks(
    run: Path, images: list[Path], out: Path | None, device: str, reporter: Reporter
) -> NoReturn:
    from trainer.segmentation.predict import predict_masks

    result = predict_masks(run, images, out, device=device, reporter=reporter)
    for path, reason in result.broken:
        console.warn(f"cannot be read: {path}: {reason}")
    columns = ("image", "probability", *result.header[3:])
    rows = [
        (row[0], *(f"{value:.3f}" for value in row[2:] if isinstance(value, float)))
        for row in result.rows[:_SHOWN]
    ]
    title = f"{len(result.rows):,} images, the first {len(rows)}"
    console.table(columns, rows, title=title)
    console.out(str(result.folder))
    raise typer.Exit(ExitCode.INCOMPLETE if result.broken else ExitCode.OK)
