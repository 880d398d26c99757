"""Places -> pairs of image and mask, each with its group, split and label."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from histoprep.choices import Layout
from histoprep.errors import UsageError
from histoprep.names import to_text
from histoprep.scanning.dataset_csv import DatasetCsv
from histoprep.scanning.group_patterns import suggest_groupings
from histoprep.scanning.keys import KeyedNames, PlainNames
from histoprep.scanning.listing import Issue, IssueKind, Pair, ScanOptions
from histoprep.scanning.name_rules import NameRules
from histoprep.scanning.pixel_groups import groups_by_names
from histoprep.scanning.walk import SPLIT_FOLDERS, STAR, NameGroup, star_text

Reader = Callable[[str, str | None], str | None]

_ROWS_AT_ONCE = 1 << 16
# So many tile ids show how names are made.
_MAX_KEPT_IDS = 10_000
# The constructor that NamedTuple makes takes three times as long.
_new_pair = partial(tuple.__new__, Pair)


class Pairing:
    """Pairs the files of a place; what does not pair one to one is reported."""

    def __init__(
        self, options: ScanOptions, csv: DatasetCsv | None, report: Callable[[Issue], None]
    ) -> None:
        """Prepare the readers of groups and labels; raises UsageError for options that cannot
        be.
        """
        self.rules = NameRules.of(options)
        self.image_folders = options.images
        self.csv = csv
        self.report = report
        self.group_of = value_reader("--group-by", groups_by_names(options.group_by), csv)
        self.label_of = value_reader("--label-by", options.label_by, csv)
        self.class_folders = options.layout is Layout.CLASS_FOLDERS
        self._asks = bool(csv or self.group_of or self.label_of)
        self.some_image: str | None = None
        self._num_groups = 0
        self._tile_ids: list[str] = []
        self.needs_csv = options.csv is not None or any(
            how is not None and how.startswith("csv:")
            for how in (groups_by_names(options.group_by), options.label_by)
        )

    def pairs(self, place: NameGroup) -> Iterator[Pair]:
        """Yield the pairs of a place, then its orphan masks, both in order of their keys."""
        images, masks = place.images, place.masks
        if isinstance(images, PlainNames) and isinstance(masks, PlainNames):
            found = self._plain_pairs(place, images, masks)
        elif isinstance(images, KeyedNames) and isinstance(masks, KeyedNames):
            found = self._pairs(place, images, masks)
        else:
            raise TypeError("the images and the masks of a place are both columns or neither")
        return self.described(found)

    def described(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        """Return the pairs with what options and tables say of them."""
        return map(self._described, pairs) if self._asks else pairs

    def _plain_pairs(
        self, place: NameGroup, images: PlainNames, masks: PlainNames
    ) -> Iterator[Pair]:
        """Yield what `_pairs` would yield for the same names, a column at a time."""
        images = images.sorted()
        yield from self._rows(
            place,
            images.stems,
            images.names,
            masks.names.take(pc.index_in(images.keys, masks.keys)),
        )
        orphans = masks.filter(pc.invert(pc.is_in(masks.keys, images.keys))).sorted()
        yield from self._rows(
            place, orphans.stems, pa.nulls(len(orphans), pa.large_string()), orphans.names
        )

    def _rows(
        self, place: NameGroup, stems: pa.Array, images: pa.Array, masks: pa.Array
    ) -> Iterator[Pair]:
        columns = (
            (place.id_prefix, stems),
            (place.image_prefix, images),
            (place.mask_prefix, masks),
        )
        constants = (None, *self._from_folders(place, ""), place.unlabelled, None)
        for start in range(0, len(stems), _ROWS_AT_ONCE):
            texts = (
                _prefixed(prefix, names.slice(start, _ROWS_AT_ONCE).to_pylist())
                for prefix, names in columns
            )
            # `repeat` has no end, so that `zip` cannot be strict; each block needs iterators of its
            # own.
            yield from map(_new_pair, zip(*texts, *map(repeat, constants), strict=False))

    def _pairs(self, place: NameGroup, images: KeyedNames, masks: KeyedNames) -> Iterator[Pair]:
        clashing = images.clashes.keys() | masks.clashes.keys()
        for key in sorted(images.by_key):
            if key in clashing:
                yield from self._collided(place, images, masks, key)
                continue
            image = images.by_key[key]
            yield self._pair(place, image.rpartition(".")[0], image, masks.by_key.pop(key, None))
        for key in sorted(masks.by_key):
            yield from self._orphans(place, masks, key)

    def _pair(self, place: NameGroup, stem: str, image: str | None, mask: str | None) -> Pair:
        image_path = None if image is None else place.image_prefix + to_text(image)
        mask_path = None if mask is None else place.mask_prefix + to_text(mask)
        return Pair(
            place.id_prefix + to_text(stem),
            image_path,
            mask_path,
            None,
            *self._from_folders(place, image or mask or ""),
            place.unlabelled,
            None,
        )

    def _orphans(self, place: NameGroup, masks: KeyedNames, key: str) -> Iterator[Pair]:
        """Yield one row for each tile that the masks of `key` name; report several of one key."""
        names = sorted(masks.clashes.get(key, [masks.by_key[key]]))
        if len(names) > 1:
            self._tell(IssueKind.DUPLICATE_KEY, place.mask_prefix, names)
        for stem, name in {
            self._orphan_stem(place, name): name for name in reversed(names)
        }.items():
            yield self._pair(place, stem, None, name)

    def _collided(
        self, place: NameGroup, images: KeyedNames, masks: KeyedNames, key: str
    ) -> Iterator[Pair]:
        """Yield one pair for each distinct stem, the first file of it in order of names, and report
        all.
        """
        names = sorted(images.clashes.get(key, [images.by_key[key]]))
        mask = masks.by_key.pop(key, None)
        partners = sorted(masks.clashes.get(key, [mask] if mask else []))
        if len(names) > 1:
            self._tell(
                IssueKind.AMBIGUOUS if len(partners) == 1 else IssueKind.DUPLICATE_KEY,
                place.image_prefix,
                names,
            )
        if len(partners) > 1:
            self._tell(IssueKind.AMBIGUOUS, place.mask_prefix, partners)
        stems: dict[str, str] = {}
        for name in names:
            stems.setdefault(name.rpartition(".")[0], name)
        exact = {self._spelled_mask(name): name for name in reversed(partners)}
        spelled = [self.rules.image_key(name) for name in stems.values()]
        for (stem, name), own_key in zip(stems.items(), spelled, strict=True):
            # Rival images of one spelling have no claim to the mask before each other.
            own = exact.get(own_key) if spelled.count(own_key) == 1 else None
            yield self._pair(
                place,
                stem,
                name,
                own or (partners[0] if len(stems) == 1 and partners else None),
            )

    def _spelled_mask(self, name: str) -> str | None:
        """Return the key of a mask as it is spelled in its name."""
        return self.rules.mask_key(name, alone=True)

    def _orphan_stem(self, place: NameGroup, name: str) -> str:
        """Return the stem of a mask's name without the mask suffix; all of it where names are
        paths or patterns, since a key alone may stand in many folders.
        """
        key = None if self.rules.mask_pattern else self._spelled_mask(name)
        return name.rpartition(".")[0] if key is None else key

    def _tell(self, kind: IssueKind, prefix: str, names: list[str]) -> None:
        shown = ", ".join(to_text(name) for name in names)
        for name in names:
            self.report(Issue(kind, prefix + to_text(name), f"one key for {shown}"))

    def _described(self, pair: Pair) -> Pair:
        """Return the pair with what options and dataset.csv say of it."""
        tile_id, image_path = pair.tile_id, pair.image_path
        self.some_image = self.some_image or image_path
        group = self.group_of(tile_id, image_path) if self.group_of else pair.group
        self._num_groups += group is not None
        if image_path is not None and len(self._tile_ids) < _MAX_KEPT_IDS:
            self._tile_ids.append(tile_id)
        if self.group_of and group is None and image_path is not None:
            self.report(Issue(IssueKind.UNPARSED, image_path, "no group found"))
        label = self.label_of(tile_id, image_path) if self.label_of else pair.label
        declared = self.csv.labels(image_path) if self.csv and image_path else None
        return pair._replace(group=group, label=label, declared_labels=declared)

    def refuse_no_groups(self, root: Path, pattern: str | None) -> None:
        """Raise UsageError if a way to read groups was asked for and found none."""
        if pattern is None or self._num_groups or not self._tile_ids:
            return
        ways = suggest_groupings(pa.array(self._tile_ids, pa.string()))
        hint = " or ".join(f"histoprep audit {shlex.quote(str(root))} {way.option}" for way in ways)
        raise UsageError(
            f"--group-by {pattern} finds no group for any tile",
            seen=f"tile {self._tile_ids[0]}",
            expected="a regular expression that is found in tile ids, `folder`, or csv:COLUMN",
            hint=hint or None,
        )

    def _from_folders(self, place: NameGroup, name: str) -> tuple[str | None, str | None]:
        """Return the split and the class that the folders of a place say, or those in the name of a
        file where names are paths.
        """
        folders = (name if place.by_path else place.id_prefix).split("/")[:-1]
        split = SPLIT_FOLDERS.get(folders[0].lower()) if folders else None
        if split is None and STAR in (self.image_folders or ""):
            split = self._from_star(folders)
        if not self.class_folders or place.unlabelled:
            return split, None
        return split, next(iter(folders[1:] if split else folders), None)

    def _from_star(self, folders: list[str]) -> str | None:
        """Return the split that stands for the star in the name of a folder of images."""
        texts = (star_text(self.image_folders, name) for name in folders)
        named = (SPLIT_FOLDERS.get(text.strip("_- .").lower()) for text in texts if text)
        return next((split for split in named if split), None)


def _prefixed(prefix: str, names: list[str | None]) -> list[str | None]:
    """Return the names with the prefix before each; None stays."""
    return [name and prefix + name for name in names] if prefix else names


def value_reader(option: str, how: str | None, csv: DatasetCsv | None) -> Reader | None:
    """Return a function from (tile id, image path) to the group, label or other value that an
    option asks for, or None when it does not.

    Raises:
        UsageError: There is no table with such a column, or it is no regular expression.
    """
    if how is None:
        return None
    if how == "folder":
        return lambda tile_id, _: tile_id.rpartition("/")[0] or None
    if how.startswith("csv:"):
        if csv is None:
            raise UsageError(
                f"{option} {how} needs a table",
                expected="dataset.csv in the data set, or --csv FILE",
            )
        return csv.column(how.removeprefix("csv:"))
    try:
        pattern = re.compile(how)
    except re.error as error:
        raise UsageError(f"{option} is no regular expression: {error}", seen=how) from error
    return lambda tile_id, _: _first_group(pattern.search(tile_id))


def _first_group(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    return (match[1] if match.re.groups else match[0]) or None
