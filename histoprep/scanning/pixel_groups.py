"""`--group-by pixels`: groups are found in the images, and joined with those that names give."""

from __future__ import annotations

PIXELS = "pixels"
_JOINED = f"{PIXELS}:"


def groups_by_pixels(group_by: str | None) -> bool:
    """Return whether groups are found in the images: `pixels`, or `pixels:HOW` with groups of names
    that are joined with those.
    """
    return group_by is not None and (group_by == PIXELS or group_by.startswith(_JOINED))


def groups_by_names(group_by: str | None) -> str | None:
    """Return how groups are read from names, None for not at all."""
    if group_by is None or not groups_by_pixels(group_by):
        return group_by
    return group_by.removeprefix(PIXELS).removeprefix(":") or None


def joined_with_pixels(group_by: str | None) -> str:
    """Return the `--group-by` that joins groups of pixels with those that are known already."""
    if group_by is None or groups_by_pixels(group_by):
        return group_by or PIXELS
    return _JOINED + group_by
