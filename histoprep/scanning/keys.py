"""The names in one folder -> its images and masks by key, which is what an image and its mask
share.

There are two ways to the same pairs: name by name for whatever a folder may hold, and as Arrow
columns for large folders of plain names, which are ASCII and have a key each. Half a million names
take a quarter of the time that way.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.image_formats import image_suffixes, mask_suffixes
from histoprep.names import pairing_key
from histoprep.scanning.name_rules import NameRules

# In smaller folders columns cost more than they save.
PLAIN_FROM = 512


@dataclass(slots=True)
class KeyedNames:
    """File names by key; of names with one key the first met is in `by_key` and all are in
    `clashes`.
    """

    by_key: dict[str, str] = field(default_factory=dict)
    clashes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, name: str) -> None:
        """Take a name in."""
        if self.by_key.setdefault(key, name) is not name:
            self.clashes.setdefault(key, [self.by_key[key]]).append(name)

    def all(self) -> set[str]:
        """Return every name."""
        return {*self.by_key.values(), *(name for names in self.clashes.values() for name in names)}


def _no_names() -> pa.Array:
    return pa.nulls(0, pa.large_string())


@dataclass(frozen=True, slots=True)
class PlainNames:
    """ASCII file names, their stems (without the mask suffix) and keys, large_string [n]; no key is
    there twice.
    """

    names: pa.Array = field(default_factory=_no_names)
    stems: pa.Array = field(default_factory=_no_names)
    keys: pa.Array = field(default_factory=_no_names)

    def __len__(self) -> int:
        return len(self.names)

    def sorted(self) -> PlainNames:
        """Return the same in order of the keys."""
        order = pc.sort_indices(self.keys)
        return PlainNames(self.names.take(order), self.stems.take(order), self.keys.take(order))

    def filter(self, chosen: pa.BooleanArray) -> PlainNames:
        """Return the names where `chosen` is true."""
        return PlainNames(
            self.names.filter(chosen), self.stems.filter(chosen), self.keys.filter(chosen)
        )

    def all(self) -> set[str]:
        """Return every name."""
        return set(self.names.to_pylist())


class SortedNames(NamedTuple):
    """Images and masks, both as columns or neither, and what else is in the folder of the images
    and in one of masks alone; `unread` are image files whose names are neither an image's nor a
    mask's, in the first folder and in the second.
    """

    images: KeyedNames | PlainNames
    masks: KeyedNames | PlainNames
    others: list[str]
    others_of_masks: list[str]
    unread: tuple[list[str], list[str]] = ([], [])


def sort_names(
    image_names: list[str], mask_names: list[str] | None, rules: NameRules
) -> SortedNames:
    """Sort names by what they are.

    Without `mask_names`, the images and masks of one folder are in `image_names` and those with the
    mask suffix are masks; otherwise masks are in a folder of their own and may lack the suffix.
    """
    if rules.is_plain and len(image_names) + len(mask_names or ()) >= PLAIN_FROM:
        found = _sort_columns(image_names, mask_names, rules.mask_end.stem_end)
        if found is not None:
            return found
    return _sort_one_by_one(image_names, mask_names, rules)


def _sort_one_by_one(
    image_names: list[str], mask_names: list[str] | None, rules: NameRules
) -> SortedNames:
    images, masks = KeyedNames(), KeyedNames()
    others: list[str] = []
    others_of_masks: list[str] = []
    unread: tuple[list[str], list[str]] = ([], [])
    masks_alone: list[tuple[str, str]] = []
    # Every format can hold masks.
    of_images, of_masks = frozenset(image_suffixes()), frozenset(mask_suffixes())

    def suffix_of(name: str) -> str | None:
        """Return the suffix of a file that is read at all, in lower case."""
        stem, _, suffix = name.rpartition(".")
        suffix = suffix.lower()
        # In a path, what comes after the last slash may be hidden.
        base = stem.rpartition("/")[2]
        return suffix if suffix in of_masks and base and base[0] != "." else None

    for name in image_names:
        suffix = suffix_of(name)
        if suffix is None:
            others.append(name)
            continue
        mask_key, image_key = (
            rules.keys_of(name) if mask_names is None else (None, rules.image_key(name))
        )
        if mask_key is not None:
            masks.add(pairing_key(mask_key), name)
        elif image_key is None:
            unread[0].append(name)
        elif suffix in of_images:
            images.add(pairing_key(image_key), name)
        else:
            masks_alone.append((pairing_key(image_key), name))
    for stem_key, name in masks_alone:
        # A file of a format for masks alone needs no suffix beside its image.
        if mask_names is None and stem_key in images.by_key:
            masks.add(stem_key, name)
        else:
            others.append(name)
    for name in mask_names or ():
        if suffix_of(name) is None:
            others_of_masks.append(name)
        elif (key := rules.mask_key(name, alone=True)) is None:
            unread[1].append(name)
        else:
            masks.add(pairing_key(key), name)
    return SortedNames(images, masks, others, others_of_masks, unread)


def numbered_masks(
    images: KeyedNames | PlainNames, mask_suffix: str
) -> tuple[KeyedNames | PlainNames, list[str]]:
    """Return the images without those that are further masks of an image, and the names of these,
    in order.

    A further mask is called like an image with the mask suffix and a number behind it:
    `x_mask_1.png` beside `x.png`.
    """
    ending = pairing_key(mask_suffix)
    if not ending:
        return images, []
    numbered = re.compile(re.escape(ending) + r"[ _-]?\(?[0-9]+\)?$")
    if isinstance(images, PlainNames):
        found = pc.match_substring(images.keys, ending)
        if not pc.any(found).as_py():
            return images, []
        keys = images.keys.to_pylist()
        known = set(keys)
        further = pa.array([_is_numbered(key, numbered, known) for key in keys])
        return images.filter(pc.invert(further)), sorted(images.names.filter(further).to_pylist())
    kept = KeyedNames(dict(images.by_key), dict(images.clashes))
    names = []
    for key in [key for key in images.by_key if _is_numbered(key, numbered, images.by_key)]:
        first = kept.by_key.pop(key)
        names += kept.clashes.pop(key, [first])
    return kept, sorted(names)


def _is_numbered(key: str, numbered: re.Pattern[str], known: Collection[str]) -> bool:
    match = numbered.search(key)
    return match is not None and key[: match.start()] in known


def _sort_columns(
    image_names: list[str], mask_names: list[str] | None, mask_suffix: str
) -> SortedNames | None:
    """Return the names as columns, or None when some are not plain."""
    if not all("".join(names).isascii() for names in (image_names, mask_names or ())):
        return None
    images, masks = _Column(image_names), _Column(mask_names or [])
    ending = pairing_key(mask_suffix)
    with_masks = images if mask_names is None else masks
    # A name that is only the suffix is no mask.
    if with_masks.has_any_with(f"{ending}."):
        return None
    suffixed = [with_masks.cut_off(f"{ending}.{suffix}") for suffix in mask_suffixes()]
    unsuffixed = [
        [column.cut_off(f".{suffix}") for suffix in suffixes]
        for column, suffixes in ((images, image_suffixes()), (masks, mask_suffixes()))
    ]
    image_part, mask_part = _unique(unsuffixed[0]), _unique([*suffixed, *unsuffixed[1]])
    if image_part is None or mask_part is None:
        return None
    if mask_names is None and images.has_any_ending(_alone_suffixes()):
        # Which of them are masks of images is found name by name.
        return None
    return SortedNames(image_part, mask_part, images.left.to_pylist(), masks.left.to_pylist())


class _Column:
    """Names of which those with an ending are taken away, one ending after the other."""

    def __init__(self, names: list[str]) -> None:
        """Take ASCII names; laid out by hand, since pyarrow's conversions import pandas, which
        takes longer than most listings.
        """
        ends = np.zeros(len(names) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, names), np.int64, len(names)), out=ends[1:])
        buffers = [None, pa.py_buffer(ends), pa.py_buffer("".join(names).encode("ascii"))]
        self.left = pa.Array.from_buffers(pa.large_string(), len(names), buffers)
        self._lowered = pc.ascii_lower(self.left)

    def has_any_with(self, start: str) -> bool:
        """Return whether a name starts so, in either case."""
        return bool(pc.any(pc.starts_with(self._lowered, start)).as_py())

    def has_any_ending(self, endings: tuple[str, ...]) -> bool:
        """Return whether a name that is left ends so, in either case."""
        return any(pc.any(pc.ends_with(self._lowered, ending)).as_py() for ending in endings)

    def cut_off(self, ending: str) -> PlainNames:
        """Return the names with this lower-case ending; hidden files have none."""
        fits = pc.and_not(pc.ends_with(self._lowered, ending), pc.starts_with(self._lowered, "."))
        stays = pc.invert(fits)
        names, keys = self.left.filter(fits), self._lowered.filter(fits)
        self.left, self._lowered = self.left.filter(stays), self._lowered.filter(stays)
        return PlainNames(names, _without(names, ending), _without(keys, ending))


def _alone_suffixes() -> tuple[str, ...]:
    """Return the suffixes of formats for masks alone, with their dot."""
    return tuple(f".{suffix}" for suffix in mask_suffixes() if suffix not in image_suffixes())


def _without(names: pa.Array, ending: str) -> pa.Array:
    return pc.utf8_slice_codeunits(names, 0, -len(ending))


def _unique(parts: list[PlainNames]) -> PlainNames | None:
    """Return all names, or None when two have one key."""
    names, stems, keys = (
        pa.concat_arrays(column)
        for column in zip(*((part.names, part.stems, part.keys) for part in parts), strict=True)
    )
    return PlainNames(names, stems, keys) if len(pc.unique(keys)) == len(keys) else None
