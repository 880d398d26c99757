"""`trainer predict`: classes, probabilities and uncertainties of image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from histoprep import checksums, image_formats, imageio, rule_ids
from histoprep.errors import BrokenFileError
from histoprep.phrases import first_of
from histoprep.schemas.workspace import SUFFIX, check_outside
from trainer.classification.network import open_classifier
from trainer.classification.table import gather_predictions, prediction_table, write_predictions
from trainer.data.transforms import to_float
from trainer.errors import DataError, UsageError
from trainer.recipes.diffmic_data import square_image
from trainer.reporter import NULL_REPORTER, Reporter

FOLDER = "predictions"
_BATCH = 16
# The end of a mask's name, beside its image.
_MASK = "_mask"
_NUM_NAMED = 5
_MAX_PIXELS = 100_000_000


@dataclass(frozen=True, eq=False)
class PredictionRun:
    """What was predicted: the table, the files it was written to, and the images that could not be
    used with the reason.
    """

    table: pa.Table
    paths: tuple[Path, Path]
    broken: tuple[tuple[Path, str], ...]


def predict_images(
    run: Path,
    images: Sequence[Path],
    out: Path | None = None,
    *,
    device: str = "auto",
    num_inference_steps: int | None = None,
    num_samples: int | None = None,
    reporter: Reporter = NULL_REPORTER,
) -> PredictionRun:
    """Classify images and write predictions.csv and predictions.parquet.

    An image is cut to its central square and scaled to the size the run was trained at.

    Args:
        run: The run folder; see `open_classifier` for one without a classifier.
        images: Image files, and folders whose images, and those of all folders below, are taken.
        out: Where the tables go; None for RUN/predictions.
        device: Name of the device, or auto.
        num_inference_steps: Denoising steps; None for those of the run.
        num_samples: Samples for each image; None for those of the run.
        reporter: Where progress goes.

    Raises:
        UsageError: When a path is neither file nor folder or there is no image, or for an `out`
            inside
            such a folder.
        DataError: When no image can be read.
    """
    found = find_images(images)
    found.tell(reporter)
    files = found.files
    folder = out or run / FOLDER
    check_outside(folder, [path for path in images if path.is_dir()], "predictions")
    model = open_classifier(
        run, device=device, num_inference_steps=num_inference_steps, num_samples=num_samples
    )
    used: list[Path] = []
    broken: list[tuple[Path, str]] = []
    classified = []
    with reporter.progress("predict", len(files), "images") as meter:
        for start in range(0, len(files), _BATCH):
            pixels = []
            for path in files[start : start + _BATCH]:
                try:
                    pixels.append(
                        to_float(square_image(read_image(path), model.config.data.image_size))
                    )
                    used.append(path)
                except BrokenFileError as error:
                    broken.append((path, error.detail))
            if pixels:
                classified.append(
                    model.classify(torch.from_numpy(np.stack(pixels)), start // _BATCH)
                )
            meter.advance(len(files[start : start + _BATCH]))
    if not classified:
        raise DataError(
            "none of the images can be read",
            seen=f"{broken[0][0]}: {broken[0][1]}",
            expected=image_formats.titles(),
        )
    table = prediction_table(
        gather_predictions(classified),
        model.names,
        {"image": pa.array([_display(path) for path in used], pa.string())},
    )
    checksums.forget_files(folder, lambda _: True)
    paths = write_predictions(folder, table)
    checksums.list_files(folder, [path.name for path in paths])
    return PredictionRun(table, paths, tuple(broken))


@dataclass(frozen=True)
class FoundImages:
    """Image files, and what in the folders is none: other files, hidden folders and workspaces.

    `names` are the files without suffix, below the folder that they were found in.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    skipped: tuple[Path, ...] = ()

    def tell(self, reporter: Reporter) -> None:
        """Say what was skipped."""
        if self.skipped:
            names = first_of([str(path) for path in self.skipped], limit=_NUM_NAMED)
            reporter.note(f"skipped what is no image, {len(self.skipped):,}: {names}")


def find_images(paths: Iterable[Path]) -> FoundImages:
    """Return files as given, and the images in folders and all folders below them, by path.

    Raises:
        UsageError: For anything else and for a folder without images.
    """
    files: list[Path] = []
    names: list[str] = []
    skipped: list[Path] = []
    for path in paths:
        if path.is_file():
            files.append(path)
            names.append(path.stem)
            continue
        if not path.is_dir():
            raise UsageError("there is no such image or folder", path=path)
        inside, others = _look_through(path)
        if not inside:
            raise UsageError(
                "there is no image in this folder",
                path=path,
                seen=first_of([file.name for file in others], limit=_NUM_NAMED) or "nothing",
                expected=", ".join(_endings()),
                hint="name the folder that holds them",
            )
        files += inside
        names += [file.relative_to(path).with_suffix("").as_posix() for file in inside]
        skipped += others
    return FoundImages(tuple(files), tuple(names), tuple(skipped))


def _look_through(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder and below it, and what else is there, such as the masks that
    lie beside their images.
    """
    images: list[Path] = []
    others: list[Path] = []
    for place, folders, names in os.walk(folder):
        left_out = [name for name in folders if name.startswith(".") or name.endswith(SUFFIX)]
        folders[:] = sorted(name for name in folders if name not in left_out)
        others += [Path(place, name) for name in left_out]
        stems = {name.rpartition(".")[0] for name in names}
        for name in sorted(names):
            stem = name.rpartition(".")[0]
            is_mask = stem.endswith(_MASK) and stem.removesuffix(_MASK) in stems
            is_image = not name.startswith(".") and name.lower().endswith(_endings())
            (images if is_image and not is_mask else others).append(Path(place, name))
    return images, others


def _endings() -> tuple[str, ...]:
    return tuple(f".{suffix}" for suffix in image_formats.image_suffixes())


def read_image(path: Path) -> np.ndarray:
    """Return an image file as uint8 RGB [H, W, 3].

    Raises:
        BrokenFileError: Also for one with too many pixels.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenFileError(
            rule_ids.UNREADABLE_FILE.verdict("unreadable"), error.strerror or str(error)
        ) from error
    header = imageio.read_header(data)
    if header.width_px * header.height_px > _MAX_PIXELS:
        raise BrokenFileError(
            rule_ids.HUGE_IMAGE.verdict("too-large"),
            f"{header.width_px} x {header.height_px} px; at most {_MAX_PIXELS:,} pixels",
        )
    return imageio.decode_rgb(data, header)


def _display(path: Path) -> str:
    # A name that is not UTF-8 cannot be an Arrow string; its bytes stay readable.
    return (
        str(path)
        .encode(
            "utf-8",
            "backslashreplace"
            if any(0xDC80 <= ord(sign) <= 0xDCFF for sign in str(path))
            else "strict",
        )
        .decode("utf-8")
    )
