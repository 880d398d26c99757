"""How a listing of names can be read: which files are images, which are masks, and which belong
together. Pure: names in, readings out.

A reading is two folders, or one that holds both, and for each side what stands before and behind
the key in a name. Affixes are found, not listed: those that many names share are tried against each
other, and a pair of them counts by how many names find a partner.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice, permutations, product
from typing import NamedTuple, Protocol

from histoprep.image_formats import is_image
from histoprep.names import pairing_key
from histoprep.scanning.name_rules import KEY

# An affix counts when at least this share of the names on a side has it.
_MIN_SHARE = 0.08
_MAX_AFFIXES = 10
_MAX_RARE = 2
# Of the heads and tails that stand in one name together.
_MAX_BOTH = 4
# Folders beside each other are compared two by two up to this number.
_MAX_BESIDE = 12
# Of larger folders only a part of the names is known, and this many partners are looked for.
_MAX_LOOKS = 60
# A reading whose masks mostly have no image explains nothing, and neither does one of few names; a
# beginning with a number in it is that of a slide unless most names have it.
_MIN_PAIRED = 0.5
_MIN_OF_NAMES = 0.1
_MIN_OF_NUMBERED_HEADS = 0.5
# Of names that are padded with zeros, some pair as they are, and nearly all without the zeros.
_MOST_PAIRED = 0.95
_MAX_NUMBERS = 4

_TAIL_START = re.compile(r"(?<=.)(?:[ _.\-]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[0-9])(?=[a-z]))")
_HEAD_END = re.compile(r"[ _.\-]+|(?<=[A-Za-z])(?=[0-9])|(?<=[a-z])(?=[A-Z])")
_NUMBER = re.compile(r"([0-9]+)")
_PADDED = re.compile(r"(?<![0-9])0[0-9]")
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

_MASK_WORDS = (
    "mask masks label labels labelled labeled labelids labelmap seg segm segs segmentation"
    " segmentations gt groundtruth truth annot annotation annotations anno ann annotated manual"
    " target targets"
)
_LESSER_WORDS = (
    "instance instances inst object objects color colour colors colours coloured colored overlay"
    " overlays vis visual preview contour contours boundary boundaries border edge edges distance"
    " distances dist prob probs probability probabilities heat heatmap heatmaps weight weights"
    " skeleton labeltrainids pred preds prediction predictions overlaid blend blended"
    " visualization visualizations visualisation visualisations fuse fused"
)
MASK_WORDS = frozenset(_MASK_WORDS.split())
# Of several masks of an image, those of these names are chosen last.
LESSER_WORDS = frozenset(_LESSER_WORDS.split())


@dataclass(frozen=True, slots=True)
class FolderNames:
    """What is known of a folder: its path below the root ("" or ending with a slash) and names of
    image and mask files, all of them or some; `has` says whether a name is there.
    """

    path: str
    names: tuple[str, ...]
    is_complete: bool
    has: Callable[[str], bool]

    @classmethod
    def of(cls, path: str, names: Iterable[str]) -> FolderNames:
        """Return a folder all of whose names are known."""
        known = tuple(sorted(names))
        return cls(path, known, True, frozenset(known).__contains__)


@dataclass(frozen=True, slots=True)
class Affixes:
    """What stands before and behind the key in a name, and the extensions; none stands for any.

    With `is_numbered` the key is a number, and anything may follow it: `task-12-annotation-7`. With
    `num_padded` the key is that many numbers with text before each and behind the last, and zeros
    before a number count for nothing: `tile_7` and `tile_007` have one key.
    """

    head: str = ""
    tail: str = ""
    extensions: tuple[str, ...] = ()
    is_numbered: bool = False
    num_padded: int = 0

    @property
    def length(self) -> int:
        """Return how much of a name they fix, without the extension."""
        return len(self.head) + len(self.tail)

    def key_in(self, name: str) -> str | None:
        """Return the key of a name, None for a name that they do not fit."""
        stem, _, extension = name.rpartition(".")
        if self.extensions and extension.lower() not in self.extensions:
            return None
        if self.is_numbered:
            match = re.match(rf"{re.escape(self.head)}(\d+)(?=\D|$)", stem)
            return match[1] if match else None
        if len(stem) <= self.length or not (
            stem.startswith(self.head) and stem.endswith(self.tail)
        ):
            return None
        key = pairing_key(stem[len(self.head) : len(stem) - len(self.tail)])
        if not self.num_padded:
            return key
        parts = _NUMBER.split(key)
        # Texts and numbers in turn, a text first and last.
        return (
            "/".join(part.lstrip("0") or part[-1:] for part in parts)
            if (len(parts) == 2 * self.num_padded + 1)
            else None
        )


class PathNames(Protocol):
    """How the paths of both sides are said where two names of folders cannot say it."""

    def pattern(self, affixes: Affixes, *, is_image: bool) -> str:
        """Return the pattern of the paths of one side."""

    def words(self, affixes: Affixes, *, is_image: bool) -> str:
        """Return where one side lies, for a sentence."""


@dataclass(frozen=True, slots=True)
class JoinedFolders:
    """Folders of one side, the deep one, whose names stand in the file names of the other.

    Attributes:
        images_are_deep: Whether the folders hold the images.
        deep_start: Pattern of what stands before these folders; it may hold the group `key`.
        flat_start: The same of the folder on the other side.
        levels: Pattern of the name of a folder, for each level.
        separator: What stands behind it in a file name.
    """

    images_are_deep: bool
    deep_start: str
    flat_start: str
    levels: tuple[str, ...]
    separator: str

    def pattern(self, affixes: Affixes, *, is_image: bool) -> str:
        """Return the pattern of the paths of one side."""
        is_deep = is_image == self.images_are_deep
        start = self.deep_start if is_deep else self.flat_start
        first = 2 if "(?P<key>" in start else 1
        groups = [KEY + (str(at) if at > 1 else "") for at in range(first, 9)]
        if is_deep:
            folders = f"(?P<{groups[0]}>{'[^/]+/' * len(self.levels)}[^/]+)"
            return f"^{start}{folders}{_pattern_end(affixes)}"
        separator = escaped(self.separator)
        parts = "".join(
            f"(?P<{group}>{level}){separator}"
            for group, level in zip(groups, self.levels, strict=False)
        )
        last = f"(?P<{groups[len(self.levels)]}>[^/]+)"
        return f"^{start}{escaped(affixes.head)}{parts}{last}{_pattern_end(affixes)}"

    def words(self, affixes: Affixes, *, is_image: bool) -> str:
        """Return where one side lies: `FOLDER/*`, or `FOLDER_*` on the other side."""
        is_deep = is_image == self.images_are_deep
        folders = ["FOLDER"] * len(self.levels)
        joined = ("/" if is_deep else self.separator).join([*folders, "*"])
        return f"{affixes.head}{joined}{affixes.tail}"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the two sides lie: pairs of folders, the same one twice for siblings.

    `images` and `masks` are the names of the two folders, as `--images` and `--masks` take them;
    `num_alone` folders of images fit the name and have no masks. With `are_nested` each folder of
    masks, called `masks`, lies in the one with its images. With `crossed`, paths of folders of
    images and of masks, all names of one side pair with all of the other.
    """

    folders: tuple[tuple[FolderNames, FolderNames], ...]
    images: str | None = None
    masks: str | None = None
    num_alone: int = 0
    are_nested: bool = False
    crossed: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    joined: PathNames | None = None

    @property
    def are_siblings(self) -> bool:
        """Return whether images and masks lie in the same folders."""
        return self.images is None and not self.are_nested and self.crossed is None


@dataclass(frozen=True, slots=True)
class NameReading:
    """One way to read the names.

    Attributes:
        places: Where the two sides lie.
        image: Affixes of images.
        mask: Affixes of masks.
        pairs: Paths of images and masks that belong together, those that were found.
        num_images: Names that fit the images.
        num_masks: Names that fit the masks.
        others: Whether a folder of masks holds further names.
        is_by_path: Whether the affixes are whole names and the folder is the key.
    """

    places: Places
    image: Affixes
    mask: Affixes
    pairs: tuple[tuple[str, str], ...]
    num_images: int
    num_masks: int
    others: bool = False
    is_by_path: bool = False

    @property
    def masks_paired(self) -> float:
        """Return the share of the masks that have an image, in [0, 1]."""
        return len(self.pairs) / self.num_masks if self.num_masks else 0.0

    @property
    def length(self) -> int:
        """Return how much of the names the affixes fix, on both sides."""
        return self.image.length + self.mask.length

    @property
    def mask_words(self) -> set[str]:
        """Return the words in which the masks' side differs, in lower case."""
        return _words(self.places.masks, self.mask) - _words(self.places.images, self.image)

    @property
    def named_like_masks(self) -> bool:
        """Return whether only the masks' side is named like masks."""
        own = _words(self.places.masks, self.mask)
        other = _words(self.places.images, self.image)
        return bool(own & MASK_WORDS) and not other & MASK_WORDS

    @property
    def is_of_whole_folders(self) -> bool:
        """Return whether these are two folders all of whose masks have an image."""
        is_two = self.places.images is not None
        return is_two and not self.others and self.masks_paired == 1 and not self.mask.head

    @property
    def rank(self) -> int:
        """Return how far the names speak against this reading: 0 masks named like masks, 1 in no
        way, 2 like drawings or instances of them; or the images like drawings.
        """
        images = _words(self.places.images, self.image)
        words = self.mask_words
        if words & LESSER_WORDS or images & LESSER_WORDS:
            return 2
        return 0 if words & MASK_WORDS else 1

    def options(self) -> dict[str, str]:
        """Return the fields of `ScanOptions` that say the same."""
        if self.is_by_path:
            mask = escaped(self.mask.head)
            image = escaped(self.image.head) if self.image.head else f"(?!{mask}$)[^/]+"
            return {
                "image_pattern": f"^(?P<key>(.*/)?){image}$",
                "mask_pattern": f"^(?P<key>(.*/)?){mask}$",
            }
        if self.places.are_nested:
            inner = escaped(self.places.masks or "")
            return {
                "image_pattern": f"^(?P<key>(.*/)?){name_pattern(self.image, 'key2')}",
                "mask_pattern": f"^(?P<key>(.*/)?){inner}/{name_pattern(self.mask, 'key2')}",
            }
        if joined := self.places.joined:
            return {
                "image_pattern": joined.pattern(self.image, is_image=True),
                "mask_pattern": joined.pattern(self.mask, is_image=False),
            }
        if self.places.crossed:
            images, masks = (_any_of(folders) for folders in self.places.crossed)
            return {
                "image_pattern": f"^{images}{name_pattern(self.image)}",
                "mask_pattern": f"^{masks}{name_pattern(self.mask)}",
            }
        chosen: dict[str, str] = {}
        if self.places.images and self.places.masks:
            chosen |= {"images": self.places.images, "masks": self.places.masks}
        for side, affixes in (("image", self.image), ("mask", self.mask)):
            exact = self._exact(side, affixes)
            if (
                affixes.head
                or affixes.is_numbered
                or affixes.num_padded
                or len(exact.extensions) > 1
            ):
                chosen[f"{side}_pattern"] = _pattern(exact)
            elif affixes.tail or exact.extensions or (side == "mask" and self.places.are_siblings):
                end = f".{exact.extensions[0]}" if exact.extensions else ""
                chosen[f"{side}_suffix"] = affixes.tail + end
        return chosen

    def _exact(self, side: str, affixes: Affixes) -> Affixes:
        """Return the affixes with the extensions that the names have, where other files must be
        kept out or the end of the stem looks like an extension.
        """
        is_needed = (side == "mask" and self.others) or is_image(f"x{affixes.tail}")
        if affixes.extensions or not is_needed:
            return affixes
        names = [pair[side == "mask"] for pair in self.pairs]
        extensions = sorted({name.rpartition(".")[2].lower() for name in names})
        return replace(affixes, extensions=tuple(extensions))


def _pattern(affixes: Affixes) -> str:
    """Return a pattern of names, which has no slash."""
    pattern = f"^{name_pattern(affixes)}".replace("[^/]*$", "").replace("[^/]+", ".+")
    return pattern.replace("[^/0-9]", "[^0-9]")


def name_pattern(affixes: Affixes, group: str = "key") -> str:
    """Return the last part of a pattern of paths."""
    head = escaped(affixes.head)
    if affixes.is_numbered:
        return rf"{head}(?P<{group}>\d+)(?!\d)[^/]*$"
    if affixes.num_padded:
        return f"{head}{_padded_pattern(affixes.num_padded, group)}{_pattern_end(affixes)}"
    return f"{head}(?P<{group}>[^/]+){_pattern_end(affixes)}"


def _padded_pattern(number: int, group: str) -> str:
    """Return the pattern of so many numbers, without the zeros before them, and the texts around
    them.
    """
    first = int(group.removeprefix(KEY) or 1)
    groups = [KEY + (str(at) if at > 1 else "") for at in range(first, first + 2 * number + 1)]
    return "".join(
        f"(?P<{name}>[^/0-9]*)" if at % 2 == 0 else f"0*(?P<{name}>[0-9]+)"
        for at, name in enumerate(groups)
    )


def _pattern_end(affixes: Affixes) -> str:
    """Return the part of a pattern behind the key."""
    named = "|".join(affixes.extensions)
    after = rf"\.({named})$" if len(affixes.extensions) > 1 else rf"\.{named or '[^.]+'}$"
    return escaped(affixes.tail) + after


def _any_of(folders: tuple[str, ...]) -> str:
    """Return the part of a pattern that fits these folders, which end with a slash or are empty."""
    parts = [escaped(folder) for folder in folders]
    return parts[0] if len(parts) == 1 else f"({'|'.join(parts)})"


def escaped(text: str) -> str:
    """Return text as a part of a pattern, with no more backslashes than it needs."""
    return re.sub(r"\\([ \-#&~])", r"\1", re.escape(text))


def is_named_mask(affix: str) -> bool:
    """Return whether the words of an affix without numbers are for masks alone."""
    words = words_in(affix)
    return bool(words) and words <= MASK_WORDS and not any(map(str.isdigit, affix))


def _words(folder: str | None, affixes: Affixes) -> set[str]:
    return words_in(" ".join((folder or "", affixes.head, affixes.tail)))


def words_in(text: str) -> set[str]:
    """Return the words in a name in lower case, also those that capitals tell apart."""
    whole = {part.lower() for part in re.split(r"[^A-Za-z]+", text) if part}
    return whole | {word.lower() for word in _WORD.findall(text)}


def readings(folders: Sequence[FolderNames]) -> list[NameReading]:
    """Return every way to read the names in which masks mostly have an image, most pairs first.

    One reading of the same pairs is enough: the one with the shortest affixes.
    """
    found: dict[frozenset[tuple[str, str]], NameReading] = {}
    for places in _places(folders):
        for reading in named_readings(places):
            _keep_shorter(found, reading)
    for reading in _folder_a_sample(folders):
        _keep_shorter(found, reading)
    return sorted(found.values(), key=lambda reading: -len(reading.pairs))


def _keep_shorter(
    found: dict[frozenset[tuple[str, str]], NameReading], reading: NameReading
) -> None:
    key = frozenset(reading.pairs)
    other = found.get(key)
    if other is None or _complexity(reading) < _complexity(other):
        found[key] = reading


def _complexity(reading: NameReading) -> tuple[int, int, int]:
    affixes = (reading.image, reading.mask)
    # That an image may have any name is said only where there is nothing better to say.
    has_any_image = reading.is_by_path and not reading.image.head
    return (
        reading.is_by_path + has_any_image + reading.places.are_nested - reading.places.num_alone,
        sum(bool(side.head) + bool(side.extensions) for side in affixes),
        sum(side.length for side in affixes),
    )


# --- folders ---------------------------------------------------------------------------------


def _places(folders: Sequence[FolderNames]) -> Iterator[Places]:
    """Yield where images and masks may lie: folders that differ in one part of their paths, and
    the folders themselves.
    """
    holding = [folder for folder in folders if folder.names]
    named: defaultdict[tuple[str, str], list[tuple[FolderNames, FolderNames]]] = defaultdict(list)
    alone: Counter[tuple[str, str]] = Counter()
    for beside in _beside(holding):
        if len(beside) <= _MAX_BESIDE:
            for images, masks in permutations(beside, 2):
                named[images, masks].append((beside[images], beside[masks]))
        for image, mask in _name_templates(list(beside)):
            pairs, num_alone = _starred(image, mask, beside)
            if len(pairs) > 1 or (pairs and num_alone and image[0] and mask[0]):
                key = f"{image[0]}*{image[1]}", f"{mask[0]}*{mask[1]}"
                named[key] += pairs
                alone[key] += num_alone
    for (images, masks), pairs in named.items():
        yield Places(tuple(pairs), images, masks, alone[images, masks])
    nested: defaultdict[str, list[tuple[FolderNames, FolderNames]]] = defaultdict(list)
    by_path = {folder.path: folder for folder in holding}
    for folder in holding:
        outer, _, name = folder.path[:-1].rpartition("/")
        around = by_path.get(f"{outer}/" if outer else "")
        if folder.path and around is not None:
            nested[name].append((around, folder))
    for name, pairs in nested.items():
        yield Places(tuple(pairs), None, name, are_nested=True)
    if holding:
        yield Places(tuple((folder, folder) for folder in holding))


def crossed(images: Sequence[FolderNames], masks: Sequence[FolderNames]) -> list[NameReading]:
    """Return the readings in which any name of the folders of images may pair with any of those of
    masks; none when a name stands in two folders, or names are not all known.
    """
    sides = []
    for folders in (images, masks):
        paths = [(name, folder.path) for folder in folders for name in folder.names]
        if len(dict(paths)) < len(paths) or not all(folder.is_complete for folder in folders):
            return []
        sides.append(dict(paths))
    pooled = [FolderNames.of("", side) for side in sides]
    paths_of = [tuple(folder.path for folder in folders) for folders in (images, masks)]
    places = Places(((pooled[0], pooled[1]),), crossed=(paths_of[0], paths_of[1]))
    found: dict[frozenset[tuple[str, str]], NameReading] = {}
    for reading in named_readings(places):
        pairs = tuple(
            (sides[0][image] + image, sides[1][mask] + mask) for image, mask in reading.pairs
        )
        _keep_shorter(found, replace(reading, pairs=pairs))
    return sorted(found.values(), key=lambda reading: -len(reading.pairs))


def _beside(folders: Sequence[FolderNames]) -> Iterator[dict[str, FolderNames]]:
    """Yield folders whose paths differ in one part, by that part."""
    buckets: defaultdict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, FolderNames]] = (
        defaultdict(dict)
    )
    for folder in folders:
        parts = tuple(folder.path.split("/")[:-1])
        for at, part in enumerate(parts):
            buckets[parts[:at], parts[at + 1 :]][part] = folder
    return (beside for beside in buckets.values() if len(beside) > 1)


def _name_templates(names: list[str]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Yield (head, tail) of images' and masks' folders that may belong together by the rest."""
    if len(names) < 3:
        return
    # Few folders are each telling: imagesTr, labelsTr and imagesTs.
    least = 1 if len(names) <= _MAX_BESIDE else 2
    affixes = [("", "")]
    affixes += [("", tail) for tail in _frequent(names, _tails, least)]
    affixes += [(head, "") for head in _frequent(names, _heads, least)]
    yield from permutations(affixes, 2)


def _starred(
    image: tuple[str, str], mask: tuple[str, str], beside: dict[str, FolderNames]
) -> tuple[list[tuple[FolderNames, FolderNames]], int]:
    """Return the folders that two names with a star pair, and how many of images are left over."""

    def by_text(parts: tuple[str, str]) -> dict[str, str]:
        head, tail = parts
        return {
            name[len(head) : len(name) - len(tail)].lower(): name
            for name in beside
            if name.startswith(head) and name.endswith(tail) and len(name) > len(head) + len(tail)
        }

    of_images, of_masks = by_text(image), by_text(mask)
    longer = of_images if len("".join(image)) > len("".join(mask)) else of_masks
    for text, name in list((of_masks if longer is of_images else of_images).items()):
        if name in longer.values():
            del (of_masks if longer is of_images else of_images)[text]
    both = sorted(of_images.keys() & of_masks.keys())
    return [(beside[of_images[text]], beside[of_masks[text]]) for text in both], len(
        of_images.keys() - of_masks.keys()
    )


# --- names -----------------------------------------------------------------------------------


def _tails(stem: str, others: Collection[str]) -> Iterator[str]:
    """Yield the ends of a stem that begin with a word, or leave another stem."""
    yield from (stem[match.start() :] for match in _TAIL_START.finditer(stem))
    yield from (stem[cut:] for cut in _cuts(stem) if stem[:cut] in others)


def _heads(stem: str, others: Collection[str]) -> Iterator[str]:
    """Yield the beginnings of a stem that end with a word, or leave another stem."""
    yield from (stem[: match.end()] for match in _HEAD_END.finditer(stem))
    yield from (stem[:cut] for cut in _cuts(stem) if stem[cut:] in others)


def _cuts(stem: str) -> Iterator[int]:
    """Yield the places between two characters of a stem, but for those within a number: of names
    that count, nearly every one is another one with a digit more.
    """
    return (
        cut for cut in range(1, len(stem)) if not (stem[cut - 1].isdigit() and stem[cut].isdigit())
    )


def _frequent(
    stems: Sequence[str],
    parts_of: Callable[[str, Collection[str]], Iterable[str]],
    least: int | None = None,
) -> list[str]:
    """Return the affixes that many stems share, most frequent first."""
    known = frozenset(stems)
    counts = Counter(part for stem in stems for part in set(parts_of(stem, known)) if part != stem)
    some = 2 if len(stems) > 2 else 1
    wanted = least or max(some, _MIN_SHARE * len(stems))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0]))
    found = [part for part, count in ordered if count >= wanted][:_MAX_AFFIXES]
    # Few images may have a mask; a word for masks says so.
    rare = (part for part, count in ordered if some <= count < wanted and is_named_mask(part))
    return found + list(islice(rare, _MAX_RARE))


class _Name(NamedTuple):
    """A name in parts: its stem, the same without case where it is ASCII, and its extension."""

    name: str
    stem: str
    folded: str | None
    extension: str

    @classmethod
    def of(cls, name: str) -> _Name:
        stem, _, extension = name.rpartition(".")
        return cls(name, stem, stem.lower() if stem.isascii() else None, extension.lower())

    def key(self, affixes: Affixes) -> str | None:
        """Return what `Affixes.key_in` returns."""
        head, tail = affixes.head, affixes.tail
        if affixes.is_numbered or affixes.num_padded or self.folded is None:
            return affixes.key_in(self.name)
        if affixes.extensions and self.extension not in affixes.extensions:
            return None
        end = len(self.stem) - len(tail)
        if end <= len(head) or not (self.stem.startswith(head) and self.stem.endswith(tail)):
            return None
        return self.folded[len(head) : end]


@dataclass(slots=True)
class _Side:
    """The names of one side of all folders, by what they may be: for each affixes the names of each
    folder by key.
    """

    names: list[list[_Name]]
    keys: dict[Affixes, list[dict[str, str]]] = field(default_factory=dict)
    more: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, folders: Iterable[FolderNames], *, mixed: bool) -> _Side:
        side = cls([[_Name.of(name) for name in folder.names] for folder in folders])
        stems = [name.stem for names in side.names for name in names]
        extensions = sorted({name.extension for names in side.names for name in names})
        heads, tails = _frequent(stems, _heads), _frequent(stems, _tails)
        affixes = [("", ""), *(("", tail) for tail in tails), *((head, "") for head in heads)]
        both = list(product(heads[:_MAX_BOTH], tails[:_MAX_BOTH]))
        # Where two kinds of names are mixed, both are tried only where one is not enough.
        side.more = both if mixed else []
        affixes += [] if mixed else both
        side.add_all(affixes, extensions)
        return side

    def add_all(self, affixes: Iterable[tuple[str, str]], extensions: list[str]) -> None:
        """Note the names that (head, tail) fit, with any extension and with each."""
        for head, tail in affixes:
            chosen = [Affixes(head, tail)]
            if len(extensions) > 1:
                chosen += [Affixes(head, tail, (extension,)) for extension in extensions]
            for fitting in chosen:
                keyed = self.keyed(fitting)
                if not self._is_of_a_slide(fitting, sum(map(len, keyed))):
                    self.keys[fitting] = keyed

    def keyed(self, affixes: Affixes) -> list[dict[str, str]]:
        """Return the names of each folder that these affixes fit, by key."""
        return [
            {key: name.name for name in names if (key := name.key(affixes)) is not None}
            for names in self.names
        ]

    def _is_of_a_slide(self, affixes: Affixes, number: int) -> bool:
        """Return whether affixes stand for some of the data rather than for one kind of file."""
        if is_named_mask(affixes.head + affixes.tail):
            return number < 1
        has_number = any(character.isdigit() for character in affixes.head)
        least = _MIN_OF_NUMBERED_HEADS if has_number else _MIN_OF_NAMES
        return number < max(1, least * self.num_names)

    def some_names(self) -> list[_Name]:
        """Return some names of each folder."""
        return [name for names in self.names for name in names[:_MAX_LOOKS]]

    @property
    def num_names(self) -> int:
        """Return how many names there are."""
        return sum(map(len, self.names))


@lru_cache(maxsize=64)
def _side(folders: tuple[FolderNames, ...], *, mixed: bool) -> _Side:
    """Return a side; the same folders are one in many places."""
    return _Side.of(folders, mixed=mixed)


def named_readings(places: Places) -> Iterator[NameReading]:
    """Yield the readings of the names in folders."""
    of_images, of_masks = (tuple(folders) for folders in zip(*places.folders, strict=True))
    images = _side(of_images, mixed=places.are_siblings)
    masks = images if places.are_siblings else _side(of_masks, mixed=False)
    found = list(_matching(places, images, masks))
    if not found and images.more:
        images.add_all(images.more, [])
        images.more = []
        found = list(_matching(places, images, masks))
    yield from found
    if not found and not places.are_siblings:
        yield from _numbered(places, images, masks)
    if max((reading.masks_paired for reading in found), default=0) < _MOST_PAIRED:
        yield from _padded(places, images, masks)


def _matching(places: Places, images: _Side, masks: _Side) -> Iterator[NameReading]:
    for image, mask in product(images.keys, masks.keys):
        if places.are_siblings and not _can_differ(image, mask):
            continue
        reading = _match(places, (image, images.keys[image]), (mask, masks.keys[mask]))
        if reading and reading.masks_paired >= _MIN_PAIRED:
            others = not places.are_siblings and reading.num_masks < masks.num_names
            yield replace(reading, others=others)


def _numbered(places: Places, images: _Side, masks: _Side) -> Iterator[NameReading]:
    """Yield readings whose masks are called by the number of an image, one mask a number."""
    heads = list(dict.fromkeys(affixes.head for affixes in masks.keys))
    for affixes in [Affixes(head, is_numbered=True) for head in heads]:
        keyed = masks.keyed(affixes)
        if sum(map(len, keyed)) < masks.num_names:
            continue
        for image in [image for image in images.keys if not image.extensions]:
            reading = _match(places, (image, images.keys[image]), (affixes, keyed))
            if reading and reading.masks_paired >= _MIN_PAIRED:
                yield reading


def _padded(places: Places, images: _Side, masks: _Side) -> Iterator[NameReading]:
    """Yield readings in which zeros before a number count for nothing, where names have such."""
    # Of folders anywhere, names without text have too little in common.
    if places.crossed or not any(
        _PADDED.search(name.stem) for side in (images, masks) for name in side.some_names()
    ):
        return
    for image, mask in product(_padded_affixes(images), _padded_affixes(masks)):
        if image.num_padded != mask.num_padded or (
            places.are_siblings and not _can_differ(image, mask)
        ):
            continue
        keyed = images.keyed(image), masks.keyed(mask)
        reading = _match(places, (image, keyed[0]), (mask, keyed[1]))
        if reading and reading.masks_paired >= _MOST_PAIRED:
            others = not places.are_siblings and reading.num_masks < masks.num_names
            yield replace(reading, others=others)


def without_zeros(stem: str) -> str:
    """Return a stem without the zeros before its numbers, by which names of two programs differ."""
    return _ZEROS.sub("", stem)


def _padded_affixes(side: _Side) -> list[Affixes]:
    """Return affixes of a side around keys that have one number of numbers."""
    found = []
    for affixes in side.keys:
        if affixes.extensions or affixes.num_padded:
            continue
        numbers = Counter(
            len(_NUMBER.findall(key)) for keyed in side.keys[affixes] for key in keyed
        )
        most = numbers.most_common(1)
        if most and 0 < most[0][0] <= _MAX_NUMBERS:
            found.append(replace(affixes, num_padded=most[0][0]))
    return found[:_MAX_AFFIXES]


def _can_differ(image: Affixes, mask: Affixes) -> bool:
    """Return whether names in one folder can be told apart by these affixes."""
    if (image.head, image.tail) != (mask.head, mask.tail):
        return True
    return bool(image.extensions and mask.extensions) and image.extensions != mask.extensions


def _match(
    places: Places,
    images: tuple[Affixes, list[dict[str, str]]],
    masks: tuple[Affixes, list[dict[str, str]]],
) -> NameReading | None:
    """Return the reading in which these affixes belong to images and masks, None without a pair."""
    pairs: list[tuple[str, str]] = []
    num_images = num_masks = 0
    (image, keyed_images), (mask, keyed_masks) = images, masks
    for (image_folder, mask_folder), *keyed in zip(
        places.folders, keyed_images, keyed_masks, strict=True
    ):
        of_images, of_masks = keyed
        if places.are_siblings:
            of_images, of_masks = _apart(image, of_images, mask, of_masks)
        if mask_folder.is_complete and image_folder.is_complete:
            num_images, num_masks = num_images + len(of_images), num_masks + len(of_masks)
            pairs += [
                (image_folder.path + of_images[key], mask_folder.path + of_masks[key])
                for key in of_masks.keys() & of_images.keys()
            ]
        else:
            looked = sorted(of_masks.values())[:_MAX_LOOKS]
            num_images, num_masks = num_images + len(of_images), num_masks + len(looked)
            pairs += _looked_up(image_folder, mask_folder, image, mask, looked, of_images)
    if not pairs:
        return None
    return NameReading(places, image, mask, tuple(sorted(pairs)), num_images, num_masks)


def _apart(
    image: Affixes, of_images: dict[str, str], mask: Affixes, of_masks: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return both without names that fit the other, more telling affixes."""
    if mask.length >= image.length:
        taken = set(of_masks.values())
        return {key: name for key, name in of_images.items() if name not in taken}, of_masks
    taken = set(of_images.values())
    return of_images, {key: name for key, name in of_masks.items() if name not in taken}


def _looked_up(
    image_folder: FolderNames,
    mask_folder: FolderNames,
    image: Affixes,
    mask: Affixes,
    names: list[str],
    of_images: dict[str, str],
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of masks whose images are there, also those whose names are not known."""
    seen = {name.rpartition(".")[2] for name in image_folder.names}
    for name in names:
        stem = name.rpartition(".")[0]
        key = stem[len(mask.head) : len(stem) - len(mask.tail)]
        wanted = (f"{image.head}{key}{image.tail}.{end}" for end in image.extensions or seen)
        partner = of_images.get(pairing_key(key)) or next(filter(image_folder.has, wanted), None)
        if partner:
            yield image_folder.path + partner, mask_folder.path + name


def _folder_a_sample(folders: Sequence[FolderNames]) -> Iterator[NameReading]:
    """Yield readings in which every folder is a sample and files have the same names in all, or the
    mask alone has where there is only one other file.
    """
    holding = [folder for folder in folders if folder.names]
    counts = Counter(name for folder in holding for name in folder.names)
    least = max(2, len(holding) / 2)
    if len(holding) == 1 and len(counts) == 2:
        # One sample is told by the words for masks alone.
        words = {name: _words(None, Affixes(name)) & MASK_WORDS for name in counts}
        least = 1 if any(words.values()) else 2
    common = [name for name, count in counts.items() if count >= least]
    twos = [folder for folder in holding if len(folder.names) == 2]
    for mask in sorted(common)[:_MAX_BESIDE]:
        both = [folder for folder in twos if folder.has(mask)]
        if len(both) < max(2, counts[mask]) or len(both) < least:
            continue
        others = [next(name for name in folder.names if name != mask) for folder in both]
        pairs = zip(both, others, strict=True)
        yield NameReading(
            Places(tuple((folder, folder) for folder in both)),
            Affixes(),
            Affixes(head=mask),
            tuple((folder.path + name, folder.path + mask) for folder, name in pairs),
            len(both),
            len(both),
            is_by_path=True,
        )
    for image, mask in permutations(sorted(common)[:_MAX_BESIDE], 2):
        both = [folder for folder in holding if folder.has(image) and folder.has(mask)]
        if len(both) * 2 < counts[mask]:
            continue
        yield NameReading(
            Places(tuple((folder, folder) for folder in both)),
            Affixes(head=image),
            Affixes(head=mask),
            tuple((folder.path + image, folder.path + mask) for folder in both),
            counts[image],
            counts[mask],
            is_by_path=True,
        )
