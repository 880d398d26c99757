"""Small thumbnails of tiles for the report: the image, and its mask drawn over it.

Pure functions on arrays; files are read elsewhere, and only `imageio` encodes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

THUMBNAIL_PX = 240
UNLISTED_COLOUR = "#ff00ff"  # nothing in stained tissue looks like it
FALLBACK_COLOUR = "#8a8f98"
_TINT = 0.42
# The least side of the part that is shown enlarged, and how far frames keep from what they show.
_CROP_PX = 32
_FRAME_PX = 4
# The side of the part of a seam that is shown enlarged.
_SEAM_PX = 80
# Nothing in stained tissue is so yellow.
_DARK, _BRIGHT = (0, 0, 0), (255, 230, 0)
_HEX_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


class Coloured(Protocol):
    """A class as the legend needs it: `TargetClass` and `ClassRow` are such."""

    @property
    def id(self) -> int:
        """Return the class id."""

    @property
    def name(self) -> str:
        """Return the class name."""

    @property
    def colour(self) -> str:
        """Return "#rrggbb"."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One class in a thumbnail and the share of the mask it has, in [0, 1]."""

    name: str
    colour: str
    share: float


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """Thumbnails of one tile as data URIs, None where there is nothing to show.

    `overlay_data_uri` is the mask over the image, or the mask alone when there is
    no image of its size; `crop_data_uri` is an enlarged part of it around the first mark,
    `fitting_data_uri` the mask that fits the image better, over it. `seam_data_uri` shows two
    images as they lie, `crop_data_uri` then their seam enlarged. `legend` lists the classes in it,
    largest first.
    """

    image_data_uri: str | None
    overlay_data_uri: str | None = None
    caption: str = ""
    legend: tuple[LegendEntry, ...] = ()
    crop_data_uri: str | None = None
    fitting_data_uri: str | None = None
    seam_data_uri: str | None = None


def make_thumbnail(
    image: np.ndarray | None,
    labels: np.ndarray | None,
    classes: Sequence[Coloured],
    caption: str = "",
    longest_px: int = THUMBNAIL_PX,
    marks: Sequence[tuple[int, int, int, int]] = (),
) -> Thumbnail:
    """Return the thumbnail of a tile.

    `image` is uint8 [height, width, 3], `labels` integer [height, width] with ids of
    `classes`; ids that no class has, and labels that the label map does not list
    (see `unlisted`), are drawn in magenta. Either may be None. A mask that differs
    in size from its image is drawn alone. `marks` are boxes of the mask (top, left, bottom, right),
    ends excluded: each gets a frame, and what the first holds is shown enlarged.
    """
    from histoprep import imageio

    small = None if image is None else imageio.shrink_rgb(image, longest_px)
    plain = None if small is None else _data_uri("jpeg", imageio.encode_rgb_jpeg(small, 82))
    if labels is None:
        return Thumbnail(plain, None, caption)
    palette = {cls.id: checked_colour(cls.colour) for cls in classes}
    fits = image is not None and image.shape[:2] == labels.shape
    few = shrink_labels(labels, longest_px)
    drawn = overlay(small if fits else None, few, palette)
    for mark in marks:
        _frame(
            drawn,
            [edge * few.shape[axis % 2] / labels.shape[axis % 2] for axis, edge in enumerate(mark)],
        )
    # Flat colours are smaller and exact as PNG; tissue under colour is neither.
    encoded = (
        _data_uri("jpeg", imageio.encode_rgb_jpeg(drawn, 85, "4:4:4"))
        if fits
        else _data_uri("png", imageio.encode_rgb_png(drawn))
    )
    if not marks:
        return Thumbnail(plain, encoded, caption, _legend(labels, classes))
    top, left, bottom, right = around(marks[0], labels.shape)
    part = np.s_[top:bottom, left:right]
    enlarged = overlay(
        _enlarge(image[part], longest_px) if fits and image is not None else None,
        _enlarge(labels[part], longest_px),
        palette,
    )
    times = enlarged.shape[0] / (bottom - top)
    inside = [edge - start for edge, start in zip(marks[0], 2 * (top, left), strict=True)]
    _frame(enlarged, [edge * times for edge in inside], 0)
    crop = _data_uri("png", imageio.encode_rgb_png(enlarged))
    place = f"{right - left} x {bottom - top} pixels at x {left}, y {top} enlarged"
    return Thumbnail(
        plain, encoded, f"{caption}; {place}" if caption else place, _legend(labels, classes), crop
    )


def make_seam(
    first: np.ndarray, second: np.ndarray, corner: tuple[int, int], longest_px: int = THUMBNAIL_PX
) -> Thumbnail:
    """Return a thumbnail of two images as they lie, the second over the first and framed, and
    the middle of the seam enlarged, without a frame.

    Args:
        first: uint8 [height, width, 3].
        second: uint8 [height, width, 3].
        corner: Where the upper left corner of the second lies, down and right of that of the first;
            they touch or overlap there.
        longest_px: Longer side of the thumbnail.
    """
    from histoprep import imageio

    start = min(corner[0], 0), min(corner[1], 0)
    size = [
        max(first.shape[axis], corner[axis] + second.shape[axis]) - start[axis] for axis in (0, 1)
    ]
    canvas = np.full((*size, 3), 255, np.uint8)
    ends = []
    for image, place in ((first, (0, 0)), (second, corner)):
        top, left = place[0] - start[0], place[1] - start[1]
        bottom, right = top + image.shape[0], left + image.shape[1]
        canvas[top:bottom, left:right] = image
        ends.append((top, left, bottom, right))
    small = np.ascontiguousarray(imageio.shrink_rgb(canvas, longest_px))
    scale = small.shape[0] / size[0]
    _frame(small, [edge * scale for edge in ends[1]], reach_px=0)
    inner = [max(pair) for pair in zip(ends[0][:2], ends[1][:2], strict=True)]
    outer = [min(pair) for pair in zip(ends[0][2:], ends[1][2:], strict=True)]
    # Where they touch the box has no width; of an overlap its upper left corner is a seam.
    middle = [
        (low + high) // 2 if axis or outer[1] - inner[1] else low
        for axis, (low, high) in enumerate(zip(inner, outer, strict=True))
    ]
    box = around((middle[0], middle[1], middle[0] + 1, middle[1] + 1), canvas.shape[:2], _SEAM_PX)
    part = canvas[box[0] : box[2], box[1] : box[3]]
    return Thumbnail(
        None,
        crop_data_uri=_data_uri("png", imageio.encode_rgb_png(_enlarge(part, longest_px))),
        seam_data_uri=_data_uri("jpeg", imageio.encode_rgb_jpeg(small, 85)),
    )


def around(
    mark: tuple[int, int, int, int], shape: tuple[int, ...], least_px: int = _CROP_PX
) -> tuple[int, int, int, int]:
    """Return the box of the part that shows a mark enlarged: a square about the mark with some
    surroundings, moved inside of the mask of `shape` and cut where that is smaller.
    """
    top, left, bottom, right = mark
    side = max(least_px, 2 * max(bottom - top, right - left))
    edges = []
    for low, high, full in ((top, bottom, shape[0]), (left, right, shape[1])):
        length = min(side, full)
        start = min(max((low + high - length) // 2, 0), full - length)
        edges.append((start, start + length))
    (top, bottom), (left, right) = edges
    return top, left, bottom, right


def _enlarge(pixels: np.ndarray, longest_px: int) -> np.ndarray:
    """Return each pixel as a square of as many as fit, at least one."""
    times = max(1, longest_px // max(pixels.shape[:2]))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def _frame(drawn: np.ndarray, mark: Sequence[float], reach_px: int = _FRAME_PX) -> None:
    """Draw a frame, dark outside and bright inside, around a place of uint8 [h, w, 3].

    It keeps `reach_px` from what it shows, and inside of the thumbnail.
    """
    height, width = drawn.shape[:2]
    top, left, bottom, right = mark
    for reach, colour in ((reach_px + 2, _DARK), (reach_px + 1, _BRIGHT), (reach_px, _BRIGHT)):
        first_row, last_row = (
            min(max(round(edge), 0), height - 1) for edge in (top - reach, bottom + reach - 1)
        )
        first_column, last_column = (
            min(max(round(edge), 0), width - 1) for edge in (left - reach, right + reach - 1)
        )
        drawn[[first_row, last_row], first_column : last_column + 1] = colour
        drawn[first_row : last_row + 1, [first_column, last_column]] = colour


def unlisted(labels: np.ndarray) -> np.ndarray:
    """Return labels, int32, as numbers below 0, which are no class ids; it is its own inverse."""
    return -1 - labels


def checked_colour(colour: str) -> str:
    """Return the colour when it is "#rrggbb", otherwise a grey: label maps are written by hand."""
    return colour.lower() if _HEX_COLOUR.fullmatch(colour) else FALLBACK_COLOUR


def small_size(height: int, width: int, longest_px: int) -> tuple[int, int]:
    """Return height and width with the longer side at most `longest_px`, the ratio kept, never
    enlarged.
    """
    scale = min(1.0, longest_px / max(height, width, 1))
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrink_labels(labels: np.ndarray, longest_px: int) -> np.ndarray:
    """Return [h, w] with values of `labels` alone: each pixel takes the one in the middle of its
    block.
    """
    height, width = labels.shape
    rows, columns = (
        ((2 * np.arange(n) + 1) * full) // (2 * n)
        for n, full in zip(small_size(height, width, longest_px), (height, width), strict=True)
    )
    return labels[np.ix_(rows, columns)]


def overlay(image: np.ndarray | None, labels: np.ndarray, colours: Mapping[int, str]) -> np.ndarray:
    """Return uint8 [h, w, 3]: the image tinted by class, each class outlined in its full colour.

    Label 0 means unknown and is left as it is. Without an image the classes are
    painted in full, label 0 in its own colour.
    """
    present, index = np.unique(labels, return_inverse=True)
    table = np.array(
        [_rgb(colours.get(int(label), UNLISTED_COLOUR)) for label in present], dtype=np.float32
    ).reshape(-1, 3)
    paint = table[index.reshape(labels.shape)]
    if image is None:
        return np.rint(paint).astype(np.uint8)
    known = labels != 0
    weight = np.where(known & outline(labels), 1.0, np.where(known, _TINT, 0.0))[..., None]
    result: np.ndarray = np.rint(image * (1 - weight) + paint * weight).astype(np.uint8)
    return result


def outline(labels: np.ndarray) -> np.ndarray:
    """Return bool [h, w]: pixels with another label above, below, left or right of them."""
    edge = np.zeros(labels.shape, dtype=bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


def _legend(labels: np.ndarray, classes: Sequence[Coloured]) -> tuple[LegendEntry, ...]:
    listed = {cls.id: cls for cls in classes}
    entries = []
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        cls = listed.get(int(label))
        source = label if label >= 0 else unlisted(label)
        name, colour = (
            (cls.name, checked_colour(cls.colour))
            if cls
            else (f"label {source}, not listed", UNLISTED_COLOUR)
        )
        entries.append(LegendEntry(name, colour, float(count) / labels.size))
    return tuple(sorted(entries, key=lambda entry: -entry.share))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"
