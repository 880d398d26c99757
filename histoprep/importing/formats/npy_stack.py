"""Stacks of tiles as NumPy arrays, as in PanNuke: images.npy [n, height, width, 3], masks.npy
[n, height, width, channels], types.npy [n].

A channel of the masks holds the numbers of the objects of a class, or 0 and 1. A last channel that is
set where the others are not is the background. Later channels lie on top. Stacks are mapped into
memory, not read whole.

Source: the read_me of PanNuke (Gamper et al. 2020, arXiv 2003.10778).
"""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from histoprep.choices import DrawingOrder, TypesAre
from histoprep.errors import UsageError
from histoprep.imageio import encode_rgb_png
from histoprep.importing.canvas import Annotation, draw
from histoprep.importing.formats import Search
from histoprep.importing.images import files_below
from histoprep.importing.legend import number_labels
from histoprep.importing.masks import state_of
from histoprep.importing.model import (
    MAX_LABEL,
    AnnotationCounts,
    Collection,
    Drawing,
    ImageSize,
    Item,
    Label,
    MadeImage,
)
from histoprep.importing.outlines import Bitmap
from histoprep.importing.reading import AnnotationError
from histoprep.phrases import first_of

ORDER = DrawingOrder.FILE
PANNUKE = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
_KINDS = re.compile(r"(images|masks|types)", re.IGNORECASE)
_LOOKED_AT = 16
_AGREEMENT = 0.99


@dataclass(frozen=True, slots=True)
class _Stack:
    """The arrays of one stack, mapped into memory."""

    name: str
    images: np.ndarray
    masks: np.ndarray
    types: np.ndarray | None
    files: tuple[Path, ...]
    is_unit_range: bool

    def image(self, row: int) -> np.ndarray:
        """Return an image, uint8 [height, width, 3]; raises UsageError for other values."""
        pixels = np.asarray(self.images[row])
        if pixels.dtype == np.uint8:
            return pixels
        scaled = np.round(pixels * 255.0) if self.is_unit_range else pixels
        usable = np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 255
        if not usable or (scaled != np.round(scaled)).any():
            raise UsageError(
                "an image with other values than colours",
                path=self.files[0],
                seen=f"{_described(pixels)}, row {row}",
                expected="whole numbers from 0 to 255, or all stacks from 0 to 1",
            )
        return scaled.astype(np.uint8)


def read(
    source: Path,
    search: Search,
    *,
    classes: Sequence[str] = (),
    background_channel: str | None = None,
    types: TypesAre = TypesAre.LABEL,
) -> Collection:
    """Return the tiles of all stacks below a folder.

    Args:
        source: A folder with images.npy and masks.npy, or one that holds several such pairs.
        search: Order of the channels.
        classes: Names of the channels without the background; by default PanNuke's for five of
            them.
        background_channel: `last` or `none`; by default what the masks show.
        types: What an entry of types.npy is: an image-level label, or a group.

    Raises:
        UsageError: There are no such stacks, or they do not fit together.
    """
    stacks = _stacks(source, search)
    flat = {stack.masks.ndim for stack in stacks} == {3}
    if not flat and len({stack.masks.shape[3:] for stack in stacks}) != 1:
        raise UsageError(
            "stacks with different numbers of channels",
            path=source,
            seen=first_of([f"{stack.name}: {list(stack.masks.shape)}" for stack in stacks]),
        )
    has_background = not flat and _has_background(stacks, background_channel)
    labels = _flat_labels(stacks) if flat else _channel_labels(stacks, has_background, classes)
    num_channels = 0 if flat else stacks[0].masks.shape[3] - has_background
    order = search.order or ORDER
    items = [
        _item(stack, row, num_channels, order, types)
        for stack in stacks
        for row in range(len(stack.images))
    ]
    return Collection(labels, tuple(items), notes=_notes(stacks, labels, has_background, flat))


def _item(stack: _Stack, row: int, num_channels: int, order: DrawingOrder, types: TypesAre) -> Item:
    prefix = f"{stack.name}_" if stack.name else ""
    columns = {} if stack.types is None else {str(types): str(stack.types[row]).strip()}
    return Item(
        f"{prefix}{row:06d}",
        f"{stack.files[1].name}, row {row}",
        MadeImage(partial(_encode, stack, row)),
        partial(_draw, stack, row, num_channels, order),
        columns=columns,
        state=state_of(*stack.files) if row == 0 else "",
    )


def _encode(stack: _Stack, row: int) -> bytes:
    return encode_rgb_png(stack.image(row))


def _draw(
    stack: _Stack, row: int, num_channels: int, order: DrawingOrder, size: ImageSize
) -> Drawing:
    values = _whole(stack, row)
    if not num_channels:
        number = int((np.unique(values) > 0).sum())
        return Drawing(values.astype(np.uint16), AnnotationCounts(number, number))
    annotations = [
        Annotation(channel + 1, Bitmap(values[..., channel] == number))
        for channel in range(num_channels)
        for number in np.unique(values[..., channel])
        if number > 0
    ]
    return draw(annotations, order, size)


def _whole(stack: _Stack, row: int) -> np.ndarray:
    """Return the values of a mask as whole numbers; raises UsageError for other values."""
    values = np.asarray(stack.masks[row])
    # NaN and infinity have no whole number that they could be cast to.
    is_finite = bool(np.isfinite(values).all())
    whole = values.astype(np.int64) if is_finite else np.zeros(values.shape, np.int64)
    if (
        not is_finite
        or (whole != values).any()
        or whole.min(initial=0) < 0
        or whole.max(initial=0) > MAX_LABEL
    ):
        raise UsageError(
            "a mask with values that are no numbers of objects",
            path=stack.files[1],
            seen=f"{_described(values)}, row {row}",
            expected=f"whole numbers from 0 to {MAX_LABEL:,}",
        )
    return whole


def _described(values: np.ndarray) -> str:
    """Return the kind and range of values, and how many are not finite."""
    finite = values[np.isfinite(values)]
    parts = [str(values.dtype)]
    if finite.size:
        parts.append(f"{finite.min():g} to {finite.max():g}")
    if finite.size < values.size:
        parts.append(f"{values.size - finite.size:,} of {values.size:,} values NaN or infinite")
    return ", ".join(parts)


def _stacks(source: Path, search: Search) -> list[_Stack]:
    folder = source if source.is_dir() else source.absolute().parent
    found: dict[str, dict[str, Path]] = {}
    for path in files_below(folder, skip=search.skip):
        kinds = _KINDS.findall(path.stem)
        if path.suffix == ".npy" and kinds:
            place = _KINDS.sub("*", path.relative_to(folder).as_posix())
            found.setdefault(place, {})[kinds[-1].lower()] = path
    # The types of PanNuke lie with the images.
    pairs = {place: kinds for place, kinds in found.items() if {"images", "masks"} <= kinds.keys()}
    if not pairs:
        raise UsageError(
            "there are no stacks here",
            path=source,
            seen=first_of(
                [path.name for path in files_below(folder) if path.suffix == ".npy"] or ["no .npy"]
            ),
            expected="images.npy and masks.npy, in one folder or in folders of these names",
        )
    names = _stack_names(list(pairs))
    return [_open(name, pairs[place]) for name, place in zip(names, pairs, strict=True)]


def _stack_names(places: Sequence[str]) -> list[str]:
    """Return a short name for each stack: the last folder that is not only `images`."""
    parts = [[part for part in place.split("/")[:-1] if part.strip("*_ ")] for place in places]
    short = [each[-1] if each else "" for each in parts]
    if len(set(short)) < len(short):
        short = ["_".join(each) for each in parts]
    if len(set(short)) < len(short):
        short = [re.sub(r"\W+", "_", place.removesuffix(".npy")).strip("_") for place in places]
    return [name.replace("*", "").lstrip(".") for name in short]


def _open(name: str, kinds: dict[str, Path]) -> _Stack:
    images, masks = _mapped(kinds["images"]), _mapped(kinds["masks"])
    types = _mapped(kinds["types"]) if "types" in kinds else None
    if images.ndim != 4 or 3 not in (images.shape[-1], images.shape[1]):
        raise _shape_error(kinds["images"], images, "[n, height, width, 3]")
    if images.shape[-1] != 3:
        images = np.moveaxis(images, 1, -1)
    if masks.ndim == 4 and masks.shape[1:3] != images.shape[1:3]:
        masks = np.moveaxis(masks, 1, -1)
    if masks.ndim not in (3, 4) or masks.shape[:3] != images.shape[:3]:
        raise _shape_error(kinds["masks"], masks, f"{list(images.shape[:3])}, and channels")
    if types is not None and (types.ndim != 1 or len(types) != len(images)):
        raise _shape_error(kinds["types"], types, f"[{len(images)}]")
    for path, array, allowed in (
        (kinds["images"], images, "uif"),
        (kinds["masks"], masks, "uifb"),
    ):
        if array.dtype.kind not in allowed:
            raise _shape_error(path, array, "numbers")
    looked_at = np.asarray(images[:_LOOKED_AT])
    looked_at = looked_at[np.isfinite(looked_at)]
    is_unit_range = images.dtype.kind == "f" and looked_at.size > 0 and looked_at.max() <= 1
    files = tuple(kinds[kind] for kind in ("images", "masks", "types") if kind in kinds)
    return _Stack(name, images, masks, types, files, bool(is_unit_range))


def _mapped(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # (the header is parsed as Python, whose errors come through)
        raise AnnotationError(
            f"this is no array of numbers, or cut off: {error}",
            path=path,
            seen=f"{path.stat().st_size:,} bytes",
        ) from error
    return array


def _shape_error(path: Path, array: np.ndarray, expected: str) -> AnnotationError:
    return AnnotationError(
        "an array of another kind than a stack has",
        path=path,
        seen=f"{array.dtype} {list(array.shape)}",
        expected=expected,
    )


def _has_background(stacks: Sequence[_Stack], stated: str | None) -> bool:
    """Return whether the last channel is the background: set where no other is, nearly always."""
    if stated is not None:
        return stated == "last"
    agreeing = total = 0
    for stack in stacks:
        looked_at = np.asarray(stack.masks[:_LOOKED_AT]) > 0
        if looked_at.shape[-1] < 2:
            return False
        agreeing += int((looked_at[..., -1] != looked_at[..., :-1].any(-1)).sum())
        total += looked_at[..., -1].size
    return agreeing >= _AGREEMENT * total


def _channel_labels(
    stacks: Sequence[_Stack], has_background: bool, classes: Sequence[str]
) -> tuple[Label, ...]:
    number = stacks[0].masks.shape[3] - has_background
    if classes and len(classes) != number:
        raise UsageError(
            "--classes names another number of channels than the masks have",
            path=stacks[0].files[1],
            seen=f"{len(classes)} names",
            expected=f"{number}" + (", without the background" if has_background else ""),
        )
    known = PANNUKE if has_background and number == len(PANNUKE) else ()
    names = classes or known or [f"channel {place}" for place in range(1, number + 1)]
    return number_labels((None, name, None) for name in names)[0]


def _flat_labels(stacks: Sequence[_Stack]) -> tuple[Label, ...]:
    values: set[int] = set()
    for stack in stacks:
        for row in range(len(stack.masks)):
            values |= {*np.unique(_whole(stack, row)).tolist()}
    return number_labels((value, f"label {value}", None) for value in sorted(values - {0}))[0]


def _notes(
    stacks: Sequence[_Stack], labels: Sequence[Label], has_background: bool, flat: bool
) -> tuple[str, ...]:
    notes = [
        f"{stack.files[0]}: {len(stack.images):,} tiles"
        + (", values from 0 to 1 times 255" if stack.is_unit_range else "")
        for stack in stacks
    ]
    if not flat:
        names = ", ".join(label.name for label in labels[1:])
        last = "the last channel is the background" if has_background else "no background channel"
        notes.append(f"channels: {names}; {last}; later ones lie on top")
    return tuple(notes)
