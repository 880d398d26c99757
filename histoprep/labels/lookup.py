"""How labels become classes, one mask at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from histoprep import rule_ids
from histoprep.choices import OnUnmapped
from histoprep.digests import digest
from histoprep.errors import BrokenFileError, UsageError
from histoprep.labels.ignored import IGNORED_ID
from histoprep.labels.model import (
    IGNORED,
    TABLE_SIZE,
    UNMAPPED,
    LabelMap,
    TargetClass,
    class_ids_in,
)
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.phrases import first_of

_MAX_CLASS_ID = 255
_NUM_REMEMBERED = 256
_UNKNOWN_WORDS = ("unknown", "unlabel", "undefined", "void", "ignore")


@dataclass(frozen=True, slots=True)
class LabelLookup:
    """How labels become classes: `table` is uint8 [65536] as bytes, `no_class` stands in it for
    values without one, `IGNORED_ID` for ignored ones.

    `no_class` is None when every value has a class, or every byte is one. `note` goes into each new
    mask. `reading` is what was decided of masks that readers understand in two ways. `wide` are the
    closed ranges of values above 65,535 that the map lists, in order, each with its byte;
    `unlisted` is the byte of all others.
    """

    table: bytes
    class_ids: tuple[int, ...]
    no_class: int | None
    note: str
    reading: Reading = UNDECIDED
    wide: tuple[tuple[int, int, int], ...] = ()
    unlisted: int = 0

    @classmethod
    def of(
        cls, label_map: LabelMap, on_unmapped: OnUnmapped, reading: Reading = UNDECIDED
    ) -> LabelLookup:
        """Return the look-up; raises UsageError for classes above 255 (HP505) or without a class
        for unknown values.
        """
        ids = tuple(cls.id for cls in label_map.classes)
        if ids[-1] > _MAX_CLASS_ID:
            raise UsageError(
                f"{rule_ids.MAP_OVERFLOW}: new masks have 8 bits",
                seen=f"class {ids[-1]} of {label_map.name}",
                expected="class ids 0 to 255",
            )
        refuse_class_of_ignored(label_map)
        taken = {*ids, *((IGNORED_ID,) if label_map.ignore else ())}
        unknown = unknown_class(label_map).id if on_unmapped is OnUnmapped.UNKNOWN else None
        no_class = (
            next((number for number in range(_MAX_CLASS_ID, -1, -1) if number not in taken), None)
            if unknown is None
            else None
        )
        table = label_map.lookup_table()
        unlisted = unknown or no_class or 0
        table[table == UNMAPPED] = unlisted
        table[table == IGNORED] = IGNORED_ID
        return cls(
            table.astype(np.uint8).tobytes(),
            ids,
            no_class,
            f"{label_map.name} {label_map.digest}",
            reading,
            tuple(
                (max(first, TABLE_SIZE), last, IGNORED_ID if class_id == IGNORED else class_id)
                for first, last, class_id in label_map.intervals()
                if last >= TABLE_SIZE
            ),
            unlisted,
        )

    @property
    def key(self) -> str:
        """Return a digest of what becomes of each value."""
        return digest(self.table + (repr(self.wide).encode() if self.wide else b""))

    def _byte_of(self, label: int) -> int:
        if label < TABLE_SIZE:
            return self.table[label]
        return next(
            (byte for first, last, byte in self.wide if first <= label <= last), self.unlisted
        )

    def _classes_of(self, labels: np.ndarray) -> np.ndarray:
        """Return the bytes of labels, uint32, of which some are beyond the table."""
        wide = class_ids_in(labels, self.wide)
        wide[wide == UNMAPPED] = self.unlisted
        narrow = np.frombuffer(self.table, np.uint8)[np.minimum(labels, TABLE_SIZE - 1)]
        return np.where(labels < TABLE_SIZE, narrow, wide).astype(np.uint8)

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Return the classes, uint8, of labels, uint8, uint16 or uint32 [height, width]; ignored
        pixels are `IGNORED_ID`.

        Raises BrokenFileError for an image that is no class map, and for values without a class.
        """
        if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16, np.uint32):
            raise BrokenFileError(
                str(rule_ids.MASK_WRONG_MODE),
                f"no class map: {labels.dtype} of {labels.ndim} dimensions",
            )
        if labels.dtype != np.uint8:
            labels = _narrowest(labels)
        buffer = bytearray(labels.size)
        classes = np.frombuffer(buffer, np.uint8).reshape(labels.shape)
        if labels.dtype == np.uint8:
            _look_up(labels, self.table, classes)
        elif labels.dtype == np.uint32:
            classes[...] = self._classes_of(labels)
        else:
            np.take(np.frombuffer(self.table, np.uint8), labels, out=classes)
        # Bytes are searched ten times as fast as an array is compared.
        if self.no_class is not None and self.no_class in buffer:
            raise BrokenFileError(
                str(rule_ids.UNMAPPED_LABEL), "it holds values that are not in the tiles table"
            )
        return classes

    def count(self, label_ids: Iterable[int], label_pixels: Iterable[int]) -> list[int]:
        """Return the pixels of each class, in order of class id, from those of each label; ignored
        ones are in none.
        """
        pixels: Counter[int] = Counter()
        for label, number in zip(label_ids, label_pixels, strict=True):
            pixels[self._byte_of(label)] += number
        return [pixels[class_id] for class_id in self.class_ids]


def _narrowest(labels: np.ndarray) -> np.ndarray:
    """Return labels, uint16 or uint32, in the smallest type that holds them."""
    largest = labels.max(initial=0)
    if largest < 1 << 8:
        return labels.astype(np.uint8)
    return labels.astype(np.uint16) if largest < TABLE_SIZE else labels


def _look_up(labels: np.ndarray, table: bytes, classes: np.ndarray) -> None:
    """Fill `classes` with `table[labels]`, both uint8 and the first contiguous: two at a time, in
    half of the time, where OpenCV can.
    """
    import cv2

    pairs = _pair_table(table)
    if pairs is None or labels.size % 2:
        cv2.LUT(labels, np.frombuffer(table, np.uint8)[:256], classes)
    else:
        cv2.LUT(
            np.ascontiguousarray(labels).reshape(-1).view(np.uint16),
            pairs,
            classes.reshape(-1).view(np.uint16),
        )


@lru_cache(maxsize=1)
def _pair_table(table: bytes) -> np.ndarray | None:
    """Return the classes of two labels, uint16 [65536], by the two as a number; None for an OpenCV
    before 5, which takes bytes alone.
    """
    import cv2

    pairs = np.frombuffer(table, np.uint8)[np.arange(1 << 16, dtype=np.uint16).view(np.uint8)].view(
        np.uint16
    )
    try:
        cv2.LUT(pairs[:1], pairs)
    except cv2.error:
        return None
    return pairs


def refuse_class_of_ignored(label_map: LabelMap) -> None:
    """Raise UsageError when a map with ignored values has a class 255: new masks could not tell the
    two apart.
    """
    if label_map.ignore and any(cls.id == IGNORED_ID for cls in label_map.classes):
        raise UsageError(
            f"{rule_ids.MAP_COLLISION}: class {IGNORED_ID} has the number of ignored pixels in new"
            " masks",
            seen=f"class {IGNORED_ID} {label_map.class_name(IGNORED_ID)} of {label_map.name}",
            expected="class ids 0 to 254 beside ignored values",
        )


def unknown_class(label_map: LabelMap) -> TargetClass:
    """Return the class for values that nobody listed: the one called Unknown, or class 0 if its
    name says so.

    Raises UsageError when there is none.
    """
    for cls in label_map.classes:
        if cls.name.casefold() == "unknown":
            return cls
    first = label_map.classes[0]
    if first.id == 0 and says_unknown(first.name):
        return first
    raise UsageError(
        f"--on-unmapped unknown needs a class for unknown values, and {label_map.name} has none",
        seen=first_of([f"{cls.id} {cls.name}" for cls in label_map.classes]),
        expected="a class called Unknown, or a class 0 named like it",
        hint="add such a class to the label map, or list the values",
    )


def says_unknown(name: str) -> bool:
    """Return whether the name of a class says that nobody knows what its pixels are."""
    return any(word in name.casefold() for word in _UNKNOWN_WORDS)


class MaskRemapper:
    """Turns the bytes of masks into PNG files of their classes; equal masks are remapped once."""

    def __init__(self, lookup: LabelLookup) -> None:
        """Load the decoders, which take longest to import: make one where masks are read."""
        from histoprep import imageio

        self._imageio = imageio
        self._lookup = lookup
        self._known: dict[Hashable, bytes] = {}

    def __call__(self, data: bytes, key: Hashable) -> bytes:
        """Return the new file; masks of one `key` have the same bytes.

        Raises:
            BrokenFileError: The mask cannot be read, is no class map, or holds values without a
                class.
        """
        encoded = self._known.get(key)
        if encoded is None:
            header = self._imageio.read_header(data, self._lookup.reading)
            labels = self._imageio.decode_mask(data, header, self._lookup.reading)
            encoded = self._encode(key, self._lookup.apply(labels))
        return encoded

    def zeros(self, height: int, width: int) -> bytes:
        """Return the file of class 0 everywhere, for a tile without a mask; sizes in pixels."""
        key = (height, width)
        return self._known.get(key) or self._encode(key, np.zeros(key, np.uint8))

    def _encode(self, key: Hashable, classes: np.ndarray) -> bytes:
        note = {self._imageio.LABEL_MAP_TEXT: self._lookup.note}
        if len(self._known) >= _NUM_REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[key] = self._imageio.encode_mask_png(classes, note)
        return self._known[key]
