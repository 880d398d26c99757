"""Tiles table -> masks whose labels depend on the reader: by themselves (HP413), or beside the
masks of their folder (HP414).

A value of 1 in a 1-bit mask may be label 1, or a 255 that a tool stored in the fewest bits
(ImageMagick does, file by file): nothing in the file says which, but masks of more bits beside it
do say that the question is open. The same goes for palettes in which one index has two colours, and
for palettes beside grey. The audit reports what is found here, and later stages stop at what nobody
decided.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import rule_ids, tables, tiles
from histoprep.errors import UsageError
from histoprep.mask_reading import MIN_IS_WHITE, PALETTE, UNDECIDED, MaskEncoding, Reading
from histoprep.phrases import first_of, plural
from histoprep.schemas.tiles import open_tiles_table

_COLUMNS = (
    "mask_path", "mask_error", "mask_error_detail", "mask_mode", "mask_bit_depth", "mask_doubt",
    "mask_stored_ids", "mask_shown_ids",
    "mask_palette", "mask_encoding", "label_ids",
)  # fmt: skip
# Of arrays, since Arrow imports pandas as soon as it is given a list.
_GREY, _COLOURED, _RGB = (
    pa.array(np.array(names))
    for names in (
        ["1", "L", "I;16", "I;16B"],
        [encoding.value for encoding in MaskEncoding if encoding.is_coloured],
        ["RGB", "RGBA"],
    )
)
_BYTE = 8
_WHITE = 255
_NUM_SHOWN = 8
ASKED = tuple(rule_ids.READERS_DISAGREE.verdict(kind) for kind in (PALETTE, MIN_IS_WHITE))


class OddMask(NamedTuple):
    """A mask that is stored otherwise than those beside it, and its readings in words."""

    path: str
    detail: str


@dataclass(slots=True)
class Disagreement:
    """The masks of one kind that readers read in two ways: how many nobody decided, an example, and
    both sets of labels.
    """

    kind: str
    num_masks: int = 0
    num_undecided: int = 0
    example: str = ""
    detail: str = ""
    stored: set[int] = field(default_factory=set)
    shown: set[int] = field(default_factory=set)


@dataclass(slots=True)
class MaskReadings:
    """What the masks of a tiles table leave open.

    `disagreements` are by kind, decided or not; `depth`, `palettes` and `modes` masks that are
    stored otherwise than those beside them, whose labels depend on how that came about; `channels`
    those of equal channels beside masks in colour. `has_colours` says whether there are masks whose
    labels are colours, 0xRRGGBB. `labels` are those of the masks that all readers
    read alike.
    """

    reading: Reading = UNDECIDED
    disagreements: dict[str, Disagreement] = field(default_factory=dict)
    depth: list[OddMask] = field(default_factory=list)
    palettes: list[OddMask] = field(default_factory=list)
    modes: list[OddMask] = field(default_factory=list)
    channels: list[OddMask] = field(default_factory=list)
    has_colours: bool = False
    labels: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, table: Path) -> MaskReadings:
        """Return what a tiles table says; raises UsageError for a table of an earlier version,
        IntegrityError, FileNotFoundError.
        """
        opened, header = open_tiles_table(table)
        if missing := set(_COLUMNS) - set(opened.schema_arrow.names):
            raise UsageError(
                "the tiles table is of an earlier version",
                path=table,
                seen=f"no {', '.join(sorted(missing))}",
                hint="histoprep audit",
            )
        readings = cls(tiles.TileOptions.from_json(header["options"]["tiles"]).mask_reading)
        survey = _Survey()
        for batch in tables.read_batches(opened, _COLUMNS):
            masks = batch.filter(pc.is_valid(batch["mask_path"]))
            survey.add(masks)
            readings._note_disagreements(masks)
            readings.labels.update(
                pc.unique(
                    pc.list_flatten(masks["label_ids"].filter(pc.is_null(masks["mask_doubt"])))
                ).to_pylist()
            )
        readings.has_colours = survey.has_colours
        odd = survey.odd(readings.reading)
        for batch in tables.read_batches(opened, _COLUMNS) if odd.any() else ():
            odd.name(batch.filter(pc.is_valid(batch["mask_path"])), readings)
        return readings

    def _note_disagreements(self, masks: pa.Table) -> None:
        doubtful = masks.filter(pc.is_valid(masks["mask_doubt"]))
        for row in doubtful.select(
            [name for name in _COLUMNS if name != "mask_palette"]
        ).to_pylist():
            disagreement = self.disagreements.setdefault(
                row["mask_doubt"], Disagreement(row["mask_doubt"])
            )
            disagreement.num_masks += 1
            disagreement.stored.update(row["mask_stored_ids"])
            disagreement.shown.update(row["mask_shown_ids"])
            if row["mask_error"] in ASKED:
                disagreement.num_undecided += 1
                if not disagreement.example:
                    disagreement.example, disagreement.detail = (
                        row["mask_path"],
                        row["mask_error_detail"],
                    )

    @property
    def advice(self) -> str | None:
        """Return which reading of palettes gives the labels of the other masks, None where both do,
        or neither.
        """
        palettes = self.disagreements.get(PALETTE)
        if palettes is None or not self.labels - {0}:
            return None
        fits = {"grey": palettes.shown <= self.labels, "index": palettes.stored <= self.labels}
        return (
            next((name for name, does in fits.items() if does), None)
            if sum(fits.values()) == 1
            else None
        )

    def open_questions(self) -> Iterator[tuple[str, str, str]]:
        """Yield what nobody decided: what it is in words, an example with its readings, the options
        that decide it.
        """
        white = "stored (as tifffile writes), or inverted"
        options = {
            PALETTE: f"--palette {self.advice or 'index, or grey'}",
            MIN_IS_WHITE: f"--min-is-white {white}",
        }
        what = {
            PALETTE: "a palette of greys that are not their indices (HP413)",
            MIN_IS_WHITE: "0 for white (HP413)",
        }
        for kind, disagreement in self.disagreements.items():
            if disagreement.num_undecided:
                yield (
                    f"{_masks(disagreement.num_undecided)} {what[kind]}",
                    f"{disagreement.example}: {disagreement.detail}",
                    options[kind],
                )
        others = (
            (
                self.depth,
                "another bit depth than those beside them (HP414)",
                "--depth stored, 8 or 16",
                self.reading.depth,
            ),
            (
                self.palettes,
                "other colours for an index than those beside them (HP414)",
                "--palette colour, or index",
                self.reading.palette,
            ),
            (
                self.modes,
                "a palette beside grey masks (HP414)",
                "--palette index",
                self.reading.palette,
            ),
            (
                self.channels,
                "equal channels beside masks in colour (HP414)",
                "--rgb colour, or grey",
                self.reading.rgb,
            ),
        )
        for masks, words, option, decided in others:
            if masks and decided is None:
                yield f"{_masks(len(masks))} {words}", f"{masks[0].path}: {masks[0].detail}", option

    def warnings(self) -> Iterator[str]:
        """Yield what stages that go on without a decision should warn of."""
        for words, example, option in self.open_questions():
            yield (
                f"{words}: readers disagree on their labels; {example}; histoprep audit with"
                f" {option}"
            )
        if self.palettes and self.reading.palette is not None:
            first = self.palettes[0]
            yield (
                f"{_masks(len(self.palettes))} other colours for an index than those beside them"
                f" (HP414): {first.path}: {first.detail}"
            )

    def refuse(self, root: Path, *, here: bool) -> None:
        """Raise UsageError when there are masks whose labels nobody decided; `here` when the
        command itself has the options.
        """
        questions = list(self.open_questions())
        if questions:
            options = "; ".join(dict.fromkeys(option for _, _, option in questions))
            hint = (
                f"look at these masks, then give {options}"
                if here
                else f"histoprep audit {root} with {options}; then the same command"
            )
            raise UsageError(
                "readers disagree on what the labels of some masks are: "
                + "; ".join(words for words, _, _ in questions),
                path=root,
                seen="; ".join(example for _, example, _ in questions),
                hint=f"{hint} (docs/mask-encodings.md)",
            )


def _masks(number: int) -> str:
    return f"{number:,} mask{' has' if number == 1 else 's have'}"


class _Amount(NamedTuple):
    """Of masks of one folder and depth: how many, how many with a label other than 0, with label
    255, the highest label, one of them.
    """

    masks: int = 0
    foreground: int = 0
    white: int = 0
    highest: int = 0
    example: str = ""

    def __add__(self, other: _Amount) -> _Amount:  # type: ignore[override]
        sums = (
            self.masks + other.masks,
            self.foreground + other.foreground,
            self.white + other.white,
        )
        return _Amount(*sums, max(self.highest, other.highest), self.example or other.example)


@dataclass(slots=True)
class _Survey:
    """How the masks of each folder are stored."""

    grey: dict[tuple[str, int], _Amount] = field(default_factory=dict)
    coloured: dict[str, str] = field(default_factory=dict)
    has_equal_channels: bool = False
    has_colours: bool = False
    colours: dict[tuple[str, int], Counter[int]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    examples: dict[tuple[str, int, int], str] = field(default_factory=dict)

    def add(self, masks: pa.Table) -> None:
        """Count a piece of the table."""
        read = masks.filter(
            pc.and_(pc.is_null(masks["mask_error"]), pc.is_valid(masks["label_ids"]))
        )
        if not read.num_rows:
            return
        self._add_grey(read.filter(pc.is_in(read["mask_mode"], _GREY)))
        self._add_channels(read)
        with_palette = read.filter(pc.is_valid(read["mask_palette"]))
        self._add_palettes(with_palette)
        self._add_palettes_of_greys(with_palette)

    def _add_grey(self, masks: pa.Table) -> None:
        highest, white = _highest(masks)
        facts = {"foreground": (highest > 0).astype(np.int64), "white": white, "highest": highest}
        table = pa.table(
            {
                "folder": _folders(masks),
                "depth": masks["mask_bit_depth"],
                "path": masks["mask_path"],
                **facts,
            }
        )
        sums = [
            ("path", "count"),
            ("foreground", "sum"),
            ("white", "sum"),
            ("highest", "max"),
            ("path", "min"),
        ]
        for row in table.group_by(["folder", "depth"]).aggregate(sums).to_pylist():
            amount = _Amount(*(row[f"{name}_{how}"] for name, how in sums))
            self.grey[row["folder"], row["depth"]] = (
                self.grey.get((row["folder"], row["depth"]), _Amount()) + amount
            )

    def _add_channels(self, masks: pa.Table) -> None:
        """Note an example of the masks in colour of each folder."""
        in_colour = masks.filter(pc.equal(masks["mask_encoding"], MaskEncoding.COLOURS.value))
        for folder, path in zip(
            _folders(in_colour).to_pylist(), in_colour["mask_path"].to_pylist(), strict=True
        ):
            self.coloured.setdefault(folder, path)
        is_coloured = pc.is_in(masks["mask_encoding"], _COLOURED)
        self.has_colours |= bool(pc.any(is_coloured).as_py())
        self.has_equal_channels |= bool(pc.any(_has_equal_channels(masks)).as_py())

    def _add_palettes(self, masks: pa.Table) -> None:
        for folder, path, indices, colours in _palettes(masks):
            for index, colour in zip(indices, colours, strict=True):
                self.colours[folder, index][colour] += 1
                self.examples.setdefault((folder, index, colour), path)

    def _add_palettes_of_greys(self, masks: pa.Table) -> None:
        """Count masks with labels that are read by the grey values of a palette as 8-bit grey,
        which they once were.
        """
        coloured = {path for _, path, _, _ in _palettes(masks)}
        highest, white = _highest(masks)
        for row in zip(
            _folders(masks).to_pylist(),
            masks["mask_path"].to_pylist(),
            highest.tolist(),
            white.tolist(),
            strict=True,
        ):
            folder, path, label, is_white = row
            if label and path not in coloured:
                self.grey[folder, _BYTE] = self.grey.get((folder, _BYTE), _Amount()) + _Amount(
                    1, 1, int(is_white), label, path
                )

    def odd(self, reading: Reading) -> _Odd:
        """Return which masks are stored otherwise than those beside them."""
        odd = _Odd()
        depths: dict[str, dict[int, _Amount]] = defaultdict(dict)
        for (folder, depth), amount in self.grey.items():
            depths[folder][depth] = amount
        if reading.depth is None:
            self._odd_depths(depths, odd)
        for (folder, index), counts in self.colours.items():
            if len(counts) > 1:
                usual = min((-number, colour) for colour, number in counts.items())[1]
                odd.colours[folder, index] = usual, self.examples[folder, index, usual]
        odd.grey_folders = {
            folder: min(amount.example for amount in found.values())
            for folder, found in depths.items()
        }
        odd.has_palettes = bool(self.colours)
        if reading.rgb is None and self.has_equal_channels:
            odd.coloured_folders = self.coloured
        return odd

    def _odd_depths(self, depths: Mapping[str, Mapping[int, _Amount]], odd: _Odd) -> None:
        """Note masks whose values may have been scaled: of fewer bits than others of their folder;
        below 8 bits, of the whole data set.

        16 bits that are needed for no label beside them raise no question, unless there is white:
        255 may be 65,535. In a folder where most masks have fewer bits, the few of more bits are
        named: they raise the question.
        """
        of_bytes = [
            amount.example
            for found in depths.values()
            for depth, amount in found.items()
            if depth >= _BYTE
        ]
        for folder, found in depths.items():
            widest = max(found)
            for depth, amount in found.items():
                bits, example = widest, found[widest].example
                if depth < _BYTE and widest < _BYTE and of_bytes:
                    bits, example = _BYTE, min(of_bytes)
                if (
                    bits == depth
                    or not amount.foreground
                    or (depth == _BYTE and not _may_be_scaled(amount, found[bits]))
                ):
                    continue
                if depth >= _BYTE and found[bits].masks < amount.foreground:
                    odd.depths[folder, bits] = depth, amount.example
                else:
                    odd.depths[folder, depth] = bits, example


def _may_be_scaled(narrow: _Amount, wide: _Amount) -> bool:
    """Return whether labels of 8-bit masks may be 257 times as high, as those of 16-bit masks of
    their folder are.
    """
    return wide.highest > _WHITE or (narrow.white > 0 and wide.white == 0)


@dataclass(slots=True)
class _Odd:
    """The keys of odd masks: folder and depth with the other depth, folder and index with its usual
    colour; each with an example.
    """

    depths: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    colours: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    grey_folders: dict[str, str] = field(default_factory=dict)
    coloured_folders: dict[str, str] = field(default_factory=dict)
    has_palettes: bool = False

    def any(self) -> bool:
        """Return whether there is any mask to name."""
        return bool(self.depths or self.has_palettes or self.coloured_folders)

    def name(self, masks: pa.Table, readings: MaskReadings) -> None:
        """Add the odd masks of a piece of the table to `found`."""
        read = masks.filter(
            pc.and_(pc.is_null(masks["mask_error"]), pc.is_valid(masks["label_ids"]))
        )
        if self.depths:
            readings.depth += self._depths(read.filter(pc.is_in(read["mask_mode"], _GREY)))
        if self.coloured_folders:
            readings.channels += self._channels(read.filter(_has_equal_channels(read)))
        for folder, path, indices, colours in _palettes(
            read.filter(pc.is_valid(read["mask_palette"]))
        ):
            other = [
                pair for pair in zip(indices, colours, strict=True) if self._is_other(folder, *pair)
            ]
            if other:
                index, colour = other[0]
                usual, example = self.colours[folder, index]
                readings.palettes.append(
                    OddMask(
                        path,
                        f"index {index} is #{colour:06x} here and #{usual:06x} in others, such as"
                        f" {example}",
                    )
                )
            elif readings.reading.palette is None and folder in self.grey_folders and any(indices):
                indices_listed = ", ".join(map(str, indices[:_NUM_SHOWN]))
                words = (
                    f"indices {indices_listed} of a palette of colours beside grey masks, such as"
                    f" {self.grey_folders[folder]}"
                )
                readings.modes.append(
                    OddMask(path, f"{words}: labels only if both are numbered alike")
                )

    def _channels(self, masks: pa.Table) -> Iterator[OddMask]:
        rows = zip(
            _folders(masks).to_pylist(),
            masks["mask_path"].to_pylist(),
            masks["label_ids"].to_pylist(),
            strict=True,
        )
        for folder, path, labels in rows:
            if folder in self.coloured_folders and any(labels):
                colours = [f"#{label * 0x010101:06x}" for label in labels]
                yield OddMask(
                    path,
                    f"{first_of(labels, limit=_NUM_SHOWN)} as grey, or"
                    f" {first_of(colours, limit=_NUM_SHOWN)} as colours, as in"
                    f" {self.coloured_folders[folder]}",
                )

    def _is_other(self, folder: str, index: int, colour: int) -> bool:
        return (folder, index) in self.colours and self.colours[folder, index][0] != colour

    def _depths(self, masks: pa.Table) -> Iterator[OddMask]:
        rows = zip(
            _folders(masks).to_pylist(),
            *(masks[name].to_pylist() for name in ("mask_path", "mask_bit_depth", "label_ids")),
            strict=True,
        )
        for folder, path, depth, labels in rows:
            other = self.depths.get((folder, depth))
            if other is None or not any(labels):
                continue
            bits, example = other
            if bits > depth:
                scaled = [label * _factor(depth, bits) for label in labels]
                words = (
                    f"{first_of(labels, limit=_NUM_SHOWN)} as stored, or"
                    f" {first_of(scaled, limit=_NUM_SHOWN)} scaled"
                )
                yield OddMask(
                    path, f"{plural(depth, 'bit')} beside {bits}, such as {example}: {words}"
                )
            else:
                words = f"a label 1 of those is 1 as stored, or {_factor(bits, depth)} scaled"
                yield OddMask(
                    path, f"{plural(depth, 'bit')} beside {bits}, such as {example}: {words}"
                )


def _has_equal_channels(masks: pa.Table) -> pa.ChunkedArray:
    """Return which masks are RGB with equal channels of 8 bits, read as grey."""
    return pc.and_(
        pc.equal(masks["mask_encoding"], MaskEncoding.EQUAL_CHANNELS.value).fill_null(False),
        pc.and_(pc.is_in(masks["mask_mode"], _RGB), pc.equal(masks["mask_bit_depth"], _BYTE)),
    )


def _factor(bits: int, wanted: int) -> int:
    return ((1 << wanted) - 1) // ((1 << bits) - 1)


def _palettes(masks: pa.Table) -> Iterator[tuple[str, str, list[int], list[int]]]:
    """Yield folder, path, indices and colours of masks that are read by the index of a palette of
    colours.
    """
    columns: list[Any] = [
        _folders(masks).to_pylist(),
        *(
            masks[name].to_pylist()
            for name in ("mask_path", "mask_stored_ids", "mask_palette", "label_ids")
        ),
    ]
    for folder, path, indices, colours, labels in zip(*columns, strict=True):
        if labels == indices and any(
            colour != index * 0x010101 for index, colour in zip(indices, colours, strict=True)
        ):
            yield folder, path, indices, colours


def _folders(masks: pa.Table) -> pa.ChunkedArray:
    return pc.replace_substring_regex(masks["mask_path"], r"/?[^/]*$", "")


def _highest(masks: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest label of each mask, and 1 where it holds 255, int64 [n]; each has one
    label at least, in order of label.
    """
    lists = masks["label_ids"].combine_chunks()
    labels = lists.flatten().to_numpy()
    ends = np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))
    white = np.diff(np.concatenate(([0], np.cumsum(labels == _WHITE)))[np.concatenate(([0], ends))])
    return labels[ends - 1].astype(np.int64), (white > 0).astype(np.int64)
