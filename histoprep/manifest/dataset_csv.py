"""A manifest in the two-column form that the published data set has: dataset.csv."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from histoprep.durable import write_file
from histoprep.schemas.manifest import Manifest, class_matrix

_FORMULA_STARTS = ("=", "+", "-", "@")


def write_dataset_csv(manifest: Manifest, path: str | Path) -> int:
    """Write the published two-column form and return the number of lines: `image path,class ids
    separated by blanks`, no header.

    Class ids are those with at least one pixel, after mapping. Cells that a spreadsheet would take
    for a formula (= + - @ in front) and cells with a comma, quote or line break are in double
    quotes, so that reading gives back the very names.
    """
    ids = np.array([cls.id for cls in manifest.label_map.classes])

    def write(stream: IO[bytes]) -> None:
        for batch in manifest.iter_batches(["image_path", "class_pixels"]):
            present = class_matrix(batch["class_pixels"]) > 0
            names = batch["image_path"].to_pylist()
            lines = [
                f"{_cell(name)},{' '.join(map(str, ids[row].tolist()))}\n"
                for name, row in zip(names, present, strict=True)
            ]
            stream.write("".join(lines).encode("utf-8", "surrogateescape"))

    write_file(Path(path), write)
    return len(manifest)


def _cell(text: str) -> str:
    if (
        text.startswith(_FORMULA_STARTS)
        or any(sign in text for sign in ',"\r\n')
        or text != text.strip()
    ):
        return '"' + text.replace('"', '""') + '"'
    return text
