"""Images with their mask beside them in one file, A|B, as pix2pix has them.

The file is cut in the middle. A mask whose pixels are all grey has its values as labels; of a coloured
one, every colour is a label, black the background. Where the file went through JPEG, or a mask has
many colours, `colours` says which there are, and each pixel gets the nearest one.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from histoprep.choices import MaskSide
from histoprep.errors import BrokenFileError, UsageError
from histoprep.imageio import decode_rgb, encode_rgb_png, read_header
from histoprep.importing.formats import Search
from histoprep.importing.images import ImageIndex, files_below, safe_names
from histoprep.importing.legend import colour_of, hexadecimal, number_labels
from histoprep.importing.masks import is_lossy, state_of
from histoprep.importing.model import Collection, Counts, Drawing, Item, Label, MadeImage, Size
from histoprep.phrases import first_of, plural

MAX_COLOURS = 64
_BLACK = 0


@dataclass(slots=True)
class _Seen:
    """What the masks hold: how many pixels of each colour 0xRRGGBB, and an example of what was in
    the way.
    """

    colours: dict[int, int]
    lossy: Path | None = None
    broken: dict[Path, str] | None = None


def read(
    source: Path,
    search: Search,
    *,
    mask: MaskSide = MaskSide.RIGHT,
    colours: Sequence[str] = (),
) -> Collection:
    """Return the images below a folder, cut in the middle.

    Args:
        source: A file or a folder.
        search: What is no part of the source.
        mask: On which side the mask is.
        colours: Colours of the mask with their names, `#ff0000=tumour`, or values of a grey one,
            `255=lesion`, in the order of their labels, from 1 on; black is the background unless it
            has a name.

    Raises:
        UsageError: A mask has too many colours, or went through JPEG, and `colours` does not say
            which there are; a file cannot be cut.
    """
    files = ImageIndex(
        source, files_below(source, skip=search.skip) if source.is_dir() else [source]
    )
    seen = _look_at(files.paths, mask)
    palette = _palette(source, seen, colours)
    labels = tuple(sorted(palette.values(), key=lambda label: label.id))
    keys = np.array(sorted(palette), np.int64)
    ids = np.array([palette[key].id for key in keys.tolist()], np.uint16)
    folder = source if source.is_dir() else source.absolute().parent
    names = safe_names(
        path.relative_to(folder).as_posix() if source.is_dir() else path.name
        for path in files.paths
    )
    broken = seen.broken or {}
    items = tuple(
        Item(
            name,
            path.name,
            broken.get(path) or MadeImage(partial(_encode_image, path, mask)),
            partial(_draw, path, mask, keys, ids),
            state=state_of(path),
        )
        for name, path in zip(names, files.paths, strict=True)
    )
    return Collection(labels, items, notes=_notes(seen, palette, mask))


def _halves(path: Path, mask: MaskSide) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return image and mask of a file, uint8 [height, width, 3], and whether it is lossy.

    Raises:
        UsageError: Its width is odd.
        BrokenFileError: It cannot be decoded.
    """
    data = path.read_bytes()
    header = read_header(data)
    if header.width_px % 2:
        raise UsageError(
            "a file that cannot be cut in the middle",
            path=path,
            seen=str(Size(header.height_px, header.width_px)),
            expected="an even width",
        )
    pixels = decode_rgb(data, header)
    left, right = np.split(pixels, 2, axis=1)
    first, second = (right, left) if mask is MaskSide.LEFT else (left, right)
    return first, second, is_lossy(header)


def _keys(mask: np.ndarray) -> np.ndarray:
    """Return the colours of a mask as numbers 0xRRGGBB, int64 [height, width]."""
    wide = mask.astype(np.int64)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])


def _look_at(paths: Sequence[Path], side: MaskSide) -> _Seen:
    seen = _Seen({}, broken={})
    assert seen.broken is not None
    for path in paths:
        try:
            _, mask, lossy = _halves(path, side)
        except BrokenFileError as error:
            seen.broken[path] = f"{error.verdict}: {error.detail}"
            continue
        if lossy and seen.lossy is None:
            seen.lossy = path
        values, pixels = np.unique(_keys(mask), return_counts=True)
        for value, number in zip(values.tolist(), pixels.tolist(), strict=True):
            seen.colours[value] = seen.colours.get(value, 0) + number
    return seen


def _palette(source: Path, seen: _Seen, stated: Sequence[str]) -> dict[int, Label]:
    """Return the label of each colour 0xRRGGBB."""
    if stated:
        return _stated_palette(stated)
    usual = sorted(seen.colours, key=lambda key: -seen.colours[key])
    shown = first_of([hexadecimal(*_parts(key)) for key in usual], limit=6)
    named = "'#ff0000=tumour,#00ff00=stroma'"
    hint = f"histoprep import side-by-side {source} --colours {named} --out DIR"
    if seen.lossy is not None:
        raise UsageError(
            "masks that went through JPEG have colours that nobody drew",
            path=seen.lossy,
            seen=f"{plural(len(usual), 'colour')}: {shown}",
            expected="the colours that were drawn, by --colours",
            hint=hint,
        )
    if len(usual) > MAX_COLOURS and not _is_grey(usual):
        raise UsageError(
            "too many colours for labels",
            path=source,
            seen=f"{plural(len(usual), 'colour')}: {shown}",
            expected=f"at most {MAX_COLOURS}, or the colours that were drawn, by --colours",
            hint=hint,
        )
    if _is_grey(usual):
        values = sorted(key & 0xFF for key in usual)
        entries = [(value, f"label {value}", None) for value in values if value]
        by_value = {label.id: label for label in number_labels(entries)[0]}
        return {value * 0x010101: by_value[value] for value in {0, *values}}
    return _palette_of(sorted(key for key in usual if key != _BLACK))


def _palette_of(keys: Sequence[int], names: Sequence[str] = ()) -> dict[int, Label]:
    colours = [hexadecimal(*_parts(key)) for key in keys]
    entries = [
        (None, name or colour, colour)
        for name, colour in zip(names or colours, colours, strict=True)
    ]
    labels, numbers = number_labels(entries)
    by_id = {label.id: label for label in labels}
    palette = {_BLACK: labels[0]}
    return palette | {key: by_id[numbers[place]] for place, key in enumerate(keys, start=1)}


def _stated_palette(stated: Sequence[str]) -> dict[int, Label]:
    keys, names = [], []
    for entry in stated:
        colour, _, name = (part.strip() for part in entry.partition("="))
        if colour.isdecimal() and int(colour) < 256:
            colour = hexadecimal(*[int(colour)] * 3)
        known = colour_of(colour)
        if known is None:
            raise UsageError(
                "--colours names what is no colour",
                seen=entry,
                expected="such as #ff0000=tumour, or 255=tumour",
            )
        keys.append(int(known[1:], 16))
        names.append(name or known)
    return _palette_of(keys, names)


def _parts(key: int) -> tuple[int, int, int]:
    return key >> 16, key >> 8 & 0xFF, key & 0xFF


def _is_grey(keys: Sequence[int]) -> bool:
    return all(len({*_parts(key)}) == 1 for key in keys)


def _encode_image(path: Path, side: MaskSide) -> bytes:
    return encode_rgb_png(_halves(path, side)[0])


def _draw(path: Path, side: MaskSide, keys: np.ndarray, ids: np.ndarray, size: Size) -> Drawing:
    labels = _nearest(_keys(_halves(path, side)[1]), keys, ids)
    number = int(np.unique(labels[labels > 0]).size)
    return Drawing(labels, Counts(number, number))


def _nearest(colours: np.ndarray, keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the label of the nearest colour of each pixel, uint16 [height, width]; of two equally
    near ones, the first in order of 0xRRGGBB.
    """
    seen, place = np.unique(colours, return_inverse=True)
    wanted, known = (
        np.stack([values >> 16, values >> 8 & 0xFF, values & 0xFF], -1) for values in (seen, keys)
    )
    distances = ((wanted[:, None] - known[None]) ** 2).sum(-1)
    return np.asarray(ids[distances.argmin(1)][place].reshape(colours.shape), np.uint16)


def _notes(seen: _Seen, palette: dict[int, Label], side: MaskSide) -> tuple[str, ...]:
    inexact = sum(number for key, number in seen.colours.items() if key not in palette)
    notes = [f"the mask is on the {side}"]
    if inexact:
        total = sum(seen.colours.values())
        notes.append(
            f"{inexact:,} of {total:,} pixels of masks ({inexact / total:.2%}) have none of the"
            " colours, and got the nearest"
        )
    return tuple(notes)
