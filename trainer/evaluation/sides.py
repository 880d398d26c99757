"""The two sets that are compared: real tiles, and generated ones from a manifest or a folder."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from histoprep import imageio
from histoprep.errors import BrokenFileError, UsageError
from histoprep.image_formats import image_suffixes
from histoprep.labels import LabelMap
from histoprep.schemas.workspace import MANIFEST_NAME, SUFFIX
from histoprep.shards import Tile, TileSource, open_tiles
from histoprep.shards.layout import INDEX
from trainer.data.randomness import keyed_uniforms
from trainer.errors import DataError
from trainer.sampling.masks import masks_in_folder

IMAGES, MASKS = "images", "masks"
TRAIN, HELD_OUT = "train", ("val", "test")
"""The splits that generators and segmenters learn from, and those that they do not."""
_CONDITIONAL = "conditional"


@dataclass(frozen=True, eq=False)
class ComparedTiles:
    """Tiles of one set by number: `read(i)` gives image and mask (None without one), `encoded(i)`
    the bytes of the image.

    `groups` are slides, cases or patients as text, one of its own for a tile without any, in which
    case `has_groups` is False. `splits` are train, val or test; of a generated tile that of its
    mask. `labels` are image-level classes, None where there is none.
    """

    name: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[str | None, ...]
    label_map: LabelMap | None
    has_groups: bool
    read: Callable[[int], Tile]
    encoded: Callable[[int], bytes]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def take(self, rows: np.ndarray) -> ComparedTiles:
        """Return the tiles of some rows, in their order."""
        numbers = [int(row) for row in rows]
        read, encoded = self.read, self.encoded
        return replace(
            self,
            ids=tuple(self.ids[row] for row in numbers),
            groups=tuple(self.groups[row] for row in numbers),
            splits=tuple(self.splits[row] for row in numbers),
            labels=tuple(self.labels[row] for row in numbers),
            read=lambda index: read(numbers[index]),
            encoded=lambda index: encoded(numbers[index]),
        )

    def rows_of(self, *splits: str) -> np.ndarray:
        """Return the tiles of some splits, int64, ascending."""
        return np.flatnonzero(np.isin(np.array(self.splits, dtype=object), splits))

    def group_numbers(self) -> np.ndarray:
        """Return a number from 0 for the group of each tile, int64 [tiles]."""
        return np.unique(np.array(self.groups, dtype=object).astype(str), return_inverse=True)[1]


def real_side(path: str, *, root: str | None = None) -> ComparedTiles:
    """Return the tiles of a manifest or shards that have labelled pixels, or all where none has.

    Raises:
        UsageError: There is no manifest or shard index.
    """
    tiles = open_tiles(path, root=root)
    chosen = np.flatnonzero(tiles.pool == _CONDITIONAL)
    return _side_of(tiles, "real", chosen if len(chosen) else np.arange(len(tiles)))


def synthetic_side(path: str, real: ComparedTiles) -> ComparedTiles:
    """Return the generated tiles in a manifest, shards, or a folder, each with the group of the
    real tile whose mask it was made for, where that is known by its name.

    Args:
        path: A manifest, shards, the folder of a data set with a manifest beside it (as `trainer
            sample` makes), or a folder of images, or of `images` and `masks`.
        real: The real tiles.

    Raises:
        UsageError: When there is nothing of the kind.
    """
    place = _manifest_of(path)
    side = _side_of(open_tiles(place), "synthetic", None) if place else _folder_side(path, real)
    by_name = dict(zip(real.ids, real.groups, strict=True))
    sources = [mask_source(name, by_name) for name in side.ids]
    groups = tuple(
        side.groups[index] if source is None else by_name[source]
        for index, source in enumerate(sources)
    )
    known = all(source is not None for source in sources)
    return replace(side, groups=groups, has_groups=side.has_groups or known)


def mask_source(tile_id: str, real_ids: Container[str]) -> str | None:
    """Return the id of the real tile that a generated tile is named after, None if there is none:
    `trainer sample` writes images/<tile id>.png.
    """
    stripped = tile_id.removeprefix(f"{IMAGES}/")
    return next((name for name in (tile_id, stripped) if name in real_ids), None)


def limit_side(side: ComparedTiles, most: int, seed: int) -> ComparedTiles:
    """Return at most `most` tiles: whole groups in a seeded order, of the last one a part."""
    if len(side) <= most:
        return side
    numbers = side.group_numbers()
    order = np.argsort(keyed_uniforms(seed, np.arange(numbers.max() + 1), "groups")[:, 0])
    rank = np.argsort(order)[numbers]
    return side.take(np.sort(np.argsort(rank, kind="stable")[:most]))


def _manifest_of(path: str) -> str | None:
    """Return the manifest or index that a path means, None for a plain folder of images."""
    place = Path(path)
    if "://" in path or place.is_file():
        return path
    if not place.is_dir():
        raise UsageError(
            "there are no generated tiles here",
            path=path,
            expected="a manifest, shards, or a folder of images",
        )
    beside = place.absolute().with_name(f"{place.absolute().name}{SUFFIX}")
    candidates = (place / INDEX, place / MANIFEST_NAME, beside / MANIFEST_NAME)
    return next((str(file) for file in candidates if file.is_file()), None)


def _side_of(tiles: TileSource, name: str, rows: np.ndarray | None) -> ComparedTiles:
    chosen = np.arange(len(tiles)) if rows is None else rows
    groups = [
        str(tiles.tile_ids[row]) if tiles.group[row] is None else f"group {tiles.group[row]}"
        for row in chosen.tolist()
    ]
    if not len(chosen):
        raise DataError("the manifest has no tile", path=tiles.path)
    numbers = chosen.tolist()
    return ComparedTiles(
        name,
        tuple(str(tile_id) for tile_id in tiles.tile_ids[chosen]),
        tuple(groups),
        tuple(str(split) for split in tiles.split[chosen]),
        tuple(tiles.label[chosen]),
        tiles.label_map,
        all(group is not None for group in tiles.group[chosen]),
        lambda index: tiles.read(numbers[index]),
        lambda index: tiles.read_bytes(numbers[index]).image,
    )


def _folder_side(path: str, real: ComparedTiles) -> ComparedTiles:
    folder = Path(path)
    images = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    endings = tuple(f".{suffix}" for suffix in image_suffixes())
    files = {
        file.relative_to(images).with_suffix("").as_posix(): file
        for file in sorted(images.rglob("*"))
        if file.is_file() and file.name.lower().endswith(endings)
    }
    if not files:
        raise UsageError(
            "there are no images in the folder", path=images, expected=", ".join(endings)
        )
    masks: dict[str, Callable[[], np.ndarray]] = {}
    if images != folder and (folder / MASKS).is_dir() and real.label_map:
        listed = masks_in_folder(folder / MASKS, real.label_map)
        for number, name in enumerate(listed.ids):
            masks[name] = lambda number=number: listed.read_mask(number)  # type: ignore[misc]
    ids = tuple(files)

    def encoded(index: int) -> bytes:
        try:
            return files[ids[index]].read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read the image: {error.strerror}", path=files[ids[index]]
            ) from error

    def read(index: int) -> Tile:
        data, mask = encoded(index), masks.get(ids[index])
        try:
            image = imageio.decode_rgb(data)
        except BrokenFileError as error:
            raise DataError(
                f"cannot read the image: {error.detail}", path=files[ids[index]]
            ) from error
        return Tile(image, mask() if mask else None)

    nothing = (None,) * len(ids)
    return ComparedTiles(
        "synthetic",
        ids,
        ids,
        ("train",) * len(ids),
        nothing,
        real.label_map,
        False,
        read,
        encoded,
    )
