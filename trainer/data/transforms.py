"""What happens to a tile between disk and network: cut to size, turned, scaled. Masks are only ever
moved, never interpolated.

Drawing (which window, which view) is apart from applying it, so that image and mask, or latents and
mask, get the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

import numpy as np
from jaxtyping import Float, Float32, UInt8

from histoprep.errors import UsageError
from trainer.choices import Fit

FITS: tuple[Fit, ...] = get_args(Fit)

# A view is one of the 8 symmetries of the square: `view % 4` quarter turns anticlockwise, after a
# left-right flip if `view >= 4`.
NUM_VIEWS = 8
IDENTITY = 0
_FLIPS = (0, 4, 6, 2)
_TURNS = (0, 1, 2, 3)
# A latent set has the first ones of these: identity, left-right mirror, then the other two flips,
# then the quarter turns and their mirrors.
VIEW_ORDER = (0, 4, 2, 6, 1, 3, 5, 7)
VIEW_COUNTS = (1, 2, 4, 8)


def allowed_views(*, flips: bool, turns: bool) -> tuple[int, ...]:
    """Return the views that augmentation may use: all 8 with both, identity alone with neither.

    Flips alone are left-right, up-down and both (which is a half turn); turns alone are the four
    quarter turns.
    """
    if flips and turns:
        return tuple(range(NUM_VIEWS))
    return _FLIPS if flips else _TURNS if turns else (IDENTITY,)


def views_for(*, flips: bool, turns: bool) -> int:
    """Return how many views of `VIEW_ORDER` a latent set needs to have all that augmentation may
    use.
    """
    last = max(VIEW_ORDER.index(view) for view in allowed_views(flips=flips, turns=turns))
    return next(count for count in VIEW_COUNTS if count > last)


def unmet_augmentation(views: Collection[int], *, flips: bool, turns: bool) -> tuple[str, ...]:
    """Return which of flips and turns are asked for although no view of a latent set has one."""
    is_met = {
        "flips": any(view >= NUM_VIEWS // 2 for view in views),
        "turns": any(view % 2 for view in views),
    }
    requested = {"flips": flips, "turns": turns}
    return tuple(name for name, wanted in requested.items() if wanted and not is_met[name])


def apply_view(array: np.ndarray, view: int, *, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """Return an array under a view, as a view of its memory.

    Args:
        array: Image, mask or latents, single or in a batch.
        view: One of the 8 symmetries of the square.
        axes: The axes of height and width.
    """
    turned = np.flip(array, axes[1]) if view >= _TURNS[-1] + 1 else array
    return np.rot90(turned, view % 4, axes=axes)


def pick(uniforms: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """Return whole numbers in [0, count) from uniform numbers in [0, 1)."""
    result: np.ndarray = np.minimum((uniforms * count).astype(np.int64), np.asarray(count) - 1)
    return result


def window_starts(length_px: int, size_px: int) -> tuple[int, ...]:
    """Return where the fewest windows of `size_px` start that cover `length_px`: side by side, the
    last one at the end.

    Windows do not overlap when the length is a multiple of the size.
    """
    count = -(-length_px // size_px)
    return tuple(min(index * size_px, length_px - size_px) for index in range(count))


def windows(height_px: int, width_px: int, size_px: int) -> list[tuple[int, int]]:
    """Return the (top, left) corners of the windows of the option `tile`, row by row."""
    return [
        (top, left)
        for top in window_starts(height_px, size_px)
        for left in window_starts(width_px, size_px)
    ]


def check_size(
    height_px: int,
    width_px: int,
    size_px: int,
    fit: Fit,
    *,
    tile_id: str,
    options: tuple[str, str] = ("data.image_size", "data.fit"),
) -> None:
    """Check that a tile can be cut to the training size.

    Args:
        height_px: Height of the tile.
        width_px: Width of the tile.
        size_px: The training size.
        fit: What becomes of tiles of another size.
        tile_id: The tile, for the message.
        options: The names that the user gives size and fit by.

    Raises:
        UsageError: When the tile is not of the training size, or smaller than it where larger ones
            are cut.
    """
    if height_px == width_px == size_px:
        return
    if fit == "refuse":
        raise UsageError(
            f"tile {tile_id} is not of the training size",
            seen=f"{height_px} x {width_px} px (height x width)",
            expected=f"{size_px} x {size_px} px",
            hint=f"set {options[0]} to the size of the tiles, or {options[1]} to crop or tile",
        )
    if min(height_px, width_px) < size_px:
        raise UsageError(
            f"tile {tile_id} is smaller than the training size",
            seen=f"{height_px} x {width_px} px (height x width)",
            expected=f"at least {size_px} x {size_px} px",
            hint=f"train with a smaller {options[0]}, or leave such tiles out of the manifest",
        )


def corner(
    height_px: int, width_px: int, size_px: int, fit: Fit, uniforms: np.ndarray
) -> tuple[int, int]:
    """Return the (top, left) corner of the crop that is used, from two uniform numbers in [0, 1).

    `crop` takes any crop inside the tile, `tile` one of its windows; a tile of the training size
    gives (0, 0).
    """
    if fit == "tile":
        places = windows(height_px, width_px, size_px)
        return places[int(pick(uniforms[0], len(places)))]
    return int(pick(uniforms[0], height_px - size_px + 1)), int(
        pick(uniforms[1], width_px - size_px + 1)
    )


def to_float(
    rgb: UInt8[np.ndarray, " *batch height width 3"],
    out: Float32[np.ndarray, " *batch 3 height width"] | None = None,
) -> Float32[np.ndarray, " *batch 3 height width"]:
    """Return uint8 RGB [..., height, width, 3] as float32 [..., 3, height, width] in [-1, 1]:
    x / 127.5 - 1; contiguous, or in `out`.
    """
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, -3))
    scaled = np.empty(planes.shape, np.float32) if out is None else out
    scaled[...] = planes
    scaled *= np.float32(1 / 127.5)
    scaled -= np.float32(1)
    return scaled


def to_uint8(
    image: Float[np.ndarray, " *batch 3 height width"],
) -> UInt8[np.ndarray, " *batch height width 3"]:
    """Return float [..., 3, height, width] in [-1, 1] as uint8 RGB [..., height, width, 3],
    rounded; the inverse of `to_float`.
    """
    scaled = np.rint((np.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(scaled, -3, -1))
