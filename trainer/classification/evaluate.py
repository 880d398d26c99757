"""`trainer test`: the test split once through the best classifier of a run, and everything that is
written of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from histoprep import checksums
from histoprep.durable import write_bytes, write_json
from histoprep.schemas.workspace import check_outside
from trainer.classification.evaluation import ClassifierResults, evaluate
from trainer.classification.images import (
    SheetFacts,
    draw_confusion,
    draw_roc,
    draw_sheet,
    draw_training,
)
from trainer.classification.network import RunClassifier, open_classifier
from trainer.classification.table import (
    Predictions,
    gather_predictions,
    prediction_table,
    write_csv,
    write_predictions,
)
from trainer.data.transforms import to_uint8
from trainer.errors import ConfigError, DataError, IntegrityError
from trainer.recipes.diffmic_data import ordered_tiles
from trainer.recipes.diffmic_denoising import NAME as DIFFUSION
from trainer.recipes.diffmic_guidance import NAME as GUIDANCE
from trainer.recipes.diffmic_guidance import evaluation_batches
from trainer.recipes.diffmic_inference import Classified, guidance_vectors
from trainer.recipes.diffmic_labels import LabelledTiles, labelled_tiles
from trainer.reporter import NULL_REPORTER, Reporter

METRICS = "metrics.json"
FOLDER = "test"
_HINT = "restore it from a copy, or name another --out"
_DRAWN = ("diffusion", "guidance_fused")


@dataclass(frozen=True, slots=True)
class TestOptions:
    """How to test: `num_sheets` images get a sheet; the other values replace those of the run;
    `again` tests once more.
    """

    num_sheets: int = 12
    num_inference_steps: int | None = None
    num_samples: int | None = None
    device: str = "auto"
    again: bool = False


def evaluate_run(
    run: Path,
    out: Path | None = None,
    options: TestOptions | None = None,
    *,
    reporter: Reporter = NULL_REPORTER,
) -> ClassifierResults:
    """Test the classifier of a run and write everything to `out` (default: RUN/test); every tile of
    the split is read once.

    Raises:
        ConfigError: When the run was tested before and `again` is not asked for.
        DataError: When there is no test tile with a class.
        IntegrityError: When the manifest is not the one of the run.
    """
    options = options or TestOptions()
    folder = out or run / FOLDER
    times = _times_tested(folder)
    if times and not options.again:
        raise ConfigError(
            "this run was tested before; choosing runs by their test results makes these too"
            " optimistic",
            path=folder / METRICS,
            hint="read the results there, or test again with --again",
        )
    model = open_classifier(
        run,
        device=options.device,
        num_inference_steps=options.num_inference_steps,
        num_samples=options.num_samples,
    )
    data = labelled_tiles(model.config)
    check_outside(folder, data.tiles.manifest.data_folders, "the results of a test")
    _check_data(model, data, run)
    predictions, sheets = _classify(model, data, options.num_sheets, reporter)
    rows = data.rows["test"]
    result = evaluate(
        predictions, data.labels[rows], data.groups(rows), data.names, seed=model.config.seed
    )
    checksums.forget_files(folder, lambda _: True)
    _write_numbers(folder, result, model, times + 1)
    _write_tables(folder, result, predictions, data)
    _write_images(folder, result, predictions, data, run)
    for name, png in sheets:
        write_bytes(folder / "sheets" / f"{name}.png", png)
    checksums.list_all_files(folder)
    return result


def read_measures(folder: Path, head: str = _DRAWN[0]) -> dict[str, float]:
    """Return the measures of one head that a test wrote to a folder, by name, NaN for what is
    undefined; empty where none was made.

    Raises:
        IntegrityError: The results cannot be read.
    """
    if not _times_tested(folder):
        return {}
    found = checksums.read_json(folder / METRICS, hint=_HINT)["heads"][head]
    values = {name: interval["value"] for name, interval in found["measures"].items()}
    return {
        name: math.nan if value is None else float(value)
        for name, value in (values | found["numbers"]).items()
    }


def _times_tested(folder: Path) -> int:
    try:
        return int(checksums.read_json(folder / METRICS, hint=_HINT)["times_tested"])
    except FileNotFoundError:
        return 0
    except (OSError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"the results of an earlier test cannot be read: {error}", path=folder / METRICS
        ) from error


def _check_data(model: RunClassifier, data: LabelledTiles, run: Path) -> None:
    if data.tiles.digest != model.manifest_digest or data.names != model.names:
        raise IntegrityError(
            "the manifest is not the one of this run",
            path=data.tiles.path,
            seen=f"digest {data.tiles.digest}, classes {', '.join(data.names)}",
            expected=(
                f"digest {model.manifest_digest}, classes {', '.join(model.names)} as in {run}"
            ),
            hint="test with the manifest that the run was trained with",
        )
    if not len(data.rows["test"]):
        raise DataError(
            "there is no tile with a class in the test split",
            path=data.tiles.path,
            hint="make a manifest with --split 0.8/0.1/0.1",
        )


def _classify(
    model: RunClassifier, data: LabelledTiles, num_sheets: int, reporter: Reporter
) -> tuple[Predictions, list[tuple[str, bytes]]]:
    """Return the predictions of the test tiles in order, and the sheets of tiles spread evenly over
    them.
    """
    tiles = ordered_tiles(model.config, data, "test")
    chosen = set(
        np.linspace(0, len(tiles.rows) - 1, min(num_sheets, len(tiles.rows)))
        .round()
        .astype(int)
        .tolist()
    )
    classified, sheets, done = [], [], 0
    with reporter.progress("test", len(tiles.rows), "tiles") as meter:
        for number, batch in enumerate(evaluation_batches(tiles, model.config)):
            tile = model.classify(batch["image"], number)
            sheets += [
                _sheet(model, data, tile, batch, index)
                for index in range(len(batch["row"]))
                if done + index in chosen
            ]
            classified.append(_without_pixels(tile))
            done += len(batch["row"])
            meter.advance(len(batch["row"]))
    return gather_predictions(classified), sheets


def _without_pixels(tile: Classified) -> Classified:
    """Return a classification without crops, maps and path, which would fill the memory."""
    nothing = torch.empty(0)
    return Classified(
        tile.guidance._replace(crops=nothing, saliency=nothing), tile.samples, (), nothing
    )


def _sheet(
    model: RunClassifier,
    data: LabelledTiles,
    tile: Classified,
    batch: dict[str, Tensor],
    index: int,
) -> tuple[str, bytes]:
    """Return the name and PNG of the sheet of image `index` of a batch."""
    row, predicted = int(batch["row"][index]), int(tile.scores[index].argmax())
    tile_id, truth = str(data.tiles.tile_ids[row]), data.names[int(batch["label"][index])]
    first, second = (
        vector[index] for vector in guidance_vectors(tile.guidance, model.diffusion.guidance)
    )
    steps = torch.linspace(0, 1, model.diffusion.num_points, device=first.device)
    alone = Predictions(
        *(
            part[..., index : index + 1, :].double().cpu().numpy()
            for part in (tile.samples, *_logits(tile))
        )
    )
    facts = SheetFacts(
        title=f"{tile_id}: {truth}, predicted {data.names[predicted]}",
        image=to_uint8(batch["image"][index].numpy()),
        saliency=tile.guidance.saliency[index, predicted].float().cpu().numpy(),
        corners=tile.guidance.corners[index].cpu().numpy(),
        weights=tile.guidance.attention[index].float().cpu().numpy(),
        crop_px=model.config.guidance.crop_px,
        guidance_map=torch.outer(first, 1 - steps)
        .add(torch.outer(second, steps))
        .float()
        .cpu()
        .numpy(),
        path=tile.path_means()[:, index].float().cpu().numpy(),
        guidance=alone.heads()["guidance_fused"][0],
        probabilities=alone.probabilities[0],
    )
    return f"{row:08d}", draw_sheet(facts, data.names)


def _logits(tile: Classified) -> Iterator[Tensor]:
    return iter((tile.guidance.fused, tile.guidance.global_logits, tile.guidance.local_logits))


def _write_numbers(
    folder: Path, result: ClassifierResults, model: RunClassifier, times: int
) -> None:
    used = {
        "num_inference_steps": model.diffusion.num_inference_steps,
        "num_samples": model.diffusion.num_samples,
    }
    write_json(folder / METRICS, {**result.to_json(), **used, "times_tested": times})


def _write_tables(
    folder: Path, result: ClassifierResults, predictions: Predictions, data: LabelledTiles
) -> None:
    rows = data.rows["test"]
    first = {
        "tile_id": pa.array(data.tiles.tile_ids[rows].tolist(), pa.string()),
        "group": pa.array(data.tiles.group[rows].tolist(), pa.string()),
        "truth": pa.array([data.names[label] for label in data.labels[rows]]),
    }
    write_predictions(folder, prediction_table(predictions, data.names, first))
    for name, head in result.heads.items():
        header = ("class", *head.by_class)
        lines = [
            [cls, *(_cell(values[index]) for values in head.by_class.values())]
            for index, cls in enumerate(result.names)
        ]
        write_csv(folder / f"classes-{name}.csv", header, lines)
        write_csv(
            folder / f"confusion-{name}.csv",
            ("truth", *result.names),
            [[cls, *head.counts[index].tolist()] for index, cls in enumerate(result.names)],
        )


def _write_images(
    folder: Path,
    result: ClassifierResults,
    predictions: Predictions,
    data: LabelledTiles,
    run: Path,
) -> None:
    for name in _DRAWN:
        write_bytes(
            folder / f"confusion-{name}.png",
            draw_confusion(result.heads[name].counts, result.names, name.replace("_", " ")),
        )
    chosen = {name: predictions.heads()[name] for name in _DRAWN}
    write_bytes(folder / "roc.png", draw_roc(data.labels[data.rows["test"]], chosen, result.names))
    histories = {
        stage: run / stage / "metrics.csv"
        for stage in (GUIDANCE, DIFFUSION)
        if (run / stage / "metrics.csv").is_file()
    }
    write_bytes(folder / "training.png", draw_training(histories))


def _cell(value: float) -> object:
    return "undefined" if np.isnan(value) else value
