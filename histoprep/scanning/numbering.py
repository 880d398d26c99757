"""Numbers of images and masks that are shifted against each other: `img_0` to `img_99` beside
`mask_1` to `mask_100`, where equal numbers make wrong pairs. Pure: paths in, shifts out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

# Fewer files may be numbered so by chance.
_MIN_MASKS = 3
# Masks of fewer images than this share say nothing of how they were counted.
_MIN_SHARE = 0.9
# Of the numbers in a name, so many are tried, from its end on: `slide3_tile12_x20`.
_MAX_NUMBERS = 4
_NUMBER = re.compile(r"[0-9]+")

Row = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Shift:
    """Masks whose numbers are those of the images plus `amount`, in one folder.

    Attributes:
        amount: Number of a mask less that of its image; never 0.
        masks: Each mask, the image that it is paired with (None for none), and the one that it
            seems to belong to, in order of the numbers.
    """

    amount: int
    masks: tuple[tuple[str, str | None, str], ...]

    @property
    def example(self) -> str:
        """Return the first mask that was paired, with both images, in words."""
        mask, image, partner = next(entry for entry in self.masks if entry[1] is not None)
        return f"{mask} is paired with {image} and seems to belong to {partner}"


def find_shifts(rows: Iterable[Row]) -> list[Shift]:
    """Return the folders whose masks are numbered otherwise than their images.

    All masks have the number of an image plus the same amount, the last images by number have none
    of their own, and at least nine of ten images have a mask. Equal numbers pair those between, so
    that every pair is wrong.

    Args:
        rows: Image and mask of each tile; None for the side that is missing.
    """
    listed = list(rows)
    if all(image for image, _ in listed) or all(mask for _, mask in listed):
        return []
    tried = (_shifts_of(listed, at) for at in range(1, _MAX_NUMBERS + 1))
    return next((found for found in tried if found), [])


def _shifts_of(listed: list[Row], at: int) -> list[Shift]:
    """Return the shifts of the number at this position, counted from the end of a name."""
    lone_images = _numbered((image for image, mask in listed if image and not mask), at)
    lone_masks = _numbered((mask for image, mask in listed if mask and not image), at)
    if not lone_images or not lone_masks:
        return []
    pairs: defaultdict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
    for image, mask in listed:
        parts = image and _parts(image, at), mask and _parts(mask, at)
        if parts[0] and parts[1] and parts[0][1] == parts[1][1]:
            pairs[parts[0][0], parts[1][0]][parts[0][1]] = (image, mask)
    found = []
    for (images, masks), by_number in sorted(pairs.items()):
        if images in lone_images and masks in lone_masks:
            both = {number: str(image) for number, (image, _) in by_number.items()}
            own = {number: str(mask) for number, (_, mask) in by_number.items()}
            shift = _shift(both | lone_images[images], own | lone_masks[masks], both)
            if shift:
                found.append(shift)
    return found


def _shift(images: dict[int, str], masks: dict[int, str], paired: dict[int, str]) -> Shift | None:
    """Return the shift of masks (path by number) against images, None where there is none."""
    amount = max(masks) - max(images) if max(masks) > max(images) else min(masks) - min(images)
    is_shifted = amount != 0 and all(number - amount in images for number in masks)
    has_first = (min(images) if amount > 0 else max(images)) in masks
    if (
        not is_shifted
        or has_first
        or len(masks) < max(_MIN_MASKS, _MIN_SHARE * len(images))
        or len(masks) > len(images)
    ):
        return None
    return Shift(
        amount,
        tuple(
            (masks[number], paired.get(number), images[number - amount]) for number in sorted(masks)
        ),
    )


def _numbered(paths: Iterable[str | None], at: int) -> dict[str, dict[int, str]]:
    """Return paths by their number, for each path without it."""
    found: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for path in paths:
        if path and (parts := _parts(path, at)):
            found[parts[0]][parts[1]] = path
    return dict(found)


def _parts(path: str, at: int) -> tuple[str, int] | None:
    """Return a path without the number at a position of its name, and the number; None without
    one.
    """
    stem, dot, extension = path.rpartition(".")
    matches = list(_NUMBER.finditer(stem, stem.rfind("/") + 1))
    if len(matches) < at:
        return None
    match = matches[-at]
    return f"{stem[: match.start()]}\0{stem[match.end() :]}{dot}{extension}", int(match[0])
