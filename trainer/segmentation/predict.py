"""`trainer predict` of a segmenter: a mask for every image, and a table of class shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histoprep import checksums, imageio
from histoprep.durable import write_bytes
from histoprep.errors import BrokenFileError, UsageError
from histoprep.schemas.workspace import check_outside
from trainer.classification.predict import FOLDER, FoundImages, find_images, read_image
from trainer.classification.table import write_csv
from trainer.errors import DataError
from trainer.reporter import NULL_REPORTER, Reporter
from trainer.segmentation.evaluate import mask_path, write_label_map
from trainer.segmentation.network import RunSegmenter, open_segmenter

TABLE = "predictions.csv"


@dataclass(frozen=True, eq=False)
class MaskRun:
    """What was predicted: a row for each image (path, mean probability, share of each class),
    where it was written, and the images that could not be used with the reason.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]
    folder: Path
    broken: tuple[tuple[Path, str], ...]


def predict_masks(
    run: Path,
    images: Sequence[Path],
    out: Path | None = None,
    *,
    device: str = "auto",
    reporter: Reporter = NULL_REPORTER,
) -> MaskRun:
    """Segment images; write masks/<name>.png (class ids), label_map.yml and predictions.csv.

    Images of folders below those that are named keep their folders: masks/<folder>/<name>.png.

    Args:
        run: The run folder of a segmenter.
        images: Image files, and folders whose images, and those of all folders below, are taken.
        out: Where results go; None for RUN/predictions.
        device: Name of the device, or auto.
        reporter: Where progress goes.

    Raises:
        UsageError: When a path is neither file nor folder, there is no image, two images have one
            name, or `out` is inside such a folder.
        DataError: When no image can be read.
    """
    found = find_images(images)
    found.tell(reporter)
    _refuse_equal_names(found)
    folder = out or run / FOLDER
    check_outside(folder, [path for path in images if path.is_dir()], "predictions")
    model = open_segmenter(run, device=device)
    checksums.forget_files(folder, lambda _: True)
    rows, broken = [], []
    with reporter.progress("predict", len(found.files), "images") as meter:
        for path, name in zip(found.files, found.names, strict=True):
            try:
                rows.append(_predict(model, path, mask_path(folder, name), folder))
            except BrokenFileError as error:
                broken.append((path, error.detail))
            meter.advance(1)
    if not rows:
        raise DataError("none of the images can be read", seen=f"{broken[0][0]}: {broken[0][1]}")
    header = (
        "image",
        "mask",
        "probability",
        *(f"share: {cls.name}" for cls in model.label_map.classes),
    )
    write_csv(folder / TABLE, header, rows)
    write_label_map(folder, model)
    checksums.list_all_files(folder)
    return MaskRun(header, tuple(rows), folder, tuple(broken))


def _predict(model: RunSegmenter, path: Path, place: Path, folder: Path) -> tuple[str | float, ...]:
    """Write the mask of an image to `place`, and return its row of the table."""
    mask, probability = model.segment(read_image(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(place, imageio.encode_mask_png(mask))
    shares = np.bincount(mask.ravel(), minlength=model.label_map.num_classes) / mask.size
    name = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    figures = (round(float(value), 6) for value in (probability, *shares))
    return (name, place.relative_to(folder).as_posix(), *figures)


def _refuse_equal_names(found: FoundImages) -> None:
    twice = [name for name, count in Counter(found.names).items() if count > 1]
    if twice:
        pairs = zip(found.files, found.names, strict=True)
        same = [str(path) for path, name in pairs if name == twice[0]]
        raise UsageError(
            "two images would have one mask: masks are named after their images",
            seen=", ".join(same[:3]),
            expected="names that differ before the extension",
            hint="predict them one after the other, with another --out",
        )
