"""Where masks come from: the tiles of a manifest or of shards, or a folder of label images; listed
and measured before anything is made.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from histoprep import imageio
from histoprep.errors import BrokenFileError, LabelMapError, UsageError
from histoprep.image_formats import image_suffixes, lossless_suffixes
from histoprep.imageio.header import Header
from histoprep.labels import IGNORED, IGNORED_ID, LabelMap, SourceLabel
from histoprep.shards import TileSource
from trainer.errors import DataError

_MASK_ENDING = "_mask"


@dataclass(frozen=True, eq=False)
class MaskList:
    """Masks by number, in a fixed order. `ids` are unique names, `sizes` int64 [n, 2] height and
    width in pixels.

    `splits` say where what is made of a mask belongs: an image made from a mask of the test split
    is no training data. `read_mask(i)` gives class ids of `label_map`, uint8 [height, width];
    `read_image(i)` the real image, uint8 RGB, or is None when there are none. `source`
    is the manifest or folder of shards that they are from, None for label images.
    """

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    sizes: np.ndarray
    label_map: LabelMap
    read_mask: Callable[[int], np.ndarray]
    read_image: Callable[[int], np.ndarray] | None
    source: str | None = None

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.ids)

    @property
    def largest_px(self) -> tuple[int, int]:
        """Return height and width of the mask with the most pixels."""
        height, width = self.sizes[int(self.sizes.prod(axis=1).argmax())].tolist()
        return height, width

    def check_sizes(self, multiple_px: int) -> None:
        """Raise UsageError, naming a mask, unless all heights and widths are multiples of
        `multiple_px`.
        """
        wrong = np.flatnonzero(
            (self.sizes % multiple_px).any(axis=1) | (self.sizes < multiple_px).any(axis=1)
        )
        if len(wrong):
            height, width = self.sizes[wrong[0]].tolist()
            raise UsageError(
                f"{len(wrong):,} of {len(self):,} masks have a size that the model cannot generate",
                path=self.ids[wrong[0]],
                seen=f"{height} x {width} px",
                expected=f"multiples of {multiple_px} px",
            )


def resize_masks(masks: MaskList, size_px: int) -> MaskList:
    """Return masks whose longer side has `size_px`, each pixel of the class of the nearest one: no
    label is made up, regions grow or shrink with their outlines. There are no real images of that
    size.
    """
    sizes = np.maximum(1, np.rint(masks.sizes * (size_px / masks.sizes.max(1, keepdims=True))))
    sizes = sizes.astype(np.int64)

    def read_mask(index: int) -> np.ndarray:
        mask = masks.read_mask(index)
        rows, columns = (
            ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
            for new, old in zip(sizes[index].tolist(), mask.shape, strict=True)
        )
        resized: np.ndarray = mask[rows[:, None], columns]
        return resized

    return replace(masks, sizes=sizes, read_mask=read_mask, read_image=None)


def masks_of_tiles(tiles: TileSource, split: str | None = None) -> MaskList:
    """Return the masks with labelled pixels of a split, or of all.

    Raises:
        DataError: When there are none.
    """
    chosen = tiles.pool == "conditional"
    if split:
        chosen = chosen & (tiles.split == split)
    rows = np.flatnonzero(chosen)
    if not len(rows):
        counts = zip(
            *np.unique(tiles.split[tiles.pool == "conditional"], return_counts=True), strict=True
        )
        seen = ", ".join(f"{count} in {name}" for name, count in counts) or "none at all"
        raise DataError(
            "there are no tiles with labelled pixels to take masks from",
            path=tiles.path,
            seen=seen,
            expected=f"some in {split or 'a split'}",
        )
    table = tiles.manifest.read(["height_px", "width_px"])
    sizes = np.stack([table[name].to_numpy() for name in table.column_names], axis=1)[rows].astype(
        np.int64
    )

    def read_mask(index: int) -> np.ndarray:
        mask = tiles.read(int(rows[index])).mask
        if mask is None:
            raise DataError(
                "a tile with labelled pixels has no mask",
                path=str(tiles.tile_ids[rows[index]]),
                hint="histoprep audit",
            )
        return mask

    def read_image(index: int) -> np.ndarray:
        return tiles.read(int(rows[index])).image

    ids, splits = (
        tuple(str(name) for name in column[rows]) for column in (tiles.tile_ids, tiles.split)
    )
    return MaskList(ids, splits, sizes, tiles.label_map, read_mask, read_image, tiles.path)


def masks_in_folder(
    folder: Path,
    classes: LabelMap,
    *,
    source_map: LabelMap | None = None,
    images: Path | None = None,
    split: str | None = None,
) -> MaskList:
    """Return the masks below a folder: 8- or 16-bit PNG or TIFF, in order of name.

    Their values are class ids of `classes`, or the source labels of `source_map`, which is applied
    then. `images` is a folder with the real images under the same names. Everything made of them is
    said to belong to `split`, train by default.

    Raises:
        UsageError: When there are no masks, two of one name, or some of fewer bits than others
            (HP414).
        DataError: Naming the file, when one cannot be read.
    """
    paths = sorted(_files(folder, lossless_suffixes()), key=lambda path: path.as_posix())
    ids = tuple(_name_of(path, folder) for path in paths)
    twice = [tile_id for tile_id, count in Counter(ids).items() if count > 1]
    if not ids or twice:
        what = "two masks have one name" if twice else "there are no masks here"
        raise UsageError(
            what,
            path=folder,
            seen=", ".join(sorted(twice)[:3]) or None,
            expected=f"files {', '.join(f'.{suffix}' for suffix in lossless_suffixes())}",
        )
    headers = [_header_of(path) for path in paths]
    _refuse_mixed_depths(paths, [8 if header.palette else header.bit_depth for header in headers])
    sizes = np.array([(header.height_px, header.width_px) for header in headers], dtype=np.int64)
    image_paths = (
        {_name_of(path, images): path for path in _files(images, image_suffixes())}
        if images
        else {}
    )
    # The map of the training would turn class ids into other classes.
    label_map = source_map or classes_as_sources(classes)

    def read_mask(index: int) -> np.ndarray:
        return _mapped(read_labels(paths[index]), label_map, paths[index])

    def read_image(index: int) -> np.ndarray:
        if ids[index] not in image_paths:
            raise DataError(
                "a mask has no image of the same name",
                path=paths[index],
                seen=f"{len(image_paths):,} images in {images}",
            )
        return _decoded(image_paths[ids[index]], imageio.decode_rgb)

    return MaskList(
        ids,
        (split or "train",) * len(ids),
        sizes,
        source_map or classes,
        read_mask,
        read_image if images else None,
    )


def classes_as_sources(label_map: LabelMap) -> LabelMap:
    """Return the map of the classes of `label_map` to themselves: masks that are written hold class
    ids, and `IGNORED_ID` where that map ignores values.
    """
    classes = label_map.classes
    return LabelMap(
        "synthetic",
        tuple(SourceLabel(cls.id, cls.name) for cls in classes),
        classes,
        {cls.id: cls.id for cls in classes},
        ((IGNORED_ID, IGNORED_ID),) if label_map.ignore else (),
    )


def read_labels(path: Path) -> np.ndarray:
    """Return the values of a label image as stored, integers [height, width].

    Raises:
        DataError: Its text names the file.
    """
    labels = _decoded(path, lambda data: imageio.decode_mask(data, imageio.read_header(data)))
    if labels.ndim != 2 or labels.dtype.kind != "u":
        raise DataError(
            "this is not a label image",
            path=path,
            seen=f"{labels.dtype} {labels.shape}",
            expected="one channel of whole numbers",
        )
    return labels


def _mapped(labels: np.ndarray, label_map: LabelMap, path: Path) -> np.ndarray:
    classes = label_map.apply_to_ids(labels)
    classes[classes == IGNORED] = IGNORED_ID
    if int(classes.min()) < 0 or int(classes.max()) > 255:
        strange = np.unique(labels[(classes < 0) | (classes > 255)])
        raise LabelMapError(
            "a mask holds values without a class",
            path=path,
            seen=", ".join(map(str, strange[:8])),
            hint="give their map with --map",
        )
    return np.asarray(classes.astype(np.uint8))


def _decoded(path: Path, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return decode(path.read_bytes())
    except (OSError, BrokenFileError) as error:
        hint = "histoprep audit reports more" if isinstance(error, BrokenFileError) else None
        raise DataError(f"cannot read the file: {error}", path=path, hint=hint) from error


def _header_of(path: Path) -> Header:
    try:
        # Without the file's content, which the structure holds.
        return replace(imageio.read_header(path.read_bytes()), structure=None)
    except (OSError, BrokenFileError) as error:
        raise DataError(f"cannot read the mask: {error}", path=path) from error


def _refuse_mixed_depths(paths: Sequence[Path], bits: Sequence[int]) -> None:
    """Raise UsageError for grey masks of fewer than 8 bits among others: a 1 may be a 255 that a
    tool stored in the fewest bits (HP414).
    """
    few = [path for path, depth in zip(paths, bits, strict=True) if depth < 8]
    if few and len(few) < len(paths):
        hint = "write all masks with 8 bits; histoprep remap does, and refuses ambiguous labels"
        raise UsageError(
            f"{len(few):,} of {len(paths):,} masks have fewer bits than the others, so that their"
            " labels are not known",
            path=few[0],
            seen=f"{min(bits)} bits",
            expected="the same bits in all",
            hint=hint,
        )


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    if not folder.is_dir():
        raise UsageError("this is not a folder", path=folder)
    endings = tuple(f".{suffix}" for suffix in suffixes)
    for parent, _, names in os.walk(folder, onerror=_stop):
        yield from (
            path
            for name in names
            if name.lower().endswith(endings) and (path := Path(parent, name)).is_file()
        )


def _stop(error: OSError) -> None:
    # os.walk would leave out what it cannot list, without a word.
    raise DataError(f"cannot list the folder: {error.strerror}", path=error.filename)


def _name_of(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix().removesuffix(_MASK_ENDING)
