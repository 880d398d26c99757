"""Images with their mask beside them in one file, A|B, as pix2pix has them.

The file is cut in the middle; the mask is the half that looks like one (`halves.py`). A mask whose pixels are all grey has its values as labels; of a coloured
one, every colour is a label, black the background. Where the file went through JPEG, or a mask has
many colours, `colours` says which there are, and each pixel gets the nearest one.
"""  # noqa: E501

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from histoprep.choices import MaskSide
from histoprep.errors import BrokenFileError, UsageError
from histoprep.imageio import decode_rgb, encode_rgb_png, read_header
from histoprep.importing.formats import Search
from histoprep.importing.halves import (
    MAX_COLOURS,
    Command,
    Halves,
    find_side,
    is_photograph,
    look_at_half,
    refuse_photographs,
)
from histoprep.importing.images import ImageIndex, files_below, safe_names
from histoprep.importing.legend import colour_of, hexadecimal, number_labels
from histoprep.importing.masks import is_lossy, state_of
from histoprep.importing.model import (
    AnnotationCounts,
    Collection,
    Drawing,
    ImageSize,
    Item,
    Label,
    MadeImage,
)
from histoprep.phrases import first_of, plural

_BLACK = 0
# Colours of a mask that went through JPEG lie around the ones that were drawn.
_NEAR = 48
_LEAST_SHARE = 0.005
_MOST_SHOWN = 6
_EXPECTED = (
    "the colours that were drawn, by --colours; below are the most frequent ones, each of which"
    " can be given a name, for example #ff0000=tumour"
)


@dataclass(slots=True)
class _Seen:
    """What the halves of one side hold: how many pixels of each colour 0xRRGGBB in each file, and
    an example of one that went through JPEG.
    """

    files: dict[Path, dict[int, int]] = field(default_factory=dict)
    lossy: Path | None = None

    def colours(self) -> dict[int, int]:
        """Return how many pixels have each colour."""
        total: Counter[int] = Counter()
        for colours in self.files.values():
            total.update(colours)
        return dict(total)


@dataclass(slots=True)
class _Looks:
    """What all files look like, and why some cannot be used."""

    halves: dict[Path, Halves] = field(default_factory=dict)
    seen: dict[MaskSide, _Seen] = field(
        default_factory=lambda: {side: _Seen() for side in MaskSide}
    )
    broken: dict[Path, str] = field(default_factory=dict)


def read(
    source: Path,
    search: Search,
    *,
    mask: MaskSide | None = None,
    colours: Sequence[str] = (),
) -> Collection:
    """Return the images below a folder, cut in the middle.

    Args:
        source: A file or a folder.
        search: What is no part of the source.
        mask: On which side the mask is; by default that of the half that looks like one.
        colours: Colours of the mask with their names, `#ff0000=tumour`, or values of a grey one,
            `255=lesion`, in the order of their labels, from 1 on; black is the background unless it
            has a name.

    Raises:
        UsageError: A mask has too many colours, or went through JPEG, and `colours` does not say
            which there are; a file cannot be cut; no half, or not that of the stated side, looks
            like a mask; most pixels are far from all stated colours.
    """
    files = ImageIndex(
        source, files_below(source, skip=search.skip) if source.is_dir() else [source]
    )
    stated = ("--colours", ",".join(colours)) if colours else ()
    command = partial(search.command, "side-by-side", source, *stated)
    looks = _look_at(files.paths)
    side = mask or find_side(source, looks.halves, command)
    refuse_photographs(source, looks.halves, side, command)
    broken = looks.broken | {
        path: f"its {side} half is a photograph, not a mask"
        for path, halves in looks.halves.items()
        if is_photograph(halves, side)
    }
    seen = looks.seen[side]
    seen.files = {path: found for path, found in seen.files.items() if path not in broken}
    usual = seen.colours()
    command = partial(search.command, "side-by-side", source, "--mask", side)
    palette = _palette(source, seen.lossy, usual, colours, command)
    if colours:
        _refuse_far(source, usual, palette, command)
    labels = tuple(sorted(palette.values(), key=lambda label: label.id))
    keys = np.array(sorted(palette), np.int64)
    ids = np.array([palette[key].id for key in keys.tolist()], np.uint16)
    folder = source if source.is_dir() else source.absolute().parent
    names = safe_names(
        path.relative_to(folder).as_posix() if source.is_dir() else path.name
        for path in files.paths
    )
    items = tuple(
        Item(
            name,
            path.name,
            broken.get(path) or MadeImage(partial(_encode_image, path, side)),
            partial(_draw, path, side, keys, ids),
            state=state_of(path),
        )
        for name, path in zip(names, files.paths, strict=True)
    )
    return Collection(labels, items, notes=_notes(usual, palette, side), found={"mask": str(side)})


def _halves(path: Path) -> tuple[dict[MaskSide, np.ndarray], bool]:
    """Return the halves of a file, uint8 [height, width, 3], and whether it is lossy.

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
            seen=str(ImageSize(header.height_px, header.width_px)),
            expected="an even width",
        )
    pixels = decode_rgb(data, header)
    left, right = np.split(pixels, 2, axis=1)
    return {MaskSide.LEFT: left, MaskSide.RIGHT: right}, is_lossy(header)


def _keys(mask: np.ndarray) -> np.ndarray:
    """Return the colours of a mask as numbers 0xRRGGBB, int64 [height, width]."""
    wide = mask.astype(np.int64)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])


def _look_at(paths: Sequence[Path]) -> _Looks:
    looks = _Looks()
    for path in paths:
        try:
            halves, lossy = _halves(path)
        except BrokenFileError as error:
            looks.broken[path] = f"{error.verdict}: {error.detail}"
            continue
        shown = {}
        for side, pixels in halves.items():
            keys = _keys(pixels)
            values, numbers = np.unique(keys, return_counts=True)
            shown[side] = look_at_half(keys, len(values))
            seen = looks.seen[side]
            if lossy and seen.lossy is None:
                seen.lossy = path
            # Photographs have a hundred thousand colours, which nobody asks for.
            if shown[side].is_mask:
                seen.files[path] = dict(zip(values.tolist(), numbers.tolist(), strict=True))
        looks.halves[path] = shown
    return looks


def _palette(
    source: Path,
    lossy: Path | None,
    colours: Mapping[int, int],
    stated: Sequence[str],
    command: Command,
) -> dict[int, Label]:
    """Return the label of each colour 0xRRGGBB."""
    if stated:
        return _stated_palette(stated)
    usual = sorted(colours, key=lambda key: -colours[key])
    shown = first_of([hexadecimal(*_parts(key)) for key in usual], limit=_MOST_SHOWN)
    if lossy is not None:
        raise UsageError(
            "masks that went through JPEG have colours that nobody drew",
            path=lossy,
            seen=f"{plural(len(usual), 'colour')}: {shown}",
            expected=_EXPECTED,
            hint=_colours_hint(colours, command),
        )
    if len(usual) > MAX_COLOURS and not _is_grey(usual):
        raise UsageError(
            "too many colours for labels",
            path=source,
            seen=f"{plural(len(usual), 'colour')}: {shown}",
            expected=f"at most {MAX_COLOURS}, or {_EXPECTED}",
            hint=_colours_hint(colours, command),
        )
    if _is_grey(usual):
        values = sorted(key & 0xFF for key in usual)
        entries = [(value, f"label {value}", None) for value in values if value]
        by_value = {label.id: label for label in number_labels(entries)[0]}
        return {value * 0x010101: by_value[value] for value in {0, *values}}
    return _palette_of(sorted(key for key in usual if key != _BLACK))


def _colours_hint(colours: Mapping[int, int], command: Command) -> str | None:
    """Return the command with the colours that most pixels have; None where all are black."""
    drawn = [hexadecimal(*_parts(key)) for key in _apart(colours) if key != _BLACK]
    if not drawn:
        return None
    return command("--colours", ",".join(drawn))


def _apart(colours: Mapping[int, int]) -> list[int]:
    """Return the most frequent colours that lie apart from each other, black first."""
    total = sum(colours.values())
    chosen = [_BLACK]
    for key in sorted(colours, key=lambda key: -colours[key]):
        if len(chosen) > _MOST_SHOWN or colours[key] < _LEAST_SHARE * total:
            break
        if _distances([key], chosen).min() > _NEAR:
            chosen.append(key)
    return chosen


def _refuse_far(
    source: Path, colours: Mapping[int, int], palette: Mapping[int, Label], command: Command
) -> None:
    """Raise UsageError if most pixels that are not black are far from every colour of the
    palette.
    """
    drawn = {key: number for key, number in colours.items() if max(_parts(key)) > _NEAR}
    if not drawn:
        return
    pixels = np.array(list(drawn.values()))
    far = int(pixels[_distances(drawn, palette).min(1) > _NEAR].sum())
    total = int(pixels.sum())
    if 2 * far > total:
        raise UsageError(
            "most pixels of the masks are far from every colour that --colours names",
            path=source,
            seen=f"{far:,} of {total:,} pixels that are not black ({far / total:.0%})",
            expected=_EXPECTED,
            hint=_colours_hint(colours, command),
        )


def _distances(first: Iterable[int], second: Iterable[int]) -> np.ndarray:
    """Return the largest difference in a channel of each pair of colours, int64 [n, m]."""
    left, right = (_channels(np.array(list(keys), np.int64)) for keys in (first, second))
    return np.asarray(np.abs(left[:, None] - right[None]).max(-1))


def _channels(keys: np.ndarray) -> np.ndarray:
    """Return colours 0xRRGGBB [n] as their channels, int64 [n, 3]."""
    return np.stack([keys >> 16, keys >> 8 & 0xFF, keys & 0xFF], -1)


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
    [image] = [half for place, half in _halves(path)[0].items() if place is not side]
    return encode_rgb_png(image)


def _draw(
    path: Path, side: MaskSide, keys: np.ndarray, ids: np.ndarray, size: ImageSize
) -> Drawing:
    labels = _nearest(_keys(_halves(path)[0][side]), keys, ids)
    number = int(np.unique(labels[labels > 0]).size)
    return Drawing(labels, AnnotationCounts(number, number))


def _nearest(colours: np.ndarray, keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the label of the nearest colour of each pixel, uint16 [height, width]; of two equally
    near ones, the first in order of 0xRRGGBB.
    """
    seen, place = np.unique(colours, return_inverse=True)
    wanted, known = _channels(seen), _channels(keys)
    distances = ((wanted[:, None] - known[None]) ** 2).sum(-1)
    return np.asarray(ids[distances.argmin(1)][place].reshape(colours.shape), np.uint16)


def _notes(
    colours: Mapping[int, int], palette: Mapping[int, Label], side: MaskSide
) -> tuple[str, ...]:
    inexact = sum(number for key, number in colours.items() if key not in palette)
    notes = [f"the mask is on the {side}"]
    if inexact:
        total = sum(colours.values())
        notes.append(
            f"{inexact:,} of {total:,} pixels of masks ({inexact / total:.2%}) have none of the"
            " colours, and got the nearest"
        )
    return tuple(notes)
