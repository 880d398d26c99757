"""What is filtered and sorted by, in memory: some 60 bytes a tile beside its names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = -1


@dataclass(frozen=True)
class Category:
    """A column of few distinct texts: `codes` int32 [n] are indices of `values`, -1 for null."""

    codes: np.ndarray
    values: tuple[str, ...]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Category:
        """Return a column of texts, its values in order."""
        encoded = column.combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        names: list[str] = encoded.dictionary.to_pylist()
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names) + 1, np.int32)
        rank[order] = np.arange(len(names), dtype=np.int32)
        rank[len(names)] = MISSING
        codes = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
        return cls(rank[codes], tuple(names[place] for place in order))

    @classmethod
    def empty(cls, length: int) -> Category:
        """Return a column of nulls."""
        return cls(np.full(length, MISSING, np.int32), ())

    def value(self, row: int) -> str | None:
        """Return the text of a row, None for null."""
        code = int(self.codes[row])
        return None if code == MISSING else self.values[code]

    def take(self, rows: np.ndarray) -> Category:
        """Return the column of other rows, null where `rows` is negative."""
        if not len(self.codes):
            return Category.empty(len(rows))
        codes = np.where(rows < 0, MISSING, self.codes[np.maximum(rows, 0)]).astype(np.int32)
        return Category(codes, self.values)

    def code_of(self, value: str) -> int | None:
        """Return the code of a text, None where no row has it."""
        return self.values.index(value) if value in self.values else None


@dataclass(frozen=True)
class ShownClass:
    """A class, or a label without a map, as the page shows it; `colour` is "#rrggbb"."""

    id: int
    name: str
    colour: str


@dataclass(frozen=True)
class ClassShares:
    """Which tiles hold which class, and how much of their masks.

    Attributes:
        classes: All classes.
        rows: For each class the rows that hold it, int32, ascending.
        shares: For each class the share of the mask in each of these rows, float32, in (0, 1].
        is_core: For each class whether it is core-present in each of these rows.
        pixels: Pixels of each class in all rows, int64 [classes].
    """

    classes: tuple[ShownClass, ...]
    rows: tuple[np.ndarray, ...]
    shares: tuple[np.ndarray, ...]
    is_core: tuple[np.ndarray, ...]
    pixels: np.ndarray

    def position(self, class_id: int) -> int | None:
        """Return the place of a class, None where there is no such class."""
        return next((at for at, cls in enumerate(self.classes) if cls.id == class_id), None)

    def of_rows(self, rows: np.ndarray) -> list[list[tuple[int, float]]]:
        """Return for each tile the places of its classes with their shares, largest first."""
        found: list[list[tuple[int, float]]] = [[] for _ in rows]
        for place, (own, shares) in enumerate(zip(self.rows, self.shares, strict=True)):
            for at, position in places_in(own, rows):
                found[at].append((place, float(shares[position])))
        return [sorted(entries, key=lambda entry: -entry[1]) for entries in found]

    def share_column(self, position: int, length: int) -> np.ndarray:
        """Return the share of a class in every row, float32 [length], 0 where it is absent."""
        column = np.zeros(length, np.float32)
        column[self.rows[position]] = self.shares[position]
        return column


def places_in(own: np.ndarray, rows: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of (place in `rows`, place in `own`) of numbers that are in both.

    Args:
        own: Integers, ascending.
        rows: Integers in any order.
    """
    if not len(own):
        return []
    at = np.minimum(np.searchsorted(own, rows), len(own) - 1)
    found = np.flatnonzero(own[at] == rows)
    return list(zip(found.tolist(), at[found].tolist(), strict=True))


class SharesBuilder:
    """Collects class shares from batches of rows."""

    def __init__(self) -> None:
        self._rows: dict[int, list[np.ndarray]] = {}
        self._shares: dict[int, list[np.ndarray]] = {}
        self._core: dict[int, list[np.ndarray]] = {}
        self._pixels: dict[int, int] = {}

    def add(
        self, rows: np.ndarray, class_ids: np.ndarray, pixels: np.ndarray, is_core: np.ndarray
    ) -> None:
        """Add entries, any number a row; entries of one row and class are summed.

        Args:
            rows: Row numbers, integer [n], all behind those added before.
            class_ids: Class of each entry, int64 [n].
            pixels: Pixels of each entry, int64 [n].
            is_core: Whether it is core-present, bool [n].
        """
        if not len(rows):
            return
        first = int(rows.min())
        totals = np.bincount(rows - first, weights=pixels)
        for class_id in np.unique(class_ids).tolist():
            chosen = class_ids == class_id
            own, place = np.unique(rows[chosen], return_inverse=True)
            count = np.bincount(place, weights=pixels[chosen])
            core = np.bincount(place, weights=is_core[chosen]) > 0
            there = count > 0
            share = (count / np.maximum(totals[own - first], 1)).astype(np.float32)
            self._rows.setdefault(class_id, []).append(own[there].astype(np.int32))
            self._shares.setdefault(class_id, []).append(share[there])
            self._core.setdefault(class_id, []).append(core[there])
            self._pixels[class_id] = self._pixels.get(class_id, 0) + int(count.sum())

    @property
    def class_ids(self) -> list[int]:
        """Return the classes that were met, in order."""
        return sorted(self._rows)

    def build(self, classes: Sequence[ShownClass]) -> ClassShares:
        """Return the shares of these classes, whether or not they were met."""
        return ClassShares(
            tuple(classes),
            tuple(_joined(self._rows.get(cls.id), np.int32) for cls in classes),
            tuple(_joined(self._shares.get(cls.id), np.float32) for cls in classes),
            tuple(_joined(self._core.get(cls.id), np.bool_) for cls in classes),
            np.array([self._pixels.get(cls.id, 0) for cls in classes], np.int64),
        )


def _joined(pieces: list[np.ndarray] | None, kind: type) -> np.ndarray:
    return np.concatenate(pieces) if pieces else np.zeros(0, kind)


@dataclass(frozen=True)
class Columns:
    """All rows of a data set.

    Attributes:
        tile_ids: Ids, texts.
        image_paths: Paths of images, null without one.
        mask_paths: Paths of masks, null without one.
        categories: `group`, `split`, `pool`, `label`.
        numbers: Sizes and measures by name, float32 [n], NaN for null.
        shares: Classes.
    """

    tile_ids: pa.ChunkedArray
    image_paths: pa.ChunkedArray
    mask_paths: pa.ChunkedArray
    categories: dict[str, Category]
    numbers: dict[str, np.ndarray]
    shares: ClassShares
    _ranks: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def has_image(self) -> np.ndarray:
        """Return which tiles have an image, bool [n]; the others are orphan masks."""
        return _valid(self.image_paths)

    @cached_property
    def has_mask(self) -> np.ndarray:
        """Return which tiles have a mask, bool [n]."""
        return _valid(self.mask_paths)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.tile_ids)

    def rank(self, name: str) -> np.ndarray:
        """Return numbers that are in the order of a column, [n]; NaN is last.

        Texts are ranked once.

        Raises:
            KeyError: There is no such column to sort by.
        """
        if name in self.numbers:
            return self.numbers[name]
        if name in self.categories:
            codes = self.categories[name].codes
            return np.where(codes == MISSING, np.float32("nan"), codes.astype(np.float32))
        if name != "tile_id":
            raise KeyError(name)
        if name not in self._ranks:
            order = pc.sort_indices(self.tile_ids).to_numpy()
            rank = np.empty(len(order), np.int32)
            rank[order] = np.arange(len(order), dtype=np.int32)
            self._ranks[name] = rank
        return self._ranks[name]


def _valid(column: pa.ChunkedArray) -> np.ndarray:
    result: np.ndarray = pc.is_valid(column).to_numpy()
    return result


def to_float(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers as float32 [n], NaN for null."""
    cast = column.cast(pa.float32(), safe=False)
    result: np.ndarray = cast.fill_null(float("nan")).to_numpy()
    return result


def chunked(pieces: Iterable[pa.ChunkedArray], kind: pa.DataType) -> pa.ChunkedArray:
    """Return the chunks of several columns as one column."""
    return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], kind)
