"""Tiles by row number, from files or from shards: the same pixels either way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.digests import digest, file_digest
from histoprep.errors import UsageError
from histoprep.labels import LabelMap
from histoprep.notebook import html_result
from histoprep.phrases import plural
from histoprep.remote import open_folder
from histoprep.schemas.manifest import FOLD, Manifest, class_matrix
from histoprep.schemas.shards import is_index
from histoprep.shards.index import open_any
from histoprep.shards.readers import EncodedTile, FileReader, ShardReader, TileError
from histoprep.storage import is_address, open_storage
from histoprep.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame

_COLUMNS = ("tile_id", "split", "pool", "group", "label", "classes", "class_pixels")


class Tile(NamedTuple):
    """A tile: `image` uint8 RGB [height, width, 3]; `mask` uint8 class ids [height, width], None
    when the tile has none.
    """

    image: np.ndarray
    mask: np.ndarray | None


@dataclass(eq=False, repr=False)
class TileSource:
    """The tiles of a manifest or of an index of shards, by row number.

    Picklable: every process opens its own files when it reads. Rows are in the order of the
    manifest, and an index of shards has the rows of the manifest it was made from. `root`: another
    folder or address for relative paths, None for the manifest's. `fold`: the cross-validation fold
    that is test; see `split`.
    """

    path: str
    root: str | None = None
    fold: int | None = None
    inner_fold: int | None = None

    @cached_property
    def manifest(self) -> Manifest:
        """Return the manifest or index itself."""
        return open_any(self.path)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.manifest)

    def __repr__(self) -> str:
        """Return the number of tiles and where they come from."""
        kind = "shards" if self.is_sharded else "files"
        return f"<TileSource: {plural(len(self), 'tile')} from {kind} | {visible(self.path)}>"

    def _repr_html_(self) -> str:
        """Return the number of tiles by split and pool, for notebooks."""
        counts = Counter(zip(self.split.tolist(), self.pool.tolist(), strict=True))
        rows = [(*key, number) for key, number in sorted(counts.items())]
        sentence = f"{plural(len(self), 'tile')} of {len(self.label_map.classes)} classes"
        return html_result(f"{sentence} | {self.path}", ("split", "pool", "tiles"), rows)

    def to_pandas(self) -> DataFrame:
        """Return what is known of the tiles: a row a tile, the columns of `table`."""
        frame: DataFrame = self.table.to_pandas()
        return frame

    @property
    def size(self) -> int:
        """Return the number of tiles."""
        return len(self.manifest)

    @property
    def label_map(self) -> LabelMap:
        """Return the label map whose class ids masks have."""
        return self.manifest.label_map

    @property
    def certificate(self) -> dict[str, Any]:
        """Return what the split was proven to be; see `histoprep.split.certificate`."""
        return self.manifest.certificate

    @cached_property
    def digest(self) -> str:
        """Return the digest of the manifest, of an index that of the manifest it was made from: the
        same tiles have the same one.
        """
        stated = self.manifest.header.get("manifest_digest")
        if stated:
            return str(stated)
        if is_address(self.path):
            return digest(open_storage(self._folder()).read(self.path.rpartition("/")[2]))
        return file_digest(self.manifest.path)

    @property
    def is_sharded(self) -> bool:
        """Return whether tiles come from shards."""
        return is_index(self.manifest)

    @cached_property
    def table(self) -> pa.Table:
        """Return what is known of the tiles: tile_id, split, pool, group, label, classes
        (core-present ids), class_pixels.
        """
        if self.fold is None:
            return self.manifest.read(_COLUMNS)
        table = self.manifest.read((*_COLUMNS, FOLD.name))
        split = _split_of_folds(
            table[FOLD.name], self.fold, self.inner_fold, self.manifest.num_folds
        )
        return table.set_column(_COLUMNS.index("split"), "split", split).drop([FOLD.name])

    @cached_property
    def tile_ids(self) -> np.ndarray:
        """Return the ids of the tiles, str [n]."""
        return self._texts("tile_id")

    @cached_property
    def split(self) -> np.ndarray:
        """Return train, val or test, str [n].

        With a `fold`, its tiles are test, those of `inner_fold`, or the next fold, val (where there
        are more than two), those of the others train, and tiles of no fold `held-out`.
        """
        return self._texts("split")

    @cached_property
    def pool(self) -> np.ndarray:
        """Return conditional or unconditional, str [n]."""
        return self._texts("pool")

    @cached_property
    def label(self) -> np.ndarray:
        """Return the image-level class of each tile, str [n], None where there is none."""
        return self._texts("label")

    @cached_property
    def group(self) -> np.ndarray:
        """Return the slide, case or patient of each tile, str [n], None where it is unknown."""
        return self._texts("group")

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """Return the pixels of each class, int64 [n, classes], in the label map's order."""
        return class_matrix(self.table["class_pixels"])

    def _texts(self, name: str) -> np.ndarray:
        # One object a distinct value: splits, pools and groups are few.
        column = self.table[name].combine_chunks().dictionary_encode()
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        values = np.array([*column.dictionary.to_pylist(), None], dtype=object)
        result: np.ndarray = values[
            column.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
        ]
        return result

    @cached_property
    def _reader(self) -> FileReader | ShardReader:
        if self.is_sharded:
            return ShardReader(self.manifest, open_storage(self.root or self._folder()))
        storage = open_folder(self.root or str(self.manifest.root))
        return FileReader(self.manifest, storage, self.root)

    def _folder(self) -> str:
        if not self.path.endswith(".parquet"):
            return self.path
        return (
            self.path.rpartition("/")[0] if is_address(self.path) else str(Path(self.path).parent)
        )

    def read_bytes(self, row: int) -> EncodedTile:
        """Return the files of a tile, checked against their digests or checksums, not decoded.

        Args:
            row: Number of the tile in the manifest. Its mask has the labels of the data set when it
                comes from a file, and classes when it comes from a shard.

        Raises:
            TileError: The tile cannot be read, or is not what the manifest says.
        """
        return self._reader.read(row)

    def read(self, row: int) -> Tile:
        """Return a tile decoded, its mask in class ids.

        Args:
            row: Number of the tile in the manifest.

        Raises:
            TileError: The tile cannot be read; it names the tile and the file.
        """
        image, mask = self._reader.read(row)
        return Tile(
            self._reader.image(row, image), None if mask is None else self._reader.mask(row, mask)
        )

    def decode_image(self, row: int, data: bytes) -> np.ndarray:
        """Return the image of a tile from its bytes, uint8 RGB [height, width, 3]; raises
        TileError.
        """
        return self._reader.image(row, data)

    def decode_mask(self, row: int, data: bytes) -> np.ndarray:
        """Return the class ids of a mask from its bytes, uint8 [height, width]; raises
        TileError.
        """
        return self._reader.mask(row, data)

    def read_mask(self, row: int) -> np.ndarray:
        """Return the mask of a tile in class ids, uint8 [height, width], without decoding its
        image.

        Args:
            row: Number of the tile in the manifest.

        Raises:
            TileError: The tile cannot be read, or has no mask.
        """
        _, mask = self._reader.read(row)
        if mask is None:
            raise TileError("a tile has no mask", path=str(self.tile_ids[row]))
        return self._reader.mask(row, mask)

    def __getstate__(self) -> dict[str, Any]:
        """Return path and root; everything else is read again."""
        return {"path": self.path, "root": self.root}


def _split_of_folds(
    folds: pa.ChunkedArray, fold: int, inner_fold: int | None, num_folds: int
) -> pa.Array:
    names = ["train"] * num_folds
    if num_folds > 2:  # otherwise nothing would be left to learn from
        names[(fold + 1) % num_folds if inner_fold is None else inner_fold] = "val"
    names[fold] = "test"
    return pa.array([*names, "held-out"]).take(pc.fill_null(folds, num_folds).combine_chunks())


def open_tiles(
    path: str | Path,
    *,
    root: str | Path | None = None,
    fold: int | None = None,
    inner_fold: int | None = None,
) -> TileSource:
    """Return the tiles of a manifest (read from its files) or of shards (read by ranges).

    Args:
        path: A manifest, an index of shards, or the folder of one: a path or an address (s3://,
            gs://, az://, https:// through obstore, others through fsspec).
        root: Folder or address that relative paths start from; None for that of the manifest.
        fold: The cross-validation fold that is test, from 0; None for the splits of the manifest.
        inner_fold: Another one that is val; None for the next one. With each of the others in turn,
            cross-validation is nested.

    Raises:
        UsageError: There is nothing, no such fold, no inner fold beside it, or the library for the
            scheme is missing.
        IntegrityError: The manifest or index cannot be read.
    """
    source = TileSource(str(path), None if root is None else str(root), fold, inner_fold)
    num_folds = source.manifest.num_folds
    if fold is not None and not 0 <= fold < num_folds:
        raise UsageError(
            "the manifest has no such fold",
            path=path,
            seen=f"fold {fold}",
            expected=f"0 to {num_folds - 1}" if num_folds else "a manifest with folds",
            hint="histoprep manifest --folds 5 writes five folds",
        )
    others = [other for other in range(num_folds) if fold not in (None, other)]
    if inner_fold is not None and (inner_fold not in others or num_folds < 3):
        raise UsageError(
            "this fold cannot be the inner one",
            path=path,
            seen=f"inner fold {inner_fold} of {num_folds} folds; test is"
            f" {'no fold' if fold is None else f'fold {fold}'}",
            expected="a fold that is test, and another one of at least two that are left",
        )
    return source
