"""Inpainting regions: which pixels of a real image stay, from one label image for all masks or
one for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from histoprep.errors import UsageError
from histoprep.image_formats import lossless_suffixes
from trainer.sampling.masks import MaskList, read_labels


@dataclass(frozen=True)
class KeepRegions:
    """`read(i)` says which pixels of image i stay, bool [height, width]; `digest` stands for all
    regions in the record of a request.
    """

    read: Callable[[int], np.ndarray]
    digest: str


def keep_regions(path: Path, masks: MaskList) -> KeepRegions:
    """Return the regions in a label image, the same for every mask, or in a folder with one under
    the name of each mask.

    Pixels other than 0 stay.

    Raises:
        UsageError: When a mask has none, before anything is made.
    """
    if path.is_file():
        region = read_labels(path) != 0
        return KeepRegions(
            lambda _: region, xxhash.xxh3_128_hexdigest(np.packbits(region).tobytes())
        )
    endings = [f"{end}.{suffix}" for suffix in lossless_suffixes() for end in ("", "_mask")]
    found = [
        next((file for ending in endings if (file := path / f"{tile_id}{ending}").is_file()), None)
        for tile_id in masks.ids
    ]
    missing = [tile_id for tile_id, path in zip(masks.ids, found, strict=True) if path is None]
    if missing:
        raise UsageError(
            "there is no region to keep for some masks",
            path=path,
            seen=f"{len(missing):,}, such as {missing[0]}",
            hint="name one file for all",
        )
    state = xxhash.xxh3_128()
    for place in found:
        state.update(place.read_bytes() if place else b"")
    return KeepRegions(lambda index: read_labels(found[index] or path) != 0, state.hexdigest())
