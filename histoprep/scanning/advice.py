"""What to say of masks that have no image, and of masks among the images. Pure: paths in, words
out.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from histoprep.choices import CombineBy, Layout
from histoprep.scanning.aligned_folders import aligned_readings
from histoprep.scanning.combining import combined
from histoprep.scanning.commands import audit_command, combine_command
from histoprep.scanning.joined_names import joined_readings
from histoprep.scanning.layouts import MASK_WORDS, FolderNames, NameReading, readings, words_in
from histoprep.scanning.listing import ScanOptions
from histoprep.scanning.trial import gives_pairs

_NO_WORD = re.compile(r"[\W_]")
# So many names of a side show their scheme.
MAX_NAMES = 2000
# Options that a command may state although they are the usual ones, where others are kept.
_SAID = ("layout", "mask_suffix", "image_suffix")

_LISTED = (
    "list them in a table with the columns image and mask (--pairs), or say with --image-pattern"
    " and --mask-pattern which part of the names image and mask share (a group named key):"
    " histoprep audit --help"
)


def find_pairing(images: Iterable[str], masks: Iterable[str]) -> NameReading | None:
    """Return the reading of names that pairs most of these masks with these images, or None.

    Args:
        images: Paths of images below the root.
        masks: Paths of files that are known to be masks.
    """
    of_images, of_masks = frozenset(images), frozenset(masks)
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path in of_images | of_masks:
        folder, slash, name = path.rpartition("/")
        names[folder + slash].append(name)
    folders = [FolderNames.of(folder, names[folder]) for folder in sorted(names)]
    found = [*readings(folders), *joined_readings(folders), *aligned_readings(folders)]
    return next(
        (
            reading
            for reading in sorted(found, key=lambda reading: -len(reading.pairs))
            if of_images.issuperset(image for image, _ in reading.pairs)
            and of_masks.issuperset(mask for _, mask in reading.pairs)
        ),
        None,
    )


def further_masks(masks: Iterable[str], paired_images: Iterable[str]) -> frozenset[str]:
    """Return those of the masks among the images that are further ones of an image that has a mask:
    in its folder, and called like it with more behind, as `x_reader2.png` of `x.jpg`.

    Args:
        masks: Paths of files that are known to be masks.
        paired_images: Paths of images that have a mask.
    """
    stems = {path.rpartition(".")[0] for path in paired_images}
    return frozenset(
        path
        for path in masks
        if any(
            path[: match.start()] in stems
            for match in _NO_WORD.finditer(path, path.rfind("/") + 2, path.rfind("."))
        )
    )


def pairing_command(
    root: Path,
    images: Iterable[str],
    masks: Iterable[str],
    kept: ScanOptions | None = None,
    others: Iterable[tuple[str, str]] = (),
) -> tuple[str, int] | None:
    """Return the command that pairs most of these masks with these images and how many, or None.

    It was tried on the names: with the options that are kept it gives these pairs and no others.

    Args:
        root: The data set.
        images: Paths of images below the root.
        masks: Paths of files that are known to be masks.
        kept: Options that the command begins with, those of the last audit.
        others: Pairs of image and mask that must stay.
    """
    kept = kept or ScanOptions()
    images, masks, others = list(images), list(masks), list(others)
    reading = find_pairing(images, masks)
    if reading is None or kept.pairs is not None:
        return None
    stated = {*reading.pairs, *others}
    files = [*images, *masks, *(path for pair in others for path in pair)]
    usual = {
        name: str(value)
        for name, value in asdict(ScanOptions()).items()
        if name in _SAID and value != getattr(kept, name)
    }
    for options in (reading.options(), usual | reading.options()):
        named: dict[str, Any] = {**options, "layout": Layout(options.get("layout", kept.layout))}
        if gives_pairs(stated, files, replace(kept, **named)):
            return audit_command(root, options), len(reading.pairs)
    return None


def explain_masks_alone(root: Path) -> tuple[str, str]:
    """Return why a folder that holds masks alone is no data set, and what to do."""
    cause = "These files are masks, and their images are not here: they lie in another folder."
    start = "Until then the manifest stops."
    if words_in(root.name) & MASK_WORDS and root.parent != root:
        command = audit_command(root.parent, {})
        return cause, f"{start} To audit the folder that holds this one: {command}"
    return cause, (
        f"{start} No command can find the images: audit the folder that holds both, or copy or link"
        " the images into a folder images/ beside the masks."
    )


def suggest_pairing(
    root: Path,
    images: Sequence[str],
    masks: Sequence[str],
    kept: ScanOptions | None = None,
    others: Iterable[tuple[str, str]] = (),
) -> str:
    """Return what to do about masks among the images: the command that pairs them, if names allow
    one; arguments as in `pairing_command`.
    """
    if found := pairing_command(root, images, masks, kept, others):
        command, number = found
        return f"Until then the manifest stops. To pair {number:,} of them with an image: {command}"
    return f"Until then the manifest stops. To pair them, {_LISTED}"


def explain_nothing_paired(
    root: Path, images: Sequence[str], masks: Sequence[str], kept: ScanOptions | None = None
) -> tuple[str, str]:
    """Return why none of the masks has an image, and what to do.

    Args:
        root: The data set.
        images: Paths of images without a mask, at least one.
        masks: Paths of masks without an image, at least one.
        kept: Options of the last audit, which a command begins with.
    """
    image, mask = images[0], masks[0]
    names = _stem(image), _stem(mask)
    example = " / ".join(names if names[0] != names[1] else (image, mask))
    several = _several_an_image(images, masks)
    if several and (command := _combining(root, CombineBy(several[1]), images, masks)):
        what = several[0]
        cause = f"Each image has several mask files, {what}, such as {image} and {mask}."
        return cause, f"Make one mask of those of an image: {command}"
    cause = f"The names of masks follow another scheme than those of images: {example}."
    if found := pairing_command(root, images, masks, kept):
        command, number = found
        return cause, f"To pair {number:,} of them: {command}"
    return cause, f"To pair them, {_LISTED}"


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _several_an_image(images: Sequence[str], masks: Sequence[str]) -> tuple[str, str] | None:
    """Return in words how masks belong to one image, and what each is for; None when they do not.

    Either masks begin with the name of their image, or their folder has it, or a folder has one
    image and all masks beside it are of this image.
    """
    stems = {_stem(image) for image in images}
    begun = [_begins(_stem(mask), stems) for mask in masks]
    owners = [owner for owner in begun if owner is not None]
    if len(owners) == len(masks) and len(set(owners)) < len(masks):
        rests = {_stem(mask)[len(owner) :] for mask, owner in zip(masks, owners, strict=True)}
        are_numbers = all(rest.strip(" _-.()").isdecimal() for rest in rests)
        return ("which begin with its name", "instance" if are_numbers else "class")
    owners_of = [path.rpartition("/")[0].rpartition("/")[2] for path in masks]
    if stems.issuperset(owners_of) and len(set(owners_of)) < len(masks):
        # Names that come back in every folder are classes.
        names = {_stem(mask) for mask in masks}
        return (
            "in a folder called like it",
            "class" if 2 * len(names) < len(masks) else "instance",
        )
    homes = [path.rpartition("/")[0].rpartition("/")[0] for path in images]
    mask_homes = [path.rpartition("/")[0].rpartition("/")[0] for path in masks]
    alone = len(set(homes)) == len(homes) and set(mask_homes) <= set(homes)
    if alone and any(homes) and len(masks) > len(set(mask_homes)):
        return ("in a folder of its own", "instance")
    return None


def _combining(
    root: Path, by: CombineBy, images: Sequence[str], masks: Sequence[str]
) -> str | None:
    """Return the command of `histoprep import combine` that takes exactly these masks, if any."""
    folders = os.path.commonpath([mask.rpartition("/")[0] or "." for mask in masks])
    start = "" if folders in ("", ".") else f"{re.escape(folders)}/"
    named = "(?P<class>[^/]+)" if by is CombineBy.CLASS else "[^/]+"
    patterns = [f"{start}(.*/)?(?P<key>[^/]+{lazy})[ _.-]+{named}" for lazy in ("", "?")]
    for pattern in (None, *patterns):
        found = combined([*images, *masks], by, pattern)
        if found is not None and set(masks) == {
            path for group in found.values() for _, path in group
        }:
            return combine_command(root, by.value, pattern)
    return None


def combine_advice(
    root: Path, images: Sequence[str], masks: Sequence[str], by: CombineBy = CombineBy.INSTANCE
) -> str:
    """Return the command that makes one mask of several of an image, or how to say which they are.

    Args:
        root: The data set.
        images: Paths of images below the root.
        masks: Paths of all their masks.
        by: What each mask is for.
    """
    if masks and (command := _combining(root, by, images, masks)):
        return f"Make one mask of all those of an image: {command}"
    return (
        "To make one mask of all those of an image, say with --mask-pattern which they are (groups"
        " key and class): histoprep import combine --help"
    )


def _begins(stem: str, known: set[str]) -> str | None:
    """Return the longest known stem that this one begins with, before a separator."""
    cuts = (cut for cut in range(len(stem) - 1, 0, -1) if not stem[cut].isalnum())
    return next((stem[:cut] for cut in cuts if stem[:cut] in known), None)
