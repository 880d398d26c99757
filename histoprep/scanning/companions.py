"""Files among the images that belong to other images: masks, probability maps, overlays. Pure: what
a listing and the headers say in, groups of such files out.

The audit reports them (HP109) and the manifest stops on them; both ask `find_companions`.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from histoprep import rule_ids
from histoprep.scanning.advice import MAX_NAMES, pairing_command
from histoprep.scanning.layouts import LESSER_WORDS, MASK_WORDS, words_in
from histoprep.scanning.listing import ScanOptions

MAX_IMAGES = 1_000_000
"""So many images are looked at, the first ones of a listing, so that memory stays bounded."""

# Fewer files of a kind may be called so by chance.
_MIN_FILES = 3
_SEPARATOR = re.compile(r"[\W_]")
_LABEL_LIKE = rule_ids.LABEL_LIKE_IMAGE.code
# Modes of photographs.
_COLOUR_MODES = frozenset({"RGB", "RGBA", "CMYK", "YCbCr", "LAB"})


class CompanionKind(StrEnum):
    """How files show that they belong to other images."""

    SERIES = "series"
    """Called like another image in their folder with more behind: `x_overlay.png` of `x.png`."""
    SAME_NAME = "same-name"
    """Called like images in another folder, of one channel or in a folder named like masks."""


class ImageFacts(NamedTuple):
    """What is known of an image: its path below the root, whether it has a mask, its mode and the
    verdict on it, both None where unknown.
    """

    path: str
    has_mask: bool
    mode: str | None = None
    error: str | None = None

    @property
    def is_label_like(self) -> bool:
        """Return whether its pixels look like labels."""
        return bool(self.error) and str(self.error).startswith(_LABEL_LIKE)

    @property
    def is_colour(self) -> bool:
        """Return whether it has the channels of a photograph."""
        return self.mode is None or self.mode in _COLOUR_MODES

    @property
    def is_usable(self) -> bool:
        """Return whether it would be a tile, but for its looks."""
        return self.error is None or self.is_label_like


@dataclass(frozen=True, slots=True)
class Companions:
    """Files that belong to other images.

    Attributes:
        kind: How they show it.
        shared: What they have in common: the end of their names, or their folder.
        paths: Their paths below the root, sorted.
        images: The image that each of them belongs to.
    """

    kind: CompanionKind
    shared: str
    paths: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def example(self) -> str:
        """Return the image that the first of them belongs to."""
        return self.images[0]

    @property
    def cause(self) -> str:
        """Return what they are, as far as names and headers tell."""
        if self.kind is CompanionKind.SERIES:
            how = f"called like other images with {self.shared} behind"
        else:
            how = f"in {self.shared or 'the folder'} and called like images of another folder"
        return (
            f"These files are {how}, such as {self.paths[0]} of {self.example}: they seem to be"
            " masks, probability maps or overlays of those images."
        )

    def suggestion(self, root: Path, kept: ScanOptions | None = None) -> str:
        """Return what to do about them, with the command that reads them as masks, if names allow
        one.

        Args:
            root: The data set.
            kept: Options of the last audit, which a command begins with.
        """
        found = pairing_command(root, self.images[:MAX_NAMES], self.paths[:MAX_NAMES], kept)
        reading = f"If they are the masks: {found[0]}; or, " if found else "Or, "
        manifest = f"histoprep manifest {shlex.quote(str(root))}"
        code = rule_ids.LABEL_LIKE_IMAGE.code
        return (
            "Until then the manifest stops. If they are probabilities, choose a class for each"
            " pixel first, such as (probability > 0.5). If they are neither images nor masks, this"
            f" leaves them out: {manifest} --exclude {code}. {reading}if they are images:"
            f" {manifest} --force"
        )


def find_companions(images: Sequence[ImageFacts]) -> list[Companions]:
    """Return the images without a mask that belong to other images.

    Files that all look like labels by their pixels are left to HP109 and HP110, which say so.

    Args:
        images: All images, in any order.
    """
    unpaired = [image for image in images if not image.has_mask and image.is_usable]
    if not unpaired:
        return []
    series = _series(images, unpaired)
    taken = {path for group in series for path in group.paths}
    rest = [image for image in unpaired if image.path not in taken]
    return [*series, *_same_names(images, rest, taken)]


def _series(images: Sequence[ImageFacts], unpaired: Sequence[ImageFacts]) -> list[Companions]:
    stems = {_stem(image.path): image.path for image in images}
    found: defaultdict[str, list[tuple[ImageFacts, str]]] = defaultdict(list)
    for image in unpaired:
        stem = _stem(image.path)
        cuts = [match.start() for match in _SEPARATOR.finditer(stem, stem.rfind("/") + 2)]
        # The shortest beginning that is an image of its own.
        cut = next((cut for cut in cuts if stem[:cut] in stems), None)
        if cut is not None and any(character.isalpha() for character in stem[cut:]):
            found[stem[cut:]].append((image, stems[stem[:cut]]))
    per_folder = Counter(_folder(image.path) for image in images)
    num_found = Counter(_folder(image.path) for group in found.values() for image, _ in group)
    chosen = []
    for tail, group in sorted(found.items()):
        folders = {_folder(image.path) for image, _ in group}
        num_others = sum(per_folder[folder] - num_found[folder] for folder in folders)
        if _is_many(len(group), num_others) and not all(image.is_label_like for image, _ in group):
            chosen.append(_companions(CompanionKind.SERIES, tail, group))
    return chosen


def _same_names(
    images: Sequence[ImageFacts], unpaired: Sequence[ImageFacts], taken: set[str]
) -> list[Companions]:
    by_folder: defaultdict[str, list[ImageFacts]] = defaultdict(list)
    for image in unpaired:
        if not image.is_colour or _is_named_like_masks(image.path):
            by_folder[_folder(image.path)].append(image)
    if not by_folder:
        return []
    names: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        is_whole = image.is_colour and not image.is_label_like and image.path not in taken
        if is_whole and not _is_named_like_masks(image.path):
            names[_stem(image.path).rpartition("/")[2]].append(image.path)
    chosen = []
    for folder, group in sorted(by_folder.items()):
        paired = [
            (image, partner)
            for image in group
            if (partner := _partner(image, names[_stem(image.path).rpartition("/")[2]]))
        ]
        # All partners lie in folders that go with this one.
        if _is_many(len(paired), len(group)) and not all(
            image.is_label_like for image, _ in paired
        ):
            chosen.append(_companions(CompanionKind.SAME_NAME, folder, paired))
    return chosen


def _partner(image: ImageFacts, others: Sequence[str]) -> str | None:
    """Return the image of the same name in another folder whose path is most like its own."""
    own = image.path.split("/")
    return max(
        (other for other in others if _folder(other) != _folder(image.path)),
        key=lambda other: len(set(own) & set(other.split("/"))),
        default=None,
    )


def _companions(
    kind: CompanionKind, shared: str, group: Sequence[tuple[ImageFacts, str]]
) -> Companions:
    ordered = sorted((image.path, partner) for image, partner in group)
    paths, images = zip(*ordered, strict=True)
    return Companions(kind, shared, paths, images)


def _is_many(number: int, of: int) -> bool:
    return number >= _MIN_FILES and 2 * number > of


def _is_named_like_masks(path: str) -> bool:
    """Return whether the folder of a file is named like one of masks or drawings of them."""
    words = words_in(_folder(path).rstrip("/").rpartition("/")[2])
    return bool(words & (MASK_WORDS | LESSER_WORDS))


def _folder(path: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return folder + slash


def _stem(path: str) -> str:
    return path.rpartition(".")[0]
