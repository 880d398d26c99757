"""What to say of masks that have no image, and of masks among the images. Pure: paths in, words
out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from histoprep.scan.commands import audit_command, combine_command
from histoprep.scan.layouts import FolderNames, Reading, readings

_NO_WORD = re.compile(r"[\W_]")
# So many names of a side show their scheme.
MAX_NAMES = 2000

_LISTED = (
    "list them in a table with the columns image and mask (--pairs), or say with --image-pattern"
    " and --mask-pattern which part of the names image and mask share (a group named key)."
)


def find_pairing(images: Iterable[str], masks: Iterable[str]) -> Reading | None:
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
    found = readings([FolderNames.of(folder, names[folder]) for folder in sorted(names)])
    return next(
        (
            reading
            for reading in found
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


def suggest_pairing(root: Path, images: Sequence[str], masks: Sequence[str]) -> str:
    """Return what to do about masks among the images: the command that pairs them, if names allow
    one.
    """
    if reading := find_pairing(images, masks):
        command = audit_command(root, reading.options())
        return (
            f"{command} pairs {len(reading.pairs):,} of them with an image. Until then the manifest"
            " stops."
        )
    return f"To pair them, {_LISTED} Until then the manifest stops."


def explain_nothing_paired(
    root: Path, images: Sequence[str], masks: Sequence[str]
) -> tuple[str, str]:
    """Return why none of the masks has an image, and what to do.

    Args:
        root: The data set.
        images: Paths of images without a mask, at least one.
        masks: Paths of masks without an image, at least one.
    """
    image, mask = images[0], masks[0]
    example = f"{_stem(image)} / {_stem(mask)}"
    if several := _several_an_image(images, masks):
        what, by = several
        cause = f"Each image has several mask files, {what}, such as {image} and {mask}."
        return cause, f"Make one mask of those of an image: {combine_command(root, by)}."
    cause = f"The names of masks follow another scheme than those of images: {example}."
    if reading := find_pairing(images, masks):
        return cause, (
            f"{audit_command(root, reading.options())} pairs {len(reading.pairs):,} of them."
        )
    return cause, f"To pair them, {_LISTED}"


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _several_an_image(images: Sequence[str], masks: Sequence[str]) -> tuple[str, str] | None:
    """Return in words how masks belong to one image, and what each is for; None when they do not.

    Either masks begin with the name of their image, or a folder has one image and all masks beside
    it are of this image.
    """
    stems = {_stem(image) for image in images}
    begun = [_begins(_stem(mask), stems) for mask in masks]
    owners = [owner for owner in begun if owner is not None]
    if len(owners) == len(masks) and len(set(owners)) < len(masks):
        rests = {_stem(mask)[len(owner) :] for mask, owner in zip(masks, owners, strict=True)}
        are_numbers = all(rest.strip(" _-.()").isdecimal() for rest in rests)
        return ("which begin with its name", "instance" if are_numbers else "class")
    homes = [path.rpartition("/")[0].rpartition("/")[0] for path in images]
    mask_homes = [path.rpartition("/")[0].rpartition("/")[0] for path in masks]
    alone = len(set(homes)) == len(homes) and set(mask_homes) <= set(homes)
    if alone and any(homes) and len(masks) > len(set(mask_homes)):
        return ("in a folder of its own", "instance")
    return None


def _begins(stem: str, known: set[str]) -> str | None:
    """Return the longest known stem that this one begins with, before a separator."""
    cuts = (cut for cut in range(len(stem) - 1, 0, -1) if not stem[cut].isalnum())
    return next((stem[:cut] for cut in cuts if stem[:cut] in known), None)
