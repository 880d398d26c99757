"""The predictions for each image as a table: CSV to read, Parquet to work with."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from histoprep import tables
from histoprep.durable import write_text
from trainer.diffusion.label_diffusion import label_probabilities
from trainer.recipes.diffmic_inference import Classified

KIND = "predictions"
SCHEMA_VERSION = "1.0"
_SIGNIFICANT = 6


@dataclass(frozen=True, eq=False)
class Predictions:
    """n images of C classes: `samples` [S, n, C] of the diffusion, logits [n, C] of the guidance
    classifier alone.
    """

    samples: np.ndarray
    fused: np.ndarray
    global_logits: np.ndarray
    local_logits: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Return the mean denoised labels [n, C]."""
        return np.asarray(self.samples.mean(axis=0))

    @property
    def probabilities(self) -> np.ndarray:
        """Return class probabilities [n, C] of the diffusion; see `label_probabilities`."""
        return label_probabilities(torch.from_numpy(self.scores)).numpy()

    @property
    def uncertainty(self) -> np.ndarray:
        """Return the standard deviation over samples of the predicted class's score, [n]; NaN with
        a single sample.
        """
        if len(self.samples) < 2:
            return np.full(self.samples.shape[1], np.nan)
        spread = self.samples.std(axis=0, ddof=1)
        return np.asarray(
            np.take_along_axis(spread, self.scores.argmax(axis=1)[:, None], axis=1)[:, 0]
        )

    def heads(self) -> dict[str, np.ndarray]:
        """Return scores [n, C] by name: the diffusion, and the guidance classifier fused, global
        and local as probabilities.
        """
        alone = {
            "guidance_fused": self.fused,
            "guidance_global": self.global_logits,
            "guidance_local": self.local_logits,
        }
        return {"diffusion": self.scores} | {
            name: torch.from_numpy(logits).softmax(dim=1).numpy() for name, logits in alone.items()
        }


def gather_predictions(classified: Sequence[Classified]) -> Predictions:
    """Return the classifications of several batches as one."""

    def joined(parts: Sequence[torch.Tensor], dim: int) -> np.ndarray:
        return np.asarray(torch.cat([part.double().cpu() for part in parts], dim=dim).numpy())

    guidance = [tile.guidance for tile in classified]
    return Predictions(
        joined([tile.samples for tile in classified], 1),
        joined([logits.fused for logits in guidance], 0),
        joined([logits.global_logits for logits in guidance], 0),
        joined([logits.local_logits for logits in guidance], 0),
    )


def prediction_table(
    predictions: Predictions, names: Sequence[str], first: dict[str, pa.Array]
) -> pa.Table:
    """Return one row an image: the columns of `first`, predicted class, uncertainty, then numbers
    of each class.

    These are the probability, the score (mean denoised label) and the probability that the fused
    guidance classifier gives.
    """
    heads = predictions.heads()
    columns: dict[str, pa.Array] = dict(first)
    columns["predicted"] = pa.array([names[column] for column in predictions.scores.argmax(axis=1)])
    columns["uncertainty"] = pa.array(predictions.uncertainty, from_pandas=True)
    columns["predicted_by_guidance"] = pa.array(
        [names[column] for column in predictions.fused.argmax(axis=1)]
    )
    for prefix, values in (
        ("probability", predictions.probabilities),
        ("score", predictions.scores),
        ("guidance", heads["guidance_fused"]),
    ):
        columns |= {
            f"{prefix}: {name}": pa.array(values[:, index]) for index, name in enumerate(names)
        }
    return pa.table(columns)


def write_predictions(folder: Path, table: pa.Table) -> tuple[Path, Path]:
    """Write predictions.csv and predictions.parquet and return their paths; texts in the CSV are
    quoted, since a name may look like a formula.
    """
    paths = folder / "predictions.csv", folder / "predictions.parquet"
    rows = [[_rounded(value) for value in row.values()] for row in table.to_pylist()]
    write_csv(paths[0], table.column_names, rows)
    tables.write_table(
        paths[1], [table], table.schema, kind=KIND, schema_version=SCHEMA_VERSION, metadata={}
    )
    return paths


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table as CSV, every text in quotes."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{_SIGNIFICANT}g}")
    return "" if value is None else value
